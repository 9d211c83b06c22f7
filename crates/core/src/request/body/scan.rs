//! A scanner for the tokens of JSON: strings, numbers and words, each checked against RFC 8259.
//!
//! Strings are skipped in blocks of bytes. That earns the row `json_body` of `benches/check.rs`;
//! the tests compare it with a search for single bytes and with `serde_json`.

use std::borrow::Cow;

use super::{
    json_error::{JsonError, NUMBER},
    steps,
};

/// A position in the text of a body.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// The text between the quotes of a string.
#[derive(Clone)]
pub(super) struct RawString<'a> {
    pub(super) inner: &'a str,
    escaped: bool,
}

impl<'a> RawString<'a> {
    /// Decodes the escapes, which are known to be valid.
    pub(super) fn unescape(&self) -> Result<Cow<'a, str>, Box<JsonError>> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.inner));
        }
        steps::count(self.inner.len());
        decoded(self.inner).map(Cow::Owned).ok_or_else(|| JsonError::Syntax(0).into())
    }
}

/// Decodes the escapes of a string; `None` if one is not valid.
fn decoded(mut rest: &str) -> Option<String> {
    let mut text = String::with_capacity(rest.len());
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        text.push_str(rest.get(..at)?);
        let escape = rest.get(at + 1..)?;
        let (char, length) = match escape.bytes().next()? {
            b'u' => {
                let unit = unit_at(escape)?;
                match unit {
                    0xd800..0xdc00 => {
                        let low = unit_at(escape.get(5..)?.strip_prefix('\\')?)?;
                        let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                        (char::from_u32(0x10000 + ((unit - 0xd800) << 10 | low))?, 11)
                    }
                    _ => (char::from_u32(unit)?, 5),
                }
            }
            b'n' => ('\n', 1),
            b't' => ('\t', 1),
            b'r' => ('\r', 1),
            b'b' => ('\u{8}', 1),
            b'f' => ('\u{c}', 1),
            byte @ (b'"' | b'\\' | b'/') => (char::from(byte), 1),
            _ => return None,
        };
        text.push(char);
        rest = escape.get(length..)?;
    }
    text.push_str(rest);
    Some(text)
}

/// The number of `uXXXX`.
fn unit_at(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix('u')?.get(..4)?;
    digits.bytes().try_fold(0, |unit, byte| Some(unit << 4 | char::from(byte).to_digit(16)?))
}

/// The number of bytes that are tested together; the compiler generates vector instructions for
/// them.
const BLOCK: usize = 32;

/// Returns 0 for a byte that does not end a run.
///
/// A number instead of a boolean: the compiler generates fewer instructions for many of them.
fn ends_run(byte: u8) -> u8 {
    u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\')
}

/// Returns how many of eight bytes precede the first one that ends a run: 8 if none does.
///
/// Each term sets the high bit of the first byte that it matches, and of no byte before it: a
/// borrow of the subtraction only affects the bytes after it.
fn before_end(word: [u8; 8]) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let word = u64::from_le_bytes(word);
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    let ends = (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH * 0x80);
    (ends.trailing_zeros() / 8) as usize
}

/// Returns the length of the run of bytes that represent themselves in a string. Keys are short, so
/// eight bytes are tested before larger blocks.
fn plain(rest: &[u8]) -> usize {
    if let Some(first) = rest.first_chunk() {
        let length = before_end(*first);
        if length < 8 {
            return length;
        }
    }
    let mut length = 0;
    for block in rest.as_chunks::<BLOCK>().0 {
        if block.iter().fold(0, |ends, byte| ends | ends_run(*byte)) != 0 {
            break;
        }
        length += BLOCK;
    }
    let (words, last) = rest.get(length..).unwrap_or_default().as_chunks();
    for word in words {
        match before_end(*word) {
            8 => length += 8,
            end => return length + end,
        }
    }
    length + last.iter().position(|byte| ends_run(*byte) != 0).unwrap_or(last.len())
}

impl<'a> Scanner<'a> {
    /// Creates a scanner at the beginning of a body, all of which must be UTF-8.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Box<JsonError>> {
        let text =
            std::str::from_utf8(bytes).map_err(|error| JsonError::Syntax(error.valid_up_to()))?;
        Ok(Self { text, bytes, at: 0 })
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

    pub(super) fn space(&mut self) {
        let start = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        steps::count(self.at - start + 1);
    }

    fn expect(&mut self, byte: u8) -> Result<(), Box<JsonError>> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// Enters a list or an object. If it is empty, leaves it again and returns true.
    pub(super) fn opens_empty(&mut self, close: u8) -> bool {
        self.at += 1;
        self.space();
        let empty = self.peek() == Some(close);
        self.at += usize::from(empty);
        empty
    }

