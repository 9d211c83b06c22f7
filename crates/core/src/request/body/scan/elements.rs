//! Elements of lists: scalars and lists are skipped in one loop, without a call for each (`cargo bench
//! --bench body`, "lists of one", "numbers", "deep lists of two").

use super::{
    super::{
        json_error::{JsonError, NUMBER},
        steps,
    },
    scanner::Scanner,
    skip::Skipping,
    string::{before_end, is_plain_escape},
};

/// The largest integer that the loop skips: a double represents it, and all that are smaller.
const INTEGER: &[u8; 16] = b"9007199254740992";

/// The most digits of an exponent that the loop skips where numbers are read: every number with them
/// is one of a double.
const EXPONENT: usize = 2;

/// The words of a string that the loop looks at.
const WORDS: usize = 4;

impl<'a> Scanner<'a> {
    /// Skips a string of at most eight bytes without escapes, or a whole number of at most nine digits.
    /// Returns false for other values, of which it reads nothing.
    #[inline(always)]
    pub(in super::super) fn short_value(&mut self) -> bool {
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

    /// Skips elements of the innermost of `open` lists, with the lists in them, up to an object, at
    /// which it returns true, or to the end of all `open` lists. At most `most` may be open.
    pub(in super::super) fn skip_elements<S: Skipping<'a>>(
        &mut self,
        open: &mut usize,
        most: usize,
        skipping: &mut S,
    ) -> Result<bool, Box<JsonError>> {
        loop {
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                skipping.elements(*open, self.skip_whole_numbers());
            }
            skipping.elements(*open, 1);
            steps::count(1);
            match self.peek() {
                Some(b'[') => {
                    if *open >= most {
                        return Err(JsonError::TooDeep.into());
                    }
                    self.at += 1;
                    self.space();
                    if self.peek() != Some(b']') {
                        *open += 1;
                        continue;
                    }
                    self.at += 1;
                }
                Some(b'{') => return Ok(true),
                _ => match self.short_element(S::READS_NUMBERS) {
                    Some(end) => self.at = end,
                    None => self.skip_other(skipping)?,
                },
            }
            // The element may be the last one of its list, which then is one itself.
            while !self.has_next(b']')? {
                *open -= 1;
                if *open == 0 {
                    return Ok(false);
                }
            }
        }
    }

    /// Skips any scalar.
    #[inline(never)]
    fn skip_other<S: Skipping<'a>>(&mut self, skipping: &mut S) -> Result<(), Box<JsonError>> {
        if self.peek() == Some(b'"') {
            return self.skip_string().map(drop);
        }
        if S::READS_NUMBERS {
            let scalar = self.scalar()?;
            skipping.number(scalar);
            return Ok(());
        }
        self.skip_scalar()
    }

    /// The end of a scalar, unless it is a long string, has an escaped unit, is a number that a double
    /// may not represent, or malformed.
    #[inline(always)]
    fn short_element(&self, reads_numbers: bool) -> Option<usize> {
        match self.peek()? {
            b'"' => self.short_string(),
            b'-' | b'0'..=b'9' => self.short_number(reads_numbers),
            b't' | b'n' => {
                let word = self.bytes.get(self.at..)?.first_chunk::<4>()?;
                matches!(word, b"true" | b"null").then_some(self.at + 4)
            }
            b'f' => {
                let word = self.bytes.get(self.at..)?.first_chunk::<5>()?;
                (word == b"false").then_some(self.at + 5)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn short_string(&self) -> Option<usize> {
        let mut at = self.at + 1;
        for word in 0..WORDS {
            steps::count(word.min(1));
            let word = self.bytes.get(at..)?.first_chunk()?;
            at += before_end(u64::from_le_bytes(*word));
            match *self.bytes.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => {
                    if !is_plain_escape(*self.bytes.get(at + 1)?) {
                        return None;
                    }
                    at += 2;
                }
                _ => {}
            }
        }
        None
    }

    #[inline(always)]
    fn short_number(&self, reads_numbers: bool) -> Option<usize> {
        let digits = |mut at: usize| {
            while self.bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let first = self.at + usize::from(self.peek()? == b'-');
        let mut end = digits(first);
        let whole = self.bytes.get(first..end)?;
        let is_large = reads_numbers
            && whole.len() >= INTEGER.len()
            && (whole.len() > INTEGER.len() || whole > INTEGER.as_slice());
        if is_large || whole.is_empty() || (whole.len() > 1 && whole.starts_with(b"0")) {
            return None;
        }
        let mut next = *self.bytes.get(end)?;
        if next == b'.' {
            let point = end;
            end = digits(point + 1);
            if end == point + 1 {
                return None;
            }
            next = *self.bytes.get(end)?;
        }
        if next | 0x20 == b'e' {
            let sign = matches!(*self.bytes.get(end + 1)?, b'+' | b'-');
            let exponent = end + 1 + usize::from(sign);
            end = digits(exponent);
            if end == exponent || (reads_numbers && end - exponent > EXPONENT) {
                return None;
            }
        }
        steps::count((end - self.at) / 8);
        (end - self.at <= NUMBER).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::skip::Syntax, *};
    use crate::request::body::{distinct::Distinct, seen_keys::SeenKeys};

    /// Skips the elements of a list: whether it stopped at an object, in how many lists, and before
    /// which text.
    fn skip<'a>(
        text: &'a str,
        skipping: &mut impl Skipping<'a>,
    ) -> Result<(bool, usize, &'a str), JsonError> {
        let mut scanner = Scanner::new(text.as_bytes()).unwrap();
        assert!(!scanner.opens_empty(b']'), "{text}");
        let mut open = 1;
        let at_object = scanner.skip_elements(&mut open, 4, skipping).map_err(|error| *error)?;
        Ok((at_object, open, scanner.rest()))
    }

    #[test]
    fn elements_are_those_of_rfc_8259() {
        let digits = "9".repeat(NUMBER);
        let scalars = [
            "0",
            "-0",
            "12",
            "01",
            "-",
            "-01",
            "1.",
            "1.5",
            ".5",
            "1e5",
            "1E+22",
            "1e-400",
            "1e",
            "1e+",
            "1.5e308",
            "9007199254740993",
            &digits,
            "true",
            "false",
            "null",
            "nul",
            "truefalse",
            "tru",
            "\"\"",
            "\"a\"",
            "\"abcdefgh\"",
            "\"\\n\\\"\"",
            "\"\\u00e9\"",
            "\"\\x\"",
            "\"\\ud83d\"",
            "\"a\u{1}\"",
            "\"\u{e9}\\\\\"",
            "[]",
            "[[]]",
            "[1,[2],\"\"]",
            "[",
            "]",
            "[,]",
            "",
            "1 2",
            "a",
        ];
        for (scalar, space) in
            scalars.iter().flat_map(|scalar| ["", " \n"].map(|space| (scalar, space)))
        {
            for text in [format!("[{scalar}{space}]"), format!("[1,{scalar}{space},{space}\"\"]")] {
                if text.starts_with("[]") || text.starts_with("[ ") {
                    continue;
                }
                let expected = serde_json::from_str::<Vec<serde_json::Value>>(&text).is_ok();
                let mut distinct = Distinct::new(SeenKeys::new(&text));
                let ours = [skip(&text, &mut Syntax), skip(&text, &mut distinct)];
                for ours in ours {
                    assert_eq!(ours.is_ok_and(|end| end == (false, 0, "")), expected, "{text}");
                }
            }
        }
        assert_eq!(skip(&format!("[{digits}9]"), &mut Syntax), Err(JsonError::LongNumber));
    }

    #[test]
    fn objects_and_lists_that_are_too_deep_end_the_loop() {
        assert_eq!(skip("[[1],[[{}]]]", &mut Syntax), Ok((true, 3, "{}]]]")));
        assert_eq!(skip("[[[[1]]],2] 3", &mut Syntax), Ok((false, 0, " 3")));
        assert_eq!(skip("[[[[[1]]]]]", &mut Syntax), Err(JsonError::TooDeep));
        assert_eq!(skip("[[[[[]]]]]", &mut Syntax), Err(JsonError::TooDeep));
    }

    #[test]
    fn numbers_that_a_double_changes_are_found_among_others() {
        for (number, expected) in [
            ("9007199254740992", true),
            ("9007199254740993", false),
            ("99999999999999999", false),
            ("1e99", true),
            ("1e309", false),
            ("-123456789012345678901234567890", false),
            ("12345678901234567890.5", true),
        ] {
            let text = format!("[1,{number},-2.5]");
            let mut distinct = Distinct::new(SeenKeys::new(&text));
            skip(&text, &mut distinct).unwrap();
            assert_eq!((distinct.is_exact, distinct.elements), (expected, 3), "{number}");
        }
    }
}
