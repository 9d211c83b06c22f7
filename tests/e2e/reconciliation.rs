//! What Tollgate settles beside what a real model server counts: llama.cpp behind Envoy with
//! deploy/envoy/envoy-metered.yaml, and a Prometheus with the shipped rules.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::metering::LISTEN;
use crate::rig::{
    envoy::{CURRENT, Envoy},
    http::Request,
    issuer::Issuer,
    prometheus::Prometheus,
    python::{PythonServer, llama_server},
    redis::Redis,
    replace_once,
    tollgate::{Tollgate, sum_of_series},
    until, within,
};

const METERED: &str = include_str!("../../deploy/envoy/envoy-metered.yaml");

const RULES: &str = include_str!("../../deploy/prometheus/rules.yaml");

/// The model has one name in the policy, and another one at its server.
const POLICY: &str = r#"
metering: { secrets: [0123456789abcdef0123456789abcdef], life: 5s }
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256, ES256, EdDSA]
    jwks: { file: "${DIR}/jwks.json" }
models:
  - { name: small, serves: [smollm2], context: 1024, max_output: 512 }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: []
    model: { from: body }
    limits: [month]
limits:
  - { name: month, by: [subject], tokens: 50000000/month }
"#;

struct Gate {
    // Dropped in this order: the proxies first, the directory with the logs last.
    envoy: Envoy,
    /// A proxy that reports nothing.
    silent: Envoy,
    prometheus: Prometheus,
    tollgate: Tollgate,
    model: PythonServer,
    token: String,
    _redis: Redis,
    _dir: TempDir,
}

impl Gate {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start(dir.path());
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let model = llama_server(dir.path(), &["--metrics"]);
        let config = format!("{LISTEN}{POLICY}{}", redis.store());
        let tollgate = Tollgate::start(dir.path(), &config);
        // A report more often than a reservation lives, and a log without the entries of reservations.
        let often = |config| replace_once(config, "flush_interval: 10s", "flush_interval: 0.5s");
        let lost =
            |config| replace_once(config, "path: [{ key: reservation }]", "path: [{ key: none }]");
        let metered = METERED.to_owned();
        let envoy = Envoy::start(dir.path(), model.port, CURRENT, |_| often(metered.clone()));
        let silent =
            Envoy::start(dir.path(), model.port, CURRENT, |_| lost(often(metered.clone())));
        // The shipped rules, for fewer tokens and without a delay.
        let rules = RULES
            .replace("for: 15m", "for: 0s")
            .replace("> 10000\n", "> 100\n")
            .replace("< -10000\n", "< -100\n");
        let file = dir.path().join("rules.yaml");
        std::fs::write(&file, rules).unwrap();
        let target = |port: u16| format!("127.0.0.1:{port}");
        let prometheus = json!({
            "global": { "scrape_interval": "200ms", "evaluation_interval": "1s" },
            "rule_files": [file],
            "scrape_configs": [
                { "job_name": "tollgate", "static_configs": [{ "targets": [target(tollgate.ops)] }] },
                { "job_name": "inference", "static_configs": [{
                    "targets": [target(model.port)], "labels": { "model_name": "smollm2" },
                }] },
            ],
        });
        let prometheus = Prometheus::start(dir.path(), &prometheus.to_string());
        // A count that begins before it is scraped is not seen.
        until("a scrape of both", || {
            prometheus.some("tollgate_settled_tokens_total and on () llamacpp:prompt_tokens_total")
        });
        let token = issuer.token(json!({}));
        Self { envoy, silent, prometheus, tollgate, model, token, _redis: redis, _dir: dir }
    }

    /// Sends a request to a proxy, or to the server itself, and waits for the whole response.
    fn ask(&self, port: u16, text: &str, is_streamed: bool) {
        let body = json!({
            "model": "smollm2", "stream": is_streamed, "max_tokens": 24,
            "messages": [{ "role": "user", "content": text }],
        });
        let request = Request::post("/v1/chat/completions", body.to_string()).bearer(&self.token);
        let reply = request.send(port);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// The tokens that the server counts: of prompts, and of answers.
    fn served(&self) -> [u64; 2] {
        let text = Request::get("/metrics").send(self.model.port).text();
        ["prompt_tokens_total", "tokens_predicted_total"].map(|name| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(&format!("llamacpp:{name} ")));
            line.unwrap().parse().unwrap()
        })
    }

    /// The settled tokens with a label.
    fn settled(&self, label: &str) -> u64 {
        let sum =
            sum_of_series(&self.tollgate.metrics(), "tollgate_settled_tokens_total", &[label]);
        format!("{sum}").parse().unwrap()
    }

    fn drift(&self) -> Option<f64> {
        self.prometheus.value("model:tollgate_token_drift:ratio_increase1h{model=\"small\"}")
    }

    /// The alerts on the drift, of an hour.
    fn alerts(&self) -> Vec<String> {
        let query = "ALERTS{alertname=~\"TollgateTokens.*\",alertstate=\"firing\",window=\"1h\"}";
        let name = |alert: &Value| alert["metric"]["alertname"].as_str().unwrap().to_owned();
        self.prometheus.ask(query).iter().map(name).collect()
    }

    fn until_alert(&self, name: &str) {
        let fired =
            within(std::time::Duration::from_secs(60), || (self.alerts() == [name]).then_some(()));
        assert!(fired.is_some(), "{:?}, drift {:?}", self.alerts(), self.drift());
    }
}

/// A text of some hundred tokens that begins with a number.
fn long_text(number: usize) -> String {
    format!("{number}. {}", "The quick brown fox jumps over the lazy dog. ".repeat(20))
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_drift_is_zero_for_honest_traffic_and_shows_bypassed_and_lost_requests() {
    let gate = Gate::start();
    // Prompts that share their beginning, which the cache of the server has from the second on.
    for number in 0..6 {
        let text = format!("{} {number}", long_text(0));
        gate.ask(gate.envoy.port, &text, number % 2 == 1);
    }
    let [prompt, answer] = gate.served();
    assert!(prompt > 200 && answer > 20, "{prompt} {answer}");
    until("settlements", || (gate.settled("kind=\"output\"") == answer).then_some(()));
    // To the token: the server does not count what its cache had.
    assert_eq!(gate.settled("kind=\"input\""), prompt);
    assert!(gate.settled("kind=\"cached\"") > 500, "{}", gate.settled("kind=\"cached\""));
    assert_eq!(gate.settled("kind=\"unsplit\""), 0);
    until("a drift of about zero", || {
        let sum = gate.prometheus.value("model:tollgate_served_tokens:sum_increase1h")?;
        gate.drift().filter(|drift| sum > 500.0 && drift.abs() < 0.03)
    });
    assert!(gate.alerts().is_empty(), "{:?}", gate.alerts());

    // Straight to the server.
    for number in 1..9 {
        gate.ask(gate.model.port, &long_text(number), false);
    }
    gate.until_alert("TollgateTokensUnsettled");
    assert!(gate.drift().unwrap() > 0.05, "{:?}", gate.drift());

    // Requests that the proxy does not report are charged what they hold.
    for number in 0..12 {
        gate.ask(gate.silent.port, &format!("{number}"), false);
    }
    gate.until_alert("TollgateTokensOverSettled");
    assert!(gate.drift().unwrap() < -0.05, "{:?}", gate.drift());
    until("all expiries", || (gate.settled("basis=\"expired\"") > 12 * 300).then_some(()));
}
