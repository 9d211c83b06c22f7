//! Numbers and words (RFC 8259 sections 3 and 6).

use super::{
    super::{
        json_error::{JsonError, NUMBER},
        steps,
    },
    scanner::Scanner,
    structure::Structure,
};

impl<'a> Scanner<'a> {
    /// Reads `true`, `false`, `null` or a number, as written.
    pub(in super::super) fn scalar(&mut self) -> Result<&'a str, Box<JsonError>> {
        let start = self.at;
        self.skip_scalar()?;
        self.text.get(start..self.at).ok_or_else(|| self.syntax())
    }

    /// Skips elements of a list that are whole numbers without space around them, up to the last one.
    /// All of them are small enough for a double. Returns how many.
    #[inline(always)]
    pub(super) fn skip_whole_numbers(&mut self) -> usize {
        let (mut start, mut numbers) = (self.at, 0);
        loop {
            let mut end = start;
            while self.bytes.get(end).is_some_and(u8::is_ascii_digit) {
                end += 1;
            }
            let zeros = self.bytes.get(start) == Some(&b'0') && end - start > 1;
            let empty = end == start;
            if empty || zeros || end - start >= LARGE || self.bytes.get(end) != Some(&b',') {
                break;
            }
            steps::count((end - start).div_ceil(4));
            start = end + 1;
            numbers += 1;
        }
        self.at = start;
        if numbers > 0 {
            self.space();
        }
        numbers
    }

    /// Skips `true`, `false`, `null` or a number. Returns the digits of its exponent, if it has
    /// one.
    pub(in super::super) fn skip_scalar(&mut self) -> Result<usize, Box<JsonError>> {
        let start = self.at;
        let exponent = match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            _ => return Err(self.syntax()),
        };
        steps::count((self.at - start) / 4);
        if self.at - start > NUMBER {
            return Err(JsonError::LongNumber.into());
        }
        Ok(exponent)
    }

    fn word(&mut self, word: &str) -> Result<usize, Box<JsonError>> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(0)
        } else {
            Err(self.syntax())
        }
    }

    /// Skips a number (RFC 8259 section 6). Returns the digits of its exponent.
    fn number(&mut self) -> Result<usize, Box<JsonError>> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        // Most numbers are whole.
        if !matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Ok(0);
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if !matches!(self.peek(), Some(b'e' | b'E')) {
            return Ok(0);
        }
        self.at += 1;
        if matches!(self.peek(), Some(b'+' | b'-')) {
            self.at += 1;
        }
        let exponent = self.at;
        self.digits()?;
        if self.at - start < SHORT {
            self.count(Structure::Slow)?;
        }
        Ok(self.at - exponent)
    }

    fn digits(&mut self) -> Result<(), Box<JsonError>> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.syntax()) }
    }
}

/// The digits of an exponent from which a double may have no room for the number.
pub(super) const EXPONENT: usize = 3;

/// The bytes of a number without an exponent from which a double may change it.
pub(super) const LARGE: usize = 16;

/// The bytes from which a number with an exponent takes no longer than its bytes.
const SHORT: usize = 12;

/// The largest integer that a double represents exactly, as do all smaller ones.
const INTEGER: u64 = 1 << 53;

/// The exponent up to which every number of [`NUMBER`] bytes is one of a double.
const SMALL_EXPONENT: i32 = 150;

/// The digits of the smallest number that a double has no room for, which has 309: halfway between
/// the largest double and the next one. More of them than a number may have bytes.
const TOO_LARGE: &[u8; NUMBER] =
    b"1797693134862315807937289714053034150799341327100378269361737789804\
4496829276475094664901797758720709633028641669288791094655554";

/// Whether a number is the same after it was read as a double. Words are.
pub(in super::super) fn is_exact(scalar: &str) -> bool {
    let digits = scalar.strip_prefix('-').unwrap_or(scalar);
    if let Ok(number) = digits.parse::<u64>() {
        return number <= INTEGER;
    }
    match digits.bytes().position(|byte| byte | 0x20 == b'e') {
        _ if !digits.starts_with(|first: char| first.is_ascii_digit()) => true,
        Some(at) => {
            let (digits, exponent) = digits.split_at_checked(at).unwrap_or((digits, ""));
            is_finite(digits.as_bytes(), exponent.get(1..).unwrap_or_default())
        }
        None => digits.contains('.'),
    }
}

/// Whether digits with a power of ten are a number that a double has room for. Parsing takes longer,
/// the more so for bodies of nothing else.
fn is_finite(digits: &[u8], exponent: &str) -> bool {
    let exponent: i32 = match exponent.strip_prefix('-') {
        Some(_) => return true,
        None => exponent.parse().unwrap_or(i32::MAX / 2),
    };
    if exponent <= SMALL_EXPONENT {
        return true;
    }
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let Some(first) = digits.iter().position(|byte| matches!(byte, b'1'..=b'9')) else {
        return true;
    };
    // How many places before the point the first digit has that is not zero.
    let place = |at: usize| i32::try_from(at).unwrap_or(i32::MAX / 4);
    let places = place(point) - place(first) + i32::from(first > point) + exponent;
    let significant = digits.iter().skip(first).filter(|byte| **byte != b'.');
    places < 309 || (places == 309 && significant.lt(TOO_LARGE.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_double_changes_are_found_without_parsing_them() {
        let mut numbers: Vec<String> = Vec::new();
        for digits in [
            "0",
            "0.0",
            "0.001",
            "1",
            "1.7976931348623157",
            "1.7976931348623158",
            "1.797693134862315807",
            "1.797693134862315808",
            "17976931348623158079",
            "17976931348623158080",
            "0.0017976931348623159",
            "999999999999999",
            "9007199254740992",
            "9007199254740993",
            "100000000000000000000",
            "9.99",
            "1.7976931348623158079372897140530341507993413271003782693617377898044496829276475094664",
            "1.7976931348623158079372897140530341507993413271003782693617377898044496829276475094665",
        ] {
            numbers.push(digits.into());
            for exponent in (0..330).chain([400, 999, 99_999_999_999_u64]) {
                for sign in ["", "+", "-"] {
                    numbers.push(format!("-{digits}e{sign}{exponent}"));
                    numbers.push(format!("{digits}E{sign}0{exponent}"));
                }
            }
        }
        for number in numbers {
            let whole = number.trim_start_matches('-');
            let expected = if whole.bytes().all(|byte| byte.is_ascii_digit()) {
                whole.parse().is_ok_and(|number: u64| number <= INTEGER)
            } else {
                whole.parse().is_ok_and(f64::is_finite)
            };
            assert_eq!(is_exact(&number), expected, "{number}");
        }
    }
}
