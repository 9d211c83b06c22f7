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
/// feed gets into a header, a log or a key.
pub fn is_identifier(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Returns 128 bits in lower-case hex.
pub fn hex_128(bytes: [u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    digits.copy_from_slice(hex_digits(&bytes).as_flattened());
    digits
}

/// Returns two hex digits for each byte, in lower case.
pub(crate) fn hex_digits<const N: usize>(bytes: &[u8; N]) -> [[u8; 2]; N] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    bytes.map(|byte| [digit(byte >> 4), digit(byte & 15)])
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
