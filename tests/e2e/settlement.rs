//! The usage of responses through a real Envoy with deploy/envoy/envoy-metered.yaml: it reaches the
//! store once, whatever happens to the response.
//!
//! The check is a script: it returns a reservation that the test has made in Tollgate's store.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tollgate::{
    adapter::ext_authz::CHECK_PATH,
    app::App,
    config,
    listener::{Address, Listener, ListenerConfig, Protocol, serve_grpc},
    observe,
    proto::{
        envoy::service::auth::v3::{CheckResponse, OkHttpResponse, check_response::HttpResponse},
        google::rpc,
    },
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settlement, Usage},
    limit::{
        Counter, Hold,
        reservation::{Reservation, ReservationId, ReservationKeys},
    },
    secret::Secret,
    time::{Span, Timestamp},
};
use tollgate_grpc_unary::{FramedMessage, RequestBody, Services, Status, UnaryMethod};

use crate::rig::{
    SOON,
    envoy::{CURRENT, Envoy},
    http::{Answer, Reply, Request, Server},
    redis::Redis,
    replace_once, until,
};

const METERED: &str = include_str!("../../deploy/envoy/envoy-metered.yaml");

const ACKNOWLEDGED: &str = include_str!("../../deploy/envoy/envoy-metered-acknowledged.yaml");

const SECRET: &str = "metering-secret-of-the-end-to-end-tests-0123456789";

/// The listeners for reports, in [`CONFIG`].
const LOG: &str =
    r#", access_log: "unix:${DIR}/access-log.sock", ext_proc: "unix:${DIR}/ext-proc.sock""#;

const CONFIG: &str = r#"
audit: { to: none }
listen: { grpc: "unix:${DIR}/unused.sock", ops: "127.0.0.1:0", access_log: "unix:${DIR}/access-log.sock", ext_proc: "unix:${DIR}/ext-proc.sock" }
metering: { secrets: ["file:${DIR}/metering"] }
routes: [{ match: { paths: [/health] }, public: true }]
"#;

/// The tokens that each request holds.
const HELD: u64 = 1000;

/// Tokens of the budget, never used up.
const BUDGET: u64 = 1_000_000;

/// The members that the check returns.
type Returned = Arc<Mutex<BTreeMap<String, Value>>>;

/// A check that allows, and returns what the test has set.
struct Scripted(Returned);

impl UnaryMethod for Scripted {
    async fn call(&self, _: &HeaderMap, body: &mut RequestBody) -> Result<FramedMessage, Status> {
        body.length_prefix().await?.message().await?;
        let fields = std::mem::take(&mut *self.0.lock().unwrap());
        let response = CheckResponse {
            status: Some(rpc::Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            dynamic_metadata: Some(Struct { fields }),
        };
        Ok(FramedMessage::from(&response.encode_to_vec()[..]))
    }
}

/// What the upstream does with its next request.
type Script = Box<dyn FnOnce() -> Answer + Send>;

struct Metered {
    // Dropped in this order: the proxy first, the directory with the logs last.
    envoy: Envoy,
    /// The replica that gets the access log.
    app: Option<App>,
    /// The replica that makes reservations, if it is another one.
    other: Option<App>,
    stop: CancellationToken,
    returned: Returned,
    next: Arc<Mutex<VecDeque<Script>>>,
    seen: Arc<Mutex<Vec<Request>>>,
    runtime: Runtime,
    _redis: Option<Redis>,
    _dir: TempDir,
}

fn keys() -> ReservationKeys {
    ReservationKeys::new(vec![Secret::new(SECRET)]).unwrap()
}

impl Metered {
    fn start() -> Self {
        Self::edited(|envoy| envoy)
    }

    /// Starts with this version of Envoy.
    fn of(version: &str) -> Self {
        Self::with(tempfile::tempdir().unwrap(), None, version, |envoy| envoy)
    }

    /// Starts with an edited configuration of Envoy.
    fn edited(edit: impl FnOnce(String) -> String) -> Self {
        Self::with(tempfile::tempdir().unwrap(), None, CURRENT, edit)
    }

    /// Starts two replicas with one Redis.
    fn with_redis() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start(dir.path());
        Self::with(dir, Some(redis), CURRENT, |envoy| envoy)
    }

