//! Elements of lists: scalars and lists are skipped in one loop, without a call for each (`cargo bench
//! --bench body`, "lists of one", "deep lists of two"), and runs of short strings and numbers by the automaton.

use super::{
    super::{json_error::JsonError, steps},
    number::{EXPONENT, LARGE},
    scanner::Scanner,
    skip::Skipping,
    string::before_end,
    structure::Structure,
};

/// The elements of a list before its automaton begins: most lists in lists are short.
const FEW: u32 = 4;

/// The bytes from which a string with escapes takes no longer than its bytes.
const SHORT: usize = 16;

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
                    None | Some(b'.' | b'e' | b'E') => 0,
                    Some(_) => length,
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
        // The elements of the innermost list before its automaton begins, and whether it has begun.
        let (mut few, mut is_long) = (FEW, false);
        loop {
            // Whether the automaton skipped elements up to this one.
            let mut is_left = false;
            if few > 0 {
                few -= 1;
                if matches!(self.peek(), Some(b'0'..=b'9')) {
                    skipping.elements(*open, self.skip_whole_numbers(), 0);
                }
            } else if matches!(self.peek(), Some(b'"' | b'-' | b'0'..=b'9')) && !self.ends_soon() {
                let (skipped, strings) = self.skip_scalars(skipping);
                skipping.elements(*open, skipped, strings);
                self.space();
                is_left = skipped > 0;
                is_long = true;
            }
            let first = self.peek();
            skipping.elements(*open, 1, usize::from(matches!(first, Some(b'"' | b'['))));
            if is_left && matches!(first, Some(b'[' | b'{')) {
                self.count(Structure::Change)?;
                is_left = false;
            }
            match first {
                Some(b'[') => {
                    steps::count(1);
                    if *open >= most {
                        return Err(JsonError::TooDeep.into());
                    }
                    if !self.opens_empty(b']')? {
                        *open += 1;
                        (few, is_long) = (FEW, false);
                        continue;
                    }
                }
                Some(b'{') => {
                    steps::count(1);
                    return Ok(true);
                }
                Some(b't' | b'f' | b'n') if self.short_word() => {}
                Some(b'"' | b'0'..=b'9') if self.short_value() => {}
                Some(b'"') => {
                    let start = self.at;
                    if self.skip_string()? && self.at - start < SHORT {
                        self.count(Structure::Slow)?;
                    }
                }
                // The next one may have an exponent as well.
                _ => few = few.max(u32::from(self.skip_other(skipping)?)),
            }
            if self.has_next(b']')? {
                if is_left {
                    self.count(Structure::Change)?;
                }
                continue;
            }
            if !is_long {
                self.count(Structure::Short)?;
            }
            // The element is the last one of its list, which then is one itself.
            loop {
                *open -= 1;
                if *open == 0 {
                    return Ok(false);
                }
                (few, is_long) = (0, true);
                if self.has_next(b']')? {
                    break;
                }
            }
        }
    }

    /// Whether a list ends within a few bytes, so that the automaton would skip nothing or little.
    #[inline(always)]
    fn ends_soon(&self) -> bool {
        let next = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>());
        next.is_none_or(|next| next.iter().fold(false, |ends, byte| ends | (*byte == b']')))
    }

    /// Skips a word. Returns false for others, of which it reads nothing.
    #[inline(always)]
    fn short_word(&mut self) -> bool {
        let length = match self.bytes.get(self.at..).unwrap_or_default() {
            [b't', b'r', b'u', b'e', ..] | [b'n', b'u', b'l', b'l', ..] => 4,
            [b'f', b'a', b'l', b's', b'e', ..] => 5,
            _ => 0,
        };
        steps::count(1);
        self.at += length;
        length > 0
    }

    /// Skips a scalar. Returns false for an object or a list, of which it reads nothing.
    #[inline(always)]
    pub(in super::super) fn scalar_value<S: Skipping<'a>>(
        &mut self,
        skipping: &mut S,
    ) -> Result<bool, Box<JsonError>> {
        if self.short_value() {
            return Ok(true);
        }
        match self.peek() {
            Some(b'{' | b'[') => return Ok(false),
            Some(b'"') => drop(self.skip_string()?),
            _ => drop(self.skip_other(skipping)?),
        }
        Ok(true)
    }

    /// Skips a number or a word. Returns whether it is a number with an exponent.
    #[inline(never)]
    pub(super) fn skip_other<S: Skipping<'a>>(
        &mut self,
        skipping: &mut S,
    ) -> Result<bool, Box<JsonError>> {
        let start = self.at;
        let exponent = self.skip_scalar()?;
        if (exponent >= EXPONENT || self.at - start >= LARGE) && skipping.reads_numbers() {
            skipping.number(self.text.get(start..self.at).unwrap_or_default());
        }
        Ok(exponent > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::skip::Syntax, *};
    use crate::request::body::{distinct::Distinct, json_error::NUMBER, seen_keys::SeenKeys};

    /// Skips the elements of a list: whether it stopped at an object, in how many lists, and before
    /// which text.
    fn skip<'a>(
        text: &'a str,
        skipping: &mut impl Skipping<'a>,
    ) -> Result<(bool, usize, &'a str), JsonError> {
        let mut scanner = Scanner::new(text.as_bytes()).unwrap();
        assert!(!scanner.opens_empty(b']').unwrap(), "{text}");
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
