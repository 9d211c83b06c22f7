//! A clock that steps by an hour: an engine whose clock the test sets.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use serde_json::json;
use tokio::runtime::Runtime;
use tollgate::{
    config,
    engine::{
        Engine,
        check::{Answer as Decided, CheckAnswer},
    },
    observe,
};
use tollgate_core::{
    request::{Headers, RawBody, RawRequest},
    time::Timestamp,
};

use super::{
    rig::{ISSUER, POLICY},
    row::{Answer, Metric, Observed, Row, Verified},
};
use crate::{
    rig::{
        issuer::{Issuer, now},
        until,
    },
    store::redis_server,
};

const HOUR: i64 = 3600;

const SHORT: &str = "a token that ends in ten minutes";
const LONG: &str = "a token that was issued two hours ago and ends in two hours";
const NEW: &str = "a token that was issued now";
const LIMITED: &str = "a request beyond its limit";

const LIMIT_HOLDS: Answer =
    Answer { to: LIMITED, status: 429, reason: "rate_limited", headers: &[] };

pub(super) const AHEAD: Row = Row {
    condition: "the clock is an hour ahead",
    answers: &[
        Answer { to: SHORT, status: 401, reason: "expired", headers: &[] },
        Answer { to: LONG, status: 200, reason: "", headers: &[] },
        LIMIT_HOLDS,
    ],
    metrics: &[Metric::at_least("tollgate_checks_total", &["reason=\"expired\""], 1.0)],
    log: &[],
    audit: &["\"reason\":\"expired\"...\"cause\":"],
    recovery: "with the clock; limits use Redis' time, or a clock that never steps",
    recovered: &[],
};

pub(super) const BEHIND: Row = Row {
    condition: "the clock is an hour behind",
    answers: &[
        Answer { to: NEW, status: 401, reason: "not_yet_valid", headers: &[] },
        Answer { to: LONG, status: 200, reason: "", headers: &[] },
        LIMIT_HOLDS,
    ],
    metrics: &[Metric::at_least("tollgate_checks_total", &["reason=\"not_yet_valid\""], 1.0)],
    log: &[],
    audit: &["\"reason\":\"not_yet_valid\"...\"cause\":"],
    recovery: "the same; a refusal of a limit lasts no longer than without the step",
    recovered: &[],
};

/// A reply in parts: the status, the reason and the headers.
type Parts = (u16, String, Vec<(String, String)>);

struct Clocked {
    engine: Engine,
    runtime: Runtime,
    offset: Arc<AtomicI64>,
    issuer: Issuer,
    dir: tempfile::TempDir,
}

impl Clocked {
    fn start(store: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new(ISSUER);
        issuer.publish(dir.path());
        let limited = "  - { match: { methods: [GET], paths: [/limited] }, scopes: [], limits: [hourly] }\n  \
                       - { match: { methods: [GET], paths: [/brief] }, scopes: [], limits: [brief] }\n";
        let limits = "limits:\n  - { name: hourly, by: [subject], rate: 1/1h }\n  \
                      - { name: brief, by: [subject], rate: 1/1s }\n";
        let audit = "audit: { to: \"file:${DIR}/audit.log\" }\n";
        let text = format!("{audit}{POLICY}{limited}{limits}{store}");
        let place = dir.path().display().to_string();
        let env = |name: &str| (name == "DIR").then(|| place.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let offset = Arc::<AtomicI64>::default();
        let shift = Arc::clone(&offset);
        let clock = Arc::new(move || {
            let micros = observe::now().micros();
            let offset = shift.load(Ordering::Relaxed) * 1_000_000;
            Timestamp::from_micros(micros.checked_add_signed(offset).unwrap())
        });
        let engine = runtime.block_on(async {
            Engine::start(config::compile(&text, &env).unwrap(), clock).unwrap()
        });
        until("readiness", || engine.readiness().missing().is_empty().then_some(()));
        Self { engine, runtime, offset, issuer, dir }
    }

    /// Lets the clock differ by this many seconds.
    fn step(&self, seconds: i64) {
        self.offset.store(seconds, Ordering::Relaxed);
    }

    fn get(&self, path: &str, token: &str) -> Parts {
        let authorization = format!("Bearer {token}");
        let read = || {
            let mut headers = Headers::default();
            headers.push("authorization", authorization.as_bytes());
            Ok(RawRequest {
                method: b"GET",
                scheme: b"https",
                host: b"api.example.com",
                path: path.as_bytes(),
                headers,
                address: None,
                peer_certificate: b"",
                body: RawBody::None,
            })
        };
        let parts = |answered: CheckAnswer<'_>| match answered.answer {
            Decided::Allow(_) => (200, String::new(), Vec::new()),
            Decided::Deny(denied) => {
                let headers = denied.headers.iter();
                let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
                (denied.status, denied.reason.code().to_owned(), headers.collect())
            }
            Decided::Fail(failure) => (503, failure.reason.code().to_owned(), Vec::new()),
        };
        self.runtime.block_on(self.engine.checker().check(None, read, parts))
    }

