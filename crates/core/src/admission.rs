//! Admission: what a check requests from the store, and what the store answers.

use std::sync::Arc;

use crate::{
    identity::Principal,
    limit::{Charge, Verdict},
};

/// What a check needs to know from the store: one round trip, one atomic step.
#[derive(Clone, Debug)]
pub struct Demands {
    /// Ask whether this principal's credential was revoked.
    pub principal: Option<Arc<Principal>>,
    /// Take all of these, or none.
    pub charges: Vec<Charge>,
}

impl Demands {
    /// Whether there is nothing to ask: the store is left alone.
    pub fn is_empty(&self) -> bool {
        self.principal.is_none() && self.charges.is_empty()
    }
}

/// The store's answer to [`Demands`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The credential was revoked, by this entry (`jti`, `subject`, `client`, `tenant`, `token` or `foreign`). Nothing was charged.
    Revoked(&'static str),
    /// One verdict for each charge, in order. Charged are all of them, or, where one is not admitted, none.
    Counted(Vec<Verdict>),
}

/// The store could not be asked. Whether something was charged is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// No answer within the deadline.
    Deadline,
    /// Not connected, or the connection broke.
    Unreachable,
    /// It answered, but not what it should (read-only replica, out of memory, a script error).
    Refused,
    /// The circuit is open: it failed a moment ago and is left alone.
    CircuitOpen,
    /// The memory store holds as many buckets as it may.
    Full,
    /// The last known revocations are older than allowed.
    Stale,
}

impl Outage {
    /// The word in metrics and audit lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::CircuitOpen => "circuit_open",
            Self::Full => "full",
            Self::Stale => "stale",
        }
    }
}
