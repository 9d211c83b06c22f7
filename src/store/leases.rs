//! The leased units of this replica, by bucket. [`tollgate_core::limit::lease`] has the rules of
//! one lease; this table has all leases, and the units that checks in progress have taken.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Instant,
};

use tollgate_core::limit::{
    BucketId, Charge, Verdict,
    lease::{Lease, LeaseGrant, LeaseOutcome, LeaseTerms},
};

use crate::sync::{AtomicBool, AtomicU64, Mutex};

/// The number of shards. Each has a lock, which is held for one bucket at a time. A model has one:
/// its executions are the same but for the order of steps.
const SHARDS: usize = if cfg!(loom) { 1 } else { 64 };

/// The most buckets with a lease, 150 bytes each; further ones are counted exactly.
const MOST: u64 = 100_000;

/// The units of leased limits that this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The number of buckets with a lease.
    pub buckets: u64,
    /// The unspent units of all of them.
    pub units: u64,
}

/// All leases of this replica.
#[derive(Debug)]
pub(super) struct Leases {
    shards: Box<[Mutex<HashMap<BucketId, BucketLease>>]>,
    hasher: RandomState,
    count: AtomicU64,
    /// Whether no more units are leased.
    closed: AtomicBool,
    started: Instant,
}

#[derive(Debug)]
struct BucketLease {
    lease: Lease,
    limit: Arc<str>,
    /// The shard of the bucket; `None` in none.
    shard: Option<usize>,
    /// The interval of the bucket that the units were taken from. A bucket with another interval
    /// under the same key takes none of them.
    interval: u64,
    terms: LeaseTerms,
}

/// How one charge of a check is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChargeStep {
    /// There is no lease: Redis charges what the check costs.
    Exact,
    /// Redis is requested to grant this many units.
    Requested(u64),
    /// Leased units were taken. The number is how many more to request ahead of need; they are
    /// noted as requested.
    Taken(Verdict, u64),
    /// Redis had no room a short time ago.
    Refused(Verdict),
}

/// Units of one bucket that go back to Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReturnedUnits {
    pub(super) key: String,
    /// The shard of the bucket; `None` in none.
    pub(super) shard: Option<usize>,
    /// By how much the units moved the TAT of the bucket, in microseconds.
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
    /// The present moment, in microseconds of a clock that never steps.
    fn now(&self) -> u64 {
        self.micros(Instant::now())
    }

    fn micros(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Takes leased units for each charge, where there are some. Their buckets are in one shard.
    pub(super) fn take(&self, charges: &[Charge], shard: Option<usize>) -> Vec<ChargeStep> {
        let now = self.now();
        charges.iter().map(|charge| self.take_one(charge, shard, now)).collect()
    }

    fn take_one(&self, charge: &Charge, shard: Option<usize>, now: u64) -> ChargeStep {
        let Some(terms) = charge.lease.filter(|_| !self.closed.load(Ordering::Relaxed)) else {
            return ChargeStep::Exact;
        };
        let Some(part) = self.shard(charge.bucket) else { return ChargeStep::Exact };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match part.get_mut(&charge.bucket) {
            Some(entry) if entry.interval == charge.interval && entry.terms == terms => entry,
            Some(_) => return ChargeStep::Exact,
            None if self.count.load(Ordering::Relaxed) >= MOST => return ChargeStep::Exact,
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
                let new = BucketLease {
                    lease: Lease::default(),
                    limit: Arc::clone(&charge.limit),
                    shard,
                    interval: charge.interval,
                    terms,
                };
                part.entry(charge.bucket).or_insert(new)
            }
        };
        match entry.lease.take(now, charge.cost, terms) {
            LeaseOutcome::Taken(verdict, ahead) => ChargeStep::Taken(verdict, ahead),
            LeaseOutcome::Refused(verdict) => ChargeStep::Refused(verdict),
            LeaseOutcome::Request(want) => ChargeStep::Requested(want),
        }
    }

    /// Notes that Redis is queried for a charge although it had no room a short time ago.
    pub(super) fn request_anyway(&self, charge: &Charge) -> ChargeStep {
        self.with(charge.bucket, |entry| entry.lease.request(charge.cost));
        ChargeStep::Requested(charge.cost)
    }

    /// Notes units that Redis granted in the call made at `called_at`. The moment when the request
    /// was made would not do: the calls of two checks may be made in another order, and the older
    /// one of two answers would be taken for the newer one.
    pub(super) fn grant(
        &self,
        bucket: BucketId,
        called_at: Instant,
        grant: LeaseGrant,
        verdict: Verdict,
    ) {
        let called_at = self.micros(called_at);
        self.with(bucket, |entry| entry.lease.grant(called_at, grant, verdict, entry.terms));
    }

    /// Notes that Redis had no room for `requested` units.
    pub(super) fn refuse(&self, bucket: BucketId, requested: u64, verdict: Verdict) {
        let now = self.now();
        self.with(bucket, |entry| entry.lease.refuse(now, requested, verdict));
    }

    /// Notes that `requested` units were not granted, or that the answer is lost.
    pub(super) fn forget(&self, bucket: BucketId, requested: u64) {
        self.with(bucket, |entry| entry.lease.forget(requested));
    }

    /// Ends the reservation of the units that a check took: they are spent, or available again.
    pub(super) fn settle(&self, charge: &Charge, spent: bool) {
        self.with(charge.bucket, |entry| entry.lease.settle(charge.cost, spent));
    }

    /// Takes back units of a check that was refused by a limit in another shard.
    pub(super) fn put_back(&self, charge: &Charge) {
        self.with(charge.bucket, |entry| entry.lease.put_back(charge.cost));
    }

    fn with(&self, bucket: BucketId, change: impl FnOnce(&mut BucketLease)) {
        if let Some(shard) = self.shard(bucket)
            && let Some(entry) =
                shard.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&bucket)
        {
            change(entry);
        }
    }

    fn shard(&self, bucket: BucketId) -> Option<&Mutex<HashMap<BucketId, BucketLease>>> {
        let place = self.hasher.hash_one(bucket) % SHARDS as u64;
        self.shards.get(usize::try_from(place).ok()?)
    }

    /// Removes the units whose lease has expired and returns them; with `closing`, all units, and
    /// no more are leased from then on.
    pub(super) async fn reclaim(&self, closing: bool) -> Vec<ReturnedUnits> {
        if closing {
            self.closed.store(true, Ordering::Relaxed);
        }
        let mut returned = Vec::new();
        for shard in &self.shards {
            let now = self.now();
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|bucket, entry| {
                let units = entry.lease.reclaim(now, closing);
                if units > 0 {
                    returned.push(ReturnedUnits {
                        key: bucket.key(&entry.limit),
                        shard: entry.shard,
                        micros: units.saturating_mul(entry.interval),
                    });
                }
                let idle = entry.lease.is_idle(now);
                if idle {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                }
                !idle
            });
            // Other tasks of this thread run between two shards.
            tokio::task::yield_now().await;
        }
        returned
    }

    /// Whether no bucket has a lease.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The number of buckets with a lease, and of their units.
    pub(super) fn status(&self) -> LeaseStatus {
        let units = self.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().map(|entry| entry.lease.held()).sum::<u64>()
        });
        LeaseStatus { buckets: self.count.load(Ordering::Relaxed), units: units.sum() }
    }
}
