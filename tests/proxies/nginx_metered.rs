//! The usage of responses through a real nginx with deploy/nginx/njs-metered.conf: it reaches
//! Tollgate once, whatever happens to the response, and is charged as behind Envoy.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::{Ipv4Addr, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tollgate_core::credential::api_key::KeyDigest;

use super::proxy_rig::{Kind, ProxyRig};
use crate::{
    e2e::settlement::{
        JSON, SSE, Tokens, absurd_usages, bodies, events, pieces, pieces_of, raw, read_until,
        running, streams,
    },
    rig::{
        http::{Answer, Reply, Request, Server},
        redis::Redis,
        replace_once,
        tollgate::Tollgate,
        until,
    },
};

/// The tokens of the budget, never used up.
const BUDGET: u64 = 1_000_000;

/// The scopes of both models.
const SCOPES: &str = "infer:text model:qwen:inference model:counting:inference";

/// A policy with this limit. A request holds its bound for as long as `life` without a report.
fn policy(limit: &str, life: &str) -> String {
    format!(
        r#"
metering: {{ secrets: [0123456789abcdef0123456789abcdef], life: {life} }}
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: {{ file: "${{DIR}}/jwks.json" }}
models:
  - {{ name: qwen, serves: [qwen], context: 4096, max_output: 512 }}
  - {{ name: counting, serves: [counting], context: 4096, max_output: 512, usage: continuous }}
limits:
  - {{ name: limited, by: [subject], {limit} }}
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions] }}
    name: chat
    scopes: [infer:text]
    model: {{ from: body, scope: "model:{{model}}:inference" }}
    limits: [limited]
  - match: {{ paths: [/health] }}
    name: public
    public: true
"#
    )
}

/// What the upstream does with its next request.
type Script = Box<dyn FnOnce(&Request) -> Answer + Send>;

struct Metered {
    rig: ProxyRig,
    next: Arc<Mutex<VecDeque<Script>>>,
    seen: Arc<Mutex<Vec<Request>>>,
    token: String,
}

impl Metered {
    fn start(limit: &str) -> Self {
        Self::with(&policy(limit, "60s"), |config| config)
    }

    fn with(policy: &str, edit: impl FnOnce(String) -> String) -> Self {
        let next = Arc::new(Mutex::new(VecDeque::<Script>::new()));
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (scripts, record) = (Arc::clone(&next), Arc::clone(&seen));
        let upstream = Server::start(move |request| {
            if request.path == "/health" {
                return Answer::Whole(Reply::new(200, "ok"));
            }
            record.lock().unwrap().push(request.clone());
            let script = scripts.lock().unwrap().pop_front();
            // Without a script a server refuses, which is charged nothing.
            script.map_or_else(refusal, |script| script(&request))
        });
        let rig = ProxyRig::build(Kind::NjsMetered, policy, Some(upstream.port), edit);
        let token = rig.issuer.token(json!({ "scope": SCOPES }));
        Self { rig, next, seen, token }
    }

    /// As [`with`](Self::with), with a master and two workers.
    fn with_workers(policy: &str, edit: impl FnOnce(String) -> String) -> Self {
        Self::with(policy, |config| {
            let alone = "worker_processes 1; master_process off;";
            edit(replace_once(config, alone, "worker_processes 2; user root;"))
        })
    }

    fn script(&self, script: impl FnOnce(&Request) -> Answer + Send + 'static) {
        self.next.lock().unwrap().push_back(Box::new(script));
    }

    fn request(&self, body: &Value) -> Request {
        Request::post("/v1/chat/completions", body.to_string()).bearer(&self.token)
    }

    /// A request of a model.
    fn chat(&self, model: &str, is_streamed: bool) -> Request {
        self.request(&json!({ "model": model, "stream": is_streamed, "messages": [] }))
    }

    fn settled(&self) -> f64 {
        self.rig.tollgate.metric("tollgate_settlements_total", &["result=\"charged\""])
    }

