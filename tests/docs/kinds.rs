//! Every block is of some kind, and good for what it is.

use std::{path::Path, process::Command};

use serde_json::Value;
use tollgate_core::config::Document;

use super::{
    block::{Block, EnvoyPlace, Kind, blocks},
    none, pages, root,
    session::{Reader, Session},
};
use crate::rig::{envoy::CURRENT, part};

fn all() -> Vec<(String, Vec<Block>)> {
    pages().into_iter().map(|(name, text)| (name.clone(), blocks(&name, &text))).collect()
}

fn of(kind: impl Fn(&Kind) -> bool) -> Vec<Block> {
    all()
        .into_iter()
        .flat_map(|(_, blocks)| blocks)
        .filter(|block| block.kind().as_ref().is_some_and(&kind))
        .collect()
}

/// What is wrong, if anything, with the text as a file that `arguments` name.
fn refused(block: &Block, text: &str, arguments: &[&str]) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("block.yaml"), text).unwrap();
    let mut tollgate = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    tollgate.args(arguments).current_dir(dir.path());
    // Names from the environment stand for something on the reader's machine.
    for name in text.split("${").skip(1).filter_map(|rest| rest.split(['}', ':']).next()) {
        // `PWD` is a directory; everything else is the reader's own business.
        let value = if name == "PWD" { dir.path().as_os_str() } else { "something".as_ref() };
        tollgate.env(name, value);
    }
    let output = tollgate.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (!output.status.success())
        .then(|| format!("{}: {}", block.place, String::from_utf8_lossy(&printed)))
}

/// YAML documents as JSON.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    let parts = text.split("\n---\n").filter(|part| !part.trim().is_empty());
    let read = |part: &str| {
        // `${NAME}` is the reader's own business there.
        let document = Document::parse(part, &|_| Some(String::new()));
        document.and_then(|document| document.read()).map_err(|errors| format!("{errors:?}"))
    };
    parts.map(read).collect()
}

#[test]
fn every_block_is_of_a_kind() {
    let blocks = all().into_iter().flat_map(|(_, blocks)| blocks);
    let unknown = blocks.filter(|block| block.kind().is_none());
    none(
        unknown
            .map(|block| format!("{}: ```{} is of no kind that is tested", block.place, block.info))
            .collect(),
    );
}

#[test]
fn text_hides_no_command() {
    let hidden = of(|kind| *kind == Kind::Text).into_iter().filter(|block| {
        block.text.lines().any(|line| {
            line.starts_with("tollgate ") || line.starts_with("$ ") || line.starts_with("kubectl ")
        })
    });
    none(
        hidden
            .map(|block| format!("{}: a command in a block of text is not tested", block.place))
            .collect(),
    );
}

#[test]
fn every_configuration_passes() {
    let configs = of(|kind| matches!(kind, Kind::Config(_)));
    assert!(configs.len() >= 10, "{}", configs.len());
    none(
        configs
            .iter()
            .filter_map(|block| refused(block, &block.text, &["check-config", "block.yaml"]))
            .collect(),
    );
}

#[test]
fn every_part_of_a_configuration_passes() {
    const REST: [(&str, &str); 3] = [
        (
            "issuers",
            "issuers: [{ issuer: 'https://auth.example.com', audiences: [inference-api], algorithms: [RS256], jwks: { discovery: true } }]\n",
        ),
        ("limits", "limits: [{ name: per-subject, by: [subject], rate: 60/1m }]\n"),
        ("routes", "routes: [{ match: { paths: [/health] }, public: true }]\n"),
    ];
    const ROUTE: &str = "routes:\n  - match: { methods: [POST], paths: [/v1/chat/completions] }\n";
    let parts = of(|kind| matches!(kind, Kind::Part | Kind::Entries | Kind::Route));
    assert!(parts.len() >= 5, "{}", parts.len());
    let whole = |block: &Block| {
        let text = match block.kind() {
            Some(Kind::Entries) => format!("routes:\n{}", block.text),
            Some(Kind::Route) if block.text.contains("scopes:") => format!("{ROUTE}{}", block.text),
            Some(Kind::Route) => format!("{ROUTE}    scopes: []\n{}", block.text),
            _ => block.text.clone(),
        };
        let missing = REST
            .iter()
            .filter(|(key, _)| !text.lines().any(|line| line.starts_with(&format!("{key}:"))));
        missing.fold(text.clone(), |text, (_, section)| text + section)
    };
    none(
        parts
            .iter()
            .filter_map(|block| refused(block, &whole(block), &["check-config", "block.yaml"]))
            .collect(),
    );
}

#[test]
fn every_case_comes_out_as_written() {
    let cases = of(|kind| *kind == Kind::Cases);
    assert!(!cases.is_empty());
    none(
        cases
            .iter()
            .filter_map(|block| refused(block, &block.text, &["explain", "--case", "block.yaml"]))
            .collect(),
    );
}

