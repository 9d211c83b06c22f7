//! Cases: requests with what must come of them, as YAML. The corpus in `tests/cases` is made of them, every front-end is
//! tested with them, and `tollgate explain --case` shows them step by step.
//!
//! A file holds a policy, names of keys that are made when it is read, and cases. All times are relative to the file's
//! `now`, so that a front-end with a clock of its own can have the tokens made for its own moment.

mod error;
pub mod expect;
mod file;
mod keys;
mod ledger;
mod mint;
mod request;
mod spec;
mod values;

use tollgate_core::{
    admission::Outage,
    check::{NoHooks, Prepared, prepare},
    decision::Outcome,
    revocation::Target,
    snapshot::Snapshot,
    time::Timestamp,
};

pub use self::{
    error::CaseError,
    expect::{Differences, Expectation, Internal, Observed, Verdict, compare, reason_of},
    file::CaseFile,
    ledger::Ledger,
    request::{Body, Request},
};

/// One case, ready to be asked.
#[derive(Clone, Debug)]
pub struct Case {
    /// One sentence: what must be so.
    pub name: String,
    /// Its line in the file.
    pub line: Option<u64>,
    /// When it is asked.
    pub now: Timestamp,
    /// The request, with its token.
    pub request: Request,
    /// The token alone.
    pub token: Option<String>,
    /// What came before, in order.
    pub earlier: Vec<Earlier>,
    /// What was revoked before.
    pub revoked: Vec<Revoked>,
    /// Why the store cannot be asked.
    pub outage: Option<Outage>,
    /// What the answer must be.
    pub expect: Option<Expectation>,
}

/// A request that came before the one that is judged.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// How often it came.
    pub times: u32,
    /// When.
    pub at: Timestamp,
    /// The request, with its token.
    pub request: Request,
}

/// Something that was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// In the store's own list.
    Target {
        /// What.
        target: Target,
        /// For a subject, a client or a tenant: tokens issued until then.
        at: Timestamp,
    },
    /// By a key in the blacklist of another service.
    ExternalDenylist(String),
}

impl Case {
    /// Asks the core: first what came before, then the case itself.
    pub fn decide(&self, snapshot: &Snapshot) -> Outcome {
        match prepare(snapshot, self.request.raw(), self.now, &mut NoHooks) {
            Prepared::Decided(outcome) => outcome,
            Prepared::Pending(pending) => {
                self.store(snapshot).conclude(pending, self.now, self.outage)
            }
        }
    }

    /// The store as the case finds it: what came before has been counted.
    pub fn store(&self, snapshot: &Snapshot) -> Ledger {
        let mut ledger = Ledger::new(&self.revoked);
        for earlier in &self.earlier {
            for _ in 0..earlier.times {
                if let Prepared::Pending(pending) =
                    prepare(snapshot, earlier.request.raw(), earlier.at, &mut NoHooks)
                {
                    // That it was counted is what matters here, not its answer.
                    drop(ledger.conclude(pending, earlier.at, None));
                }
            }
        }
        ledger
    }
}
