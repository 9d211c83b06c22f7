//! What the chart ships for Prometheus and Grafana, together: the labels that the rendered
//! ServiceMonitor gives to metrics are those that the rendered rules and the dashboard select.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    documents, example, is_generated, only, read, strings, template, validate_manifests, written,
};
use crate::rig::{
    POLICY, chat, grpc::Peer, issuer::Issuer, prometheus::Prometheus, tollgate::Tollgate, until,
};

const HOW: &str = "cargo test --test main deploy::monitoring";

#[test]
fn the_chart_s_rules_and_dashboard_are_the_shipped_ones() {
    for (shipped, copy) in [
        ("deploy/prometheus/rules.yaml", "deploy/helm/tollgate/files/rules.yaml"),
        ("deploy/grafana/tollgate.json", "deploy/helm/tollgate/files/dashboard.json"),
    ] {
        is_generated(copy, &read(shipped), HOW);
    }
}

/// The alerts of the shipped rules.
fn alerts() -> Vec<Value> {
    let rules = documents(&read("deploy/prometheus/rules.yaml")).remove(0);
    let groups = rules["groups"].as_array().unwrap().clone();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.filter(|rule| !rule["alert"].is_null()).collect()
}

#[test]
fn every_alert_has_a_runbook_on_the_page() {
    let mut page = String::from(
        "# Runbooks\n\nOne section per alert of [deploy/prometheus/rules.yaml](../deploy/prometheus/rules.yaml). The\n\
         `runbook_url` of an alert leads to its section. This page is generated from that file; what has no\n\
         alert follows at the end, from tests/deploy/runbooks.md.\n",
    );
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let text = |key: &str| alert["annotations"][key].as_str().unwrap().trim().to_owned();
        assert_eq!(
            text("runbook_url"),
            format!("https://docs.example.com/tollgate/runbooks.md#{}", name.to_lowercase())
        );
        let severity = alert["labels"]["severity"].as_str().unwrap();
        let plain = |text: String| {
            text.replace("{{ $value | humanize }}", "N")
                .replace("{{ $value | humanizePercentage }}", "N %")
                .replace("{{ $value | humanizeDuration }}", "N")
                .replace("{{ $value }}", "N")
                .replace("{{ $labels.", "`")
                .replace(" }}", "`")
        };
        // A second rule of the same alert, with another severity.
        if !page.contains(&format!("\n## {name}\n")) {
            page.push_str(&format!("\n## {name}\n"));
        }
        page.push_str(&format!(
            "\nSeverity: {severity}. {}.\n\n{}\n\n{}\n",
            plain(text("summary")),
            wrapped(&plain(text("description"))),
            wrapped(&plain(text("runbook"))),
        ));
    }
    page.push_str(&read("tests/deploy/runbooks.md"));
    is_generated("docs/runbooks.md", &page, HOW);
}

