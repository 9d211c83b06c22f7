//! docs/metrics.md is compared with `/metrics`, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tempfile::TempDir;

use crate::rig::{
    POLICY, SOON, api_key_file, chat,
    grpc::Peer,
    http::{Answer, Reply, Request, Server},
    issuer::Issuer,
    redis::Redis,
    replace_once,
    tollgate::Tollgate,
    until, within,
};

/// Listeners, one of them with TLS.
const TLS: &str = r#"listen:
  grpc: "unix:${DIR}/authz.sock"
  ops: "127.0.0.1:0"
  http:
    - { address: "127.0.0.1:0", dialect: nginx, body: deny, tls: { cert: "${DIR}/tls.pem", key: "${DIR}/tls.key" } }
"#;

/// Two Tollgates that together have every metric: one on Redis with everything that is off by
/// default, one in memory.
pub(crate) struct Everything {
    // Dropped before what they use.
    pub(crate) tollgates: [Tollgate; 2],
    _redis: Redis,
    pub(crate) issuer: Issuer,
    /// An API key, which the first of them accepts.
    pub(crate) key: String,
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
        let (key, keys) = api_key_file(dir.path());
        std::fs::rename(keys, dir.path().join("keys.yaml")).unwrap();
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
             {store}metering: {{ secrets: [{secret}] }}\nledger: {{ keys: [{{ id: a, secret: {key} }}] }}\napi_keys: {{ redis: true, file: \"${{DIR}}/keys.yaml\" }}\nobserve: {{ subjects: 3, actors: 3, tracing: {{ endpoint: 'http://127.0.0.1:{}', protocol: http }} }}\n",
            collector.port,
            secret = "m".repeat(32),
            key = "l".repeat(32),
        );
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for (file, content) in [
            ("tls.pem", certificate.cert.pem()),
            ("tls.key", certificate.signing_key.serialize_pem()),
        ] {
            std::fs::write(second.path().join(file), content).unwrap();
        }
        std::fs::write(second.path().join("metering"), "m".repeat(32)).unwrap();
        let log = "  access_log: \"unix:${DIR}/access-log.sock\"\n  http:\n";
        let listen = replace_once(TLS.to_owned(), "  http:\n", log);
        let counted = POLICY.replace(
            "    scopes: [infer:text]\n",
            "    scopes: [infer:text]\n    limits: [daily]\n    \
             conditions: [{ expression: request.method == 'GET', mode: shadow }]\n",
        );
        let in_memory = format!(
            "{listen}{counted}limits: [{{ name: daily, by: [subject], requests: 1000/day }}]\n\
             automatic_bans: {{}}\nprices: {{ currency: EUR, models: [{{ model: qwen, input: 150000, output: 600000 }}] }}\nmetering: {{ secrets: [\"file:${{DIR}}/metering\"] }}\n"
        );
        let tollgates =
            [Tollgate::start(dir.path(), &config), Tollgate::start(second.path(), &in_memory)];
        Self { tollgates, _redis: redis, issuer, key, dir, second }
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
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter(|row| row.starts_with("tollgate_") || row.starts_with("process_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (name, kind) = (cells[0].trim_end_matches('`').to_owned(), cells[1]);
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
    let documented = documented();
    let mut found = Metrics::new();
    // An age exists from the first read on.
    let _timed_out = within(SOON, || {
        for tollgate in &everything.tollgates {
            exposed(&tollgate.metrics(), &mut found);
        }
        documented.keys().all(|name| found.contains_key(name)).then_some(())
    });
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

/// The number of series in an exposition.
fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn every_preset_starts_with_the_documented_number_of_series() {
    let page = include_str!("../../docs/metrics.md");
    let documented: usize = page
        .split_once("With any one preset, one issuer and the store in memory there are **")
        .and_then(|(_, rest)| rest.split_once("** series at the start"))
        .map(|(number, _)| number.parse().unwrap())
        .expect("docs/metrics.md states the number of series");
    assert!(documented <= 300);
    let issuer = Issuer::new("https://auth.example.com");
    let issuers = POLICY.split_once("models:").unwrap().0;
    let mut counted = BTreeMap::new();
    for preset in tollgate_core::route::preset::names() {
        let dir = tempfile::tempdir().unwrap();
        issuer.publish(dir.path());
        let config = format!("{issuers}routes: [{{ preset: {preset} }}]\n");
        let tollgate = Tollgate::start(dir.path(), &config);
        // A scrape after the first, so that a series of the scrape itself would count.
        let (first, second) = (tollgate.metrics(), tollgate.metrics());
        assert_eq!(series(&first), series(&second), "{preset}");
        counted.insert(preset, series(&second));
    }
    assert!(counted.len() >= 10, "{counted:?}");
    for (preset, number) in &counted {
        assert_eq!(*number, documented, "{preset}: write this number to docs/metrics.md");
    }
}

#[test]
fn each_called_route_adds_its_histogram_and_one_series_for_each_result() {
    let everything = Everything::start();
    let token = everything.issuer.token(json!({}));
    let of_route = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("route=\"generate\""));
        // What a rule in shadow would deny has a series of its own.
        lines.filter(|line| !line.starts_with("tollgate_would_deny_total")).count()
    };
    let [_, memory] = &everything.tollgates;
    assert_eq!(of_route(&memory.metrics()), 0);
    everything.send(&chat(&token));
    assert_eq!(of_route(&memory.metrics()), 17 + 1);
    everything.send(&chat("a.b.c"));
    everything.send(&chat(&token));
    assert_eq!(of_route(&memory.metrics()), 17 + 2);
}

#[test]
fn the_end_of_a_certificate_is_a_metric_and_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let key = rcgen::KeyPair::generate().unwrap();
    let write = |days: (i64, i64)| {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let now = std::time::SystemTime::now();
        let at = |days: i64| {
            let shift = std::time::Duration::from_secs(days.unsigned_abs() * 86_400);
            if days < 0 { now - shift } else { now + shift }
        };
        (params.not_before, params.not_after) = (at(days.0).into(), at(days.1).into());
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("tls.pem"), certificate.pem()).unwrap();
    };
    std::fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
    write((-80, 10));
    let tollgate = Tollgate::start(dir.path(), &format!("{TLS}{POLICY}"));
    let not_after = || {
        let listener = &["listener=\"listen.http[0]\""];
        tollgate.metric("tollgate_certificate_not_after_timestamp_seconds", listener)
    };
    let first = not_after();
    let expires = "expires in 9 days: clients that verify it refuse to connect then; replace";
    assert!(tollgate.process.err().contains(expires), "{}", tollgate.process.err());
    write((-1, 400));
    until("the new certificate", || (not_after() > first + 380.0 * 86_400.0).then_some(()));
    write((-80, 2));
    until("the warning of a reload", || {
        tollgate.process.err().contains("expires in 47 hours: ").then_some(())
    });
}