    fn with(
        dir: TempDir,
        redis: Option<Redis>,
        version: &str,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        std::fs::write(dir.path().join("metering"), SECRET).unwrap();
        let runtime = Runtime::new().unwrap();
        let (returned, stop) = (Returned::default(), CancellationToken::new());
        let path = dir.path().display().to_string();
        let env = |name: &str| (name == "DIR").then(|| path.clone());
        let load = |config: &str| {
            let store = redis.as_ref().map_or("", Redis::store);
            config::compile(&format!("{config}{store}"), &env).unwrap()
        };
        let second = redis.as_ref().map(|_| {
            let config = replace_once(CONFIG.to_owned(), LOG, "");
            load(&replace_once(config, "unused.sock", "unused2.sock"))
        });
        let app = runtime.block_on(async {
            let address = Address::Unix(dir.path().join("authz.sock"));
            let config = ListenerConfig::new(address);
            let listener = Listener::bind("listen.test", &config, Protocol::Grpc).await.unwrap();
            let services = Services::new().unary(CHECK_PATH, Scripted(Arc::clone(&returned)));
            tokio::spawn(serve_grpc(listener, services, stop.clone(), SOON));
            App::start(load(CONFIG), Arc::new(observe::now)).await.unwrap()
        });
        let other = second
            .map(|loaded| runtime.block_on(App::start(loaded, Arc::new(observe::now))).unwrap());
        let next = Arc::new(Mutex::new(VecDeque::<Script>::new()));
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (script, record) = (Arc::clone(&next), Arc::clone(&seen));
        let upstream = Server::start(move |request| {
            record.lock().unwrap().push(request);
            let script = script.lock().unwrap().pop_front();
            script.map_or_else(|| Answer::Whole(Reply::new(500, "no script")), |script| script())
        });
        let envoy = Envoy::start(dir.path(), upstream.port, version, |_| {
            replace_once(
                edit(METERED.to_owned()),
                "access_log_flush_interval: 10s",
                "access_log_flush_interval: 0.1s",
            )
        });
        Self {
            envoy,
            app: Some(app),
            other,
            stop,
            returned,
            next,
            seen,
            runtime,
            _redis: redis,
            _dir: dir,
        }
    }

    /// Makes a reservation, which charges `unreported` where no usage is reported. The next check
    /// returns it with `members`.
    fn reserve(&self, life: Span, unreported: u64, members: &[(&str, Json)]) {
        let mut reservation = reservation(HELD, life);
        reservation.holds[0].unreported = unreported;
        let text = reservation.seal(&keys());
        self.admit(reservation);
        let mut returned = self.returned.lock().unwrap();
        *returned = members.iter().map(|(name, json)| ((*name).to_owned(), value(json))).collect();
        returned.insert("reservation".to_owned(), value(&json!(text)));
    }

    /// Holds a reservation, and returns what is left of the budget. On a busy machine a call may have
    /// no answer in time: it is repeated, as the reservation holds once.
    fn admit(&self, reservation: Reservation) -> u64 {
        let store = Arc::clone(self.reserving().engine().store());
        let reservation = Some(Box::new(reservation));
        let request = AdmitRequest { reservation, ..AdmitRequest::default() };
        until("an answer of the store", || {
            match self.runtime.block_on(async { store.admit(&request).await }) {
                Ok(AdmitResponse::Counted(verdicts)) => {
                    assert!(verdicts.iter().all(|verdict| verdict.admitted), "{verdicts:?}");
                    Some(verdicts[0].remaining)
                }
                Err(Outage::Deadline) => None,
                other => panic!("{other:?}"),
            }
        })
    }

    /// What is left of the budget.
    fn left(&self) -> u64 {
        let probe = reservation(1, Span::from_secs(60));
        let left = self.admit(probe.clone());
        let store = Arc::clone(self.reserving().engine().store());
        let settlements = [Settlement { reservation: probe, usage: Usage::Released, report: None }];
        until("a release", || self.runtime.block_on(store.settle(&settlements)).ok());
        left
    }

    /// The replica that makes reservations.
    fn reserving(&self) -> &App {
        self.other.as_ref().or(self.app.as_ref()).unwrap()
    }

    /// The value of a metric of Tollgate with all of `labels`.
    fn metric(&self, name: &str, labels: &str) -> u64 {
        let Address::Tcp(ops) = self.app.as_ref().unwrap().ops.clone() else { panic!() };
        let text = Request::get("/metrics").send(ops.port()).text();
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    fn settled(&self) -> u64 {
        self.metric("tollgate_settlements_total", "result=\"charged\"")
    }

    /// Sets what the upstream does with one more request.
    fn script(&self, script: impl FnOnce() -> Answer + Send + 'static) {
        self.next.lock().unwrap().push_back(Box::new(script));
    }

    /// Runs `request` with a reservation, and returns what it was charged.
    fn charged(&self, what: &str, members: &[(&str, Json)], request: impl FnOnce()) -> u64 {
        let (left, settled) = (self.left(), self.settled());
        self.reserve(Span::from_secs(60), HELD, members);
        request();
        until(&format!("settlement of {what}"), || (self.settled() == settled + 1).then_some(()));
        left - self.left()
    }

    /// Sends a request whose answer is this, and returns what was settled.
    fn used_for(&self, what: &str, kind: &'static str, parts: Vec<String>) -> Tokens {
        let count = || {
            let series = |label| self.metric("tollgate_settled_tokens_total", label);
            [series(""), series("kind=\"cached\"")]
        };
        let [settled, cached] = count();
        let all = self.charged_for(what, kind, parts);
        // Counted behind the settlement.
        until(&format!("tokens of {what}"), || (count()[0] == settled + all).then_some(()));
        Tokens { all, cached: count()[1] - cached }
    }

    /// Sends a request whose answer is this, and returns what it was charged.
    fn charged_for(&self, what: &str, kind: &'static str, parts: Vec<String>) -> u64 {
        self.script(move || raw(kind, parts, true));
        self.charged(what, &[], || {
            let reply = self.envoy.send(&post());
            assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        })
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.envoy.process.kill();
        self.stop.cancel();
        for app in [self.app.take(), self.other.take()].into_iter().flatten() {
            self.runtime.block_on(app.stop());
        }
    }
}

/// A reservation of one hold, with an identity of its own.
fn reservation(amount: u64, life: Span) -> Reservation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = observe::now();
    Reservation {
        id: ReservationId(u128::from(number).to_be_bytes()),
        issued: now,
        life,
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
        holds: vec![Hold {
            limit: "day".into(),
            counter_id: "alice".into(),
            counter: Counter::Budget {
                limit: BUDGET,
                // One window for all: the counter is the same.
                ends: Timestamp::from_secs((now.secs() / 86_400 + 2) * 86_400),
            },
            amount,
            unreported: amount,
            by_principal: true,
            is_shadow: false,
        }],
    }
}

