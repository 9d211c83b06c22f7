//! Limits: what a check asks of the store, and what the store answers.
//!
//! A limit kind compiles to [`Charge`]s; the stores know charges only. [`mod@reference`] is the executable model that the
//! memory store runs and that the Lua script is held against.

mod bucket;
pub mod lease;
pub mod rate;
pub mod reference;

use std::sync::Arc;

pub use self::bucket::BucketId;
use self::lease::LeaseTerms;
use crate::time::Span;

/// One charge: take `cost` from the bucket `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limit's name, for headers, metrics and the audit line.
    pub limit: Arc<str>,
    /// The bucket.
    pub bucket: BucketId,
    /// Microseconds one unit takes to come back, at least 1.
    pub interval: u64,
    /// How many units a full bucket holds; 0 admits nothing.
    pub burst: u64,
    /// Units taken, at least 1.
    pub cost: u64,
    /// Whether a replica may take units ahead of need, and on what terms. Without: the shared bucket is asked each time.
    pub lease: Option<LeaseTerms>,
}

impl Charge {
    /// The bucket's key in a store that has others beside it: see [`BucketId::key`].
    pub fn key(&self) -> String {
        self.bucket.key(&self.limit)
    }
}

/// Where one bucket stands after the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether this bucket had room.
    pub admitted: bool,
    /// Whole units that could be taken right now.
    pub remaining: u64,
    /// Microseconds until the same charge would be admitted; 0 when it was. `u64::MAX`: never.
    pub retry_after: u64,
    /// Microseconds until the bucket is full again.
    pub reset: u64,
}

/// A bucket's state as the client is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// The limit's name.
    pub name: Arc<str>,
    /// Units in a full bucket.
    pub limit: u64,
    /// Microseconds a full bucket takes to fill.
    pub window: u64,
    /// Where it stands.
    pub verdict: Verdict,
}

impl LimitStatus {
    pub(crate) fn of(charge: Charge, verdict: Verdict) -> Self {
        Self {
            name: charge.limit,
            limit: charge.burst,
            window: charge.interval.saturating_mul(charge.burst),
            verdict,
        }
    }

    /// How long until the same request would be admitted; `None` when it never would.
    pub fn retry_after(&self) -> Option<Span> {
        Some(self.verdict.retry_after).filter(|micros| *micros != u64::MAX).map(Span::from_micros)
    }
}
