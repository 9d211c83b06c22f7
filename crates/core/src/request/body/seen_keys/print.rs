//! Prints of keys: eight bytes that stand for a key in comparisons.

/// Eight bytes of a key: all of a short one, with its length; of others a summary. Keys with
/// different prints are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Print(u64);

/// Marks the print of a key of eight bytes or more.
const LONG: u64 = 0xff << 56;

/// A text of less than eight bytes as a number, the first byte lowest.
pub(in super::super) fn short_word(text: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        // They may overlap.
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return u64::from(first) | u64::from(last) << (8 * (text.len() - 4));
    }
    text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

impl Print {
    /// The print of the first bytes of a word, less than eight of them.
    #[inline(always)]
    pub(in super::super) fn short(word: [u8; 8], length: usize) -> Self {
        let bytes = u64::from_le_bytes(word) & ((1 << (8 * length)) - 1);
        Self(bytes | (length as u64) << 56)
    }

    /// The print of any key.
    pub(in super::super) fn of(key: &str) -> Self {
        let (Some(first), Some(last)) = (key.as_bytes().first_chunk(), key.as_bytes().last_chunk())
        else {
            return Self(short_word(key.as_bytes()) | (key.len() as u64) << 56);
        };
        let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        let mixed = first ^ last.rotate_left(27) ^ key.len() as u64;
        Self(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | LONG)
    }

    /// Whether a key with the same print is the same key: a short one.
    #[inline]
    pub(in super::super) fn is_exact(self) -> bool {
        self.0 < LONG
    }

    /// The length of a short key.
    #[inline]
    pub(in super::super) fn length(self) -> usize {
        (self.0 >> 56) as usize
    }

    /// Whether a short key may be another one of the same length in another case: a letter has the
    /// other case where one bit differs.
    #[inline]
    pub(in super::super) fn is_alike(self, other: Self) -> bool {
        (self.0 ^ other.0) & !0x2020_2020_2020_2020 == 0
    }

    /// Whether a short key may have a letter beyond ASCII that folds into it: the long s, or the
    /// Kelvin sign, by their first bytes.
    #[inline]
    pub(in super::super) fn may_fold(self) -> bool {
        const EACH: u64 = u64::from_le_bytes([1; 8]);
        let has = |byte: u64| {
            let zero = self.0 ^ (EACH * byte);
            zero.wrapping_sub(EACH) & !zero & (EACH * 0x80) != 0
        };
        self.0 & (EACH * 0x80) != 0 && (has(0xc5) || has(0xe2))
    }

    /// The print as a number.
    #[inline]
    pub(in super::super) fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_same_print_whatever_follows_it() {
        for key in ["", "a", "abcdefg", "abcdefgh", "abcdefghi", "\u{e9}", "\0", "\0\0"] {
            let mut word = [b'"'; 8];
            word.iter_mut().zip(key.bytes()).for_each(|(slot, byte)| *slot = byte);
            if key.len() < 8 {
                assert_eq!(Print::short(word, key.len()), Print::of(key), "{key:?}");
                assert_eq!(Print::of(key).length(), key.len());
            }
            assert_eq!(Print::of(key).is_exact(), key.len() < 8, "{key:?}");
        }
        for (key, expected) in
            [("abcdefg", false), ("\u{e9}", false), ("a\u{17f}", true), ("\u{212a}abc", true)]
        {
            assert_eq!(Print::of(key).may_fold(), expected, "{key}");
        }
        assert!(Print::of("aBc").is_alike(Print::of("Abc")));
        assert!(!Print::of("abd").is_alike(Print::of("abc")));
        assert!(!Print::of("abc ").is_alike(Print::of("abc")));
        assert_ne!(Print::of(""), Print::of("\0"));
        assert_ne!(Print::of("\0"), Print::of("\0\0"));
    }
}
