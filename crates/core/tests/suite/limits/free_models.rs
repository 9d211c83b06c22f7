//! Requests of a model that costs nothing, on a route whose limits count cost only.

use std::sync::Arc;

use tollgate_core::{
    check::{Prepared, prepare},
    credential::jwt::key_set::KeySet,
    limit::reservation::{Reservation, ReservationKeys},
    request::{Headers, RawBody, RawRequest},
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};

use crate::{
    harness::{FixedReservation, SECRET, compile},
    keys::Signer,
    token::{Members, NOW, signed},
};

/// What a request of `free` holds on a route with this limit. `more` is added to the policy.
fn reservation(limit: &str, more: &str, keys: Option<ReservationKeys>) -> Option<Box<Reservation>> {
    let policy = format!(
        "
metering: {{ secrets: [mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm] }}
issuers: [{{ issuer: https://i.example, audiences: [inference-api], algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }}]
{more}
models: [{{ name: free, context: 1000 }}]
prices: {{ currency: EUR, models: [{{ model: free, input: 0, output: 0 }}] }}
routes:
  - {{ match: {{ methods: [POST], paths: [/a] }}, scopes: [], model: {{ from: 'fixed:free' }}, limits: [one] }}
limits: [{{ name: one, by: [subject], {limit} }}]
"
    );
    let policy = Arc::new(compile(&policy).unwrap());
    let secret = KeySet::from_secret(&Secret::new(SECRET), &policy.issuers.list()[0].algorithms);
    let snapshot = Snapshot {
        keys: vec![Some(Arc::new(secret.unwrap()))],
        reservation_keys: keys.map(Arc::new),
        ..Snapshot::without_keys(policy)
    };
    let token = signed(
        Signer::Hs256(SECRET),
        Members::header("HS256", "k").without("kid").json(),
        Members::claims("https://i.example").json(),
    );
    let authorization = format!("Bearer {token}");
    let mut headers = Headers::default();
    headers.push("authorization", authorization.as_bytes());
    headers.push("content-type", b"application/json");
    let request = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"api.example",
        path: b"/a",
        headers,
        address: Some([192, 0, 2, 1].into()),
        peer_certificate: b"",
        body: RawBody::Whole(br#"{"prompt":"hi","max_tokens":9}"#),
    };
    match prepare(&snapshot, request, Timestamp::from_secs(NOW), &mut FixedReservation) {
        Prepared::Pending(pending) => pending.admit_request().reservation.clone(),
        Prepared::Decided(outcome) => panic!("{:?}", outcome.decision),
    }
}

/// Its tokens are of interest, and its price may change.
#[test]
fn a_request_that_costs_nothing_is_settled_without_a_hold_where_a_ledger_is_kept() {
    let keys = || Some(ReservationKeys::new(vec![Secret::new("m".repeat(32))]).unwrap());
    let ledger = "ledger: { keys: [{ id: k, secret: 'file:/key' }] }";
    for limit in ["cost: 0/day", "cost: 0/day, hold: estimate", "cost: 0/day, mode: shadow"] {
        let recorded = reservation(limit, ledger, keys()).unwrap();
        let facts = recorded.facts.as_ref().unwrap();
        assert_eq!((recorded.holds.len(), facts.model.as_deref()), (0, Some("free")), "{limit}");
        assert!(recorded.is_settled(), "{limit}");
        assert_eq!(reservation(limit, "", keys()), None, "{limit}: nothing to settle");
        assert_eq!(reservation(limit, ledger, None), None, "{limit}: no report could be read");
    }
    // A limit of another kind that holds nothing makes no record.
    assert_eq!(reservation("tokens_per_request: 1000", ledger, keys()), None);
}