    /// What is left of the limit, beside what the request itself holds.
    fn left(&self) -> u64 {
        let settled = self.settled();
        let reply = self.rig.send(&self.chat("qwen", false));
        assert_eq!(reply.status, 400, "{}", reply.text());
        self.until_settled(settled + 1.0);
        reply.one("x-ratelimit-remaining-tokens").unwrap().parse().unwrap()
    }

    fn until_settled(&self, count: f64) {
        self.rig.tollgate.until_metric(
            "tollgate_settlements_total",
            &["result=\"charged\""],
            count,
        );
    }

    /// Runs `request`, and returns what it was charged.
    fn charged(&self, request: impl FnOnce()) -> u64 {
        let (left, settled) = (self.left(), self.settled());
        request();
        self.until_settled(settled + 1.0);
        left - self.left()
    }

    /// Sends a request whose answer is this, and returns what it was charged.
    fn charged_for(&self, what: &str, kind: &'static str, parts: Vec<String>) -> u64 {
        self.charged(|| {
            self.script(move |_| raw(kind, parts, true));
            let reply = self.rig.send(&self.chat("qwen", kind == SSE));
            assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        })
    }

    /// Sends a request whose answer is this, and returns what was settled.
    fn used_for(&self, what: &str, kind: &'static str, parts: Vec<String>) -> Tokens {
        let count = || {
            let label = "kind=\"cached\"";
            self.rig.tollgate.metric("tollgate_settled_tokens_total", &[label])
        };
        let before = count();
        let all = self.charged_for(what, kind, parts);
        // Counted with the settlement of the probe behind it.
        Tokens { all, cached: format!("{}", count() - before).parse().unwrap() }
    }

    /// Begins a request on a connection of its own.
    fn begin(&self, model: &str) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.rig.port)).unwrap();
        stream.set_read_timeout(Some(crate::rig::SOON)).unwrap();
        stream.write_all(&self.chat(model, true).bytes()).unwrap();
        stream
    }

    fn unmetered(&self, ending: &str) -> f64 {
        let label = format!("ending=\"{ending}\"");
        self.rig.tollgate.metric("tollgate_unmetered_total", &[&label])
    }

    /// Waits until this many requests were charged because no report came.
    fn until_expired(&self, count: f64) {
        self.rig.tollgate.until_metric("tollgate_reservations_expired_total", &[], count);
    }
}

fn refusal() -> Answer {
    Answer::Whole(Reply::new(400, "{}").header("content-type", JSON))
}

#[test]
fn a_complete_response_is_charged_its_usage_in_every_shape() {
    let rig = Metered::start(&format!("tokens: {BUDGET}/day"));
    for (what, sent, all, cached) in streams() {
        let tokens = Tokens { all, cached };
        assert_eq!(rig.used_for(what, SSE, events(&sent)), tokens, "{what}");
        let text = events(&sent).concat();
        for ends in ["\r\n", "\r"] {
            let parts = pieces_of(&text.replace('\n', ends));
            assert_eq!(rig.used_for(what, SSE, parts), tokens, "{what} {ends:?}");
        }
    }
    for (what, body, all, cached) in bodies() {
        let parts = pieces_of(&body.to_string());
        assert_eq!(rig.used_for(what, JSON, parts), Tokens { all, cached }, "{what}");
    }
    // What a server repeats of its request neither lowers nor raises a count.
    let echo =
        json!({ "usage": { "total_tokens": 900 }, "a\"{[\\": "\\\"}]{\\", "prompt_tokens": 901 });
    let body = json!({ "a": echo, "usage": { "details": echo, "total_tokens": 59 }, "z": [echo] });
    assert_eq!(rig.charged_for("an echo", JSON, pieces_of(&body.to_string())), 59);
    // A long event is read whole: its end may have the usage.
    let text = json!({ "choices": [{ "delta": { "content": "x".repeat(3 << 20) } }] });
    assert_eq!(rig.charged_for("a long event", SSE, events(&[text, running(48)])), 59);
    // Long documents are read at their end.
    let vector = vec![0.123_456; 60_000];
    let large = json!({ "data": vector, "e": echo, "usage": { "total_tokens": 59 }, "z": echo });
    assert_eq!(rig.charged_for("a large body", JSON, vec![large.to_string()]), 59);
    let timings = json!({ "cache_n": 1, "prompt_n": 2, "predicted_n": 8 });
    let large = json!({ "content": "é".repeat(300_000), "timings": timings });
    assert_eq!(rig.charged_for("a long text", JSON, pieces_of_size(&large, 4097)), 11);
    let lines = [
        json!({ "response": "the \"eval_count\":999", "done": false }),
        json!({ "done": true, "prompt_eval_count": 26, "eval_count": 259 }),
    ];
    let lines = lines.map(|line| format!("{line}\n")).concat();
    assert_eq!(rig.charged_for("lines", "application/x-ndjson", pieces_of(&lines)), 285);
    let usage = r#"{"usage":{"total_tokens":59}}"#.to_owned();
    assert_eq!(rig.charged_for("capitals", "Application/JSON; Charset=UTF-8", vec![usage]), 59);
    assert_eq!(rig.unmetered("complete"), 0.0);
    assert_eq!(rig.rig.tollgate.metric("tollgate_report_problems_total", &[]), 0.0);
}

