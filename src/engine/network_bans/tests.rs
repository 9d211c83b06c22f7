//! Which checks count against the network of a client, and what follows: with the engine's checker.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tollgate_core::{
    ban::{Kind, Target},
    denial::Reason,
    network::{Network, Networks},
    time::Timestamp,
};
use tollgate_testkit::wait::until_async;

use crate::{
    engine::{
        ban_writer::BanWriter,
        check::{Answer, CheckAnswer, CheckBounds, Checker},
        live::Live,
    },
    observe::{
        Observer,
        audit::Audit,
        metrics::{Metrics, ObserveConfig},
    },
    policy_test::{Case, CaseFile},
    store::{AutomaticBan, Memory, MemoryConfig, Store},
};

/// A policy, and a case for each kind of request. Those whose name begins with a failure count.
const CASES: &str = r#"
config:
  issuers:
    - issuer: https://auth.example.com
      audiences: [inference-api]
      algorithms: [HS256]
      secret: "${SHARED_SECRET}"
    - issuer: https://keys.example.com
      audiences: any
      algorithms: [EdDSA]
      jwks: { url: "https://keys.example.com/jwks.json" }
    - issuer: https://none.example.com
      audiences: any
      algorithms: [EdDSA]
      jwks: { url: "https://none.example.com/jwks.json" }
  api_keys: { file: /run/secrets/keys.yaml, header: [x-api-key] }
  automatic_bans: { mode: MODE, failures: 10/1h, for: 1h, new_credentials: 1/1h }
  routes:
    - { match: { methods: [GET], paths: [/v1/models] }, scopes: [], limits: [per-subject] }
    - { match: { methods: [GET], paths: [/admin] }, scopes: [admin] }
    - { match: { paths: [/open] }, public: true }
    - { match: { methods: [GET], paths: [/tokens-only] }, scopes: [], credentials: [jwt] }
  limits:
    - { name: per-subject, by: [subject], rate: 1/1h }
keys:
  main: { alg: HS256, issuer: "https://auth.example.com", secret: "${SHARED_SECRET}" }
  other: { alg: EdDSA, issuer: "https://keys.example.com" }
  hidden: { alg: EdDSA, issuer: "https://none.example.com", publish: false }
api_keys:
  ci: { subject: ci, scopes: [], created: -10d }
  expired: { subject: ci, scopes: [], created: -20d, expires: -1d }
  unknown: { issue: false }
  wrong-secret: { of: ci }
defaults:
  request: { path: /v1/models, address: 192.0.2.7 }
  token:
    key: main
    claims: { iss: "https://auth.example.com", aud: inference-api, sub: alice, jti: j1, iat: -10m, exp: +5m }
