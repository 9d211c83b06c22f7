//! Character classes and hex digits.
//!
//! A check examines a dozen short texts, so [`is_printable_without`] tests eight bytes at a time.
//! It earns the row `hot_without_a_body` of `benches/check.rs`; the test below compares it with a
//! test of single bytes.

/// Whether `bytes` is printable ASCII (space to `~`) that contains neither of two ASCII characters.
pub fn is_printable_without(bytes: &[u8], except: [u8; 2]) -> bool {
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && !except.contains(byte));
    };
    let [one, other] = except;
    let (one, other) = (ONES * u64::from(one), ONES * u64::from(other));
    // The last eight bytes overlap the last word, which saves a loop over single bytes.
    let words = bytes.as_chunks().0.iter().chain([last]);
    words.fold(0, |marks, word| marks | marks_of_others(*word, one, other)) & (ONES << 7) == 0
}

/// 1 in each byte of a word.
const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// Marks each byte of a word that is not in the class, in its high bit. `one` and `other` are the
/// two characters, in each byte.
fn marks_of_others(word: [u8; 8], one: u64, other: u64) -> u64 {
    let word = u64::from_ne_bytes(word);
    // A byte beyond ASCII marks itself, so that it may carry into the next one.
    let above_zero = |word: u64| word.wrapping_add(ONES * 0x7f);
    let (delete, space_or_above) = (word.wrapping_add(ONES), word.wrapping_add(ONES * 0x60));
    word | delete | !(space_or_above & above_zero(word ^ one) & above_zero(word ^ other))
}

/// Whether a text can be an identifier: 1 to 256 bytes without control characters, so that no line
/// feed gets into a header, a log or a key, and no two names look alike in a list.
pub fn is_identifier(text: &str) -> bool {
    (1..=256).contains(&text.len()) && control_character(text).is_none()
}

/// Returns the first control character of a text: one of the category Cc, a separator of lines, or
/// one that changes the direction of the text after it (`Bidi_Control` of UAX #9).
pub fn control_character(text: &str) -> Option<char> {
    text.chars().find(|character| {
        character.is_control()
            || matches!(
                character,
                '\u{61c}'
                    | '\u{200e}'..='\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2066}'..='\u{2069}'
            )
    })
}

/// Whether a text is a `scope-token` of RFC 6749 section 3.3, or one beyond ASCII: names of models
/// in other scripts are common, and scopes contain them.
pub(crate) fn is_scope(text: &str) -> bool {
    let fits = |c: char| match c {
        '"' | '\\' => false,
        c if c.is_ascii() => c.is_ascii_graphic(),
        c => !c.is_whitespace() && !c.is_control() && !is_invisible(c),
    };
    !text.is_empty() && text.chars().all(fits)
}

/// Whether a character cannot be seen, or looks like a space: a text that was copied from a page may
/// have one. Joiners, which scripts and emoji need, are none.
pub fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{a0}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{2000}'..='\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}'
            | '\u{3000}'
            | '\u{feff}'
    )
}

/// Whether a text has a character that [is invisible](is_invisible). None of ASCII is.
pub fn has_invisible(text: &str) -> bool {
    !text.is_ascii() && text.chars().any(is_invisible)
}

/// Returns a text whose invisible characters are escaped: `a\u{a0}b`.
pub fn with_invisible_escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_invisible(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Returns 128 bits in lower-case hex.
pub fn hex_128(bytes: [u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    digits.copy_from_slice(hex_digits(&bytes).as_flattened());
    digits
}

/// Returns two hex digits for each byte, in lower case.
pub(crate) fn hex_digits<const N: usize>(bytes: &[u8; N]) -> [[u8; 2]; N] {
    let mut digits = [[0; 2]; N];
    // A loop instead of `map`, which takes ten times as many instructions at `opt-level = 2`.
    for (pair, byte) in digits.iter_mut().zip(bytes) {
        *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
    }
    digits
}

/// Returns the digit of half a byte, without a branch, so that many are made at a time.
#[inline]
fn hex_digit(half: u8) -> u8 {
    half + b'0' + u8::from(half > 9) * (b'a' - b'0' - 10)
}

/// Returns bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(&mut text, bytes);
    text
}

/// Appends bytes in lower-case hex.
pub fn push_hex(text: &mut String, bytes: &[u8]) {
    let (chunks, rest) = bytes.as_chunks::<16>();
    for chunk in chunks {
        text.push_str(digits_as_str(hex_digits(chunk).as_flattened()));
    }
    for byte in rest {
        text.push_str(digits_as_str(hex_digits(&[*byte]).as_flattened()));
    }
}

#[expect(clippy::expect_used, reason = "hex digits are ASCII, so they are UTF-8")]
fn digits_as_str(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).expect("hex digits are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_no_control_characters() {
        for (text, found) in [
            ("a\0b", '\0'),
            ("a\n", '\n'),
            ("\u{85}", '\u{85}'),
            ("a\u{61c}", '\u{61c}'),
            ("a\u{200f}", '\u{200f}'),
            ("\u{2028}", '\u{2028}'),
            ("a\u{202e}b", '\u{202e}'),
            ("a\u{2069}", '\u{2069}'),
        ] {
            assert_eq!(control_character(text), Some(found), "{text:?}");
            assert!(!is_identifier(text) && !is_scope(text), "{text:?}");
        }
        for text in ["a b", "\u{5d0}\u{5d1}", "\u{fc}", "\u{1f468}\u{200d}\u{1f469}"] {
            assert!(is_identifier(text), "{text:?}");
        }
        assert!(!is_identifier("") && !is_identifier(&"a".repeat(257)));
    }

    #[test]
    fn hex_is_lower_case_and_in_order() {
        assert_eq!(
            &hex_128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes()),
            b"0123456789abcdeffedcba9876543210"
        );
        assert_eq!(hex(&[0, 1, 0xab, 0xff]), "0001abff");
        let bytes: Vec<u8> = (0..=40).collect();
        let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex(&bytes), expected);
    }

    #[test]
    fn an_identifier_has_a_length_and_no_control_characters() {
        for text in ["a", "auth0|1", "caf\u{e9}", " ", &"a".repeat(256)] {
            assert!(is_identifier(text), "{text:?}");
        }
        for text in ["", "a\n", "\u{0}", "a\u{85}", &"a".repeat(257)] {
            assert!(!is_identifier(text), "{text:?}");
        }
    }

    #[test]
    fn every_byte_is_classified_at_every_position() {
        for byte in 0..=u8::MAX {
            let expected = matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
            for length in 1..=20 {
                for at in 0..length {
                    let mut text = vec![b'~'; length];
                    text[at] = byte;
                    assert_eq!(
                        is_printable_without(&text, [b'"', b'\\']),
                        expected,
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
        assert!(is_printable_without(b"", [b'%', b'%']));
    }
}
