//! Runs of short scalars in a list, skipped by an automaton.
//!
//! Code for each kind of element costs a mispredicted branch or two for each element of a list that
//! has several kinds or lengths. The automaton takes one lookup and one shift for each byte, and no
//! branch that depends on it (`cargo bench --bench body`, "mixed fractions", "negative numbers").

use super::{
    super::{json_error::NUMBER, steps},
    number::LARGE,
    scanner::Scanner,
    skip::Skipping,
};

/// What the automaton has read, as the place of its bits in a [`Row`].
type State = u64;

/// Something that it leaves to other code: a bracket, a word, an exponent, an escaped unit, or what is
/// malformed.
const OTHER: State = 0;
/// A comma, and perhaps space.
const COMMA: State = 6;
const MINUS: State = 12;
/// A zero that begins a number: no digit follows.
const ZERO: State = 18;
const WHOLE: State = 24;
const POINT: State = 30;
const FRACTION: State = 36;
const STRING: State = 42;
/// A value, and space.
const VALUE: State = 48;
/// The backslash of an escape.
const ESCAPE: State = 54;

const STATES: [State; 10] =
    [OTHER, COMMA, MINUS, ZERO, WHOLE, POINT, FRACTION, STRING, VALUE, ESCAPE];

/// The states after a byte: six bits for each state before it.
type Row = u64;

