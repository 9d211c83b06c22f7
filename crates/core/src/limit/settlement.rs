//! Settlements: reports of the usage of a reserved request, and what they change.

use super::{reservation::Reservation, usage_report::UsageReport};

/// What is known of the usage of a reserved request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The response still arrives; this many tokens so far. The holds are renewed.
    Running(u64),
    /// The request has ended, and used this many tokens.
    Final(u64),
    /// The request has ended without a final report: each hold is charged what it charges
    /// unreported, or this many tokens if they are more.
    Unreported(u64),
    /// The request never reached an upstream, and nothing is charged.
    Released,
}

/// A report of the usage of a reserved request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The reservation, as it was opened from its text.
    pub reservation: Reservation,
    /// What is known.
    pub usage: Usage,
    /// What else is known of a request that has ended, for its record in the ledger; `None` for one
    /// that still runs, and for one that reached no server, which has no record.
    pub report: Option<UsageReport>,
}

impl Settlement {
    /// Returns what the report charges of limits on cost, in micro-units, as the tokens of its usage are
    /// charged of others: by the terms of the reservation, and 0 without terms.
    pub fn cost(&self) -> u64 {
        let Some(terms) = self.reservation.cost_terms() else { return 0 };
        match (self.usage, &self.report) {
            (Usage::Final(tokens), Some(report)) => terms.of_report(Some(report), tokens),
            (Usage::Final(tokens), None) => terms.of_any(tokens),
            (Usage::Running(tokens) | Usage::Unreported(tokens), _) => terms.so_far(tokens),
            (Usage::Released, _) => 0,
        }
    }
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The holds are renewed.
    Renewed,
    /// The holds ended, and this many tokens are charged.
    Charged(u64),
    /// The reservation had expired, and was charged then, even if a report of its progress came in
    /// between; this many tokens are charged now in all.
    Late(u64),
    /// The reservation was settled before, and nothing changed.
    Repeated,
    /// The reservation is older than the store remembers what was settled, and nothing changed.
    Forgotten,
}

impl Settled {
    /// Returns the tokens that are charged, and whether the reservation had expired; `None` where
    /// nothing was settled.
    pub const fn charged(self) -> Option<(u64, bool)> {
        match self {
            Self::Charged(tokens) => Some((tokens, false)),
            Self::Late(tokens) => Some((tokens, true)),
            Self::Renewed | Self::Repeated | Self::Forgotten => None,
        }
    }
}
