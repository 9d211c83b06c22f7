//! Numbers in base62: digits, upper-case letters, lower-case letters, most significant first.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes a number of any length, in big-endian bytes, as `N` digits. Digits beyond `N` are left
/// out.
pub(super) fn encode<const N: usize>(number: &[u8]) -> [u8; N] {
    let mut rest: Vec<u8> = number.to_vec();
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u16;
        for byte in &mut rest {
            let value = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or_default();
            remainder = value % 62;
        }
        *digit = DIGITS.get(usize::from(remainder)).copied().unwrap_or_default();
    }
    rest.fill(0);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<const N: usize>(number: &[u8]) -> String {
        String::from_utf8(encode::<N>(number).to_vec()).unwrap()
    }

    #[test]
    fn numbers_are_written_from_their_first_digit() {
        assert_eq!(text::<3>(&[0]), "000");
        assert_eq!(text::<3>(&[61]), "00z");
        assert_eq!(text::<3>(&[62]), "010");
        assert_eq!(text::<6>(&u32::MAX.to_be_bytes()), "4gfFC3");
        // 2^256 - 1, computed with Python.
        assert_eq!(text::<43>(&[0xff; 32]), "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1");
    }
}
