//! Names of members with their places: found by length and bytes, so that a table of a hundred names
//! costs a lookup no more than a table of ten (`cargo bench --bench body`, "chat, preset").

use std::{cmp::Ordering, sync::Arc};

/// Names with a place each, sorted by length, then by bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names(Vec<(Arc<str>, usize)>);

impl Names {
    fn order(known: &str, name: &str) -> Ordering {
        known.len().cmp(&name.len()).then_with(|| known.as_bytes().cmp(name.as_bytes()))
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| Self::order(known, name))
    }

    /// Whether there is no name.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of a name.
    pub(super) fn get(&self, name: &str) -> Option<usize> {
        let at = self.search(name).ok()?;
        self.0.get(at).map(|(_, place)| *place)
    }

    /// Adds a name, or gives it another place.
    pub(super) fn set(&mut self, name: impl Into<Arc<str>>, place: usize) {
        let name = name.into();
        match self.search(&name) {
            Ok(at) => drop(self.0.get_mut(at).map(|slot| slot.1 = place)),
            Err(at) => self.0.insert(at, (name, place)),
        }
    }

    /// The names and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.0.iter().map(|(name, place)| (name, *place))
    }

    /// The name that Go takes `key` for: it folds ASCII case, and the two other letters that fold into
    /// ASCII (long s and the Kelvin sign). `key` itself is none of the names.
    pub(super) fn variant(&self, key: &str) -> Option<&Arc<str>> {
        let special = ['\u{17f}', '\u{212a}'];
        // Only these two letters beyond ASCII fold into it. Comparing every key with every name would
        // make a key of a few bytes cost as much as all names.
        let folded = (!key.is_ascii() && key.contains(special))
            .then(|| key.replace('\u{17f}', "s").replace('\u{212a}', "k"));
        let key = folded.as_deref().unwrap_or(key);
        let start = self.0.partition_point(|(known, _)| known.len() < key.len());
        self.0
            .get(start..)
            .unwrap_or_default()
            .iter()
            .take_while(|(known, _)| known.len() == key.len())
            .find(|(known, _)| known.eq_ignore_ascii_case(key))
            .map(|(known, _)| known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_among_others_of_the_same_length() {
        let mut names = Names::default();
        let words =
            ["n", "model", "top_k", "top_p", "messages", "max_tokens", "min_tokens", "tasks"];
        for (place, word) in words.iter().enumerate() {
            names.set(*word, place);
        }
        names.set("n", 99);
        for (place, word) in words.iter().enumerate().skip(1) {
            assert_eq!(names.get(word), Some(place), "{word}");
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
        ] {
            assert_eq!(names.variant(key).map(AsRef::as_ref), known, "{key}");
        }
    }
}