    fn verify(&self, verified: &Verified, row: &Row, to: &str, path: &str, token: &str) {
        let (status, reason, headers) = self.get(path, token);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        verified.answered(row, to, status, &reason, &headers);
    }
}

impl Observed for Clocked {
    fn exposition(&self) -> String {
        self.engine.observer().exposition(self.engine.status()).unwrap()
    }

    fn log(&self) -> String {
        String::new()
    }

    fn audit_log(&self) -> String {
        read(&self.dir.path().join("audit.log"))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Steps the clock of an engine with this store there and back.
fn steps(verified: &Verified, store: &str) {
    let clocked = Clocked::start(store);
    let now = now();
    let token = |issued: u64, ends: u64| {
        clocked.issuer.token(json!({ "iat": issued, "nbf": issued, "exp": ends }))
    };
    let (short, new) = (token(now - 7200, now + 600), token(now, now + 7200));
    let long = token(now - 7200, now + 7200);
    let limited =
        clocked.issuer.token(json!({ "sub": "limited", "iat": now - 7200, "exp": now + 7200 }));
    let status = |path: &str, token: &str| clocked.get(path, token).0;
    // The bucket has one request, and is full again after an hour of the store.
    until("the store", || (status("/limited", &limited) == 200).then_some(()));
    for token in [&short, &new, &long] {
        assert_eq!(status("/free", token), 200);
    }

    clocked.step(HOUR);
    clocked.verify(verified, &AHEAD, SHORT, "/free", &short);
    clocked.verify(verified, &AHEAD, LONG, "/free", &long);
    clocked.verify(verified, &AHEAD, LIMITED, "/limited", &limited);
    verified.observed(&AHEAD, &clocked, &[], "");
    clocked.step(0);
    verified.recovered(&AHEAD, &clocked, &[], || (status("/free", &short) == 200).then_some(()));

    // This refusal is remembered before the step.
    until("a refusal", || (status("/brief", &limited) == 429).then_some(()));
    clocked.step(-HOUR);
    clocked.verify(verified, &BEHIND, NEW, "/free", &new);
    clocked.verify(verified, &BEHIND, LONG, "/free", &long);
    clocked.verify(verified, &BEHIND, LIMITED, "/limited", &limited);
    until("the bucket of a second", || (status("/brief", &limited) == 200).then_some(()));
    verified.observed(&BEHIND, &clocked, &[], "");
    clocked.step(0);
    verified.recovered(&BEHIND, &clocked, &[], || (status("/free", &new) == 200).then_some(()));
    clocked.runtime.block_on(clocked.engine.close());
}

pub(super) fn in_memory_and_on_redis(verified: &Verified) {
    steps(verified, "");
    let server = redis_server::start(&[]);
    steps(verified, &format!("store: {{ redis: {{ url: \"{}\" }} }}\n", server.unix()));
}
