//! Opaque tokens: the calls of an introspection endpoint that is scripted, and of a real OpenID Connect
//! server.

mod provider;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tollgate::{config, engine::Engine};
use tollgate_core::time::Timestamp;
use tollgate_testkit::wait::until_async;

use crate::{
    engine::{decide, decide_from},
    rig::http::{Answer, Reply, Request, Server},
};

const CONFIG: &str = r#"
audit: { to: none }
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    introspection: { url: "http://127.0.0.1:PORT/introspect", insecure_http: true, client_id: "ga te", client_secret: "s:ecret", cache: 30s, timeout: TIMEOUT, max_calls: 2 }
limits: [{ name: five, by: [subject], rate: 5/1h }]
routes:
  - { match: { methods: [GET], paths: [/text] }, scopes: ["infer:text"], credentials: [opaque_token] }
  - { match: { methods: [GET], paths: [/admin] }, scopes: ["admin"], credentials: [opaque_token] }
  - { match: { methods: [GET], paths: [/five] }, scopes: [], credentials: [opaque_token], limits: [five] }
"#;

/// The begin of 2026 in UTC.
const NOW: u64 = 1_767_225_600;

fn statement(token: &str) -> String {
    let (iat, exp) = (NOW - 60, NOW + 300);
    format!(
        r#"{{"active":true,"token_type":"Bearer","sub":"of {token}","aud":"inference-api","scope":"infer:text","iat":{iat},"exp":{exp}}}"#
    )
}

fn answer(body: impl Into<Vec<u8>>) -> Answer {
    Answer::Whole(Reply::new(200, body).header("connection", "close"))
}

fn token_of(request: &Request) -> String {
    let body = String::from_utf8(request.body.clone()).unwrap();
    body.rsplit_once("token=").unwrap().1.to_owned()
}

/// An engine with an endpoint, and a clock that the test sets.
struct Gate {
    engine: Engine,
    calls: Arc<Mutex<Vec<Request>>>,
    clock: Arc<AtomicU64>,
}

impl Gate {
    fn start(timeout: &str, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let calls = Arc::<Mutex<Vec<Request>>>::default();
        let seen = Arc::clone(&calls);
        let server = Server::start(move |request| {
            seen.lock().unwrap().push(request.clone());
            script(&request)
        });
        let text = CONFIG.replace("PORT", &server.port.to_string()).replace("TIMEOUT", timeout);
        let clock = Arc::new(AtomicU64::new(NOW));
        let now = Arc::clone(&clock);
        let loaded = config::compile(&text, &|_| None).unwrap();
        let now = Arc::new(move || Timestamp::from_secs(now.load(SeqCst)));
        Self { engine: Engine::start(loaded, now).unwrap(), calls, clock }
    }

