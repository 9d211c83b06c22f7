//! Limits on tokens and on requests in flight, end to end: the binary as it ships, a real Envoy with
//! deploy/envoy/envoy-metered.yaml, and an upstream that reports its usage.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::{
    SCOPES, chat,
    envoy::{CURRENT, Envoy, is_embedded},
    http::{Answer, Reply, Request, Server},
    issuer::Issuer,
    redis::Redis,
    replace_once,
    tollgate::Tollgate,
    until,
};

const METERED: &str = include_str!("../../deploy/envoy/envoy-metered.yaml");

/// The listeners of a sidecar.
pub(super) const LISTEN: &str = r#"listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0", access_log: "unix:${DIR}/access-log.sock" }"#;

/// A policy with two limits, of which each test has its sizes. A small request holds about 1100
/// tokens, for as long as `life` without a report.
pub(super) fn policy(limits: &str, life: &str) -> String {
    format!(
        r#"
{LISTEN}
metering: {{ secrets: [0123456789abcdef0123456789abcdef], life: {life} }}
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256, ES256, EdDSA]
    jwks: {{ file: "${{DIR}}/jwks.json" }}
models:
  - {{ name: qwen, serves: [qwen], context: 4096, max_output: 512 }}
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions] }}
    scopes: [infer:text]
    model: {{ from: body, scope: "model:{{model}}:inference" }}
    limits: [limited]
limits:
  - {{ name: limited, by: [subject], {limits} }}
"#
    )
}

/// The events of a stream, which a test sends one by one.
pub(super) type Events = mpsc::Sender<String>;

pub(super) struct Chain {
    // Dropped in this order: the proxy first, the directory with the logs last.
    envoy: Envoy,
    pub(super) tollgate: Tollgate,
    streams: Arc<Mutex<Vec<Events>>>,
    seen: Arc<Mutex<Vec<Request>>>,
    token: String,
    _redis: Option<Redis>,
    dir: TempDir,
}

impl Chain {
    pub(super) fn start(config: &str) -> Self {
        Self::on(CURRENT, config)
    }

    fn on(version: &str, config: &str) -> Self {
        Self::with(version, tempfile::tempdir().unwrap(), None, config)
    }

    fn with(version: &str, dir: TempDir, redis: Option<Redis>, config: &str) -> Self {
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let token = issuer.token(json!({ "scope": SCOPES }));
        let streams = Arc::<Mutex<Vec<Events>>>::default();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (open, record) = (Arc::clone(&streams), Arc::clone(&seen));
        // A whole response uses 30 tokens. A stream is in the hands of the test.
        let upstream = Server::start(move |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            record.lock().unwrap().push(request);
            if body["stream"] == true {
                let (sender, events) = mpsc::channel();
                open.lock().unwrap().push(sender);
                return Answer::Events(events);
            }
            let usage = json!({ "prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30 });
            let body = json!({ "choices": [], "usage": usage }).to_string();
            Answer::Whole(Reply::new(200, body).header("content-type", "application/json"))
        });
        // More reports of running responses than in the shipped file.
        let (shipped, often) =
            ["10s", "0.2s"].map(|t| format!("access_log_flush_interval: {t}")).into();
        let (tollgate, envoy) = if is_embedded(version) {
            let config = config.replace(LISTEN, "listen: { embedded: true, ops: \"127.0.0.1:0\" }");
            Tollgate::write_embedded(dir.path(), &config);
            let mut envoy = Envoy::start(dir.path(), upstream.port, version, |config| config);
            (Tollgate::inside(dir.path(), &mut envoy.process), envoy)
        } else {
            let tollgate = Tollgate::start(dir.path(), config);
            let metered = |_| replace_once(METERED.to_owned(), &shipped, &often);
            (tollgate, Envoy::start(dir.path(), upstream.port, version, metered))
        };
        Self { envoy, tollgate, streams, seen, token, _redis: redis, dir }
    }

    pub(super) fn send(&self) -> Reply {
        self.envoy.send(&chat(&self.token))
    }

    /// Begins a stream in a thread, which ends with its reply, and waits until the upstream has it.
    pub(super) fn stream(&self) -> (JoinHandle<Option<Reply>>, Events) {
        let body = r#"{"model":"qwen","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        let request = Request::post("/v1/chat/completions", body).bearer(&self.token);
        let port = self.envoy.port;
        let reply = std::thread::spawn(move || request.try_send(port));
        (reply, until("the stream", || self.streams.lock().unwrap().pop()))
    }

    pub(super) fn settled(&self, count: f64) {
        self.tollgate.until_metric("tollgate_settlements_total", &["result=\"charged\""], count);
    }
}

/// What is left of the limit, by the headers of an allowed request.
fn left(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.one("x-ratelimit-remaining-tokens").unwrap().parse().unwrap()
}

#[test]
fn a_budget_is_charged_what_requests_use_and_holds_what_they_may_use() {
    budget(CURRENT);
}

pub(super) fn budget(version: &str) {
    let chain = Chain::on(version, &policy("tokens: 2000/day", "60s"));
    let first = chain.send();
    let held = 2000 - left(&first);
    assert!((1000..1200).contains(&held), "{held}");
    chain.settled(1.0);
    assert_eq!(left(&chain.send()), 2000 - 30 - held, "the usage is charged, the rest is free");
    chain.settled(2.0);
    // The request is capped at what is held, and the reservation reaches neither side.
    for request in chain.seen.lock().unwrap().drain(..) {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["max_tokens"], 512);
        assert!(body.get("stream_options").is_none());
        let has = |(name, value): &(String, String)| name.contains("reserv") || value.len() > 2000;
        assert!(!request.headers.iter().any(has), "{:?}", request.headers);
    }
    assert!(
        !first.headers.iter().any(|(name, value)| name.contains("reserv") || value.len() > 500)
    );

