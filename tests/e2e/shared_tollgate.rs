//! A Tollgate that several proxies share, end to end: checks and access log over TLS, with
//! deploy/envoy/envoy-metered-service.yaml in a real Envoy.

use serde_json::json;

use super::tls::Authority;
use crate::rig::{
    SCOPES, chat,
    envoy::{CURRENT, Envoy},
    http::{Answer, Reply, Server},
    issuer::Issuer,
    replace_once,
    tollgate::Tollgate,
    until,
};

const SHARED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/envoy-metered-service.yaml");

const CONFIG: &str = r#"
listen:
  grpc: { address: "127.0.0.1:0", tls: { cert: "${DIR}/server.pem", key: "${DIR}/server.key" } }
  access_log: { address: "127.0.0.1:0", tls: { cert: "${DIR}/server.pem", key: "${DIR}/server.key", client_ca: "${DIR}/ours.pem" } }
  ops: "127.0.0.1:0"
metering: { secrets: [0123456789abcdef0123456789abcdef], life: 5s }
issuers:
  - { issuer: https://auth.example.com, audiences: [inference-api], algorithms: [RS256, ES256, EdDSA], jwks: { file: "${DIR}/jwks.json" } }
models:
  - { name: qwen, serves: [qwen], context: 4096, max_output: 512 }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: [infer:text]
    model: { from: body, scope: "model:{model}:inference" }
    limits: [limited]
limits:
  - { name: limited, by: [subject], tokens: 5000/day }
"#;

#[test]
fn only_a_proxy_with_a_certificate_reports_usage() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.publish(dir, "ours");
    ours.issue(dir, "server", "tollgate.tollgate.svc");
    ours.issue(dir, "proxy", "envoy.test");
    theirs.issue(dir, "stranger", "envoy.test");
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir);
    let token = issuer.token(json!({ "scope": SCOPES }));
    let upstream = Server::start(|_| {
        let usage = json!({ "prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30 });
        let body = json!({ "choices": [], "usage": usage }).to_string();
        Answer::Whole(Reply::new(200, body).header("content-type", "application/json"))
    });
    let tollgate = Tollgate::start(dir, CONFIG);
    let start = |name: &str| {
        let mut config = std::fs::read_to_string(SHARED).unwrap();
        for (port, listener) in [(9000, "grpc"), (9003, "access_log")] {
            let shipped = format!("address: tollgate.tollgate.svc, port_value: {port}");
            let own = format!("address: 127.0.0.1, port_value: {}", tollgate.port(listener));
            config = replace_once(config, &shipped, &own);
        }
        for (shipped, own) in [
            ("/etc/envoy/tls/tls.crt }", format!("{}/{name}.pem }}", dir.display())),
            ("/etc/envoy/tls/tls.key }", format!("{}/{name}.key }}", dir.display())),
            ("/etc/envoy/tls/ca.crt }", format!("{}/ours.pem }}", dir.display())),
        ] {
            assert_eq!(config.matches(shipped).count(), 2);
            config = config.replace(shipped, &own);
        }
        Envoy::start(dir, upstream.port, CURRENT, |_| config)
    };
    let left = |envoy: &Envoy| {
        let reply = envoy.send(&chat(&token));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let left = reply.one("x-ratelimit-remaining-tokens").unwrap();
        left.parse::<u64>().unwrap()
    };

    let known = start("proxy");
    let held = 5000 - left(&known);
    tollgate.until_metric("tollgate_settlements_total", &["result=\"charged\""], 1.0);
    assert_eq!(left(&known), 5000 - 30 - held);
    tollgate.until_metric("tollgate_settlements_total", &["result=\"charged\""], 2.0);

    // Its check is answered, as `listen.grpc` has no `client_ca`; its report is not read, and the
    // request is charged what it held.
    assert_eq!(left(&start("stranger")), 5000 - 2 * 30 - held);
    until("expiry", || {
        (tollgate.metric("tollgate_reservations_expired_total", &[]) == 1.0).then_some(())
    });
    assert_eq!(left(&known), 5000 - 2 * 30 - 2 * held);
    tollgate.until_metric("tollgate_settlements_total", &["result=\"charged\""], 3.0);
}
