//! Values of which only the syntax is read, and perhaps that no object in them has a key twice.

use super::{
    super::{
        json_error::{DEPTH, JsonError},
        seen_keys::{OpenKeys, SeenKeys},
        steps,
    },
    Scanner,
    number::is_exact,
};

/// What is read of a value besides its syntax.
pub(in super::super) trait Skipping<'a> {
    /// Whether numbers are looked at.
    const READS_NUMBERS: bool;

    /// An object begins.
    fn open(&mut self);

    /// Reads a key of the innermost object and its colon, up to the value.
    fn key(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Box<JsonError>>;

    /// The innermost object ends.
    fn close(&mut self);

    /// A number that may be another one as a double.
    fn number(&mut self, number: &str);
}

/// Nothing but the syntax.
pub(in super::super) struct Syntax;

impl<'a> Skipping<'a> for Syntax {
    const READS_NUMBERS: bool = false;

    fn open(&mut self) {}

    #[inline(always)]
    fn key(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Box<JsonError>> {
        scanner.skip_key()
    }

    fn close(&mut self) {}

    fn number(&mut self, _: &str) {}
}

/// That no object has a key twice, and whether numbers are the same as doubles.
#[derive(Debug)]
pub(in super::super) struct Distinct<'a> {
    /// The keys of the objects that are open, here and around the value.
    pub(in super::super) seen: SeenKeys<'a>,
    /// The objects of the value that are open.
    open: Vec<OpenKeys>,
    /// Whether every number so far is the same after it was read as a double.
    pub(in super::super) is_exact: bool,
}

impl<'a> Distinct<'a> {
    pub(in super::super) fn new(seen: SeenKeys<'a>) -> Self {
        Self { seen, open: Vec::with_capacity(8), is_exact: true }
    }
}

impl<'a> Skipping<'a> for Distinct<'a> {
    const READS_NUMBERS: bool = true;

    #[inline(always)]
    fn open(&mut self) {
        self.open.push(self.seen.open());
    }

    #[inline(always)]
    fn key(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Box<JsonError>> {
        let Some(object) = self.open.last_mut() else { return Ok(()) };
        self.seen.read_key(scanner, object).map(drop)
    }

    #[inline(always)]
    fn close(&mut self) {
        if let Some(object) = self.open.pop() {
            self.seen.close(object);
        }
    }

    fn number(&mut self, number: &str) {
        self.is_exact &= is_exact(number);
    }
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
                        if !self.opens_empty(b'}') {
                            (objects, open) = (objects << 1 | 1, open + 1);
                            skipping.open();
                            skipping.key(self)?;
                            continue;
                        }
                    }
                    Some(b'[') => {
                        // Of lists that begin with each other, only the last may be empty.
                        let more = self.lists_within();
                        if depth + open + more > DEPTH {
                            return Err(JsonError::TooDeep.into());
                        }
                        (objects, open) = (objects << more, open + more);
                        if !self.opens_empty(b']') {
                            (objects, open) = (objects << 1, open + 1);
                            self.skip_whole_numbers();
                            continue;
                        }
                    }
                    _ if S::READS_NUMBERS => {
                        let scalar = self.scalar()?;
                        skipping.number(scalar);
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
                    if is_object {
                        skipping.key(self)?;
                    } else {
                        self.skip_whole_numbers();
                    }
                    break;
                }
                if is_object {
                    skipping.close();
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
}
