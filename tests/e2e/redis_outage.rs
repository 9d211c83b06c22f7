//! Redis stopped, resumed and killed behind a real Envoy: `on_outage` with each failure policy of the
//! proxy, and no wrong allow and no hang under load.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use crate::rig::{
    POLICY, Rig, chat,
    envoy::{CURRENT, Envoy, failure_mode_allow},
    http::{Reply, Request},
    issuer::Issuer,
    redis::Redis,
    replace_once,
    tollgate::Tollgate,
    until,
    upstream::Upstream,
};

/// One route for each `on_outage`.
fn policy() -> String {
    let routes: String = ["deny", "error", "allow", "local"]
        .map(|word| {
            format!(
                "  - match: {{ methods: [GET], paths: [/{word}] }}\n    scopes: []\n    limits: [per-subject]\n    on_outage: {word}\n"
            )
        })
        .concat();
    let store = r#"store:
  redis:
    url: "unix:///${DIR}/redis.sock"
    password: "file:${DIR}/redis.password"
    local: { replicas: 2, refresh: 100ms, max_staleness: 60s }
limits:
  - { name: per-subject, by: [subject], rate: 1/1h, burst: 4 }
"#;
    POLICY.replace("routes:\n", &format!("routes:\n{routes}")) + store
}

#[test]
fn a_route_s_on_outage_decides_and_only_error_leaves_the_decision_to_the_proxy() {
    failure_policies(CURRENT);
}

pub(super) fn failure_policies(version: &str) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let upstream = Upstream::start();
    let tollgate = Tollgate::start(dir.path(), &policy());
    let strict = Envoy::start(dir.path(), upstream.port, version, |config| config);
    let lenient = Envoy::start(dir.path(), upstream.port, version, failure_mode_allow);
    let get =
        |envoy: &Envoy, path: &str, token: &str| envoy.send(&Request::get(path).bearer(token));

    // Before the outage one token is revoked, and everything works.
    let gone = issuer.token(json!({ "sub": "gone", "jti": "gone" }));
    let revoked = Request::post(
        "/v1/revocations",
        json!({ "issuer": "https://auth.example.com", "jti": "gone" }).to_string(),
    );
    assert_eq!(tollgate.admin(revoked).status, 200);
    assert_eq!(get(&strict, "/local", &gone).verdict(), (401, "revoked".into()));
    assert_eq!(get(&strict, "/deny", &issuer.token(json!({}))).status, 200);
    // The second read of changes from now began after the revocation.
    let reads = redis.calls("xrange");
    until("the replica of the revocations", || (redis.calls("xrange") >= reads + 2).then_some(()));
    upstream.taken();

    redis.pause();
    until("the circuit to open", || {
        get(&strict, "/deny", &issuer.token(json!({})));
        (tollgate.metric("tollgate_store_up", &[]) == 0.0).then_some(())
    });
    assert!(tollgate.metric("tollgate_store_errors_total", &[]) > 0.0);
    upstream.taken();
    let unavailable = |reply: &Reply| {
        assert_eq!(reply.verdict(), (503, "store_unavailable".into()));
        assert_eq!(
            (reply.one("retry-after"), reply.one("content-type")),
            (Some("1"), Some("application/json"))
        );
    };

    for (name, envoy) in [("strict", &strict), ("lenient", &lenient)] {
        let token = issuer.token(json!({ "sub": name }));
        // The route decides, so that the proxy's failure policy does not apply.
        unavailable(&get(envoy, "/deny", &token));
        assert!(upstream.taken().is_empty());
        // The route allows with identity, but no token whose revocation is known here.
        let reply = get(envoy, "/allow", &token);
        assert_eq!((reply.status, upstream.only().all("x-tollgate-subject")), (200, vec![name]));
        for path in ["/allow", "/error", "/deny"] {
            assert_eq!(get(envoy, path, &gone).verdict(), (401, "revoked".into()), "{path}");
        }
        assert!(upstream.taken().is_empty());
        // This replica's share of four is two; the last known revocations apply.
        for _ in 0..2 {
            let reply = get(envoy, "/local", &token);
            assert_eq!(
                (reply.status, upstream.only().all("x-tollgate-subject")),
                (200, vec![name]),
                "{}",
                reply.text()
            );
        }
        assert_eq!(get(envoy, "/local", &token).verdict(), (429, "rate_limited".into()));
        assert_eq!(get(envoy, "/local", &gone).verdict(), (401, "revoked".into()));
        assert!(upstream.taken().is_empty());
    }

    // The check fails: the proxy answers with its own status, or forwards without any identity.
    let token = issuer.token(json!({}));
    let failed = strict.send(&Request::get("/error").bearer(&token));
    assert_eq!((failed.status, failed.code().as_str(), upstream.taken().len()), (503, "", 0));
    let passed =
        lenient.send(&Request::get("/error").bearer(&token).header("X-Tollgate-Subject", "admin"));
    assert_eq!((passed.status, upstream.only().all("x-tollgate-subject")), (200, Vec::new()));
    // A decision that needs no store does not change.
    assert_eq!(lenient.send(&Request::get("/error")).verdict(), (401, "missing_credential".into()));
    assert!(upstream.taken().is_empty());

    redis.resume();
    // Charges that got no answer are kept: the bucket of another subject shows the recovery.
    let fresh = issuer.token(json!({ "sub": "fresh" }));
    until("the store to be back", || (get(&strict, "/deny", &fresh).status == 200).then_some(()));
    tollgate.until_metric("tollgate_store_up", &[], 1.0);
    assert_eq!(get(&strict, "/allow", &gone).verdict(), (401, "revoked".into()));
}

