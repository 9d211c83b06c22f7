//! A scanner for the tokens of JSON: strings, numbers and words, each checked against RFC 8259.
//!
//! Strings are skipped in blocks of bytes. That earns the row `json_body` of `benches/check.rs`;
//! the tests compare it with a search for single bytes and with `serde_json`.

mod skip;

use std::borrow::Cow;

use super::{
    json_error::{JsonError, NUMBER},
    seen_keys::Print,
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
    pub(super) escaped: bool,
}

impl<'a> RawString<'a> {
    /// Decodes the escapes, which are known to be valid.
    pub(super) fn unescape(&self) -> Result<Cow<'a, str>, Box<JsonError>> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.inner));
        }
        let mut text = String::with_capacity(self.inner.len());
        self.unescape_into(&mut text)?;
        Ok(Cow::Owned(text))
    }

    /// Adds the string to a text, with its escapes decoded.
    pub(super) fn unescape_into(&self, text: &mut String) -> Result<(), Box<JsonError>> {
        steps::count(self.inner.len());
        decode(self.inner, text).ok_or_else(|| JsonError::Syntax(0).into())
    }
}

/// A key of less than eight bytes, as written.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortKey {
    /// Where its first byte is in the body.
    pub(super) start: usize,
    pub(super) print: Print,
}

/// Any key, as written.
pub(super) struct RawKey<'a> {
    /// Where its first byte is in the body.
    pub(super) start: usize,
    pub(super) string: RawString<'a>,
}

/// Decodes the escapes of a string; `None` if one is not valid.
fn decode(mut rest: &str, text: &mut String) -> Option<()> {
    while let Some(at) = next_escape(rest.as_bytes()) {
        text.push_str(rest.get(..at)?);
        let escape = rest.get(at + 1..)?;
        let (char, length) = match *escape.as_bytes().first()? {
            b'u' => {
                let unit = unit_at(escape.as_bytes())?;
                match unit {
                    0xd800..0xdc00 => {
                        let low = escape.as_bytes().get(5..)?.strip_prefix(b"\\")?;
                        let low = unit_at(low)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                        (char::from_u32(0x10000 + ((unit - 0xd800) << 10 | low))?, 11)
                    }
                    _ => (char::from_u32(unit)?, 5),
                }
            }
            byte => (char::from(plain_escape(byte)?), 1),
        };
        text.push(char);
        rest = escape.get(length..)?;
    }
    text.push_str(rest);
    Some(())
}

/// The byte that an escape other than `uXXXX` represents.
fn plain_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        b'"' | b'\\' | b'/' => byte,
        _ => return None,
    })
}

/// The number of bytes that are looked at one by one.
const NEAR: usize = 8;

/// The place of the next backslash. Escapes are often close to each other.
fn next_escape(bytes: &[u8]) -> Option<usize> {
    let near = bytes.iter().take(NEAR).position(|byte| *byte == b'\\');
    if bytes.len() <= NEAR { near } else { near.or_else(|| memchr::memchr(b'\\', bytes)) }
}

/// The number of `uXXXX`.
fn unit_at(escape: &[u8]) -> Option<u32> {
    let [b'u', digits @ ..] = escape.first_chunk::<5>()? else { return None };
    let [a, b, c, d] = digits.map(hex);
    let unit = a << 12 | b << 8 | c << 4 | d;
    (unit <= 0xffff).then_some(unit)
}

/// The value of a hexadecimal digit; of other bytes one that no unit has.
fn hex(digit: u8) -> u32 {
    let letter = (digit | 0x20).wrapping_sub(b'a');
    let number = digit.wrapping_sub(b'0');
    if number < 10 {
        number.into()
    } else if letter < 6 {
        u32::from(letter) + 10
    } else {
        0x10000
    }
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
fn before_end(word: u64) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    let ends = (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH * 0x80);
    (ends.trailing_zeros() / 8) as usize
}

