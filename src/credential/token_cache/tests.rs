use std::{
    sync::{Barrier, atomic::Ordering::Relaxed},
    thread,
};

use serde_json::json;
use tollgate_core::{
    admission::AdmitResponse,
    authenticate::extract,
    check::{CheckHooks, Prepared, prepare},
    config::Document,
    credential::{
        api_key::{KeyDigest, KeyFile, KeyLifetimes},
        jwt::key_set::KeySet,
    },
    decision::Decision,
    denial::Reason,
    policy::{Policy, PolicyConfig},
    request::{Headers, RawBody, RawRequest},
    revocation::Target,
    secret::Secret,
    time::rfc3339::Rfc3339,
};
use tollgate_testkit::{KeyPair, Token};

use super::*;
use crate::store::{Memory, MemoryConfig, Revocation};

const SECRET: &str = "a-string-secret-at-least-256-bits-long";
const OTHER: &str = "another-string-secret-of-256-bits-or-more";
const NOW: Timestamp = Timestamp::from_secs(1_795_318_900);

fn keys(secret: &str) -> Option<Arc<KeySet>> {
    Some(Arc::new(
        KeySet::from_secret(
            &Secret::new(secret),
            &[tollgate_core::credential::jwt::algorithm::Algorithm::HS256],
        )
        .unwrap(),
    ))
}

fn snapshot() -> Snapshot {
    let text = "
issuers:
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: unused-here, leeway: 30s }
routes:
  - { match: { methods: [POST], paths: [/v1/chat/completions] }, scopes: [infer:text] }
  - { match: { methods: [POST], paths: [/v1/embeddings] }, scopes: [infer:embeddings] }
";
    let document = Document::parse(text, &|_| None).unwrap();
    let mut errors = Errors::default();
    let policy = Policy::compile(&document.read::<PolicyConfig>().unwrap(), &mut errors).unwrap();
    Snapshot { keys: vec![keys(SECRET)], ..Snapshot::without_keys(Arc::new(policy)) }
}

fn signed(secret: &str, subject: &str, exp: u64) -> String {
    let claims = json!({ "sub": subject, "jti": subject, "iat": NOW.secs(), "exp": exp, "scope": "infer:text" });
    with_claims(secret, claims)
}

fn with_claims(secret: &str, claims: serde_json::Value) -> String {
    let token = Token::new(tollgate_testkit::Algorithm::Hs256).claims(claims);
    token.sign(&KeyPair::secret(secret)).unwrap()
}

fn token(subject: &str) -> String {
    signed(SECRET, subject, NOW.secs() + 600)
}

fn cache() -> TokenCache {
    TokenCache::new(&TokenCacheConfig::default(), Arc::default())
}

fn after(secs: u64) -> Timestamp {
    Timestamp::from_secs(NOW.secs() + secs)
}

/// Hooks that verify through a cache.
struct Cached<'a>(&'a TokenCache);

impl CheckHooks for Cached<'_> {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.0.verify(snapshot, credential, now)
    }
}

/// Decides a request for `path`, with a store that contains the revocations of `store` only.
fn ask(
    cache: &TokenCache,
    snapshot: &Snapshot,
    path: &str,
    token: &str,
    now: Timestamp,
    store: &Memory,
) -> Result<(), Reason> {
    let value = format!("Bearer {token}");
    let mut headers = Headers::default();
    headers.push("authorization", value.as_bytes());
    let raw = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"h",
        path: path.as_bytes(),
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::None,
    };
    let outcome = match prepare(snapshot, raw, now, &mut Cached(cache)) {
        Prepared::Decided(outcome) => outcome,
        Prepared::Pending(pending) => {
            let answers: Result<AdmitResponse, _> = store.admit_at(pending.admit_request(), now);
            pending.conclude(answers)
        }
    };
    match outcome.decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(denial) => Err(denial.reason),
        Decision::Fail(failure) => Err(failure.reason),
    }
}

fn chat(
    cache: &TokenCache,
    snapshot: &Snapshot,
    token: &str,
    now: Timestamp,
) -> Result<(), Reason> {
    ask(cache, snapshot, "/v1/chat/completions", token, now, &Memory::new(&MemoryConfig::default()))
}

/// Returns the counts of hits, known rejections and verifications.
fn counted(cache: &TokenCache) -> [u64; 3] {
    cache.lookups.by_result().map(|(_, count)| count)
}

