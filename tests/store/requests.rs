//! Requests of checks: revocation keys of principals that were verified from real tokens, and
//! charges.

use std::sync::Arc;

use serde_json::{Value, json};
use tollgate::store::Store;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    check::{NoHooks, Prepared, prepare},
    config::{Document, Errors},
    credential::jwt::{issuer::KeySource, key_set::KeySet},
    identity::Principal,
    limit::{Charge, Verdict},
    policy::{Policy, PolicyConfig},
    request::{Headers, RawBody, RawRequest},
    secret::{Secret, SecretSource},
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_testkit::{Algorithm, KeyPair, Token, wait::until_async};

pub(super) const ISSUER: &str = "https://idp.example.com";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The moment at which the tokens are verified, in seconds.
pub(super) const NOW: u64 = 1_800_000_000;

/// The principal of a token with these claims (`iss` and `exp` are added), where the policy has
/// these foreign blacklists.
pub(super) fn principal(claims: Value, foreign: &[&str]) -> Arc<Principal> {
    let (token, _) = token(claims);
    verified(&token, foreign)
}

/// A token with these claims, `iss` and `exp`.
pub(super) fn token(mut claims: Value) -> (String, Value) {
    claims["iss"] = json!(ISSUER);
    claims["exp"] = json!(NOW + 600);
    let token = Token::new(Algorithm::Hs256).claims(claims.clone()).sign(&KeyPair::secret(SECRET));
    (token.unwrap(), claims)
}

/// The principal of a token.
pub(super) fn verified(token: &str, foreign: &[&str]) -> Arc<Principal> {
    let policy = json!({
        "issuers": [{ "issuer": ISSUER, "audiences": "any", "algorithms": ["HS256"], "secret": SECRET, "required_claims": ["jti"] }],
        "routes": [{ "match": { "methods": ["POST"], "paths": ["/x"] }, "scopes": [] }],
        "revocation": { "foreign": foreign },
    });
    let config: PolicyConfig =
        Document::parse(&policy.to_string(), &|_| None).unwrap().read().unwrap();
    let mut errors = Errors::default();
    let policy = Policy::compile(&config, &mut errors).unwrap();
    let issuer = &policy.issuers.list()[0];
    assert!(matches!(&issuer.source, KeySource::Secret(SecretSource::Inline(_))));
    let keys = KeySet::from_secret(&Secret::new(SECRET), &issuer.algorithms).unwrap();
    let snapshot =
        Snapshot { keys: vec![Some(Arc::new(keys))], ..Snapshot::without_keys(Arc::new(policy)) };
    let authorization = format!("Bearer {token}");
    let mut headers = Headers::default();
    headers.push("authorization", authorization.as_bytes());
    let raw = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"api.example.com",
        path: b"/x",
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::None,
    };
    match prepare(&snapshot, raw, Timestamp::from_secs(NOW), &mut NoHooks) {
        Prepared::Pending(pending) => pending.principal().cloned().unwrap(),
        Prepared::Decided(outcome) => panic!("{:?}", outcome.decision),
    }
}

/// A request that looks up the revocations of a principal.
pub(super) fn about(principal: &Arc<Principal>) -> AdmitRequest {
    AdmitRequest { revocation: Some(Arc::clone(principal.revocation())), ..AdmitRequest::default() }
}

/// A request that takes charges.
pub(super) fn charging(charges: &[Charge]) -> AdmitRequest {
    AdmitRequest { charges: charges.to_vec(), ..AdmitRequest::default() }
}

/// A charge of 1; `interval` in milliseconds.
pub(super) fn charge(key: &str, interval: u64, burst: u64) -> Charge {
    Charge {
        limit: "limit".into(),
        bucket: key.into(),
        interval: interval * 1000,
        burst,
        cost: 1,
        by_principal: true,
        is_shadow: false,
        lease: None,
        within: tollgate_core::limit::shard::CountedWithin::default(),
    }
}

/// The verdicts of a store that answers.
pub(super) async fn verdicts(store: &dyn Store, charges: &[Charge]) -> Vec<Verdict> {
    match store.admit(&charging(charges)).await {
        Ok(AdmitResponse::Counted(verdicts)) => verdicts,
        other => panic!("{other:?}"),
    }
}

/// The kind of revocation that applies to a principal, if any.
pub(super) async fn revoked_by(
    store: &dyn Store,
    principal: &Arc<Principal>,
) -> Result<Option<&'static str>, Outage> {
    store.admit(&about(principal)).await.map(|answers| match answers {
        AdmitResponse::Banned(ban) => panic!("{ban}"),
        AdmitResponse::Revoked(kind) => Some(kind),
        AdmitResponse::Proof(refusal) => panic!("a proof: {refusal:?}"),
        AdmitResponse::Counted(verdicts) => {
            assert_eq!(verdicts, []);
            None
        }
    })
}

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    until_async(what, async || holds().await.then_some(())).await;
}

/// Runs a scenario whose times a machine without a free processor disturbs, up to five times: until
/// what is found equals what is expected.
pub(super) async fn undisturbed<T: PartialEq + std::fmt::Debug>(
    expected: T,
    scenario: impl AsyncFn() -> T,
) {
    let mut found = Vec::new();
    for _ in 0..5 {
        let once = scenario().await;
        if once == expected {
            return;
        }
        found.push(once);
    }
    panic!("{found:?} instead of {expected:?}");
}
