//! Keys of objects, up to their values.

use super::{
    super::{
        json_error::JsonError,
        print::{Print, SHORT},
        steps,
    },
    scanner::Scanner,
    string::{RawString, before_end, escape_at},
    structure::Structure,
};

/// A key, as written.
pub(in super::super) struct RawKey<'a> {
    /// Where its first byte is in the body.
    pub(in super::super) start: usize,
    pub(in super::super) string: RawString<'a>,
}

impl<'a> Scanner<'a> {
    /// Reads a key of less than eight bytes without escapes, and its colon, up to the value. Reads
    /// nothing where the key is another, or space is before its colon.
    #[inline(always)]
    pub(in super::super) fn word_key(&mut self) -> Option<Print> {
        // A quote, seven bytes, a quote, the colon and the beginning of the value.
        let bytes = self.bytes.get(self.at..)?.first_chunk::<11>()?;
        let [b'"', word @ .., _, _] = bytes else { return None };
        let word = u64::from_le_bytes(*word);
        let length = before_end(word);
        if length >= 8 || *bytes.get(length + 1)? != b'"' {
            return None;
        }
        if *bytes.get(length + 2)? != b':' {
            return self.spaced_key(word, length);
        }
        steps::count(1);
        self.at += length + 3;
        if *bytes.get(length + 3)? <= b' ' {
            self.spaces();
        }
        Some(Print::of_word(word, length))
    }

    /// As [`word_key`](Self::word_key), for a key with a space on both sides of its colon.
    #[inline(never)]
    fn spaced_key(&mut self, word: u64, length: usize) -> Option<Print> {
        let end = self.bytes.get(self.at + length + 2..)?.first_chunk::<4>()?;
        if !matches!(end, [b' ', b':', b' ', next] if *next > b' ') {
            return None;
        }
        steps::count(1);
        self.at += length + 5;
        Some(Print::of_word(word, length))
    }

    /// Reads a key of which at most [`SHORT`] bytes remain without its escapes, and its colon, up to
    /// the value. Reads nothing where the key is another.
    #[inline]
    pub(in super::super) fn short_key(&mut self) -> Result<Option<Print>, Box<JsonError>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some([b'"', words @ ..]) = rest.first_chunk::<17>() else { return Ok(None) };
        let (words, _) = words.as_chunks::<8>();
        let [low, high] = words else { return Ok(None) };
        let (low, high) = (u64::from_le_bytes(*low), u64::from_le_bytes(*high));
        let mut length = before_end(low);
        if length == 8 {
            length += before_end(high);
        }
        match rest.get(length + 1) {
            Some(b'"') if length <= SHORT => {
                steps::count(2);
                self.at += length + 2;
                self.colon()?;
                let key = Print::of_words(low, high, length);
                self.count_letters(key)?;
                Ok(Some(key))
            }
            Some(b'\\') if length <= SHORT => self.escaped_key(Print::of_words(low, high, length)),
            _ => Ok(None),
        }
    }

    /// As [`short_key`](Self::short_key), for a key that has an escape behind `start`.
    fn escaped_key(&mut self, start: Print) -> Result<Option<Print>, Box<JsonError>> {
        let rest = self.bytes.get(self.at + 1..).unwrap_or_default();
        let (mut key, mut length) = (start.bytes(), start.length());
        let mut at = length;
        // Adds bytes, of which all after the first `added` are 0. Returns whether the key is short.
        let mut add = |bytes: u64, added: usize| {
            key |= u128::from(bytes) << (8 * length);
            length += added;
            length <= SHORT
        };
        loop {
            match rest.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    let escape = rest.get(at + 1..).unwrap_or_default();
                    let Some((letter, bytes)) = escape_at(escape) else { return Ok(None) };
                    let mut utf8 = [0; 8];
                    let added = letter.encode_utf8(&mut utf8).len();
                    if !add(u64::from_le_bytes(utf8), added) {
                        return Ok(None);
                    }
                    at += 1 + bytes;
                }
                Some(0x20..) => {
                    let word = rest.get(at..).and_then(|rest| rest.first_chunk());
                    let Some(word) = word else { return Ok(None) };
                    let word = u64::from_le_bytes(*word);
                    let run = before_end(word);
                    if !add(word << (64 - 8 * run) >> (64 - 8 * run), run) {
                        return Ok(None);
                    }
                    at += run;
                }
                _ => return Ok(None),
            }
        }
        self.count(Structure::Key)?;
        steps::count(at / 4 + 1);
        self.at += at + 2;
        self.colon()?;
        #[expect(clippy::cast_possible_truncation, reason = "each half of it")]
        let print = Print::of_words(key as u64, (key >> 64) as u64, length);
        Ok(Some(print))
    }

    /// Counts the letters beyond ASCII of a short key as structure.
    #[inline(always)]
    pub(in super::super) fn count_letters(&mut self, key: Print) -> Result<(), Box<JsonError>> {
        if key.is_ascii() {
            return Ok(());
        }
        self.count(if key.may_fold() { Structure::Key } else { Structure::Letters })
    }

    /// Reads any key and its colon, up to the value.
    pub(in super::super) fn key(&mut self) -> Result<RawKey<'a>, Box<JsonError>> {
        let start = self.at + 1;
        let string = self.string()?;
        self.colon()?;
        Ok(RawKey { start, string })
    }

    /// Skips a key and its colon, up to the value.
    #[inline(always)]
    pub(in super::super) fn skip_key(&mut self) -> Result<(), Box<JsonError>> {
        if self.word_key().is_some() {
            return Ok(());
        }
        self.skip_other_key()
    }

    #[inline(never)]
    fn skip_other_key(&mut self) -> Result<(), Box<JsonError>> {
        self.skip_string()?;
        self.colon()
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Box<JsonError>> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some([b':', next]) if *next > b' ' => {
                self.at += 1;
                Ok(())
            }
            _ => {
                self.one_space();
                self.expect(b':')?;
                self.one_space();
                Ok(())
            }
        }
    }
}
