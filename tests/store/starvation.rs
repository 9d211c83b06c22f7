//! A process without time for its store: busy threads are no outage of Redis, so a route with
//! `on_outage: allow` never lets a revoked token pass because of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::{JoinSet, yield_now};
use tokio_util::sync::CancellationToken;
use tollgate::{
    config,
    engine::{Engine, check::Answer},
    observe,
    store::{Circuit, Redis, RedisConfig, Revocation, Store},
};
use tollgate_core::{
    admission::Outage,
    request::{Headers, RawBody, RawRequest},
    revocation::Target,
    time::{Span, Timestamp},
};
use tollgate_testkit::{Algorithm, KeyPair, Token};

use super::{
    redis_server::{self, Server, section},
    requests::{ISSUER, charge, charging, until},
};

const DEADLINE: Duration = Duration::from_millis(200);

fn store(server: &Server) -> Arc<Redis> {
    let config = RedisConfig { deadline: Span::from_millis(200), ..section(&server.unix()) };
    Arc::new(Redis::open(&config, CancellationToken::new()).unwrap())
}

async fn ask(store: &Redis) -> Result<(), Outage> {
    store.admit(&charging(&[charge("k", 3_600_000, 1_000_000)])).await.map(drop)
}

async fn connected(store: &Redis) {
    until("Redis answers", async || ask(store).await.is_ok()).await;
}

/// Tasks that occupy a thread for `busy` at a time, until they are dropped, as large bodies do.
fn occupy(tasks: usize, busy: Duration) -> JoinSet<()> {
    let mut occupying = JoinSet::new();
    for _ in 0..tasks {
        occupying.spawn(async move {
            loop {
                std::thread::sleep(busy);
                yield_now().await;
            }
        });
    }
    occupying
}

#[tokio::test]
async fn a_thread_that_is_busy_at_any_moment_of_a_call_is_no_outage() {
    let server = redis_server::start(&[]);
    let store = store(&server);
    connected(&store).await;
    // The thread is busy from each tenth of the deadline on, for longer than the deadline.
    for tenth in 0..10 {
        let busy = async {
            tokio::time::sleep(tenth * DEADLINE / 10).await;
            std::thread::sleep(DEADLINE + DEADLINE / 4);
        };
        let checks = async {
            let mut answers = Vec::new();
            let began = Instant::now();
            while began.elapsed() < DEADLINE {
                answers.push(ask(&store).await);
            }
            answers
        };
        let ((), answers) = tokio::join!(busy, checks);
        assert_eq!(answers, vec![Ok(()); answers.len()], "{tenth}");
    }
    assert_eq!((store.status().circuit, store.status().connections), (Circuit::Closed, 1));
}

