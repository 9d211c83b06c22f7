//! One deadline for a check, whatever it waits for: a proxy forwards a request whose check is late,
//! where `failure_mode_allow` is set.

use std::time::{Duration, Instant};

use super::{
    checks::{Check, engine},
    redis_server,
    requests::{undisturbed, until},
};

/// Far more than the deadlines below, and far less than that of the store.
const SOON: Duration = Duration::from_millis(900);

#[tokio::test]
async fn a_check_ends_before_the_proxy_stops_waiting_and_is_charged_once() {
    let server = redis_server::start(&[]);
    let engine = engine(&server, "1s");
    until("Redis answers", async || {
        Check::of("ann", "/allow").decide(&engine).await == "allow"
            && Check::of("ann", "/deny").decide(&engine).await == "allow"
    })
    .await;
    server.freeze();
    let began = Instant::now();
    // How long Redis would have taken is not known: no outage, which would let the request pass.
    let decided = Check::of("ann", "/limited").decide_within(&engine, "200m", began).await;
    assert_eq!((decided.as_str(), began.elapsed() < SOON), ("overloaded", true));

    // The call, the reading of a message, or the wait for a thread may have taken the time.
    let (began, before) = (Instant::now(), Instant::now() - Duration::from_millis(1450));
    for body in [0, 100_000] {
        let path = if body == 0 { "/allow" } else { "/chat" };
        let check = Check::of("bob", path);
        let check = if body == 0 { check } else { check.with_body(body) };
        let decided = check.decide_within(&engine, "2S", before).await;
        assert_eq!((decided.as_str(), began.elapsed() < SOON), ("overloaded", true), "{path}");
    }
    server.thaw();

    // Redis has charged the request that it got: two of three are left.
    for expected in ["allow", "allow", "rate_limited"] {
        assert_eq!(Check::of("ann", "/limited").decide(&engine).await, expected);
    }
    engine.close().await;
}

#[tokio::test]
async fn a_check_whose_time_is_over_is_not_charged() {
    let server = redis_server::start(&[]);
    let engine = engine(&server, "100ms");
    until("Redis answers", async || Check::of("bob", "/limited").decide(&engine).await == "allow")
        .await;
    let before = Instant::now() - Duration::from_secs(2);
    for _ in 0..10 {
        let decided = Check::of("ann", "/limited").decide_within(&engine, "2S", before).await;
        assert_eq!(decided, "overloaded");
    }
    let chat = Check::of("ann", "/chat").with_body(100_000);
    assert_eq!(chat.decide_within(&engine, "2S", before).await, "overloaded");
    for expected in ["allow", "allow", "allow", "rate_limited"] {
        assert_eq!(Check::of("ann", "/limited").decide(&engine).await, expected);
    }
    engine.close().await;
}

/// A store that does not answer is an outage, in its own deadline.
#[tokio::test]
async fn an_outage_within_the_time_of_the_check_is_an_outage() {
    let server = redis_server::start(&[]);
    let engine = engine(&server, "50ms");
    until("Redis answers", async || Check::of("ann", "/allow").decide(&engine).await == "allow")
        .await;
    server.freeze();
    for (path, expected) in [("/allow", "allow"), ("/deny", "store_unavailable")] {
        let decide =
            async || Check::of("ann", path).decide_within(&engine, "2S", Instant::now()).await;
        undisturbed(expected.to_owned(), decide).await;
    }
    server.thaw();
    engine.close().await;
}