fn pieces_of_size(document: &Value, size: usize) -> Vec<String> {
    // The pieces are of ASCII: a text may be cut anywhere.
    let text = document.to_string().replace('é', "\\u00e9");
    text.as_bytes().chunks(size).map(|part| String::from_utf8(part.to_vec()).unwrap()).collect()
}

#[test]
fn a_request_is_capped_and_its_reservation_reaches_nobody() {
    let rig = Metered::start(&format!("tokens: {BUDGET}/day"));
    let usage = json!({ "usage": { "total_tokens": 9 } }).to_string();
    let answer = usage.clone();
    rig.script(move |_| raw(JSON, vec![answer], true));
    let body = json!({ "model": "qwen", "messages": [{ "role": "user", "content": "Grüße \u{1f600}" }], "max_tokens": 9000, "logit_bias": { "17": -100, "5": 0.25 }, "__proto__": { "a": null } });
    let forged = rig.request(&body).header("X-Tollgate-Reservation", "forged");
    assert_eq!(rig.rig.send(&forged).verdict(), (400, "malformed_request".to_owned()));
    let reply = rig.rig.send(&rig.request(&body).header("Accept-Encoding", "gzip"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        !reply.headers.iter().any(|(name, value)| name.contains("reserv") || value.len() > 500)
    );
    let seen = rig.seen.lock().unwrap().pop().unwrap();
    let has = |(name, value): &(String, String)| {
        name.to_lowercase().contains("reserv") || value.len() > 2000
    };
    assert!(!seen.headers.iter().any(has), "{:?}", seen.headers);
    assert!(seen.all("accept-encoding").is_empty(), "{:?}", seen.headers);
    assert_eq!(seen.all("content-type"), ["application/json"]);
    assert_eq!(seen.all("x-tollgate-subject"), ["alice"]);
    assert!(seen.all("authorization").is_empty(), "{:?}", seen.headers);
    let mut expected = body.clone();
    expected["max_tokens"] = 512.into();
    assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap(), expected);

    // A stream is asked for its usage. A body beyond nginx's buffer is changed as well.
    let answer = usage.clone();
    rig.script(move |_| raw(SSE, vec![format!("data: {answer}\n\n")], true));
    let image = format!("data:image/png;base64,{}", "A".repeat(2 << 20));
    let body = json!({ "model": "counting", "stream": true, "max_tokens": 7, "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": image } }] }] });
    assert_eq!(rig.rig.send(&rig.request(&body)).status, 200);
    let seen = rig.seen.lock().unwrap().pop().unwrap();
    let mut expected = body.clone();
    expected["stream_options"] = json!({ "include_usage": true, "continuous_usage_stats": true });
    assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap(), expected);

    // Nothing to write: the bytes are the client's.
    rig.script(move |_| raw(JSON, vec![usage], true));
    let whole = r#"{ "model":"qwen",  "messages":[], "max_tokens" : 7 }"#;
    let request = Request::post("/v1/chat/completions", whole).bearer(&rig.token);
    assert_eq!(rig.rig.send(&request).status, 200);
    let seen = rig.seen.lock().unwrap().pop().unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.body), whole);
    rig.until_settled(3.0);
}

