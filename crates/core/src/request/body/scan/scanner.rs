//! The scanner itself: its position, space, and what opens, separates and closes values.

use super::{
    super::{json_error::JsonError, steps},
    structure::{self, Structure},
};

/// A position in the text of a body.
#[derive(Debug)]
pub(in super::super) struct Scanner<'a> {
    pub(super) text: &'a str,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    /// What the structure of the rest of the body may count as, in bytes.
    pub(super) structure: usize,
}

impl<'a> Scanner<'a> {
    /// Creates a scanner at the beginning of a body, all of which must be UTF-8.
    pub(in super::super) fn new(bytes: &'a [u8]) -> Result<Self, Box<JsonError>> {
        let text = simdutf8::basic::from_utf8(bytes).or_else(|_| {
            // The same again, to find where.
            std::str::from_utf8(bytes).map_err(|error| JsonError::Syntax(error.valid_up_to()))
        })?;
        Ok(Self { text, bytes, at: 0, structure: structure::allowed(bytes.len()) })
    }

    /// The whole body.
    pub(in super::super) fn text(&self) -> &'a str {
        self.text
    }

    #[cfg(test)]
    pub(in super::super) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    #[cold]
    pub(in super::super) fn syntax(&self) -> Box<JsonError> {
        Box::new(JsonError::Syntax(self.at))
    }

    /// Counts structure.
    ///
    /// # Errors
    /// The body has more of it than it may have.
    #[inline(always)]
    pub(in super::super) fn count(&mut self, structure: Structure) -> Result<(), Box<JsonError>> {
        match self.structure.checked_sub(structure.bytes()) {
            Some(left) => {
                self.structure = left;
                Ok(())
            }
            None => Err(too_dense()),
        }
    }

    pub(in super::super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// What is not read yet.
    pub(in super::super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(in super::super) fn at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Skips space. There is none between most tokens.
    #[inline(always)]
    pub(in super::super) fn space(&mut self) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.spaces();
        }
    }

    /// Skips space, of which most is a single one.
    #[inline(always)]
    pub(super) fn one_space(&mut self) {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some([b' ', next]) if *next > b' ' => self.at += 1,
            _ => self.space(),
        }
    }

    pub(super) fn spaces(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
        steps::count(length / 8);
        self.at += length;
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Box<JsonError>> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// Enters a list or an object, up to its first key or element. If it is empty, leaves it again and
    /// returns true.
    #[inline(always)]
    pub(in super::super) fn opens_empty(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        self.count(if close == b'}' { Structure::Object } else { Structure::List })?;
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.count(Structure::Empty)?;
            self.at += 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether the list here has no element.
    pub(in super::super) fn is_empty_list(&self) -> bool {
        let inside = self.rest().get(1..).unwrap_or_default();
        inside.trim_start_matches([' ', '\t', '\n', '\r']).starts_with(']')
    }

    /// Whether the list or the object has another element or member (`,`), and then goes up to it; or
    /// ends (`close`).
    #[inline(always)]
    pub(in super::super) fn has_next(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some([b',', next]) if *next > b' ' => {
                self.at += 1;
                Ok(true)
            }
            Some([byte, _]) if *byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.has_next_or_space(close),
        }
    }

    #[inline(never)]
    fn has_next_or_space(&mut self, close: u8) -> Result<bool, Box<JsonError>> {
        self.one_space();
        let byte = self.peek();
        if byte != Some(b',') && byte != Some(close) {
            return Err(self.syntax());
        }
        self.at += 1;
        if byte == Some(close) {
            return Ok(false);
        }
        self.one_space();
        Ok(true)
    }
}

#[cold]
fn too_dense() -> Box<JsonError> {
    Box::new(JsonError::TooDense)
}