fn value(json: &Json) -> Value {
    let kind = match json {
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Bool(is) => Kind::BoolValue(*is),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Json::Object(members) => Kind::StructValue(Struct {
            fields: members.iter().map(|(name, json)| (name.clone(), value(json))).collect(),
        }),
        other => panic!("{other}"),
    };
    Value { kind: Some(kind) }
}

fn post() -> Request {
    Request::post("/v1/chat/completions", r#"{"model":"m","messages":[]}"#)
}

/// A text in pieces of seven bytes.
pub(crate) fn pieces_of(text: &str) -> Vec<String> {
    text.as_bytes().chunks(7).map(|part| String::from_utf8_lossy(part).into()).collect()
}

/// A chunked response in these pieces, with its end or without.
pub(crate) fn raw(kind: &str, parts: Vec<String>, ends: bool) -> Answer {
    let (bytes, response) = mpsc::channel();
    for part in pieces(kind, parts, ends) {
        bytes.send(part).unwrap();
    }
    Answer::Raw(response)
}

pub(crate) fn pieces(kind: &str, parts: Vec<String>, ends: bool) -> Vec<Vec<u8>> {
    // The upstream closes the connection, and Envoy must not send the next request on it.
    let close = if ends { "connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{close}transfer-encoding: chunked\r\n\r\n"
    );
    let chunks = parts.into_iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len()));
    let end = ends.then(|| "0\r\n\r\n".to_owned());
    [head].into_iter().chain(chunks).chain(end).map(String::into_bytes).collect()
}

pub(crate) fn events(events: &[Json]) -> Vec<String> {
    let events = events.iter().map(|event| format!("data: {event}\n\n"));
    events.chain(["data: [DONE]\n\n".to_owned()]).collect()
}

pub(crate) const SSE: &str = "text/event-stream";
pub(crate) const JSON: &str = "application/json";

/// The usage of a chat, where each event has it.
pub(crate) fn running(output: u64) -> Json {
    json!({ "choices": [{}], "usage": { "prompt_tokens": 11, "completion_tokens": output } })
}

#[test]
fn a_complete_response_is_charged_its_usage_in_every_shape() {
    shapes(CURRENT);
}

/// A text of a model that looks like usage.
const MISLEADING: &str = "the \"eval_count\":999, and {\"total_tokens\": 7}";

/// The tokens of a response that are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// What is charged.
    pub(crate) all: u64,
    /// Those among them that a cache of the server had.
    pub(crate) cached: u64,
}

/// The usage of a chat whose details count what a cache had.
fn detailed() -> Json {
    json!({
        "prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150,
        "prompt_tokens_details": { "cached_tokens": 100, "audio_tokens": 7 },
        "completion_tokens_details": { "reasoning_tokens": 20 },
    })
}

