//! What happens when something is gone: the store, Tollgate, or its answer, with each failure policy of the proxy.

use std::time::Duration;

use serde_json::json;

use crate::rig::{
    POLICY, Rig,
    envoy::{CURRENT, Envoy, failure_mode_allow},
    http::{Reply, Request},
    issuer::Issuer,
    redis::Redis,
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
fn a_store_that_is_gone_means_what_the_route_says_and_the_proxy_s_policy_only_where_it_says_so() {
    store(CURRENT);
}

pub(super) fn store(version: &str) {
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

    // Known before the outage: who is revoked, and that everything works.
    let gone = issuer.token(json!({ "sub": "gone", "jti": "gone" }));
    let revoked = Request::post(
        "/v1/revocations",
        json!({ "issuer": "https://auth.example.com", "jti": "gone" }).to_string(),
    );
    assert_eq!(tollgate.admin(revoked).status, 200);
    assert_eq!(get(&strict, "/local", &gone).verdict(), (401, "revoked".into()));
    assert_eq!(get(&strict, "/deny", &issuer.token(json!({}))).status, 200);
    // The second look for changes from now began after the revocation.
    let looks = redis.calls("xrange");
    until("the replica of the revocations", || (redis.calls("xrange") >= looks + 2).then_some(()));
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
        // A decision of the rule: not the proxy's business.
        unavailable(&get(envoy, "/deny", &token));
        assert!(upstream.taken().is_empty());
        // Allowed by the rule, revoked or not, with identity.
        let reply = get(envoy, "/allow", &token);
        assert_eq!((reply.status, upstream.only().all("x-tollgate-subject")), (200, vec![name]));
        assert_eq!(get(envoy, "/allow", &gone).status, 200);
        upstream.taken();
        // This replica's share of four is two; the last known revocations hold.
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

    // Handed to the proxy: its own status, or through without an identity that nobody vouched for.
    let token = issuer.token(json!({}));
    let failed = strict.send(&Request::get("/error").bearer(&token));
    assert_eq!((failed.status, failed.code().as_str(), upstream.taken().len()), (503, "", 0));
    let passed =
        lenient.send(&Request::get("/error").bearer(&token).header("X-Tollgate-Subject", "admin"));
    assert_eq!((passed.status, upstream.only().all("x-tollgate-subject")), (200, Vec::new()));
    // What is decided without the store is decided as always.
    assert_eq!(lenient.send(&Request::get("/error")).verdict(), (401, "missing_credential".into()));
    assert!(upstream.taken().is_empty());

    redis.resume();
    // What was charged and not answered stands: somebody else's bucket shows that it is back.
    let fresh = issuer.token(json!({ "sub": "fresh" }));
    until("the store to be back", || (get(&strict, "/deny", &fresh).status == 200).then_some(()));
    tollgate.until_metric("tollgate_store_up", &[], 1.0);
    assert_eq!(get(&strict, "/allow", &gone).verdict(), (401, "revoked".into()));
}

#[test]
fn without_tollgate_or_its_answer_the_proxy_s_policy_holds() {
    tollgate(CURRENT);
}

pub(super) fn tollgate(version: &str) {
    let mut rig = Rig::on(version, POLICY, |envoy| envoy);
    let lenient = Envoy::start(rig.dir.path(), rig.upstream.port, version, failure_mode_allow);
    let token = rig.token(json!({}));
    assert_eq!(
        [rig.chat(&token).status, lenient.send(&crate::rig::chat(&token)).status],
        [200, 200]
    );
    rig.upstream.taken();

    let outcome = |envoy: &Envoy, about: &str, expected: (u16, usize)| {
        // Without any credential: nothing was asked, so nothing was decided.
        let reply = envoy.send(&Request::get("/v1/models"));
        assert_eq!((reply.status, rig.upstream.taken().len()), expected, "{about}");
        assert!(reply.took < Duration::from_secs(4), "{about}: {:?}", reply.took);
    };
    rig.tollgate.process.pause();
    outcome(&rig.envoy, "no answer, failure_mode_allow: false", (503, 0));
    outcome(&lenient, "no answer, failure_mode_allow: true", (200, 1));
    rig.tollgate.process.resume();
    until("answers again", || (rig.chat(&token).status == 200).then_some(()));
    rig.upstream.taken();

    rig.tollgate.process.kill();
    outcome(&rig.envoy, "killed, failure_mode_allow: false", (503, 0));
    outcome(&lenient, "killed, failure_mode_allow: true", (200, 1));
}
