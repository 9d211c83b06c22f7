//! The table of buckets: sixteen bytes for a key and eight for its TAT, in parts that grow and are swept one at a time.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hash, Hasher},
};

use tollgate_core::limit::BucketId;

use crate::store::prehashed::Prehashed;

/// A part of a million buckets grows, or is swept, in some 50 microseconds, while all checks wait.
const PARTS: usize = 256;

/// How many buckets are looked at for each charge: more than a charge can add, so that the table shrinks.
const SWEEP: usize = 4;

/// What it costs to look at a part, in buckets.
const PART: usize = 4;

/// Room for so many buckets stays in each part.
const ROOM: usize = 14;

/// TATs of buckets, in microseconds.
#[derive(Debug)]
pub(super) struct Table {
    parts: Box<[Part]>,
    len: usize,
    /// The part that is swept next, and how many buckets may be looked at.
    next: usize,
    credit: usize,
    /// Keys are turned by this before they are placed.
    secret: [u64; 2],
}

#[derive(Debug)]
struct Part {
    tats: HashMap<Key, u64, Prehashed>,
    /// No bucket of it is full before this moment.
    due: u64,
}

impl Default for Part {
    fn default() -> Self {
        Self { tats: HashMap::default(), due: u64::MAX }
    }
}

impl Table {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        let secret = [random.hash_one(0), random.hash_one(1)];
        Self {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            len: 0,
            next: 0,
            credit: 0,
            secret,
        }
    }

    /// How many buckets are held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The TAT of a bucket that may not be full.
    pub(super) fn get(&self, bucket: BucketId) -> Option<u64> {
        let key = self.key(bucket);
        self.parts.get(key.part())?.tats.get(&key).copied()
    }

    /// Stores the TAT of a bucket: none before the one that is stored.
    pub(super) fn set(&mut self, bucket: BucketId, tat: u64) {
        let key = self.key(bucket);
        let Some(part) = self.parts.get_mut(key.part()) else { return };
        if part.tats.insert(key, tat).is_none() {
            self.len += 1;
            part.due = part.due.min(tat);
        }
    }

    /// Drops full buckets, of as many as there is time to look at with so many charges.
    pub(super) fn sweep(&mut self, now: u64, charges: usize) {
        self.credit += charges * SWEEP;
        while let Some(part) = self.parts.get_mut(self.next)
            && let Some(left) = self.credit.checked_sub(PART + part.tats.len())
        {
            self.len -= part.drop_full(now);
            self.credit = left;
            self.next = (self.next + 1) % PARTS;
        }
    }

    /// Drops full buckets until there is room for so many more. Answers whether there is.
    pub(super) fn make_room(&mut self, now: u64, more: usize, most: usize) -> bool {
        for part in &mut self.parts {
            if self.len + more <= most {
                break;
            }
            self.len -= part.drop_full(now);
        }
        self.len + more <= most
    }

    fn key(&self, bucket: BucketId) -> Key {
        let ([high, low], [first, second]) = (bucket.halves(), self.secret);
        Key([high ^ first, low ^ second])
    }
}

impl Part {
    /// Drops the full buckets. Answers how many there were.
    fn drop_full(&mut self, now: u64) -> usize {
        if self.due > now {
            return 0;
        }
        let (before, mut due) = (self.tats.len(), u64::MAX);
        self.tats.retain(|_, tat| {
            let draining = *tat > now;
            if draining {
                due = due.min(*tat);
            }
            draining
        });
        self.due = due;
        let left = self.tats.len();
        // A bucket that goes is often followed by one that comes.
        if self.tats.capacity() > 4 * left.max(ROOM) {
            self.tats.shrink_to(2 * left.max(ROOM));
        }
        before - left
    }
}

/// An id, which is half of a SHA-256, and a secret. Whoever may choose among many names finds, in minutes of hashing, a thousand whose
/// ids agree in the bits that give a place. Not where a secret comes in between, and with one a product is hash enough.
#[derive(Debug, PartialEq, Eq)]
struct Key([u64; 2]);

impl Key {
    fn product(&self) -> u64 {
        let Self([high, low]) = self;
        let product = u128::from(*high) * u128::from(*low);
        (product >> 64) as u64 ^ product as u64
    }

    /// By bits that a part does not use: it takes the lowest, and the seven highest.
    fn part(&self) -> usize {
        (self.product() >> 40) as usize % PARTS
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.product());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Against a map that forgets nothing before its time.
    #[test]
    fn draining_buckets_stay_as_they_were_and_full_ones_go() {
        let (mut table, mut all) = (Table::new(), BTreeMap::new());
        let bucket = |n: u64| BucketId::of(n.to_be_bytes());
        for round in 0..200_000_u64 {
            let now = round * 10;
            // Names come up again and again in the first half; then there are three.
            let n = if round < 100_000 { round * round % 40_009 } else { round % 3 };
            table.sweep(now, 1);
            let tat = all.get(&n).copied().unwrap_or(now).max(now) + 100 + round % 300_000;
            table.set(bucket(n), tat);
            all.insert(n, tat);
            let asked = round * 7 % 40_009;
            let held = all.get(&asked).copied().filter(|tat| *tat > now);
            assert_eq!(table.get(bucket(asked)).filter(|tat| *tat > now), held);
        }
        assert_eq!(table.len(), table.parts.iter().map(|part| part.tats.len()).sum::<usize>());
        let now = u64::MAX;
        assert!(table.make_room(now, 5, 5), "all are full by then");
        assert_eq!(table.len(), 0);
        assert!(
            table.parts.iter().all(|part| part.tats.capacity() <= 4 * ROOM),
            "and their room is given back"
        );
    }
}
