//! Redis stopped, resumed and killed under load: no wrong allow, no hang, and back by itself.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use crate::rig::{POLICY, Rig, chat, http::Request, redis::Redis, until};

/// The store's deadline is 100 ms, and the proxy's patience 2 s: what is between the two is for a busy machine.
const SLOWEST: Duration = Duration::from_secs(2);

#[test]
fn an_outage_under_load_never_allows_what_is_revoked_and_never_hangs() {
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
    std::thread::scope(|scope| {
        // Also when something below fails: the scope waits for its threads.
        let _end = Ending(&stop);
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
            until("the outage to show", || (verdict(&good) == unavailable()).then_some(()));
            std::thread::sleep(Duration::from_millis(300));
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
    // Nothing of the revoked token's, and as many requests as were allowed.
    assert_eq!(rig.upstream.taken().len(), of(200));
}

/// Tells the load to stop when it is dropped.
struct Ending<'s>(&'s AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
