//! Names of members with their places. The length of a key selects the few names that it can be, so that
//! a table of a hundred names costs a lookup no more than a table of ten (`cargo bench --bench body`,
//! "chat, preset").

use std::{cmp::Ordering, ops::Range, sync::Arc};

use super::{
    seen_keys::{Print, short_word},
    steps,
};

/// Names of this length and longer ones are kept together.
const LONG: usize = 31;

/// Names with a place each, sorted by length, then by bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    list: Vec<(Arc<str>, usize)>,
    /// The last bytes of each name, without case.
    folds: Vec<u64>,
    /// The print of each name.
    prints: Vec<Print>,
    /// A bit for each length that a name has, up to [`LONG`].
    lengths: u32,
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

    /// The names of a length, or of any that is long.
    #[inline]
    fn of_length(&self, length: usize) -> Range<usize> {
        let start = |length: usize| self.starts.get(length).map(|start| usize::from(*start));
        let length = length.min(LONG);
        let end = start(length + 1).unwrap_or(self.list.len());
        start(length).unwrap_or(end)..end
    }

    /// The names that are as long as a key and end with its last bytes in any case.
    fn alike(&self, key: &str) -> impl Iterator<Item = &(Arc<str>, usize)> {
        let range = self.of_length(key.len());
        steps::count(range.len());
        let fold = fold(key);
        let folds = self.folds.get(range.clone()).unwrap_or_default();
        let names = self.list.get(range).unwrap_or_default();
        names.iter().zip(folds).filter(move |(_, known)| **known == fold).map(|(name, _)| name)
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
        self.folds = self.list.iter().map(|(name, _)| fold(name)).collect();
        self.lengths = self.list.iter().fold(0, |all, (name, _)| all | 1 << name.len().min(LONG));
        self.prints = self.list.iter().map(|(name, _)| Print::of(name)).collect();
        for (length, start) in self.starts.iter_mut().enumerate() {
            let first = self.list.partition_point(|(known, _)| known.len() < length);
            *start = u16::try_from(first).unwrap_or(u16::MAX);
        }
    }

    /// The names and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.list.iter().map(|(name, place)| (name, *place))
    }

    /// The place of a name, or the name that Go takes a key for ([`variant`](Self::variant)). The
    /// text of a short key is looked at only where it may be a name in another case.
    #[inline]
    pub(super) fn find<'k>(&self, key: Print, text: impl FnOnce() -> &'k str) -> Found<'_> {
        // Most keys are not even as long as a name.
        let is_long = !key.is_exact();
        if is_long || self.lengths >> key.length() & 1 == 1 || key.may_fold() {
            self.find_among(key, text)
        } else {
            Found::None
        }
    }

    #[inline(never)]
    fn find_among<'k>(&self, key: Print, text: impl FnOnce() -> &'k str) -> Found<'_> {
        if !key.is_exact() {
            return self.find_text(text());
        }
        let range = self.of_length(key.length());
        steps::count(range.len());
        let mut is_alike = key.may_fold();
        let prints = self.prints.get(range.clone()).unwrap_or_default();
        for (known, at) in prints.iter().zip(range) {
            if *known == key {
                return self.list.get(at).map_or(Found::None, |(_, at)| Found::Place(*at));
            }
            is_alike |= known.is_alike(key);
        }
        if is_alike { self.find_text(text()) } else { Found::None }
    }

    #[inline(never)]
    fn find_text(&self, key: &str) -> Found<'_> {
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

/// The last bytes of a name, up to eight, with the bit set that tells the cases of a letter apart:
/// names that differ only in case have the same.
fn fold(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let last =
        bytes.last_chunk().map_or_else(|| short_word(bytes), |last| u64::from_le_bytes(*last));
    last | 0x2020_2020_2020_2020
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
            assert_eq!(names.find(Print::of(word), || word), Found::Place(place), "{word}");
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
            let found = match names.find(Print::of(key), || key) {
                Found::Variant(known) => Some(&**known),
                Found::Place(_) | Found::None => None,
            };
            assert_eq!(found, known, "{key}");
        }
    }
}
