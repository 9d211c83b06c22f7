//! A cache of verified tokens: the signature of a token is checked once, not with every request.
//!
//! The cache is in front of [`authenticate::verify`] and of nothing else. Every rule of a route,
//! the revocations and the limits apply on a hit as on a miss.
//!
//! - The key of an entry is a keyed hash of the kind and all bytes of the token (`TokenHasher`); the
//!   token itself is not stored.
//! - An entry is valid until the token expires, and while its issuer's key set has the key that the
//!   token names; where it names none, while the set is the same. A policy
//!   has the cache of the one before it, where both verify credentials in the same way
//!   ([`Policy::verifies_as`](tollgate_core::policy::Policy::verifies_as)).
//! - Tokens that were rejected for good are stored for [`REJECTED_FOR`], in a cache of their own,
//!   so that a flood of bad signatures neither costs a verification each nor evicts good tokens.
//! - A burst of one new token verifies it once: the other checks wait for that one result, which
//!   takes microseconds.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use highway::{HighwayHash, HighwayHasher, Key};
use quick_cache::Weighter;
use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::{
    authenticate::{self, Verified},
    config::{Errors, Path},
    credential::{Credential, Rejection},
    identity::Principal,
    snapshot::Snapshot,
    time::{Span, Timestamp},
};

use crate::{
    byte_size::ByteSize,
    sync::{AtomicU64, Cache, GuardResult},
};

/// How long a token that was rejected for good is stored.
pub const REJECTED_FOR: Span = Span::from_secs(10);

/// The most that rejected tokens take, in bytes.
const REJECTED_BYTES: u64 = 1 << 20;

/// The approximate size of an entry beside its contents: its place in the table, reference counts,
/// the allocator's rounding. `docs/benchmarks.md` has the measured size of 100 000 tokens.
const OVERHEAD: usize = 96;

/// The section `token_cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenCacheConfig {
    /// The most bytes that cached tokens may take. A verified token is not verified again until it
    /// expires, its key leaves its issuer's key set, or a section changes that decides how credentials are
    /// verified; scopes, revocation and limits are checked for every request. `0B` turns the cache off. Default 64MiB: about a hundred thousand
    /// tokens.
    pub max: ByteSize,
}

impl Default for TokenCacheConfig {
    fn default() -> Self {
        Self { max: ByteSize(64 << 20) }
    }
}

impl TokenCacheConfig {
    /// A smaller cache would evict entries as fast as they come.
    const MIN_BYTES: usize = 1 << 20;

    /// Adds the errors of the section.
    pub fn validate(&self, path: &Path, errors: &mut Errors) {
        if self.max.0 != 0 && self.max.0 < Self::MIN_BYTES {
            errors.push(&path.key("max"), "a cache takes at least `1MiB`; write `0B` for none");
        }
    }
}

/// The number of lookups since the start of the process.
#[derive(Debug, Default)]
pub struct Lookups {
    hit: AtomicU64,
    negative: AtomicU64,
    miss: AtomicU64,
}

impl Lookups {
    /// Returns the lookups by result: `hit` (verified before), `negative` (rejected before), `miss`
    /// (verified now).
    pub fn by_result(&self) -> [(&'static str, u64); 3] {
        [
            ("hit", self.hit.load(Relaxed)),
            ("negative", self.negative.load(Relaxed)),
            ("miss", self.miss.load(Relaxed)),
        ]
    }
}

/// The cached tokens of policies that verify credentials in the same way.
pub struct TokenCache {
    caches: Option<Caches>,
    lookups: Arc<Lookups>,
}

struct Caches {
    verified: Cache<TokenHash, Arc<Principal>, Size>,
    rejected: Cache<TokenHash, Arc<RejectedToken>, Size>,
    hasher: TokenHasher,
}

/// The keyed hash that identifies a token.
type TokenHash = [u64; 2];

/// Hashes tokens: HighwayHash of all bytes of a token, to 128 bits, under a key of 256 bits that
/// each cache draws at random.
///
/// Two tokens of one hash would share one principal, so no client may be able to construct a second
/// one. HighwayHash is designed as a pseudorandom function: without the key, its results for chosen
/// inputs cannot be distinguished from random ones, and no method to distinguish them, or to find
/// the key, is known (Alakuijala, Cox, Wassenberg, arXiv:1612.06257). A client has less than that:
/// the key never leaves the process, no result is ever shown, and a token only reveals whether its
/// hash is in the cache. What is left is to guess: with 2^20 cached tokens, one in 2^108 tries
/// succeeds.
struct TokenHasher(HighwayHasher);

impl TokenHasher {
    fn new() -> Self {
        Self(HighwayHasher::new(Key(rand::random())))
    }