#[test]
fn a_token_is_verified_once() {
    let (cache, snapshot, token) = (cache(), snapshot(), token("ann"));
    for _ in 0..5 {
        assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    }
    assert_eq!(counted(&cache), [4, 0, 1]);
}

#[test]
fn what_is_known_is_found_without_a_verification() {
    let (cache, snapshot, good) = (cache(), snapshot(), token("ann"));
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let known = |token: &str, now| {
        let value = format!("Bearer {token}");
        let mut headers = Headers::default();
        headers.push("authorization", value.as_bytes());
        let credential = authenticate::extract(&headers, None).unwrap();
        let known = cache.known(&snapshot, credential, now);
        known.map(|known| known.map(drop).map_err(|rejection| rejection.denial.reason))
    };
    for token in [&good, &forged] {
        assert_eq!(known(token, NOW), None);
    }
    assert_eq!(chat(&cache, &snapshot, &good, NOW), Ok(()));
    assert_eq!(chat(&cache, &snapshot, &forged, NOW), Err(Reason::BadSignature));
    assert_eq!(counted(&cache), [0, 0, 2]);
    assert_eq!(known(&good, NOW), Some(Ok(())));
    assert_eq!(known(&forged, NOW), Some(Err(Reason::BadSignature)));
    assert_eq!((known(&good, after(700)), known(&forged, after(700))), (None, None));
    assert_eq!(counted(&cache), [1, 1, 2]);
}

#[test]
fn every_rule_of_a_route_is_asked_on_a_hit() {
    let (cache, snapshot, token) = (cache(), snapshot(), token("ann"));
    let store = Memory::new(&MemoryConfig::default());
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    let elsewhere = ask(&cache, &snapshot, "/v1/embeddings", &token, NOW, &store);
    assert_eq!(elsewhere, Err(Reason::InsufficientScope));
    assert_eq!(counted(&cache), [1, 0, 1]);
}

#[test]
fn a_revocation_reaches_a_remembered_token() {
    let (cache, snapshot, token) = (cache(), snapshot(), token("ann"));
    let store = Memory::new(&MemoryConfig::default());
    let again = |now| ask(&cache, &snapshot, "/v1/chat/completions", &token, now, &store);
    assert_eq!(again(NOW), Ok(()));
    let target = Target::Jti { issuer: String::new(), jti: "ann".into() };
    store.revoke_at(&Revocation::new(target, NOW, Span::from_secs(600), None).unwrap(), NOW);
    assert_eq!(again(NOW), Err(Reason::Revoked));
    assert_eq!(counted(&cache), [1, 0, 1]);
}

#[test]
fn a_remembered_token_expires_when_the_token_does() {
    let (cache, snapshot, token) = (cache(), snapshot(), token("ann"));
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    let last = Timestamp::from_micros(after(630).micros() - 1);
    assert_eq!(chat(&cache, &snapshot, &token, last), Ok(()), "within the leeway");
    assert_eq!(counted(&cache), [1, 0, 1]);
    assert_eq!(chat(&cache, &snapshot, &token, after(630)), Err(Reason::Expired));
    assert_eq!(chat(&cache, &snapshot, &token, after(631)), Err(Reason::Expired));
    assert_eq!(counted(&cache), [1, 1, 2], "that it has expired is remembered too");
}

#[test]
fn a_clock_that_goes_back_is_not_believed() {
    let (cache, snapshot) = (cache(), snapshot());
    let token = token("ann");
    assert_eq!(chat(&cache, &snapshot, &token, after(60)), Ok(()));
    assert_eq!(
        chat(&cache, &snapshot, &token, Timestamp::from_secs(NOW.secs() - 60)),
        Err(Reason::NotYetValid)
    );
    assert_eq!(counted(&cache), [0, 0, 2]);
}

#[test]
fn a_key_that_goes_takes_its_tokens_along() {
    let (cache, mut snapshot, token) = (cache(), snapshot(), token("ann"));
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    snapshot.keys = vec![keys(OTHER)];
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Err(Reason::BadSignature));
    snapshot.keys = vec![None];
    assert_eq!(
        chat(&cache, &snapshot, &token, NOW),
        Err(Reason::NotReady),
        "keys too old to be used"
    );
    snapshot.keys = vec![keys(SECRET)];
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    assert_eq!(counted(&cache), [0, 0, 4]);
}

