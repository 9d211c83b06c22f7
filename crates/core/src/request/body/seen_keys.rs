//! The keys of the open objects of a body, each compared with the others of its object.
//!
//! Comparing every key of an object with all others takes quadratic time, and comparing texts is
//! slow. Here, each key has a [`Print`] of sixteen bytes, which is all of most keys, and texts are
//! compared only for longer ones whose prints are equal. An object with more than a few keys has a
//! hash table. Its hash has a random seed, so a client cannot choose keys that share a slot: the
//! seed changes how many comparisons are made and never their result.

mod table;

use self::table::Tables;
use super::{
    json_error::{DEPTH, JsonError, KEYS, LENGTH},
    print::{KeyText, Print, TextPlace, may_fold},
    scan::{RawKey, Scanner, Structure},
    steps,
};

/// The number of keys of an object whose prints are compared one by one.
const FEW: usize = 8;

// The index of a key has two bytes.
const _: () = assert!(DEPTH * KEYS <= u16::MAX as usize);

/// The keys of all open objects.
#[derive(Debug)]
pub(super) struct SeenKeys<'a> {
    /// The keys, those of the innermost object last.
    keys: Vec<Print>,
    tables: Tables,
    texts: Texts<'a>,
}

#[derive(Debug)]
struct Texts<'a> {
    body: &'a str,
    /// The texts of the long keys with escapes.
    decoded: String,
}

impl Texts<'_> {
    fn of(&self, key: Print) -> KeyText<'_> {
        if key.is_short() { key.text() } else { KeyText::Long(self.long(key.place())) }
    }

    fn long(&self, place: TextPlace) -> &str {
        let text = if place.is_decoded() { &self.decoded } else { self.body };
        text.get(place.range()).unwrap_or_default()
    }

    /// Whether two keys are the same.
    #[inline(always)]
    fn are_same(&self, one: Print, other: Print) -> bool {
        one.is_same(other).unwrap_or_else(|| self.are_equal(one, other))
    }

    #[inline(never)]
    fn are_equal(&self, one: Print, other: Print) -> bool {
        let (one, other) = (self.long(one.place()), self.long(other.place()));
        steps::count(one.len() / 32 + 1);
        one == other
    }
}

/// The keys of one open object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OpenKeys {
    /// The index of its first key.
    first: u16,
    /// Whether it has more than a few keys, and a table.
    has_table: bool,
}

impl OpenKeys {
    /// The index of its first key.
    pub(super) fn first(&self) -> usize {
        self.first.into()
    }
}

impl<'a> SeenKeys<'a> {
    /// Creates an empty list of keys of a body.
    pub(super) fn new(body: &'a str) -> Self {
        Self {
            keys: Vec::with_capacity(32),
            tables: Tables::default(),
            texts: Texts { body, decoded: String::new() },
        }
    }

    /// Opens an object.
    #[inline]
    pub(super) fn open(&self) -> OpenKeys {
        // INVARIANT: at most `DEPTH` objects are open, with `KEYS` keys each.
        OpenKeys { first: u16::try_from(self.keys.len()).unwrap_or(u16::MAX), has_table: false }
    }

