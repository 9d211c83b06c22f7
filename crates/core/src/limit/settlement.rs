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
    /// Nothing was used, as no upstream worked on the request: nothing is charged, apart from what was
    /// counted while it ran.
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
    /// that still runs, and for one that reached no server.
    pub report: Option<UsageReport>,
}

impl Settlement {
    /// Whether the report has the count of a request that has ended. It takes the place of what was
    /// counted while the request ran, which nothing else lowers.
    pub fn is_counted(&self) -> bool {
        let is_actual = |report: UsageReport| report.basis.is_actual();
        matches!(self.usage, Usage::Final(_)) && self.report.is_none_or(is_actual)
    }

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
    /// The reservation had expired, and its holds are open again: it is not charged any more these
    /// tokens of its expiry.
    Reopened(u64),
    /// The holds ended. The request has used these tokens: those that limits are charged, and those
    /// that are known of it where no limit counts tokens.
    Charged(u64),
    /// The holds ended of a reservation that had expired.
    Late {
        /// The tokens of the request, as for [`Charged`](Self::Charged).
        tokens: u64,
        /// The tokens of its expiry, in whose place these are charged; `None` where a report of its
        /// progress came in between.
        replaced: Option<u64>,
    },
    /// The reservation was settled before, and nothing changed.
    Repeated,
    /// The reservation is older than the store remembers what was settled, and nothing changed.
    Forgotten,
}

impl Settled {
    /// Returns the tokens of a request that is settled; `None` where none is.
    pub const fn tokens(self) -> Option<u64> {
        match self {
            Self::Charged(tokens) | Self::Late { tokens, .. } => Some(tokens),
            Self::Renewed | Self::Reopened(_) | Self::Repeated | Self::Forgotten => None,
        }
    }

    /// Returns the tokens that the reservation was charged when it expired, and is not any more.
    pub const fn replaced(self) -> Option<u64> {
        match self {
            Self::Reopened(tokens) => Some(tokens),
            Self::Late { replaced, .. } => replaced,
            Self::Renewed | Self::Charged(_) | Self::Repeated | Self::Forgotten => None,
        }
    }
}
