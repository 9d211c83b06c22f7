//! Values of which only the syntax is read, and perhaps that no object in them has a key twice.

use super::{
    super::{
        json_error::{DEPTH, JsonError},
        steps,
    },
    scanner::Scanner,
};

/// What is read of a value besides its syntax.
pub(in super::super) trait Skipping<'a> {
    /// Whether the strings and lists among elements are counted.
    const COUNTS_PROMPTS: bool = false;

    /// Whether numbers are looked at.
    fn reads_numbers(&self) -> bool;

    /// An object begins.
    fn open(&mut self);

    /// Reads a key of the innermost object and its colon, up to the value.
    fn key(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Box<JsonError>>;

    /// The innermost object ends.
    fn close(&mut self);

    /// A scalar that is a string, or a number that a double may not represent.
    fn number(&mut self, number: &str);

    /// There are so many elements in the innermost of `open` lists, of which so many are strings or lists.
    fn elements(&mut self, open: usize, count: usize, prompts: usize);
}

/// Nothing but the syntax.
pub(in super::super) struct Syntax;

impl<'a> Skipping<'a> for Syntax {
    #[inline(always)]
    fn reads_numbers(&self) -> bool {
        false
    }

    fn open(&mut self) {}

    #[inline(always)]
    fn key(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Box<JsonError>> {
        scanner.skip_key()
    }

    fn close(&mut self) {}

    fn number(&mut self, _: &str) {}

    fn elements(&mut self, _: usize, _: usize, _: usize) {}
}

impl<'a> Scanner<'a> {
    /// Checks and skips a value of any type at a depth, whatever is in it, without a call for each
    /// level.
    pub(in super::super) fn skip_value<S: Skipping<'a>>(
        &mut self,
        depth: usize,
        skipping: &mut S,
    ) -> Result<(), Box<JsonError>> {
        const { assert!(DEPTH <= u64::BITS as usize, "each open level has a bit") };
        // A bit for each open level, the innermost last: whether it is an object.
        let (mut objects, mut open) = (0_u64, 0);
        loop {
            if !self.short_value() {
                steps::count(1);
                match self.peek() {
                    Some(b'"') => drop(self.skip_string()?),
                    Some(b'{') => {
                        if depth + open > DEPTH {
                            return Err(JsonError::TooDeep.into());
                        }
                        if !self.opens_empty(b'}')? {
                            (objects, open) = (objects << 1 | 1, open + 1);
                            skipping.open();
                            skipping.key(self)?;
                            continue;
                        }
                    }
                    Some(b'[') => {
                        if depth + open > DEPTH {
                            return Err(JsonError::TooDeep.into());
                        }
                        if !self.opens_empty(b']')? {
                            (objects, open) = (objects << 1, open + 1);
                            if self.skip_lists(depth, &mut objects, &mut open, skipping)? {
                                continue;
                            }
                        }
                    }
                    _ => drop(self.skip_other(skipping)?),
                }
            }
            // The value may be the last one of the innermost level, which then ends as well.
            loop {
                if open == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                if self.has_next(if is_object { b'}' } else { b']' })? {
                    if is_object {
                        skipping.key(self)?;
                        break;
                    }
                    if self.skip_lists(depth, &mut objects, &mut open, skipping)? {
                        break;
                    }
                    continue;
                }
                if is_object {
                    skipping.close();
                }
                (objects, open) = (objects >> 1, open - 1);
            }
        }
    }

    /// Skips elements of the innermost lists, and returns whether it is at an object now; if not, all
    /// lists up to the object around them are closed.
    #[inline]
    fn skip_lists<S: Skipping<'a>>(
        &mut self,
        depth: usize,
        objects: &mut u64,
        open: &mut usize,
        skipping: &mut S,
    ) -> Result<bool, Box<JsonError>> {
        let lists = (objects.trailing_zeros() as usize).min(*open);
        let around = *open - lists;
        let mut within = lists;
        let is_object = self.skip_elements(&mut within, DEPTH + 1 - depth - around, skipping)?;
        // At most as many lists as there are levels, each of which has a bit.
        let outer = objects.checked_shr(u32::try_from(lists).unwrap_or(0)).unwrap_or(0);
        *objects = outer.checked_shl(u32::try_from(within).unwrap_or(0)).unwrap_or(0);
        *open = around + within;
        Ok(is_object)
    }
}
