//! A verified token stays verified under a later key set of its issuer exactly if nothing that decided
//! about it has changed: over all small key sets, one after the other.

use std::sync::Arc;

use serde_json::json;
use tollgate_core::{
    authenticate::{extract, is_current, verify},
    config::{Document, Errors},
    credential::{Credential, jwt::key_set::KeySet},
    identity::Principal,
    policy::{Policy, PolicyConfig},
    request::Headers,
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_testkit::{Algorithm, KeyPair, KeyType, Token, jwk_set};

const NOW: Timestamp = Timestamp::from_secs(1_795_318_900);
const NAMES: [Option<&str>; 3] = [None, Some("a"), Some("b")];

/// An entry of a key set: its name, and which of two keys it is.
type Entry = (Option<&'static str>, usize);

fn snapshot(policy: &Arc<Policy>, keys: Option<Arc<KeySet>>) -> Snapshot {
    Snapshot { keys: vec![keys], ..Snapshot::without_keys(Arc::clone(policy)) }
}

fn policy(kid: &str) -> Arc<Policy> {
    let text = format!(
        "
issuers: [{{ issuer: absent, audiences: any, algorithms: [EdDSA], kid: {kid}, jwks: {{ file: unread.json }} }}]
routes: [{{ match: {{ methods: [GET], paths: [/x] }}, scopes: [read] }}]
"
    );
    let config: PolicyConfig = Document::parse(&text, &|_| None).unwrap().read().unwrap();
    Arc::new(Policy::compile(&config, &mut Errors::default()).unwrap())
}

fn key_set(entries: &[Entry], pairs: &[KeyPair]) -> KeySet {
    let entry = |(kid, pair): &Entry| {
        let mut jwk = pairs[*pair].bare_jwk().unwrap();
        if let Some(kid) = kid {
            jwk.insert("kid".into(), json!(kid));
        }
        jwk.into()
    };
    let document = jwk_set(entries.iter().map(entry)).to_string();
    let algorithms = [tollgate_core::credential::jwt::algorithm::Algorithm::EdDSA];
    // A document without a usable key leaves an empty set here.
    KeySet::parse(document.as_bytes(), &algorithms).map(|(set, _)| set).unwrap_or_default()
}

fn verified(snapshot: &Snapshot, token: &str) -> Option<Arc<Principal>> {
    let bearer = format!("Bearer {token}");
    let mut headers = Headers::default();
    headers.push("authorization", bearer.as_bytes());
    let credential = extract(&headers, None).unwrap();
    assert!(matches!(credential, Credential::Jwt(_)));
    verify(snapshot, credential, NOW).ok()
}

/// All sets of up to three entries.
fn all_sets() -> Vec<Vec<Entry>> {
    let entries: Vec<Entry> = NAMES.iter().flat_map(|kid| [(*kid, 0), (*kid, 1)]).collect();
    (1u32..1 << entries.len())
        .filter(|chosen| chosen.count_ones() <= 3)
        .map(|chosen| {
            let is_chosen = |index: usize| chosen & (1 << index) != 0;
            let chosen = entries.iter().enumerate().filter(|(index, _)| is_chosen(*index));
            chosen.map(|(_, entry)| *entry).collect()
        })
        .collect()
}

#[test]
fn a_token_stays_verified_only_where_it_would_be_verified_again_and_always_where_its_key_is_named()
{
    let pairs = [(); 2].map(|()| KeyPair::generate(KeyType::Ed25519).unwrap());
    let sets = all_sets();
    let (mut kept, mut ended) = (0, 0);
    for kid_rule in ["optional", "required"] {
        let policy = policy(kid_rule);
        for (named, signer) in NAMES.iter().flat_map(|kid| [(*kid, 0), (*kid, 1)]) {
            let claims = json!({ "sub": "ann", "iat": NOW.secs(), "exp": NOW.secs() + 600 });
            let token = Token::new(Algorithm::EdDsa).claims(claims);
            let token = named.map_or(token.clone(), |kid| token.kid(kid));
            let token = token.sign(&pairs[signer]).unwrap();
            for before in &sets {
                let old = Arc::new(key_set(before, &pairs));
                let Some(principal) = verified(&snapshot(&policy, Some(Arc::clone(&old))), &token)
                else {
                    continue;
                };
                for after in &sets {
                    let new = Arc::new(key_set(after, &pairs).succeeding(&old));
                    let later = snapshot(&policy, Some(new));
                    let is_same_key = |set: &[Entry]| {
                        let mut keys = set.iter().filter(|(kid, _)| *kid == named);
                        named.is_some()
                            && keys.next().is_some_and(|(_, pair)| *pair == signer)
                            && keys.next().is_none()
                    };
                    let what = || format!("{kid_rule} {named:?} {signer} {before:?} {after:?}");
                    if is_current(&later, &principal, NOW) {
                        kept += 1;
                        assert!(verified(&later, &token).is_some(), "{}", what());
                    } else {
                        ended += 1;
                        assert!(!(is_same_key(before) && is_same_key(after)), "{}", what());
                    }
                }
            }
        }
    }
    assert!(kept > 100 && ended > 100, "{kept} {ended}");
}

#[test]
fn a_key_that_was_gone_verifies_again() {
    let pairs = [(); 2].map(|()| KeyPair::generate(KeyType::Ed25519).unwrap());
    let policy = policy("required");
    let claims = json!({ "sub": "ann", "iat": NOW.secs(), "exp": NOW.secs() + 600 });
    let token = Token::new(Algorithm::EdDsa).claims(claims).kid("a").sign(&pairs[0]).unwrap();
    let one = Arc::new(key_set(&[(Some("a"), 0)], &pairs));
    let principal = verified(&snapshot(&policy, Some(Arc::clone(&one))), &token).unwrap();
    let is_current_in =
        |set: KeySet| is_current(&snapshot(&policy, Some(Arc::new(set))), &principal, NOW);
    let with_another = [(Some("a"), 0), (Some("b"), 1)];
    assert!(is_current_in(key_set(&with_another, &pairs).succeeding(&one)));
    let gone = key_set(&[(Some("b"), 1)], &pairs).succeeding(&one);
    assert!(is_current_in(key_set(&with_another, &pairs).succeeding(&one)));
    assert!(!is_current_in(key_set(&with_another, &pairs).succeeding(&gone)));
    // The order of sets that do not succeed each other means nothing.
    assert!(!is_current_in(key_set(&with_another, &pairs)));
    assert!(!is_current(&snapshot(&policy, None), &principal, NOW));
}

/// A token that names no key is verified with the first four keys that fit.
#[test]
fn a_token_that_names_no_key_verifies_again_when_keys_are_added() {
    let names = ["a", "b", "c", "d", "e"].map(Some);
    let pairs = names.map(|_| KeyPair::generate(KeyType::Ed25519).unwrap());
    let policy = policy("optional");
    let claims = json!({ "sub": "ann", "iat": NOW.secs(), "exp": NOW.secs() + 600 });
    let token = Token::new(Algorithm::EdDsa).claims(claims);
    let [unnamed, named] = [token.clone(), token.kid("e")].map(|it| it.sign(&pairs[4]).unwrap());
    let one = Arc::new(key_set(&[(names[4], 4)], &pairs));
    let before = snapshot(&policy, Some(Arc::clone(&one)));
    let principals = [&unnamed, &named].map(|token| verified(&before, token).unwrap());
    let all: Vec<Entry> = names.into_iter().zip(0..).collect();
    let after = snapshot(&policy, Some(Arc::new(key_set(&all, &pairs).succeeding(&one))));
    assert_eq!(principals.map(|principal| is_current(&after, &principal, NOW)), [false, true]);
    assert!(verified(&after, &unnamed).is_none() && verified(&after, &named).is_some());
}
