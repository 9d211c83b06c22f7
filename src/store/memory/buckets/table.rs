//! The table of buckets, which removes full ones a few at a time.

use tollgate_core::{limit::BucketId, revocation::Fingerprint};

use crate::store::sharded_map::{Place, Shard, Sharding};

/// The number of shards. With a million buckets one grows, or is swept, in some 50 microseconds,
/// while all checks wait.
const SHARDS: usize = 256;

/// How many buckets are swept for each charge: more than a charge can add, so that the table
/// shrinks.
const SWEEP: usize = 4;

/// The cost of sweeping an empty shard, in buckets.
const SHARD_COST: usize = 4;

/// The bits of a bucket for its owner. Two principals in 4096 are counted as one.
const OWNER_BITS: u32 = 12;

/// A TAT in microseconds, until the year 2112, and the owner of the bucket: eight bytes, as a TAT
/// alone has.
#[derive(Clone, Copy, Debug)]
struct PackedBucket(u64);

impl PackedBucket {
    fn new(tat: u64, owner: u16) -> Self {
        let most = u64::MAX >> OWNER_BITS;
        Self(tat.min(most) << OWNER_BITS | u64::from(owner) & ((1 << OWNER_BITS) - 1))
    }

    fn with_tat(self, tat: u64) -> Self {
        Self(Self::new(tat, 0).0 | self.owner() as u64)
    }

    fn tat(self) -> u64 {
        self.0 >> OWNER_BITS
    }

    fn owner(self) -> usize {
        (self.0 & ((1 << OWNER_BITS) - 1)) as usize
    }
}

/// The TATs of buckets, in microseconds.
#[derive(Debug)]
pub(super) struct BucketTable {
    shards: Box<[BucketShard]>,
    sharding: Sharding,
    len: usize,
    /// The number of stored buckets of each owner.
    owners: Box<[u32]>,
    owner_sharding: Sharding,
    /// The shard that is swept next.
    next: usize,
    /// How many buckets may be swept.
    credit: usize,
}

#[derive(Debug)]
struct BucketShard {
    tats: Shard<PackedBucket>,
    /// No bucket of the shard is full before this moment.
    due: u64,
}

impl Default for BucketShard {
    fn default() -> Self {
        Self { tats: Shard::default(), due: u64::MAX }
    }
}

impl BucketTable {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| BucketShard::default()).collect(),
            sharding: Sharding::new(SHARDS),
            len: 0,
            owners: vec![0; 1 << OWNER_BITS].into(),
            owner_sharding: Sharding::new(1 << OWNER_BITS),
            next: 0,
            credit: 0,
        }
    }

    /// The number of buckets.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The TAT of a bucket that may not be full.
    pub(super) fn get(&self, bucket: BucketId) -> Option<u64> {
        let Place { shard, key } = self.sharding.place(bucket.halves());
        self.shards.get(shard)?.tats.get(key).map(PackedBucket::tat)
    }

    /// Returns the number under which the buckets of a principal are counted. Without the table's
    /// secret no two principals can be found that have the same one.
    #[expect(clippy::cast_possible_truncation, reason = "below 4096")]
    pub(super) fn owner(&self, principal: Fingerprint) -> u16 {
        self.owner_sharding.place(principal.halves()).shard as u16
    }

    /// The number of stored buckets of an owner, full ones included.
    pub(super) fn stored_by(&self, owner: u16) -> usize {
        self.owners.get(usize::from(owner)).map_or(0, |count| *count as usize)
    }

    /// Stores the TAT of a bucket, which is not before the one that is stored. The first owner
    /// stays.
    pub(super) fn set(&mut self, bucket: BucketId, tat: u64, owner: u16) {
        let Place { shard, key } = self.sharding.place(bucket.halves());
        let Some(shard) = self.shards.get_mut(shard) else { return };
        let mut new = PackedBucket::new(tat, owner);
        match shard.tats.get(key) {
            Some(known) => {
                new = known.with_tat(tat);
            }
            None => {
                self.len += 1;
                shard.due = shard.due.min(tat);
                if let Some(count) = self.owners.get_mut(new.owner()) {
                    *count += 1;
                }
            }
        }
        shard.tats.insert(key, new);
    }

    /// Removes full buckets, from as many shards as this number of charges pays for.
    pub(super) fn sweep(&mut self, now: u64, charges: usize) {
        self.credit += charges * SWEEP;
        while let Some(shard) = self.shards.get_mut(self.next)
            && let Some(left) = self.credit.checked_sub(SHARD_COST + shard.tats.len())
        {
            self.len -= shard.remove_full(now, &mut self.owners);
            self.credit = left;
            self.next = (self.next + 1) % SHARDS;
        }
    }

    /// Removes full buckets until there is room for `more` buckets. Returns whether there is.
    pub(super) fn make_room(&mut self, now: u64, more: usize, most: usize) -> bool {
        for shard in &mut self.shards {
            if self.len + more <= most {
                break;
            }
            self.len -= shard.remove_full(now, &mut self.owners);
        }
        self.len + more <= most
    }
}

impl BucketShard {
    /// Removes the full buckets, from the counts of their `owners` as well. Returns how many there
    /// were.
    fn remove_full(&mut self, now: u64, owners: &mut [u32]) -> usize {
        if self.due > now {
            return 0;
        }
        let (before, mut due) = (self.tats.len(), u64::MAX);
        self.tats.retain(|_, bucket| {
            let draining = bucket.tat() > now;
            if draining {
                due = due.min(bucket.tat());
            } else if let Some(count) = owners.get_mut(bucket.owner()) {
                *count -= 1;
            }
            draining
        });
        self.due = due;
        before - self.tats.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Compared with a map that removes no bucket.
    #[test]
    fn draining_buckets_stay_as_they_were_and_full_ones_go() {
        let (mut table, mut all) = (BucketTable::new(), BTreeMap::new());
        let bucket = |n: u64| BucketId::of(n.to_be_bytes());
        for round in 0..200_000_u64 {
            let now = round * 10;
            // Names are repeated in the first half; after that there are three.
            let n = if round < 100_000 { round * round % 40_009 } else { round % 3 };
            table.sweep(now, 1);
            let tat = all.get(&n).copied().unwrap_or(now).max(now) + 100 + round % 300_000;
            table.set(bucket(n), tat, (n % 7) as u16);
            all.insert(n, tat);
            let queried = round * 7 % 40_009;
            let stored = all.get(&queried).copied().filter(|tat| *tat > now);
            assert_eq!(table.get(bucket(queried)).filter(|tat| *tat > now), stored);
        }
        assert_eq!(table.len(), table.shards.iter().map(|shard| shard.tats.len()).sum::<usize>());
        assert_eq!((0..7).map(|owner| table.stored_by(owner)).sum::<usize>(), table.len());
        let now = u64::MAX;
        assert!(table.make_room(now, 5, 5), "all are full by then");
        assert_eq!((table.len(), table.stored_by(3)), (0, 0));
    }
}