/// Streams of every API, with the tokens that they use, and those among them that a cache had.
pub(crate) fn streams() -> [(&'static str, Vec<Json>, u64, u64); 11] {
    let text = MISLEADING;
    [
        (
            "OpenAI",
            vec![
                json!({ "choices": [{ "delta": { "content": text } }], "usage": null }),
                json!({ "choices": [], "usage": { "prompt_tokens": 11, "completion_tokens": 48, "total_tokens": 59 } }),
            ],
            59,
            0,
        ),
        ("details", vec![json!({ "choices": [], "usage": detailed() })], 150, 100),
        (
            "a part that is no number",
            vec![
                json!({ "usage": { "prompt_tokens": 11, "completion_tokens": 48, "prompt_tokens_details": { "cached_tokens": "8" } } }),
            ],
            59,
            0,
        ),
        ("a count in each event", vec![running(13), running(25), running(38)], 49, 0),
        // The last usage counts, as the filter of Envoy keeps no other one.
        ("a smaller count at the end", vec![running(24), running(3)], 14, 0),
        ("no count at the end", vec![running(48), json!({ "choices": [], "usage": null })], 59, 0),
        (
            "Anthropic",
            vec![
                json!({ "type": "message_start", "message": { "usage": { "input_tokens": 25, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 1 } } }),
                json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text" } }),
                json!({ "type": "content_block_delta", "index": 0, "delta": { "text": text } }),
                json!({ "type": "content_block_stop", "index": 0 }),
                json!({ "type": "message_delta", "usage": { "output_tokens": 15 } }),
            ],
            47,
            3,
        ),
        (
            "Responses",
            vec![
                json!({ "type": "response.created", "response": { "usage": null } }),
                json!({ "type": "response.completed", "response": { "usage": { "input_tokens": 36, "output_tokens": 87, "total_tokens": 123 } } }),
            ],
            123,
            0,
        ),
        (
            "Responses with details",
            vec![
                json!({ "type": "response.completed", "response": { "usage": { "input_tokens": 36, "input_tokens_details": { "cached_tokens": 30 }, "output_tokens": 87, "output_tokens_details": { "reasoning_tokens": 64 } } } }),
            ],
            123,
            30,
        ),
        (
            "SGLang",
            vec![
                json!({ "text": "a", "meta_info": { "prompt_tokens": 5, "completion_tokens": 1 } }),
                json!({ "text": "ab", "meta_info": { "prompt_tokens": 5, "completion_tokens": 16, "cached_tokens": 4 } }),
            ],
            21,
            4,
        ),
        (
            "llama.cpp",
            vec![
                json!({ "content": "a", "stop": false }),
                json!({ "content": "", "stop": true, "timings": { "cache_n": 10, "prompt_n": 4, "predicted_n": 8, "predicted_ms": 1.5 } }),
            ],
            22,
            10,
        ),
    ]
}

/// Bodies of every API, with the tokens that they use, and those among them that a cache had.
pub(crate) fn bodies() -> [(&'static str, Json, u64, u64); 12] {
    let text = MISLEADING;
    [
        (
            "chat",
            json!({ "choices": [{ "message": { "content": text } }], "usage": { "prompt_tokens": 11, "completion_tokens": 48, "total_tokens": 59 } }),
            59,
            0,
        ),
        ("details", json!({ "choices": [], "usage": detailed() }), 150, 100),
        (
            "a part that is no number",
            json!({ "usage": { "prompt_tokens": 11, "completion_tokens": 48, "prompt_tokens_details": { "cached_tokens": "8" } } }),
            59,
            0,
        ),
        (
            "embeddings",
            json!({ "data": [{ "embedding": [0.5] }], "usage": { "prompt_tokens": 8, "completion_tokens": null, "total_tokens": 8 } }),
            8,
            0,
        ),
        (
            "Responses",
            json!({ "output": [], "usage": { "input_tokens": 36, "output_tokens": 87, "total_tokens": 123 } }),
            123,
            0,
        ),
        (
            "Responses with details",
            json!({ "usage": { "input_tokens": 36, "input_tokens_details": { "cached_tokens": 30 }, "output_tokens": 87, "output_tokens_details": { "reasoning_tokens": 64 } } }),
            123,
            30,
        ),
        (
            "messages",
            json!({ "content": [{ "text": text }], "usage": { "input_tokens": 25, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 15 } }),
            47,
            3,
        ),
        (
            "SGLang",
            json!({ "text": text, "meta_info": { "prompt_tokens": 5, "completion_tokens": 16, "cached_tokens": 4 } }),
            21,
            4,
        ),
        (
            "llama.cpp",
            json!({ "content": text, "timings": { "cache_n": 10, "prompt_n": 4, "predicted_n": 8 } }),
            22,
            10,
        ),
        ("Ollama", json!({ "response": text, "prompt_eval_count": 26, "eval_count": 259 }), 285, 0),
        ("rerank", json!({ "results": [], "usage": { "total_tokens": 56 } }), 56, 0),
        (
            "transcription",
            json!({ "text": text, "usage": { "type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59 } }),
            59,
            0,
        ),
    ]
}

/// Usage with a value that is no count: what the request holds is charged, in whichever form it comes.
pub(crate) fn absurd_usages() -> [&'static str; 7] {
    [
        r#"{"prompt_tokens":7,"completion_tokens":1e999}"#,
        r#"{"prompt_tokens":7,"completion_tokens":-1}"#,
        r#"{"prompt_tokens":7,"completion_tokens":1.5}"#,
        r#"{"prompt_tokens":7,"completion_tokens":9007199254740994}"#,
        r#"{"prompt_tokens":7,"completion_tokens":"300"}"#,
        r#"{"prompt_tokens":7,"completion_tokens":true,"total_tokens":8}"#,
        r#"{"prompt_tokens":7,"completion_tokens":[300]}"#,
    ]
}

pub(super) fn shapes(version: &str) {
    let rig = Metered::of(version);
    let text = MISLEADING;
    for (what, sent, all, cached) in streams() {
        assert_eq!(rig.used_for(what, SSE, events(&sent)), Tokens { all, cached }, "{what}");
    }
    for (what, body, all, cached) in bodies() {
        // In small pieces: a name or a number may be in two of them.
        let parts = pieces_of(&body.to_string());
        assert_eq!(rig.used_for(what, JSON, parts), Tokens { all, cached }, "{what}");
    }
    // What a server repeats of its request neither lowers nor raises a count.
    let echo =
        json!({ "usage": { "total_tokens": 900 }, "a\"{[\\": "\\\"}]{\\", "prompt_tokens": 901 });
    let body = json!({ "a": echo, "usage": { "details": echo, "total_tokens": 59 }, "z": [echo] });
    assert_eq!(rig.charged_for("an echo", JSON, pieces_of(&body.to_string())), 59);
    let spaced =
        "\n{ \"usage\" : {\n\t\"total_tokens\" : 59 , \"a\" : [ 1 , \"}\" ] } }\n".to_owned();
    assert_eq!(rig.charged_for("spaces", JSON, pieces_of(&spaced)), 59);
    let embeddings = json!({ "meta": { "billed_units": { "input_tokens": 8 } } });
    assert_eq!(rig.charged_for("Cohere", JSON, vec![embeddings.to_string()]), 8);
    let lines = [
        json!({ "response": text, "done": false }),
        json!({ "done": true, "prompt_eval_count": 26, "eval_count": 259 }),
    ];
    let lines = lines.map(|line| format!("{line}\n")).to_vec();
    assert_eq!(rig.charged_for("lines", "application/x-ndjson", lines), 285);
    // What a client asks for beside its usage makes no report too large.
    let probabilities = "x".repeat(3 << 20);
    let meta = json!({ "meta_info": { "prompt_tokens": 5, "completion_tokens": 16, "input_token_logprobs": probabilities } });
    assert_eq!(rig.charged_for("log probabilities", SSE, events(&[meta])), 21);
    let usage = r#"{"usage":{"total_tokens":59}}"#.to_owned();
    assert_eq!(rig.charged_for("capitals", "Application/JSON; Charset=UTF-8", vec![usage]), 59);
    // Larger than any buffer of Envoy: the body is not held.
    let large = json!({ "text": "x".repeat(3 << 20), "usage": { "total_tokens": 59 } });
    assert_eq!(rig.charged_for("a large body", JSON, vec![large.to_string()]), 59);
    assert_eq!(rig.metric("tollgate_unmetered_total", ""), 0);
    assert_eq!(rig.metric("tollgate_report_problems_total", ""), 0);
}

#[test]
fn a_request_is_changed_where_the_check_returns_a_member_and_nowhere_else() {
    let rig = Metered::start();
    let whole = r#"{ "model":"m",  "big":12345678901234567890 }"#;
    rig.script(|| raw(JSON, vec!["{}".into()], true));
    assert_eq!(rig.envoy.send(&Request::post("/v1/x", whole)).status, 200);
    assert_eq!(String::from_utf8_lossy(&rig.seen.lock().unwrap().remove(0).body), whole);

    rig.script(|| raw(JSON, vec![json!({ "usage": { "total_tokens": 9 } }).to_string()], true));
    let charged = rig.charged("a request without changes", &[], || {
        assert_eq!(rig.envoy.send(&Request::post("/v1/x", whole)).status, 200);
    });
    assert_eq!(charged, 9);
    assert_eq!(String::from_utf8_lossy(&rig.seen.lock().unwrap().remove(0).body), whole);

    let options = json!({ "include_usage": true, "continuous_usage_stats": true });
    let members = [("max_tokens", json!(77)), ("stream_options", options)];
    let prompt = "x".repeat(2 << 20);
    let body = json!({ "max_tokens": 9000, "prompt": prompt, "stream_options": {} }).to_string();
    rig.script(|| raw(JSON, vec![json!({ "usage": { "total_tokens": 9 } }).to_string()], true));
    let charged = rig.charged("a changed request", &members, || {
        let request = Request::post("/v1/completions", body).header("Accept-Encoding", "gzip");
        assert_eq!(rig.envoy.send(&request).status, 200);
    });
    assert_eq!(charged, 9);
    let seen = rig.seen.lock().unwrap().remove(0);
    assert!(seen.all("accept-encoding").is_empty(), "{:?}", seen.headers);
    let sent: Json = serde_json::from_slice(&seen.body).unwrap();
    let expected = json!({
        "max_tokens": 77,
        "prompt": prompt,
        "stream_options": { "include_usage": true, "continuous_usage_stats": true },
    });
    assert_eq!(sent, expected);
}

#[test]
fn what_was_cut_is_charged_its_hold_or_what_each_event_counts() {
    cuts(CURRENT);
}

pub(super) fn cuts(version: &str) {
    let rig = Metered::of(version);
    let continuous = [("stream_options", json!({ "continuous_usage_stats": true }))];
    let part = || events(&[running(13), running(25)])[..2].to_vec();
    for (members, tokens) in [(&[][..], HELD), (&continuous[..], 36)] {
        // The upstream closes its connection.
        rig.script(move || raw(SSE, part(), false));
        let charged = rig.charged("an upstream that is gone", members, || {
            assert!(post().try_send(rig.envoy.port).is_none(), "the response has no end");
        });
        assert_eq!(charged, tokens);
        // The client closes its connection.
        let (bytes, response) = mpsc::channel();
        pieces(SSE, part(), false).into_iter().for_each(|part| bytes.send(part).unwrap());
        rig.script(move || Answer::Raw(response));
        let charged = rig.charged("a client that is gone", members, || {
            let mut stream = begin(rig.envoy.port);
            read_until(&mut stream, "\"completion_tokens\":25");
        });
        assert_eq!(charged, tokens);
        drop(bytes);
    }
    assert_eq!(rig.metric("tollgate_unmetered_total", "ending=\"cut\""), 2);
    // A server that does not know the option may count its first event, and others that count none.
    for uncounted in [json!({ "choices": [] }), json!({ "usage": null })] {
        let part = events(&[running(1), uncounted.clone(), uncounted])[..3].to_vec();
        rig.script(move || raw(SSE, part, false));
        let charged = rig.charged("an early count", &continuous, || {
            assert!(post().try_send(rig.envoy.port).is_none(), "the response has no end");
        });
        assert_eq!(charged, HELD);
    }
    let first = events(&[running(1)])[..1].to_vec();
    rig.script(move || raw(SSE, first, false));
    let charged = rig.charged("one count", &continuous, || {
        assert!(post().try_send(rig.envoy.port).is_none(), "the response has no end");
    });
    assert_eq!(charged, HELD);
    // A client resets its stream of HTTP/2.
    for (members, tokens) in [(&[][..], HELD), (&continuous[..], 36)] {
        let (bytes, response) = mpsc::channel();
        pieces(SSE, part(), false).into_iter().for_each(|part| bytes.send(part).unwrap());
        rig.script(move || Answer::Raw(response));
        let port = rig.envoy.port;
        let charged = rig.charged("a stream that is reset", members, || {
            rig.runtime.block_on(reset_after(port, "\"completion_tokens\":25"));
        });
        assert_eq!(charged, tokens);
        drop(bytes);
    }
    // The client is gone before the response begins.
    let (bytes, response) = mpsc::channel();
    let (arrived, arrival) = mpsc::channel();
    rig.script(move || {
        arrived.send(()).unwrap();
        Answer::Raw(response)
    });
    let charged = rig.charged("a client that did not wait", &continuous, || {
        let stream = begin(rig.envoy.port);
        arrival.recv_timeout(SOON).unwrap();
        drop(stream);
    });
    assert_eq!(charged, HELD);
    drop(bytes);
}

/// Sends a request over HTTP/2, and resets its stream when this text has arrived.
async fn reset_after(port: u16, text: &str) {
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://a/v1/chat/completions")
        .header("content-type", JSON)
        .body(Full::new(Bytes::from_static(b"{}")))
        .unwrap();
    let mut body = client.send_request(request).await.unwrap().into_body();
    let mut found = Vec::new();
    while !String::from_utf8_lossy(&found).contains(text) {
        let frame = body.frame().await.unwrap().unwrap();
        found.extend_from_slice(frame.data_ref().unwrap());
    }
    drop(body);
    // The connection ends when its client is dropped; until then the reset is sent.
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Sends a request and does not read the answer.
fn begin(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let request = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

pub(crate) fn read_until(stream: &mut TcpStream, text: &str) {
    let mut found = Vec::new();
    while !String::from_utf8_lossy(&found).contains(text) {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&found));
        found.extend_from_slice(&piece[..length]);
    }
}

#[test]
fn what_no_upstream_got_or_did_is_charged_nothing() {
    let rig = Metered::start();
    rig.script(|| Answer::Whole(Reply::new(400, "{}").header("content-type", JSON)));
    let charged = rig.charged("a refusal", &[], || assert_eq!(rig.envoy.send(&post()).status, 400));
    assert_eq!(charged, 0);
    // Nothing listens on the port for gRPC.
    let call = Request::post("/inference.GRPCInferenceService/ModelInfer", "")
        .without("content-type")
        .header("Content-Type", "application/grpc");
    let charged = rig.charged("no upstream", &[], || drop(rig.envoy.send(&call)));
    assert_eq!(charged, 0);
    assert_eq!(rig.metric("tollgate_unmetered_total", ""), 0);
}

#[test]
fn a_complete_response_without_usage_is_charged_its_hold_and_counted() {
    let rig = Metered::start();
    let echo = json!({ "prompt_tokens": 1, "usage": { "total_tokens": 1 }, "eval_count": 1 });
    let rows = [
        (SSE, events(&[json!({ "choices": [] })])),
        (JSON, vec![json!({ "choices": [] }).to_string()]),
        ("text/plain", vec!["\"total_tokens\": 7".to_owned()]),
        (JSON, vec![json!([{ "meta_info": { "prompt_tokens": 5 } }]).to_string()]),
        // Numbers of the client, in what a server repeats of its request.
        (JSON, vec![json!({ "choices": [], "metadata": echo }).to_string()]),
        (JSON, vec![json!({ "choices": [], "tools": [{ "parameters": echo }] }).to_string()]),
        (JSON, vec![json!({ "request": echo, "usage": null }).to_string()]),
        (JSON, vec![json!({ "usage": [echo], "x-1": { "usage": echo } }).to_string()]),
        (JSON, pieces_of(&json!({ "choices": [{ "message": { "usage": echo } }] }).to_string())),
        ("application/x-ndjson", vec![format!("{}\n", json!({ "options": echo, "done": true }))]),
    ];
    for (number, (kind, parts)) in (1..).zip(rows) {
        assert_eq!(rig.charged_for(kind, kind, parts), HELD, "{kind}");
        assert_eq!(rig.metric("tollgate_unmetered_total", "ending=\"complete\""), number);
    }
}

#[test]
fn a_value_that_is_no_count_is_charged_the_hold_in_a_body_and_in_a_stream() {
    let rig = Metered::start();
    for usage in absurd_usages() {
        let body = format!(r#"{{"usage":{usage}}}"#);
        assert_eq!(rig.charged_for(usage, JSON, pieces_of(&body)), HELD, "{usage} in a body");
        let event = vec![format!("data: {body}\n\n")];
        assert_eq!(rig.charged_for(usage, SSE, event), HELD, "{usage} in a stream");
    }
    // A usage elsewhere in the document makes no count of it.
    let twice = r#"{"usage":{"completion_tokens":"300"},"meta":{"completion_tokens":3}}"#;
    assert_eq!(rig.charged_for("twice", JSON, pieces_of(twice)), HELD);
}

#[test]
fn a_long_response_is_renewed_and_one_that_is_lost_is_charged_when_it_expires() {
    let mut rig = Metered::start();
    let left = rig.left();
    rig.reserve(Span::from_secs(5), 400, &[]);
    let (bytes, response) = mpsc::channel();
    let part = events(&[running(13)])[..1].to_vec();
    pieces(SSE, part, false).into_iter().for_each(|part| bytes.send(part).unwrap());
    rig.script(move || Answer::Raw(response));
    let mut stream = begin(rig.envoy.port);
    read_until(&mut stream, "\"completion_tokens\":13");
    let renewed = || rig.metric("tollgate_settlements_total", "result=\"renewed\"");
    let before = renewed();
    until("renewals", || (renewed() > before + 2).then_some(()));
    assert_eq!(left - rig.left(), HELD, "it is held");
    // Envoy ends without an entry.
    rig.envoy.process.kill();
    until("expiry", || (left - rig.left() == 400).then_some(()));
    drop(bytes);
}

#[test]
fn a_response_that_stalls_is_charged_as_one_that_is_cut() {
    let rig = Metered::edited(|envoy| envoy.replace("idle_timeout: 600s", "idle_timeout: 0.5s"));
    let (bytes, response) = mpsc::channel();
    let part = events(&[running(13)])[..1].to_vec();
    pieces(SSE, part, false).into_iter().for_each(|part| bytes.send(part).unwrap());
    rig.script(move || Answer::Raw(response));
    let charged = rig.charged("a stall in the response", &[], || {
        assert!(post().try_send(rig.envoy.port).is_none(), "the response has no end");
    });
    assert_eq!(charged, HELD);
    rig.script(|| Answer::Silence);
    let charged = rig.charged("a stall before the response", &[], || {
        assert_eq!(rig.envoy.send(&post()).status, 504);
    });
    assert_eq!(charged, HELD);
    assert_eq!(rig.metric("tollgate_unmetered_total", "ending=\"cut\""), 2);
}

#[test]
fn several_attempts_are_charged_once() {
    let rig = Metered::edited(|envoy| {
        let route = "- match: { prefix: / }\n                          route:\n";
        let retry = "                            retry_policy: { retry_on: 5xx, num_retries: 2 }\n";
        replace_once(envoy, route, &format!("{route}{retry}"))
    });
    let fails = || Answer::Whole(Reply::new(503, "{}").header("content-type", JSON));
    rig.script(fails);
    rig.script(|| raw(JSON, vec![json!({ "usage": { "total_tokens": 9 } }).to_string()], true));
    let charged = rig.charged("a second attempt", &[], || {
        assert_eq!(rig.envoy.send(&post()).status, 200);
    });
    assert_eq!(charged, 9);
    (0..3).for_each(|_| rig.script(fails));
    let charged = rig.charged("no attempt that works", &[], || {
        assert_eq!(rig.envoy.send(&post()).status, 503);
    });
    assert_eq!(charged, HELD);
}

#[test]
fn another_replica_settles_and_what_a_killed_one_lost_expires() {
    let mut rig = Metered::with_redis();
    let usage = vec![json!({ "usage": { "total_tokens": 59 } }).to_string()];
    assert_eq!(rig.charged_for("another replica", JSON, usage), 59);
    // The replica that gets the log ends before the response does.
    let left = rig.left();
    rig.reserve(Span::from_secs(5), 400, &[]);
    let (bytes, response) = mpsc::channel();
    let part = events(&[running(13)])[..1].to_vec();
    pieces(SSE, part, false).into_iter().for_each(|part| bytes.send(part).unwrap());
    rig.script(move || Answer::Raw(response));
    let mut stream = begin(rig.envoy.port);
    read_until(&mut stream, "\"completion_tokens\":13");
    let app = rig.app.take().unwrap();
    rig.runtime.block_on(app.stop());
    drop(bytes);
    until("expiry", || (left - rig.left() == 400).then_some(()));
}

#[test]
fn a_request_is_settled_before_its_client_sees_the_end_and_once() {
    // Whatever else the machine does, the answer comes in time.
    let time = "message_timeout: 1s";
    let rig =
        Metered::edited(|_| replace_once(ACKNOWLEDGED.to_owned(), time, "message_timeout: 30s"));
    let usage = json!({ "prompt_tokens": 11, "completion_tokens": 48, "total_tokens": 59 });
    let chat = json!({ "object": "chat.completion", "choices": [], "usage": usage });
    let chunk = json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
    for (repeated, what, kind, parts, tokens) in [
        (1, "a body", JSON, pieces_of(&chat.to_string()), 59),
        (2, "a stream", SSE, events(&[chunk.clone(), chunk]), 59),
    ] {
        let (left, settled) = (rig.left(), rig.settled());
        rig.reserve(Span::from_secs(60), HELD, &[]);
        rig.script(move || raw(kind, parts, true));
        assert_eq!(rig.envoy.send(&post()).status, 200, "{what}");
        // Nothing is waited for: the end of the response came after the settlement.
        assert_eq!(rig.settled(), settled + 1, "{what}");
        assert_eq!(left - rig.left(), tokens, "{what}");
        let is_repeated = || {
            let found = rig.metric("tollgate_settlements_total", "result=\"repeated\"");
            (found == repeated).then_some(())
        };
        until("the entry of the access log", is_repeated);
        assert_eq!(left - rig.left(), tokens, "{what}");
    }
    // What is not known at the end of a response is left to the access log.
    let rows = [(SSE, events(&[json!({ "choices": [] })])), (JSON, vec!["{}".to_owned()])];
    for (kind, parts) in rows {
        assert_eq!(rig.charged_for(kind, kind, parts), HELD, "{kind}");
    }
    let part = || events(&[running(13), running(25)])[..2].to_vec();
    let charged = rig.charged("an upstream that is gone", &[], || {
        rig.script(move || raw(SSE, part(), false));
        assert!(post().try_send(rig.envoy.port).is_none(), "the response has no end");
    });
    assert_eq!(charged, HELD);
    let large = json!({ "text": "x".repeat(3 << 20), "usage": usage });
    assert_eq!(rig.charged_for("a large body", JSON, vec![large.to_string()]), 59);
    assert_eq!(rig.metric("tollgate_report_problems_total", ""), 0);
}

#[test]
fn shapes_and_cuts_are_charged_the_same_with_external_processing() {
    let rig = Metered::edited(|_| ACKNOWLEDGED.to_owned());
    for (what, sent, tokens, _) in streams() {
        assert_eq!(rig.charged_for(what, SSE, events(&sent)), tokens, "{what}");
    }
    for (what, body, tokens, _) in bodies() {
        assert_eq!(rig.charged_for(what, JSON, pieces_of(&body.to_string())), tokens, "{what}");
    }
    assert_eq!(rig.metric("tollgate_unmetered_total", ""), 0);
}

#[test]
fn a_processor_that_is_gone_changes_nothing_for_the_client() {
    let rig = Metered::edited(|_| {
        let socket = "pipe: { path: /run/tollgate/ext-proc.sock }";
        replace_once(ACKNOWLEDGED.to_owned(), socket, "pipe: { path: /nonexistent/ext-proc.sock }")
    });
    let usage = json!({ "prompt_tokens": 11, "completion_tokens": 48, "total_tokens": 59 });
    let chat = json!({ "object": "chat.completion", "choices": [], "usage": usage });
    assert_eq!(rig.charged_for("a body", JSON, vec![chat.to_string()]), 59);
    let chunk = json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
    assert_eq!(rig.charged_for("a stream", SSE, events(&[chunk])), 59);
    assert_eq!(rig.metric("tollgate_settlements_total", "result=\"repeated\""), 0);
}