    /// Whether the list or the object has another element (`,`) or ends (`close`).
    pub(super) fn has_next(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        self.space();
        let byte = self.peek();
        if byte != Some(b',') && byte != Some(close) {
            return Err(self.syntax());
        }
        self.at += 1;
        Ok(byte == Some(b','))
    }

    /// Reads a key and its colon, up to the value.
    pub(super) fn key(&mut self) -> Result<RawString<'a>, Box<JsonError>> {
        self.space();
        let key = self.string()?;
        self.colon()?;
        Ok(key)
    }

    /// Skips a key and its colon, up to the value.
    pub(super) fn skip_key(&mut self) -> Result<(), Box<JsonError>> {
        self.space();
        self.skip_string()?;
        self.colon()
    }

    fn colon(&mut self) -> Result<(), Box<JsonError>> {
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(())
    }

    /// Reads a string from quote to quote.
    pub(super) fn string(&mut self) -> Result<RawString<'a>, Box<JsonError>> {
        let start = self.at + 1;
        let escaped = self.skip_string()?;
        let inner = self.text.get(start..self.at - 1).ok_or_else(|| self.syntax())?;
        Ok(RawString { inner, escaped })
    }

    /// Skips a string and returns whether it has escapes. Refuses control characters, unknown
    /// escapes and unpaired surrogates.
    pub(super) fn skip_string(&mut self) -> Result<bool, Box<JsonError>> {
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            let length = plain(self.bytes.get(self.at..).unwrap_or_default());
            steps::count(length / 8 + 1);
            self.at += length;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.syntax()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Box<JsonError>> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => match self.unit()? {
                0xd800..0xdc00 => {
                    self.expect(b'\\')?;
                    if !matches!(self.unit()?, 0xdc00..0xe000) {
                        return Err(self.syntax());
                    }
                }
                0xdc00..0xe000 => return Err(self.syntax()),
                _ => {}
            },
            _ => return Err(self.syntax()),
        }
        Ok(())
    }

    /// Reads `uXXXX` of an escape.
    fn unit(&mut self) -> Result<u32, Box<JsonError>> {
        self.expect(b'u')?;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|byte| char::from(byte).to_digit(16))
                .ok_or_else(|| self.syntax())?;
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// Reads `true`, `false`, `null` or a number, as written.
    pub(super) fn scalar(&mut self) -> Result<&'a str, Box<JsonError>> {
        let start = self.at;
        self.skip_scalar()?;
        self.text.get(start..self.at).ok_or_else(|| self.syntax())
    }

    /// Skips `true`, `false`, `null` or a number.
    pub(super) fn skip_scalar(&mut self) -> Result<(), Box<JsonError>> {
        let start = self.at;
        match self.peek() {
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            _ => self.number()?,
        }
        steps::count(self.at - start);
        if self.at - start > NUMBER {
            return Err(JsonError::LongNumber.into());
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Box<JsonError>> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// Skips a number (RFC 8259 section 6).
    fn number(&mut self) -> Result<(), Box<JsonError>> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        // Most numbers are whole.
        if !matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Ok(());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Box<JsonError>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits > 0 { Ok(()) } else { Err(self.syntax()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_found_at_every_distance() {
        for length in 0..100 {
            for end in [b'"', b'\\', b'\n', 0, 0x1f] {
                let mut bytes = vec![b' '; length];
                bytes.push(end);
                bytes.extend([b'x'; 40]);
                assert_eq!(plain(&bytes), length, "{length} {end}");
            }
            assert_eq!(plain(&vec![0xff; length]), length);
        }
    }

    #[test]
    fn escapes_are_those_of_rfc_8259() {
        for (text, good) in [
            (r#""\n\u00e9\ud83d\ude00\/""#, true),
            (r#""a\b\f\n\r\t\"\\\/é\u0000b\uFFFF\udbff\udfff""#, true),
            (r#""\uD83D\uDE00""#, true),
            (r#""\ud83d""#, false),
            (r#""\ud83dx""#, false),
            (r#""\ud83d\n""#, false),
            (r#""\ud83d\u0041""#, false),
            (r#""\ude00""#, false),
            (r#""\u12""#, false),
            (r#""\u+123""#, false),
            (r#""\x""#, false),
            (r#""\"#, false),
        ] {
            let string = Scanner::new(text.as_bytes()).unwrap().string();
            assert_eq!(string.is_ok(), good, "{text}");
            let theirs = serde_json::from_str::<String>(text);
            assert_eq!(string.is_ok(), theirs.is_ok(), "{text}");
            if let (Ok(ours), Ok(theirs)) = (string, theirs) {
                assert_eq!(ours.unescape().unwrap(), theirs, "{text}");
            }
        }
    }
}
