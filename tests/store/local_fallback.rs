//! `on_outage: local`: shares of limits, and the revocations that were last read.

use std::{sync::Arc, time::Duration};

use redis::Connection;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, LocalConfig, LocalFallback, Opened, RedisConfig, Revocation, Store, StoreConfig,
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    identity::Principal,
    limit::{
        Counter, Hold, Verdict,
        escrow::EscrowConfig,
        reservation::{Reservation, ReservationId},
    },
    revocation::Target,
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, Server, section},
    requests::{ISSUER, NOW, about, charge, charging, principal, revoked_by, until},
};

fn opened(url: &str, max_staleness: Span) -> (Arc<dyn Store>, Arc<LocalFallback>) {
    let local = LocalConfig {
        replicas: 4,
        refresh: Span::from_millis(100),
        max_staleness,
        max_buckets: 1000,
        escrow: EscrowConfig::default(),
    };
    let config = RedisConfig { local: Some(local), ..section(url) };
    let Opened { store, local, .. } =
        store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap();
    (store, local.unwrap())
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

fn known(local: &LocalFallback, name: &str) -> bool {
    match local.admit(&about(&subject(name))) {
        Ok(AdmitResponse::Revoked("subject")) => true,
        Ok(AdmitResponse::Counted(_)) => false,
        other => panic!("{other:?}"),
    }
}

async fn replicated(local: &LocalFallback, names: &[&str], gone: &[&str]) {
    until("the revocations are replicated", async || {
        local.status().age.is_some()
            && local.status().revocations == names.len() as u64
            && names.iter().all(|name| known(local, name))
            && gone.iter().all(|name| !known(local, name))
    })
    .await;
}

fn client(server: &Server) -> Connection {
    server.client()
}

#[tokio::test]
async fn revocations_are_followed() {
    let server = redis_server::start(&[]);
    let (store, _) = opened(&server.unix(), Span::from_secs(60));
    revoke(&*store, "a").await;
    revoke(&*store, "b").await;
    // One that starts late reads all there is, and then what changes.
    let (_other, local) = opened(&server.unix(), Span::from_secs(60));
    replicated(&local, &["a", "b"], &["c"]).await;
    revoke(&*store, "c").await;
    store.reinstate(&target("a")).await.unwrap();
    replicated(&local, &["b", "c"], &["a"]).await;

    // More changes than are kept: everything is read again.
    revoke(&*store, "d").await;
    redis::cmd("XTRIM")
        .arg(&["{tollgate}:revocations:changes", "MAXLEN", "0"])
        .exec(&mut client(&server))
        .unwrap();
    replicated(&local, &["b", "c", "d"], &["a"]).await;
    revoke(&*store, "e").await;
    replicated(&local, &["b", "c", "d", "e"], &["a"]).await;

    // An emptied Redis has no revocations, and the next one is read.
    redis::cmd("FLUSHALL").exec(&mut client(&server)).unwrap();
    replicated(&local, &[], &["a", "b", "c", "d", "e"]).await;
    revoke(&*store, "f").await;
    replicated(&local, &["f"], &["b"]).await;
}

#[tokio::test]
async fn many_revocations_are_read_in_parts() {
    let server = redis_server::start(&[]);
    let (store, _) = opened(&server.unix(), Span::from_secs(60));
    let names: Vec<String> = (0..1700).map(|n| format!("s{n}")).collect();
    for name in &names {
        revoke(&*store, name).await;
    }
    let (other, local) = opened(&server.unix(), Span::from_secs(60));
    until("all are read", async || {
        local.status().revocations == 1700 && local.status().age.is_some()
    })
    .await;
    assert!(known(&local, "s0") && known(&local, "s1699") && !known(&local, "s1700"));
    // And as changes: more than one batch between two looks.
    for name in &names {
        store.reinstate(&target(name)).await.unwrap();
    }
    until("all are gone", async || local.status().revocations == 0).await;
    assert_eq!(other.list(None, 10).await.unwrap().total, 0);
}

#[tokio::test]
async fn an_outage_is_bridged_until_what_is_known_is_too_old() {
    let mut server = redis_server::start(&[]);
    let (store, local) = opened(&server.unix(), Span::from_secs(2));
    revoke(&*store, "a").await;
    replicated(&local, &["a"], &["b"]).await;
    server.kill();
    until("the outage begins", async || store.admit(&about(&subject("b"))).await.is_err()).await;
    assert!(known(&local, "a") && !known(&local, "b"));

    until("what is known is too old", async || {
        local.admit(&about(&subject("b"))) == Err(Outage::Stale)
    })
    .await;
    assert!(local.status().age.unwrap() > Duration::from_secs(2));
    assert!(known(&local, "a"), "a known revocation holds, however old");
    assert_eq!(
        revoked_by(&*store, &subject("a")).await,
        Ok(Some("subject")),
        "also on routes with another `on_outage`"
    );
    let counted = local.admit(&charging(&[charge("public", 1000, 8)]));
    assert!(
        matches!(counted, Ok(AdmitResponse::Counted(_))),
        "no credential, nothing to be stale about: {counted:?}"
    );

    server.restart();
    until("Redis is followed again", async || local.admit(&about(&subject("b"))).is_ok()).await;
    assert!(local.status().age.unwrap() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_stale() {
    let (_store, local) = opened("unix:///nowhere/redis.sock", Span::from_secs(60));
    assert_eq!(local.admit(&about(&subject("a"))), Err(Outage::Stale));
    assert_eq!(local.status().age, None);
}

#[tokio::test]
async fn each_replica_admits_its_share() {
    let (_store, local) = opened("unix:///nowhere/redis.sock", Span::from_secs(60));
    let verdict = |burst: u64| -> Verdict {
        match local.admit(&charging(&[charge(&burst.to_string(), 3_600_000, burst)])) {
            Ok(AdmitResponse::Counted(verdicts)) => verdicts[0],
            other => panic!("{other:?}"),
        }
    };
    let hour = 3_600_000_000;
    assert_eq!((verdict(9).remaining, verdict(9).remaining), (1, 0), "two of nine, by four");
    let third = verdict(9);
    assert!(
        !third.admitted
            && third.retry_after <= 4 * hour
            && third.retry_after > 4 * hour - 10_000_000,
        "{third:?}"
    );
    assert!(!verdict(3).admitted, "a share of nothing");
    assert_eq!(verdict(3).retry_after, 4 * hour);
    assert_eq!(verdict(0).retry_after, u64::MAX);

    let blacklisted = principal(json!({ "jti": "j", "sub": "a" }), &["blacklist:{jti}"]);
    assert_eq!(
        local.admit(&about(&blacklisted)),
        Err(Outage::Refused),
        "a blacklist that is not replicated"
    );
}

#[tokio::test]
async fn windows_of_requests_have_shares_and_holds_of_tokens_need_an_escrow() {
    let server = redis_server::start(&[]);
    let (_store, local) = opened(&server.unix(), Span::from_secs(60));
    let ends = Timestamp::from_secs(4_000_000_000);
    let request = |name: &str, counter| {
        let hold = Hold {
            limit: name.into(),
            counter_id: name.into(),
            counter,
            amount: 1,
            unreported: 1,
            by_principal: true,
            is_shadow: false,
        };
        let reservation = Reservation {
            id: ReservationId([1; 16]),
            issued: Timestamp::from_secs(NOW),
            life: Span::from_secs(30),
            holds: vec![hold],
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
        };
        AdmitRequest { reservation: Some(Box::new(reservation)), ..AdmitRequest::default() }
    };
    let verdict = |request: &AdmitRequest| match local.admit(request) {
        Ok(AdmitResponse::Counted(verdicts)) => verdicts[0],
        other => panic!("{other:?}"),
    };
    // Four replicas share ten requests of a day.
    let day = request("day", Counter::Requests { limit: 10, ends });
    let admitted: Vec<bool> = (0..4).map(|_| verdict(&day).admitted).collect();
    assert_eq!(admitted, [true, true, false, false]);
    // A share of none is refused for now, and an empty limit for ever.
    for (limit, retry_after) in [(3, 1_000_000), (0, u64::MAX)] {
        let none = verdict(&request("none", Counter::Requests { limit, ends }));
        assert_eq!((none.admitted, none.retry_after), (false, retry_after));
    }
    // Nothing is in escrow.
    for counter in [
        Counter::Budget { limit: 10, ends },
        Counter::Bucket { interval: 1, burst: 10 },
        Counter::Slots { limit: 10 },
    ] {
        assert_eq!(local.admit(&request("held", counter)), Err(Outage::Escrow));
    }
}
