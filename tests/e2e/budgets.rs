//! Budgets of a policy through a real Envoy with deploy/envoy/envoy-metered.yaml: a check holds what a
//! request may use, Envoy writes the bound into the request, and what the response used is charged.

use std::sync::{Arc, Mutex, mpsc};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tollgate::{app::App, config, listener::Address, observe};
use tollgate_testkit::{Algorithm, KeyPair, Token};

use crate::rig::{
    envoy::{CURRENT, Envoy, is_embedded},
    http::{Answer, Reply, Request, Server},
    replace_once,
    tollgate::Tollgate,
    until,
};

const METERED: &str = include_str!("../../deploy/envoy/envoy-metered.yaml");

const SECRET: &str = "the-secret-of-the-tokens-of-the-budget-tests-0123456789";

/// The listeners of a sidecar.
const LISTEN: &str = r#"listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0", access_log: "unix:${DIR}/access-log.sock" }"#;

const CONFIG: &str = r#"
audit: { to: none }
metering: { secrets: ["${SECRET}"] }
issuers: [{ issuer: i, audiences: any, algorithms: [HS256], secret: "${SECRET}", required_claims: [] }]
models: [{ name: m, context: 10000, max_output: 500, template_tokens: 100 }]
routes:
  - { match: { methods: [POST], paths: [/v1/chat/completions] }, scopes: [], model: { from: body }, limits: [day, gpu] }
limits:
  - { name: day, by: [subject], tokens: 5000/day }
  - { name: gpu, by: [subject], concurrent: 1 }
"#;

/// Limits that hold an estimate, a server that counts each event, and fixed charges.
const ESTIMATES: &str = r#"
audit: { to: none }
metering: { secrets: ["${SECRET}"] }
issuers: [{ issuer: i, audiences: any, algorithms: [HS256], secret: "${SECRET}", required_claims: [] }]
models: [{ name: m, context: 10000, max_output: 2000, template_tokens: 100, usage: continuous }]
routes:
  - { match: { methods: [POST], paths: [/v1/chat/completions] }, scopes: [], model: { from: body }, limits: [day] }
  - { match: { methods: [POST], paths: [/v1/batches] }, scopes: [], limits: [day], fixed_tokens: 700 }
  - { match: { methods: [POST], paths: [/v1/responses] }, scopes: [], model: { from: body }, limits: [day], background_tokens: 900 }
limits:
  - { name: day, by: [subject], tokens: 20000/day, hold: estimate }
"#;

struct Budgets {
    // Dropped in this order: the proxy first, the directory with the logs last.
    envoy: Envoy,
    app: Option<App>,
    answers: Arc<Mutex<Vec<Answer>>>,
    seen: Arc<Mutex<Vec<Request>>>,
    token: String,
    runtime: Runtime,
    _dir: TempDir,
}

impl Budgets {
    fn on(version: &str) -> Self {
        Self::with(CONFIG, version)
    }

    fn with(config: &str, version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let path = dir.path().display().to_string();
        let env = |name: &str| match name {
            "DIR" => Some(path.clone()),
            "SECRET" => Some(SECRET.to_owned()),
            _ => None,
        };
        let app = (!is_embedded(version)).then(|| {
            let loaded = config::compile(&format!("{LISTEN}{config}"), &env).unwrap();
            let app = App::start(loaded, Arc::new(observe::now));
            runtime.block_on(async { app.await.unwrap() })
        });
        let answers = Arc::<Mutex<Vec<Answer>>>::default();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (scripted, record) = (Arc::clone(&answers), Arc::clone(&seen));
        let upstream = Server::start(move |request| {
            record.lock().unwrap().push(request);
            let answer = scripted.lock().unwrap().pop();
            answer.unwrap_or_else(|| Answer::Whole(Reply::new(500, "no answer")))
        });
        let socket = format!("path: \"{}/access-log.sock\"", dir.path().display());
        let embedded = "listen: { embedded: true, ops: \"127.0.0.1:0\" }";
        let policy = format!("{embedded}{config}").replace("${SECRET}", SECRET);
        Tollgate::write_embedded(dir.path(), &policy);
        let envoy = Envoy::start(dir.path(), upstream.port, version, |shipped| {
            if is_embedded(version) {
                return shipped;
            }
            replace_once(METERED.to_owned(), "path: /run/tollgate/access-log.sock", &socket)
        });
        let now = observe::now().secs();
        let claims = json!({ "iss": "i", "sub": "alice", "iat": now, "exp": now + 600 });
        let token = Token::new(Algorithm::Hs256).claims(claims);
        let token = token.sign(&KeyPair::secret(SECRET)).unwrap();
        Self { envoy, app, answers, seen, token, runtime, _dir: dir }
    }