    async fn decide(&self, path: &str, token: &str) -> String {
        decide(&self.engine, path, Some(token)).await
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[tokio::test]
async fn an_answer_is_used_again_and_every_rule_of_a_route_holds_on_it() {
    let gate = Gate::start("1s", |request| answer(statement(&token_of(request))));
    assert_eq!(gate.decide("/text", "a+b/c~d.e==").await, "allow");
    let call = gate.calls.lock().unwrap()[0].clone();
    assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/introspect"));
    assert_eq!(call.body, b"token_type_hint=access_token&token=a%2Bb%2Fc%7Ed.e%3D%3D");
    // `ga%20te:s%3Aecret`: both parts are encoded as in forms (RFC 6749 section 2.3.1).
    assert_eq!(call.all("authorization"), ["Basic Z2ElMjB0ZTpzJTNBZWNyZXQ="]);
    assert_eq!(call.all("content-type"), ["application/x-www-form-urlencoded"]);

    assert_eq!(gate.decide("/text", "a+b/c~d.e==").await, "allow");
    assert_eq!(gate.decide("/admin", "a+b/c~d.e==").await, "insufficient_scope");
    for _ in 0..5 {
        assert_eq!(gate.decide("/five", "a+b/c~d.e==").await, "allow");
    }
    assert_eq!(gate.decide("/five", "a+b/c~d.e==").await, "rate_limited");
    assert_eq!(gate.calls(), 1);
    // After `cache` the endpoint is called again; the token has expired after 330 s.
    gate.clock.fetch_add(29, SeqCst);
    assert_eq!((gate.decide("/text", "a+b/c~d.e==").await, gate.calls()), ("allow".into(), 1));
    gate.clock.fetch_add(2, SeqCst);
    assert_eq!((gate.decide("/text", "a+b/c~d.e==").await, gate.calls()), ("allow".into(), 2));
    gate.clock.fetch_add(300, SeqCst);
    assert_eq!((gate.decide("/text", "a+b/c~d.e==").await, gate.calls()), ("expired".into(), 3));
    // Other bytes are another token.
    gate.clock.store(NOW, SeqCst);
    assert_eq!(gate.decide("/text", "A+b/c~d.e==").await, "allow");
    assert_eq!(gate.calls(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_with_one_new_token_wait_for_one_call() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let gate = Gate::start("10s", move |request| {
        released.lock().unwrap().recv().unwrap();
        answer(statement(&token_of(request)))
    });
    let decisions = join_all((0..50).map(|_| gate.decide("/text", "one")));
    let releasing = async {
        until_async("a call", async || (gate.calls() == 1).then_some(())).await;
        release.send(()).unwrap();
    };
    let (decisions, ()) = tokio::join!(decisions, releasing);
    assert!(decisions.iter().all(|decision| decision == "allow"), "{decisions:?}");
    assert_eq!(gate.calls(), 1);
}

#[tokio::test]
async fn a_token_that_is_not_active_is_remembered_for_a_short_time() {
    let active = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&active);
    let gate = Gate::start("1s", move |request| match state.load(SeqCst) {
        0 => answer(r#"{"active":false}"#),
        _ => answer(statement(&token_of(request))),
    });
    for _ in 0..3 {
        assert_eq!(gate.decide("/text", "none").await, "inactive_token");
    }
    assert_eq!(gate.calls(), 1);
    active.store(1, SeqCst);
    gate.clock.fetch_add(6, SeqCst);
    assert_eq!(gate.decide("/text", "none").await, "allow");
    // What the issuer withdraws ends with the cached answer.
    active.store(0, SeqCst);
    gate.clock.fetch_add(31, SeqCst);
    assert_eq!(gate.decide("/text", "none").await, "inactive_token");
    assert_eq!(gate.calls(), 3);
}

#[tokio::test]
async fn an_endpoint_that_states_nothing_denies_and_is_called_again() {
    let faults: [fn() -> Answer; 7] = [
        || Answer::Whole(Reply::new(500, "").header("connection", "close")),
        || Answer::Whole(Reply::new(401, "").header("connection", "close")),
        || {
            let to = "http://127.0.0.1:1/other";
            Answer::Whole(Reply::new(307, "").header("location", to).header("connection", "close"))
        },
        || answer("<html>busy</html>"),
        || answer(r#"{"active":"true"}"#),
        || answer(format!(r#"{{"active":true,"x":"{}"}}"#, "x".repeat(70_000))),
        || Answer::Silence,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let faulty = AtomicUsize::new(1);
        let gate = Gate::start("200ms", move |request| {
            match faulty.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => fault(),
                Err(_) => answer(statement(&token_of(request))),
            }
        });
        assert_eq!(gate.decide("/text", "token").await, "not_ready", "{number}");
        assert_eq!(gate.decide("/text", "token").await, "allow", "{number}");
        assert_eq!(gate.calls(), 2, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_made_up_tokens_is_bounded_and_leaves_others_theirs() {
    let most = Arc::new(AtomicUsize::new(0));
    let (now, seen) = (AtomicUsize::new(0), Arc::clone(&most));
    let gate = Gate::start("10s", move |request| {
        seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        let token = token_of(request);
        let reply = if token.starts_with("good") {
            statement(&token)
        } else {
            r#"{"active":false}"#.into()
        };
        now.fetch_sub(1, SeqCst);
        answer(reply)
    });
    assert_eq!(gate.decide("/text", "good-one").await, "allow");
    let flooding = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let tokens: Vec<String> = (0..400).map(|number| format!("made-up-{number}")).collect();
    let flood =
        tokens.iter().map(|token| decide_from(&gate.engine, "/text", Some(token), Some(flooding)));
    let decisions = join_all(flood).await;
    let refused = |reason: &str| decisions.iter().filter(|decision| *decision == reason).count();
    // On a slow machine some calls take longer than a check may.
    let expected = ["overloaded", "inactive_token", "not_ready"];
    assert!(decisions.iter().all(|reason| expected.contains(&&**reason)), "{decisions:?}");
    assert!(refused("overloaded") > 0, "the network of the flood has a budget");
    assert!(gate.calls() <= 1 + 400 - refused("overloaded"), "{}", gate.calls());
    assert!(most.load(SeqCst) <= 2, "{} calls at once", most.load(SeqCst));
    // The known token needs no call, and a new one of another network is introspected.
    let calls = gate.calls();
    assert_eq!(gate.decide("/text", "good-one").await, "allow");
    assert_eq!(gate.calls(), calls);
    let other = Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)));
    assert_eq!(decide_from(&gate.engine, "/text", Some("good-two"), other).await, "allow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_whose_tokens_take_long_leaves_others_their_calls() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let gate = Gate::start("10s", move |request| {
        let token = token_of(request);
        if token.starts_with("slow") {
            // Until the test drops its end.
            let _ended = released.lock().unwrap().recv();
        }
        answer(statement(&token))
    });
    let flooding = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
    let tokens = ["slow-1", "slow-2", "slow-3", "slow-4"];
    let flood = tokens.map(|token| decide_from(&gate.engine, "/text", Some(token), flooding));
    // A network shares its part of the places with a few others, which chance selects.
    let others = (1..=16).map(|network| {
        let (address, token) = (Ipv4Addr::new(198, 51, network, 1), format!("good-{network}"));
        let engine = &gate.engine;
        async move { decide_from(engine, "/text", Some(&token), Some(IpAddr::V4(address))).await }
    });
    let other = async {
        until_async("a call", async || (gate.calls() == 1).then_some(())).await;
        let mut decisions = others.collect::<FuturesUnordered<_>>();
        let mut is_served = false;
        while let Some(decision) = decisions.next().await {
            is_served = decision == "allow";
            if is_served {
                break;
            }
        }
        drop(release);
        is_served
    };
    let (_, is_served) = tokio::join!(join_all(flood), other);
    assert!(is_served, "one of two places is left");
}

#[tokio::test]
async fn a_token_is_sent_to_its_endpoint_only_and_a_jwt_to_none() {
    let gate = Gate::start("1s", |request| answer(statement(&token_of(request))));
    let key = "tgk_7Jk2mN4pQ8rT_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2fQEWa";
    for token in ["eyJhbGciOiJub25lIn0", "a.b.c", "with%percent", "with\"quote", "tgk_", key] {
        let decision = gate.decide("/text", token).await;
        assert!(["credential_not_accepted", "malformed_token"].contains(&&*decision), "{decision}");
    }
    let long = "x".repeat(5000);
    assert_eq!(gate.decide("/text", &long).await, "malformed_token");
    assert_eq!(gate.calls(), 0);
    until_async("readiness without keys", async || {
        gate.engine.readiness().missing().is_empty().then_some(())
    })
    .await;
}