#[test]
fn what_was_cut_is_charged_its_hold_or_what_each_event_counts() {
    let rig = Metered::start(&format!("tokens: {BUDGET}/day"));
    let held_by_probe = BUDGET - rig.left();
    let held = |model: &str| {
        let (left, settled) = (rig.left(), rig.settled());
        let reply = rig.rig.send(&rig.chat(model, true));
        rig.until_settled(settled + 1.0);
        let rest: u64 = reply.one("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        left + held_by_probe - rest
    };
    let part = || events(&[running(13), running(25)])[..2].to_vec();
    for model in ["qwen", "counting"] {
        let expected = if model == "counting" { 36 } else { held(model) };
        // The upstream closes its connection.
        let charged = rig.charged(|| {
            rig.script(move |_| raw(SSE, part(), false));
            let mut stream = rig.begin(model);
            read_until(&mut stream, "\"completion_tokens\":25");
            until("its end", || {
                let mut piece = [0; 512];
                (std::io::Read::read(&mut stream, &mut piece).unwrap_or(0) == 0).then_some(())
            });
        });
        assert_eq!(charged, expected, "{model}: the server is gone");
        // The client closes its connection.
        let (bytes, response) = mpsc::channel();
        pieces(SSE, part(), false).into_iter().for_each(|part| bytes.send(part).unwrap());
        let charged = rig.charged(|| {
            rig.script(move |_| Answer::Raw(response));
            let mut stream = rig.begin(model);
            read_until(&mut stream, "\"completion_tokens\":25");
        });
        assert_eq!(charged, expected, "{model}: the client is gone");
        drop(bytes);
    }
    assert_eq!(rig.unmetered("cut"), 2.0);
    let expected = held("qwen");
    // The client is gone before the response begins.
    let (arrived, arrival) = mpsc::channel();
    let charged = rig.charged(|| {
        rig.script(move |_| {
            arrived.send(()).unwrap();
            Answer::Silence
        });
        let stream = rig.begin("qwen");
        arrival.recv_timeout(crate::rig::SOON).unwrap();
        drop(stream);
    });
    assert_eq!(charged, expected);
    // The server closes its connection instead of an answer.
    let charged = rig.charged(|| {
        rig.script(|_| Answer::Raw(mpsc::channel().1));
        assert_eq!(rig.rig.send(&rig.chat("qwen", true)).status, 502);
    });
    assert_eq!(charged, expected);
    // A complete response without usage.
    assert_eq!(rig.charged_for("no usage", SSE, events(&[json!({ "choices": [] })])), expected);
    assert_eq!(rig.unmetered("complete"), 1.0);
    // A server refuses, and works on nothing.
    assert_eq!(rig.charged(|| assert_eq!(rig.rig.send(&rig.chat("qwen", true)).status, 400)), 0);
}

/// A count that no response has lowers no charge.
#[test]
fn absurd_counts_and_members_lower_nothing() {
    let rig = Metered::start(&format!("tokens: {BUDGET}/day"));
    let of_stream = rig.charged_for("no usage", SSE, events(&[json!({ "choices": [] })]));
    let of_body = rig.charged_for("no usage", JSON, vec!["{}".to_owned()]);
    assert!(of_stream > 100 && of_body > 100, "{of_stream}, {of_body}");
    for usage in absurd_usages() {
        let body = format!(r#"{{"usage":{usage}}}"#);
        let charged = rig.charged_for(usage, JSON, vec![body.clone()]);
        assert_eq!(charged, of_body, "{usage} in a body");
        let charged = rig.charged_for(usage, SSE, vec![format!("data: {body}\n\n")]);
        assert_eq!(charged, of_stream, "{usage} in a stream");
    }
    // A usage elsewhere in the document makes no count of it.
    let twice = r#"{"usage":{"completion_tokens":"300"},"meta":{"completion_tokens":3}}"#;
    assert_eq!(rig.charged_for("twice", JSON, pieces_of(twice)), of_body);
    // A member beside the counts is no reason to lose the report.
    let large = json!({ "index": "x".repeat(200_000), "usage": { "total_tokens": 59 } });
    let parts = pieces_of_size(&large, 4097);
    let event = [vec!["data: ".to_owned()], parts, vec!["\n\n".to_owned()]].concat();
    assert_eq!(rig.charged_for("a large index", SSE, event), 59);
}

/// A report that Tollgate refuses for good is found, and dropped: here its text is no JSON.
#[test]
fn a_report_that_is_refused_holds_up_no_other_one() {
    const POISON: &str = "function poison(r) {
    ngx.shared.tollgate_reports.set('!', 'poison');
    r.return(204);
}
export default { poison };
";
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("poison.js");
    std::fs::write(&module, POISON).unwrap();
    let rig = Metered::with(&policy(&format!("tokens: {BUDGET}/day"), "60s"), |config| {
        let import = "    js_import metering from metering.js;";
        let poison = format!("{import}\n    js_import poison from {};", module.display());
        let config = replace_once(config, import, &poison);
        let location = "        location @too_large {";
        let poison = "        location = /poison { js_content poison.poison; }\n";
        replace_once(config, location, &format!("{poison}{location}"))
    });
    for _ in 0..3 {
        assert_eq!(rig.rig.send(&Request::get("/poison")).status, 204);
        assert_eq!(rig.charged_for("beside it", SSE, events(&[running(48)])), 59);
    }
    until("the refusal", || rig.rig.log().contains("refused a call with 1 reports").then_some(()));
}

#[test]
fn what_no_server_got_is_charged_nothing() {
    let port = crate::rig::free_port();
    let rig = Metered::with(&policy("concurrent: 1", "60s"), |config| {
        let location = "        location @too_large {";
        let nowhere = format!(
            "        location /v1/ {{ js_access metering.check; error_page 418 = @gone; proxy_pass http://127.0.0.1:{port}; }}\n        location @gone {{ js_body_filter metering.read buffer_type=buffer; proxy_pass http://127.0.0.1:{port}; }}\n"
        );
        replace_once(config, location, &format!("{nowhere}{location}"))
    });
    for settled in 1..4 {
        let reply = rig.rig.send(&rig.chat("qwen", false));
        assert_eq!(reply.status, 502, "the place is free again: {}", reply.text());
        rig.until_settled(f64::from(settled));
    }
    assert!(rig.seen.lock().unwrap().is_empty());
}

/// A stream in a thread, in the hands of the test.
fn stream(rig: &Metered) -> (JoinHandle<Option<Reply>>, mpsc::Sender<String>) {
    let (sender, events) = mpsc::channel();
    rig.script(move |_| Answer::Events(events));
    let (request, port) = (rig.chat("qwen", true), rig.rig.port);
    let before = rig.seen.lock().unwrap().len();
    let reply = std::thread::spawn(move || request.try_send(port));
    until("the stream", || (rig.seen.lock().unwrap().len() > before).then_some(()));
    (reply, sender)
}

#[test]
fn a_place_is_renewed_while_a_response_arrives_and_free_when_it_has_ended() {
    let rig = Metered::with(&policy("concurrent: 1", "5s"), |config| config);
    let (reply, events) = stream(&rig);
    let tollgate = &rig.rig.tollgate;
    until("renewals for longer than the life of a reservation", || {
        let renewed = tollgate.metric("tollgate_settlements_total", &["result=\"renewed\""]);
        (renewed >= 20.0).then_some(())
    });
    assert_eq!(rig.rig.send(&rig.chat("qwen", false)).verdict().1, "too_many_in_flight");
    drop(events);
    assert_eq!(reply.join().unwrap().unwrap().status, 200);
    rig.until_settled(1.0);
    assert_eq!(rig.rig.send(&rig.chat("qwen", false)).status, 400);
    // The other endings free the place, too.
    rig.until_settled(2.0);
    let before = rig.seen.lock().unwrap().len();
    rig.script(|_| Answer::Silence);
    let client = rig.begin("qwen");
    until("the request", || (rig.seen.lock().unwrap().len() > before).then_some(()));
    drop(client);
    rig.until_settled(3.0);
    assert_eq!(rig.rig.send(&rig.chat("qwen", false)).status, 400);
}

#[test]
fn reports_survive_an_outage_of_tollgate_and_are_charged_once() {
    let redis_dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(redis_dir.path());
    let limit = format!("tokens: {BUDGET}/day");
    let store = redis.store().replace("${DIR}", redis_dir.path().to_str().unwrap());
    let config = format!("{}{store}", policy(&limit, "600s"));
    let mut rig = Metered::with(&config, |config| config);
    let left = rig.left();
    let (reply, events) = stream(&rig);
    rig.rig.tollgate.process.kill();
    events.send(running(48).to_string()).unwrap();
    drop(events);
    assert_eq!(reply.join().unwrap().unwrap().status, 200);
    until("a report that is not taken", || {
        rig.rig.log().contains("reports are sent again").then_some(())
    });
    // The next one appends to the log, in which its addresses are looked up.
    std::fs::remove_file(rig.rig.dir.path().join("tollgate.err")).unwrap();
    let text = std::fs::read_to_string(&rig.rig.tollgate.config).unwrap();
    rig.rig.tollgate = Tollgate::start(rig.rig.dir.path(), &text);
    rig.until_settled(1.0);
    assert_eq!(left - rig.left(), 59);
    let repeated = rig.rig.tollgate.metric("tollgate_settlements_total", &["result=\"repeated\""]);
    assert_eq!(repeated, 0.0);
}

#[test]
fn a_reporter_with_a_token_settles_the_requests_of_its_routes() {
    const TOKEN: &str = "reporter-token-of-the-end-to-end-tests-0123456789";
    for (routes, problem) in [("routes: [chat]", None), ("routes: [public]", Some("foreign"))] {
        let policy = policy(&format!("tokens: {BUDGET}/day"), "60s");
        let digest = serde_json::to_value(KeyDigest::of(TOKEN.as_bytes())).unwrap();
        let reporters = format!("reporters: [{{ name: nginx, digest: {digest}, {routes} }}]");
        let rig = Metered::with(&policy, |config| {
            let unset = "js_var $tollgate_settle_token \"\"";
            replace_once(config, unset, &format!("js_var $tollgate_settle_token \"{TOKEN}\""))
        });
        // The listener of the rig has no reporters: they come with a reload.
        let text = std::fs::read_to_string(&rig.rig.tollgate.config).unwrap();
        let listener = "address: \"unix:${DIR}/settle.sock\"";
        let text = replace_once(text, listener, &format!("{listener}, {reporters}"));
        rig.rig.tollgate.rewrite(rig.rig.dir.path(), &text);
        until("the reload", || {
            rig.rig.tollgate.process.err().contains("configuration reloaded").then_some(())
        });
        let reply = rig.rig.send(&rig.chat("qwen", false));
        assert_eq!(reply.status, 400);
        let Some(problem) = problem else {
            rig.until_settled(1.0);
            continue;
        };
        let label = format!("problem=\"{problem}\"");
        rig.rig.tollgate.until_metric("tollgate_report_problems_total", &[&label], 1.0);
        assert_eq!(rig.settled(), 0.0);
    }
}

/// What the workers know together outlives them: an old worker ends its stream, and any worker
/// sends the report.
#[test]
fn a_reload_of_nginx_loses_no_report() {
    let rig = Metered::with_workers(&policy(&format!("tokens: {BUDGET}/day"), "60s"), |it| it);
    let (left, settled) = (rig.left(), rig.settled());
    let (reply, events) = stream(&rig);
    let old = rig.rig.proxy.children();
    rig.rig.proxy.signal(Signal::SIGHUP);
    until("two new workers", || {
        (rig.rig.proxy.children().iter().filter(|id| !old.contains(id)).count() == 2).then_some(())
    });
    events.send(running(48).to_string()).unwrap();
    drop(events);
    assert_eq!(reply.join().unwrap().unwrap().status, 200);
    rig.until_settled(settled + 1.0);
    assert_eq!(left - rig.left(), 59);
    until("the end of the old workers", || (rig.rig.proxy.children().len() == 2).then_some(()));
}

/// The reports of a worker that was killed are those of no one: what its requests hold is charged.
#[test]
fn a_request_of_a_worker_that_was_killed_is_charged_its_hold() {
    let rig = Metered::with_workers(&policy(&format!("tokens: {BUDGET}/day"), "5s"), |config| {
        replace_once(config, "tollgate_open:16m timeout=600s", "tollgate_open:16m timeout=1s")
    });
    let left = rig.left();
    let (reply, events) = stream(&rig);
    let held = left - rig.left();
    assert!(held >= 512, "{held}");
    for worker in rig.rig.proxy.children() {
        kill(worker, Signal::SIGKILL).unwrap();
    }
    drop(events);
    let cut = reply.join().unwrap();
    assert!(cut.is_none_or(|reply| reply.body.is_empty()));
    rig.until_expired(1.0);
    assert_eq!(left - rig.left(), held);
}

/// Requests are answered and charged when nothing takes their reports any more.
#[test]
fn a_full_dictionary_of_reports_charges_holds() {
    let rig = Metered::with(&policy(&format!("tokens: {BUDGET}/day"), "5s"), |config| {
        let config = replace_once(config, "tollgate_reports:16m", "tollgate_reports:32k");
        replace_once(config, "settle.sock:/v1/settle", "nowhere.sock:/v1/settle")
    });
    until("a report that finds no room", || {
        assert_eq!(rig.rig.send(&rig.chat("qwen", false)).status, 400);
        rig.rig.log().contains("a report is lost").then_some(())
    });
    rig.until_expired(1.0);
}

/// A small run of the kind of `make bench-accuracy`: clients at once, some of which disconnect.
#[test]
fn many_clients_are_charged_what_their_server_counts() {
    let rig = Metered::start(&format!("tokens: {BUDGET}/day"));
    let left = rig.left();
    // A cut response is charged at least what the server counted, and at most what is held.
    let (complete, cut) = (Mutex::new(0), Mutex::new(0));
    const CLIENTS: u64 = 6;
    const REQUESTS: u64 = 8;
    // The server counts by the number that a client names as `max_tokens`.
    for _ in 0..CLIENTS * REQUESTS {
        rig.script(move |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let usage = json!({ "prompt_tokens": 3, "completion_tokens": body["max_tokens"] });
            if body["stream"] != true {
                return raw(JSON, vec![json!({ "usage": usage }).to_string()], true);
            }
            let all = events(&[json!({ "choices": [{}] }), json!({ "usage": usage })]);
            match body["user"] == "leaves" {
                true => raw(SSE, all[..1].to_vec(), false),
                false => raw(SSE, all, true),
            }
        });
    }
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (rig, complete, cut) = (&rig, &complete, &cut);
            scope.spawn(move || {
                for number in 0..REQUESTS {
                    let tokens = client * REQUESTS + number + 1;
                    let leaves = number % 4 == 3;
                    let body = json!({ "model": "qwen", "messages": [], "stream": number % 2 == 1, "max_tokens": tokens, "user": if leaves { "leaves" } else { "stays" } });
                    let reply = rig.request(&body).try_send(rig.rig.port);
                    if leaves {
                        *cut.lock().unwrap() += tokens + 3;
                    } else {
                        assert_eq!(reply.unwrap().status, 200);
                        *complete.lock().unwrap() += tokens + 3;
                    }
                }
            });
        }
    });
    rig.until_settled((CLIENTS * REQUESTS + 1) as f64);
    let charged = left - rig.left();
    let (complete, cut) = (complete.into_inner().unwrap(), cut.into_inner().unwrap());
    let holds = CLIENTS * REQUESTS / 4 * 800;
    assert!(charged >= complete + cut, "{charged} of {complete} and {cut}");
    assert!(charged <= complete + cut + holds, "{charged} of {complete} and {cut}");
    assert_eq!(rig.unmetered("cut"), (CLIENTS * REQUESTS / 4) as f64);
    assert_eq!(rig.unmetered("complete"), 0.0);
}
