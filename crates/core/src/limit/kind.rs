//! Kinds of limits.

use crate::denial::Reason;

/// The kind of a limit, as answers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests per time.
    Rate,
    /// Requests in a window of the calendar.
    Requests,
    /// Tokens per time.
    TokenRate,
    /// Tokens in a window of the calendar, or of the life of a token.
    TokenBudget,
    /// Tokens of a limit with `hold: estimate`, which the requests in flight could exceed by more
    /// than its debt may be.
    TokenDebt,
    /// Requests in flight.
    InFlight,
    /// Tokens of one request.
    PerRequest,
}

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The unit is one request.
    Requests,
    /// The unit is one token of a prompt or an answer.
    Tokens,
    /// Requests at once.
    InFlight,
}

impl Unit {
    /// The parameter of `RateLimit-Policy` that names the unit. Without one it is requests.
    pub(crate) const fn parameter(self) -> &'static [u8] {
        match self {
            Self::Requests => b"",
            Self::Tokens => b";qu=\"tokens\"",
            Self::InFlight => b";qu=\"concurrent-requests\"",
        }
    }
}

impl LimitKind {
    /// What a limit of the kind counts.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Rate | Self::Requests => Unit::Requests,
            Self::TokenRate | Self::TokenBudget | Self::TokenDebt | Self::PerRequest => {
                Unit::Tokens
            }
            Self::InFlight => Unit::InFlight,
        }
    }

    /// The reason of a denial by a limit of the kind.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Rate => Reason::RateLimited,
            Self::Requests
            | Self::TokenRate
            | Self::TokenBudget
            | Self::TokenDebt
            | Self::PerRequest => Reason::BudgetExhausted,
            Self::InFlight => Reason::TooManyInFlight,
        }
    }
}
