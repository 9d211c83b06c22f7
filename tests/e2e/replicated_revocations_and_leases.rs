//! Checks without a call to Redis: replicated revocations and leased limits.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{
    POLICY, Rig,
    http::Request,
    redis::{PASSWORD, Redis},
    tollgate::run,
    until,
};

/// The number of admitted requests.
const REQUESTS: u64 = 40;

#[test]
fn most_checks_make_no_round_trip_and_unused_grants_are_returned_at_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let store = format!(
        "store: {{ redis: {{ url: \"unix:{place}/redis.sock\", password: \"file:{place}/redis.password\", \
         replicate_revocations: {{ max_staleness: 60s }} }} }}\n\
         limits: [{{ name: daily, by: [subject], rate: 10000/1d, lease: {{ slice: 20, life: 30s }} }}]\n"
    );
    let policy = POLICY.replace("    name: models\n", "    name: models\n    limits: [daily]\n");
    let mut rig = Rig::start(&format!("{policy}{store}"));
    let models = |rig: &Rig, token: &str| rig.envoy.send(&Request::get("/v1/models").bearer(token));
    let token = rig.token(json!({ "sub": "alice", "jti": "a1" }));

    // The copy of the revocations may be read after the start.
    until("a check is decided without a call", || {
        let before = redis.calls("evalsha");
        models(&rig, &token);
        (redis.calls("evalsha") == before).then_some(())
    });
    let before = redis.calls("evalsha");
    for _ in 0..REQUESTS {
        let reply = models(&rig, &token);
        assert_eq!(reply.verdict(), (200, String::new()));
    }
    let calls = redis.calls("evalsha") - before;
    assert!(calls < REQUESTS / 2, "{calls} calls for {REQUESTS} checks");

    // A revocation written by another process applies here without a call to Redis.
    std::fs::write(
        dir.path().join("redis.url"),
        format!("unix://{place}/redis.sock?pass={PASSWORD}"),
    )
    .unwrap();
    let issuer = "https://auth.example.com";
    let output = run(
        dir.path(),
        &["revoke", "add", "--redis", "@redis.url", "--issuer", issuer, "--jti", "a1"],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until("the revocation", || {
        (models(&rig, &token).verdict() == (401, "revoked".into())).then_some(())
    });

    rig.tollgate.process.signal(Signal::SIGTERM);
    assert!(rig.tollgate.process.ended(Duration::from_secs(10)).success());
    let admitted =
        rig.tollgate.audit().iter().filter(|line| line["decision"] == "allow").count() as u64;
    let key =
        redis.command(&["EVAL", "return redis.call('KEYS', '{tollgate}:rate:daily:*')[1]", "0"]);
    let full_at: u64 = redis.command(&["GET", &key]).parse().unwrap();
    let time = redis.command(&[
        "EVAL",
        "local t = redis.call('TIME') return t[1] .. string.format('%06d', t[2])",
        "0",
    ]);
    let day = 86_400_000_000_u64;
    let spent = (full_at - time.parse::<u64>().unwrap()).div_ceil(day / 10_000);
    assert_eq!(spent, admitted, "unused grants are returned");
}
