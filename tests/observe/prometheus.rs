//! A real Prometheus scrapes running Tollgates, with the rules and the dashboard's queries in
//! `deploy/`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tollgate_core::config::Document;

use super::metrics::Everything;
use crate::{
    docs::envoy_of_page,
    rig::{
        chat,
        envoy::CURRENT,
        free_port,
        http::{Answer, Reply, Request, Server},
        part,
        process::Process,
        prometheus::Prometheus,
        until, within,
    },
};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap()
}

/// Runs promtool, and returns its output when it succeeds.
fn promtool(arguments: &[&str]) -> String {
    let output = Command::new(part("promtool", "prometheus")).args(arguments).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "promtool {arguments:?}\n{said}");
    said
}

#[test]
fn the_rules_and_their_cases_hold() {
    let path = |file| deploy(file).display().to_string();
    promtool(&["check", "config", &path("prometheus/prometheus.yaml")]);
    promtool(&["test", "rules", &path("prometheus/rules_test.yaml")]);
}

/// Returns the alerts, their rules, and every expression.
fn rules() -> (BTreeSet<String>, Vec<Value>, Vec<String>) {
    let rules: Value =
        Document::parse(&read("prometheus/rules.yaml"), &|_| None).unwrap().read().unwrap();
    let all: Vec<Value> = rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect();
    let expressions = all.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect();
    let alerts: Vec<Value> = all.into_iter().filter(|rule| rule.get("alert").is_some()).collect();
    (
        alerts.iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect(),
        alerts,
        expressions,
    )
}

#[test]
fn every_alert_has_a_runbook_and_fires_in_a_case() {
    let (names, alerts, _) = rules();
    let (cases, page) = (read("prometheus/rules_test.yaml"), include_str!("../../docs/metrics.md"));
    for name in &names {
        assert!(
            [',', '}'].iter().any(|end| cases.contains(&format!("'{{alertname=\"{name}\"{end}"))),
            "no case in rules_test.yaml fires {name}"
        );
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md does not know {name}");
    }
    // Each alert has the series of its expression in the case that raises nothing.
    let quiet = cases.split("\n  - name: ").nth(1).unwrap();
    for alert in &alerts {
        let of_alert = words(alert["expr"].as_str().unwrap());
        let measured =
            |name: &&String| name.starts_with("tollgate_") || name.starts_with("envoy_h");
        for name in of_alert.iter().filter(measured) {
            assert!(
                quiet.contains(&format!("'{name}{{")),
                "{}: `{name}` is not in the case that raises nothing",
                alert["alert"]
            );
        }
        for text in ["summary", "description", "runbook"] {
            assert!(
                alert["annotations"][text].as_str().is_some_and(|text| !text.is_empty()),
                "{}: no {text}",
                alert["alert"]
            );
        }
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{severity}");
    }
    // A runbook leads to an alert that exists.
    for word in alerts
        .iter()
        .filter_map(|alert| alert["annotations"]["runbook"].as_str())
        .flat_map(str::split_whitespace)
    {
        let word = word.trim_end_matches(['.', ',', ':', ';']);
        assert!(
            !word.starts_with("Tollgate") || word == "Tollgate" || names.contains(word),
            "{word}"
        );
    }
}

/// Returns the panels with their queries, with the variables replaced.
fn panels() -> Vec<(String, Vec<String>)> {
    let board: Value = serde_json::from_str(&read("grafana/tollgate.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let ids: BTreeSet<u64> = board["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), board["panels"].as_array().unwrap().len(), "an id comes twice");
    let panels = panels.map(|panel| {
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
            "{}",
            panel["title"]
        );
        let queries = panel["targets"].as_array().unwrap().iter().map(|target| {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "20s");
            ["$cluster", "$namespace", "$job", "$instance", "$route"]
                .iter()
                .fold(query, |query, name| query.replace(name, ".*"))
        });
        (panel["title"].as_str().unwrap().to_owned(), queries.collect())
    });
    panels.collect()
}

/// Returns the words of a text that may be names of metrics.
fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .map(str::to_owned)
        .collect()
}

/// Returns the names of Tollgate's metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    words(text).into_iter().filter(|word| word.starts_with("tollgate_")).collect()
}

/// A running Envoy with the listener for its counters.
struct EnvoyWithCounters {
    _process: Process,
    ingress: u16,
    counters: u16,
}

