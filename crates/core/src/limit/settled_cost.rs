//! What settled requests cost: for metrics, and for the answers of those who report usage.

use super::{
    settlement::{Settled, Settlement, Usage},
    usage_report::UsageReport,
};

/// The cost of a settled request, in micro-units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettledCost {
    /// The cost of the request, as its record in the ledger has it.
    pub cost: u64,
    /// Whether it is that of what the server reported. Otherwise it is estimated.
    pub is_reported: bool,
    /// The cost that was counted when the reservation expired, and that this one replaces: that of
    /// its record, so that there is none without a ledger.
    pub replaced: u64,
}

impl SettledCost {
    /// Returns what a report changed; `None` where it settled nothing, or the model has no price.
    pub fn of(settlement: &Settlement, settled: Settled) -> Option<Self> {
        let Settlement { reservation, usage, report } = settlement;
        let terms = reservation.cost_terms()?;
        let before = settled.replaced().filter(|_| reservation.facts.is_some());
        let replaced = before.map_or(0, |tokens| terms.of_report(None, tokens));
        let Some(tokens) = settled.tokens() else {
            return (replaced > 0).then_some(Self { replaced, ..Self::default() });
        };
        let unknown = match usage {
            Usage::Released => UsageReport::NOT_SENT,
            _ => UsageReport::UNREPORTED,
        };
        let report = report.unwrap_or(unknown);
        let cost = terms.of_report(Some(&report), tokens);
        let is_reported = terms.basis(&report.with_tokens(tokens)).is_actual();
        Some(Self { cost, is_reported, replaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limit::{
            Counter, Hold,
            cost::{CostTerms, Price},
            request_facts::RequestFacts,
            reservation::{Reservation, ReservationId},
            usage_report::{Basis, RequestEnding, UsageCounts},
        },
        time::{Span, Timestamp},
    };

    /// A micro-unit for a token of the input, three for one of the output.
    const PRICE: Price = Price {
        input: 1_000_000,
        cached_input: 1_000_000,
        output: 3_000_000,
        request: 5,
        image: 0,
        second: 0,
    };

    fn terms() -> CostTerms {
        CostTerms { price: PRICE, tokens: 100, most: 100, unreported: 305, ..CostTerms::default() }
    }

    fn settlement(usage: Usage, basis: Option<Basis>, has_tokens: bool) -> Settlement {
        let ends = Timestamp::from_secs(1_800_000_000);
        let hold = |counter, units| Hold {
            limit: "l".into(),
            counter_id: "alice".into(),
            counter,
            amount: units,
            unreported: units,
            by_principal: true,
            is_shadow: false,
        };
        let mut holds = vec![hold(Counter::Cost { limit: 900, ends }, 305)];
        if has_tokens {
            holds.insert(0, hold(Counter::Budget { limit: 900, ends }, 100));
        }
        let reservation = Reservation {
            id: ReservationId([0; 16]),
            issued: Timestamp::from_secs(1_799_999_999),
            life: Span::from_secs(30),
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: Some(Box::new(terms())),
            holds,
        };
        let counts = UsageCounts { input: Some(9), output: Some(4), ..UsageCounts::default() };
        let report =
            basis.map(|basis| UsageReport { ending: RequestEnding::Complete, basis, counts });
        Settlement { reservation, usage, report }
    }

    #[test]
    fn a_cost_is_that_of_the_record() {
        let reported = |cost, replaced| Some((cost, true, replaced));
        let estimated = |cost| Some((cost, false, 0));
        let late = |tokens, replaced| Settled::Late { tokens, replaced };
        for (usage, basis, settled, expected) in [
            (Usage::Final(13), Some(Basis::Reported), Settled::Charged(13), reported(26, 0)),
            (Usage::Final(13), Some(Basis::Running), Settled::Charged(13), reported(26, 0)),
            (Usage::Final(13), Some(Basis::Reported), late(13, Some(100)), reported(26, 305)),
            (Usage::Final(13), Some(Basis::Reported), late(13, Some(110)), reported(26, 335)),
            // A report of its progress has replaced it.
            (Usage::Final(13), Some(Basis::Reported), late(13, None), reported(26, 0)),
            (Usage::Running(110), None, Settled::Reopened(110), Some((0, false, 335))),
            (Usage::Released, None, late(0, Some(100)), reported(0, 305)),
            // It was seen running.
            (Usage::Released, None, Settled::Charged(110), reported(335, 0)),
            (Usage::Final(40), Some(Basis::Estimate), Settled::Charged(40), estimated(305)),
            (Usage::Unreported(13), Some(Basis::Hold), Settled::Charged(100), estimated(305)),
            (Usage::Unreported(110), Some(Basis::Hold), Settled::Charged(110), estimated(335)),
            (Usage::Released, Some(Basis::Unused), Settled::Charged(0), reported(0, 0)),
            // No server got it.
            (Usage::Released, None, Settled::Charged(0), reported(0, 0)),
            (Usage::Final(13), Some(Basis::Reported), Settled::Repeated, None),
            (Usage::Final(13), Some(Basis::Reported), Settled::Forgotten, None),
            (Usage::Running(13), None, Settled::Renewed, None),
        ] {
            let mut settlement = settlement(usage, basis, true);
            let facts = RequestFacts { cost: Some(terms()), ..RequestFacts::default() };
            settlement.reservation.facts = Some(Box::new(facts));
            let found = SettledCost::of(&settlement, settled);
            let found = found.map(|it| (it.cost, it.is_reported, it.replaced));
            assert_eq!(found, expected, "{usage:?} {basis:?} {settled:?}");
            // No record was made of the expiry, whose cost is not counted then.
            settlement.reservation.facts = None;
            let replaced = SettledCost::of(&settlement, settled).map_or(0, |it| it.replaced);
            assert_eq!(replaced, 0, "{settled:?}");
        }
    }

    #[test]
    fn a_request_that_holds_no_tokens_costs_those_that_are_reported() {
        let only_cost = |usage, basis| settlement(usage, Some(basis), false);
        let reported = only_cost(Usage::Final(13), Basis::Reported);
        assert_eq!(SettledCost::of(&reported, Settled::Charged(13)).unwrap().cost, 26);
        let unreported = only_cost(Usage::Unreported(110), Basis::Hold);
        assert_eq!(SettledCost::of(&unreported, Settled::Charged(110)).unwrap().cost, 335);
    }

    #[test]
    fn a_fixed_charge_costs_what_it_cost_at_admission() {
        let mut fixed = settlement(Usage::Released, Some(Basis::Unused), false);
        fixed.reservation.cost.as_mut().unwrap().fixed = Some(7);
        let expected = SettledCost { cost: 7, is_reported: true, replaced: 0 };
        assert_eq!(SettledCost::of(&fixed, Settled::Charged(0)), Some(expected));
        fixed.reservation.cost = None;
        assert_eq!(SettledCost::of(&fixed, Settled::Charged(0)), None, "a model without a price");
    }
}
