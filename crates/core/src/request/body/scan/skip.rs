//! Values of which only the syntax is read.

use super::{
    super::{
        json_error::{DEPTH, JsonError},
        steps,
    },
    Scanner,
};

impl Scanner<'_> {
    /// Checks and skips a value of any type, whatever is in it, without a call for each level.
    pub(in super::super) fn skip_value(&mut self, depth: usize) -> Result<(), Box<JsonError>> {
        const { assert!(DEPTH <= u64::BITS as usize, "each open level has a bit") };
        // A bit for each open level, the innermost last: whether it is an object.
        let (mut objects, mut open) = (0_u64, 0);
        loop {
            if !self.short_value() {
                steps::count(1);
                match self.peek() {
                    Some(b'"') => drop(self.skip_string()?),
                    Some(byte @ (b'{' | b'[')) => {
                        let is_object = byte == b'{';
                        // Of lists that begin with each other, only the last may be empty.
                        let more = if is_object { 0 } else { self.lists_within() };
                        if depth + open + more > DEPTH {
                            return Err(JsonError::TooDeep.into());
                        }
                        (objects, open) = (objects << more, open + more);
                        if !self.opens_empty(if is_object { b'}' } else { b']' }) {
                            (objects, open) = (objects << 1 | u64::from(is_object), open + 1);
                            self.before_value(is_object)?;
                            continue;
                        }
                    }
                    _ => self.skip_scalar()?,
                }
            }
            // The value may be the last one of the innermost level, which then ends as well.
            loop {
                if open == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                if self.has_next(if is_object { b'}' } else { b']' })? {
                    self.before_value(is_object)?;
                    break;
                }
                (objects, open) = (objects >> 1, open - 1);
            }
        }
    }

    /// Enters the lists that begin a list, but for the innermost one, and returns their number.
    #[inline]
    pub(in super::super) fn lists_within(&mut self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let lists = rest.iter().take_while(|byte| **byte == b'[').take(DEPTH + 1).count();
        let outer = lists.saturating_sub(1);
        steps::count(outer);
        self.at += outer;
        outer
    }

    /// Skips what precedes a value of an object or a list: its key, or elements that are numbers.
    #[inline]
    fn before_value(&mut self, is_object: bool) -> Result<(), Box<JsonError>> {
        if is_object {
            return if self.short_key().is_some() { Ok(()) } else { self.skip_key() };
        }
        if matches!(self.peek(), Some(b'0'..=b'9')) {
            self.skip_whole_numbers();
            self.space();
        }
        Ok(())
    }
}
