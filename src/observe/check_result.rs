//! The result of a check, as the two labels that metrics and audit lines share.

use tollgate_core::{
    decision::{Decision, Outcome},
    denial::Reason,
    route::OnOutage,
};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The request was allowed, and the answer was encoded.
    Allow(AllowBasis),
    /// The request was denied.
    Deny(Reason),
    /// The failure was passed to the proxy (`on_outage: error`).
    Error(Reason),
    /// The proxy disconnected, or a deadline passed, before the answer was encoded.
    Cancelled,
    /// A panic ended the check.
    Panic,
}

/// The reason why a request was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowBasis {
    /// The credential grants access.
    Credential,
    /// The route is public.
    Public,
    /// The store is out, and the route allows requests then (`on_outage: allow`).
    OutageAllow,
    /// The store is out, and this replica counted alone (`on_outage: local`).
    OutageLocal,
}

const ALLOW_BASES: [AllowBasis; 4] =
    [AllowBasis::Credential, AllowBasis::Public, AllowBasis::OutageAllow, AllowBasis::OutageLocal];
const REASONS: usize = Reason::ALL.len();

/// The number of results.
pub(super) const SLOTS: usize = ALLOW_BASES.len() + 2 * REASONS + 2;

impl CheckResult {
    /// The result of a check whose outcome was answered.
    pub fn of(outcome: &Outcome) -> Self {
        match &outcome.decision {
            Decision::Allow(grant) => {
                let route = grant.permit().route();
                Self::Allow(match (outcome.evidence.outage, route.on_outage) {
                    (Some(_), OnOutage::Local) => AllowBasis::OutageLocal,
                    (Some(_), _) => AllowBasis::OutageAllow,
                    (None, _) if route.public => AllowBasis::Public,
                    (None, _) => AllowBasis::Credential,
                })
            }
            Decision::Deny(denial) => Self::Deny(denial.reason),
            Decision::Fail(failure) => Self::Error(failure.reason),
        }
    }

    /// The label of the decision: `allow`, `deny`, `error`, `cancelled` or `panic`.
    pub const fn decision(self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny(_) => "deny",
            Self::Error(_) => "error",
            Self::Cancelled => "cancelled",
            Self::Panic => "panic",
        }
    }

    /// The label of the reason: the code of a [`Reason`], or the basis of an allowed request.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Allow(AllowBasis::Credential) => "granted",
            Self::Allow(AllowBasis::Public) => "public",
            Self::Allow(AllowBasis::OutageAllow) => "outage_allow",
            Self::Allow(AllowBasis::OutageLocal) => "outage_local",
            Self::Deny(reason) | Self::Error(reason) => reason.code(),
            Self::Cancelled => "cancelled",
            Self::Panic => Reason::Internal.code(),
        }
    }

    /// Every result, in the order of slots.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let allow = ALLOW_BASES.into_iter().map(Self::Allow);
        let deny = Reason::ALL.into_iter().map(Self::Deny);
        let error = Reason::ALL.into_iter().map(Self::Error);
        allow.chain(deny).chain(error).chain([Self::Cancelled, Self::Panic])
    }

    /// The index of the result in a table of all results.
    pub(super) const fn slot(self) -> usize {
        match self {
            Self::Allow(basis) => basis as usize,
            Self::Deny(reason) => ALLOW_BASES.len() + reason as usize,
            Self::Error(reason) => ALLOW_BASES.len() + REASONS + reason as usize,
            Self::Cancelled => ALLOW_BASES.len() + 2 * REASONS,
            Self::Panic => ALLOW_BASES.len() + 2 * REASONS + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_ending_has_its_own_slot_and_words() {
        let all: Vec<CheckResult> = CheckResult::all().collect();
        assert_eq!(all.len(), SLOTS);
        for (at, result) in all.iter().enumerate() {
            assert_eq!(result.slot(), at, "{result:?}");
        }
        let words: BTreeSet<_> =
            all.iter().map(|result| (result.decision(), result.reason())).collect();
        assert_eq!(words.len(), SLOTS);
    }

    #[test]
    fn the_documented_bound_of_series_is_that_of_the_results() {
        let bound = format!("(R + 1) × (17 + {SLOTS})");
        for page in [
            include_str!("../../docs/metrics.md"),
            include_str!("../../docs/decisions/0033-series-appear-with-their-first-count.md"),
        ] {
            assert!(page.contains(&bound), "{bound}");
        }
    }
}
