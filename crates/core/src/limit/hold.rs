//! Holds: units of a counter that are set aside for a request until its usage is known.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::BucketId;
use crate::time::Timestamp;

/// The end of the name under which the debt of a limit is counted. No limit of a policy has it.
pub(super) const DEBT: &str = ":debt";

/// Units of one counter that a request needs. What a rate limits is a
/// [`Charge`](super::Charge), and is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The limit's name, for headers, metrics and the audit line.
    #[serde(with = "name")]
    pub limit: Arc<str>,
    /// The identity of the counter. Each window of a budget is a counter of its own.
    pub counter_id: BucketId,
    /// The kind and the size of the counter.
    pub counter: Counter,
    /// The units that are held, at least 1.
    pub amount: u64,
    /// The units that are charged at least if no usage is ever reported, at most `amount`.
    pub unreported: u64,
    /// Whether the limit counts by an attribute of the credential. Otherwise requests without a
    /// credential may hold such counters, and a store keeps them apart.
    pub by_principal: bool,
    /// Whether the limit is in shadow: the units are held where there is room, and never refuse the
    /// request. A reservation that is reported has only holds that had room.
    #[serde(skip)]
    pub is_shadow: bool,
}

/// The kind of a counter, with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Counter {
    /// Tokens per time: a bucket as that of a rate, with holds beside it. A settlement may bring it
    /// into debt.
    Bucket {
        /// Microseconds in which one token is refilled, at least 1.
        interval: u64,
        /// Tokens in a full bucket.
        burst: u64,
    },
    /// Tokens of one window of the calendar. A request is admitted if what is spent and what is
    /// held leave room for it.
    Budget {
        /// Tokens in the window.
        limit: u64,
        /// The end of the window.
        ends: Timestamp,
    },
    /// The cost of one window of the calendar, in micro-units: as [`Budget`](Self::Budget), with what
    /// requests cost in place of their tokens.
    Cost {
        /// Micro-units in the window.
        limit: u64,
        /// The end of the window.
        ends: Timestamp,
    },
    /// Requests of one window of the calendar, or tokens of a fixed charge. They are spent when they
    /// are admitted, and there is nothing to settle.
    Requests {
        /// Requests, or tokens, in the window.
        limit: u64,
        /// The end of the window.
        ends: Timestamp,
    },
    /// Tokens per time that are spent when they are admitted, of the same bucket as
    /// [`Bucket`](Self::Bucket): there is nothing to settle.
    Rate {
        /// Microseconds in which one token is refilled, at least 1.
        interval: u64,
        /// Tokens in a full bucket.
        burst: u64,
    },
    /// Requests in flight. A slot is free again when its request is settled.
    Slots {
        /// The most requests at once.
        limit: u64,
    },
}

impl Hold {
    /// Whether the hold bounds the debt of the limit of the hold before it, which is an estimate.
    pub fn is_debt(&self) -> bool {
        self.limit.ends_with(DEBT)
    }

    /// The name of the limit as in the policy, also where this bounds its debt.
    pub fn limit_name(&self) -> &str {
        self.limit.strip_suffix(DEBT).unwrap_or(&self.limit)
    }

    /// Whether the hold ends with a settlement; otherwise it is spent at admission.
    pub const fn is_settled(&self) -> bool {
        !matches!(self.counter, Counter::Requests { .. } | Counter::Rate { .. })
    }

    /// Returns the counter's key in a store that also holds other keys: `count:`, the name of the
    /// limit, and the identity in hex.
    pub fn key(&self) -> String {
        self.counter_id.count_key(&self.limit)
    }

    /// Whether the units are micro-units of a cost that is not charged yet.
    pub const fn is_cost(&self) -> bool {
        matches!(self.counter, Counter::Cost { .. })
    }

    /// Returns the units that a settlement with so many tokens, or micro-units of a cost, charges: a
    /// slot costs nothing.
    pub const fn charge_of(&self, units: u64) -> u64 {
        match self.counter {
            Counter::Bucket { .. } | Counter::Budget { .. } | Counter::Cost { .. } => units,
            Counter::Requests { .. } | Counter::Rate { .. } | Counter::Slots { .. } => 0,
        }
    }
}

/// A shared text as a text.
mod name {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(name: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}
