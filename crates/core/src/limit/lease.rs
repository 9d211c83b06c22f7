//! Leased units: a replica takes units of a bucket ahead of need and spends them without querying
//! the store.
//!
//! Every unit is charged in the shared bucket before a replica holds it. In any span of time `t`,
//! `R` replicas therefore admit at most `burst + rate * t + R * slice`: the units that the bucket
//! granted in that time, and those held when it began. A crashed replica or a lost answer only
//! removes units.
//!
//! The price: a client may be refused while replicas hold unused units, at most `R * slice` of
//! them, and at most for `life` after a replica's last grant. `tests/suite/lease.rs` tests both
//! bounds with simulated replicas.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Verdict;
use crate::{
    config::{Errors, Path},
    time::Span,
};

/// `lease` of a limit.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseConfig {
    /// The maximum number of unspent units of one bucket that a replica holds, 2 to `burst`. With R
    /// replicas, a client is admitted at most R times this number of requests more than `rate` and
    /// `burst` allow, in any span of time.
    pub slice: u64,
    /// How long a replica keeps unspent units, 100ms to 60s. A client may be refused for this long
    /// while other replicas hold units of its bucket. Default 2s.
    #[serde(default = "life")]
    pub life: Span,
}

fn life() -> Span {
    Span::from_secs(2)
}

/// The terms on which units of one bucket are leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The maximum number of units that a replica holds.
    pub slice: u64,
    /// Microseconds for which a replica keeps them.
    pub life: u64,
}

impl LeaseConfig {
    /// Compiles the terms for a bucket of `burst` units and records every error.
    pub fn compile(&self, burst: u64, path: &Path, errors: &mut Errors) -> LeaseTerms {
        if self.slice < 2 || self.slice > burst {
            let message = format!(
                "must be 2 to the burst of the limit, which is {burst}; leave `lease` out to count exactly"
            );
            errors.push(&path.key("slice"), message);
        }
        if self.life < Span::from_millis(100) || self.life > Span::from_secs(60) {
            errors.push(&path.key("life"), "must be 100ms to 60s");
        }
        LeaseTerms { slice: self.slice, life: self.life.micros() }
    }
}

/// The units of one bucket that a replica holds. All times are microseconds of the replica's own
/// monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Units held and unspent.
    units: u64,
    /// Units taken by undecided checks, which may return them.
    reserved: u64,
    /// Units requested from the shared bucket and not answered yet.
    requested: u64,
    /// The time at which the units expire.
    expires_at: u64,
    /// The time until which the shared bucket is known to be empty.
    refused_until: u64,
    /// When the last observation of the shared bucket was requested; `None` before the first one.
    observed_at: Option<u64>,
    /// Units that remained in the shared bucket at the last observation.
    observed_remaining: u64,
    /// When the shared bucket is full again, as of the last observation.
    full_at: u64,
}

/// The result of [`Lease::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// The replica held the units and took them. The number is how many units to request ahead of
    /// need, recorded as requested; 0 for none.
    Taken(Verdict, u64),
    /// The shared bucket is known to be empty.
    Refused(Verdict),
    /// This number of units must be requested from the shared bucket: those of the check, and some
    /// to hold. It is recorded as requested.
    Request(u64),
}

/// The shared bucket's answer to a request for units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Units that were requested.
    pub requested: u64,
    /// Units that the shared bucket granted.
    pub granted: u64,
    /// Granted units that the requesting check consumes.
    pub consumed: u64,
}

impl Lease {
    /// Takes `cost` units if the replica holds them.
    pub fn take(&mut self, now: u64, cost: u64, terms: LeaseTerms) -> LeaseOutcome {
        if now < self.expires_at && self.units >= cost {
            self.units -= cost;
            self.reserved += cost;
            let low =
                self.requested == 0 && now >= self.refused_until && self.units <= terms.slice / 4;
            let ahead = if low { self.room(terms) } else { 0 };
            self.requested += ahead;
            return LeaseOutcome::Taken(self.verdict(now, true), ahead);
        }
        if now < self.refused_until {
            return LeaseOutcome::Refused(self.verdict(now, false));
        }
        // After a pause, units are requested for one check only: a client that sends a request now
        // and then leaves no units to return.
        let warm = now < self.expires_at;
        let want = if warm && self.requested == 0 { self.room(terms).max(cost) } else { cost };
        self.requested += want;
        LeaseOutcome::Request(want)
    }

