//! Two checks of one request: the head before the body is received, then the whole request.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::rig::{
    CHAT, POLICY, Rig,
    envoy::{CURRENT, Envoy, OLDEST},
    http::{Answer, Reply, Request, Server},
    issuer::Issuer,
    tollgate::Tollgate,
    until,
};

const STRANGERS: &str = include_str!("../../deploy/envoy/envoy-strangers.yaml");

/// The policy with two requests per subject.
fn policy() -> String {
    let limited = POLICY.replace("scopes: [infer:text]", "scopes: [infer:text]\n    limits: [two]");
    format!("{limited}limits:\n  - {{ name: two, by: [subject], rate: 1/1h, burst: 2 }}\n")
}

fn two_checks(version: &str) {
    let rig = Rig::on(version, &policy(), |_| STRANGERS.to_owned());
    let token = rig.token(json!({}));

    // Without a token the answer arrives before the body.
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.envoy.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.example.com\r\n\
                Content-Type: application/json\r\nContent-Length: 16777216\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let started = Instant::now();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(5));

    // A request that passes is charged, audited and forwarded once.
    let chat = Request::post("/v1/chat/completions", CHAT).bearer(&token);
    for _ in 0..2 {
        let reply = rig.envoy.send(&chat);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = rig.upstream.only();
        assert_eq!(seen.all("x-tollgate-subject").len(), 1, "{seen:?}");
        assert_eq!(seen.body, CHAT.as_bytes());
    }
    assert_eq!(rig.envoy.send(&chat).verdict(), (429, "rate_limited".to_owned()));
    // What is remembered to be used up is refused by the first check, whatever the body.
    let unread = Request::post("/v1/chat/completions", "{").bearer(&token);
    assert_eq!(rig.envoy.send(&unread).verdict(), (429, "rate_limited".to_owned()));
    // The second check decides by the body.
    let token_of_another = rig.token(json!({ "sub": "bob" }));
    let other =
        Request::post("/v1/chat/completions", r#"{"model":"big-70b"}"#).bearer(&token_of_another);
    assert_eq!(rig.envoy.send(&other).verdict(), (403, "model_forbidden".to_owned()));
    assert_eq!(rig.upstream.taken().len(), 0);
    // A header cannot mark a check, and a forged identity does not pass the first.
    let marked = Request::get("/v1/models")
        .header("tollgate.phase", "head")
        .header("x-tollgate-phase", "head")
        .header("X-Tollgate-Subject", "forged");
    assert_eq!(rig.envoy.send(&marked).verdict(), (401, "missing_credential".to_owned()));
    assert_eq!(rig.envoy.send(&marked.bearer(&token)).status, 200);
    assert_eq!(rig.upstream.only().all("x-tollgate-subject").len(), 1);

    let reasons = until("the audit lines", || {
        let lines = rig.tollgate.audit();
        let reasons: Vec<String> = lines
            .iter()
            .filter(|line| line["event"] == "check" && line["path"] != "/health")
            .map(|line| line["reason"].as_str().unwrap().to_owned())
            .collect();
        (reasons.len() >= 8).then_some(reasons)
    });
    assert_eq!(
        reasons,
        [
            "missing_credential",
            "granted",
            "granted",
            "rate_limited",
            "rate_limited",
            "model_forbidden",
            "missing_credential",
            "granted"
        ]
    );
    assert_eq!(rig.tollgate.metric("tollgate_checks_total", &["decision=\"allow\""]), 3.0);
}

#[test]
fn the_head_is_checked_before_the_body_and_the_whole_request_after_it() {
    two_checks(CURRENT);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_checks_the_head_too() {
    two_checks(OLDEST);
}

#[test]
fn doctor_finds_a_missing_second_filter() {
    let upstream = Server::start(|request| {
        let headers: Vec<String> =
            request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        Answer::Whole(Reply::new(200, headers.concat()).header("content-type", "text/plain"))
    });
    for whole in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let _tollgate = Tollgate::start(dir.path(), POLICY);
        let envoy = Envoy::start(dir.path(), upstream.port, CURRENT, |_| {
            let config = STRANGERS.to_owned();
            if whole {
                return config;
            }
            let second = "                  - name: envoy.filters.http.ext_authz";
            let from = config.find(second).unwrap();
            let to = config.find("                  - name: envoy.filters.http.router").unwrap();
            format!("{}{}", &config[..from], &config[to..])
        });
        let token = issuer.token(json!({}));
        let url = format!("http://127.0.0.1:{}", envoy.port);
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["doctor", &url, "--output", "json", "--host", "api.example.com"])
            .args(["--echo", "/v1/models", "--token", &token])
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let probes = report["probes"].as_array().unwrap();
        let probe =
            probes.iter().find(|one| one["name"] == "the_upstream_receives_a_decision").unwrap();
        assert_eq!(probe["verdict"], if whole { "ok" } else { "leak" }, "{report:#}");
    }
}
