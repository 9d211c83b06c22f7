//! The counters of the ledger of one process, and the numbers of all chains as it last read them.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// What all chains have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerStatus {
    /// The entries in the store.
    pub entries: u64,
    /// The settled requests that have no record yet.
    pub pending: u64,
    /// The entries that were not exported.
    pub unexported: u64,
}

/// The counters of one process.
#[derive(Debug, Default)]
pub struct LedgerCounters {
    records: AtomicU64,
    lost: AtomicU64,
    trimmed: [AtomicU64; 2],
    unreadable: AtomicU64,
    failures: AtomicU64,
    /// Whether the policy in force has a ledger.
    is_kept: AtomicBool,
    status: Mutex<Option<LedgerStatus>>,
}

impl LedgerCounters {
    /// Counts records that were made.
    pub fn recorded(&self, records: usize) {
        self.records.fetch_add(records as u64, Relaxed);
    }

    /// Counts entries that the store has lost.
    pub fn lost(&self, entries: u64) {
        self.lost.fetch_add(entries, Relaxed);
    }

    /// Counts entries that were removed, and those among them that were not exported.
    pub fn trimmed(&self, entries: u64, unexported: u64) {
        for (count, more) in
            self.trimmed.iter().zip([entries - unexported.min(entries), unexported])
        {
            count.fetch_add(more, Relaxed);
        }
    }

    /// Counts pending records that cannot be read.
    pub fn unreadable(&self, records: usize) {
        self.unreadable.fetch_add(records as u64, Relaxed);
    }

    /// Notes whether a ledger is kept.
    pub fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Relaxed);
    }

    /// Whether a ledger is kept: without one there is nothing to count.
    pub fn is_kept(&self) -> bool {
        self.is_kept.load(Relaxed)
    }

    /// Counts a round that failed.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Sets what all chains have; `None` if it could not be read.
    pub fn set_status(&self, status: Option<LedgerStatus>) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// What all chains have; `None` until it was read, and while it cannot be.
    pub fn status(&self) -> Option<LedgerStatus> {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters with their names and their meanings.
    pub fn totals(&self) -> [(&'static str, &'static str, u64); 4] {
        [
            (
                "ledger_records",
                "Records of the ledger that this process made.",
                load(&self.records),
            ),
            (
                "ledger_lost_entries",
                "Entries of the ledger that the store had, and has no more.",
                load(&self.lost),
            ),
            (
                "ledger_unreadable",
                "Pending records of the ledger that could not be read.",
                load(&self.unreadable),
            ),
            (
                "ledger_failures",
                "Rounds of the ledger that failed; they are repeated.",
                load(&self.failures),
            ),
        ]
    }

    /// The entries that were removed, by whether they were exported.
    pub fn trimmed_entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["true", "false"].into_iter().zip(self.trimmed.iter().map(load))
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_were_removed_are_counted_by_whether_they_were_exported() {
        let counters = LedgerCounters::default();
        counters.trimmed(10, 3);
        let counts: Vec<_> = counters.trimmed_entries().collect();
        assert_eq!(counts, [("true", 7), ("false", 3)]);
        assert_eq!(counters.status(), None);
    }
}