    /// Records a request for exactly the `cost` of a check, regardless of what is held.
    pub fn request(&mut self, cost: u64) {
        self.requested += cost;
    }

    fn room(&self, terms: LeaseTerms) -> u64 {
        terms.slice.saturating_sub(self.units + self.reserved + self.requested)
    }

    /// Adds units that the shared bucket granted to a request sent at `sent`. The shared bucket
    /// decides requests in the order of these moments; those of one moment, in any order.
    pub fn grant(&mut self, sent: u64, grant: LeaseGrant, verdict: Verdict, terms: LeaseTerms) {
        self.requested = self.requested.saturating_sub(grant.requested);
        self.units += grant.granted.saturating_sub(grant.consumed);
        self.expires_at = self.expires_at.max(sent.saturating_add(terms.life));
        self.observe(sent, verdict);
        self.refused_until = 0;
    }

    /// Records that the shared bucket refused `requested` units.
    pub fn refuse(&mut self, now: u64, requested: u64, verdict: Verdict) {
        self.requested = self.requested.saturating_sub(requested);
        self.observe(now, verdict);
        self.refused_until = now.saturating_add(verdict.retry_after);
    }

    fn observe(&mut self, requested_at: u64, verdict: Verdict) {
        let full_at = requested_at.saturating_add(verdict.reset);
        match self.observed_at {
            // Answers may arrive out of order.
            Some(observed_at) if observed_at > requested_at => {}
            // Two requests of one moment: which one was charged last is not known.
            Some(observed_at) if observed_at == requested_at => {
                self.observed_remaining = self.observed_remaining.min(verdict.remaining);
                self.full_at = self.full_at.max(full_at);
            }
            _ => {
                self.observed_at = Some(requested_at);
                self.observed_remaining = verdict.remaining;
                self.full_at = full_at;
            }
        }
    }

    /// Gives up `requested` units that were not needed, or whose answer did not arrive. Units that
    /// the shared bucket granted are lost.
    pub fn forget(&mut self, requested: u64) {
        self.requested = self.requested.saturating_sub(requested);
    }

    /// Settles a check that took `cost` units: they are spent, or held again.
    pub fn settle(&mut self, cost: u64, spent: bool) {
        self.reserved = self.reserved.saturating_sub(cost);
        if !spent {
            self.units += cost;
        }
    }

    /// Takes back `cost` units that were spent for a check that another limit then refused.
    pub fn put_back(&mut self, cost: u64) {
        self.units += cost;
    }

    /// Removes and returns the units that have expired; on shutdown (`closing`), all units.
    pub fn reclaim(&mut self, now: u64, closing: bool) -> u64 {
        if now >= self.expires_at || closing { std::mem::take(&mut self.units) } else { 0 }
    }

    /// Whether the lease holds no information and can be dropped.
    pub fn is_idle(&self, now: u64) -> bool {
        now >= self.expires_at
            && now >= self.refused_until
            && self.units + self.reserved + self.requested == 0
    }

    /// Returns the number of units that are held or reserved.
    pub fn held(&self) -> u64 {
        self.units + self.reserved
    }

    /// Returns the bucket's state as far as this replica knows it: the units it holds and those
    /// that remained at the last observation.
    pub fn verdict(&self, now: u64, admitted: bool) -> Verdict {
        Verdict {
            admitted,
            remaining: if admitted {
                self.units.saturating_add(self.observed_remaining)
            } else {
                0
            },
            retry_after: if admitted { 0 } else { self.refused_until.saturating_sub(now) },
            reset: self.full_at.saturating_sub(now),
        }
    }
}