cases:
  - { name: "bad_signature: of a token", token: { tamper: [flip_signature] } }
  - { name: "bad_signature: of an expired token", token: { claims: { exp: -1m }, tamper: [flip_signature] } }
  - { name: "malformed: a token without parts", token: { raw: eyJhbGciOiJIUzI1NiJ9 } }
  - { name: "malformed: an encrypted token", token: { raw: eyJhbGciOiJIUzI1NiJ9.a.b.c.d } }
  - { name: "malformed: a header that is no JSON", token: { raw: eyJh.e30.AAAA } }
  - { name: "malformed: an API key that was mistyped", token: { raw: tgk_abc, authorization: [] }, request: { headers: { x-api-key: "{token}" } } }
  - { name: "unknown_key: an API key without a record", token: { api_key: unknown, authorization: [] }, request: { headers: { x-api-key: "{token}" } } }
  - { name: "unknown_key: another secret of an API key", token: { api_key: wrong-secret, authorization: [] }, request: { headers: { x-api-key: "{token}" } } }
  - { name: "none: allowed or beyond its limit" }
  - { name: "none: a public route", request: { path: /open } }
  - { name: "none: no route", request: { path: /nothing } }
  - { name: "none: no credential", token: { none: true } }
  - { name: "none: another scheme", token: { authorization: ["Basic dTpw"] } }
  - { name: "none: two credentials", token: { authorization: ["Bearer {token}", "Bearer {token}"] } }
  - { name: "none: an expired token", token: { claims: { exp: -1m } } }
  - { name: "none: a token that is not valid yet", token: { claims: { nbf: +5m } } }
  - { name: "none: a token for another audience", token: { claims: { aud: other } } }
  - { name: "none: a token of an unknown issuer", token: { claims: { iss: "https://else.example.com" } } }
  - { name: "none: a token with another algorithm", token: { key: other, claims: { iss: "https://auth.example.com" } } }
  - { name: "none: a missing scope", request: { path: /admin } }
  - { name: "none: another kind of credential than the route accepts", token: { api_key: ci, authorization: [] }, request: { path: /tokens-only, headers: { x-api-key: "{token}" } } }
  - { name: "none: an expired API key", token: { api_key: expired, authorization: [] }, request: { headers: { x-api-key: "{token}" } } }
  - { name: "none: an ambiguous path", request: { path: //v1/models } }
  - { name: "none: an issuer whose keys are not loaded", token: { key: hidden, claims: { iss: "https://none.example.com" } } }
  - { name: "none: an unknown key of a set that may be old", token: { key: other, header: { kid: new }, claims: { iss: "https://keys.example.com" } } }
  - { name: "none: a bad signature with a key that may be old", token: { key: other, claims: { iss: "https://keys.example.com" }, tamper: [flip_signature] } }
  - { name: "none: a bad signature without an address", request: { address: none }, token: { tamper: [flip_signature] } }
  - { name: "none: a bad signature from loopback", request: { address: "127.0.0.1" }, token: { tamper: [flip_signature] } }
"#;

/// A checker on a memory store.
struct Gate {
    checker: Checker,
    live: Arc<Live>,
    store: Arc<Memory>,
    now: Arc<AtomicU64>,
    cases: Vec<Case>,
}

impl Gate {
    fn new(mode: &str) -> Self {
        let file = CaseFile::parse(&CASES.replace("MODE", mode)).unwrap();
        let cases = file.cases(None).unwrap();
        let live = Arc::new(Live::fixed(file.snapshot().unwrap()));
        let store = Arc::new(Memory::new(&MemoryConfig::default()));
        let observer = Observer::new(
            Arc::new(Metrics::new(&ObserveConfig::default())),
            Arc::new(Audit::off()),
        );
        let now = Arc::new(AtomicU64::new(cases[0].now.micros()));
        let clock = Arc::clone(&now);
        let checker = Checker::new(
            Arc::clone(&live),
            Arc::clone(&store) as Arc<dyn Store>,
            None,
            Arc::new(observer),
            Arc::new(move || Timestamp::from_micros(clock.load(Ordering::Relaxed))),
            CheckBounds { max_body: 1 << 20, max_in_flight: 16 << 20 },
        );
        Self { checker, live, store, now, cases }
    }

    fn case(&self, name: &str) -> &Case {
        self.cases.iter().find(|case| case.name.starts_with(name)).unwrap()
    }

    /// Sends the request of a case. Returns the status; 200 where it is allowed.
    async fn send(&self, case: &Case) -> u16 {
        let status = |answer: CheckAnswer<'_>| match answer.answer {
            Answer::Allow(_) => 200,
            Answer::Deny(denied) => denied.status,
            Answer::Fail(_) => 500,
        };
        self.checker.check(None, || Ok(case.request.raw()), status).await
    }

    fn failures(&self) -> [(&'static str, u64); 3] {
        self.live.ban_activity().status().failures
    }

    fn result(&self, label: &str) -> u64 {
        let results = self.live.ban_activity().status().results;
        results.iter().find(|(name, _)| *name == label).unwrap().1
    }

    fn ban(&self) -> Option<Kind> {
        self.store.network_ban("192.0.2.7".parse().unwrap()).map(|ban| ban.kind)
    }

    fn write_bans(&self) -> tokio::task::JoinHandle<()> {
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let proxies = Networks::parse(&["198.51.100.0/24"]).unwrap();
        tokio::spawn(BanWriter::new(Arc::clone(&self.live), store, proxies).run())
    }
}

#[tokio::test]
async fn each_failure_counts_and_nothing_else_does() {
    for case in &Gate::new("enforce").cases {
        let gate = Gate::new("enforce");
        let expected = case.name.split(':').next().unwrap();
        gate.send(gate.case(&case.name)).await;
        for (label, count) in gate.failures() {
            assert_eq!(count, u64::from(label == expected), "{label}: {}", case.name);
        }
    }
}

/// No sequence of requests that are allowed, expired, limited, forbidden or without a credential bans
/// a network, in any order and number.
#[tokio::test]
async fn no_sequence_of_requests_without_failures_bans() {
    let gate = Gate::new("enforce");
    let honest: Vec<&Case> =
        gate.cases.iter().filter(|case| case.name.starts_with("none")).collect();
    let mut random = StdRng::seed_from_u64(21);
    for _ in 0..3000 {
        gate.send(honest[random.random_range(0..honest.len())]).await;
        // The time passes, and sometimes the clock is set back.
        let step = random.random_range(0..200_000_u64);
        if random.random_ratio(1, 10) {
            gate.now.fetch_sub(step, Ordering::Relaxed);
        } else {
            gate.now.fetch_add(step, Ordering::Relaxed);
        }
    }
    assert_eq!(gate.failures().map(|(_, count)| count), [0; 3]);
    let status = gate.live.load().network_bans.as_ref().unwrap().status();
    assert_eq!((status.networks, status.most, status.threshold), (0, 0, 10));
}

#[tokio::test]
async fn a_network_is_banned_and_its_known_credentials_pass() {
    let gate = Gate::new("enforce");
    let writing = gate.write_bans();
    let (good, forged) = (gate.case("none: allowed"), gate.case("bad_signature: of a token"));
    let key = gate.case("unknown_key: an API key");
    assert_eq!(gate.send(good).await, 200);
    for _ in 0..10 {
        assert_eq!((gate.ban(), gate.send(forged).await), (None, 401));
    }
    until_async("the network is banned", async || gate.ban().map(drop)).await;
    assert_eq!(gate.ban(), Some(Kind::AutomaticNetwork));
    let listed = gate.store.list_bans(None, 10).await.unwrap().entries;
    let reason = listed[0].note.as_deref().unwrap();
    assert!(reason.starts_with("automatic: 10 failed credentials in "), "{reason}");
    // The known token gets as far as its limit. The forged one is remembered as forged.
    assert_eq!(gate.send(good).await, 429);
    assert_eq!(gate.send(gate.case("none: a missing scope")).await, 403);
    assert_eq!(gate.send(forged).await, 429);
    assert_eq!(gate.send(key).await, 429);
    // One new credential is verified, the second one is not.
    assert_eq!(gate.send(gate.case("bad_signature: of an expired")).await, 401);
    assert_eq!(gate.send(gate.case("none: an expired token")).await, 429);
    assert_eq!(gate.send(gate.case("none: a public route")).await, 200);
    assert_eq!(gate.send(gate.case("none: no credential")).await, 401);
    let checks = gate.live.ban_activity().status().checks;
    assert_eq!(checks, [("known", 2), ("verified", 1), ("refused", 3)]);
    assert_eq!((gate.result("begun"), gate.result("would_begin")), (1, 0));
    writing.abort();
}

#[tokio::test]
async fn shadow_counts_and_bans_nothing() {
    let gate = Gate::new("shadow");
    let writing = gate.write_bans();
    let forged = gate.case("bad_signature: of a token");
    for _ in 0..25 {
        assert_eq!(gate.send(forged).await, 401);
    }
    until_async("the ban is counted", async || (gate.result("would_begin") > 0).then_some(()))
        .await;
    assert_eq!((gate.ban(), gate.result("begun")), (None, 0));
    assert_eq!(gate.result("would_begin"), 1, "one ban would be in force");
    assert_eq!(gate.failures()[0], ("bad_signature", 25));
    writing.abort();
}

#[tokio::test]
async fn proxies_are_never_banned() {
    let gate = Gate::new("enforce");
    let writing = gate.write_bans();
    let mut case = gate.case("bad_signature: of a token").clone();
    case.request.address = Some("198.51.100.9".parse().unwrap());
    for _ in 0..10 {
        gate.send(&case).await;
    }
    until_async("it is noted", async || (gate.result("exempt") > 0).then_some(())).await;
    assert_eq!(gate.store.list_bans(None, 10).await.unwrap().entries, []);
    writing.abort();
}

/// What a network sent before its ban, and during it, begins no second one when an operator lifts it.
#[tokio::test]
async fn a_ban_that_is_lifted_begins_again_after_as_many_failures() {
    let gate = Gate::new("enforce");
    let (forged, malformed) =
        (gate.case("bad_signature: of a token"), gate.case("malformed: an API key"));
    let waiting = || gate.live.ban_activity().take(10).len();
    for _ in 0..9 {
        gate.send(forged).await;
    }
    // Another replica bans it.
    let network = Network::host("192.0.2.7".parse().unwrap());
    let durations = gate.live.load().snapshot.policy.automatic_bans.as_ref().unwrap().durations;
    let ban = AutomaticBan { network, durations, reason: "automatic".into() };
    gate.store.begin_ban(&ban).await.unwrap();
    for _ in 0..25 {
        assert_eq!(gate.send(malformed).await, 401, "this answer costs nothing");
        assert_eq!(gate.send(forged).await, 429);
    }
    assert_eq!(waiting(), 0);
    assert!(gate.store.lift(&Target::Network(network)).await.unwrap());
    for _ in 0..9 {
        gate.send(malformed).await;
    }
    assert_eq!(waiting(), 0);
    gate.send(malformed).await;
    assert_eq!(waiting(), 1);
}

/// A client that has a whole IPv6 site sends from another network each time, below the threshold of
/// each. Clients of IPv4 behind a translator have one /64 in common, and are not one client.
#[tokio::test]
async fn a_client_that_changes_its_ipv6_network_is_banned_as_a_site() {
    let gate = Gate::new("enforce");
    let send = async |address: String| {
        let mut case = gate.case("bad_signature: of a token").clone();
        case.request.address = Some(address.parse().unwrap());
        gate.send(&case).await;
        let taken = gate.live.ban_activity().take(10);
        taken.first().map(|offender| offender.network.to_string())
    };
    for number in 0..79 {
        assert_eq!(send(format!("2001:db8:7:{number:x}::1")).await, None, "{number}");
        assert_eq!(send(format!("64:ff9b::198.51.100.{number}")).await, None, "{number}");
        assert_eq!(send(format!("198.51.100.{number}")).await, None, "{number}");
    }
    assert_eq!(send("2001:db8:7:ffff::1".into()).await.as_deref(), Some("2001:db8:7::/48"));
    // One network of a site is banned alone, and its failures are none of its neighbours.
    for number in 0..200 {
        let found = send("2001:db8:8:1::1".into()).await;
        if found.is_some() {
            assert_eq!((number % 10, found.as_deref()), (9, Some("2001:db8:8:1::/64")));
        }
        if number == 9 {
            let network = Network::parse("2001:db8:8:1::/64").unwrap();
            let terms = gate.live.load().snapshot.policy.automatic_bans.clone().unwrap();
            let durations = terms.durations;
            let ban = AutomaticBan { network, durations, reason: "automatic".into() };
            gate.store.begin_ban(&ban).await.unwrap();
        }
    }
    assert_eq!(send("2001:db8:8:2::1".into()).await, None);
}

#[tokio::test]
async fn offenders_are_listed_before_and_after_a_ban() {
    let gate = Gate::new("enforce");
    let (forged, limited) =
        (gate.case("bad_signature: of a token"), gate.case("none: allowed or beyond its limit"));
    let listed = || {
        let bans = Arc::clone(gate.live.load().network_bans.as_ref().unwrap());
        let list = bans.offenders(10);
        let found = list.first().map(|one| (one.network.to_string(), one.failures, one.refused));
        (list.len(), found)
    };
    assert_eq!(listed(), (0, None));
    for _ in 0..10 {
        gate.send(forged).await;
    }
    assert_eq!(listed(), (1, Some(("192.0.2.7/32".into(), 10, 0))));
    let network = Network::host("192.0.2.7".parse().unwrap());
    let durations = gate.live.load().snapshot.policy.automatic_bans.as_ref().unwrap().durations;
    let ban = AutomaticBan { network, durations, reason: "automatic".into() };
    gate.store.begin_ban(&ban).await.unwrap();
    for _ in 0..5 {
        gate.send(forged).await;
    }
    assert_eq!(listed(), (1, Some(("192.0.2.7/32".into(), 15, 5))));
    // A holder of a valid credential that is denied is no network's failure.
    for _ in 0..4 {
        gate.send(limited).await;
    }
    let denied = gate.live.denied().offenders(10, None).list;
    let [alice] = &denied[..] else { panic!("{denied:?}") };
    let expected =
        Target::Subject { issuer: "https://auth.example.com".into(), subject: "alice".into() };
    assert_eq!((&alice.holder, alice.denials, alice.tenant.as_deref()), (&expected, 3, None));
    assert_eq!((alice.reason, gate.live.denied().most()), (Reason::RateLimited, 3));
    assert_eq!(gate.live.denied().offenders(10, Some(&["acme".into()])).list.len(), 0);
}

/// A refusal costs no verification, with another forged token each time.
#[tokio::test]
async fn forged_tokens_of_a_banned_network_are_not_verified() {
    let gate = Gate::new("enforce");
    let durations = gate.live.load().snapshot.policy.automatic_bans.as_ref().unwrap().durations;
    let network = Network::host("192.0.2.7".parse().unwrap());
    let ban = AutomaticBan { network, durations, reason: "automatic".into() };
    gate.store.begin_ban(&ban).await.unwrap();
    let statuses: Vec<u16> = {
        let mut case = gate.case("bad_signature: of a token").clone();
        let mut statuses = Vec::new();
        for number in 0..1000 {
            for (name, value) in &mut case.request.headers {
                if name == "authorization" {
                    value.truncate(value.len() - 4);
                    value.extend(format!("{number:04}").bytes());
                }
            }
            statuses.push(gate.send(&case).await);
        }
        statuses
    };
    assert_eq!((statuses[0], statuses.iter().filter(|status| **status == 429).count()), (401, 999));
    let checks = gate.live.ban_activity().status().checks;
    assert_eq!(checks, [("known", 0), ("verified", 1), ("refused", 999)]);
    let lookups = gate.live.lookups().by_result();
    assert_eq!(lookups, [("hit", 0), ("negative", 0), ("miss", 1)], "one was verified");
}
