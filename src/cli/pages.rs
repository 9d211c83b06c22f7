//! Lists that are read page by page from a server.

use anyhow::bail;

use crate::store::Position;

/// The most pages without an entry in a row. A page of the admin API reads ten thousand records at
/// most, of which a caller may see none.
const MOST_EMPTY: usize = 1000;

/// The place in a list, which only moves on: a server cannot make a list endless.
#[derive(Debug, Default)]
pub(super) struct Pages {
    after: Option<Position>,
    empty: usize,
}

impl Pages {
    /// Begins after a position.
    pub(super) const fn after(after: Option<Position>) -> Self {
        Self { after, empty: 0 }
    }

    /// The position after which the next page begins; `None` for the first one.
    pub(super) const fn position(&self) -> Option<&Position> {
        self.after.as_ref()
    }

    /// Notes the end of a page with `entries`. Returns whether there is a next one.
    ///
    /// # Errors
    /// The cursor does not move on, or too many pages have no entry.
    pub(super) fn turn(&mut self, entries: usize, next: Option<Position>) -> anyhow::Result<bool> {
        let Some(next) = next else { return Ok(false) };
        if self.after.as_ref().is_some_and(|after| next <= *after) {
            bail!("the server repeats the cursor `{next}` of the list, which has no end");
        }
        self.empty = if entries == 0 { self.empty + 1 } else { 0 };
        if self.empty > MOST_EMPTY {
            bail!("the server has sent {MOST_EMPTY} pages without an entry");
        }
        self.after = Some(next);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::time::Timestamp;

    use super::*;

    fn at(number: u64) -> Option<Position> {
        Some(Position::new(Timestamp::from_micros(number), b"a"))
    }

    #[test]
    fn a_cursor_that_does_not_move_on_is_an_error() {
        let mut pages = Pages::default();
        assert!(pages.turn(1, at(5)).unwrap());
        assert!(pages.turn(1, at(6)).unwrap());
        for repeated in [6, 5] {
            let error = pages.turn(1, at(repeated)).unwrap_err().to_string();
            assert!(error.contains("repeats the cursor"), "{error}");
        }
        assert!(!pages.turn(1, None).unwrap());
        assert!(Pages::after(at(5)).turn(1, at(5)).is_err());
    }

    #[test]
    fn pages_without_entries_end() {
        let mut pages = Pages::default();
        for number in 1..=1000 {
            assert!(pages.turn(0, at(number)).unwrap());
        }
        assert!(pages.turn(0, at(1001)).is_err());
        assert!(Pages { after: at(1), empty: 1000 }.turn(1, at(2)).unwrap());
    }
}