    fn of(&self, credential: Credential<'_>) -> TokenHash {
        let (kind, bytes) = authenticate::cache_key(&credential);
        let [first, second] = self.0.clone().hash128(bytes);
        // Hashes of one text under two kinds differ, and others are as random as they were.
        [first ^ kind as u64, second]
    }
}

/// A credential that was rejected for good.
struct RejectedToken {
    rejection: Rejection,
    at: Timestamp,
}

impl RejectedToken {
    /// Whether the rejection is recent and final, and the clock has not gone back.
    fn is_valid_at(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        let recent = now.micros().saturating_sub(self.at.micros()) < REJECTED_FOR.micros();
        self.at <= now && recent && authenticate::is_settled(snapshot, &self.rejection)
    }
}

/// Weighs entries by their size in bytes.
#[derive(Clone, Copy, Debug)]
struct Size;

impl Weighter<TokenHash, Arc<Principal>> for Size {
    fn weight(&self, _: &TokenHash, principal: &Arc<Principal>) -> u64 {
        (OVERHEAD + principal.size()) as u64
    }
}

impl Weighter<TokenHash, Arc<RejectedToken>> for Size {
    fn weight(&self, _: &TokenHash, rejected: &Arc<RejectedToken>) -> u64 {
        let denial = &rejected.rejection.denial;
        (OVERHEAD
            + size_of::<RejectedToken>()
            + denial.cause.len()
            + denial.message.as_deref().map_or(0, str::len)) as u64
    }
}

impl TokenCache {
    /// Creates an empty cache. `lookups` continues the counts of the previous cache.
    pub fn new(config: &TokenCacheConfig, lookups: Arc<Lookups>) -> Self {
        let max = config.max.0 as u64;
        let caches = (max > 0).then(|| {
            // An estimate that only sizes tables: the weight bounds the cache.
            let entries = |bytes: u64| usize::try_from(bytes / 512).unwrap_or(usize::MAX);
            Caches {
                verified: Cache::with_weighter(entries(max), max, Size),
                rejected: Cache::with_weighter(entries(REJECTED_BYTES), REJECTED_BYTES, Size),
                hasher: TokenHasher::new(),
            }
        });
        Self { caches, lookups }
    }

    /// Creates a cache that stores nothing.
    pub fn disabled() -> Self {
        Self { caches: None, lookups: Arc::default() }
    }

    /// Returns the cached result, or that of [`authenticate::verify`]. `snapshot` is the one that
    /// this cache belongs to.
    ///
    /// # Errors
    /// See [`authenticate::verify`].
    pub fn verify(
        &self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        let Some(caches) = &self.caches else {
            return authenticate::verify(snapshot, credential, now);
        };
        let hash = caches.hasher.of(credential);
        if let Some(known) = caches
            .verified
            .get(&hash)
            .filter(|known| authenticate::is_current(snapshot, known, now))
        {
            self.lookups.hit.fetch_add(1, Relaxed);
            return Ok(known);
        }
        if let Some(rejection) = caches.rejection(hash, snapshot, now) {
            self.lookups.negative.fetch_add(1, Relaxed);
            return Err(rejection);
        }
        // An entry that is not current is removed first: the check that finds it gone verifies.
        caches.verified.remove_if(&hash, |known| !authenticate::is_current(snapshot, known, now));
        match caches.verified.get_value_or_guard(&hash, None) {
            GuardResult::Value(known) if authenticate::is_current(snapshot, &known, now) => {
                self.lookups.hit.fetch_add(1, Relaxed);
                Ok(known)
            }
            GuardResult::Guard(place) => {
                // Another check may have rejected it while this one waited.
                if let Some(rejection) = caches.rejection(hash, snapshot, now) {
                    self.lookups.negative.fetch_add(1, Relaxed);
                    return Err(rejection);
                }
                self.lookups.miss.fetch_add(1, Relaxed);
                let verified = authenticate::verify(snapshot, credential, now);
                match &verified {
                    Ok(principal) => {
                        // An error means that the place is gone, which costs a verification later.
                        let _ = place.insert(Arc::clone(principal));
                    }
                    Err(rejection) => {
                        // Before the place is given up, so that a check that waits for it finds
                        // the rejection.
                        if rejection.settled.is_some() {
                            let rejected = RejectedToken { rejection: rejection.clone(), at: now };
                            caches.rejected.insert(hash, Arc::new(rejected));
                        }
                    }
                }
                verified
            }
            // Verified with other keys a moment ago, by a check with another snapshot.
            GuardResult::Value(_) | GuardResult::Timeout => {
                self.lookups.miss.fetch_add(1, Relaxed);
                authenticate::verify(snapshot, credential, now)
            }
        }
    }

    /// Returns the cached result, and verifies nothing; `None` where there is none.
    pub fn known(
        &self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Option<Verified> {
        let caches = self.caches.as_ref()?;
        let hash = caches.hasher.of(credential);
        let is_current = |known: &Arc<Principal>| authenticate::is_current(snapshot, known, now);
        if let Some(known) = caches.verified.get(&hash).filter(is_current) {
            self.lookups.hit.fetch_add(1, Relaxed);
            return Some(Ok(known));
        }
        let rejection = caches.rejection(hash, snapshot, now)?;
        self.lookups.negative.fetch_add(1, Relaxed);
        Some(Err(rejection))
    }

    /// Returns the number of verified tokens in the cache, and the bytes of all entries.
    pub fn usage(&self) -> (u64, u64) {
        self.caches.as_ref().map_or((0, 0), |caches| {
            (caches.verified.len() as u64, caches.verified.weight() + caches.rejected.weight())
        })
    }
}

impl Caches {
    fn rejection(&self, hash: TokenHash, snapshot: &Snapshot, now: Timestamp) -> Option<Rejection> {
        let rejected = self.rejected.get(&hash)?;
        rejected.is_valid_at(snapshot, now).then(|| rejected.rejection.clone())
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, bytes) = self.usage();
        f.debug_struct("TokenCache")
            .field("entries", &entries)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
