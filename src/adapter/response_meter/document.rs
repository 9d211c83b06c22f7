//! Reads the counts of tokens in a body of JSON, or of lines of JSON, while it passes: numbers that are
//! members of the document, or of objects in it whose keys are those of a usage. What a server
//! repeats of its request is elsewhere. `tests/deploy/metered.lua` does the same inside of Envoy.
//!
//! Of a count that occurs more often the largest one is kept, and one that is no number: what the
//! request holds is charged then.

use crate::adapter::access_log::usage::{Members, is_count};

/// The keys of the objects whose members count.
const PARENTS: [&[u8]; 10] = [
    b"usage",
    b"meta_info",
    b"timings",
    b"meta",
    b"tokens",
    b"billed_units",
    b"prompt_tokens_details",
    b"completion_tokens_details",
    b"input_tokens_details",
    b"output_tokens_details",
];

/// The longest name and the longest number that are read.
const LONGEST: usize = 32;

/// The place in a document.
#[derive(Debug, Default)]
pub(super) struct Document {
    depth: usize,
    /// The depth of the innermost object whose members count; members of deeper ones do not.
    counted: usize,
    state: State,
    /// The name of the last member of a counted object, or the start of it.
    name: Vec<u8>,
    number: Vec<u8>,
    /// Whether the next value belongs to a key of [`PARENTS`].
    is_parent: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    /// In a text, which may be a name, and whether the next byte is escaped.
    Text { is_name: bool, is_escaped: bool },
    /// Behind a text that may be a name.
    AfterText,
    /// Behind a name and a colon.
    BeforeValue,
    /// In the number of a count.
    Number,
}

impl Document {
    /// Reads a piece, and keeps the largest value of each count. Returns whether there was one.
    pub(super) fn read(&mut self, piece: &[u8], members: &mut Members) -> bool {
        let mut found = false;
        for &byte in piece {
            found |= self.step(byte, members);
        }
        found
    }

    fn step(&mut self, byte: u8, members: &mut Members) -> bool {
        match self.state {
            State::Text { is_name, is_escaped } => self.text(byte, is_name, is_escaped),
            State::AfterText if byte == b':' => {
                self.is_parent = PARENTS.contains(&&*self.name);
                self.state = State::BeforeValue;
            }
            State::AfterText | State::BeforeValue if byte.is_ascii_whitespace() => {}
            State::BeforeValue if self.count_name().is_some() => {
                if byte == b'-' || byte.is_ascii_digit() {
                    self.number.clear();
                    self.number.push(byte);
                    self.state = State::Number;
                    return false;
                }
                if byte != b'n'
                    && let Some(name) = self.count_name()
                {
                    members.set_other(name);
                }
                self.between(byte);
            }
            State::Number if byte.is_ascii_digit() || b".eE+-".contains(&byte) => {
                if self.number.len() < LONGEST {
                    self.number.push(byte);
                }
            }
            State::Number => {
                let found = self.count(members);
                self.between(byte);
                return found;
            }
            State::Between | State::AfterText | State::BeforeValue => self.between(byte),
        }
        false
    }

    /// Reads a byte of a text.
    fn text(&mut self, byte: u8, is_name: bool, is_escaped: bool) {
        if byte == b'"' && !is_escaped {
            self.state = if is_name { State::AfterText } else { State::Between };
            return;
        }
        let is_name = is_name && byte != b'\\' && self.name.len() < LONGEST;
        if is_name {
            self.name.push(byte);
        }
        self.state = State::Text { is_name, is_escaped: byte == b'\\' && !is_escaped };
    }

    /// Reads a byte outside of texts and counts.
    fn between(&mut self, byte: u8) {
        self.state = State::Between;
        match byte {
            b'"' => {
                self.is_parent = false;
                self.name.clear();
                // The members of a document are at depth 1.
                let is_name = self.counted == self.depth && self.depth > 0;
                self.state = State::Text { is_name, is_escaped: false };
            }
            b'{' => {
                if self.counted == self.depth && (self.depth == 0 || self.is_parent) {
                    self.counted += 1;
                }
                self.depth += 1;
                self.is_parent = false;
            }
            b'[' => {
                self.depth += 1;
                self.is_parent = false;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.counted = self.counted.min(self.depth);
                self.is_parent = false;
            }
            _ => {}
        }
    }

    /// The name of the count whose value is next.
    fn count_name(&self) -> Option<&str> {
        std::str::from_utf8(&self.name).ok().filter(|name| is_count(name))
    }

    /// Keeps the number that has ended.
    fn count(&self, members: &mut Members) -> bool {
        let number = std::str::from_utf8(&self.number).ok().and_then(|text| text.parse().ok());
        let name = self.count_name();
        match (name, number) {
            (Some(name), Some(number)) => members.raise(name, number),
            (Some(name), None) => members.set_other(name),
            (None, _) => {}
        }
        name.is_some()
    }
}
