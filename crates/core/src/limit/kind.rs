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
    /// The cost of a window of the calendar.
    CostBudget,
    /// The cost of a limit with `hold: estimate`, as [`TokenDebt`](Self::TokenDebt).
    CostDebt,
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
    /// The unit is a millionth of the currency of the policy.
    MicroUnits,
    /// Requests at once.
    InFlight,
}

impl Unit {
    /// The parameter of `RateLimit-Policy` that names the unit. Without one it is requests.
    pub(crate) const fn parameter(self) -> &'static [u8] {
        match self {
            Self::Requests => b"",
            Self::Tokens => b";qu=\"tokens\"",
            Self::MicroUnits => b";qu=\"micro-units\"",
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
            Self::CostBudget | Self::CostDebt => Unit::MicroUnits,
            Self::InFlight => Unit::InFlight,
        }
    }

    /// The kind of a limit of this kind that could exceed its debt.
    pub(crate) const fn debt(self) -> Self {
        match self {
            Self::CostBudget => Self::CostDebt,
            _ => Self::TokenDebt,
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
            | Self::CostBudget
            | Self::CostDebt
            | Self::PerRequest => Reason::BudgetExhausted,
            Self::InFlight => Reason::TooManyInFlight,
        }
    }
}
