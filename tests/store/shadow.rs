//! Limits in shadow while Redis does not answer: they deny nothing, and nothing that is enforced is
//! forgotten because of them.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, Circuit, LocalConfig, LocalFallback, Opened, RedisConfig, ReplicateConfig, Revocation,
    Store, StoreConfig,
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    identity::Principal,
    limit::{Charge, Counter, Hold, Verdict, escrow::EscrowConfig, lease::LeaseTerms},
    revocation::Target,
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, section},
    requests::{ISSUER, NOW, charge, charging, principal, until},
    settlements,
};

const HOUR: u64 = 3_600_000;

fn opened(config: RedisConfig) -> Opened {
    store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap()
}

/// A section with a copy of the revocations that does not lapse.
fn copying(url: &str) -> RedisConfig {
    let replicate = ReplicateConfig { max_staleness: Span::from_secs(3600) };
    RedisConfig { replicate_revocations: Some(replicate), ..section(url) }
}

fn in_shadow(key: &str) -> Charge {
    Charge { is_shadow: true, ..charge(key, HOUR, 1) }
}

fn slot_in_shadow(name: &str) -> Hold {
    Hold { is_shadow: true, ..settlements::hold(name, Counter::Slots { limit: 1 }, 1, 1) }
}

fn subject(name: &str) -> Arc<Principal> {
    principal(json!({ "jti": name, "sub": name, "iat": NOW }), &[])
}

/// The request of a credential, or of none.
fn request(of: Option<&Arc<Principal>>, charges: &[Charge], holds: &[Hold]) -> AdmitRequest {
    let reservation = (!holds.is_empty()).then(|| Box::new(settlements::minute(holds)));
    AdmitRequest {
        revocation: of.map(|of| Arc::clone(of.revocation())),
        reservation,
        ..charging(charges)
    }
}