#[test]
fn a_key_that_comes_is_used_at_once() {
    let (cache, mut snapshot) = (cache(), snapshot());
    let token = signed(OTHER, "ann", NOW.secs() + 600);
    for _ in 0..3 {
        assert_eq!(chat(&cache, &snapshot, &token, NOW), Err(Reason::BadSignature));
    }
    assert_eq!(counted(&cache), [0, 2, 1]);
    snapshot.keys = vec![keys(OTHER)];
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
}

#[test]
fn a_refusal_is_remembered_for_a_short_time() {
    let (cache, snapshot) = (cache(), snapshot());
    let token = signed(OTHER, "ann", NOW.secs() + 600);
    for (secs, expected) in [(0, [0, 0, 1]), (9, [0, 1, 1]), (10, [0, 1, 2]), (19, [0, 2, 2])] {
        assert_eq!(chat(&cache, &snapshot, &token, after(secs)), Err(Reason::BadSignature));
        assert_eq!(counted(&cache), expected, "after {secs} s");
    }
}

#[test]
fn what_time_will_change_is_not_remembered() {
    let (cache, snapshot) = (cache(), snapshot());
    let claims = json!({ "sub": "ann", "iat": NOW.secs(), "nbf": NOW.secs() + 35, "exp": NOW.secs() + 600, "scope": "infer:text" });
    let token = with_claims(SECRET, claims);
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Err(Reason::NotYetValid));
    assert_eq!(chat(&cache, &snapshot, &token, after(5)), Ok(()));
}

#[test]
fn one_byte_makes_another_token() {
    let (cache, snapshot, token) = (cache(), snapshot(), token("ann"));
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    for at in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        assert!(chat(&cache, &snapshot, &other, NOW).is_err(), "byte {at}");
    }
    assert_eq!(cache.lookups.hit.load(Relaxed), 0);
}

#[test]
fn a_burst_of_one_new_token_verifies_it_once() {
    for good in [true, false] {
        let (cache, snapshot) = (cache(), snapshot());
        let token = signed(if good { SECRET } else { OTHER }, "ann", NOW.secs() + 600);
        let start = Barrier::new(16);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(chat(&cache, &snapshot, &token, NOW).is_ok(), good);
                });
            }
        });
        let [hits, refused, verified] = counted(&cache);
        assert_eq!((verified, hits + refused), (1, 15), "good: {good}");
    }
}

#[test]
fn the_bytes_are_bounded_and_bad_tokens_push_no_good_ones_out() {
    let lookups = Arc::new(Lookups::default());
    let cache = TokenCache::new(&TokenCacheConfig { max: ByteSize(1 << 20) }, Arc::clone(&lookups));
    let snapshot = snapshot();
    let ann = token("ann");
    for _ in 0..2 {
        assert_eq!(chat(&cache, &snapshot, &ann, NOW), Ok(()));
    }
    for number in 0..3000 {
        let bad = signed(OTHER, &format!("s{number}"), NOW.secs() + 600);
        assert_eq!(chat(&cache, &snapshot, &bad, NOW), Err(Reason::BadSignature));
    }
    assert_eq!(cache.usage().0, 1);
    assert!(cache.usage().1 <= (1 << 20) + REJECTED_BYTES, "{:?}", cache.usage());
    assert_eq!(chat(&cache, &snapshot, &ann, NOW), Ok(()));
    assert_eq!(lookups.hit.load(Relaxed), 2);
    for number in 0..2500 {
        assert_eq!(chat(&cache, &snapshot, &token(&format!("s{number}")), NOW), Ok(()));
    }
    let (entries, bytes) = cache.usage();
    assert!(
        (100..2500).contains(&entries) && bytes <= (1 << 20) + REJECTED_BYTES,
        "{entries} in {bytes}"
    );
}

