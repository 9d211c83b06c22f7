//! The cache of verified tokens: after keys are removed no check is served by them, a burst of one
//! token verifies it once, and a token that has expired is never a hit.

use std::sync::{Arc, LazyLock};

use loom::{sync::Mutex, thread};
use serde_json::json;
use tollgate_core::{
    authenticate::{Verified, extract},
    config::{Document, Errors},
    credential::jwt::{algorithm::Algorithm, key_set::KeySet},
    policy::{Policy, PolicyConfig},
    request::Headers,
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_testkit::{KeyPair, Token};

use crate::credential::token_cache::{Lookups, TokenCache, TokenCacheConfig};
const SECRET: &str = "a-string-secret-at-least-256-bits-long";
const OTHER: &str = "another-string-secret-of-256-bits-or-more";
const NOW: u64 = 1_795_318_900;

fn keys(secret: &str) -> Option<Arc<KeySet>> {
    Some(Arc::new(KeySet::from_secret(&Secret::new(secret), &[Algorithm::HS256]).unwrap()))
}

/// The snapshot of the keys that are there at first.
static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let text = "
issuers: [{ issuer: absent, audiences: any, algorithms: [HS256], secret: unused-here, leeway: 0s }]
routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [] }]
";
    let document = Document::parse(text, &|_| None).unwrap();
    let config = document.read::<PolicyConfig>().unwrap();
    let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
    Snapshot { keys: vec![keys(SECRET)], ..Snapshot::without_keys(Arc::new(policy)) }
});

/// The snapshot of the same policy after its keys were replaced.
static REPLACED: LazyLock<Snapshot> =
    LazyLock::new(|| Snapshot { keys: vec![keys(OTHER)], ..SNAPSHOT.clone() });

fn token(secret: &str, expires: u64) -> String {
    let claims = json!({ "sub": "a", "iat": NOW, "exp": expires });
    let token = Token::new(tollgate_testkit::Algorithm::Hs256).claims(claims);
    format!("Bearer {}", token.sign(&KeyPair::secret(secret)).unwrap())
}

static GOOD: LazyLock<String> = LazyLock::new(|| token(SECRET, NOW + 600));
static FORGED: LazyLock<String> = LazyLock::new(|| token(OTHER, NOW + 600));

/// A cache with the counts of its lookups.
struct Counted {
    tokens: TokenCache,
    lookups: Arc<Lookups>,
}

impl Counted {
    fn new() -> loom::sync::Arc<Self> {
        let lookups = Arc::<Lookups>::default();
        let tokens = TokenCache::new(&TokenCacheConfig::default(), Arc::clone(&lookups));
        loom::sync::Arc::new(Self { tokens, lookups })
    }

    /// Verifies the token of a request.
    fn verify(&self, snapshot: &Snapshot, authorization: &str, now: u64) -> Verified {
        let mut headers = Headers::default();
        headers.push("authorization", authorization.as_bytes());
        let credential = extract(&headers, None).unwrap();
        self.tokens.verify(snapshot, credential, Timestamp::from_secs(now))
    }

    /// Hits, known rejections and verifications.
    fn counts(&self) -> [u64; 3] {
        self.lookups.by_result().map(|(_, count)| count)
    }
}

/// A thread with the stack that the verification of a token needs in a debug build.
fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}

/// The stack of a thread, in words.
const STACK: usize = 1 << 17;

/// Runs a model of threads, after what all of its executions share was made.
fn explore(name: &str, at_least: usize, model: impl Fn() + Sync + Send + 'static) {
    let _made = (&*SNAPSHOT, &*REPLACED, &*GOOD, &*FORGED);
    crate::explore(name, 2, at_least, model);
}

#[test]
fn keys_are_removed_while_checks_verify() {
    explore("token cache, keys removed", 50, || {
        let (cache, in_force) = (Counted::new(), loom::sync::Arc::new(Mutex::new(&*SNAPSHOT)));
        let check = |snapshot: &'static Snapshot, cache: &Counted| {
            let verified = cache.verify(snapshot, &GOOD, NOW);
            let is_old = std::ptr::eq(snapshot, &raw const *SNAPSHOT);
            assert_eq!(verified.is_ok(), is_old, "the keys of the check's snapshot decide");
        };
        let mut threads: Vec<thread::JoinHandle<()>> = Vec::new();
        for _ in 0..2 {
            let (cache, in_force) = (cache.clone(), in_force.clone());
            threads.push(spawn(move || {
                let snapshot = *in_force.lock().unwrap();
                check(snapshot, &cache);
            }));
        }
        {
            let (cache, in_force) = (cache.clone(), in_force.clone());
            threads.push(spawn(move || {
                *in_force.lock().unwrap() = &REPLACED;
                // Whatever the others cache meanwhile.
                check(&REPLACED, &cache);
            }));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        let after = spawn(move || {
            check(&REPLACED, &cache);
            check(&SNAPSHOT, &cache);
        });
        after.join().unwrap();
    });
}

#[test]
fn a_burst_of_a_new_token_verifies_it_once() {
    explore("token cache, burst of a good token", 50, || {
        let cache = Counted::new();
        let threads = [(); 3].map(|()| {
            let cache = cache.clone();
            spawn(move || cache.verify(&SNAPSHOT, &GOOD, NOW).unwrap())
        });
        let [first, second, third] = threads.map(|thread| thread.join().unwrap());
        assert!(Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&first, &third), "one result for all");
        assert_eq!(cache.counts(), [2, 0, 1]);
    });
}

#[test]
fn a_burst_of_a_forged_token_verifies_it_once() {
    explore("token cache, burst of a forged token", 50, || {
        let cache = Counted::new();
        let threads = [(); 3].map(|()| {
            let cache = cache.clone();
            spawn(move || cache.verify(&SNAPSHOT, &FORGED, NOW).is_err())
        });
        assert_eq!(threads.map(|thread| thread.join().unwrap()), [true; 3]);
        assert_eq!(cache.counts(), [0, 2, 1]);
    });
}

#[test]
fn a_check_after_the_expiry_of_a_token_is_no_hit() {
    explore("token cache, expiry", 20, || {
        let cache = Counted::new();
        let [early, late] = [NOW, NOW + 601].map(|now| {
            let cache = cache.clone();
            spawn(move || cache.verify(&SNAPSHOT, &GOOD, now).is_ok())
        });
        assert!(!late.join().unwrap(), "a token that has expired passed");
        assert!(early.join().unwrap(), "a token that is valid was refused");
    });
}