#[tokio::test]
async fn a_thread_that_is_busy_all_the_time_is_no_outage() {
    let server = redis_server::start(&[]);
    let store = store(&server);
    connected(&store).await;
    let busy = occupy(2, DEADLINE);
    let began = Instant::now();
    let mut answers = Vec::new();
    while began.elapsed() < 20 * DEADLINE {
        answers.extend(join_all((0..10).map(|_| ask(&store))).await);
    }
    drop(busy);
    assert!(
        answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Outage::Starved))),
        "{answers:?}"
    );
    assert_eq!((store.status().circuit, store.status().connections), (Circuit::Closed, 1));
    assert_eq!(ask(&store).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_are_all_busy_are_no_outage() {
    let server = redis_server::start(&[]);
    let store = store(&server);
    connected(&store).await;
    for busy in [DEADLINE / 20, DEADLINE / 2, 2 * DEADLINE] {
        let busy = occupy(4, busy);
        let began = Instant::now();
        while began.elapsed() < 5 * DEADLINE {
            let answer = ask(&store).await;
            assert!(matches!(answer, Ok(()) | Err(Outage::Starved)), "{answer:?}");
        }
        drop(busy);
    }
    assert_eq!((store.status().circuit, store.status().connections), (Circuit::Closed, 1));
}

#[tokio::test]
async fn a_busy_thread_that_connects_again_is_no_outage() {
    let server = redis_server::start(&[]);
    let store = store(&server);
    connected(&store).await;
    let mut client = server.client();
    let busy = occupy(1, DEADLINE / 2);
    let began = Instant::now();
    while began.elapsed() < 10 * DEADLINE {
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .exec(&mut client)
            .unwrap();
        let answer = ask(&store).await;
        // A connection that Redis closes during a call is one.
        let expected = [Ok(()), Err(Outage::Starved), Err(Outage::Unreachable)];
        assert!(expected.contains(&answer), "{answer:?}");
        if answer == Err(Outage::Unreachable) {
            until("the connection is made again", async || ask(&store).await.is_ok()).await;
        }
    }
    drop(busy);
}

/// Asks until the answer is about Redis: that it did not answer in time.
async fn outage(ask: impl AsyncFn() -> Result<(), Outage>) {
    for _ in 0..50 {
        match ask().await {
            Err(Outage::Starved) => {}
            answer => return assert_eq!(answer, Err(Outage::Deadline)),
        }
    }
    panic!("each of 50 calls waited for this process");
}

#[tokio::test]
async fn redis_is_out_as_well_when_the_thread_is_a_little_busy() {
    let server = redis_server::start(&[]);
    let store = store(&server);
    connected(&store).await;
    let busy = tokio::spawn(async {
        loop {
            std::thread::sleep(Duration::from_millis(1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.freeze();
    // Where the machine gives this process no time, the answer is about the process, and is retried.
    outage(async || ask(&store).await).await;
    // One long pause delays the verdict.
    let paused = async || {
        let pause = async {
            tokio::time::sleep(DEADLINE / 4).await;
            std::thread::sleep(DEADLINE);
        };
        tokio::join!(ask(&store), pause).0
    };
    outage(paused).await;
    server.thaw();
    busy.abort();
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// An engine with a route that is open in outages, on a Redis in which `mallory` is revoked.
async fn engine(server: &Server) -> Engine {
    let text = json!({
        "audit": { "to": "none" },
        "issuers": [{ "issuer": ISSUER, "audiences": "any", "algorithms": ["HS256"], "secret": SECRET }],
        "models": [{ "name": "m" }],
        "routes": [
            { "match": { "methods": ["POST"], "paths": ["/chat"] }, "scopes": [], "on_outage": "allow",
              "model": { "from": "body", "scope": "model:{model}" } },
            { "match": { "methods": ["GET"], "paths": ["/allow"] }, "scopes": [], "on_outage": "allow" },
            { "match": { "methods": ["GET"], "paths": ["/error"] }, "scopes": [], "on_outage": "error" },
        ],
        "store": { "redis": { "url": server.unix(), "deadline": "100ms" } },
    });
    let loaded = config::compile(&text.to_string(), &|_| None).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    let now = observe::now();
    let target = Target::Subject { issuer: ISSUER.into(), subject: "mallory".into() };
    let revocation = Revocation::new(target, now, Span::from_secs(3600), None).unwrap();
    until("the revocation is stored", async || engine.store().revoke(&revocation).await.is_ok())
        .await;
    engine
}

fn token(subject: &str, now: Timestamp) -> String {
    let claims = json!({
        "iss": ISSUER, "sub": subject, "jti": subject, "scope": "model:m",
        "iat": now.secs() - 60, "exp": now.secs() + 600,
    });
    Token::new(Algorithm::Hs256).claims(claims).sign(&KeyPair::secret(SECRET)).unwrap()
}

/// Decides one request: `allow`, or the code of the reason.
async fn decide(engine: &Engine, path: &str, token: &str, body: &[u8]) -> String {
    let authorization = format!("Bearer {token}");
    let read = || {
        let mut headers = Headers::default();
        headers.push("authorization", authorization.as_bytes());
        headers.push("content-type", b"application/json");
        Ok(RawRequest {
            method: if body.is_empty() { b"GET" } else { b"POST" },
            scheme: b"https",
            host: b"api.example.com",
            path: path.as_bytes(),
            headers,
            address: None,
            peer_certificate: b"",
            body: RawBody::Whole(body),
        })
    };
    let encode = |checked: tollgate::engine::check::CheckAnswer<'_>| match checked.answer {
        Answer::Allow(_) => "allow".to_owned(),
        Answer::Deny(_) => {
            let mut metadata = checked.metadata.iter();
            metadata.find(|(name, _)| *name == "reason").unwrap().1.to_owned()
        }
        Answer::Fail(_) => "a failed check".to_owned(),
    };
    engine.checker().check(None, read, encode).await
}

/// Decides requests of a revoked token for some time, and returns how often each answer came.
async fn decide_under_load(engine: &Engine) -> Vec<(String, usize)> {
    let token = token("mallory", observe::now());
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let paths = ["/allow", "/error"].repeat(4);
        let decisions = paths.iter().map(|path| decide(engine, path, &token, b""));
        for answer in join_all(decisions).await {
            *answers.entry(answer).or_default() += 1;
        }
    }
    answers.into_iter().collect()
}

fn assert_refused(answers: &[(String, usize)]) {
    let refused = |(answer, _): &(String, usize)| answer == "revoked" || answer == "overloaded";
    assert!(answers.iter().all(refused), "{answers:?}");
}

#[tokio::test]
async fn a_revoked_token_never_passes_while_a_task_blocks_the_thread() {
    let server = redis_server::start(&[]);
    let engine = engine(&server).await;
    for busy in [20, 150, 400].map(Duration::from_millis) {
        let busy = occupy(2, busy);
        let answers = decide_under_load(&engine).await;
        drop(busy);
        assert_refused(&answers);
    }
    // Without an answer, a process that is too busy to notice one cannot know of an outage.
    server.freeze();
    let alice = token("alice", observe::now());
    let busy = occupy(2, Duration::from_millis(150));
    assert_eq!(decide(&engine, "/allow", &alice, b"").await, "overloaded");
    assert_eq!(decide(&engine, "/error", &alice, b"").await, "overloaded");
    drop(busy);
    // A process with time for its store can.
    assert_eq!(decide(&engine, "/allow", &alice, b"").await, "allow");
    assert_eq!(decide(&engine, "/error", &alice, b"").await, "a failed check");
    server.thaw();
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_never_passes_while_large_bodies_are_read() {
    let server = redis_server::start(&[]);
    let engine = Arc::new(engine(&server).await);
    let items = (0..200_000).map(|n| format!(r#"{{"role":"user","content":"{n}"}}"#));
    let items = items.collect::<Vec<_>>().join(",");
    let body: Arc<str> = format!(r#"{{"model":"m","messages":[{items}]}}"#).into();
    let (stop, read) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let alice = token("alice", observe::now());
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (engine, body, alice) = (Arc::clone(&engine), Arc::clone(&body), alice.clone());
        let (stop, read) = (Arc::clone(&stop), Arc::clone(&read));
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = decide(&engine, "/chat", &alice, body.as_bytes()).await;
                assert!(answer == "allow" || answer == "overloaded", "{answer}");
                read.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let answers = decide_under_load(&engine).await;
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    assert_refused(&answers);
    assert!(read.load(Ordering::Relaxed) > 4, "large bodies were read");
}
