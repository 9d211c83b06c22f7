//! Calls of `POST /v1/settle`. An input is a byte that selects the caller, and a body in which `@1` to `@4` are reservations. No call
//! fails; an entry that settles is read alike by every reader; a reporter settles requests of its routes only; and a call that is sent
//! again settles nothing for the second time.
#![no_main]

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tollgate::{
    adapter::settle_api::{MAX_BODY, PATH, SettleApi},
    config::{self, ReporterConfig},
    engine::Engine,
    observe,
};
use tollgate_core::{
    credential::api_key::KeyDigest,
    limit::{
        BucketId, Counter, Hold,
        counters::{MOST, REMEMBERED},
        reservation::{Reservation, ReservationId},
    },
    time::{Span, Timestamp},
};
use tollgate_fuzz::json::{Reading, Tree};

const CONFIG: &str = "
audit: { to: none }
listen: { settle: { address: 'unix:/nonexistent/settle.sock' } }
metering: { secrets: [0123456789abcdef0123456789abcdef] }
routes: [{ match: { paths: [/a] }, public: true }]
";

const TOKEN: &str = "Bearer a-token-of-a-reporter-0123456789";

/// The calls after which an engine is replaced, as it remembers what was settled.
const CALLS: u64 = 500;

static SIDECAR: Mutex<Option<Sidecar>> = Mutex::new(None);

/// An engine, and what ends with it.
struct Sidecar {
    engine: Engine,
    /// Its tasks end with their runtime.
    runtime: Runtime,
    calls: u64,
}

impl Sidecar {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let loaded = config::compile(CONFIG, &|_| None).expect("a configuration");
        let engine = {
            let _runtime = runtime.enter();
            Engine::start(loaded, Arc::new(observe::now)).expect("an engine")
        };
        Self { engine, runtime, calls: 0 }
    }
}

/// The routes of the reservations `@1` to `@4`. The last one is older than the store remembers.
const ROUTES: [Option<&str>; 4] = [Some("chat"), Some("embeddings"), None, Some("chat")];
const OLD: usize = 3;

fn reservation(call: u64, index: usize) -> Reservation {
    let now = observe::now();
    let age = if index == OLD { REMEMBERED.micros() } else { 0 };
    let ends = Timestamp::from_secs(now.secs() + 3600);
    let hold = |limit: &str, counter, amount| Hold {
        limit: limit.into(),
        counter_id: BucketId::of(limit),
        counter,
        amount,
        unreported: amount,
        by_principal: true,
        is_shadow: false,
    };
    Reservation {
        id: ReservationId((u128::from(call) << 8 | index as u128).to_be_bytes()),
        issued: Timestamp::from_micros(now.micros() - age),
        life: Span::from_secs(60),
        histories: None,
        shard: None,
        route: ROUTES[index].map(Box::from),
        facts: None,
        cost: None,
        holds: vec![
            hold("day", Counter::Budget { limit: 1000, ends }, 10),
            hold("minute", Counter::Bucket { interval: 1000, burst: 1000 }, 10),
            hold("slots", Counter::Slots { limit: 9 }, 1),
        ],
    }
}

fn send(runtime: &Runtime, api: &SettleApi, body: &[u8], token: Option<&str>) -> (u16, Value) {
    let mut request = Request::post(PATH).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
    runtime.block_on(async {
        let answer = api.answer(request).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    })
}

