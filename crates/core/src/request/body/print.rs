//! Prints of keys: sixteen bytes that identify a key.

use std::ops::{Deref, Range};

use super::json_error::LENGTH;

/// A key of an object, in two registers: a key of at most [`SHORT`] bytes with its length, or a
/// summary of a longer one with the place of its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Print {
    /// The first eight bytes; of a long key a summary of all of them.
    low: u64,
    /// The other bytes, and the length above them; of a long key [`LONG`] and the place of its text.
    high: u64,
}

/// The length of the longest key that its print has all bytes of.
pub(super) const SHORT: usize = 15;

/// Marks the print of a longer key.
const LONG: u64 = 0xff << 56;

/// The place of the text of a long key: where it begins, its length, and whether it was decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextPlace(u64);

impl TextPlace {
    const LENGTH: u32 = 42;
    const LENGTHS: u64 = (1 << 13) - 1;
    const DECODED: u64 = 1 << 55;

    pub(super) fn new(range: &Range<usize>, is_decoded: bool) -> Self {
        const { assert!(LENGTH as u64 <= Self::LENGTHS) };
        let mark = if is_decoded { Self::DECODED } else { 0 };
        Self(range.start as u64 | (range.len() as u64) << Self::LENGTH | mark)
    }

    pub(super) fn is_decoded(self) -> bool {
        self.0 & Self::DECODED != 0
    }

    pub(super) fn range(self) -> Range<usize> {
        let start = self.0 & ((1 << Self::LENGTH) - 1);
        let length = self.0 >> Self::LENGTH & Self::LENGTHS;
        #[expect(clippy::cast_possible_truncation, reason = "they were lengths of texts")]
        let range = start as usize..(start + length) as usize;
        range
    }
}

/// The text of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyText<'k> {
    Short([u8; 16], usize),
    Long(&'k str),
}

impl Deref for KeyText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            // INVARIANT: the bytes are those of a key, which is UTF-8.
            Self::Short(bytes, length) => {
                std::str::from_utf8(bytes.get(..*length).unwrap_or_default()).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }
}

impl Print {
    /// The print of the first bytes of two words, at most [`SHORT`].
    #[inline(always)]
    pub(super) fn of_words(low: u64, high: u64, length: usize) -> Self {
        let kept = |word: u64, bytes: usize| word & ((1_u64 << (8 * bytes)) - 1);
        let (low, high) =
            if length < 8 { (kept(low, length), 0) } else { (low, kept(high, length - 8)) };
        Self { low, high: high | (length as u64) << 56 }
    }

    /// The print of the first bytes of a word, less than eight.
    #[inline(always)]
    pub(super) fn of_word(word: u64, length: usize) -> Self {
        Self { low: word & ((1 << (8 * length)) - 1), high: (length as u64) << 56 }
    }

    /// The print of a text of at most [`SHORT`] bytes; `None` for a longer one.
    #[inline]
    pub(super) fn short(text: &[u8]) -> Option<Self> {
        let (low, high) = match (text.first_chunk(), text.last_chunk()) {
            _ if text.len() > SHORT => return None,
            // The last eight bytes overlap the first ones.
            (Some(first), Some(last)) => {
                let overlap = 8 * (16 - text.len());
                (u64::from_le_bytes(*first), (u64::from_le_bytes(*last) >> 1) >> (overlap - 1))
            }
            _ => match (text.first_chunk(), text.last_chunk()) {
                (Some(first), Some(last)) => {
                    let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
                    (u64::from(first) | u64::from(last) << (8 * (text.len() - 4)), 0)
                }
                _ => (text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0),
            },
        };
        Some(Self { low, high: high | (text.len() as u64) << 56 })
    }

    /// The print of a key that is longer than [`SHORT`].
    pub(super) fn long(text: &str, place: TextPlace) -> Self {
        let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let bytes = text.as_bytes();
        let (head, tail) = (bytes.get(8..).unwrap_or_default(), bytes.len().saturating_sub(16));
        let (first, last) = (word(bytes.first_chunk()), word(bytes.last_chunk()));
        let (second, before) =
            (word(head.first_chunk()), word(bytes.get(tail..).and_then(|tail| tail.first_chunk())));
        let mix = |one: u64, other: u64| (one ^ other).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = mix(first, second.rotate_left(27));
        let end = mix(last, before.rotate_left(27) ^ bytes.len() as u64);
        Self { low: mix(start, end.rotate_left(31)), high: LONG | place.0 }
    }

    /// Whether two keys are the same; `None` if that depends on the texts of long ones.
    #[inline(always)]
    pub(super) fn is_same(self, other: Self) -> Option<bool> {
        if self.low != other.low {
            return Some(false);
        }
        if self.high & other.high >= LONG { None } else { Some(self.high == other.high) }
    }