    // While a stream holds its tokens there is no room for another one; then there is.
    let (reply, events) = chain.stream();
    let request = chain.seen.lock().unwrap().pop().unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["stream_options"], json!({ "include_usage": true }));
    let refused = chain.send();
    assert_eq!(refused.verdict(), (429, "budget_exhausted".to_owned()));
    assert!(refused.one("retry-after").is_some(), "{:?}", refused.headers);
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 21, "completion_tokens": 19 } });
    events.send(usage.to_string()).unwrap();
    events.send("[DONE]".to_owned()).unwrap();
    drop(events);
    assert_eq!(reply.join().unwrap().unwrap().status, 200);
    chain.settled(3.0);
    assert_eq!(left(&chain.send()), 2000 - 30 - 30 - 40 - held);
    chain.settled(4.0);
    chain.tollgate.until_metric("tollgate_reservations_open", &[], 0.0);
    assert_eq!(chain.tollgate.metric("tollgate_unmetered_total", &[]), 0.0);
    assert_eq!(chain.tollgate.metric("tollgate_report_problems_total", &[]), 0.0);
}

#[test]
fn a_place_is_free_when_its_response_has_ended_however_it_ends() {
    places(CURRENT);
}

pub(super) fn places(version: &str) {
    let chain = Chain::on(version, &policy("concurrent: 1", "60s"));
    let (reply, events) = chain.stream();
    assert_eq!(chain.send().verdict(), (429, "too_many_in_flight".to_owned()));
    drop(events);
    assert!(reply.join().unwrap().is_some());
    chain.settled(1.0);
    assert_eq!(chain.send().status, 200);
    chain.settled(2.0);
    // A client that disconnects frees its place, too.
    let stream = std::net::TcpStream::connect(("127.0.0.1", chain.envoy.port)).unwrap();
    let body = r#"{"model":"qwen","stream":true,"messages":[]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        chain.token,
        body.len()
    );
    std::io::Write::write_all(&mut &stream, head.as_bytes()).unwrap();
    let _events = until("the stream", || chain.streams.lock().unwrap().pop());
    assert_eq!(chain.send().verdict(), (429, "too_many_in_flight".to_owned()));
    drop(stream);
    chain.settled(3.0);
    assert_eq!(chain.send().status, 200);
    chain.settled(4.0);
}

/// In the middle of a stream, without usage in its events, the whole hold is charged. A place is
/// renewed for as long as the stream runs.
pub(super) fn cut(version: &str) {
    let chain = Chain::on(version, &policy("concurrent: 1", "5s"));
    let (reply, events) = chain.stream();
    let renewed = ["result=\"renewed\""];
    until("renewals for longer than the life of a reservation", || {
        (chain.tollgate.metric("tollgate_settlements_total", &renewed) >= 5.0).then_some(())
    });
    assert_eq!(chain.send().verdict(), (429, "too_many_in_flight".to_owned()));
    drop(events);
    assert!(reply.join().unwrap().is_some());
    chain.settled(1.0);

    let chain = Chain::on(version, &policy("tokens: 9000/day", "60s"));
    let held = 9000 - left(&chain.send());
    chain.settled(1.0);
    let stream = std::net::TcpStream::connect(("127.0.0.1", chain.envoy.port)).unwrap();
    let body = r#"{"model":"qwen","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        chain.token,
        body.len()
    );
    std::io::Write::write_all(&mut &stream, head.as_bytes()).unwrap();
    let events = until("the stream", || chain.streams.lock().unwrap().pop());
    events.send(r#"{"choices":[{"delta":{"content":"a"}}]}"#.to_owned()).unwrap();
    let mut first = [0; 16];
    std::io::Read::read_exact(&mut &stream, &mut first).unwrap();
    drop(stream);
    chain.tollgate.until_metric("tollgate_unmetered_total", &["ending=\"cut\""], 1.0);
    chain.settled(2.0);
    let rest = left(&chain.send());
    assert!(rest + 30 + 2 * held <= 9000 + 50, "the whole hold is charged: {rest}, {held}");
}

#[test]
fn a_killed_tollgate_frees_places_by_expiry() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let config = format!("{}{}", policy("concurrent: 1", "5s"), redis.store());
    let mut chain = Chain::with(CURRENT, dir, Some(redis), &config);
    let (reply, events) = chain.stream();
    assert_eq!(chain.send().verdict(), (429, "too_many_in_flight".to_owned()));
    chain.tollgate.process.kill();
    // The response ends while there is no Tollgate, so that its entry is lost.
    drop(events);
    assert!(reply.join().unwrap().is_some());
    // The next one appends to the log, in which its addresses are looked up.
    std::fs::remove_file(chain.dir.path().join("tollgate.err")).unwrap();
    chain.tollgate = Tollgate::start(chain.dir.path(), &config);
    let freed = || (chain.send().status == 200).then_some(());
    until("a free place", freed);
}