/// An issuer that signs one token after the other replaces tokens that are used once, not those that
/// others use again and again.
#[test]
fn a_flood_of_good_tokens_leaves_those_that_are_in_use() {
    let config = TokenCacheConfig { max: ByteSize(1 << 20) };
    let (cache, snapshot) = (TokenCache::new(&config, Arc::default()), snapshot());
    let used: Vec<String> = (0..100).map(|n| token(&format!("used {n}"))).collect();
    for one in used.iter().chain(&used).chain(&used) {
        assert_eq!(chat(&cache, &snapshot, one, NOW), Ok(()));
    }
    let [before, ..] = counted(&cache);
    let (mut hits, mut asked) = (0, 0);
    for round in 0..30 {
        for n in 0..100 {
            let new = token(&format!("new {round} {n}"));
            assert_eq!(chat(&cache, &snapshot, &new, NOW), Ok(()));
        }
        for one in &used {
            assert_eq!(chat(&cache, &snapshot, one, NOW), Ok(()));
        }
        asked += 100;
        hits = counted(&cache)[0] - before;
    }
    assert!(hits * 10 > asked * 9, "{hits} of {asked}");
    assert!(cache.usage().1 <= 2 << 20);
}

#[test]
fn a_cache_of_no_bytes_remembers_nothing() {
    let lookups = Arc::new(Lookups::default());
    let cache = TokenCache::new(&TokenCacheConfig { max: ByteSize(0) }, Arc::clone(&lookups));
    let (snapshot, token) = (snapshot(), token("ann"));
    for _ in 0..3 {
        assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    }
    assert_eq!((counted(&cache), cache.usage()), ([0, 0, 0], (0, 0)));
}

#[test]
fn nothing_in_it_prints() {
    let (cache, snapshot, token) = (cache(), snapshot(), token("ann"));
    assert_eq!(chat(&cache, &snapshot, &token, NOW), Ok(()));
    let shown = format!("{cache:?}");
    assert!(shown.starts_with("TokenCache { entries: 1, bytes: ") && shown.len() < 50, "{shown}");
}

#[test]
fn a_size_that_makes_no_sense_is_refused() {
    for (max, good) in [(0, true), (1, false), ((1 << 20) - 1, false), (1 << 20, true)] {
        let mut errors = Errors::default();
        TokenCacheConfig { max: ByteSize(max) }
            .validate(&Path::root().key("token_cache"), &mut errors);
        assert_eq!(errors.is_empty(), good, "{max}");
    }
}

/// The bytes of a token may be an imported key, too.
#[test]
fn the_same_bytes_of_another_kind_have_a_result_of_their_own() {
    let (good, bad) = (token("ann"), signed(OTHER, "ann", NOW.secs() + 600));
    let records = [&good, &bad].map(|key| {
        let id = if *key == good { "aaaaaaaaaaaa" } else { "bbbbbbbbbbbb" };
        let digest = KeyDigest::of(key.as_bytes());
        let created = Rfc3339(NOW);
        format!("{{ id: {id}, subject: ci, weak: true, created: '{created}', digest: '{digest}' }}")
    });
    let file = format!("keys: [{}]", records.join(", "));
    let table = KeyFile::compile(&file, &KeyLifetimes::default(), None).unwrap();
    let text = "
issuers:
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: unused-here }
api_keys: { file: keys.yaml }
routes: [{ match: { paths: [/health] }, public: true }]
";
    let config: PolicyConfig = Document::parse(text, &|_| None).unwrap().read().unwrap();
    let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
    let snapshot = Snapshot {
        keys: vec![keys(SECRET)],
        api_keys: vec![Some(Arc::new(table))],
        ..Snapshot::without_keys(Arc::new(policy))
    };
    let result = |cache: &TokenCache, name: &str, value: &str| {
        let mut headers = Headers::default();
        headers.push(name, value.as_bytes());
        let credential = extract(&headers, snapshot.policy.api_keys.as_ref()).unwrap();
        let verified = cache.verify(&snapshot, credential, NOW);
        verified.map(|principal| principal.kind().label()).map_err(|r| r.denial.reason)
    };
    for bytes in [&good, &bad] {
        let bearer = format!("Bearer {bytes}");
        let as_token = if *bytes == good { Ok("jwt") } else { Err(Reason::BadSignature) };
        let rows = [("authorization", &bearer, as_token), ("x-api-key", bytes, Ok("api_key"))];
        for order in [[0, 1, 0, 1], [1, 0, 1, 0]] {
            let cache = cache();
            for (name, value, expected) in order.map(|row| rows[row]) {
                assert_eq!(result(&cache, name, value), expected, "{order:?} {name}");
            }
        }
    }
}