    fn post(&self, body: &Json) -> Reply {
        let request = Request::post("/v1/chat/completions", body.to_string()).bearer(&self.token);
        self.envoy.send(&request)
    }

    /// The number of requests that are settled.
    fn settled(&self) -> u64 {
        let Address::Tcp(ops) = self.app.as_ref().unwrap().ops.clone() else { panic!() };
        let text = Request::get("/metrics").send(ops.port()).text();
        let series = "tollgate_settlements_total{result=\"charged\"} ";
        let count = text.lines().find_map(|line| line.strip_prefix(series));
        count.unwrap().parse().unwrap()
    }

    /// Sends a request to a path that is answered with this response, waits until it is settled if it
    /// is, and returns it as the upstream got it, and what was left of the day's tokens.
    fn send(&self, path: &str, body: &Json, response: &str, is_settled: bool) -> (Json, u64) {
        let (bytes, raw) = mpsc::channel();
        bytes.send(response.as_bytes().to_vec()).unwrap();
        drop(bytes);
        self.answers.lock().unwrap().push(Answer::Raw(raw));
        let before = self.settled();
        let request = Request::post(path, body.to_string()).bearer(&self.token);
        // A response that is cut does not arrive.
        let reply = request.try_send(self.envoy.port);
        if is_settled {
            until("settlement", || (self.settled() == before + 1).then_some(()));
        }
        let seen = self.seen.lock().unwrap().pop().unwrap();
        let left = reply.and_then(|reply| reply.one("x-ratelimit-remaining-tokens")?.parse().ok());
        (serde_json::from_slice(&seen.body).unwrap(), left.unwrap_or_default())
    }