/// The state after another byte, as RFC 8259 has it.
const fn after(state: State, byte: u8) -> State {
    match (state, byte) {
        (STRING, b'"') => VALUE,
        (STRING, b'\\') => ESCAPE,
        (STRING, 0x20..) => STRING,
        (ESCAPE, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => STRING,
        (COMMA, b'"') => STRING,
        (COMMA, b'-') => MINUS,
        (COMMA | MINUS, b'0') => ZERO,
        (COMMA | MINUS, b'1'..=b'9') | (WHOLE, b'0'..=b'9') => WHOLE,
        (ZERO | WHOLE, b'.') => POINT,
        (POINT | FRACTION, b'0'..=b'9') => FRACTION,
        (COMMA, b' ' | b'\t' | b'\n' | b'\r') | (ZERO | WHOLE | FRACTION | VALUE, b',') => COMMA,
        (ZERO | WHOLE | FRACTION | VALUE, b' ' | b'\t' | b'\n' | b'\r') => VALUE,
        _ => OTHER,
    }
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static ROWS: [Row; 256] = {
    let mut rows = [0; 256];
    let mut byte = 0;
    while byte < rows.len() {
        let mut states: &[State] = &STATES;
        while let [state, others @ ..] = states {
            #[expect(clippy::cast_possible_truncation, reason = "the index of a byte")]
            let next = after(*state, byte as u8);
            rows[byte] |= next << *state;
            states = others;
        }
        byte += 1;
    }
    rows
};

/// The bits of a state.
const BITS: State = 0x3f;

/// A bit in each byte of a word, and the high bits.
const EACH: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = EACH << 7;

/// The high bits of the states that are this one. All of them are less than 128.
#[inline(always)]
fn each(states: u64, state: State) -> u64 {
    HIGH.wrapping_sub(states ^ (EACH * state)) & HIGH
}

/// The bytes of an element from which it is left to other code.
const LONG: usize = 32;
const _: () = assert!(LONG < NUMBER);

impl<'a> Scanner<'a> {
    /// Skips elements of a list that are short strings without escaped units or numbers without exponents,
    /// each with its comma, from the beginning of one. Returns how many, and how many of them are strings.
    #[inline(never)]
    pub(in super::super) fn skip_scalars<S: Skipping<'a>>(
        &mut self,
        skipping: &mut S,
    ) -> (usize, usize) {
        let (mut state, mut elements, mut strings, mut closed) = (COMMA, 0, 0, 0);
        let (mut start, mut end) = (self.at, self.at);
        for bytes in self.bytes.get(self.at..).unwrap_or_default().as_chunks::<8>().0 {
            let (before, mut states) = (state & BITS, 0);
            for (index, byte) in bytes.iter().enumerate() {
                let row = ROWS.get(usize::from(*byte)).copied().unwrap_or_default();
                state = row >> (state & BITS);
                states |= (state & BITS) << (8 * index);
            }
            steps::count(2);
            // Of the bytes behind which the state is this one, only a comma has both bits.
            let word = u64::from_le_bytes(*bytes);
            let commas = each(states, COMMA) & (word << 2) & (word << 4);
            let quotes = match S::COUNTS_PROMPTS {
                true => each(states, VALUE) & each(states << 8 | before, STRING),
                false => 0,
            };
            // Of the elements that end in these bytes, the first one may have begun before them.
            let first = commas.trailing_zeros() as usize / 8;
            let length = end + first - start;
            if length >= LONG {
                break;
            }
            if commas != 0 {
                if length >= LARGE && skipping.reads_numbers() {
                    skipping
                        .number(self.text.get(start..start + length).unwrap_or_default().trim());
                }
                elements += commas.count_ones() as usize;
                start = end + 8 - commas.leading_zeros() as usize / 8;
                let ended = u64::MAX >> commas.leading_zeros();
                strings = closed + (quotes & ended).count_ones() as usize;
            }
            closed += quotes.count_ones() as usize;
            end += 8;
            if state & BITS == OTHER {
                break;
            }
        }
        self.at = start;
        (elements, strings)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::skip::Syntax, *};
    use crate::request::body::{distinct::Distinct, seen_keys::SeenKeys};

    /// Skips elements from the beginning of a text: how many, and what is left.
    fn skip(text: &str) -> (usize, &str) {
        let mut scanner = Scanner::new(text.as_bytes()).unwrap();
        let (elements, _) = scanner.skip_scalars(&mut Syntax);
        (elements, scanner.rest())
    }

    /// Ends the words of eight bytes in which the automaton reads, and stops it.
    const END: &str = "[        ]";

    #[test]
    fn an_element_is_skipped_where_rfc_8259_has_it_at_every_place_in_eight_bytes() {
        let elements = [
            ("1", true),
            ("0", true),
            ("-0", true),
            ("-12.5", true),
            ("0.25", true),
            ("123456789012345678901234567890", true),
            (r#""""#, true),
            (r#""a,b]""#, true),
            (r#""\n\\\"/""#, true),
            ("\"\u{e9}\u{4f60}\"", true),
            (" \t1\r\n", true),
            (" \"\" ", true),
            ("01", false),
            ("-", false),
            ("-01", false),
            ("--1", false),
            ("1.", false),
            (".5", false),
            ("1.5.5", false),
            ("1-", false),
            ("+1", false),
            ("1 2", false),
            (r#""a"b"#, false),
            (r#"1"a""#, false),
            (r#""\x""#, false),
            ("\"a\u{1}\"", false),
            ("\"a\nb\"", false),
            ("\u{a0}1", false),
            ("1\u{b}", false),
            ("", false),
            (" ", false),
        ];
        for (element, before) in elements.iter().flat_map(|one| (0..9).map(move |at| (one, at))) {
            let (element, is_element) = element;
            let start = "1,".repeat(before / 2) + if before % 2 == 1 { "12," } else { "" };
            let count = before / 2 + before % 2;
            let text = format!("{start}{element},{END}");
            let list = format!("[{start}{element},0]");
            let theirs = serde_json::from_str::<Vec<serde_json::Value>>(&list).is_ok();
            assert_eq!(theirs, *is_element, "{list}");
            let expected = if theirs { (count + 1, END) } else { (count, &text[start.len()..]) };
            assert_eq!(skip(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_takes_other_code_is_left_to_it() {
        for element in [
            "1e5",
            "true",
            "null",
            r#""\u00e9""#,
            "[1]",
            "{}",
            "]",
            "}",
            &format!("\"{}\"", "a".repeat(LONG)),
            &"1".repeat(NUMBER + 1),
        ] {
            let text = format!("{element},1,{END}");
            assert_eq!(skip(&text), (0, text.as_str()));
            let more = format!("1,\"\",{text}");
            assert_eq!(skip(&more), (2, text.as_str()));
        }
        // Less than eight bytes are left to other code as well.
        assert_eq!(skip("1,2,3,"), (0, "1,2,3,"));
    }

    #[test]
    fn numbers_that_a_double_changes_are_found() {
        for (number, is_exact) in [
            ("999999999999999", true),
            ("9007199254740992", true),
            ("9007199254740993", false),
            ("-9007199254740993", false),
            ("  9007199254740993  ", false),
            ("9007199254740993.5", true),
            ("\"9007199254740993\"", true),
        ] {
            let text = format!("1,{number},2,{END}");
            let mut distinct = Distinct::new(SeenKeys::new(&text));
            let mut scanner = Scanner::new(text.as_bytes()).unwrap();
            assert_eq!(scanner.skip_scalars(&mut distinct).0, 3, "{text}");
            assert_eq!(distinct.is_exact, is_exact, "{text}");
        }
    }
}
