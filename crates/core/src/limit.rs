//! Limits: how many requests a client may send, and how much they may use.
//!
//! A limit kind compiles to [`Charge`]s and [`Hold`]s; the stores know these only. The executable
//! models are [`mod@reference`] for the bucket of a charge, and [`counters`] for holds: the memory
//! store runs them, and the Lua scripts are tested against them.

mod bucket;
pub mod counters;
mod hold;
pub mod lease;
pub mod metering;
pub mod rate;
pub mod reference;
pub mod refusal;
pub mod reservation;
mod selector;
pub mod settlement;
mod verdict;

use std::sync::Arc;

use self::lease::LeaseTerms;
pub use self::{
    bucket::BucketId,
    hold::{Counter, Hold},
    selector::ClaimValue,
    verdict::Verdict,
};
use crate::time::Span;

/// One charge of a check: take `cost` units from a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limit's name, for headers, metrics and the audit line.
    pub limit: Arc<str>,
    /// The bucket that is charged.
    pub bucket: BucketId,
    /// Microseconds in which one unit is refilled, at least 1.
    pub interval: u64,
    /// Units in a full bucket; 0 admits nothing.
    pub burst: u64,
    /// Units to take, at least 1.
    pub cost: u64,
    /// Whether the limit counts by an attribute of the credential. Otherwise requests without a
    /// credential may charge such buckets, and a store keeps them apart.
    pub by_principal: bool,
    /// The terms on which a replica may take units ahead of need. `None`: the shared bucket is
    /// queried for every check.
    pub lease: Option<LeaseTerms>,
}

impl Charge {
    /// Returns the bucket's key in a store that also holds other keys: see [`BucketId::key`].
    pub fn key(&self) -> String {
        self.bucket.key(&self.limit)
    }
}

/// A bucket's state as it is reported to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// The limit's name.
    pub name: Arc<str>,
    /// Units in a full bucket.
    pub limit: u64,
    /// Microseconds in which an empty bucket is refilled.
    pub window: u64,
    /// The result of the charge.
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

    /// Returns the time until the same request would be admitted; `None` if it never would.
    pub fn retry_after(&self) -> Option<Span> {
        Some(self.verdict.retry_after).filter(|micros| *micros != u64::MAX).map(Span::from_micros)
    }
}