    /// Sends a request that is answered with this body, and returns the request as the upstream got
    /// it and what is left of the day's tokens.
    fn answered(&self, body: &Json, kind: &str, answer: &str) -> (Json, u64) {
        // The upstream closes the connection, and Envoy must not send the next request on it.
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n");
        let whole = format!("{head}content-length: {}\r\n\r\n{answer}", answer.len());
        let (bytes, response) = mpsc::channel();
        bytes.send(whole.into_bytes()).unwrap();
        self.answers.lock().unwrap().push(Answer::Raw(response));
        // A slot is free when the request before has been settled.
        let reply = until("a free slot", || {
            let reply = self.post(body);
            (reply.status != 429).then_some(reply)
        });
        assert_eq!(reply.status, 200, "{}", reply.text());
        let left = reply.one("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        let seen = self.seen.lock().unwrap().pop().unwrap();
        (serde_json::from_slice(&seen.body).unwrap(), left)
    }
}

impl Drop for Budgets {
    fn drop(&mut self) {
        self.envoy.process.kill();
        if let Some(app) = self.app.take() {
            self.runtime.block_on(app.stop());
        }
    }
}

#[test]
fn a_request_is_bounded_before_and_charged_after_it() {
    bounded_and_charged(CURRENT);
}

pub(super) fn bounded_and_charged(version: &str) {
    let rig = Budgets::on(version);
    let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
    let held = |body: &Json, output: u64| body.to_string().len() as u64 + 100 + 16 + output;

    // Without a number, the answer is bounded by the model's.
    let usage =
        json!({ "usage": { "prompt_tokens": 11, "completion_tokens": 48, "total_tokens": 59 } });
    let (sent, left) = rig.answered(&chat, "application/json", &usage.to_string());
    let mut expected = chat.clone();
    expected["max_tokens"] = json!(500);
    assert_eq!((sent, left), (expected, 5000 - held(&chat, 500)));

    // A larger number is lowered, and what the first response used is charged, not what it held.
    let mut larger = chat.clone();
    larger["max_tokens"] = json!(9000);
    larger["stream"] = json!(true);
    larger["stream_options"] = json!({ "chunk": 2 });
    let events = format!("data: {usage}\n\ndata: [DONE]\n\n");
    let (sent, left) = rig.answered(&larger, "text/event-stream", &events);
    assert_eq!(sent["max_tokens"], json!(500));
    assert_eq!(sent["stream_options"], json!({ "chunk": 2, "include_usage": true }));
    assert_eq!(left, 5000 - 59 - held(&larger, 500));

    // A smaller number stays.
    let mut smaller = chat.clone();
    smaller["max_tokens"] = json!(7);
    let (sent, left) = rig.answered(&smaller, "application/json", &usage.to_string());
    assert_eq!((sent, left), (smaller.clone(), 5000 - 2 * 59 - held(&smaller, 7)));
}

/// A whole response.
fn whole(kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn an_estimate_is_learnt_and_what_is_not_reported_is_estimated() {
    let rig = Budgets::with(ESTIMATES, CURRENT);
    let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
    let path = "/v1/chat/completions";
    let prompt = chat.to_string().len() as u64 + 100 + 16;
    let bound = prompt + 2000;
    let json = "application/json";

    // Nothing is learnt yet: the request holds its bound. Its response has no usage.
    let silent = json!({ "text": "a".repeat(400) }).to_string();
    let (sent, left) = rig.send(path, &chat, &whole(json, &silent), true);
    assert_eq!((&sent["max_tokens"], left), (&json!(2000), 20_000 - bound));
    let mut spent = prompt.div_ceil(4) + (silent.len() as u64).div_ceil(4);

    let usage = json!({ "usage": { "prompt_tokens": 11, "completion_tokens": 189 } }).to_string();
    for _ in 0..8 {
        let (_, left) = rig.send(path, &chat, &whole(json, &usage), true);
        assert_eq!(left, 20_000 - spent - bound);
        spent += 200;
    }
    // Now it holds what such requests used, and the answer is bounded as before.
    let (sent, left) = rig.send(path, &chat, &whole(json, &usage), true);
    assert_eq!((&sent["max_tokens"], left), (&json!(2000), 20_000 - spent - 223));
    spent += 200;

    // A stream is asked for its usage in each event. One that is cut is charged what ran.
    let mut stream = chat.clone();
    stream["stream"] = json!(true);
    let event = |output: u64| {
        let usage = json!({ "prompt_tokens": 11, "completion_tokens": output });
        format!("data: {}\n\n", json!({ "choices": [{}], "usage": usage }))
    };
    let events = event(13) + &event(25);
    let cut = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n",
        events.len()
    );
    let (sent, _) = rig.send(path, &stream, &cut, true);
    let asked = json!({ "include_usage": true, "continuous_usage_stats": true });
    assert_eq!(sent["stream_options"], asked);
    spent += 36;

    // Fixed charges: the requests are not changed, and nothing is settled.
    let batch = json!({ "input_file_id": "f" });
    let (sent, left) = rig.send("/v1/batches", &batch, &whole(json, "{}"), false);
    spent += 700;
    assert_eq!((sent, left), (batch, 20_000 - spent));
    let background = json!({ "model": "m", "input": "hello", "background": true });
    let (sent, left) = rig.send("/v1/responses", &background, &whole(json, &usage), false);
    spent += 900;
    assert_eq!((sent, left), (background, 20_000 - spent));
    let (_, left) = rig.send(path, &chat, &whole(json, &usage), true);
    assert_eq!(left, 20_000 - spent - 223);
}