    /// Whether it is the print of a key of at most [`SHORT`] bytes.
    #[inline(always)]
    pub(super) fn is_short(self) -> bool {
        self.high < LONG
    }

    /// The length of a short key.
    #[inline(always)]
    pub(super) fn length(self) -> usize {
        (self.high >> 56) as usize
    }

    /// The place of the text of a long key.
    pub(super) fn place(self) -> TextPlace {
        TextPlace(self.high & !LONG)
    }

    /// The text of a short key.
    pub(super) fn text(self) -> KeyText<'static> {
        KeyText::Short(self.bytes().to_le_bytes(), self.length())
    }

    /// Whether a short key has no letter beyond ASCII.
    #[inline(always)]
    pub(super) fn is_ascii(self) -> bool {
        // The length, above the other bytes, is less than 128.
        (self.low | self.high) & (EACH * 0x80) == 0
    }

    /// Whether a short key may have a letter beyond ASCII that folds into it, by the first bytes of the
    /// long s and the Kelvin sign.
    #[inline(always)]
    pub(super) fn may_fold(self) -> bool {
        !self.is_ascii()
            && (may_have(self.low, 0xc5)
                | may_have(self.low, 0xe2)
                | may_have(self.high, 0xc5)
                | may_have(self.high, 0xe2))
                != 0
    }

    /// The bytes of a short key, the first one lowest.
    #[inline(always)]
    pub(super) fn bytes(self) -> u128 {
        u128::from(self.low) | u128::from(self.high & !LONG) << 64
    }

    /// A short key with the letters of ASCII in place of those that fold into it; `None` if it has
    /// none of them.
    pub(super) fn with_ascii_letters(self) -> Option<Self> {
        let (mut bytes, mut length) = (self.bytes(), self.length());
        let mut letters = equal_bytes(bytes, 0xc5) | equal_bytes(bytes, 0xe2);
        while letters != 0 {
            let at = letters.trailing_zeros() & !7;
            letters &= letters - 1;
            let (ascii, written) = match bytes >> at {
                letter if letter & 0xffff == LONG_S => (b's', 2),
                letter if letter & 0xff_ffff == KELVIN => (b'k', 3),
                _ => continue,
            };
            let after = bytes >> at >> (8 * written);
            bytes = bytes & ((1 << at) - 1) | (u128::from(ascii) | after << 8) << at;
            letters >>= 8 * (written - 1);
            length -= written - 1;
        }
        if length == self.length() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "each half of it")]
        let (low, high) = (bytes as u64, (bytes >> 64) as u64);
        Some(Self { low, high: high | (length as u64) << 56 })
    }

    /// Whether two short keys differ at most in the case of letters of ASCII.
    pub(super) fn is_same_in_any_case(self, other: Self) -> bool {
        lower_case(self.low) == lower_case(other.low)
            && lower_case(self.high) == lower_case(other.high)
    }

    /// Both words, as they are hashed.
    #[inline(always)]
    pub(super) fn words(self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// Both words of a short key, with the bit set that tells the cases of a letter apart: keys that
    /// differ only in case have the same.
    #[inline(always)]
    pub(super) fn folded(self) -> (u64, u64) {
        const CASE: u64 = EACH * 0x20;
        (self.low | CASE, self.high | CASE >> 8)
    }
}

/// Whether a text may have a letter beyond ASCII that folds into it, as [`Print::may_fold`].
pub(super) fn may_fold(text: &str) -> bool {
    memchr::memchr2(0xc5, 0xe2, text.as_bytes()).is_some()
}

/// A bit in each byte of a word.
const EACH: u64 = u64::from_le_bytes([1; 8]);

/// The bytes of the letters beyond ASCII that fold into it, to `s` and `k`.
const LONG_S: u128 = 0xbfc5;
const KELVIN: u128 = 0xaa_84e2;

/// Whether a word may have this byte: not 0 if it has.
#[inline(always)]
fn may_have(word: u64, byte: u8) -> u64 {
    let other = word ^ (EACH * byte as u64);
    other.wrapping_sub(EACH) & !other & (EACH * 0x80)
}

/// The high bits of the bytes that are equal to `byte`.
#[inline(always)]
fn equal_bytes(bytes: u128, byte: u8) -> u128 {
    const LOW: u128 = u128::from_le_bytes([0x7f; 16]);
    let other = bytes ^ u128::from_le_bytes([byte; 16]);
    !(((other & LOW) + LOW) | other | LOW)
}

