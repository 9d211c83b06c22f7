//! The ids of keys whose records are in a source, and not in the table of the source.
//!
//! The set is exact, and takes 12 bytes for an id and some room to grow. A filter with false
//! positives (Bloom, xor) takes a tenth of that, but has to be built again without a revoked key, and
//! accepts some ids that do not exist.

use super::{
    digest::KeyDigest,
    shared_map::{SharedMap, Spread},
};
use crate::identity::KeyId;

/// The first bytes of a digest. The whole digest is compared with the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DigestStart([u8; 16]);

impl DigestStart {
    fn of(digest: &KeyDigest) -> Self {
        let [start @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *digest.bytes();
        Self(start)
    }
}

impl Spread for DigestStart {
    fn spread(&self) -> u64 {
        let [.., a, b] = self.0;
        u64::from(u16::from_le_bytes([a, b]))
    }
}

/// The digests of a key of a foreign format: its secret, and the one before it.
type Digests = [Option<DigestStart>; 2];

/// Ids of keys, and the digests of those that have a foreign format.
#[derive(Clone, Debug)]
pub(super) struct UncopiedKeys {
    ids: SharedMap<KeyId, ()>,
    by_digest: SharedMap<DigestStart, KeyId>,
    /// The digests of `by_digest`, so that they are removed with their id.
    digests: SharedMap<KeyId, Digests>,
}

impl UncopiedKeys {
    pub(super) fn new() -> Self {
        Self { ids: SharedMap::new(), by_digest: SharedMap::new(), digests: SharedMap::new() }
    }

    pub(super) const fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn contains(&self, id: &KeyId) -> bool {
        self.ids.get(id).is_some()
    }

    /// Returns the id of a key of a foreign format.
    pub(super) fn id_of(&self, digest: &KeyDigest) -> Option<KeyId> {
        self.by_digest.get(&DigestStart::of(digest)).copied()
    }

    /// Returns all ids, in no order that is stated.
    pub(super) fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.ids.iter().map(|(id, ())| id)
    }

    /// Adds an id without digests, or removes those that it has.
    pub(super) fn add(&mut self, id: KeyId) {
        self.remove(&id);
        self.ids.insert(id, ());
    }

    /// Adds a digest of an id in this set: the first two of them are kept. A digest of another id
    /// becomes one of this id.
    pub(super) fn add_digest(&mut self, id: KeyId, digest: &KeyDigest) {
        let start = DigestStart::of(digest);
        let mut digests = self.digests.get(&id).copied().unwrap_or_default();
        let Some(free) = digests.iter_mut().find(|known| known.is_none_or(|known| known == start))
        else {
            return;
        };
        *free = Some(start);
        self.digests.insert(id, digests);
        self.by_digest.insert(start, id);
    }

    /// Removes an id and its digests. Returns whether it was in the set.
    pub(super) fn remove(&mut self, id: &KeyId) -> bool {
        for digest in self.digests.remove(id).into_iter().flatten().flatten() {
            if self.by_digest.get(&digest) == Some(id) {
                self.by_digest.remove(&digest);
            }
        }
        self.ids.remove(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_removed_with_its_digests() {
        let (one, two) = ("aaaaaaaaaaaa".parse().unwrap(), "bbbbbbbbbbbb".parse().unwrap());
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| KeyDigest::of(text));
        let mut keys = UncopiedKeys::new();
        for id in [one, two] {
            keys.add(id);
        }
        for digest in [&a, &a, &b, &c] {
            keys.add_digest(one, digest);
        }
        assert_eq!([&a, &b, &c].map(|digest| keys.id_of(digest)), [Some(one), Some(one), None]);
        // A digest that another id has taken over stays.
        keys.add_digest(two, &b);
        assert!(keys.remove(&one) && !keys.remove(&one));
        assert_eq!([&a, &b].map(|digest| keys.id_of(digest)), [None, Some(two)]);
        assert!(keys.contains(&two) && !keys.contains(&one) && keys.len() == 1);
        keys.add(two);
        assert_eq!((keys.id_of(&b), keys.ids().count()), (None, 1));
        assert_eq!((keys.by_digest.len(), keys.digests.len()), (0, 0));
    }
}
