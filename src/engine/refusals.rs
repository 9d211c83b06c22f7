//! The refusals of limits that this process remembers, so that a client beyond its limit costs
//! neither the reading of a body nor a call to the store.
//!
//! The table is bounded. Limits that do not count by the credential have places of their own, as
//! clients without a credential choose their keys (addresses), and one principal has a sixteenth of
//! the others at most. A refusal that finds no place is not remembered: the store is called again.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tollgate_core::{
    limit::{BucketId, Charge, refusal::Refusal},
    revocation::Fingerprint,
    time::Timestamp,
};

/// The number of shards, each with a lock.
const SHARDS: usize = 64;
/// The most refusals of a shard by limits that count by the credential, and by the others. A
/// refusal takes some 100 bytes: 64 shards with both parts full take 3 MiB.
const PART: usize = 256;
/// The most refusals of one principal in a shard. Shards are chosen by a hash with a random seed,
/// so that the buckets of a principal cannot be made to share one.
const SHARE: usize = PART / 16;

/// The refusals of a policy. Another policy starts with none.
#[derive(Debug)]
pub(super) struct Refusals {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// The moment at which the last refusal ends, in microseconds since 1970. After it, a check
    /// looks up nothing.
    last_end: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    by_principal: HashMap<BucketId, Entry>,
    others: HashMap<BucketId, Entry>,
}

#[derive(Debug)]
struct Entry {
    refusal: Refusal,
    owner: Option<Fingerprint>,
}

impl Refusals {
    /// Creates an empty table.
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            last_end: AtomicU64::new(0),
        }
    }

    /// Whether a refusal is remembered that has not ended.
    pub(super) fn any(&self, now: Timestamp) -> bool {
        now.micros() < self.last_end.load(Relaxed)
    }

    /// Remembers a refusal of a request of `owner`.
    pub(super) fn remember(
        &self,
        charge: &Charge,
        owner: Option<Fingerprint>,
        refusal: Refusal,
        now: Timestamp,
    ) {
        let Some(mut shard) = self.shard(charge.bucket) else { return };
        let part = shard.part(charge);
        if !part.contains_key(&charge.bucket) {
            if part.len() >= PART {
                part.retain(|_, entry| now < entry.refusal.ends_at());
            }
            let owned = || part.values().filter(|entry| entry.owner == owner).count();
            if part.len() >= PART || (charge.by_principal && owned() >= SHARE) {
                return;
            }
        }
        part.insert(charge.bucket, Entry { refusal, owner });
        self.last_end.fetch_max(refusal.ends_at().micros(), Relaxed);
    }

    /// Returns the last refusal by the bucket of a charge. It may have ended.
    pub(super) fn get(&self, charge: &Charge) -> Option<Refusal> {
        let mut shard = self.shard(charge.bucket)?;
        shard.part(charge).get(&charge.bucket).map(|entry| entry.refusal)
    }

    /// Returns the number of refusals that have not ended, and removes the others.
    pub(super) fn count(&self, now: Timestamp) -> u64 {
        let count = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            shard.by_principal.retain(|_, entry| now < entry.refusal.ends_at());
            shard.others.retain(|_, entry| now < entry.refusal.ends_at());
            (shard.by_principal.len() + shard.others.len()) as u64
        };
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, bucket: BucketId) -> Option<MutexGuard<'_, Shard>> {
        let place = self.hasher.hash_one(bucket) % SHARDS as u64;
        self.shards.get(usize::try_from(place).ok()?).map(lock)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn part(&mut self, charge: &Charge) -> &mut HashMap<BucketId, Entry> {
        if charge.by_principal { &mut self.by_principal } else { &mut self.others }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::limit::Verdict;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn charge(bucket: usize, by_principal: bool) -> Charge {
        Charge {
            limit: "l".into(),
            bucket: BucketId::of(bucket.to_be_bytes()),
            interval: 1_000_000,
            burst: 1,
            cost: 1,
            by_principal,
            is_shadow: false,
            lease: None,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        }
    }

    fn owner(number: u64) -> Option<Fingerprint> {
        Some(Fingerprint::from_halves([number, 0]))
    }

    fn after(millis: u64) -> Timestamp {
        Timestamp::from_micros(NOW.micros() + millis * 1000)
    }

    fn remember(table: &Refusals, charge: &Charge, owner: Option<Fingerprint>, now: Timestamp) {
        let verdict =
            Verdict { admitted: false, remaining: 0, retry_after: 1_000_000, reset: 1_000_000 };
        let refusal = Refusal::of(charge, verdict, now).unwrap();
        table.remember(charge, owner, refusal, now);
    }

    #[test]
    fn a_refusal_is_found_by_its_bucket_until_it_ends() {
        let table = Refusals::new();
        let (refused, other) = (charge(1, true), charge(2, true));
        assert!(!table.any(NOW));
        remember(&table, &refused, owner(1), NOW);
        assert!(table.any(after(999)) && !table.any(after(1000)));
        let retry_after =
            |charge: &Charge, now| Some(table.get(charge)?.verdict(charge, now)?.retry_after);
        assert_eq!(retry_after(&refused, after(400)), Some(600_000));
        assert_eq!(retry_after(&refused, after(1000)), None);
        assert_eq!(retry_after(&other, NOW), None);
        assert_eq!((table.count(after(999)), table.count(after(1000))), (1, 0));
    }

    #[test]
    fn a_principal_and_strangers_have_a_part_each() {
        let table = Refusals::new();
        let most = SHARDS * PART;
        for bucket in 0..most * 4 {
            remember(&table, &charge(bucket, true), owner(1), NOW);
        }
        let share = table.count(NOW);
        assert!(share <= (SHARDS * SHARE) as u64, "{share}");
        for bucket in 0..most * 4 {
            remember(&table, &charge(bucket, false), None, NOW);
        }
        let strangers = table.count(NOW) - share;
        assert_eq!(strangers, most as u64);
        let mut found = 0;
        for number in 0..1000 {
            let charge = charge(most * 5 + number, true);
            remember(&table, &charge, owner(number as u64 + 2), NOW);
            found += usize::from(table.get(&charge).is_some());
        }
        assert_eq!(found, 1000, "others have room");
        let late = charge(most * 9, false);
        remember(&table, &late, None, after(1000));
        assert!(table.get(&late).is_some(), "what has ended makes room");
    }
}
