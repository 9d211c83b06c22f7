//! Names of members with their places. A lookup looks at one or two names, however many there are
//! (`cargo bench --bench body`, "chat, preset"): a hash of the key selects them. The names are the
//! policy's and keys are only looked up, so there is nothing that a client could flood.

use std::{cmp::Ordering, sync::Arc};

use super::{
    print::{KeyText, Print},
    steps,
};

/// The length from which all lengths of names share a bit.
const LONGEST: usize = 31;

/// Names with a place each, sorted by length, then by bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    list: Vec<Name>,
    /// A bit for each length that a name has, up to [`LONGEST`].
    lengths: u32,
    /// The indices of names plus one, each at or after the place of its hash; 0 in free slots.
    slots: Box<[u16]>,
}

#[derive(Clone, Debug)]
struct Name {
    text: Arc<str>,
    folded: Folded,
    /// The print of a short name.
    print: Option<Print>,
    place: usize,
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

/// What names and keys that differ only in case have in common: all bytes of a short one, the first
/// and the last eight of a longer one, without the bit of the case. Others may have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Folded(u64, u64);

impl Folded {
    fn of_text(text: &str) -> Self {
        match Print::short(text.as_bytes()) {
            Some(print) => Self::of_print(print),
            None => Self::of_long(text),
        }
    }

    #[inline(always)]
    fn of_print(short: Print) -> Self {
        let (low, high) = short.folded();
        Self(low, high)
    }

    fn of_long(text: &str) -> Self {
        const CASE: u64 = u64::from_le_bytes([0x20; 8]);
        let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let bytes = text.as_bytes();
        Self(word(bytes.first_chunk()) | CASE, word(bytes.last_chunk()) | CASE)
    }

    /// The slot of `size` at which the search begins; `size` is a power of two.
    #[inline(always)]
    fn slot(self, size: usize) -> usize {
        let mixed = (self.0 ^ self.1.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (mixed >> 32) as usize;
        hash & size.wrapping_sub(1)
    }
}

impl Names {
    fn order(known: &str, name: &str) -> Ordering {
        known.len().cmp(&name.len()).then_with(|| known.as_bytes().cmp(name.as_bytes()))
    }

    /// Whether there is no name.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The names and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.list.iter().map(|name| (&name.text, name.place))
    }

    /// Adds a name, or gives it another place.
    pub(super) fn set(&mut self, name: impl Into<Arc<str>>, place: usize) {
        let text = name.into();
        match self.list.binary_search_by(|known| Self::order(&known.text, &text)) {
            Ok(at) => drop(self.list.get_mut(at).map(|known| known.place = place)),
            Err(at) => {
                let (folded, print) = (Folded::of_text(&text), Print::short(text.as_bytes()));
                self.list.insert(at, Name { text, folded, print, place });
                self.index();
            }
        }
    }

    fn index(&mut self) {
        let bit = |name: &Name| 1 << name.text.len().min(LONGEST);
        self.lengths = self.list.iter().fold(0, |all, name| all | bit(name));
        let size = (self.list.len() * 4).next_power_of_two();
        let mut slots = vec![0_u16; size].into_boxed_slice();
        for (index, name) in self.list.iter().enumerate() {
            let mut at = name.folded.slot(size);
            while slots.get(at).is_some_and(|slot| *slot != 0) {
                at = (at + 1) % size;
            }
            if let Some(slot) = slots.get_mut(at) {
                *slot = u16::try_from(index + 1).unwrap_or(u16::MAX);
            }
        }
        self.slots = slots;
    }

    #[inline]
    fn has_length(&self, length: usize) -> bool {
        self.lengths >> length.min(LONGEST) & 1 == 1
    }

    /// The names that a key may be, in any case.
    #[inline(always)]
    fn alike(&self, key: Folded) -> impl Iterator<Item = &Name> {
        let size = self.slots.len();
        let first = key.slot(size);
        let slots = (first..first + size).map_while(move |at| self.slots.get(at & (size - 1)));
        let found = slots.map_while(|slot| self.list.get(usize::from(slot.checked_sub(1)?)));
        found.filter(move |name| {
            steps::count(1);
            name.folded == key
        })
    }

    /// The place of a name.
    pub(super) fn get(&self, name: &str) -> Option<usize> {
        if !self.has_length(name.len()) {
            return None;
        }
        steps::count(name.len() / 8);
        let mut alike = self.alike(Folded::of_text(name));
        alike.find(|known| *known.text == *name).map(|known| known.place)
    }