/// Starts Envoy with the parts that docs/observability.md adds to the shipped configuration.
fn envoy_with_counters(dir: &Path) -> EnvoyWithCounters {
    let (ingress, counters) = (free_port(), free_port());
    let config = envoy_of_page("docs/observability.md")
        .replace("/run/tollgate/", &format!("{}/", dir.display()))
        .replace("0.0.0.0, port_value: 8080", &format!("127.0.0.1, port_value: {ingress}"))
        .replace("0.0.0.0, port_value: 9101", &format!("127.0.0.1, port_value: {counters}"))
        .replace("address: otel-collector,", "address: 127.0.0.1,");
    let path = dir.join("envoy-counters.yaml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(part(&format!("envoy-{CURRENT}"), "envoy"));
    command.arg("-c").arg(&path);
    command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
    let mut process = Process::start(dir, "envoy-counters", &mut command);
    process.until("its counters", |_| {
        let reply = Request::get("/stats/prometheus").try_send(counters)?;
        (reply.status == 200).then_some(())
    });
    // The rest of the admin interface is not reachable.
    for (method, path) in [("GET", "/"), ("GET", "/config_dump"), ("POST", "/stats/prometheus")] {
        let reply = Request::new(method, path).send(counters);
        assert_eq!(reply.status, 404, "{method} {path}");
    }
    EnvoyWithCounters { _process: process, ingress, counters }
}

#[test]
fn a_real_prometheus_scrapes_and_every_panel_has_data() {
    let everything = Everything::start();
    let envoy = envoy_with_counters(everything.dir.path());
    // A server of the model, which has counted tokens that Tollgate did not settle.
    let counted = std::sync::atomic::AtomicU64::new(0);
    let inference = Server::start(move |_| {
        let tokens = 100 * counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let counters = format!("vllm:generation_tokens_total{{model_name=\"qwen\"}} {tokens}\n");
        Answer::Whole(Reply::new(200, counters).header("content-type", "text/plain; version=0.0.4"))
    });
    let targets =
        everything.tollgates.iter().map(|tollgate| format!("\"127.0.0.1:{}\"", tollgate.ops));
    let targets = targets.collect::<Vec<_>>().join(", ");
    let dir = everything.dir.path();
    let config = read("prometheus/prometheus.yaml")
        .replace("15s", "1s")
        .replace("\"127.0.0.1:9002\"", &targets)
        .replace("127.0.0.1:9101", &format!("127.0.0.1:{}", envoy.counters))
        .replace("127.0.0.1:8000", &format!("127.0.0.1:{}", inference.port))
        .replace("[rules.yaml]", &format!("[\"{}\"]", deploy("prometheus/rules.yaml").display()));
    let prometheus = Prometheus::start(dir, &config);
    let (port, ask) = (prometheus.port, |query: &str| prometheus.ask(query));

    // Prometheus parses the whole exposition.
    let health = until("all targets", || {
        let targets = Request::get("/api/v1/targets").send(port).json();
        let targets = targets["data"]["activeTargets"].as_array().unwrap().clone();
        (targets.len() == 4 && targets.iter().all(|target| target["health"] != "unknown"))
            .then_some(targets)
    });
    assert!(health.iter().all(|target| target["health"] == "up"), "{health:?}");

    // Every name in deploy/ is one that is scraped. Series of routes exist from the first check on.
    let token = everything.issuer.token(json!({}));
    everything.send(&chat(&token));
    everything.send(&chat(&everything.key));
    let (rules_text, board) = (read("prometheus/rules.yaml"), read("grafana/tollgate.json"));
    let mut used = named(&rules_text);
    used.extend(words(&board).into_iter().filter(|word| {
        ["tollgate_", "process_", "envoy_http_"].iter().any(|prefix| word.starts_with(prefix))
    }));
    used.retain(|name| !name.contains(':'));
    let mut missing = used;
    let found = within(Duration::from_secs(30), || {
        let answer = Request::get("/api/v1/label/__name__/values").send(port).json();
        let names: BTreeSet<&str> =
            answer["data"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        // A text may name a histogram as a whole.
        missing.retain(|name| {
            !names.contains(name.as_str()) && !names.contains(format!("{name}_bucket").as_str())
        });
        missing.is_empty().then_some(())
    });
    assert!(found.is_some(), "in deploy/, and no program has it: {missing:?}");

    // Prometheus accepts every expression, and every panel shows data.
    let mut empty: Vec<(String, Vec<String>)> = panels();
    let shown = within(Duration::from_secs(60), || {
        everything.send(&chat(&token));
        everything.send(&chat("a.b.c"));
        everything.send(&chat(&everything.key));
        everything.send(&chat("sk-unknown"));
        assert_eq!(Request::get("/v1/models").send(envoy.ingress).status, 401);
        empty.retain(|(_, queries)| queries.iter().all(|query| ask(query).is_empty()));
        empty.is_empty().then_some(())
    });
    assert!(shown.is_some(), "no data: {empty:#?}");
    for (title, queries) in panels() {
        for query in queries {
            drop((&title, ask(&query)));
        }
    }
    for expression in rules().2 {
        drop(ask(&expression));
    }
    let rules = until("every rule to be evaluated", || {
        let answer = Request::get("/api/v1/rules").send(port).json();
        let groups = answer["data"]["groups"].as_array().unwrap();
        let rules: Vec<Value> =
            groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
    until("a recorded series", || (!ask("job:tollgate_checks:rate5m").is_empty()).then_some(()));
    until("a drift of tokens", || {
        (!ask("model:tollgate_token_drift:ratio_increase1h == 1").is_empty()).then_some(())
    });
    let counted =
        ask("sum(tollgate_checks_total)")[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    assert!(counted >= 2.0, "{counted}");
}

#[test]
fn the_picture_of_the_dashboard_has_every_panel() {
    let picture = include_str!("../../docs/plots/dashboard.svg");
    let board: Value = serde_json::from_str(&read("grafana/tollgate.json")).unwrap();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(
            picture.contains(&format!(">{title}</text>")),
            "docs/plots/dashboard.svg has no panel `{title}`; `make dashboard` writes it"
        );
    }
    // The run has no tracing, and no network that may be banned: its clients are on loopback.
    assert_eq!(picture.matches(">no data</text>").count(), 3);
}
