//! Leased limits against a real Redis: leased units are spent without a call, unused ones go back,
//! and a check is all or nothing with any mix of limits.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{self, RedisConfig, Revocation, Store, StoreConfig};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    limit::{Charge, Verdict, lease::LeaseTerms},
    revocation::Target,
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, Server, section},
    requests::{ISSUER, NOW, charge, charging, principal, until, verdicts},
};

const HOUR: u64 = 3_600_000;

/// A store with a deadline that a busy machine keeps. A request whose answer comes later loses its
/// units, as documented, and a test that counts units would fail.
fn open(url: &str) -> Arc<dyn Store> {
    open_with(section(url))
}

fn open_with(config: RedisConfig) -> Arc<dyn Store> {
    store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap().store
}

/// A charge leased by 10, kept for so many milliseconds.
fn leased(key: &str, burst: u64, life: u64) -> Charge {
    Charge { lease: Some(LeaseTerms { slice: 10, life: life * 1000 }), ..charge(key, HOUR, burst) }
}

fn held(store: &dyn Store) -> u64 {
    store.status().leases.unwrap().units
}

/// The units that are left of a bucket in Redis.
async fn left(other: &dyn Store, key: &str, burst: u64) -> u64 {
    verdicts(other, &[Charge { cost: burst + 1, ..charge(key, HOUR, burst) }]).await[0].remaining
}

/// The number of scripts that the server ran.
fn scripts(server: &Server) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.client()).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Sends checks until some units are leased. Returns how many.
async fn warm(store: &dyn Store, charge: &Charge) -> u64 {
    let mut sent = 0;
    until("units are leased", async || {
        sent += 1;
        verdicts(store, std::slice::from_ref(charge)).await;
        held(store) >= 5
    })
    .await;
    sent
}

#[tokio::test]
async fn leased_units_are_spent_without_a_call() {
    let server = redis_server::start(&[]);
    let (store, other) = (open(&server.unix()), redis_server::open(&server.unix()));
    let (charges, before) = ([leased("k", 10_000, 60_000)], scripts(&server));
    for n in 0..1000 {
        let verdict = verdicts(&*store, &charges).await[0];
        assert!(verdict.admitted && verdict.remaining < 10_000 - n, "{n}: {verdict:?}");
        assert!(verdict.retry_after == 0 && verdict.reset > 0, "{verdict:?}");
    }
    let calls = scripts(&server) - before;
    assert!(calls < 300, "{calls} calls for 1000 checks");
    until("every unit is spent or held", async || {
        left(&other, "k", 10_000).await + 1000 + held(&*store) == 10_000
    })
    .await;
    assert!(held(&*store) <= 10);
}

#[tokio::test]
async fn a_limit_in_shadow_beside_a_leased_one_refuses_nothing() {
    let server = redis_server::start(&[]);
    let store = open(&server.unix());
    let shadow = Charge { is_shadow: true, ..charge("shadow", HOUR, 1) };
    let both = [leased("both", 3, 60_000), shadow.clone()];
    let mut found = Vec::new();
    for _ in 0..4 {
        let verdicts = verdicts(&*store, &both).await;
        found.push(verdicts.iter().map(|verdict| verdict.admitted).collect::<Vec<_>>());
    }
    assert_eq!(found, [[true, true], [true, false], [true, false], [false, false]]);
    // A leased limit that refuses leaves a limit in shadow as it is.
    let wide = Charge { burst: 9, bucket: "wide".into(), ..shadow };
    let refused = verdicts(&*store, &[leased("both", 3, 60_000), wide.clone()]).await;
    assert_eq!((refused[0].admitted, refused[1].remaining), (false, 9));
    store.close().await;
}

#[tokio::test]
async fn all_units_are_admitted_and_no_more() {
    let server = redis_server::start(&[]);
    let replicas: Vec<_> = (0..4).map(|_| open(&server.unix())).collect();
    let charges = [leased("k", 100, 500)];
    let mut admitted = 0;
    // Units that one replica does not spend go back, and another one gets them.
    until("all is admitted", async || {
        for (n, replica) in replicas.iter().enumerate() {
            for _ in 0..=n {
                admitted += u64::from(verdicts(&**replica, &charges).await[0].admitted);
            }
        }
        assert!(admitted <= 100, "{admitted}");
        admitted == 100
    })
    .await;
    let refused = verdicts(&*replicas[0], &charges).await[0];
    assert_eq!((refused.admitted, refused.remaining), (false, 0));
    let hour = HOUR * 1000;
    assert!(refused.retry_after > hour - 60_000_000 && refused.retry_after <= hour, "{refused:?}");
    // Known for an hour, so that Redis is not called again.
    let before = scripts(&server);
    for _ in 0..20 {
        assert!(!verdicts(&*replicas[0], &charges).await[0].admitted);
    }
    assert!(scripts(&server) - before <= 2, "but for what others give back");
}