    /// The place of a name, or the name that Go takes a key for: it folds ASCII case, and the two
    /// other letters that fold into ASCII (long s and the Kelvin sign). The text of a short key is not
    /// looked at.
    #[inline]
    pub(super) fn find<'k>(&self, key: Print, text: impl FnOnce() -> KeyText<'k>) -> Found<'_> {
        if key.is_short() {
            // Most keys are not even as long as a name.
            if !self.has_length(key.length()) && !key.may_fold() {
                return Found::None;
            }
            return self.find_short(key);
        }
        if self.is_empty() { Found::None } else { self.find_long(&text()) }
    }

    /// As [`find`](Self::find), for a text.
    pub(super) fn look_up(&self, text: &str) -> Found<'_> {
        match Print::short(text.as_bytes()) {
            Some(key) => self.find(key, || KeyText::Long("")),
            None => self.find_long(text),
        }
    }

    #[inline(never)]
    fn find_short(&self, key: Print) -> Found<'_> {
        let mut variant = None;
        for name in self.alike(Folded::of_print(key)) {
            let Some(print) = name.print else { continue };
            if print.is_same(key) == Some(true) {
                return Found::Place(name.place);
            }
            if print.is_same_in_any_case(key) {
                variant = variant.or(Some(&name.text));
            }
        }
        if let Some(ascii) = key.with_ascii_letters() {
            variant = self.short_variant(ascii);
        }
        variant.map_or(Found::None, Found::Variant)
    }

    /// The name that a short key differs from at most in case.
    fn short_variant(&self, key: Print) -> Option<&Arc<str>> {
        if !self.has_length(key.length()) {
            return None;
        }
        let is_same = |name: &&Name| name.print.is_some_and(|print| print.is_same_in_any_case(key));
        self.alike(Folded::of_print(key)).find(is_same).map(|name| &name.text)
    }

    #[inline(never)]
    fn find_long(&self, key: &str) -> Found<'_> {
        // Each of the letters that fold is at most three bytes for one of a name.
        let longest = self.list.last().map_or(0, |name| name.text.len());
        if key.len() > 3 * longest {
            return Found::None;
        }
        steps::count(key.len() / 8);
        let mut variant = None;
        if self.has_length(key.len()) {
            for name in self.alike(Folded::of_long(key)) {
                if *name.text == *key {
                    return Found::Place(name.place);
                }
                if name.text.eq_ignore_ascii_case(key) {
                    variant = variant.or(Some(&name.text));
                }
            }
        }
        let length = folded_length(key);
        if length < key.len() {
            variant = self.long_variant(key, length);
        }
        variant.map_or(Found::None, Found::Variant)
    }

    /// The name that Go takes a long key for, which has so many bytes once its letters are folded.
    #[inline(never)]
    fn long_variant(&self, key: &str, length: usize) -> Option<&Arc<str>> {
        if !self.has_length(length) {
            return None;
        }
        let start = self.list.partition_point(|name| name.text.len() < length);
        let alike = self.list.get(start..).unwrap_or_default();
        let mut alike = alike.iter().take_while(|name| name.text.len() == length);
        alike.find(|name| folds_into(key, &name.text)).map(|name| &name.text)
    }
}

/// The length of a key once the letters beyond ASCII that fold into it are folded.
fn folded_length(key: &str) -> usize {
    let bytes = key.as_bytes();
    if bytes.is_ascii() {
        return bytes.len();
    }
    let count = |letter: &str| {
        bytes.windows(letter.len()).filter(|bytes| *bytes == letter.as_bytes()).count()
    };
    bytes.len() - count("\u{17f}") - 2 * count("\u{212a}")
}

/// Whether Go takes a key for a name of as many letters.
fn folds_into(key: &str, name: &str) -> bool {
    steps::count(1);
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(name.chars().map(|letter| letter.to_ascii_lowercase()))
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
            assert_eq!(names.look_up(word), Found::Place(place), "{word}");
        }
        assert_eq!(names.get("n"), Some(99), "a name has one place");
        for other in [
            "",
            "m",
            "modem",
            "Model",
            "max_token",
            "max_tokens_",
            "max_tokenS",
            "max_token\u{17f}",
        ] {
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
            let found = match names.look_up(key) {
                Found::Variant(known) => Some(&**known),
                Found::Place(_) | Found::None => None,
            };
            assert_eq!(found, known, "{key}");
        }
    }
}
