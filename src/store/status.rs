//! How a store does.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tollgate_core::admission::Outage;

/// Whether a store is asked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Questions are sent.
    Closed,
    /// A connection is being made, and questions wait for it within their deadline.
    Connecting,
    /// Questions are answered with an outage at once, while one probe at a time looks whether the store is back.
    Open,
}

impl Circuit {
    /// The word in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Connecting => "connecting",
            Self::Open => "open",
        }
    }
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `memory` or `redis`.
    pub kind: &'static str,
    /// Whether it can be asked now.
    pub up: bool,
    /// Its circuit.
    pub circuit: Circuit,
    /// How many checks it failed since the start, by [`Outage::label`]; every label is there.
    pub errors: [(&'static str, u64); Outage::ALL.len()],
    /// How often it was connected since the start; 0 in memory.
    pub connections: u64,
    /// What went wrong last, if anything did: why it is down, or was. For the operator: holds no secret.
    pub last_error: Option<String>,
    /// Buckets held in this process; `None` where they are elsewhere.
    pub buckets: Option<u64>,
    /// Revocations held in this process; `None` where they are elsewhere.
    pub revocations: Option<u64>,
    /// The copy of Redis' revocations that checks rely on (`store.redis.replicate_revocations`); `None` without one.
    pub replica: Option<ReplicaStatus>,
    /// What this replica holds of leased limits; `None` where there are none.
    pub leases: Option<LeaseStatus>,
}

/// What a replica holds of leased limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Buckets it knows something of.
    pub buckets: u64,
    /// Units it holds, of all of them.
    pub units: u64,
}

/// What a copy of the revocations says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// How many are known.
    pub revocations: u64,
    /// How old they are; `None` before they were first read.
    pub age: Option<Duration>,
    /// How old they may be: beyond it each check asks Redis.
    pub max_staleness: Duration,
}

/// Counts outages.
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; Outage::ALL.len()]);

impl Tally {
    /// Counts what a check came to, and passes it on.
    pub(super) fn note<T>(&self, result: Result<T, Outage>) -> Result<T, Outage> {
        if let Err(outage) = &result {
            for (known, count) in Outage::ALL.iter().zip(&self.0) {
                if known == outage {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        result
    }

    /// The counts, by label.
    pub(super) fn counts(&self) -> [(&'static str, u64); Outage::ALL.len()] {
        let mut counts = Outage::ALL.map(|outage| (outage.label(), 0));
        for ((_, count), known) in counts.iter_mut().zip(&self.0) {
            *count = known.load(Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_counted_by_label() {
        let tally = Tally::default();
        assert_eq!(tally.note(Ok(1)), Ok(1));
        for outage in Outage::ALL {
            assert_eq!(tally.note::<()>(Err(outage)), Err(outage));
        }
        let _ = tally.note::<()>(Err(Outage::Refused));
        let expected = [
            ("deadline", 1),
            ("unreachable", 1),
            ("refused", 2),
            ("circuit_open", 1),
            ("full", 1),
            ("stale", 1),
        ];
        assert_eq!(tally.counts(), expected);
    }
}