/// Paragraphs, one per line, with lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let paragraphs = text.lines().map(|paragraph| {
        let mut lines = vec![String::new()];
        for word in paragraph.split_whitespace() {
            if lines.last().unwrap().len() + word.len() >= 100 {
                lines.push(String::new());
            }
            let line = lines.last_mut().unwrap();
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.join("\n")
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// The labels of a target, as the Prometheus operator derives them from a ServiceMonitor and the
/// Service that it selects.
fn target_labels(rendered: &[Value]) -> BTreeMap<String, String> {
    let monitor = only(rendered, "ServiceMonitor");
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let mut services = rendered.iter().filter(|object| {
        object["kind"] == "Service"
            && wanted.iter().all(|(name, value)| &object["metadata"]["labels"][name] == value)
    });
    let service = services.next().expect("a Service that the monitor selects");
    assert!(services.next().is_none());
    let endpoint = &monitor["spec"]["endpoints"][0];
    let ports: Vec<&Value> =
        service["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    assert!(ports.contains(&&endpoint["port"]), "{ports:?}");
    let name = service["metadata"]["name"].as_str().unwrap();
    let mut labels = BTreeMap::from([
        ("namespace".to_owned(), "inference".to_owned()),
        ("service".to_owned(), name.to_owned()),
        ("job".to_owned(), name.to_owned()),
    ]);
    for rule in endpoint["relabelings"].as_array().unwrap() {
        labels.insert(
            rule["targetLabel"].as_str().unwrap().to_owned(),
            rule["replacement"].as_str().unwrap().to_owned(),
        );
    }
    labels
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn rules_and_dashboard_select_what_the_rendered_chart_scrapes() {
    let enabled = "prometheusRule.enabled=true,dashboard.enabled=true,\
                   prometheusRule.runbooks=https://wiki.example.com/runbooks";
    let text = template("helm-4", &["-f", &example("service.yaml"), "--set", enabled]);
    let (_manifests, path) = written(&text);
    validate_manifests(&["kubernetes", "1.37"], &[path]);
    let rendered = documents(&text);
    let rule = only(&rendered, "PrometheusRule");
    let rules = serde_json::json!({ "groups": rule["spec"]["groups"] }).to_string();
    assert!(rules.contains("https://wiki.example.com/runbooks#tollgateabsent"), "{rules}");
    assert!(!rules.contains("docs.example.com"), "{rules}");
    let shipped = documents(&read("deploy/prometheus/rules.yaml"));
    assert_eq!(
        rule["spec"]["groups"].as_array().unwrap().len(),
        shipped[0]["groups"].as_array().unwrap().len()
    );

    // A real Prometheus with the target's labels and the rendered rules.
    let labels = target_labels(&rendered);
    assert_eq!(labels["job"], "gate-tollgate");
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let tollgate = Tollgate::start(dir.path(), POLICY);
    std::fs::write(dir.path().join("rules.yaml"), &rules).unwrap();
    let relabel: Vec<Value> = labels
        .iter()
        .map(|(name, value)| serde_json::json!({ "target_label": name, "replacement": value }))
        .collect();
    let config = serde_json::json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": [dir.path().join("rules.yaml")],
        "scrape_configs": [{
            "job_name": "serviceMonitor/inference/gate-tollgate/0",
            "static_configs": [{ "targets": [format!("127.0.0.1:{}", tollgate.ops)] }],
            "relabel_configs": relabel,
        }],
    });
    let prometheus = Prometheus::start(dir.path(), &config.to_string());
    let some = |query: &str| prometheus.some(query);

    until("the target", || some("up{job=\"gate-tollgate\"} == 1"));
    // The alert on a missing Tollgate knows the job: nothing is pending.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    until("recorded series", || {
        // Series of routes exist from the first check on, and a rate needs two scrapes.
        runtime.block_on(async {
            Peer::connect(dir.path()).await.begin(&chat("a.b.c")).await.finish().await
        });
        some("job:tollgate_checks:rate5m{job=\"gate-tollgate\"}")
    });
    until("no alert is pending", || {
        let pending = prometheus.ask("ALERTS{alertname=~\"TollgateAbsent|TollgateDown\"}");
        pending.is_empty().then_some(())
    });
    // The dashboard's variables have values, in the order in which they depend on each other.
    let board = rendered
        .iter()
        .find(|object| object["metadata"]["name"] == "gate-tollgate-dashboard")
        .unwrap();
    assert_eq!(board["metadata"]["labels"]["grafana_dashboard"], "1");
    let board: Value =
        serde_json::from_str(board["data"]["tollgate.json"].as_str().unwrap()).unwrap();
    let variables = board["templating"]["list"].as_array().unwrap();
    let names: Vec<Value> = variables.iter().map(|one| one["name"].clone()).collect();
    let names = Value::from(names);
    assert_eq!(strings(&names), ["datasource", "cluster", "namespace", "job", "instance", "route"]);
    for variable in variables {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        // No cluster: the operator adds no such label, and `All` selects its absence.
        let chosen = query
            .replace("$cluster", ".*")
            .replace("$namespace", "inference")
            .replace("$job", "gate-tollgate");
        let inner = chosen.trim_start_matches("label_values(").trim_end_matches(')');
        let (series, label) = inner.rsplit_once(", ").unwrap();
        if label != "cluster" {
            let query = format!("count by ({label}) ({series})");
            let found = until(label, || some(&query));
            assert!(found[0]["metric"][label].is_string(), "{query}: {found:?}");
        }
    }
    // A query of every panel is understood with these labels, and selects by namespace.
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            assert!(
                query.matches("cluster=~").count() == query.matches("namespace=~").count(),
                "{query}"
            );
        }
    }

    drop(tollgate);
    until("the alert on a missing Tollgate", || some("ALERTS{alertname=\"TollgateAbsent\"}"));
}
