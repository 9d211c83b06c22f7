//! Proofs of DPoP in every store: each is used once, and a holder has a bounded number.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{RedisConfig, Store, StoreConfig, open};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    credential::dpop::{ProofRefusal, ProofUse},
    limit::{Charge, lease::LeaseTerms},
    revocation::{Fingerprint, Target},
    time::Span,
};

use super::{
    contract::hour,
    redis_server::{self, section},
    requests::{ISSUER, NOW, about, charge, charging, principal, until, verdicts},
};

const USED: AdmitResponse = AdmitResponse::Proof(ProofRefusal::Used);
const TOO_MANY: AdmitResponse = AdmitResponse::Proof(ProofRefusal::TooMany);

fn proof(holder: u64, id: u8) -> ProofUse {
    let holder = Fingerprint::from_halves([holder, 7]);
    ProofUse { id: [id; 16], holder, life: Span::from_secs(600), most: 3 }
}

fn using(proof: ProofUse) -> AdmitRequest {
    AdmitRequest { proof: Some(Box::new(proof)), ..AdmitRequest::default() }
}

async fn admit(store: &dyn Store, request: &AdmitRequest) -> AdmitResponse {
    store.admit(request).await.unwrap()
}

/// The part of the contract that is about proofs.
pub(super) async fn are_used_once(store: &dyn Store) {
    let counted = AdmitResponse::Counted(Vec::new());
    assert_eq!(admit(store, &using(proof(1, 1))).await, counted);
    for _ in 0..3 {
        assert_eq!(admit(store, &using(proof(1, 1))).await, USED);
    }
    assert_eq!(admit(store, &using(proof(2, 1))).await, counted, "of another holder");

    // A holder has three.
    for id in [2, 3] {
        assert_eq!(admit(store, &using(proof(1, id))).await, counted);
    }
    assert_eq!(admit(store, &using(proof(1, 4))).await, TOO_MANY);
    assert_eq!(admit(store, &using(proof(1, 1))).await, USED, "also without room");
    assert_eq!(admit(store, &using(proof(2, 4))).await, counted, "others have room");

    // Limits: nothing is charged by a proof that was used, and a limit that denies uses it up.
    let charges = vec![charge("proofs", 3_600_000, 1)];
    let limited = |id| AdmitRequest { charges: charges.clone(), ..using(proof(3, id)) };
    assert_eq!(admit(store, &using(proof(3, 1))).await, counted);
    assert_eq!(admit(store, &limited(1)).await, USED);
    assert!(matches!(
        admit(store, &limited(2)).await,
        AdmitResponse::Counted(verdicts) if verdicts[0].admitted
    ));
    assert!(matches!(
        admit(store, &limited(3)).await,
        AdmitResponse::Counted(verdicts) if !verdicts[0].admitted
    ));
    assert_eq!(admit(store, &limited(3)).await, USED);

    // A revoked credential uses no proof.
    let ada = principal(json!({ "jti": "proofs", "sub": "ada", "iat": NOW }), &[]);
    let jti = Target::Jti { issuer: ISSUER.into(), jti: "proofs".into() };
    let of_ada = AdmitRequest { proof: Some(Box::new(proof(4, 1))), ..about(&ada) };
    store.revoke(&hour(jti.clone(), NOW)).await.unwrap();
    assert_eq!(admit(store, &of_ada).await, AdmitResponse::Revoked("jti"));
    assert_eq!(store.reinstate(&jti).await, Ok(true));
    assert_eq!(admit(store, &of_ada).await, counted);
    assert_eq!(admit(store, &of_ada).await, USED);

    // A proof is forgotten when no check accepts it.
    let brief = using(ProofUse { life: Span::from_millis(300), ..proof(5, 1) });
    assert_eq!(admit(store, &brief).await, counted);
    until("the proof is forgotten", async || admit(store, &brief).await == counted).await;

    // At once, in one call or in several, one of them passes.
    let same = using(proof(6, 1));
    let responses = join_all((0..20).map(|_| admit(store, &same))).await;
    assert_eq!(responses.iter().filter(|response| **response == counted).count(), 1);
    assert_eq!(responses.iter().filter(|response| **response == USED).count(), 19);
}

#[tokio::test]
async fn redis_is_queried_for_a_proof_beside_leases_and_replicated_revocations() {
    let server = redis_server::start(&[]);
    let open = || {
        let replicate_revocations = Some(serde_json::from_str("{}").unwrap());
        let config = RedisConfig { replicate_revocations, ..section(&server.unix()) };
        let opened = open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new());
        opened.unwrap().store
    };
    let (store, other): (Arc<dyn Store>, Arc<dyn Store>) = (open(), open());
    let fresh = |store: &dyn Store| store.status().replica.unwrap().age.is_some();
    until("the copies are there", async || fresh(&*store) && fresh(&*other)).await;
    let leased = Charge {
        lease: Some(LeaseTerms { slice: 10, life: 60_000_000 }),
        ..charge("leased", 3_600_000, 1000)
    };
    until("units are leased", async || {
        verdicts(&*store, std::slice::from_ref(&leased)).await;
        store.status().leases.unwrap().units > 3
    })
    .await;
    let ada = principal(json!({ "jti": "j", "sub": "ada", "iat": NOW }), &[]);
    let request = AdmitRequest {
        proof: Some(Box::new(proof(1, 1))),
        ..AdmitRequest { charges: vec![leased], ..about(&ada) }
    };
    assert!(matches!(admit(&*store, &request).await, AdmitResponse::Counted(_)));
    for store in [&store, &other] {
        assert_eq!(admit(&**store, &request).await, USED);
    }
    assert_eq!(store.admit(&charging(&[])).await, Ok(AdmitResponse::Counted(Vec::new())));
}

#[tokio::test]
async fn the_set_of_a_holder_lasts_as_long_as_its_last_proof() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    for life in [600, 1] {
        let proof =
            ProofUse { life: Span::from_secs(life), ..proof(1, u8::try_from(life % 251).unwrap()) };
        assert_eq!(admit(&store, &using(proof)).await, AdmitResponse::Counted(Vec::new()));
    }
    let key = "{tollgate}:proofs:00000000000000010000000000000007";
    let left: i64 = redis::cmd("PTTL").arg(key).query(&mut server.client()).unwrap();
    assert!((590_000..=600_000).contains(&left), "{left}");
    // A key of another type denies, and changes nothing.
    let key = "{tollgate}:proofs:00000000000000090000000000000007";
    redis::cmd("SET").arg(key).arg("x").exec(&mut server.client()).unwrap();
    assert!(store.admit(&using(proof(9, 1))).await.is_err());
    assert!(store.admit(&using(proof(1, 9))).await.is_ok());
}
