//! Names of members with their places. The length of a key selects the few names that it can be, so that
//! a table of a hundred names costs a lookup no more than a table of ten (`cargo bench --bench body`,
//! "chat, preset").

use std::{cmp::Ordering, ops::Range, sync::Arc};

use super::steps;

/// Names of this length and longer ones are kept together.
const LONG: usize = 31;

/// Names with a place each, sorted by length, then by bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    list: Vec<(Arc<str>, usize)>,
    /// The first byte of each name, in lower case.
    firsts: Vec<u8>,
    /// For each length up to [`LONG`], the index of the first name that is at least as long.
    starts: [u16; LONG + 1],
}

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'n> {
    /// The place of the name.
    Place(usize),
    /// A name that the key differs from only in case.
    Variant(&'n Arc<str>),
    /// The key is none of the names.
    None,
}

impl Names {
    fn order(known: &str, name: &str) -> Ordering {
        known.len().cmp(&name.len()).then_with(|| known.as_bytes().cmp(name.as_bytes()))
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        self.list.binary_search_by(|(known, _)| Self::order(known, name))
    }

    /// The names that are as long as a key, or as long as any long key.
    fn as_long_as(&self, key: &str) -> Range<usize> {
        let start = |length: usize| self.starts.get(length).map(|start| usize::from(*start));
        let length = key.len().min(LONG);
        let end = start(length + 1).unwrap_or(self.list.len());
        start(length).unwrap_or(end)..end
    }

    /// The names that are as long as a key and begin with its first byte in any case.
    fn alike(&self, key: &str) -> impl Iterator<Item = &(Arc<str>, usize)> {
        let range = self.as_long_as(key);
        steps::count(range.len());
        let first = first_byte(key);
        let firsts = self.firsts.get(range.clone()).unwrap_or_default();
        let alike = self.list.get(range).unwrap_or_default();
        alike.iter().zip(firsts).filter(move |(_, known)| **known == first).map(|(name, _)| name)
    }

    /// Whether there is no name.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The place of a name.
    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.alike(name).find(|(known, _)| **known == *name).map(|(_, place)| *place)
    }

    /// Adds a name, or gives it another place.
    pub(super) fn set(&mut self, name: impl Into<Arc<str>>, place: usize) {
        let name = name.into();
        match self.search(&name) {
            Ok(at) => drop(self.list.get_mut(at).map(|slot| slot.1 = place)),
            Err(at) => self.list.insert(at, (name, place)),
        }
        self.firsts = self.list.iter().map(|(name, _)| first_byte(name)).collect();
        for (length, start) in self.starts.iter_mut().enumerate() {
            let first = self.list.partition_point(|(known, _)| known.len() < length);
            *start = u16::try_from(first).unwrap_or(u16::MAX);
        }
    }

    /// The names and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.list.iter().map(|(name, place)| (name, *place))
    }

    /// The place of a name, or the name that Go takes `key` for ([`variant`](Self::variant)).
    pub(super) fn find(&self, key: &str) -> Found<'_> {
        let mut variant = None;
        for (known, place) in self.alike(key) {
            if **known == *key {
                return Found::Place(*place);
            }
            if known.eq_ignore_ascii_case(key) {
                variant = Some(known);
            }
        }
        if !key.is_ascii() {
            variant = self.variant(key);
        }
        variant.map_or(Found::None, Found::Variant)
    }

    /// The name that Go takes `key` for: it folds ASCII case, and the two other letters that fold into
    /// ASCII (long s and the Kelvin sign). `key` itself is none of the names.
    pub(super) fn variant(&self, key: &str) -> Option<&Arc<str>> {
        // Only these two letters beyond ASCII fold into it. Comparing every key with every name would
        // make a key of a few bytes cost as much as all names.
        steps::count(key.len() / 8);
        let folded = key
            .bytes()
            .any(|byte| matches!(byte, 0xc5 | 0xe2))
            .then(|| key.replace('\u{17f}', "s").replace('\u{212a}', "k"));
        let key = folded.as_deref().unwrap_or(key);
        self.alike(key).find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(known, _)| known)
    }
}

/// The first byte of a name, in lower case if it is a letter.
fn first_byte(name: &str) -> u8 {
    name.as_bytes().first().map_or(0, |byte| byte | 0x20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_among_others_of_the_same_length() {
        let mut names = Names::default();
        let words = [
            "a_name_that_is_longer_than_all_the_others",
            "another_name_that_is_longer_than_the_others",
            "n",
            "model",
            "top_k",
            "top_p",
            "messages",
            "max_tokens",
            "min_tokens",
            "tasks",
        ];
        for (place, word) in words.iter().enumerate() {
            names.set(*word, place);
        }
        names.set("n", 99);
        for (place, word) in words.iter().enumerate().filter(|(_, word)| **word != "n") {
            assert_eq!(names.get(word), Some(place), "{word}");
            assert_eq!(names.find(word), Found::Place(place), "{word}");
        }
        assert_eq!(names.get("n"), Some(99), "a name has one place");
        for other in ["", "m", "modem", "Model", "max_token", "max_tokens_"] {
            assert_eq!(names.get(other), None, "{other}");
        }
        for (key, known) in [
            ("Model", Some("model")),
            ("N", Some("n")),
            ("TOP_K", Some("top_k")),
            ("ta\u{17f}k\u{17f}", Some("tasks")),
            ("top_\u{212a}", Some("top_k")),
            ("modell", None),
            (
                "A_NAME_THAT_IS_LONGER_THAN_ALL_THE_OTHERS",
                Some("a_name_that_is_longer_than_all_the_others"),
            ),
        ] {
            assert_eq!(names.variant(key).map(AsRef::as_ref), known, "{key}");
            let found = match names.find(key) {
                Found::Variant(known) => Some(&**known),
                Found::Place(_) | Found::None => None,
            };
            assert_eq!(found, known, "{key}");
        }
    }
}
