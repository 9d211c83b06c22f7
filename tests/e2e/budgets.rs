//! Budgets of a policy through a real Envoy with deploy/envoy/envoy-metered.yaml: a check holds what a
//! request may use, Envoy writes the bound into the request, and what the response used is charged.

use std::sync::{Arc, Mutex, mpsc};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tollgate::{app::App, config, observe};
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
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let path = dir.path().display().to_string();
        let env = |name: &str| match name {
            "DIR" => Some(path.clone()),
            "SECRET" => Some(SECRET.to_owned()),
            _ => None,
        };
        let app = (!is_embedded(version)).then(|| {
            let loaded = config::compile(&format!("{LISTEN}{CONFIG}"), &env).unwrap();
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
        let policy = format!("{embedded}{CONFIG}").replace("${SECRET}", SECRET);
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
