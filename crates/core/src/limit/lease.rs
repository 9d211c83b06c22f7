//! Leased units: a replica takes some units of a bucket ahead of need, and spends them without asking anybody.
//!
//! Every unit is charged in the shared bucket before a replica holds it, so what `R` replicas admit in any span of time `t` is
//! at most `burst + rate * t + R * slice`: what the bucket gave in that time, and what they held when it began. Crashed
//! replicas and lost answers only take units away. The price is that a client may be refused while replicas hold units that
//! nobody asks them for: no more than `R * slice`, and no longer than `life` after a replica was last given some.
//! `tests/suite/lease.rs` holds both against simulated replicas.

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
    /// Most units of one bucket that a replica holds unspent, 2 to `burst`. With R replicas a client gets at most R times so
    /// many requests more than `rate` and `burst` say, in any span of time.
    pub slice: u64,
    /// How long a replica keeps units that nobody asks it for, 100ms to 60s. A client may be refused for so long while other
    /// replicas hold units of its bucket. Default 2s.
    #[serde(default = "life")]
    pub life: Span,
}

fn life() -> Span {
    Span::from_secs(2)
}

/// The terms on which units of one bucket are leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Most units a replica holds.
    pub slice: u64,
    /// Microseconds it keeps them.
    pub life: u64,
}

impl LeaseConfig {
    /// The terms for a bucket that holds `burst` units, noting every error.
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

/// What one replica holds of one bucket. All times in microseconds, of a clock of the replica's own that never steps.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Held and unspent.
    units: u64,
    /// Taken by checks that are not decided yet, and may come back.
    reserved: u64,
    /// Asked for, and not answered.
    requested: u64,
    /// When what is held is no longer spent.
    expires_at: u64,
    /// Until when the shared bucket is known to have no room.
    refused_until: u64,
    /// What the shared bucket said last, when it was asked for it, and what that was: units left, and the moment it is full
    /// again.
    observed_at: u64,
    observed_remaining: u64,
    full_at: u64,
}

/// What a lease says to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Units were held, and taken. So many should be asked for ahead of need, by [`Lease::request`]; 0 for none.
    Taken(Verdict, u64),
    /// There is no room, as the shared bucket said a moment ago.
    Refused(Verdict),
    /// The shared bucket has to be asked, for so many units: those of the check, and some to hold. Noted as asked.
    Request(u64),
}

impl Lease {
    /// Takes `cost` units, if they are there.
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
        // The first question since long is for one check: a client that comes now and then leaves nothing to be given back.
        let warm = now < self.expires_at;
        let want = if warm && self.requested == 0 { self.room(terms).max(cost) } else { cost };
        self.requested += want;
        LeaseOutcome::Request(want)
    }

    /// As [`take`](Self::take) where the shared bucket is asked whatever is known: for exactly what the check needs.
    pub fn request(&mut self, cost: u64) {
        self.requested += cost;
    }

    fn room(&self, terms: LeaseTerms) -> u64 {
        terms.slice.saturating_sub(self.units + self.reserved + self.requested)
    }

    /// The shared bucket gave `given` of `asked` units, of which `spent` are for the check that asked at `sent`.
    pub fn grant(
        &mut self,
        sent: u64,
        (asked, given, spent): (u64, u64, u64),
        said: Verdict,
        terms: LeaseTerms,
    ) {
        self.requested = self.requested.saturating_sub(asked);
        self.units += given.saturating_sub(spent);
        self.expires_at = self.expires_at.max(sent.saturating_add(terms.life));
        self.observe(sent, said);
        self.refused_until = 0;
    }

    /// The shared bucket had no room for `asked` units.
    pub fn refuse(&mut self, now: u64, asked: u64, said: Verdict) {
        self.requested = self.requested.saturating_sub(asked);
        self.observe(now, said);
        self.refused_until = now.saturating_add(said.retry_after);
    }

    fn observe(&mut self, asked_at: u64, said: Verdict) {
        // Answers may overtake each other.
        if asked_at >= self.observed_at {
            self.observed_at = asked_at;
            self.observed_remaining = said.remaining;
            self.full_at = asked_at.saturating_add(said.reset);
        }
    }

    /// Nothing is known of `asked` units, or they were not needed after all: whatever was given is lost.
    pub fn forget(&mut self, asked: u64) {
        self.requested = self.requested.saturating_sub(asked);
    }

    /// A check that had taken `cost` units was decided: they are spent, or they are back.
    pub fn settle(&mut self, cost: u64, spent: bool) {
        self.reserved = self.reserved.saturating_sub(cost);
        if !spent {
            self.units += cost;
        }
    }

    /// What is to be given back, if nobody may spend it any more; or, at the end, whatever is held.
    pub fn reclaim(&mut self, now: u64, closing: bool) -> u64 {
        if now >= self.expires_at || closing { std::mem::take(&mut self.units) } else { 0 }
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self, now: u64) -> bool {
        now >= self.expires_at
            && now >= self.refused_until
            && self.units + self.reserved + self.requested == 0
    }

    /// Held and unspent, whoever has it.
    pub fn held(&self) -> u64 {
        self.units + self.reserved
    }

    /// Where the bucket stands, as far as this replica knows: what it holds and what was left at the last look.
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
