//! A credential kind of a few lines, from the header to the answer.

use super::*;
use crate::{
    admission::AdmitResponse,
    check::{NoHooks, Prepared, prepare},
    config::{Document, Errors},
    decision::{Decision, Outcome, answer},
    denial::Reason,
    policy::{Policy, PolicyConfig},
    request::{RawBody, RawRequest},
    revocation::Target,
    stage::{Check, Stage},
};

const NOW: Timestamp = Timestamp::from_secs(100);

/// A policy with an issuer, as a route needs one, and one route.
fn snapshot() -> Snapshot {
    let text = "
issuers: [{ issuer: i, audiences: any, algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }]
routes: [{ match: { methods: [GET], paths: [/x] }, scopes: [read] }]
";
    let config: PolicyConfig = Document::parse(text, &|_| None).unwrap().read().unwrap();
    Snapshot::without_keys(Arc::new(Policy::compile(&config, &mut Errors::default()).unwrap()))
}

fn prepared(snapshot: &Snapshot, key: &str) -> Prepared {
    let mut headers = Headers::default();
    headers.push("x-test-key", key.as_bytes());
    let raw = RawRequest {
        method: b"GET",
        scheme: b"https",
        host: b"api.example.com",
        path: b"/x",
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::None,
    };
    prepare(snapshot, raw, NOW, &mut NoHooks)
}

#[test]
fn another_kind_goes_from_its_header_to_allow() {
    let snapshot = snapshot();
    let Prepared::Pending(pending) = prepared(&snapshot, "ann") else { panic!("not admitted") };
    // Its revocation keys reach the store.
    let keys = pending.admit_request().revocation.clone().unwrap();
    let revoked = Target::Subject { issuer: String::new(), subject: "ann".into() };
    assert!(keys.before_entries().any(|entry| entry.key() == revoked.key()));
    let outcome = pending.conclude(Ok(AdmitResponse::Counted(Vec::new())));
    let Outcome { decision: Decision::Allow(grant), evidence } = &outcome else {
        panic!("{:?}", outcome.decision)
    };
    // Its label is that of audit lines and of the header for the upstream.
    assert_eq!(evidence.principal.as_ref().unwrap().kind().label(), "test");
    let mut set = answer::HeaderList::default();
    answer::allowed(grant, evidence, &snapshot, "id").set(&mut set);
    assert!(set.iter().any(|header| header == ("x-tollgate-credential", "test")));
}

#[test]
fn another_kind_is_cached_and_rejected_like_a_token() {
    let snapshot = snapshot();
    let Prepared::Decided(outcome) = prepared(&snapshot, "bad") else { panic!("admitted") };
    assert!(
        matches!(&outcome.decision, Decision::Deny(denial) if denial.reason == Reason::BadSignature)
    );
    assert_eq!(outcome.evidence.stage, Stage::Verification(Check::Signature));
    let mut headers = Headers::default();
    headers.push("x-test-key", b"bad");
    let credential = extract(&headers, None).unwrap();
    assert_eq!(cache_key(&credential), (CredentialKind::Test, &b"bad"[..]));
    assert_eq!(format!("{credential:?}"), "[credential]");
    assert!(is_settled(&snapshot, &verify(&snapshot, credential, NOW).unwrap_err()));
    let mut headers = Headers::default();
    headers.push("x-test-key", b"ann");
    let ann = verify(&snapshot, extract(&headers, None).unwrap(), NOW).unwrap();
    assert!(is_current(&snapshot, &ann, NOW));
    assert!(!is_current(&snapshot, &ann, Timestamp::from_secs(160)));
}
