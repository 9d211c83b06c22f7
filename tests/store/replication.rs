//! `replicate_revocations`: a credential is looked up in memory, and in Redis if the copy may be
//! too old.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, ACL_RULE, RedisConfig, ReplicateConfig, Revocation, Store, StoreConfig,
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    identity::Principal,
    revocation::Target,
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, Server, section},
    requests::{ISSUER, NOW, about, charge, principal, revoked_by, until},
};

const BOUND: Duration = Duration::from_secs(1);

/// A store with a copy that checks use while it is younger than [`BOUND`].
fn replicated(url: &str) -> Arc<dyn Store> {
    replicated_for(url, BOUND)
}

fn replicated_for(url: &str, bound: Duration) -> Arc<dyn Store> {
    let max_staleness = Span::from_micros(u64::try_from(bound.as_micros()).unwrap());
    let replicate_revocations = Some(ReplicateConfig { max_staleness });
    open(RedisConfig { replicate_revocations, deadline: Span::from_secs(2), ..section(url) })
}

/// Waits until the copy is read and its subscription waits in Redis: connecting runs a script, too.
async fn until_subscribed(store: &dyn Store, server: &Server) {
    until("the copy is read and followed", async || {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.client()).unwrap();
        store.status().replica.unwrap().age.is_some() && clients.contains("cmd=xread")
    })
    .await;
}

fn open(config: RedisConfig) -> Arc<dyn Store> {
    store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap().store
}

fn subject(name: &str) -> Arc<Principal> {
    principal(json!({ "jti": name, "sub": name, "iat": NOW }), &[])
}

fn target(name: &str) -> Target {
    Target::Subject { issuer: ISSUER.into(), subject: name.into() }
}

async fn revoke(store: &dyn Store, name: &str) {
    let revocation =
        Revocation::new(target(name), Timestamp::from_secs(NOW), Span::from_secs(3600), None)
            .unwrap();
    store.revoke(&revocation).await.unwrap();
}

fn fresh(store: &dyn Store) -> bool {
    store.status().replica.unwrap().age.is_some_and(|age| age < BOUND)
}

/// How many scripts the server ran.
fn scripts(server: &Server) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.client()).unwrap();
    let calls = |name: &str| -> u64 {
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    calls("evalsha") + calls("eval")
}

#[tokio::test]
async fn a_check_without_limits_makes_no_round_trip() {
    let server = redis_server::start(&[]);
    let (store, other) =
        (replicated_for(&server.unix(), 60 * BOUND), redis_server::open(&server.unix()));
    revoke(&other, "a").await;
    until_subscribed(&*store, &server).await;
    let before = scripts(&server);
    for _ in 0..50 {
        assert_eq!(revoked_by(&*store, &subject("a")).await, Ok(Some("subject")));
        assert_eq!(revoked_by(&*store, &subject("b")).await, Ok(None));
    }
    assert_eq!(scripts(&server), before);

    // With a limit, Redis is queried for the limit only; a revoked credential is not counted.
    let counted =
        |name| AdmitRequest { charges: vec![charge("k", 3_600_000, 9)], ..about(&subject(name)) };
    assert_eq!(store.admit(&counted("a")).await, Ok(AdmitResponse::Revoked("subject")));
    assert!(
        matches!(store.admit(&counted("b")).await, Ok(AdmitResponse::Counted(verdicts)) if verdicts[0].remaining == 8)
    );
    assert_eq!(scripts(&server), before + 1);
}

#[tokio::test]
async fn a_revocation_is_pushed() {
    let server = redis_server::start(&[]);
    let (store, other) = (replicated(&server.unix()), redis_server::open(&server.unix()));
    until("the copy is there", async || fresh(&*store)).await;
    for n in 0..10 {
        let name = format!("s{n}");
        assert_eq!(revoked_by(&*store, &subject(&name)).await, Ok(None));
        revoke(&other, &name).await;
        until("the revocation applies", async || {
            revoked_by(&*store, &subject(&name)).await == Ok(Some("subject"))
        })
        .await;
        other.reinstate(&target(&name)).await.unwrap();
        until("it is removed", async || revoked_by(&*store, &subject(&name)).await == Ok(None))
            .await;
    }
}

