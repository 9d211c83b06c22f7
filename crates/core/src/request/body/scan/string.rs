//! Strings (RFC 8259 section 7). Their bytes are skipped in blocks: that earns the row `json_body` of
//! `benches/check.rs`, and the tests compare it with a search for single bytes and with `serde_json`.

use std::borrow::Cow;

use super::{
    super::{json_error::JsonError, steps},
    scanner::Scanner,
};

/// The text between the quotes of a string.
#[derive(Clone)]
pub(in super::super) struct RawString<'a> {
    pub(in super::super) inner: &'a str,
    pub(in super::super) escaped: bool,
}

impl<'a> RawString<'a> {
    /// Decodes the escapes, which are known to be valid.
    pub(in super::super) fn unescape(&self) -> Result<Cow<'a, str>, Box<JsonError>> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.inner));
        }
        let mut text = String::with_capacity(self.inner.len());
        self.unescape_into(&mut text)?;
        Ok(Cow::Owned(text))
    }

    /// Adds the string to a text, with its escapes decoded.
    pub(in super::super) fn unescape_into(&self, text: &mut String) -> Result<(), Box<JsonError>> {
        steps::count(self.inner.len().div_ceil(8));
        decode(self.inner, text).ok_or_else(|| JsonError::Syntax(0).into())
    }
}

/// Decodes the escapes of a string; `None` if one is not valid.
fn decode(mut rest: &str, text: &mut String) -> Option<()> {
    while let Some(at) = next_escape(rest.as_bytes()) {
        text.push_str(rest.get(..at)?);
        let escape = rest.get(at + 1..)?;
        let (letter, length) = escape_at(escape.as_bytes())?;
        text.push(letter);
        rest = escape.get(length..)?;
    }
    text.push_str(rest);
    Some(())
}

/// The letter of an escape, from behind its backslash, and the number of bytes it takes there; `None`
/// if it is not valid.
#[inline]
pub(super) fn escape_at(escape: &[u8]) -> Option<(char, usize)> {
    let first = *escape.first()?;
    if first != b'u' {
        return Some((char::from(plain_escape(first)?), 1));
    }
    match unit_at(escape)? {
        high @ 0xd800..0xdc00 => {
            let low = unit_at(escape.get(5..)?.strip_prefix(b"\\")?)?;
            let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            Some((char::from_u32(0x10000 + ((high - 0xd800) << 10 | low))?, 11))
        }
        unit => Some((char::from_u32(unit)?, 5)),
    }
}

/// Whether a byte behind a backslash is an escape of its own.
#[inline(always)]
pub(super) fn is_plain_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
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
#[inline(always)]
fn hex(digit: u8) -> u32 {
    HEX.get(usize::from(digit)).copied().unwrap_or(NO_DIGIT)
}

const NO_DIGIT: u32 = 0x10000;

/// A table: bodies of nothing but escapes are read as fast as others (`cargo bench --bench body`,
/// "escaped keys").
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static HEX: [u32; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digits: &[u8] = b"0123456789abcdef";
    let mut value = 0;
    while let [digit, more @ ..] = digits {
        values[*digit as usize] = value;
        values[digit.to_ascii_uppercase() as usize] = value;
        (digits, value) = (more, value + 1);
    }
    values
};

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
#[inline(always)]
pub(super) fn before_end(word: u64) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    let ends = (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH * 0x80);
    (ends.trailing_zeros() / 8) as usize
}

/// Returns the length of the run of bytes that represent themselves in a string. Many strings are
/// short, so three words are tested before larger blocks.
fn plain(rest: &[u8]) -> usize {
    if let Some(first) = rest.first_chunk::<24>() {
        let (words, _) = first.as_chunks();
        for (at, word) in words.iter().enumerate() {
            let length = before_end(u64::from_le_bytes(*word));
            if length < 8 {
                return 8 * at + length;
            }
        }
    }
    plain_blocks(rest)
}

#[inline(never)]
fn plain_blocks(rest: &[u8]) -> usize {
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
    /// Reads a string from quote to quote.
    pub(in super::super) fn string(&mut self) -> Result<RawString<'a>, Box<JsonError>> {
        let start = self.at + 1;
        let escaped = self.skip_string()?;
        let inner = self.text.get(start..self.at - 1).ok_or_else(|| self.syntax())?;
        Ok(RawString { inner, escaped })
    }

    /// Skips a string and returns whether it has escapes. Refuses control characters, unknown
    /// escapes and unpaired surrogates.
    pub(in super::super) fn skip_string(&mut self) -> Result<bool, Box<JsonError>> {
        self.expect(b'"')?;
        steps::count(1);
        let mut escaped = false;
        loop {
            let length = plain(self.bytes.get(self.at..).unwrap_or_default());
            steps::count(length / 8);
            self.at += length;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    // Escapes often follow each other, or after a letter.
                    let start = self.at;
                    while self.peek() == Some(b'\\') {
                        self.escape()?;
                        let next = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
                        if let Some([letter, b'\\']) = next {
                            self.at += usize::from(ends_run(*letter) == 0);
                        }
                    }
                    steps::count((self.at - start) / 4);
                }
                _ => return Err(self.syntax()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Box<JsonError>> {
        self.at += 1;
        match self.peek() {
            Some(byte) if is_plain_escape(byte) => self.at += 1,
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
