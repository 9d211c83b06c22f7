//! A scanner for the tokens of JSON: keys, strings, numbers and words, each checked against RFC 8259.

mod elements;
mod key;
mod number;
mod skip;
mod string;

use self::string::before_end;
pub(super) use self::{
    key::RawKey,
    number::is_exact,
    skip::{Distinct, Skipping, Syntax},
    string::RawString,
};
use super::{json_error::JsonError, steps};

/// A position in the text of a body.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Creates a scanner at the beginning of a body, all of which must be UTF-8.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Box<JsonError>> {
        let text = simdutf8::basic::from_utf8(bytes).or_else(|_| {
            // The same again, to find where.
            std::str::from_utf8(bytes).map_err(|error| JsonError::Syntax(error.valid_up_to()))
        })?;
        Ok(Self { text, bytes, at: 0 })
    }

    /// The whole body.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    #[cfg(test)]
    pub(super) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    #[cold]
    pub(super) fn syntax(&self) -> Box<JsonError> {
        Box::new(JsonError::Syntax(self.at))
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Skips space. There is none between most tokens.
    #[inline(always)]
    pub(super) fn space(&mut self) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.spaces();
        }
    }

    fn spaces(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
        steps::count(length / 8);
        self.at += length;
    }

    fn expect(&mut self, byte: u8) -> Result<(), Box<JsonError>> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// Enters a list or an object, up to its first key or element. If it is empty, leaves it again and
    /// returns true.
    #[inline(always)]
    pub(super) fn opens_empty(&mut self, close: u8) -> bool {
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return true;
        }
        false
    }

    /// Whether the list here has no element.
    pub(super) fn is_empty_list(&self) -> bool {
        let inside = self.rest().get(1..).unwrap_or_default();
        inside.trim_start_matches([' ', '\t', '\n', '\r']).starts_with(']')
    }

    /// Whether the list or the object has another element or member (`,`), and then goes up to it; or
    /// ends (`close`).
    #[inline(always)]
    pub(super) fn has_next(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some([b',', next]) if *next > b' ' => {
                self.at += 1;
                Ok(true)
            }
            Some([byte, _]) if *byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.has_next_or_space(close),
        }
    }

    fn has_next_or_space(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        self.space();
        let byte = self.peek();
        if byte != Some(b',') && byte != Some(close) {
            return Err(self.syntax());
        }
        self.at += 1;
        if byte == Some(close) {
            return Ok(false);
        }
        self.space();
        Ok(true)
    }

    /// Skips a string of at most eight bytes without escapes, or a whole number of at most nine digits.
    /// Returns false for other values, of which it reads nothing.
    #[inline(always)]
    pub(super) fn short_value(&mut self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<10>() else { return false };
        let length = match bytes {
            [b'"', word @ .., _] => {
                let length = before_end(u64::from_le_bytes(*word)) + 1;
                if bytes.get(length) == Some(&b'"') { length + 1 } else { 0 }
            }
            [first @ b'0'..=b'9', ..] => {
                let mut length = 1;
                while *first > b'0' && bytes.get(length).is_some_and(u8::is_ascii_digit) {
                    length += 1;
                }
                match bytes.get(length) {
                    Some(b',' | b']' | b'}') => length,
                    _ => 0,
                }
            }
            _ => 0,
        };
        steps::count(usize::from(length > 0));
        self.at += length;
        length > 0
    }
}