    /// The number of keys of all open objects.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The text of a key.
    pub(super) fn text(&self, index: usize) -> KeyText<'_> {
        self.keys.get(index).map_or(KeyText::Long(""), |key| self.texts.of(*key))
    }

    /// The last key of the innermost object that has one.
    pub(super) fn last(&self) -> KeyText<'_> {
        self.keys.last().map_or(KeyText::Long(""), |key| self.texts.of(*key))
    }

    /// Reads a key of the innermost object and its colon, up to the value. The key is then the
    /// [`last`](Self::last), and its print is returned.
    ///
    /// # Errors
    /// The object has the key already, or too many others; the key is too long, or malformed.
    #[inline(always)]
    pub(super) fn read_key(
        &mut self,
        scanner: &mut Scanner<'a>,
        object: &mut OpenKeys,
    ) -> Result<Print, Box<JsonError>> {
        let key = match scanner.word_key() {
            Some(key) => {
                scanner.count_letters(key)?;
                key
            }
            None => self.read_other_key(scanner)?,
        };
        let others = self.keys.get(object.first()..).unwrap_or_default();
        if others.len() < FEW {
            steps::count(others.len() / 4);
            if others.iter().any(|other| self.texts.are_same(*other, key)) {
                return Err(JsonError::RepeatedKey.into());
            }
        } else {
            self.add_to_table(object, key)?;
        }
        self.keys.push(key);
        Ok(key)
    }

    /// Reads a key of eight bytes or more, or with escapes, or with space around it.
    #[inline(never)]
    fn read_other_key(&mut self, scanner: &mut Scanner<'a>) -> Result<Print, Box<JsonError>> {
        if let Some(key) = scanner.short_key()? {
            return Ok(key);
        }
        let RawKey { start, string } = scanner.key()?;
        if string.inner.len() > LENGTH {
            return Err(JsonError::TooLong.into());
        }
        if string.escaped || may_fold(string.inner) {
            scanner.count(Structure::LongKey)?;
        }
        if !string.escaped {
            return Ok(Print::short(string.inner.as_bytes()).unwrap_or_else(|| {
                let range = start..start + string.inner.len();
                Print::long(string.inner, TextPlace::new(&range, false))
            }));
        }
        let decoded = &mut self.texts.decoded;
        let start = decoded.len();
        string.unescape_into(decoded)?;
        let text = decoded.get(start..).unwrap_or_default();
        if let Some(key) = Print::short(text.as_bytes()) {
            decoded.truncate(start);
            return Ok(key);
        }
        Ok(Print::long(text, TextPlace::new(&(start..decoded.len()), true)))
    }

    /// Finds or adds a key of an object that has more than a few others.
    #[inline(never)]
    fn add_to_table(&mut self, object: &mut OpenKeys, new: Print) -> Result<(), Box<JsonError>> {
        let Self { keys, tables, texts } = self;
        let keys = keys.get(object.first()..).unwrap_or_default();
        if !object.has_table {
            object.has_table = true;
            tables.open();
            for (index, key) in keys.iter().enumerate() {
                let hash = tables.hash(*key, |place| texts.long(place));
                tables.insert(hash, index, |_| false);
            }
        }
        let hash = tables.hash(new, |place| texts.long(place));
        let is_new = tables.insert(hash, keys.len(), |index| {
            keys.get(index).is_some_and(|key| texts.are_same(*key, new))
        });
        if !is_new {
            return Err(JsonError::RepeatedKey.into());
        }
        if keys.len() >= KEYS {
            return Err(JsonError::TooManyKeys.into());
        }
        Ok(())
    }

    /// Closes the innermost object, and returns the number of its keys.
    #[inline]
    pub(super) fn close(&mut self, object: OpenKeys) -> usize {
        if !self.texts.decoded.is_empty() {
            self.close_decoded(object);
        }
        if object.has_table {
            self.tables.close();
        }
        let count = self.keys.len() - object.first();
        self.keys.truncate(object.first());
        count
    }

    /// Removes the decoded texts of the innermost object.
    #[inline(never)]
    fn close_decoded(&mut self, object: OpenKeys) {
        let keys = self.keys.get(object.first()..).unwrap_or_default();
        let mut long = keys.iter().filter(|key| !key.is_short()).map(|key| key.place());
        if let Some(first) = long.find(|place| place.is_decoded()) {
            self.texts.decoded.truncate(first.range().start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Adds the key at the beginning of a text to an object.
    fn add<'a>(
        seen: &mut SeenKeys<'a>,
        object: &mut OpenKeys,
        at: usize,
    ) -> Result<String, JsonError> {
        let mut scanner = Scanner::new(seen.texts.body.as_bytes()).unwrap();
        scanner.go_to(at);
        seen.read_key(&mut scanner, object).map_err(|error| *error)?;
        Ok((*seen.last()).to_owned())
    }

    /// A body with keys of many lengths, with equal beginnings and ends; and where each begins.
    fn body(escape: &str) -> (String, Vec<usize>) {
        let mut body = String::new();
        let places = (0..KEYS).map(|number| {
            let at = body.len();
            body += &format!("\"{escape}{}{number}k\":1,", "k".repeat(number % 20));
            at
        });
        let places = places.collect();
        (body, places)
    }

    #[test]
    fn keys_are_found_as_in_a_set() {
        for escape in ["", "\\u00e9", "\\n", "\u{e9}"] {
            let (body, places) = body(escape);
            let mut seen = SeenKeys::new(&body);
            for size in [0, 1, 7, 8, 9, 64, 256] {
                let places = &places[..size];
                let mut object = seen.open();
                let mut set = HashSet::new();
                for at in places {
                    let text = add(&mut seen, &mut object, *at).unwrap();
                    let written = body[*at..].split_once("\":").unwrap().0;
                    assert_eq!(
                        serde_json::from_str::<String>(&format!("{written}\"")).unwrap(),
                        text
                    );
                    assert!(set.insert(text), "{at}");
                }
                for at in places {
                    assert_eq!(add(&mut seen, &mut object, *at), Err(JsonError::RepeatedKey));
                }
                assert_eq!(seen.len(), size);
                assert_eq!(seen.close(object), size);
                assert_eq!(seen.texts.decoded, "");
            }
        }
    }

    #[test]
    fn an_object_within_another_has_keys_of_its_own() {
        let (body, places) = body("\\u0061");
        let mut seen = SeenKeys::new(&body);
        let mut outer = seen.open();
        for (index, at) in places.iter().enumerate().take(20) {
            let text = add(&mut seen, &mut outer, *at).unwrap();
            let mut inner = seen.open();
            for at in &places {
                add(&mut seen, &mut inner, *at).unwrap();
            }
            assert_eq!(add(&mut seen, &mut inner, *at), Err(JsonError::RepeatedKey));
            assert_eq!(seen.close(inner), places.len());
            assert_eq!((&*seen.last(), &*seen.text(index)), (text.as_str(), text.as_str()));
        }
        for at in &places[..20] {
            assert_eq!(add(&mut seen, &mut outer, *at), Err(JsonError::RepeatedKey));
        }
    }
}
