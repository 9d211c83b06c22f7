//! Values in which no object may have a key twice, whatever else is read of them.

use super::{
    json_error::JsonError,
    scan::{Scanner, Skipping, is_exact},
    seen_keys::{OpenKeys, SeenKeys},
};

/// That no object has a key twice, and whether numbers are the same as doubles.
#[derive(Debug)]
pub(super) struct Distinct<'a> {
    /// The keys of the objects that are open, here and around the value.
    pub(super) seen: SeenKeys<'a>,
    /// The objects of the value that are open.
    open: Vec<OpenKeys>,
    /// Whether every number so far is the same after it was read as a double.
    pub(super) is_exact: bool,
    /// The elements of the outermost of several lists.
    pub(super) elements: u64,
}

impl<'a> Distinct<'a> {
    pub(super) fn new(seen: SeenKeys<'a>) -> Self {
        Self { seen, open: Vec::with_capacity(8), is_exact: true, elements: 0 }
    }
}

impl<'a> Skipping<'a> for Distinct<'a> {
    /// The first number that is another one as a double decides.
    #[inline(always)]
    fn reads_numbers(&self) -> bool {
        self.is_exact
    }

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
        self.is_exact = self.is_exact && is_exact(number);
    }

    #[inline(always)]
    fn elements(&mut self, open: usize, count: usize, _: usize) {
        if open == 1 {
            self.elements += u64::try_from(count).unwrap_or(u64::MAX);
        }
    }
}
