//! How many API keys there are, by their state.

use tollgate_core::{credential::api_key::KeyState, time::Timestamp};

/// The API keys of one source.
#[derive(Clone, Copy, Debug)]
pub struct KeyCounts {
    /// The source: `file` or `redis`.
    pub source: &'static str,
    usable: u64,
    expiring: u64,
    weak: u64,
    rotating: u64,
    expired: u64,
    /// The usable keys that this process has seen in the last day.
    pub used: u64,
    /// The end of the usable key that ends first.
    pub next_end: Option<Timestamp>,
}

impl KeyCounts {
    /// Creates the counts of a source without keys.
    pub const fn new(source: &'static str) -> Self {
        Self {
            source,
            usable: 0,
            expiring: 0,
            weak: 0,
            rotating: 0,
            expired: 0,
            used: 0,
            next_end: None,
        }
    }

    /// Counts a key with its state and its end.
    pub fn add(&mut self, state: KeyState, is_weak: bool, is_expiring: bool, end: Timestamp) {
        if state == KeyState::Expired {
            self.expired += 1;
            return;
        }
        self.usable += 1;
        self.expiring += u64::from(is_expiring);
        self.weak += u64::from(is_weak);
        self.rotating += u64::from(state == KeyState::Rotating);
        self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
    }

    /// Returns the numbers of keys by the label of a state. `expiring`, `weak` and `rotating` are
    /// parts of `usable`.
    pub const fn by_state(&self) -> [(&'static str, u64); 5] {
        [
            ("usable", self.usable),
            ("expiring", self.expiring),
            ("weak", self.weak),
            ("rotating", self.rotating),
            ("expired", self.expired),
        ]
    }
}
