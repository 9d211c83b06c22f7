//! The keys of the open objects of a body, each compared with the others of its object.
//!
//! Comparing every key of an object with all others takes quadratic time. Here, a filter finds most
//! new keys without a comparison: a set of bits, indexed by a hash of the key. The seed of the hash
//! is random, so a client cannot choose keys that share a bit. The seed changes how many comparisons
//! are made and never their result.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
};

use foldhash::fast::FixedState;

/// The number of keys of an object that are compared one by one.
const FEW: usize = 8;
/// The bits of a filter: with 256 keys, one of 16 new keys finds its bit set.
const BITS: usize = 4096;

/// A set of bits.
type Filter = [u64; BITS / 64];

/// The keys of all open objects.
#[derive(Debug)]
pub(super) struct SeenKeys<'a> {
    /// The keys, those of the innermost object last.
    keys: Vec<Cow<'a, str>>,
    /// Filters that no object uses at the moment.
    #[expect(clippy::vec_box, reason = "a box moves between this list and an open object")]
    unused: Vec<Box<Filter>>,
    hash: Option<FixedState>,
}

/// An open object.
#[derive(Debug)]
pub(super) struct OpenObject {
    /// The place of its first key.
    first: usize,
    filter: Option<Box<Filter>>,
}

impl<'a> SeenKeys<'a> {
    /// Creates an empty list.
    pub(super) fn new() -> Self {
        Self { keys: Vec::with_capacity(32), unused: Vec::new(), hash: None }
    }

    /// Opens an object.
    pub(super) fn open(&self) -> OpenObject {
        OpenObject { first: self.keys.len(), filter: None }
    }

    /// The number of keys of the innermost object.
    pub(super) fn count(&self, object: &OpenObject) -> usize {
        self.keys.len() - object.first
    }

    /// Whether the innermost object has the key already.
    pub(super) fn contains(&mut self, object: &mut OpenObject, key: &str) -> bool {
        let keys = self.keys.get(object.first..).unwrap_or_default();
        if keys.len() < FEW {
            return keys.iter().any(|known| known == key);
        }
        let hash = self
            .hash
            .get_or_insert_with(|| FixedState::with_seed(RandomState::new().hash_one(FEW)));
        let unused = &mut self.unused;
        let filter = object.filter.get_or_insert_with(|| {
            let mut filter = unused.pop().unwrap_or_else(|| Box::new([0; BITS / 64]));
            filter.fill(0);
            for known in keys {
                set(&mut filter, hash.hash_one(known.as_bytes()));
            }
            filter
        });
        let is_set = set(filter, hash.hash_one(key.as_bytes()));
        is_set && keys.iter().any(|known| known == key)
    }

    /// Adds a key to the innermost object.
    pub(super) fn push(&mut self, key: Cow<'a, str>) {
        self.keys.push(key);
    }

    /// Closes the innermost object, and returns the number of its keys.
    pub(super) fn close(&mut self, object: OpenObject) -> usize {
        let count = self.count(&object);
        self.keys.truncate(object.first);
        self.unused.extend(object.filter);
        count
    }
}

/// Sets the bit of a hash, and returns whether it was set.
fn set(filter: &mut Filter, hash: u64) -> bool {
    let bit = hash % (BITS as u64);
    let mask = 1 << (bit % 64);
    let word = usize::try_from(bit / 64).ok().and_then(|word| filter.get_mut(word));
    // The index is below the length: the bit is below `BITS`.
    word.is_none_or(|word| {
        let is_set = *word & mask != 0;
        *word |= mask;
        is_set
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_found_as_in_a_set() {
        let mut seen = SeenKeys::new();
        for size in [0, 1, 7, 8, 9, 64, 256] {
            let mut object = seen.open();
            let mut set = HashSet::new();
            for number in 0..size {
                // Every third key repeats one of the keys before it.
                let key = if number % 3 == 2 { number / 2 } else { number };
                let key = format!("{}{key}", "k".repeat(key % 20));
                assert_eq!(seen.contains(&mut object, &key), !set.insert(key.clone()), "{key}");
                seen.push(key.into());
            }
            assert_eq!(seen.close(object), size);
        }
    }

    #[test]
    fn an_object_within_another_has_keys_of_its_own() {
        let mut seen = SeenKeys::new();
        let mut outer = seen.open();
        for key in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
            assert!(!seen.contains(&mut outer, key));
            seen.push(key.into());
            let mut inner = seen.open();
            assert!(!seen.contains(&mut inner, key));
            seen.push(key.into());
            assert!(seen.contains(&mut inner, key));
            assert_eq!(seen.close(inner), 1);
        }
        assert!(seen.contains(&mut outer, "a") && seen.contains(&mut outer, "j"));
    }
}
