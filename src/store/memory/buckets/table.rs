//! The table of buckets, which removes full ones a few at a time.

use tollgate_core::{
    limit::BucketId,
    revocation::Fingerprint,
    room::{Group, SharedRoom},
};

use crate::store::sharded_map::{Place, Shard, Sharding};

/// The number of shards. With a million buckets one grows, or is swept, in some 50 microseconds,
/// while all checks wait.
const SHARDS: usize = 256;

/// How many buckets are swept for each charge: more than a charge can add, so that the table
/// shrinks.
const SWEEP: usize = 4;

/// The cost of sweeping an empty shard, in buckets.
const SHARD_COST: usize = 4;

/// The most shards whose full buckets are removed to make room for a group.
const SHARDS_AT_ONCE: usize = 4;

/// The bits of a bucket for its owner. Two principals in 4096 are counted as one.
const OWNER_BITS: u32 = 12;

/// A bucket in sixteen bytes.
#[derive(Clone, Copy, Debug)]
struct PackedBucket {
    /// A TAT in microseconds, until the year 2112, and the owner of the bucket.
    packed: u64,
    /// The group whose room it takes.
    group: Group,
}

/// The group of buckets without one, which the room does not count.
const NO_GROUP: Group = Group { outer: 0, inner: 0 };

impl PackedBucket {
    fn new(tat: u64, owner: u16, group: Option<Group>) -> Self {
        let packed = pack(tat) | u64::from(owner) & ((1 << OWNER_BITS) - 1);
        Self { packed, group: group.unwrap_or(NO_GROUP) }
    }

    fn with_tat(self, tat: u64) -> Self {
        Self { packed: pack(tat) | self.owner() as u64, ..self }
    }

    fn tat(self) -> u64 {
        self.packed >> OWNER_BITS
    }

    fn owner(self) -> usize {
        (self.packed & ((1 << OWNER_BITS) - 1)) as usize
    }

    fn group(self) -> Option<Group> {
        (self.group != NO_GROUP).then_some(self.group)
    }
}

fn pack(tat: u64) -> u64 {
    tat.min(u64::MAX >> OWNER_BITS) << OWNER_BITS
}

/// The TATs of buckets, in microseconds.
#[derive(Debug)]
pub(super) struct BucketTable {
    shards: Box<[BucketShard]>,
    sharding: Sharding,
    /// The most buckets.
    most: usize,
    room: SharedRoom,
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
    pub(super) fn new(most: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| BucketShard::default()).collect(),
            sharding: Sharding::new(SHARDS),
            most,
            room: SharedRoom::default(),
            owners: vec![0; 1 << OWNER_BITS].into(),
            owner_sharding: Sharding::new(1 << OWNER_BITS),
            next: 0,
            credit: 0,
        }
    }

    /// The number of buckets.
    pub(super) fn len(&self) -> usize {
        self.room.len()
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

    /// Stores the TAT of a bucket, which is not before the one that is stored. The first owner and
    /// its group, which a new bucket needs only, stay.
    pub(super) fn set(
        &mut self,
        bucket: BucketId,
        tat: u64,
        owner: u16,
        group: impl FnOnce() -> Option<Group>,
    ) {
        let Place { shard, key } = self.sharding.place(bucket.halves());
        let Some(shard) = self.shards.get_mut(shard) else { return };
        let new = match shard.tats.get(key) {
            Some(known) => known.with_tat(tat),
            None => {
                let new = PackedBucket::new(tat, owner, group());
                self.room.add(new.group());
                shard.due = shard.due.min(tat);
                if let Some(count) = self.owners.get_mut(new.owner()) {
                    *count += 1;
                }
                new
            }
        };
        shard.tats.insert(key, new);
    }

    /// Removes full buckets, from as many shards as this number of charges pays for.
    pub(super) fn sweep(&mut self, now: u64, charges: usize) {
        self.credit += charges * SWEEP;
        while let Some(shard) = self.shards.get_mut(self.next)
            && let Some(left) = self.credit.checked_sub(SHARD_COST + shard.tats.len())
        {
            shard.remove_full(now, &mut self.owners, &mut self.room);
            self.credit = left;
            self.next = (self.next + 1) % SHARDS;
        }
    }

    /// Whether the table has room for `more` buckets as they are stored now.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.room.has(self.most, None, more)
    }

    /// Whether groups may have used up their parts of the table.
    pub(super) fn is_crowded(&self, more: usize) -> bool {
        self.room.is_crowded(self.most, more)
    }

    /// Removes full buckets until there is room for `more` buckets. Returns whether there is.
    pub(super) fn make_room(&mut self, now: u64, more: usize) -> bool {
        for shard in &mut self.shards {
            if self.room.has(self.most, None, more) {
                break;
            }
            shard.remove_full(now, &mut self.owners, &mut self.room);
        }
        self.has_room(more)
    }

    /// Removes full buckets, of a few shards, until a group has room for `more` of its own. Returns
    /// whether it has.
    pub(super) fn make_room_for(&mut self, now: u64, group: Option<Group>, more: usize) -> bool {
        let mut swept = 0;
        for shard in &mut self.shards {
            if swept >= SHARDS_AT_ONCE || self.room.has(self.most, group, more) {
                break;
            }
            let removed = shard.remove_full(now, &mut self.owners, &mut self.room);
            swept += usize::from(removed > 0);
        }
        self.room.has(self.most, group, more)
    }
}

impl BucketShard {
    /// Removes the full buckets, from the counts of their `owners` and groups as well. Returns how
    /// many there were.
    fn remove_full(&mut self, now: u64, owners: &mut [u32], room: &mut SharedRoom) -> usize {
        if self.due > now {
            return 0;
        }
        let (before, mut due) = (self.tats.len(), u64::MAX);
        self.tats.retain(|_, bucket| {
            let draining = bucket.tat() > now;
            if draining {
                due = due.min(bucket.tat());
            } else {
                room.remove(bucket.group());
                if let Some(count) = owners.get_mut(bucket.owner()) {
                    *count -= 1;
                }
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
        let (mut table, mut all) = (BucketTable::new(5), BTreeMap::new());
        let bucket = |n: u64| BucketId::of(n.to_be_bytes());
        let number = |n: u64| (n % 5) as u32;
        let group = |n| (n % 3 > 0).then(|| Group { outer: number(n), inner: 9 + number(n) });
        for round in 0..200_000_u64 {
            let now = round * 10;
            // Names are repeated in the first half; after that there are three.
            let n = if round < 100_000 { round * round % 40_009 } else { round % 3 };
            table.sweep(now, 1);
            let tat = all.get(&n).copied().unwrap_or(now).max(now) + 100 + round % 300_000;
            table.set(bucket(n), tat, (n % 7) as u16, || group(n));
            all.insert(n, tat);
            let queried = round * 7 % 40_009;
            let stored = all.get(&queried).copied().filter(|tat| *tat > now);
            assert_eq!(table.get(bucket(queried)).filter(|tat| *tat > now), stored);
        }
        assert_eq!(table.len(), table.shards.iter().map(|shard| shard.tats.len()).sum::<usize>());
        assert_eq!((0..7).map(|owner| table.stored_by(owner)).sum::<usize>(), table.len());
        let now = u64::MAX;
        assert!(table.make_room(now, 5), "all are full by then");
        assert_eq!((table.len(), table.stored_by(3)), (0, 0));
        assert!(!table.is_crowded(1), "the groups have gone with them");
    }
}