#[test]
fn every_configuration_of_prometheus_passes() {
    let blocks = of(|kind| *kind == Kind::Prometheus);
    assert!(!blocks.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let refused = |block: Block| {
        let file = dir.path().join("prometheus.yaml");
        std::fs::write(&file, &block.text).unwrap();
        let mut promtool = Command::new(part("promtool", "prometheus"));
        let output = promtool.args(["check", "config"]).arg(file).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then(|| format!("{}: {printed}", block.place))
    };
    none(blocks.into_iter().filter_map(refused).collect());
}

#[test]
fn lines_of_templates_stand_in_one() {
    let mut templates = String::new();
    let mut waiting = vec![root().join("deploy/helm")];
    while let Some(path) = waiting.pop() {
        match std::fs::read_to_string(&path) {
            Ok(text) if path.extension().is_some_and(|extension| extension == "yaml") => {
                templates.push_str(&text)
            }
            Ok(_) => {}
            Err(_) => {
                waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()))
            }
        }
    }
    let lines = |block: Block| {
        let missing: Vec<String> = block
            .text
            .lines()
            .map(str::trim)
            .filter(|line| !templates.contains(line))
            .map(str::to_owned)
            .collect();
        missing.into_iter().map(move |line| format!("{}: no template has `{line}`", block.place))
    };
    none(of(|kind| *kind == Kind::Template).into_iter().flat_map(lines).collect());
}

#[test]
fn json_and_manifests_can_be_read() {
    let mut wrong = Vec::new();
    for block in of(|kind| *kind == Kind::Json) {
        wrong.extend(
            serde_json::from_str::<Value>(&block.text)
                .err()
                .map(|error| format!("{}: {error}", block.place)),
        );
    }
    for block in of(|kind| *kind == Kind::Manifest) {
        match documents(&block.text) {
            Err(error) => wrong.push(format!("{}: {error}", block.place)),
            Ok(objects) => wrong.extend(
                objects
                    .iter()
                    .filter(|object| {
                        ["/apiVersion", "/kind", "/metadata/name"]
                            .iter()
                            .any(|at| object.pointer(at).is_none())
                    })
                    .map(|object| {
                        format!("{}: not an object of Kubernetes: {object}", block.place)
                    }),
            ),
        }
    }
    none(wrong);
}

/// The shipped configuration with the parts that a page has for it, and a cluster for each name that the page does not define.
pub(super) fn with_parts(parts: &[&Block]) -> String {
    let shipped = super::page("deploy/envoy/envoy.yaml");
    let part = |config: String, block: &&Block| {
        let (before, indent) = match block.kind() {
            Some(Kind::EnvoyPart(EnvoyPlace::Http)) => {
                ("                stat_prefix: ingress\n", 16)
            }
            Some(Kind::EnvoyPart(EnvoyPlace::Route)) => {
                ("                        - match: { prefix: / }\n", 24)
            }
            Some(Kind::EnvoyPart(EnvoyPlace::Listener)) => ("  clusters:\n", 4),
            _ => ("    - name: inference\n      type: STATIC\n", 4),
        };
        assert_eq!(
            config.matches(before).count(),
            1,
            "deploy/envoy/envoy.yaml should have `{before}` once"
        );
        let text: String =
            block.text.lines().map(|line| format!("{:indent$}{line}\n", "")).collect();
        config.replace(before, &format!("{text}{before}"))
    };
    let mut config = parts.iter().fold(shipped, part);
    let named = |word: &str| -> Vec<String> {
        let after = |part: &str| {
            part.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_')
                .next()
                .unwrap()
                .to_owned()
        };
        parts
            .iter()
            .flat_map(|block| block.text.split(word).skip(1).map(after).collect::<Vec<_>>())
            .collect()
    };
    for name in [named(" cluster: "), named("cluster_name: ")].concat() {
        if !config.contains(&format!("    - name: {name}\n")) {
            config.push_str(&format!("\n    - name: {name}\n      connect_timeout: 1s\n"));
        }
    }
    config
}