/// The longest time of an answer: the proxy's timeout. The store's deadline is 100 ms; the rest is
/// for a busy machine.
const SLOWEST: Duration = Duration::from_secs(2);

#[test]
fn an_outage_under_load_never_allows_a_revoked_token_and_never_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let rig = Rig::start(&format!("{POLICY}{}", redis.store().replace("${DIR}", &place)));
    let (good, gone) = (rig.token(json!({})), rig.token(json!({ "jti": "gone" })));
    let entry = json!({ "issuer": "https://auth.example.com", "jti": "gone" });
    assert_eq!(rig.tollgate.admin(Request::post("/v1/revocations", entry.to_string())).status, 200);

    let (stop, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let verdict = |token: &str| {
        let reply = rig.envoy.send(&chat(token));
        answers.lock().unwrap().push((token == gone, reply.verdict(), reply.took));
        reply.verdict()
    };
    let unavailable = || (503, "store_unavailable".to_owned());
    let refused_in_outage = |revoked: bool| {
        let answers = answers.lock().unwrap();
        answers.iter().filter(|(of, seen, _)| (*of, seen) == (revoked, &unavailable())).count()
    };
    std::thread::scope(|scope| {
        // The scope waits for its threads, also when an assertion below fails.
        let _stop = StopOnDrop(&stop);
        for n in 0..4 {
            let (stop, verdict, token) = (&stop, &verdict, if n == 0 { &gone } else { &good });
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    verdict(token);
                }
            });
        }
        let works = || {
            until("service", || (verdict(&good) == (200, String::new())).then_some(()));
            until("revocation", || (verdict(&gone) == (401, "revoked".into())).then_some(()));
        };
        let fails = || {
            let before = [false, true].map(refused_in_outage);
            until("both tokens refused in the outage, again and again", || {
                let now = [false, true].map(refused_in_outage);
                (now[0] >= before[0] + 50 && now[1] >= before[1] + 15).then_some(())
            });
        };
        works();
        redis.pause();
        fails();
        redis.resume();
        works();
        redis.kill();
        fails();
        redis.restart();
        works();
    });

    let answers = answers.into_inner().unwrap();
    for (revoked, verdict, took) in &answers {
        let expected = if *revoked { (401, "revoked".to_owned()) } else { (200, String::new()) };
        assert!(
            *verdict == expected || *verdict == unavailable(),
            "revoked: {revoked}, {verdict:?}"
        );
        assert!(*took < SLOWEST, "{verdict:?} took {took:?}");
    }
    let of = |wanted: u16| answers.iter().filter(|(_, (status, _), _)| *status == wanted).count();
    assert!(of(200) > 0 && of(401) > 0 && of(503) > 0, "{} {} {}", of(200), of(401), of(503));
    // The upstream got the allowed requests and none of the revoked token.
    assert_eq!(rig.upstream.taken().len(), of(200));
}

/// Stops the load when it is dropped.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Envoy names its timeout in the call, and forwards a request whose check is later.
#[test]
fn a_check_is_answered_before_envoy_stops_waiting_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let upstream = Upstream::start();
    // The store may take as long as Envoy waits.
    let policy = policy().replace("  redis:\n", "  redis:\n    deadline: 1s\n");
    let tollgate = Tollgate::start(dir.path(), &policy);
    let envoy = Envoy::start(dir.path(), upstream.port, CURRENT, |config| {
        let timeout = |time: &str| format!("                        timeout: {time}");
        replace_once(failure_mode_allow(config), &timeout("10s"), &timeout("1s"))
    });
    let token = issuer.token(json!({}));
    until("the first answer of Redis", || {
        (envoy.send(&Request::get("/deny").bearer(&token)).status == 200).then_some(())
    });
    upstream.taken();
    redis.pause();
    let reply = envoy.send(&Request::get("/deny").bearer(&token));
    redis.resume();
    assert_eq!(reply.verdict(), (503, "overloaded".into()));
    assert_eq!(upstream.taken().len(), 0);
    assert!(tollgate.metric("tollgate_checks_total", &["reason=\"overloaded\""]) >= 1.0);
    let log = tollgate.process.err();
    assert!(log.contains("timeout for checks leaves 750 ms"), "{log}");
}