#[tokio::test]
async fn changes_during_a_lost_connection_are_read_afterwards() {
    let server = redis_server::start(&[]);
    let (store, other) = (replicated(&server.unix()), redis_server::open(&server.unix()));
    revoke(&other, "a").await;
    until("the copy is there", async || fresh(&*store)).await;
    for (name, trimmed) in [("b", false), ("c", true)] {
        let mut client = server.client();
        // In one step, so that no connection is made in between: all connections end, and then
        // there is a change.
        let key = format!("{{tollgate}}:revoked:{}", target(name).key());
        let mut step = redis::pipe();
        step.atomic().cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        step.cmd("SET")
            .arg(&key)
            .arg(NOW)
            .cmd("ZADD")
            .arg("{tollgate}:revocations")
            .arg(4_000_000_000_000_u64);
        step.arg(target(name).key());
        if trimmed {
            // More changes than are kept.
            step.cmd("DEL").arg("{tollgate}:revocations:changes");
        }
        step.cmd("XADD")
            .arg("{tollgate}:revocations:changes")
            .arg("*")
            .arg(&["+", &target(name).key()]);
        step.arg("at").arg(NOW).arg("ends").arg(4_000_000_000_000_u64).exec(&mut client).unwrap();
        until("the change is read", async || {
            revoked_by(&*store, &subject(name)).await == Ok(Some("subject"))
        })
        .await;
        assert_eq!(revoked_by(&*store, &subject("a")).await, Ok(Some("subject")));
        until("the copy is in step", async || fresh(&*store)).await;
    }
}

/// Checks that the copy is used until it is too old, while Redis does not answer.
async fn outlives(store: &dyn Store, confirmed: Instant) {
    let mut answers = 0;
    until("the end of the bound", async || {
        // Before the look-up, so that a pause of this process after it adds nothing.
        let age = confirmed.elapsed();
        let Ok(answer) = revoked_by(store, &subject("b")).await else { return true };
        assert_eq!(answer, None);
        assert!(
            age < BOUND + Duration::from_millis(100),
            "an answer from a copy that is {age:?} old"
        );
        answers += 1;
        false
    })
    .await;
    assert!(answers > 10, "the copy bridged nothing: {answers}");
    assert_eq!(
        revoked_by(store, &subject("a")).await,
        Ok(Some("subject")),
        "a known revocation holds at any age"
    );
}

#[tokio::test]
async fn beyond_the_bound_a_killed_redis_is_an_outage() {
    let mut server = redis_server::start(&[]);
    let store = replicated(&format!("redis://127.0.0.1:{}", server.port()));
    revoke(&*store, "a").await;
    until("the copy is there", async || {
        revoked_by(&*store, &subject("a")).await.is_ok() && fresh(&*store)
    })
    .await;
    server.kill();
    outlives(&*store, Instant::now()).await;
    // It is empty after the restart, and so is the copy.
    server.restart();
    until("the copy is there again", async || fresh(&*store)).await;
    assert_eq!(revoked_by(&*store, &subject("a")).await, Ok(None));
    assert_eq!(store.status().replica.unwrap().revocations, 0);
    revoke(&*store, "b").await;
    until("it is followed", async || {
        revoked_by(&*store, &subject("b")).await == Ok(Some("subject"))
    })
    .await;
}

#[tokio::test]
async fn beyond_the_bound_a_frozen_redis_is_an_outage() {
    let server = redis_server::start(&[]);
    let (store, other) = (replicated(&server.unix()), redis_server::open(&server.unix()));
    revoke(&other, "a").await;
    until("the copy is there", async || {
        revoked_by(&*store, &subject("a")).await.is_ok() && fresh(&*store)
    })
    .await;
    server.freeze();
    outlives(&*store, Instant::now()).await;
    server.thaw();
    until("the copy is in step again", async || fresh(&*store)).await;
    assert_eq!(revoked_by(&*store, &subject("a")).await, Ok(Some("subject")));
}

#[tokio::test]
async fn a_replica_that_starts_late_reads_all_revocations() {
    let server = redis_server::start(&[]);
    let other = redis_server::open(&server.unix());
    for n in 0..1200 {
        revoke(&other, &format!("s{n}")).await;
    }
    let store = replicated_for(&server.unix(), 60 * BOUND);
    // Before the copy is read, Redis is queried.
    assert_eq!(revoked_by(&*store, &subject("s7")).await, Ok(Some("subject")));
    until_subscribed(&*store, &server).await;
    assert_eq!(store.status().replica.unwrap().revocations, 1200);
    let before = scripts(&server);
    for n in (0..1200).step_by(100) {
        assert_eq!(
            revoked_by(&*store, &subject(&format!("s{n}"))).await,
            Ok(Some("subject")),
            "{n}"
        );
    }
    assert_eq!(scripts(&server), before);
}

#[tokio::test]
async fn a_user_without_xread_polls() {
    let rule = ACL_RULE.replace("+xread ", "");
    let user = format!("--user tollgate on >s3cret {rule}");
    let server = redis_server::start(&user.split_whitespace().collect::<Vec<_>>());
    let store = replicated(&format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port()));
    until("the copy is there", async || fresh(&*store)).await;
    let other = redis_server::open(&server.unix());
    revoke(&other, "a").await;
    until("the revocation is found", async || {
        revoked_by(&*store, &subject("a")).await == Ok(Some("subject"))
    })
    .await;
    until("the copy is confirmed", async || fresh(&*store)).await;
}
