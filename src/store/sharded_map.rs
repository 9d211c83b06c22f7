//! A hash map in shards, for tables with up to millions of small entries.
//!
//! A shard grows, or is swept, in microseconds, so that no check waits for the milliseconds that one
//! large table would take. The keys are digests, and a keyed product of their halves is the hash: a
//! look-up takes 85 instructions, and 317 with the standard library's hasher (callgrind). A check
//! with five revocation keys and two limits makes nine, so that its row in docs/benchmarks.md, "user
//! instructions a check, no body", would be 4 % more. The tests compare the map with a `HashMap`.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher},
};

/// A key: half of a SHA-256.
pub(super) type Digest = [u64; 2];

/// Which shard an entry is in, and under which key.
#[derive(Debug)]
pub(super) struct Sharding {
    shards: usize,
    secret: Digest,
}

/// The place of an entry.
#[derive(Debug)]
pub(super) struct Place {
    /// The index of the shard.
    pub(super) shard: usize,
    /// The key in the shard.
    pub(super) key: Key,
}

/// A digest and a secret. Without the secret a client that may choose among many names finds, in
/// minutes of hashing, a thousand whose digests have the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(Digest);

/// The entries of one shard.
#[derive(Debug)]
pub(super) struct Shard<V> {
    entries: HashMap<Key, V, BuildHasherDefault<IdentityHasher>>,
}

/// The capacity that an emptied shard keeps.
const KEPT: usize = 14;

impl Sharding {
    pub(super) fn new(shards: usize) -> Self {
        let random = RandomState::new();
        Self { shards, secret: [random.hash_one(0), random.hash_one(1)] }
    }

    /// The place of a digest.
    pub(super) fn place(&self, [high, low]: Digest) -> Place {
        let [first, second] = self.secret;
        let key = Key([high ^ first, low ^ second]);
        // Bits that the map of a shard does not use: it takes the lowest and the seven highest.
        Place { shard: (key.product() >> 32) as u32 as usize % self.shards, key }
    }

    /// A hash of a digest under the secret, in 32 bits.
    pub(super) fn hash(&self, digest: Digest) -> u32 {
        let Place { key, .. } = self.place(digest);
        (key.product() >> 16) as u32
    }

    /// The digest of a key.
    pub(super) fn digest(&self, Key([high, low]): Key) -> Digest {
        let [first, second] = self.secret;
        [high ^ first, low ^ second]
    }
}

impl Key {
    fn product(self) -> u64 {
        let Self([high, low]) = self;
        let product = u128::from(high) * u128::from(low);
        (product >> 64) as u64 ^ product as u64
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.product());
    }
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { entries: HashMap::default() }
    }
}

impl<V: Copy> Shard<V> {
    pub(super) fn get(&self, key: Key) -> Option<V> {
        self.entries.get(&key).copied()
    }

    /// Inserts or replaces an entry. Returns the value that it had.
    pub(super) fn insert(&mut self, key: Key, value: V) -> Option<V> {
        self.entries.insert(key, value)
    }

    /// Removes an entry. Returns its value.
    pub(super) fn remove(&mut self, key: Key) -> Option<V> {
        self.entries.remove(&key)
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Changes every value.
    pub(super) fn for_each(&mut self, change: impl FnMut(&mut V)) {
        self.entries.values_mut().for_each(change);
    }

    /// Removes the entries that `keep` rejects. Capacity for twice as many as are left stays:
    /// removed entries are often followed by new ones.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Key, V) -> bool) {
        self.entries.retain(|key, value| keep(*key, *value));
        let left = self.entries.len().max(KEPT);
        if self.entries.capacity() > 4 * left {
            self.entries.shrink_to(2 * left);
        }
    }
}

/// Takes a key's own hash as its hash.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not used: the key of a shard writes one `u64`.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn random_histories_end_as_those_of_a_hash_map() {
        let sharding = Sharding::new(16);
        let mut shards: Vec<Shard<u32>> = (0..16).map(|_| Shard::default()).collect();
        let mut plain: HashMap<Digest, u32> = HashMap::new();
        let mut random = StdRng::seed_from_u64(7);
        for step in 0..100_000_u32 {
            // Few different digests, some of which differ in one half only.
            let digest = [random.random_range(0..40), random.random_range(0..40)];
            let Place { shard, key } = sharding.place(digest);
            assert_eq!(sharding.digest(key), digest);
            match random.random_range(0..100) {
                0..60 => assert_eq!(shards[shard].insert(key, step), plain.insert(digest, step)),
                60..99 => assert_eq!(shards[shard].remove(key), plain.remove(&digest)),
                _ => {
                    let odd = random.random_range(2..5);
                    plain.retain(|[high, _], value| high % 2 == 0 || *value % odd == 0);
                    for shard in &mut shards {
                        shard.retain(|key, value| {
                            let [high, _] = sharding.digest(key);
                            high % 2 == 0 || value % odd == 0
                        });
                    }
                }
            }
            assert_eq!(shards[shard].get(key), plain.get(&digest).copied());
        }
        assert_eq!(shards.iter().map(Shard::len).sum::<usize>(), plain.len());
        for (digest, value) in plain {
            let Place { shard, key } = sharding.place(digest);
            assert_eq!(shards[shard].get(key), Some(value));
        }
    }

    #[test]
    fn an_emptied_shard_gives_its_memory_back() {
        let (sharding, mut shard) = (Sharding::new(1), Shard::default());
        for n in 0..10_000 {
            shard.insert(sharding.place([n, n]).key, n);
        }
        shard.retain(|_, _| false);
        assert!(shard.entries.capacity() <= 4 * KEPT, "{}", shard.entries.capacity());
    }

    #[test]
    fn digests_are_spread_over_all_shards() {
        let sharding = Sharding::new(256);
        let mut counts = [0; 256];
        for n in 0..256_000_u64 {
            let digest =
                [n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n.wrapping_mul(0xd1b5_4a32_d192_ed03)];
            counts[sharding.place(digest).shard] += 1;
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }
}
