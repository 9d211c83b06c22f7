//! Policy tests: requests with the decision that is expected, as YAML. The corpus in `tests/cases`
//! consists of them, every adapter is tested with them, and `tollgate explain --case` shows them
//! step by step.
//!
//! A file contains a policy, names of keys that are made when it is read, and cases. All times are
//! relative to the file's `now`, so that an adapter with a clock of its own can have the tokens
//! made for its own time.

mod api_keys;
mod banned;
mod error;
pub mod expect;
mod file;
mod keys;
mod known;
mod ledger;
mod mint;
mod proof;
mod request;
mod spec;
mod values;

use tollgate_core::{
    admission::Outage,
    check::{Prepared, prepare},
    decision::Outcome,
    revocation::Target,
    snapshot::Snapshot,
    time::Timestamp,
};

pub(crate) use self::file::{stand_in_keys, stand_in_nonce_keys};
pub use self::{
    banned::Banned,
    error::CaseError,
    expect::{Differences, Expectation, Internal, Observed, Verdict, compare, reason_of},
    file::CaseFile,
    ledger::{Ledger, LedgerHooks},
    request::{Body, Request},
};

/// One case with its request and token.
#[derive(Clone, Debug)]
pub struct Case {
    /// One sentence: what must hold.
    pub name: String,
    /// The line in the file.
    pub line: Option<u64>,
    /// The time of the decision.
    pub now: Timestamp,
    /// The request, with its token.
    pub request: Request,
    /// The token alone.
    pub token: Option<String>,
    /// The requests that were decided before, in order.
    pub earlier: Vec<Earlier>,
    /// The revocations that are in force.
    pub revoked: Vec<Revoked>,
    /// The bans, some of which may have ended.
    pub banned: Vec<Banned>,
    /// The outage of the store; `None` where the store answers.
    pub outage: Option<Outage>,
    /// The decision that is expected.
    pub expect: Option<Expectation>,
}

/// A request that was decided before the case's own.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// The number of times it was sent.
    pub times: u32,
    /// The time of the decision.
    pub at: Timestamp,
    /// The request, with its token.
    pub request: Request,
    /// The tokens that it used; `None`: its response still arrives.
    pub used: Option<u64>,
}

/// A revocation in a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A revocation in the store's own list.
    Target {
        /// What is revoked.
        target: Target,
        /// For a subject, a client or a tenant: tokens issued until this time are revoked.
        at: Timestamp,
    },
    /// A key in the denylist of another service.
    ExternalDenylist(String),
}

impl Case {
    /// Decides the case with the core, after the earlier requests.
    pub fn decide(&self, snapshot: &Snapshot) -> Outcome {
        let mut store = self.store(snapshot);
        match prepare(snapshot, self.request.raw(), self.now, &mut store.hooks()) {
            Prepared::Decided(outcome) => outcome,
            Prepared::Pending(pending) => store.conclude(pending, self.now, self.outage),
        }
    }

    /// Returns the store of the case, with the earlier requests counted.
    pub fn store(&self, snapshot: &Snapshot) -> Ledger {
        let mut ledger = Ledger::new(&self.revoked, &self.banned);
        for earlier in &self.earlier {
            for _ in 0..earlier.times {
                let raw = earlier.request.raw();
                let prepared = prepare(snapshot, raw, earlier.at, &mut ledger.hooks());
                if let Prepared::Pending(pending) = prepared {
                    // Only the counts matter here, not the answer.
                    drop(ledger.conclude(pending, earlier.at, None));
                    let _histories = ledger.settle_last(earlier.used, earlier.at);
                }
            }
        }
        ledger
    }
}