#[test]
fn envoy_takes_its_configurations() {
    let mut configs: Vec<(String, String)> = of(|kind| *kind == Kind::Envoy)
        .into_iter()
        .map(|block| (block.place, block.text))
        .collect();
    for (_, blocks) in all() {
        let parts: Vec<&Block> = blocks
            .iter()
            .filter(|block| matches!(block.kind(), Some(Kind::EnvoyPart(_))))
            .collect();
        configs.extend(parts.first().map(|first| (first.place.clone(), with_parts(&parts))));
    }
    let check = |(place, text): (String, String)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("envoy.yaml");
        std::fs::write(&path, &text).unwrap();
        let mut envoy = Command::new(part(&format!("envoy-{CURRENT}"), "envoy"));
        envoy
            .args(["--mode", "validate", "--log-level", "error", "--disable-hot-restart", "-c"])
            .arg(&path);
        let output = envoy.output().unwrap();
        (!output.status.success())
            .then(|| format!("{place}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    none(configs.into_iter().filter_map(check).collect());
}

#[test]
fn targets_and_files_that_commands_name_exist() {
    let makefile = super::page("Makefile");
    let mut wrong = Vec::new();
    for block in of(|kind| {
        matches!(
            kind,
            Kind::Make | Kind::Cluster | Kind::Elsewhere | Kind::Commands | Kind::Console
        )
    }) {
        for (command, _) in block.commands() {
            for word in command.split([' ', '=', '"', '\'']) {
                let named = ["deploy/", "docs/", "tests/", "tools/"]
                    .iter()
                    .any(|start| word.starts_with(start));
                // Not yet: the block makes it.
                let made = block
                    .text
                    .split("mkdir -p ")
                    .skip(1)
                    .any(|rest| word.starts_with(rest.split_whitespace().next().unwrap()));
                if named && !made && !root().join(word.trim_end_matches('/')).exists() {
                    wrong.push(format!("{}: `{word}` does not exist", block.place));
                }
            }
            if let Some((_, targets)) =
                command.split_once("make ").filter(|_| block.kind() == Some(Kind::Make))
            {
                let target = targets.split([' ', '#']).next().unwrap();
                if !makefile.contains(&format!("\n{target}:")) {
                    wrong.push(format!("{}: the Makefile has no `{target}`", block.place));
                }
            }
            if block.kind() == Some(Kind::Cluster)
                && !["kubectl ", "helm "].iter().any(|start| command.starts_with(start))
            {
                wrong.push(format!("{}: `{command}` needs no cluster", block.place));
            }
        }
    }
    none(wrong);
}

/// Pages that name their own directories: nothing but the ports is replaced in what they write and run.
const LITERAL: [&str; 2] = ["docs/quickstart/envoy.md", "docs/quickstart/nginx.md"];

/// Every page with commands in a directory of its own, as a reader follows it: from the top, as root and as another user.
#[test]
fn commands_do_what_the_pages_say() {
    let runs = |block: &Block| matches!(block.kind(), Some(Kind::Commands | Kind::Console));
    let pages: Vec<(String, Vec<Block>)> =
        all().into_iter().filter(|(_, blocks)| blocks.iter().any(runs)).collect();
    assert!(pages.len() >= 5, "{}", pages.len());
    // One reader after the other: two proxies in a burst of requests would share the cores.
    for reader in Reader::all() {
        let wrong = std::thread::scope(|scope| {
            let pages: Vec<_> = pages
                .iter()
                .map(|(name, blocks)| scope.spawn(move || read(name, blocks, *reader)))
                .collect();
            pages.into_iter().flat_map(|page| page.join().unwrap()).collect()
        });
        none(wrong);
    }
}

/// Does what a page says; what went otherwise.
fn read(name: &str, blocks: &[Block], reader: Reader) -> Vec<String> {
    let uses = |word: &str| blocks.iter().any(|block| block.text.contains(word));
    let mut session = Session::start(reader, uses("redis://redis:6379"), LITERAL.contains(&name));
    for block in blocks {
        match block.kind() {
            Some(Kind::Config(Some(file))) => session.write(Path::new(&file), &block.text),
            Some(Kind::Cases) => session.write(Path::new("cases.yaml"), &block.text),
            Some(Kind::Commands | Kind::Console) => {
                for (command, printed) in block.commands() {
                    if let Err(difference) = session.run(&command, &printed) {
                        // What comes after would fail for this reason.
                        let who = reader.name();
                        return vec![format!("{}, {who}: $ {command}\n{difference}", block.place)];
                    }
                }
            }
            _ => {}
        }
    }
    Vec::new()
}

#[test]
fn the_front_page_shows_the_real_answer() {
    let readme = || all().into_iter().find(|(name, _)| name == "README.md").unwrap().1;
    let first = |kind: &dyn Fn(&Kind) -> bool| {
        readme().into_iter().find(|block| block.kind().as_ref().is_some_and(kind)).unwrap()
    };
    let policy = first(&|kind| matches!(kind, Kind::Config(Some(_))));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), &policy.text).unwrap();
    let explain = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["explain", "--config", "policy.yaml", "--method", "POST"])
        .args(["--path", "/v1/chat/completions", "--host", "api.example.com", "--body", "{}"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(explain.stdout).unwrap();
    let answer = first(&|kind| *kind == Kind::Json).text;
    assert!(printed.contains(answer.trim()), "{printed}");
}
