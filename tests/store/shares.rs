//! The share of one client of the checks that wait: others are served while it uses up its own.

use futures_util::future::join_all;
use tollgate::engine::Engine;

use super::{
    checks::{Check, engine},
    redis_server::{self, Server},
    requests::{undisturbed, until},
};

/// An eighth of the 1024 checks that may be in flight.
const SHARE: usize = 128;

async fn started() -> (Server, Engine) {
    let server = redis_server::start(&[]);
    let engine = engine(&server, "500ms");
    until("Redis answers", async || Check::of("ann", "/allow").decide(&engine).await == "allow")
        .await;
    (server, engine)
}

/// Decides all checks at once, and returns how many were decided so.
async fn count(engine: &Engine, checks: Vec<Check>, wanted: &str) -> usize {
    let decided = join_all(checks.into_iter().map(|check| check.decide(engine))).await;
    decided.iter().filter(|decided| *decided == wanted).count()
}

#[tokio::test]
async fn a_client_whose_checks_wait_for_the_store_does_not_keep_others_out() {
    let of = |subject: &str, checks: usize| -> Vec<Check> {
        (0..checks).map(|_| Check::of(subject, "/allow")).collect()
    };
    // At the end the share is free.
    undisturbed((1000 - SHARE, 0, SHARE), async || {
        let (server, engine) = started().await;
        server.freeze();
        let (flood, others) = tokio::join!(
            count(&engine, of("mallory", 1000), "overloaded"),
            count(&engine, of("ann", SHARE), "overloaded"),
        );
        server.thaw();
        let is_back = async || Check::of("mallory", "/deny").decide(&engine).await == "allow";
        until("Redis answers", is_back).await;
        let free = count(&engine, of("mallory", SHARE), "allow").await;
        engine.close().await;
        (flood, others, free)
    })
    .await;
}

#[tokio::test]
async fn clients_without_a_token_have_a_share_for_each_address() {
    let of = |address: &'static str, checks: usize| -> Vec<Check> {
        (0..checks).map(|_| Check::from(address)).collect()
    };
    // One network is one client.
    undisturbed((300 - SHARE, 10, 0), async || {
        let (server, engine) = started().await;
        server.freeze();
        let counts = tokio::join!(
            count(&engine, of("2001:db8::1", 300), "overloaded"),
            count(&engine, of("2001:db8::2:2", 10), "overloaded"),
            count(&engine, of("192.0.2.1", SHARE), "overloaded"),
        );
        server.thaw();
        engine.close().await;
        counts
    })
    .await;
}

/// A quarter of the bytes, and a quarter of the places of the pool.
#[tokio::test]
async fn a_client_with_large_bodies_does_not_keep_others_out() {
    let (_server, engine) = started().await;
    for (bytes, flood, share) in [(15 << 20, 4, 1), (100_000, 60, 16)] {
        let of = |subject: &str, checks: usize| -> Vec<Check> {
            (0..checks).map(|_| Check::of(subject, "/chat").with_body(bytes)).collect()
        };
        // At the end the share is free.
        undisturbed((flood - share, 1, 1), async || {
            let (flooded, others) = tokio::join!(
                count(&engine, of("mallory", flood), "overloaded"),
                count(&engine, of("ann", 1), "allow"),
            );
            (flooded, others, count(&engine, of("mallory", 1), "allow").await)
        })
        .await;
    }
    engine.close().await;
}
