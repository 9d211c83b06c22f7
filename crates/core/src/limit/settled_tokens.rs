//! What settled requests used, by kind of tokens: for the counters that are compared with those of
//! the servers.

use super::{
    settlement::{Settled, Settlement},
    usage_report::UsageCounts,
};

/// The tokens of a settled request by their kinds, which add up to all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettledTokens {
    /// The tokens of the input, without those that a cache had.
    pub input: u64,
    /// The tokens of the input that a cache had.
    pub cached: u64,
    /// The tokens of the output.
    pub output: u64,
    /// The tokens whose kind is not known.
    pub unsplit: u64,
    /// Whether the server reported them. Otherwise they are estimated, and their kinds not known.
    pub is_reported: bool,
    /// The tokens that were charged when the reservation expired, and that these replace.
    pub replaced: u64,
}

impl SettledTokens {
    /// Returns what a report changed; `None` where it settled nothing.
    pub fn of(settlement: &Settlement, settled: Settled) -> Option<Self> {
        let replaced = settled.replaced();
        let Some(total) = settled.tokens() else {
            return replaced.map(|replaced| Self { replaced, ..Self::default() });
        };
        let reported = settlement.report.filter(|report| report.basis.is_actual());
        let kinds = reported.map(|report| report.counts).unwrap_or_default();
        let replaced = replaced.unwrap_or(0);
        Some(Self { is_reported: reported.is_some(), replaced, ..Self::split(total, kinds) })
    }

    /// Returns all tokens.
    pub fn total(&self) -> u64 {
        self.input + self.cached + self.output + self.unsplit
    }

    /// Splits a number of tokens into the kinds that a server reported.
    fn split(total: u64, kinds: UsageCounts) -> Self {
        let all_input = kinds.input.unwrap_or(0).min(total);
        let cached = kinds.cached.unwrap_or(0).min(all_input);
        let output = kinds.output.unwrap_or(0).min(total - all_input);
        let unsplit = total - all_input - output;
        Self { input: all_input - cached, cached, output, unsplit, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limit::{
            Counter, Hold,
            reservation::{Reservation, ReservationId},
            settlement::Usage,
            usage_report::{Basis, RequestEnding, UsageReport},
        },
        time::{Span, Timestamp},
    };

    fn settlement(usage: Usage, basis: Basis, tokens: UsageCounts) -> Settlement {
        let hold = |counter, unreported| Hold {
            limit: "l".into(),
            counter_id: "alice".into(),
            counter,
            amount: 100,
            unreported,
            by_principal: true,
            is_shadow: false,
        };
        let ends = Timestamp::from_secs(1_800_000_000);
        let reservation = Reservation {
            id: ReservationId([0; 16]),
            issued: Timestamp::from_secs(1_799_999_999),
            life: Span::from_secs(30),
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
            holds: vec![
                hold(Counter::Slots { limit: 1 }, 1),
                hold(Counter::Budget { limit: 900, ends }, 40),
                hold(Counter::Bucket { interval: 1, burst: 900 }, 100),
            ],
        };
        let report = Some(UsageReport { ending: RequestEnding::Complete, basis, counts: tokens });
        Settlement { reservation, usage, report }
    }

    fn counts(input: u64, cached: Option<u64>, output: u64) -> UsageCounts {
        UsageCounts { input: Some(input), cached, output: Some(output), ..UsageCounts::NONE }
    }

    #[test]
    fn the_kinds_of_a_settlement_add_up_to_its_tokens() {
        let none = UsageCounts::default();
        let reported = |input, cached, output, unsplit| {
            let tokens = SettledTokens { input, cached, output, unsplit, ..Default::default() };
            Some(SettledTokens { is_reported: true, ..tokens })
        };
        let estimated = |unsplit| Some(SettledTokens { unsplit, ..SettledTokens::default() });
        for (usage, basis, tokens, settled, expected) in [
            (
                Usage::Final(13),
                Basis::Reported,
                counts(9, Some(8), 4),
                Settled::Charged(13),
                reported(1, 8, 4, 0),
            ),
            (
                Usage::Final(13),
                Basis::Running,
                counts(9, None, 4),
                Settled::Charged(13),
                reported(9, 0, 4, 0),
            ),
            // A rerank has a total only.
            (Usage::Final(9), Basis::Reported, none, Settled::Charged(9), reported(0, 0, 0, 9)),
            // A count that is more than the total.
            (
                Usage::Final(5),
                Basis::Reported,
                counts(9, Some(20), 4),
                Settled::Charged(5),
                reported(0, 5, 0, 0),
            ),
            (
                Usage::Unreported(3),
                Basis::Hold,
                counts(3, None, 0),
                Settled::Charged(100),
                estimated(100),
            ),
            (Usage::Final(30), Basis::Estimate, none, Settled::Charged(30), estimated(30)),
            (Usage::Released, Basis::Unused, none, Settled::Charged(0), reported(0, 0, 0, 0)),
            (Usage::Final(13), Basis::Reported, none, Settled::Repeated, None),
            (Usage::Final(13), Basis::Reported, none, Settled::Forgotten, None),
            (Usage::Running(13), Basis::Reported, none, Settled::Renewed, None),
        ] {
            let settlement = settlement(usage, basis, tokens);
            assert_eq!(SettledTokens::of(&settlement, settled), expected, "{usage:?} {settled:?}");
        }
    }

    #[test]
    fn a_late_report_replaces_what_was_charged_at_the_expiry() {
        let settlement = settlement(Usage::Final(13), Basis::Reported, counts(9, None, 4));
        let late = |replaced| Settled::Late { tokens: 13, replaced };
        for (settled, expected) in [
            (late(Some(300)), (300, 9, 4)),
            (late(None), (0, 9, 4)),
            (Settled::Reopened(300), (300, 0, 0)),
        ] {
            let tokens = SettledTokens::of(&settlement, settled).unwrap();
            assert_eq!((tokens.replaced, tokens.input, tokens.output), expected, "{settled:?}");
        }
    }
}
