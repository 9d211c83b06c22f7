//! Prints of keys: sixteen bytes that identify a key.

use std::ops::{Deref, Range};

/// A key of an object, in two registers: a key of at most [`SHORT`] bytes with its length, or a
/// summary of a longer one with the place of its text.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Print {
    /// The first eight bytes; of a long key a summary of all of them.
    low: u64,
    /// The other bytes, and the length above them; of a long key [`LONG`] and the place of its text.
    high: u64,
}

/// The length of the longest key that its print has all bytes of.
pub(in super::super) const SHORT: usize = 15;

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
        const { assert!(super::LENGTH as u64 <= Self::LENGTHS) };
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
pub(in super::super) enum KeyText<'k> {
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
    pub(in super::super) fn of_words(low: u64, high: u64, length: usize) -> Self {
        let kept = |word: u64, bytes: usize| word & ((1_u64 << (8 * bytes)) - 1);
        let (low, high) =
            if length < 8 { (kept(low, length), 0) } else { (low, kept(high, length - 8)) };
        Self { low, high: high | (length as u64) << 56 }
    }

    /// The print of the first bytes of a word, less than eight.
    #[inline(always)]
    pub(in super::super) fn of_word(word: u64, length: usize) -> Self {
        Self { low: word & ((1 << (8 * length)) - 1), high: (length as u64) << 56 }
    }

    /// The print of a text of at most [`SHORT`] bytes; `None` for a longer one.
    #[inline]
    pub(in super::super) fn short(text: &[u8]) -> Option<Self> {
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
    pub(in super::super) fn is_same(self, other: Self) -> Option<bool> {
        if self.low != other.low {
            return Some(false);
        }
        if self.high & other.high >= LONG { None } else { Some(self.high == other.high) }
    }

    /// Whether it is the print of a key of at most [`SHORT`] bytes.
    #[inline(always)]
    pub(in super::super) fn is_short(self) -> bool {
        self.high < LONG
    }

    /// The length of a short key.
    #[inline(always)]
    pub(in super::super) fn length(self) -> usize {
        (self.high >> 56) as usize
    }

    /// The place of the text of a long key.
    pub(super) fn place(self) -> TextPlace {
        TextPlace(self.high & !LONG)
    }

    /// The text of a short key.
    pub(in super::super) fn text(self) -> KeyText<'static> {
        let bytes = u128::from(self.low) | u128::from(self.high & !LONG) << 64;
        KeyText::Short(bytes.to_le_bytes(), self.length())
    }

    /// Whether a short key may have a letter beyond ASCII that folds into it: the long s, or the
    /// Kelvin sign, by their first bytes.
    #[inline(always)]
    pub(in super::super) fn may_fold(self) -> bool {
        const EACH: u64 = u64::from_le_bytes([1; 8]);
        // The length, above the other bytes, is less than 128.
        (self.low | self.high) & (EACH * 0x80) != 0 && self.has_folding_byte()
    }

    fn has_folding_byte(self) -> bool {
        let bytes = u128::from(self.low) | u128::from(self.high) << 64;
        bytes.to_le_bytes().iter().fold(false, |has, byte| has | matches!(byte, 0xc5 | 0xe2))
    }

    /// Both words, as they are hashed.
    #[inline(always)]
    pub(in super::super) fn words(self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// Both words of a short key, with the bit set that tells the cases of a letter apart: keys that
    /// differ only in case have the same.
    #[inline(always)]
    pub(in super::super) fn folded(self) -> (u64, u64) {
        const CASE: u64 = u64::from_le_bytes([0x20; 8]);
        (self.low | CASE, self.high | CASE >> 8)
    }
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
}
