//! Keys of objects, up to their values.

use super::{
    super::{
        json_error::JsonError,
        seen_keys::{Print, SHORT},
        steps,
    },
    Scanner,
    string::{RawString, before_end, escape_at},
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
        if length >= 8 || *bytes.get(length + 1)? != b'"' || *bytes.get(length + 2)? != b':' {
            return None;
        }
        steps::count(1);
        self.at += length + 3;
        if *bytes.get(length + 3)? <= b' ' {
            self.spaces();
        }
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
                Ok(Some(Print::of_words(low, high, length)))
            }
            Some(b'\\') => self.escaped_key(length),
            _ => Ok(None),
        }
    }

    /// As [`short_key`](Self::short_key), for a key whose first escape has this place.
    fn escaped_key(&mut self, plain: usize) -> Result<Option<Print>, Box<JsonError>> {
        let rest = self.bytes.get(self.at + 1..).unwrap_or_default();
        let mut key = [0; SHORT];
        key.iter_mut().zip(rest).take(plain).for_each(|(slot, byte)| *slot = *byte);
        let (mut length, mut at) = (plain, plain);
        loop {
            match rest.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    let escape = rest.get(at + 1..).unwrap_or_default();
                    let Some((letter, bytes)) = escape_at(escape) else { return Ok(None) };
                    let end = length + letter.len_utf8();
                    let Some(slots) = key.get_mut(length..end) else { return Ok(None) };
                    letter.encode_utf8(slots);
                    (length, at) = (end, at + 1 + bytes);
                }
                Some(byte @ 0x20..) => {
                    let Some(slot) = key.get_mut(length) else { return Ok(None) };
                    *slot = *byte;
                    (length, at) = (length + 1, at + 1);
                }
                _ => return Ok(None),
            }
        }
        steps::count(at / 4 + 1);
        self.at += at + 2;
        self.colon()?;
        Ok(key.get(..length).and_then(Print::short))
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
                self.space();
                self.expect(b':')?;
                self.space();
                Ok(())
            }
        }
    }
}
