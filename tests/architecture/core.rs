//! The layers of the core, and its import graph, file by file.
//!
//! An edge is an item of another file that a file uses. `pub use` is no edge: it is followed to the
//! file that defines the item.

use std::collections::{BTreeMap, BTreeSet};

use super::{all, code, module, tree};

/// The modules of the core, lowest layer first. A module imports modules of lower layers only.
const LAYERS: [&[&str]; 11] = [
    &["config", "details", "json", "network", "pattern", "room", "secret", "stage", "text"],
    &["time"],
    &["denial", "revocation"],
    &["identity", "request"],
    &["credential", "limit", "rule"],
    &["ban", "ledger"],
    &["admission", "route"],
    &["permit", "policy"],
    &["snapshot"],
    &["authenticate", "decision"],
    &["check"],
];

/// Files that are one recursion: serde's accessors hand out deserializers, which hand out accessors.
const RECURSIVE: [(&str, &str); 1] = [("config::de::access", "config::de")];

/// A file, by its module path.
#[derive(Default)]
struct Source {
    /// The paths that it names, from the root of the crate.
    named: Vec<String>,
    /// The paths that it re-exports, by their last part.
    exports: BTreeMap<String, String>,
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The sources of the core without tests.
fn sources() -> BTreeMap<String, String> {
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    let files = all("crates/core/src").into_iter().filter(|(path, _)| !is_test(path));
    files.map(|(path, text)| (module(&path), code(&text))).collect()
}

/// A path as a file writes it, from the root of the crate; `None` for other crates.
fn absolute(file: &str, path: &str, files: &BTreeMap<String, String>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut base: Vec<&str> = if file == "lib" { Vec::new() } else { file.split("::").collect() };
    match parts.first().copied()? {
        "crate" => {
            base.clear();
            parts.remove(0);
        }
        "self" => {
            parts.remove(0);
        }
        "super" => {
            while parts.first() == Some(&"super") {
                base.pop();
                parts.remove(0);
            }
        }
        child => {
            let child = base.iter().copied().chain([child]).collect::<Vec<_>>().join("::");
            files.contains_key(&child).then_some(())?;
        }
    }
    Some(base.into_iter().chain(parts).collect::<Vec<_>>().join("::"))
}

fn read(file: &str, code: &str, files: &BTreeMap<String, String>) -> Source {
    let mut source = Source::default();
    let mut body = String::new();
    let mut statement: Option<String> = None;
    for line in code.lines() {
        let trimmed = line.trim_start();
        let visibility = trimmed.split_once("use ").map(|(before, _)| before.trim_end());
        let is_use = visibility.is_some_and(|before| {
            matches!(before, "" | "pub") || (before.starts_with("pub(") && before.ends_with(')'))
        });
        match (&mut statement, is_use) {
            (Some(open), _) => open.push_str(trimmed),
            (None, true) => statement = Some(trimmed.to_owned()),
            (None, false) => {
                body.push_str(line);
                body.push('\n');
            }
        }
        if let Some(complete) = statement.take_if(|open| open.contains(';')) {
            let (before, paths) = complete.split_once("use ").unwrap();
            let mut found = Vec::new();
            // `tree` takes `self` for the end of a path.
            let (paths, above) = match paths.strip_prefix("self::") {
                Some(paths) => (paths, format!("crate::{file}")),
                None => (paths, String::new()),
            };
            tree(&mut paths.trim_end_matches(';').chars().peekable(), &above, &mut found);
            for path in found.iter().filter_map(|path| absolute(file, path, files)) {
                if before.is_empty() {
                    source.named.push(path);
                } else {
                    let name = path.rsplit("::").next().unwrap().to_owned();
                    source.exports.insert(name, path);
                }
            }
        }
    }
    // A visibility (`pub(in crate::a)`) names no item.
    let mut parts = body.split("pub(in ");
    let first = parts.next().unwrap_or_default().to_owned();
    let body = parts.fold(first, |body, part| body + part.split_once(')').unwrap().1);
    let words = body.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let paths = words.map(|word| word.trim_matches(':')).filter(|word| word.contains("::"));
    source.named.extend(paths.filter_map(|path| absolute(file, path, files)));
    source
}

/// The file that defines the item of a path.
fn file_of(path: &str, sources: &BTreeMap<String, Source>) -> Option<String> {
    let parts: Vec<&str> = path.split("::").collect();
    for end in (1..=parts.len()).rev() {
        let file = parts[..end].join("::");
        let Some(source) = sources.get(&file) else { continue };
        let exported = parts.get(end).and_then(|name| source.exports.get(*name));
        return match exported {
            Some(target) if target != path => file_of(target, sources),
            _ => Some(file),
        };
    }
    None
}

fn graph(files: &BTreeMap<String, String>) -> Graph {
    let sources: BTreeMap<String, Source> =
        files.iter().map(|(file, code)| (file.clone(), read(file, code, files))).collect();
    let edges = |file: &String, source: &Source| {
        let to = source.named.iter().filter_map(|path| file_of(path, &sources));
        to.filter(|to| to != file).collect::<BTreeSet<_>>()
    };
    sources.iter().map(|(file, source)| (file.clone(), edges(file, source))).collect()
}

/// A cycle, if there is one: each file imports the next, the last one the first.
fn find_cycle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(
        file: &str,
        graph: &Graph,
        open: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = open.iter().position(|earlier| earlier == file) {
            return Some(open[at..].to_vec());
        }
        if done.contains(file) {
            return None;
        }
        open.push(file.to_owned());
        for to in graph.get(file).into_iter().flatten() {
            if let Some(cycle) = visit(to, graph, open, done) {
                return Some(cycle);
            }
        }
        open.pop();
        done.insert(file.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| visit(file, graph, &mut Vec::new(), &mut done))
}

#[test]
fn files_of_the_core_import_lower_layers_only() {
    let layer = |file: &str| {
        let module = file.split("::").next().unwrap();
        LAYERS.iter().position(|layer| layer.contains(&module))
    };
    let mut wrong = Vec::new();
    for (file, imports) in graph(&sources()).iter().filter(|(file, _)| *file != "lib") {
        let Some(from) = layer(file) else {
            wrong.push(format!("`{file}` is in no layer of tests/architecture/core.rs"));
            continue;
        };
        let own = file.split("::").next();
        for to in imports.iter().filter(|to| to.split("::").next() != own) {
            if layer(to).is_none_or(|below| below >= from) {
                wrong.push(format!("`{file}` may not import `{to}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_of_the_core_imports_one_that_imports_it() {
    let mut graph = graph(&sources());
    for (one, other) in RECURSIVE {
        let imports = graph.get_mut(one).unwrap();
        assert!(imports.remove(other), "`{one}` does not import `{other}` any more");
    }
    // The graph is not empty: it has edges that are known.
    assert!(graph["check"].contains("permit") && graph["permit"].contains("rule::model::list"));
    let cycle = find_cycle(&graph);
    assert!(cycle.is_none(), "a cycle: {}", cycle.unwrap().join(" -> "));
}

#[test]
fn a_cycle_is_found_through_re_exports_and_inline_paths() {
    let files = |files: &[(&str, &str)]| {
        let owned = |(file, code): &(&str, &str)| ((*file).to_owned(), (*code).to_owned());
        files.iter().map(owned).collect::<BTreeMap<_, _>>()
    };
    // The parent only re-exports its child: no cycle.
    let facade = [
        ("a", "mod b;\npub use self::b::B;\nfn f() {}\n"),
        ("a::b", "use super::f;\nuse crate::c::{\n    C,\n};\n"),
        ("c", ""),
    ];
    assert_eq!(find_cycle(&graph(&files(&facade))), None);
    // What the parent exports is defined by the child.
    let through = [facade[0], facade[1], ("c", "fn g() { crate::a::B::new() }\n")];
    assert_eq!(find_cycle(&graph(&files(&through))), Some(vec!["a::b".to_owned(), "c".to_owned()]));
    let inline = [("a", "mod b;\nfn f() { b::g() }\n"), ("a::b", "use super::f;\n")];
    assert_eq!(find_cycle(&graph(&files(&inline))), Some(vec!["a".to_owned(), "a::b".to_owned()]));
}

/// Everything else gets a principal from a verification.
#[test]
fn principals_are_made_where_credentials_are_verified() {
    for below in ["crates/core/src", "src"] {
        for (path, text) in all(below) {
            let made = code(&text).contains("Principal::new(");
            assert!(!made || path.starts_with("credential/"), "{below}/{path}");
        }
    }
}
