//! The keys of the open objects of a body, each compared with the others of its object.
//!
//! Comparing every key of an object with all others takes quadratic time. Here, an object with more
//! than a few keys keeps a tag of each, and only keys with equal tags are compared. A tag is a hash
//! with a random seed, so a client cannot choose keys with equal tags: the seed changes how many
//! comparisons are made and never their result. The tags of one object are searched with vector
//! instructions, and are bounded by the number of its keys.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
};

use foldhash::fast::FixedState;

use super::steps;

/// The number of keys of an object that are compared one by one.
const FEW: usize = 4;

/// The keys of all open objects.
#[derive(Debug)]
pub(super) struct SeenKeys<'a> {
    /// The keys, those of the innermost object last.
    keys: Vec<Cow<'a, str>>,
    /// The tags of the objects that have more than a few keys, those of the innermost last.
    tags: Vec<u16>,
    hash: Option<FixedState>,
}

/// An open object.
#[derive(Debug)]
pub(super) struct OpenObject {
    /// The place of its first key.
    first: usize,
    /// The place of its first tag, once it has more than a few keys.
    tags: Option<usize>,
}

impl<'a> SeenKeys<'a> {
    /// Creates an empty list.
    pub(super) fn new() -> Self {
        Self { keys: Vec::with_capacity(32), tags: Vec::new(), hash: None }
    }

    /// Opens an object.
    pub(super) fn open(&self) -> OpenObject {
        OpenObject { first: self.keys.len(), tags: None }
    }

    /// The number of keys of the innermost object.
    pub(super) fn count(&self, object: &OpenObject) -> usize {
        self.keys.len() - object.first
    }

    /// Whether the innermost object has the key already. A key that it has not is added with
    /// [`push`](Self::push).
    pub(super) fn contains(&mut self, object: &mut OpenObject, key: &str) -> bool {
        let keys = self.keys.get(object.first..).unwrap_or_default();
        if keys.len() < FEW {
            steps::count(keys.len());
            return keys.iter().any(|known| known == key);
        }
        self.contains_tagged(object, key)
    }

    fn contains_tagged(&mut self, object: &mut OpenObject, key: &str) -> bool {
        let keys = self.keys.get(object.first..).unwrap_or_default();
        let hash = self
            .hash
            .get_or_insert_with(|| FixedState::with_seed(RandomState::new().hash_one(FEW)));
        #[expect(clippy::cast_possible_truncation, reason = "a part of the hash suffices")]
        let tag = |key: &str| hash.hash_one(key.as_bytes()) as u16;
        let first = *object.tags.get_or_insert_with(|| {
            let first = self.tags.len();
            self.tags.extend(keys.iter().map(|known| tag(known)));
            first
        });
        let new = tag(key);
        let tags = self.tags.get(first..).unwrap_or_default();
        steps::count(key.len() / 8 + tags.len() / 8);
        let found = has_tag(tags, new)
            && keys.iter().zip(tags).any(|(known, tag)| {
                steps::count(1);
                *tag == new && known == key
            });
        self.tags.push(new);
        found
    }

    /// Adds a key to the innermost object.
    pub(super) fn push(&mut self, key: Cow<'a, str>) {
        self.keys.push(key);
    }

    /// Closes the innermost object, and returns the number of its keys.
    pub(super) fn close(&mut self, object: OpenObject) -> usize {
        let count = self.count(&object);
        self.keys.truncate(object.first);
        if let Some(first) = object.tags {
            self.tags.truncate(first);
        }
        count
    }
}

/// Whether a tag is among others. The compiler generates vector instructions for each chunk.
fn has_tag(tags: &[u16], tag: u16) -> bool {
    let equal = |found: u16, known: &u16| found | u16::from(*known == tag);
    let (chunks, rest) = tags.as_chunks::<16>();
    chunks.iter().any(|chunk| chunk.iter().fold(0, equal) != 0) || rest.iter().fold(0, equal) != 0
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
