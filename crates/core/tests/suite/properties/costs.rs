//! Costs are exact, whatever prices and numbers there are: they equal a sum in 128 bits that is rounded
//! up once, do not fall where more is used, and never exceed what is held for as much.

use proptest::prelude::*;
use tollgate_core::limit::{
    cost::{CostTerms, MOST, MediaBound, Price},
    usage_report::{Basis, RequestEnding, UsageCounts, UsageReport},
};

use super::cases;

/// A number: often a small one, and up to the largest that there is.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..10_u64, 0..10_000_000_u64, 0..=1_000_000_000_000_000_u64, any::<u64>()]
}

fn price() -> impl Strategy<Value = Price> {
    let tokens = (number(), number(), number());
    (tokens, number(), number(), number()).prop_map(|(tokens, request, image, second)| {
        let (input, cached_input, output) = tokens;
        Price { input, cached_input, output, request, image, second }
    })
}

/// What a response uses.
#[derive(Clone, Copy, Debug)]
struct Used {
    input: u64,
    cached: u64,
    output: u64,
    images: u64,
    seconds: u64,
}

fn used() -> impl Strategy<Value = Used> {
    let tokens = (number(), number(), number());
    (tokens, number(), number()).prop_map(|((input, cached, output), images, seconds)| Used {
        input,
        cached: cached.min(input),
        output,
        images,
        seconds,
    })
}

impl Used {
    fn tokens(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    fn report(self) -> UsageReport {
        let counts = UsageCounts {
            input: Some(self.input),
            output: Some(self.output),
            cached: Some(self.cached),
            reasoning: None,
            images: Some(self.images),
            seconds: Some(self.seconds),
        };
        UsageReport { ending: RequestEnding::Complete, basis: Basis::Reported, counts }
    }

    /// Its cost by terms under which nothing is held.
    fn cost(self, price: Price) -> u64 {
        CostTerms { price, ..CostTerms::default() }.of_report(Some(&self.report()), self.tokens())
    }

    /// Less of everything, or as much.
    fn part(self, part: Self) -> Self {
        let of =
            |most: u64, number: u64| if most == u64::MAX { number } else { number % (most + 1) };
        let input = of(self.input, part.input);
        Self {
            input,
            cached: of(self.cached.min(input), part.cached),
            output: of(self.output, part.output),
            images: of(self.images, part.images),
            seconds: of(self.seconds, part.seconds),
        }
    }
}

/// The cost, added up digit by digit in parts that cannot overflow; `None` above 128 bits.
fn exact(price: Price, used: Used) -> Option<u128> {
    let product = |count: u64, price: u64| u128::from(count) * u128::from(price);
    let million = |whole: u128| whole.checked_mul(1_000_000);
    let parts = [
        Some(product(used.input - used.cached, price.input)),
        Some(product(used.cached, price.cached_input)),
        Some(product(used.output, price.output)),
        million(u128::from(price.request)),
        million(product(used.images, price.image)),
        million(product(used.seconds, price.second)),
    ];
    let millionths = parts.into_iter().try_fold(0_u128, |sum, part| sum.checked_add(part?))?;
    let (whole, rest) = (millionths / 1_000_000, millionths % 1_000_000);
    Some(whole + u128::from(rest > 0))
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_cost_is_the_exact_sum_rounded_up_once_and_never_overflows(price in price(), used in used()) {
        // Tokens beyond 2^64 in all have no cost of their own: no request has as many.
        prop_assume!(used.input.checked_add(used.output).is_some());
        let expected = exact(price, used).map_or(MOST, |cost| {
            u64::try_from(cost).unwrap_or(u64::MAX).min(MOST)
        });
        prop_assert_eq!(used.cost(price), expected);
    }

    #[test]
    fn more_of_anything_never_costs_less(price in price(), most in used(), part in used()) {
        prop_assume!(most.input.checked_add(most.output).is_some());
        let less = most.part(part);
        let base = less.cost(price);
        // Another cached token makes one of the input cheaper, or dearer: its number stays.
        for more in [
            Used { input: most.input, ..less },
            Used { output: most.output, ..less },
            Used { images: most.images, ..less },
            Used { seconds: most.seconds, ..less },
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
        are_images_known in any::<bool>(),
        is_split in any::<bool>(),
    ) {
        prop_assume!(held.input.checked_add(held.output).is_some());
        let used = held.part(part);
        let total = held.tokens().min(context).max(used.tokens());
        let media = MediaBound { images: held.images, seconds: held.seconds, are_images_known };
        let of_media = price.of_media(held.images, held.seconds);
        let of_tokens = price.of_bound(held.input, held.output, total);
        let unreported = of_tokens.saturating_add(of_media).min(MOST);
        let terms =
            CostTerms { price, tokens: total, most: total, unreported, fixed: None, media };
        let mut report = used.report();
        if !is_split {
            report.counts = UsageCounts { input: None, output: None, cached: None, ..report.counts };
        }
        let cost = terms.of_report(Some(&report), used.tokens());
        prop_assert!(cost <= unreported, "{} of {}", cost, unreported);
        // What is not reported is charged as it is held, and known as an estimate.
        let lost = UsageReport { counts: UsageCounts { images: None, seconds: None, ..report.counts }, ..report };
        let without = terms.of_report(Some(&lost), used.tokens());
        prop_assert!(cost <= without && without <= unreported);
        prop_assert_eq!(terms.of_report(None, total), unreported);
        let is_known = (price.image == 0 || are_images_known) && price.second == 0;
        prop_assert_eq!(terms.basis(&lost).is_actual(), is_known);
    }
}