#[tokio::test]
async fn unused_units_go_back() {
    let server = redis_server::start(&[]);
    let (store, other) = (open(&server.unix()), redis_server::open(&server.unix()));
    // When no check needs them any more.
    let idle = leased("idle", 1000, 300);
    let spent = warm(&*store, &idle).await;
    until("they are back", async || {
        held(&*store) == 0 && left(&other, "idle", 1000).await == 1000 - spent
    })
    .await;
    until("the lease is removed", async || store.status().leases.unwrap().buckets == 0).await;
    // When the process ends.
    let kept = leased("kept", 1000, 60_000);
    let spent = warm(&*store, &kept).await;
    until("no call is in progress", async || {
        left(&other, "kept", 1000).await + spent + held(&*store) == 1000
    })
    .await;
    store.close().await;
    assert_eq!((held(&*store), left(&other, "kept", 1000).await), (0, 1000 - spent));
    // From then on each check is counted exactly.
    assert!(verdicts(&*store, &[kept]).await[0].admitted);
    assert_eq!((held(&*store), left(&other, "kept", 1000).await), (0, 1000 - spent - 1));
}

#[tokio::test]
async fn a_check_with_an_exact_limit_takes_all_or_nothing() {
    let server = redis_server::start(&[]);
    let (store, other) = (open(&server.unix()), redis_server::open(&server.unix()));
    let wide = leased("wide", 1000, 60_000);
    let spent = warm(&*store, &wide).await;
    until("no call is in progress", async || {
        left(&other, "wide", 1000).await + spent + held(&*store) == 1000
    })
    .await;
    let holds = held(&*store);
    let both = [wide.clone(), charge("narrow", HOUR, 2)];
    for left in [1, 0] {
        let counted = verdicts(&*store, &both).await;
        assert!(
            counted[0].admitted && counted[1].admitted && counted[1].remaining == left,
            "{counted:?}"
        );
    }
    assert!(
        held(&*store) <= 10 && left(&other, "wide", 1000).await + spent + 2 + held(&*store) <= 1000
    );
    until("no call is in progress", async || {
        left(&other, "wide", 1000).await + spent + 2 + held(&*store) == 1000
    })
    .await;
    let before = held(&*store);
    for _ in 0..5 {
        let counted = verdicts(&*store, &both).await;
        assert!(counted[0].admitted && !counted[1].admitted, "{counted:?}");
        assert_eq!(held(&*store), before, "the unit is back; at first {holds} were held");
    }
    // Conversely: the leased limit has no room, and the exact one is not charged.
    let empty = Charge { cost: 20, ..charge("full", HOUR, 20) };
    assert!(verdicts(&other, &[empty]).await[0].admitted);
    let both = [leased("full", 20, 60_000), charge("untouched", HOUR, 2)];
    for _ in 0..3 {
        let counted = verdicts(&*store, &both).await;
        assert!(
            !counted[0].admitted && counted[1].admitted && counted[1].remaining == 2,
            "{counted:?}"
        );
    }
}

#[tokio::test]
async fn a_revoked_request_spends_nothing() {
    let server = redis_server::start(&[]);
    let (store, other) = (open(&server.unix()), redis_server::open(&server.unix()));
    let charges = vec![leased("k", 1000, 60_000)];
    let spent = warm(&*store, &charges[0]).await;
    until("no call is in progress", async || {
        left(&other, "k", 1000).await + spent + held(&*store) == 1000
    })
    .await;
    let ada = principal(json!({ "jti": "j", "sub": "ada", "iat": NOW }), &[]);
    let target = Target::Subject { issuer: ISSUER.into(), subject: "ada".into() };
    let revocation =
        Revocation::new(target, Timestamp::from_secs(NOW), Span::from_secs(3600), None).unwrap();
    other.revoke(&revocation).await.unwrap();
    let before = held(&*store);
    for _ in 0..5 {
        let demands = AdmitRequest {
            revocation: Some(Arc::clone(ada.revocation())),
            address: None,
            charges: charges.clone(),
            ..AdmitRequest::default()
        };
        assert_eq!(store.admit(&demands).await, Ok(AdmitResponse::Revoked("subject")));
    }
    assert_eq!(held(&*store), before);
}

#[tokio::test]
async fn leased_units_outlive_redis_until_they_expire() {
    let server = redis_server::start(&[]);
    let config = RedisConfig { deadline: Span::from_secs(2), ..section(&server.unix()) };
    let store = open_with(config);
    let charges = [leased("k", 1000, 1500)];
    warm(&*store, &charges[0]).await;
    server.freeze();
    let mut admitted = 0;
    let answers = loop {
        match store.admit(&charging(&charges)).await {
            Ok(AdmitResponse::Counted(counted)) => {
                assert!(counted[0].admitted, "{counted:?}");
                admitted += 1;
            }
            other => break other,
        }
        assert!(admitted <= 10, "{admitted}");
    };
    assert!(answers.is_err() && admitted > 0, "{admitted}: {answers:?}");
    server.thaw();
    until("Redis answers again", async || store.admit(&charging(&charges)).await.is_ok()).await;
}

#[tokio::test]
async fn another_bucket_under_the_same_key_takes_none_of_them() {
    let server = redis_server::start(&[]);
    let store = open(&server.unix());
    let charge = leased("k", 1000, 60_000);
    warm(&*store, &charge).await;
    let before = held(&*store);
    // A role with another rate: the bucket in Redis is the same, the value of a unit is not.
    let other = Charge { interval: charge.interval / 2, ..charge };
    let Verdict { admitted, .. } = verdicts(&*store, &[other]).await[0];
    assert!(admitted);
    assert!(held(&*store) >= before, "no leased unit was taken");
}