async fn admits(store: &dyn Store, request: &AdmitRequest) -> Result<Vec<bool>, Outage> {
    match store.admit(request).await? {
        AdmitResponse::Counted(verdicts) => Ok(verdicts.iter().map(|one| one.admitted).collect()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn limits_in_shadow_deny_nothing_while_redis_is_down() {
    let mut server = redis_server::start(&[]);
    let copied = opened(copying(&server.unix()));
    let plain = opened(RedisConfig { replicate_revocations: None, ..copying(&server.unix()) });
    let (good, gone) = (subject("good"), subject("gone"));
    let target = Target::Subject { issuer: ISSUER.into(), subject: "gone".into() };
    let revocation =
        Revocation::new(target, Timestamp::from_secs(NOW), Span::from_secs(3600), None).unwrap();
    copied.store.revoke(&revocation).await.unwrap();
    let revoked = Ok(AdmitResponse::Revoked("subject"));
    until("the copy", async || {
        copied.store.status().replica.is_some_and(|it| it.age.is_some() && it.revocations == 1)
    })
    .await;
    let charges = [in_shadow("s")];
    let holds = [slot_in_shadow("s")];
    let terms = LeaseTerms { slice: 10, life: 3_600_000_000 };
    let leased = [Charge { lease: Some(terms), ..charge("leased", HOUR, 1000) }, in_shadow("l")];
    // While Redis answers, it counts.
    for expected in [[true, true], [false, false]] {
        let counted = admits(&*copied.store, &request(Some(&good), &charges, &holds)).await;
        assert_eq!(counted, Ok(expected.to_vec()));
    }
    until("leased units", async || {
        let verdicts = admits(&*copied.store, &request(Some(&good), &leased, &[])).await;
        assert!(verdicts.unwrap()[0]);
        copied.store.status().leases.unwrap().units >= 5
    })
    .await;

    server.kill();
    until("the outage", async || {
        let enforced = request(None, &[charge("e", HOUR, 9)], &[]);
        let _ = (copied.store.admit(&enforced).await, plain.store.admit(&enforced).await);
        [&copied, &plain].iter().all(|one| one.store.status().circuit == Circuit::Open)
    })
    .await;
    for charges in [&charges[..], &[]] {
        for holds in [&holds[..], &[]] {
            let expected = vec![true; charges.len() + holds.len()];
            let all = request(Some(&good), charges, holds);
            assert_eq!(admits(&*copied.store, &all).await, Ok(expected.clone()), "{all:?}");
            let public = request(None, charges, holds);
            assert_eq!(admits(&*copied.store, &public).await, Ok(expected.clone()));
            assert_eq!(admits(&*plain.store, &public).await, Ok(expected));
        }
    }
    // Leased units are spent, each once, and then the limit cannot be decided.
    let units = copied.store.status().leases.unwrap().units;
    let both = request(Some(&good), &leased, &[]);
    for _ in 0..units {
        assert_eq!(admits(&*copied.store, &both).await, Ok(vec![true, true]));
    }
    assert!(copied.store.admit(&both).await.is_err());
    // What is enforced is not forgotten.
    let gone = request(Some(&gone), &charges, &holds);
    assert_eq!(copied.store.admit(&gone).await, revoked);
    let unknown = request(Some(&good), &charges, &holds);
    assert!(plain.store.admit(&unknown).await.is_err(), "the credential may be revoked");
    let beside = request(Some(&good), &[charges[0].clone(), charge("e", HOUR, 9)], &holds);
    assert!(copied.store.admit(&beside).await.is_err());
    let slot = settlements::hold("e", Counter::Slots { limit: 9 }, 1, 1);
    let beside = request(Some(&good), &charges, &[holds[0].clone(), slot]);
    assert!(copied.store.admit(&beside).await.is_err());

    server.restart();
    until("the end of the outage", async || {
        admits(&*copied.store, &request(Some(&good), &charges, &[])).await == Ok(vec![false])
    })
    .await;
}

fn local(url: &str) -> Arc<LocalFallback> {
    let local = LocalConfig {
        replicas: 2,
        refresh: Span::from_millis(100),
        max_staleness: Span::from_secs(3600),
        max_buckets: 1000,
        escrow: EscrowConfig::default(),
    };
    opened(RedisConfig { local: Some(local), ..section(url) }).local.unwrap()
}

#[tokio::test]
async fn a_replica_counts_requests_in_shadow_and_neither_slots_nor_tokens() {
    let server = redis_server::start(&[]);
    let local = local(&server.unix());
    let admits =
        |charges: &[Charge], holds: &[Hold]| match local.admit(&request(None, charges, holds)) {
            Ok(AdmitResponse::Counted(verdicts)) => Ok(verdicts),
            Ok(other) => panic!("{other:?}"),
            Err(outage) => Err(outage),
        };
    let admitted = |verdicts: Vec<Verdict>| -> Vec<bool> {
        verdicts.iter().map(|verdict| verdict.admitted).collect()
    };
    let day = |name: &str, is_shadow, limit| Hold {
        is_shadow,
        ..settlements::hold(
            name,
            Counter::Requests { limit, ends: Timestamp::from_secs(4_000_000_000) },
            1,
            1,
        )
    };
    let tokens =
        Hold { is_shadow: true, ..settlements::hold("tokens", settlements::budget(1), 40, 40) };
    // Slots and tokens are not evaluated, in any place of the list; a rate and a window have the share of
    // one of two replicas.
    let rate = Charge { burst: 2, ..in_shadow("rate") };
    let holds = [slot_in_shadow("slots"), day("shadow-day", true, 4), tokens, day("day", false, 6)];
    let found: Vec<_> =
        (0..5).map(|_| admitted(admits(std::slice::from_ref(&rate), &holds).unwrap())).collect();
    assert_eq!(
        found,
        [
            [true, true, true, true, true],
            [false, true, true, true, true],
            [false, true, false, true, true],
            // The enforced one refuses.
            [false, true, false, true, false],
            [false, true, false, true, false],
        ]
    );
    // Slots that are enforced need an escrow, also beside those in shadow.
    let slot = settlements::hold("enforced", Counter::Slots { limit: 9 }, 1, 1);
    assert_eq!(admits(&[], &[slot_in_shadow("slots"), slot]), Err(Outage::Escrow));
    assert_eq!(admitted(admits(&[], &[slot_in_shadow("slots")]).unwrap()), [true]);
}
