//! Costs are exact, whatever prices and numbers there are: they equal a sum in 128 bits that is rounded
//! up once, do not fall where more is used, and never exceed what is held for as much.

use proptest::prelude::*;
use tollgate_core::limit::{
    cost::{CostTerms, MOST, Price},
    usage_report::{Basis, RequestEnding, TokenCounts, UsageReport},
};

use super::cases;

/// A number: often a small one, and up to the largest that there is.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..10_u64, 0..10_000_000_u64, 0..=1_000_000_000_000_000_u64, any::<u64>()]
}

fn price() -> impl Strategy<Value = Price> {
    (number(), number(), number(), number()).prop_map(|(input, cached_input, output, request)| {
        Price { input, cached_input, output, request }
    })
}

/// What a response uses.
#[derive(Clone, Copy, Debug)]
struct Used {
    input: u64,
    cached: u64,
    output: u64,
}

fn used() -> impl Strategy<Value = Used> {
    (number(), number(), number()).prop_map(|(input, cached, output)| Used {
        input,
        cached: cached.min(input),
        output,
    })
}

impl Used {
    fn tokens(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Whether its tokens have a sum: no request has as many that they have none.
    fn has_sum(self) -> bool {
        self.input.checked_add(self.output).is_some()
    }

    fn kinds(self) -> TokenCounts {
        let Self { input, cached, output } = self;
        let kinds = TokenCounts { input: Some(input), output: Some(output), ..Default::default() };
        TokenCounts { cached: Some(cached), ..kinds }
    }

    fn cost(self, price: Price) -> u64 {
        price.of_usage(self.tokens(), self.kinds())
    }

    /// Less of everything, or as much.
    fn part(self, part: Self) -> Self {
        let of = |most: u64, number: u64| number % most.saturating_add(1).max(1);
        let input = of(self.input, part.input).min(self.input);
        let cached = of(self.cached, part.cached).min(input);
        Self { input, cached, output: of(self.output, part.output).min(self.output) }
    }
}

/// The cost, added up in parts that are checked; `None` above 128 bits.
fn exact(price: Price, used: Used) -> Option<u128> {
    let product = |count: u64, price: u64| u128::from(count) * u128::from(price);
    let parts = [
        product(used.input - used.cached, price.input),
        product(used.cached, price.cached_input),
        product(used.output, price.output),
        u128::from(price.request) * 1_000_000,
    ];
    let millionths = parts.into_iter().try_fold(0_u128, u128::checked_add)?;
    let (whole, rest) = (millionths / 1_000_000, millionths % 1_000_000);
    Some(whole + u128::from(rest > 0))
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_cost_is_the_exact_sum_rounded_up_once_and_never_overflows(price in price(), used in used()) {
        prop_assume!(used.has_sum());
        let exact = exact(price, used).map_or(MOST, |cost| u64::try_from(cost).unwrap_or(MOST));
        prop_assert_eq!(used.cost(price), exact.min(MOST));
    }

    #[test]
    fn more_of_anything_never_costs_less(price in price(), most in used(), part in used()) {
        prop_assume!(most.has_sum());
        let less = most.part(part);
        let base = less.cost(price);
        // Another cached token makes one of the input cheaper, or dearer: their number stays.
        for more in [
            Used { input: most.input, ..less },
            Used { output: most.output, ..less },
            Used { cached: less.cached, ..most },
        ] {
            prop_assert!(more.cost(price) >= base, "{:?} {:?}", less, more);
        }
    }

    #[test]
    fn what_is_used_costs_no_more_than_what_is_held_for_as_much(
        price in price(),
        held in used(),
        part in used(),
        context in number(),
        is_split in any::<bool>(),
    ) {
        prop_assume!(held.has_sum());
        let used = held.part(part);
        let total = held.tokens().min(context).max(used.tokens());
        let unreported = price.of_bound(held.input, held.output, total);
        let terms = CostTerms { price, tokens: total, most: total, unreported, fixed: None };
        // A server may report no kind of its tokens.
        let tokens = if is_split { used.kinds() } else { TokenCounts::default() };
        let report = UsageReport { ending: RequestEnding::Complete, basis: Basis::Reported, tokens };
        let cost = terms.of_report(Some(&report), used.tokens());
        prop_assert!(cost <= unreported, "{} of {}", cost, unreported);
        prop_assert_eq!(terms.of_report(None, total), unreported);
        prop_assert_eq!(terms.of_report(Some(&UsageReport::UNREPORTED), used.tokens()), unreported);
    }
}