/// Returns the length of the run of bytes that represent themselves in a string. Keys are short, so
/// eight bytes are tested before larger blocks.
fn plain(rest: &[u8]) -> usize {
    if let Some(first) = rest.first_chunk() {
        let length = before_end(u64::from_le_bytes(*first));
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
        match before_end(u64::from_le_bytes(*word)) {
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
        let start = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        steps::count(self.at - start);
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
        steps::count(1);
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return true;
        }
        false
    }

    /// Whether the list or the object has another element or member (`,`), and then goes up to it; or
    /// ends (`close`).
    #[inline(always)]
    pub(super) fn has_next(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        steps::count(1);
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

    /// Reads a key of less than eight bytes without escapes, and its colon, up to the value. Reads
    /// nothing where the key is another, or space is before or after it.
    #[inline(always)]
    pub(super) fn short_key(&mut self) -> Option<ShortKey> {
        // A quote, seven bytes, a quote, the colon and the beginning of the value.
        let bytes = self.bytes.get(self.at..)?.first_chunk::<11>()?;
        let [b'"', word @ .., _, _] = bytes else { return None };
        let length = before_end(u64::from_le_bytes(*word));
        if length >= 8 || *bytes.get(length + 1)? != b'"' || *bytes.get(length + 2)? != b':' {
            return None;
        }
        steps::count(1);
        let start = self.at + 1;
        self.at = start + length + 2;
        if *bytes.get(length + 3)? <= b' ' {
            self.spaces();
        }
        Some(ShortKey { start, print: Print::short(*word, length) })
    }

    /// As [`short_key`](Self::short_key), for a key with escapes of which less than eight bytes remain.
    /// Returns the bytes, of which the length is the second.
    pub(super) fn short_escaped_key(&mut self) -> Option<([u8; 8], usize)> {
        let [b'"', rest @ ..] = self.bytes.get(self.at..)? else { return None };
        let first = before_end(u64::from_le_bytes(*rest.first_chunk()?));
        if rest.get(first) != Some(&b'\\') {
            return None;
        }
        let (mut key, mut length, mut at) = ([0; 8], 0, 0);
        loop {
            let byte = match *rest.get(at)? {
                b'"' => break,
                b'\\' => {
                    let escape = rest.get(at + 1..)?;
                    if escape.first() == Some(&b'u') {
                        at += 5;
                        u8::try_from(unit_at(escape)?).ok().filter(u8::is_ascii)?
                    } else {
                        at += 1;
                        plain_escape(*escape.first()?)?
                    }
                }
                byte if byte < 0x20 => return None,
                byte => byte,
            };
            at += 1;
            *key.get_mut(..7)?.get_mut(length)? = byte;
            length += 1;
        }
        let [b'"', b':', value, ..] = rest.get(at..)? else { return None };
        steps::count(at);
        self.at += at + 3;
        if *value <= b' ' {
            self.spaces();
        }
        Some((key, length))
    }

    /// Reads any key and its colon, up to the value.
    pub(super) fn key(&mut self) -> Result<RawKey<'a>, Box<JsonError>> {
        let start = self.at + 1;
        if let Some(length) = self.medium_key() {
            let inner = self.text.get(start..start + length).ok_or_else(|| self.syntax())?;
            self.at = start + length + 2;
            self.space();
            return Ok(RawKey { start, string: RawString { inner, escaped: false } });
        }
        let string = self.string()?;
        self.colon()?;
        Ok(RawKey { start, string })
    }

    /// The length of a key of 8 to 15 bytes without escapes, as most long keys are.
    #[inline]
    fn medium_key(&self) -> Option<usize> {
        let bytes = self.bytes.get(self.at..)?.first_chunk::<18>()?;
        let [b'"', first @ .., _] = bytes else { return None };
        let (words, _) = first.as_chunks::<8>();
        let [first, second] = words else { return None };
        let (first, second) = (u64::from_le_bytes(*first), u64::from_le_bytes(*second));
        let length = 8 + before_end(second);
        let quoted = before_end(first) == 8 && bytes.get(length + 1) == Some(&b'"');
        (quoted && bytes.get(length + 2) == Some(&b':')).then_some(length)
    }

    /// Skips a key and its colon, up to the value.
    pub(super) fn skip_key(&mut self) -> Result<(), Box<JsonError>> {
        self.skip_string()?;
        self.colon()
    }

    #[inline]
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
                    // Escapes often follow each other.
                    while self.peek() == Some(b'\\') {
                        steps::count(1);
                        self.escape()?;
                    }
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
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match unit_at(rest) {
            Some(unit) => {
                self.at += 5;
                Ok(unit)
            }
            None => {
                // The first byte at fault.
                let good = rest.iter().take(5).enumerate();
                let good = good.take_while(|(at, byte)| match at {
                    0 => **byte == b'u',
                    _ => byte.is_ascii_hexdigit(),
                });
                self.at += good.count();
                Err(self.syntax())
            }
        }
    }

    /// Reads `true`, `false`, `null` or a number, as written.
    pub(super) fn scalar(&mut self) -> Result<&'a str, Box<JsonError>> {
        let start = self.at;
        self.skip_scalar()?;
        self.text.get(start..self.at).ok_or_else(|| self.syntax())
    }

    /// Skips elements of a list that are whole numbers without space around them, as tokens of a
    /// prompt are, up to the last one.
    pub(super) fn skip_whole_numbers(&mut self) {
        let mut start = self.at;
        loop {
            let mut end = start;
            while self.bytes.get(end).is_some_and(u8::is_ascii_digit) {
                end += 1;
            }
            let zeros = self.bytes.get(start) == Some(&b'0') && end - start > 1;
            let empty = end == start;
            if empty || zeros || end - start > NUMBER || self.bytes.get(end) != Some(&b',') {
                break;
            }
            steps::count(end - start + 1);
            start = end + 1;
        }
        self.at = start;
    }

    /// Skips `true`, `false`, `null` or a number.
    pub(super) fn skip_scalar(&mut self) -> Result<(), Box<JsonError>> {
        let start = self.at;
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            _ => return Err(self.syntax()),
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
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.syntax()) }
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
