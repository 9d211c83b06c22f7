//! The chain of the ledger whose pending records a process adds to.

use std::sync::atomic::{AtomicU32, Ordering};

/// The number of a chain, or none where no ledger is kept. What is [`UNCLAIMED`], the first process
/// with a chain takes.
#[derive(Debug)]
pub(super) struct PendingChain(AtomicU32);

/// The number of pending records that belong to no chain yet.
pub(super) const UNCLAIMED: u32 = 0;

/// No ledger is kept.
const NONE: u32 = u32::MAX;

impl Default for PendingChain {
    fn default() -> Self {
        Self(AtomicU32::new(NONE))
    }
}

impl PendingChain {
    /// The chain; `None` where no ledger is kept.
    pub(super) fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|chain| *chain != NONE)
    }

    /// Sets the chain.
    pub(super) fn set(&self, chain: Option<u32>) {
        self.0.store(chain.unwrap_or(NONE), Ordering::Relaxed);
    }
}
