//! docs/metrics.md is compared with `/metrics`, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tempfile::TempDir;

use crate::rig::{
    POLICY, chat,
    grpc::Peer,
    http::{Answer, Reply, Request, Server},
    issuer::Issuer,
    redis::Redis,
    replace_once,
    tollgate::Tollgate,
};

/// Two Tollgates that together have every metric: one on Redis with everything that is off by
/// default, one in memory.
pub(crate) struct Everything {
    // Dropped before what they use.
    pub(crate) tollgates: [Tollgate; 2],
    _redis: Redis,
    pub(crate) issuer: Issuer,
    pub(crate) dir: TempDir,
    second: TempDir,
}

impl Everything {
    pub(crate) fn start() -> Self {
        let (dir, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        issuer.publish(second.path());
        let redis = Redis::start(dir.path());
        let collector = Server::start(|_| Answer::Whole(Reply::new(200, "")));
        std::fs::write(dir.path().join("upstream"), "sk-1").unwrap();
        let limited = POLICY.replace(
            "    scopes: [infer:text]\n",
            "    scopes: [infer:text]\n    limits: [each]\n    on_outage: local\n    upstream_key: \"file:${DIR}/upstream\"\n",
        );
        let store = replace_once(
            redis.store().to_owned(),
            " } }\n",
            ", local: { replicas: 1 }, replicate_revocations: {} } }\n",
        );
        let config = format!(
            "{limited}limits: [{{ name: each, by: [subject], rate: 1/1h }}]\n\
             {store}observe: {{ subjects: 3, tracing: {{ endpoint: 'http://127.0.0.1:{}', protocol: http }} }}\n",
            collector.port,
        );
        let tollgates =
            [Tollgate::start(dir.path(), &config), Tollgate::start(second.path(), POLICY)];
        Self { tollgates, _redis: redis, issuer, dir, second }
    }

    /// Sends a request to both.
    pub(crate) fn send(&self, request: &Request) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for dir in [&self.dir, &self.second] {
            runtime.block_on(async {
                Peer::connect(dir.path()).await.begin(request).await.finish().await
            });
        }
    }
}

/// A metric: its type, and its labels without those of histograms.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Adds the metrics of an exposition, under their names in PromQL.
fn exposed(text: &str, metrics: &mut Metrics) {
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        if let Some((name, of)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            (family, kind) = (name.to_owned(), of.to_owned());
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let suffix = name
                .strip_prefix(family.as_str())
                .unwrap_or_else(|| panic!("{line} below {family}"));
            let known = match kind.as_str() {
                "counter" => suffix == "_total",
                "info" => suffix == "_info",
                "gauge" => suffix.is_empty(),
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                other => panic!("{other}"),
            };
            assert!(known, "{line}: not a {kind}");
            let name = if kind == "histogram" { family.clone() } else { name.to_owned() };
            let labels = labels
                .trim_end_matches('}')
                .split("\",")
                .filter_map(|label| label.split_once("=\""));
            let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le");
            let entry = metrics.entry(name).or_insert_with(|| (kind.clone(), BTreeSet::new()));
            entry.1.extend(labels);
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

/// The rows of docs/metrics.md.
fn documented() -> Metrics {
    let page = include_str!("../../docs/metrics.md");
    let code = |cell: &str| {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `tollgate_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (name, kind) = (format!("tollgate_{}", cells[0].trim_end_matches('`')), cells[1]);
        // An empty cell has one space.
        let labels = if cells[2].starts_with('`') { code(cells[2]) } else { BTreeSet::new() };
        let kind = kind.split(' ').next().unwrap().to_owned();
        (name, (kind, labels))
    });
    rows.collect()
}

#[test]
fn the_reference_is_what_the_binary_has() {
    let everything = Everything::start();
    everything.send(&chat(&everything.issuer.token(json!({}))));
    let mut found = Metrics::new();
    for tollgate in &everything.tollgates {
        exposed(&tollgate.metrics(), &mut found);
    }
    let documented = documented();
    let missing: Vec<_> =
        found.iter().filter(|(name, _)| !documented.contains_key(*name)).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:#?}");
    let gone: Vec<_> = documented.keys().filter(|name| !found.contains_key(*name)).collect();
    assert!(gone.is_empty(), "in docs/metrics.md only: {gone:#?}");
    for (name, said) in &documented {
        assert_eq!(said, &found[name], "{name}");
    }
}

#[test]
fn what_happens_is_what_is_counted() {
    let everything = Everything::start();
    let token = everything.issuer.token(json!({}));
    for _ in 0..3 {
        everything.send(&chat(&token));
    }
    let [redis, memory] = &everything.tollgates;
    assert_eq!(redis.metric("tollgate_limit_denied_total", &["limit=\"each\""]), 2.0);
    assert_eq!(
        redis.metric("tollgate_model_checks_total", &["model=\"qwen\"", "decision=\"allow\""]),
        1.0
    );
    assert_eq!(
        redis.metric("tollgate_model_checks_total", &["model=\"qwen\"", "decision=\"deny\""]),
        1.0,
        "the body of the third request was not read"
    );
    assert_eq!(redis.metric("tollgate_remembered_denials_total", &[]), 1.0);
    assert_eq!(redis.metric("tollgate_remembered_refusals", &[]), 1.0);
    assert_eq!(
        memory.metric("tollgate_model_checks_total", &["model=\"qwen\"", "decision=\"allow\""]),
        3.0
    );
    assert_eq!(redis.metric("tollgate_store_duration_seconds_count", &[]), 2.0);
    assert_eq!(redis.metric("tollgate_store_connections_total", &[]), 1.0);
    assert_eq!(redis.metric("tollgate_ready", &[]), 1.0);
    assert_eq!(redis.metric("tollgate_in_flight_bytes", &[]), 0.0);
    assert_eq!(redis.metric("tollgate_in_flight_limit_bytes", &[]), f64::from(128 << 20));
    assert_eq!(redis.metric("tollgate_audit_queue_limit", &[]), 8192.0);
}
