//! Limits: how many requests a client may send, and how much they may use.
//!
//! A limit kind compiles to [`Charge`]s and [`Hold`]s; the stores know these only. The executable
//! models are [`mod@reference`] for the bucket of a charge, and [`counters`] for holds: the memory
//! store runs them, and the Lua scripts are tested against them.

mod amount;
mod bucket;
mod bucket_size;
pub mod config;
pub mod cost;
mod cost_windows;
mod counted_by;
pub mod counters;
mod entry;
pub mod escrow;
mod hold;
mod hold_limit;
mod kind;
pub mod lease;
pub mod metering;
pub mod model_tag;
pub mod price;
pub mod rate;
pub mod reference;
pub mod refusal;
pub mod request_facts;
mod requests;
pub mod reservation;
mod selector;
pub mod settled_cost;
pub mod settled_tokens;
pub mod settlement;
pub mod shard;
mod sizes;
mod tokens;
pub mod usage_history;
pub mod usage_report;
mod verdict;
mod window;

use std::sync::Arc;

pub use self::{
    bucket::BucketId,
    counted_by::{By, ChargeSubject},
    entry::Limit,
    hold::{Counter, Hold},
    hold_limit::{Amounts, Demand, Held, HoldLimit, RequestUnits},
    kind::{LimitKind, Unit},
    selector::ClaimValue,
    verdict::Verdict,
};
pub(crate) use self::{
    entry::compile,
    hold_limit::{TOKEN_BUDGET, token_budget},
};
use self::{lease::LeaseTerms, shard::CountedWithin};
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
    /// What the requests that the bucket counts have in common: whether it is in their shard.
    pub within: CountedWithin,
    /// Whether the limit is in shadow: the charge is taken where there is room, and never refuses the
    /// request.
    pub is_shadow: bool,
}

impl Charge {
    /// Returns the bucket's key in a store that also holds other keys: see [`BucketId::key`].
    pub fn key(&self) -> String {
        self.bucket.key(&self.limit)
    }
}

/// A counter's state as it is reported to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// The limit's name.
    pub name: Arc<str>,
    /// The limit's kind.
    pub kind: LimitKind,
    /// Units in a full bucket, or in a window.
    pub limit: u64,
    /// Microseconds in which an empty bucket is refilled, or of a window.
    pub window: u64,
    /// The result of the charge.
    pub verdict: Verdict,
}

impl LimitStatus {
    pub(crate) fn of(charge: Charge, verdict: Verdict) -> Self {
        Self {
            name: charge.limit,
            kind: LimitKind::Rate,
            limit: charge.burst,
            window: charge.interval.saturating_mul(charge.burst),
            verdict,
        }
    }

    /// The state of a limit on one request that a request is too large for.
    pub(crate) fn too_large(name: &Arc<str>, limit: u64) -> Self {
        let never = u64::MAX;
        let verdict = Verdict { admitted: false, remaining: limit, retry_after: never, reset: 0 };
        Self { name: Arc::clone(name), kind: LimitKind::PerRequest, limit, window: 0, verdict }
    }

    pub(crate) fn of_hold(held: Held, verdict: Verdict) -> Self {
        let Held { hold, kind, limit, window } = held;
        Self { name: hold.limit, kind, limit, window, verdict }
    }

    /// Returns the time until the same request would be admitted; `None` if it never would.
    pub fn retry_after(&self) -> Option<Span> {
        Some(self.verdict.retry_after).filter(|micros| *micros != u64::MAX).map(Span::from_micros)
    }
}
