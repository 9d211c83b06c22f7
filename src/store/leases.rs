//! The units this replica holds ahead of need, bucket by bucket: [`tollgate_core::limit::lease`] says what may be done with them,
//! this keeps them and knows which check has which.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use tollgate_core::limit::{
    BucketId, Charge, Verdict,
    lease::{Lease, LeaseGrant, LeaseOutcome, LeaseTerms},
};

/// Parts with a lock each, held for one bucket at a time.
const SHARDS: usize = 64;

/// Most buckets that units are held of, 150 bytes each; more are asked for each time.
const MOST: u64 = 100_000;

/// Leases by bucket.
#[derive(Debug)]
pub(super) struct Leases {
    shards: Box<[Mutex<HashMap<BucketId, Held>>]>,
    hasher: RandomState,
    count: AtomicU64,
    /// Nothing is taken ahead of need any more.
    closed: AtomicBool,
    started: Instant,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    limit: Arc<str>,
    /// Of the bucket the units were taken from: another one under the same key takes none of them.
    interval: u64,
    terms: LeaseTerms,
}

/// What became of one charge of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing is held of this bucket: Redis is asked for what the charge costs.
    Exact,
    /// Redis is asked for so many units, noted in the lease.
    Asked(u64),
    /// Units were held and taken; so many more should be asked for, and are noted.
    Taken(Verdict, u64),
    /// There is no room, as Redis said a moment ago.
    Refused(Verdict),
}

/// The units of some bucket to be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Back {
    pub(super) key: String,
    /// By how much they moved the bucket's TAT, in microseconds.
    pub(super) micros: u64,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            started: Instant::now(),
        }
    }
}

impl Leases {
    /// Now, in microseconds of a clock that never steps.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Looks for each charge.
    pub(super) fn take(&self, charges: &[Charge]) -> Vec<Part> {
        let now = self.now();
        charges.iter().map(|charge| self.take_one(charge, now)).collect()
    }

    fn take_one(&self, charge: &Charge, now: u64) -> Part {
        let Some(terms) = charge.lease.filter(|_| !self.closed.load(Ordering::Relaxed)) else {
            return Part::Exact;
        };
        let Some(shard) = self.shard(charge.bucket) else { return Part::Exact };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match shard.get_mut(&charge.bucket) {
            Some(held) if held.interval == charge.interval && held.terms == terms => held,
            Some(_) => return Part::Exact,
            None if self.count.load(Ordering::Relaxed) >= MOST => return Part::Exact,
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
                let new = Held {
                    lease: Lease::default(),
                    limit: Arc::clone(&charge.limit),
                    interval: charge.interval,
                    terms,
                };
                shard.entry(charge.bucket).or_insert(new)
            }
        };
        match held.lease.take(now, charge.cost, terms) {
            LeaseOutcome::Taken(verdict, ahead) => Part::Taken(verdict, ahead),
            LeaseOutcome::Refused(verdict) => Part::Refused(verdict),
            LeaseOutcome::Request(want) => Part::Asked(want),
        }
    }

    /// A charge whose bucket has no room is to be asked for all the same.
    pub(super) fn ask_anyway(&self, charge: &Charge) -> Part {
        self.with(charge.bucket, |held| held.lease.request(charge.cost));
        Part::Asked(charge.cost)
    }

    /// Redis gave `given` of the `asked` units, `spent` of them to the check that asked at `sent`.
    pub(super) fn given(&self, bucket: BucketId, sent: u64, units: LeaseGrant, said: Verdict) {
        self.with(bucket, |held| held.lease.grant(sent, units, said, held.terms));
    }

    /// Redis had no room.
    pub(super) fn refused(&self, bucket: BucketId, asked: u64, said: Verdict) {
        let now = self.now();
        self.with(bucket, |held| held.lease.refuse(now, asked, said));
    }

    /// Nothing is known of `asked` units.
    pub(super) fn lost(&self, bucket: BucketId, asked: u64) {
        self.with(bucket, |held| held.lease.forget(asked));
    }

    /// A check that had taken its units was decided.
    pub(super) fn decided(&self, charge: &Charge, spent: bool) {
        self.with(charge.bucket, |held| held.lease.settle(charge.cost, spent));
    }

    fn with(&self, bucket: BucketId, change: impl FnOnce(&mut Held)) {
        if let Some(shard) = self.shard(bucket)
            && let Some(held) =
                shard.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&bucket)
        {
            change(held);
        }
    }

    fn shard(&self, bucket: BucketId) -> Option<&Mutex<HashMap<BucketId, Held>>> {
        let place = self.hasher.hash_one(bucket) % SHARDS as u64;
        self.shards.get(usize::try_from(place).ok()?)
    }

    /// What nobody may spend any more; with `closed` whatever is held, and nothing is taken ahead of need from now on.
    pub(super) async fn expired(&self, closed: bool) -> Vec<Back> {
        if closed {
            self.closed.store(true, Ordering::Relaxed);
        }
        let mut back = Vec::new();
        for shard in &self.shards {
            let now = self.now();
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|bucket, held| {
                let units = held.lease.reclaim(now, closed);
                if units > 0 {
                    back.push(Back {
                        key: bucket.key(&held.limit),
                        micros: units.saturating_mul(held.interval),
                    });
                }
                let idle = held.lease.is_idle(now);
                if idle {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                }
                !idle
            });
            // Checks on this thread come in between.
            tokio::task::yield_now().await;
        }
        back
    }

    /// Of how many buckets something is known, and how many units are held.
    pub(super) fn held(&self) -> (u64, u64) {
        let units = self.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().map(|held| held.lease.held()).sum::<u64>()
        });
        (self.count.load(Ordering::Relaxed), units.sum())
    }
}
