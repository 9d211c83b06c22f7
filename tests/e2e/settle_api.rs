//! `POST /v1/settle` of the binary: a gateway that checks over HTTP and reports for itself.

use std::{os::unix::net::UnixStream, process::Command};

use serde_json::{Value, json};
use tollgate_core::credential::api_key::KeyDigest;

use crate::rig::{
    SCOPES,
    http::{Reply, Request},
    issuer::Issuer,
    part, schemathesis,
    tollgate::{Tollgate, run},
};

const CONFIG: &str = r#"
listen:
  ops: "127.0.0.1:0"
  http: [{ address: "127.0.0.1:0", dialect: nginx, body: sent, settlement: reported }]
  settle: { address: "unix:${DIR}/settle.sock" }
metering: { secrets: [0123456789abcdef0123456789abcdef] }
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: "${DIR}/jwks.json" }
models:
  - { name: qwen, serves: [qwen], context: 4096, max_output: 512 }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: [infer:text]
    model: { from: body, scope: "model:{model}:inference" }
    limits: [limited]
limits:
  - { name: limited, by: [subject], tokens: 10000/day }
"#;

/// Checks a request as a gateway does.
fn check(tollgate: &Tollgate, token: &str) -> Reply {
    let body = r#"{"model":"qwen","stream":true,"messages":[]}"#;
    Request::post("/check", body)
        .header("X-Original-Method", "POST")
        .header("X-Original-URI", "/v1/chat/completions")
        .header("X-Original-Host", "api.example.com")
        .bearer(token)
        .send(tollgate.http_port())
}

#[test]
fn a_gateway_reports_what_it_counted() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let token = issuer.token(json!({ "scope": SCOPES }));
    let tollgate = Tollgate::start(dir.path(), CONFIG);
    let left = |reply: &Reply| -> u64 {
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.one("x-ratelimit-remaining-tokens").unwrap().parse().unwrap()
    };
    let first = check(&tollgate, &token);
    let held = 10_000 - left(&first);
    let changes: Value =
        serde_json::from_str(first.one("x-tollgate-body-changes").unwrap()).unwrap();
    let options = json!({ "include_usage": true });
    assert_eq!(changes, json!({ "max_tokens": 512, "stream_options": options }));

    // The command of the page, twice: the second call changes nothing.
    let page = include_str!("../../docs/metering.md");
    let (_, block) = page.split_once("```sh elsewhere\ncurl --unix-socket").unwrap();
    let (command, _) = block.split_once("```").unwrap();
    let socket = dir.path().join("settle.sock");
    let command = command.replace("/run/tollgate/settle.sock", socket.to_str().unwrap());
    let curl = part("curl", "curl");
    for expected in [
        json!({ "results": [{ "result": "settled", "tokens": 30 }] }),
        json!({ "results": [{ "result": "duplicate" }] }),
    ] {
        let output = Command::new("sh")
            .args(["-c", &format!("{} -s --unix-socket{command}", curl.display())])
            .env("RESERVATION", first.one("x-tollgate-reservation").unwrap())
            .output()
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), expected, "{output:?}");
    }
    assert_eq!(left(&check(&tollgate, &token)), 10_000 - 30 - held, "the rest is free");

    let document = Request::get("/v1/openapi.json");
    let mut stream = UnixStream::connect(&socket).unwrap();
    std::io::Write::write_all(&mut stream, &document.bytes()).unwrap();
    let mut served = String::new();
    std::io::Read::read_to_string(&mut stream, &mut served).unwrap();
    let printed = run(dir.path(), &["schema", "--settle-api"]);
    assert!(served.ends_with(&String::from_utf8_lossy(&printed.stdout).into_owned()), "{served}");
}

/// The token of a reporter.
const TOKEN: &str = "reporter-token-of-the-end-to-end-tests-0123456789";

/// The reporters of the other test have a Unix socket, which schemathesis does not call.
#[test]
fn the_api_does_what_its_document_states() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let digest = serde_json::to_value(KeyDigest::of(TOKEN.as_bytes())).unwrap();
    let reporter = format!("{{ name: gateway, digest: {digest}, every_route: true }}");
    let listener = format!("{{ address: \"127.0.0.1:0\", reporters: [{reporter}] }}");
    let config = CONFIG.replace("{ address: \"unix:${DIR}/settle.sock\" }", &listener);
    let tollgate = Tollgate::start(dir.path(), &config);
    let document = run(dir.path(), &["schema", "--settle-api"]).stdout;
    let port = tollgate.port("settle");
    // An entry that is settled is among the examples.
    let token = issuer.token(json!({ "scope": SCOPES }));
    let checked = check(&tollgate, &token);
    let reservation = checked.one("x-tollgate-reservation").unwrap();
    let text = String::from_utf8(document).unwrap();
    assert!(text.contains("eyJpZCI6..."), "the example of the document");
    let document = text.replace("eyJpZCI6...", reservation);
    // An entry that its schema does not admit has a result of its own, in an answer of 200.
    let options = ["--exclude-checks", "negative_data_rejection"];
    schemathesis::conforms(dir.path(), document.as_bytes(), (port, TOKEN), &options);
    assert!(tollgate.metric("tollgate_settlements_total", &["result=\"charged\""]) >= 1.0);
    assert_eq!(tollgate.ready().status, 200);
}