/// Eight bytes with the letters of ASCII in lower case.
fn lower_case(word: u64) -> u64 {
    let low = word & (EACH * 0x7f);
    let from = |byte: u8| low + EACH * u64::from(0x80 - byte);
    let upper = from(b'A') & !from(b'Z' + 1) & !word & (EACH * 0x80);
    word | upper >> 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, filler: u8) -> (u64, u64) {
        let mut bytes = [filler; 16];
        bytes.iter_mut().zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
        let (words, _) = bytes.as_chunks::<8>();
        (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
    }

    #[test]
    fn a_key_has_the_same_print_whatever_follows_it() {
        for key in
            ["", "a", "abcdefg", "abcdefgh", "abcdefghi", "\u{e9}", "\0", "\0\0", "abcdefghijklmno"]
        {
            let print = Print::short(key.as_bytes()).unwrap();
            for filler in [b'"', 0, 0xff] {
                let (low, high) = words(key, filler);
                let other = Print::of_words(low, high, key.len());
                assert_eq!(print.words(), other.words(), "{key:?}");
                if key.len() < 8 {
                    assert_eq!(print.words(), Print::of_word(low, key.len()).words(), "{key:?}");
                }
            }
            assert_eq!((&*print.text(), print.length()), (key, key.len()));
            assert_eq!(print.is_same(print), Some(true));
            for other in ["b", "abcdefgi", "abcdefghj", "\0\0\0"] {
                let other = Print::short(other.as_bytes()).unwrap();
                assert_eq!(print.is_same(other), Some(false), "{key:?}");
            }
        }
        assert!(Print::short(b"abcdefghijklmnop").is_none());
    }

    #[test]
    fn a_long_key_has_the_place_of_its_text() {
        let text = "a key that is longer than most keys are";
        for decoded in [false, true] {
            let range = (1 << 40)..(1 << 40) + text.len();
            let print = Print::long(text, TextPlace::new(&range, decoded));
            assert!(!print.is_short());
            assert_eq!((print.place().range(), print.place().is_decoded()), (range, decoded));
            assert_eq!(print.is_same(print), None, "the texts decide");
            assert_eq!(print.is_same(Print::short(b"a").unwrap()), Some(false));
        }
    }

    #[test]
    fn keys_that_differ_in_case_fold_alike() {
        let folded = |text: &str| Print::short(text.as_bytes()).unwrap().folded();
        assert_eq!(folded("aBc"), folded("Abc"));
        assert_eq!(folded("MAX_tokens"), folded("max_tokens"));
        assert_ne!(folded("abd"), folded("abc"));
        assert_ne!(folded("max_token"), folded("max_tokens"));
        for (key, expected) in
            [("abcdefg", false), ("\u{e9}", false), ("a\u{17f}", true), ("abcdefgh\u{212a}", true)]
        {
            assert_eq!(Print::short(key.as_bytes()).unwrap().may_fold(), expected, "{key}");
        }
    }

    #[test]
    fn letters_that_fold_are_replaced_as_in_a_text() {
        for key in [
            "",
            "abcdefghijklmno",
            "\u{142}\u{2014}\u{16f}\u{2122}",
            "\u{17f}",
            "\u{212a}",
            "\u{17f}\u{17f}\u{17f}\u{17f}\u{17f}\u{17f}\u{17f}b",
            "\u{212a}\u{212a}\u{212a}\u{212a}\u{212a}",
            "a\u{212a}b\u{17f}c\u{212a}d\u{17f}",
            "\u{17f}\u{2122}\u{212a}\u{17e}",
            "abcdefgh\u{212a}\u{17f}\u{17f}",
        ] {
            let print = Print::short(key.as_bytes()).unwrap();
            let replaced = key.replace('\u{17f}', "s").replace('\u{212a}', "k");
            let ascii = print.with_ascii_letters();
            assert_eq!(ascii.is_some(), replaced != key, "{key}");
            assert!(print.may_fold() || replaced == key, "{key}");
            if let Some(ascii) = ascii {
                assert_eq!((&*ascii.text(), ascii.length()), (replaced.as_str(), replaced.len()));
                let expected = Print::short(replaced.as_bytes()).unwrap();
                assert_eq!(ascii.is_same(expected), Some(true), "{key}");
            }
        }
    }

    #[test]
    fn keys_are_the_same_in_any_case_as_texts_are() {
        let keys =
            ["a", "A", "aZ", "Az", "@[", "`{", "a\u{e9}", "A\u{c9}", "zzzzzzzzAB", "zzzzzzzzab"];
        for (one, other) in keys.iter().flat_map(|one| keys.iter().map(move |other| (one, other))) {
            let [first, second] = [one, other].map(|key| Print::short(key.as_bytes()).unwrap());
            let expected = one.eq_ignore_ascii_case(other);
            assert_eq!(first.is_same_in_any_case(second), expected, "{one} {other}");
        }
    }
}
