//! Escrows: units of a counter that a replica holds while the store answers, and admits requests
//! from while it does not.
//!
//! An escrow is a reservation of the replica itself. It is renewed while the store answers, and is
//! as large as the units that the replica's requests have held lately, up to a part of the limit.
//! In an outage a request holds units of the escrow, in counters of the replica
//! ([`counters`](mod@super::counters)). When the store answers again, the replica first reports
//! these requests, each under its own identity, and then releases the escrow.
//!
//! | Bound | of |
//! |---|---|
//! | nothing is overspent | what all requests use, as each unit of an escrow is held in the store, or charged there, until the store has the requests that were admitted from it |
//! | `share` of the limit | what the replicas hold together in escrow, which the store refuses to others meanwhile; of slots one for each replica, if that is more |
//! | one escrow | what is charged although it was not used, for each replica that ends without releasing it |
//!
//! A store that loses acknowledged writes loses an escrow with them, until it is renewed: the units
//! of escrows that were taken within the lost writes can be admitted twice.
//! `tests/suite/escrow.rs` tests the bounds with simulated replicas.

mod book;
mod request;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    book::{Escrows, Reports},
    request::Covered,
};
use super::Counter;
use crate::{
    config::{Errors, Path},
    time::Span,
};

/// The section `store.redis.local.escrow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EscrowConfig {
    /// The percentage of each limit that all replicas hold together for an outage, 1 to 50. While
    /// the store answers, at most this part of a limit is refused although no request has used it.
    /// A limit of requests at once has one for each replica if it is at least twice their number.
    /// Default 10.
    pub share: u64,
    /// The time after which the escrow of a replica that does not renew it expires, 10s to 1h: the
    /// outage that token rates and requests at once can bridge, and the time for which a replica
    /// that is gone keeps its units. Default 2m.
    pub life: Span,
}

impl Default for EscrowConfig {
    fn default() -> Self {
        Self { share: 10, life: Span::from_secs(120) }
    }
}

impl EscrowConfig {
    /// Adds the errors of the section.
    pub fn validate(&self, path: &Path, errors: &mut Errors) {
        if !(1..=50).contains(&self.share) {
            errors.push(&path.key("share"), "must be 1 to 50 percent");
        }
        if self.life < Span::from_secs(10) || self.life > Span::from_secs(3600) {
            errors.push(&path.key("life"), "must be 10s to 1h");
        }
    }
}

/// The terms on which a replica holds units in escrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscrowTerms {
    /// The percentage of a limit that all replicas hold together.
    pub share: u64,
    /// The number of replicas.
    pub replicas: u64,
    /// The time after which an escrow expires that is not renewed.
    pub life: Span,
}

impl EscrowTerms {
    /// Returns the most units of a counter that one replica holds in escrow.
    pub fn most(self, counter: Counter) -> u64 {
        let replicas = self.replicas.max(1);
        let part = |limit: u64| {
            let part = u128::from(limit) * u128::from(self.share) / 100 / u128::from(replicas);
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        match counter {
            Counter::Bucket { burst, .. } => part(burst),
            Counter::Budget { limit, .. } | Counter::Cost { limit, .. } => part(limit),
            Counter::Slots { limit } => part(limit).max(u64::from(limit / 2 >= replicas)),
            Counter::Requests { .. } | Counter::Rate { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Document, time::Timestamp};

    #[test]
    fn a_section_has_bounds() {
        for (text, expected) in [
            ("{}", ""),
            ("{ share: 50, life: 1h }", ""),
            ("{ share: 0 }", "e.share: must be 1 to 50 percent"),
            ("{ share: 51 }", "e.share: must be 1 to 50 percent"),
            ("{ life: 9s }", "e.life: must be 10s to 1h"),
            ("{ life: 61m }", "e.life: must be 10s to 1h"),
        ] {
            let document = Document::parse(text, &|_| None).unwrap();
            let config: EscrowConfig = document.read().unwrap();
            let mut errors = Errors::default();
            config.validate(&Path::root().key("e"), &mut errors);
            let found = document.locate(errors);
            let found: Vec<String> =
                found.iter().map(|e| format!("{}: {}", e.path, e.message())).collect();
            assert_eq!(found.join("; "), expected, "{text}");
        }
    }

    #[test]
    fn the_parts_of_all_replicas_are_within_the_share() {
        let ends = Timestamp::from_secs(9);
        for (counter, share, replicas, most) in [
            (Counter::Budget { limit: 1000, ends }, 10, 2, 50),
            (Counter::Budget { limit: 1000, ends }, 10, 3, 33),
            (Counter::Budget { limit: 9, ends }, 10, 1, 0),
            (Counter::Budget { limit: u64::MAX, ends }, 50, 1, u64::MAX / 2),
            (Counter::Bucket { interval: 7, burst: 200 }, 50, 4, 25),
            (Counter::Requests { limit: 1000, ends }, 10, 1, 0),
            (Counter::Slots { limit: 100 }, 10, 2, 5),
            (Counter::Slots { limit: 8 }, 10, 4, 1),
            (Counter::Slots { limit: 7 }, 10, 4, 0),
            (Counter::Slots { limit: 0 }, 10, 1, 0),
        ] {
            let terms = EscrowTerms { share, replicas, life: Span::from_secs(60) };
            assert_eq!(terms.most(counter), most, "{counter:?} by {replicas}");
        }
    }
}