fn results(answer: &Value) -> Vec<&str> {
    let list = answer["results"].as_array().expect("a list");
    list.iter().map(|result| result["result"].as_str().expect("a name")).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((&caller, body)) = input.split_first() else { return };
    let mut state = SIDECAR.lock().unwrap_or_else(PoisonError::into_inner);
    if state.as_ref().is_none_or(|sidecar| sidecar.calls == CALLS) {
        *state = Some(Sidecar::start());
    }
    let Some(Sidecar { engine, runtime, calls }) = state.as_mut() else { return };
    *calls += 1;
    let _runtime = runtime.enter();
    let keys = engine.settler().keys().expect("the secret");
    let texts: [String; 4] = std::array::from_fn(|at| reservation(*calls, at).seal(&keys));
    let mut body = String::from_utf8_lossy(body).into_owned();
    for (at, text) in texts.iter().enumerate() {
        body = body.replace(&format!("@{}", at + 1), text);
    }
    if body.len() > MAX_BODY {
        return;
    }
    let is_bound = caller % 2 == 1;
    let reporter = ReporterConfig {
        name: "a".into(),
        digest: KeyDigest::of(TOKEN.trim_start_matches("Bearer ").as_bytes()),
        routes: vec!["chat".into()],
        every_route: false,
    };
    let reporters = Arc::new(if is_bound { vec![reporter] } else { Vec::new() });
    let settler = Arc::clone(engine.settler());
    let api = SettleApi::new(settler, move || Arc::clone(&reporters), true);
    if is_bound {
        assert_eq!(send(runtime, &api, body.as_bytes(), None).0, 401);
    }
    let (status, answer) = send(runtime, &api, body.as_bytes(), Some(TOKEN));
    if status != 200 {
        assert_eq!(status, 400, "{answer}");
        return;
    }
    let first = results(&answer);
    // An entry with a text or a number that serde_json has no value for is refused alone.
    if let Ok(tree) = serde_json::from_str::<Tree>(&body) {
        let [entries, last] =
            [Reading::First, Reading::Last].map(|reading| tree.get("entries", reading));
        assert_eq!(entries, last);
        let entries = entries.expect("a member of this name").elements();
        assert_eq!(entries.len(), first.len());
        let settled = |at: &String| {
            let of = entries.iter().zip(&first).filter(|(entry, _)| names(entry, at));
            of.filter(|(_, result)| **result == "settled").count()
        };
        assert!(texts.iter().all(|text| settled(text) <= 1));
        for (entry, result) in entries.iter().zip(&first) {
            entry_has(entry, result, &texts, is_bound);
        }
    }
    for result in answer["results"].as_array().expect("a list") {
        let is_settled = result["result"] == "settled";
        assert!(!is_settled || result["tokens"].as_u64().is_some_and(|tokens| tokens <= MOST));
    }
    // Sent again, as after an answer that was lost.
    let (status, answer) = send(runtime, &api, body.as_bytes(), Some(TOKEN));
    assert_eq!(status, 200);
    for (before, after) in first.iter().zip(results(&answer)) {
        let expected: &[&str] = match *before {
            "settled" => &["duplicate"],
            "renewed" => &["renewed", "duplicate"],
            other => &[other],
        };
        assert!(expected.contains(&after), "{before}, then {after}");
    }
});

/// Whether an entry is about a reservation, to a reader of the first and to one of the last member.
fn names(entry: &Tree, text: &str) -> bool {
    let is_text = |reading| entry.get("reservation", reading).and_then(Tree::text) == Some(text);
    is_text(Reading::First) && is_text(Reading::Last)
}

/// Asserts that an entry may have its result.
fn entry_has(entry: &Tree, result: &str, texts: &[String; 4], is_bound: bool) {
    let place = texts.iter().position(|text| names(entry, text));
    let ending = [Reading::First, Reading::Last].map(|reading| entry.get("ending", reading));
    if result != "invalid" {
        assert_eq!(ending[0], ending[1]);
        let ending = ending[0].and_then(Tree::text);
        assert!(matches!(ending, Some("running" | "complete" | "cut" | "not_sent")), "{ending:?}");
    }
    match result {
        "invalid" => {}
        "unknown" => assert_eq!(place, None),
        "foreign" => assert!(is_bound && matches!(place, Some(1 | 2))),
        "expired" => assert_eq!(place, Some(OLD)),
        "settled" | "renewed" | "duplicate" => {
            assert!(place == Some(0) || (!is_bound && matches!(place, Some(1 | 2))), "{place:?}");
        }
        other => panic!("{other}"),
    }
}
