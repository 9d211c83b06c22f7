//! Character classes and hex digits.
//!
//! A check examines a dozen short texts, so [`is_printable_without`] tests eight bytes at a time.
//! It earns the row `hot_without_a_body` of `benches/check.rs`; the test below compares it with a
//! test of single bytes.

/// Whether `bytes` is printable ASCII (space to `~`) that contains neither of two characters.
pub fn is_printable_without(bytes: &[u8], except: [u8; 2]) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    match bytes.last_chunk::<8>() {
        // The last eight bytes overlap the last word, which saves a loop over single bytes.
        Some(last) => {
            is_plain_word(*last, except) && words.iter().all(|word| is_plain_word(*word, except))
        }
        None => bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && !except.contains(byte)),
    }
}

/// Whether each byte of a word is in the class.
///
/// The high bit of each byte of the result marks a byte that is not (S. E. Anderson, "Bit Twiddling
/// Hacks", `hasless` and `haszero`).
fn is_plain_word(word: [u8; 8], [one, other]: [u8; 2]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_ne_bytes(word);
    let below = |word: u64, least: u8| word.wrapping_sub(ONES * u64::from(least)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (word | below(word, b' ') | is(0x7f) | is(one) | is(other)) & (ONES << 7) == 0
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
    let (sixteens, pairs) = digits.as_flattened_mut().as_chunks_mut();
    let (eights, rest) = bytes.as_chunks();
    let mut eights = eights.iter();
    for sixteen in sixteens {
        *sixteen = hex_of_eight(eights.next().copied().unwrap_or_default());
    }
    for (pair, byte) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(rest) {
        let [high, low, ..] = hex_of_eight([*byte, 0, 0, 0, 0, 0, 0, 0]);
        *pair = [high, low];
    }
    digits
}

/// Returns the hex digits of eight bytes, all at a time.
fn hex_of_eight(bytes: [u8; 8]) -> [u8; 16] {
    const ONES: u128 = u128::from_ne_bytes([1; 16]);
    // Moves each half byte into a byte of its own.
    let word = u128::from(u64::from_be_bytes(bytes));
    let word = (word | word << 32) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    let word = (word | word << 16) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    let word = (word | word << 8) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    let word = (word | word << 4) & (ONES * 15);
    // 1 in each byte above 9.
    let letters = ((word + ONES * 6) >> 4) & ONES;
    (word + ONES * u128::from(b'0') + letters * u128::from(b'a' - b'0' - 10)).to_be_bytes()
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
