//! What a request costs, in whole micro-units: millionths of the currency of the policy.
//!
//! The price is that of the moment at which the request was admitted: its terms travel with the
//! reservation, so that a price that changes meanwhile changes nothing. The cost of a request is
//! added up in millionths of a micro-unit, in 128 bits, and rounded up once. A sum that no store counts
//! exactly is [`MOST`].

use serde::{Deserialize, Serialize};

use super::usage_report::{Basis, TokenCounts, UsageReport};

/// The greatest cost of a request, which every store counts exactly: a double of Lua is exact up to it.
pub const MOST: u64 = (1 << 53) - 1;

/// The tokens that a price is for.
const PRICED: u128 = 1_000_000;

/// The prices of a model, in micro-units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// A million tokens of the input.
    #[serde(rename = "i")]
    pub input: u64,
    /// A million tokens of the input that a cache had.
    #[serde(rename = "c")]
    pub cached_input: u64,
    /// A million tokens of the output.
    #[serde(rename = "o")]
    pub output: u64,
    /// One request, beside its tokens.
    #[serde(rename = "r")]
    pub request: u64,
}

impl Price {
    /// Returns the cost of a response with `tokens` in all, of these kinds. Tokens of which the kind is
    /// not known cost as much as the dearer one of input and output.
    pub fn of_usage(&self, tokens: u64, kinds: TokenCounts) -> u64 {
        let (input, output) = (kinds.input.unwrap_or(0), kinds.output.unwrap_or(0));
        let cached = kinds.cached.unwrap_or(0).min(input);
        let other = tokens.saturating_sub(input.saturating_add(output));
        self.sum(&[
            (input - cached, self.input),
            (cached, self.cached_input),
            (output, self.output),
            (other, self.dearest()),
        ])
    }

    /// Returns the most that a request with up to so many tokens of input and output costs, `total`
    /// of both.
    pub fn of_bound(&self, input: u64, output: u64, total: u64) -> u64 {
        let input_price = self.input.max(self.cached_input);
        let (dear, cheap) = ((input, input_price), (output, self.output));
        let (dear, cheap) = if dear.1 < cheap.1 { (cheap, dear) } else { (dear, cheap) };
        let first = dear.0.min(total);
        let second = cheap.0.min(total - first);
        self.sum(&[(first, dear.1), (second, cheap.1)])
    }

    /// Returns the cost of a request of which nothing but a number of tokens is known.
    pub fn of_any(&self, tokens: u64) -> u64 {
        self.sum(&[(tokens, self.dearest())])
    }

    /// Whether nothing has a price.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// The price of a token whose kind is not known.
    fn dearest(&self) -> u64 {
        self.input.max(self.cached_input).max(self.output)
    }

    /// The cost of one request with these tokens at these prices.
    fn sum(&self, parts: &[(u64, u64)]) -> u64 {
        let request = u128::from(self.request).saturating_mul(PRICED);
        let parts = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price));
        whole(parts.fold(request, u128::saturating_add))
    }
}

/// Millionths of micro-units as whole micro-units, rounded up.
fn whole(millionths: u128) -> u64 {
    u64::try_from(millionths.div_ceil(PRICED)).unwrap_or(u64::MAX).min(MOST)
}

/// The terms on which an admitted request is charged its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostTerms {
    /// The prices when the request was admitted.
    #[serde(flatten)]
    pub price: Price,
    /// The tokens that `unreported` is the cost of.
    #[serde(rename = "n")]
    pub tokens: u64,
    /// The most tokens that the request may use; 0 where it is not known.
    #[serde(rename = "m", default)]
    pub most: u64,
    /// The cost if no usage is ever reported.
    #[serde(rename = "u")]
    pub unreported: u64,
    /// The cost of a fixed charge, whatever is reported.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<u64>,
}

impl CostTerms {
    /// Returns the cost of a request that was charged these tokens, by the report of its end, which a
    /// request that expired has not. Where the server reported no usage, it is the cost of what was charged
    /// in its place, and as much as the dearer kind for each token beyond.
    pub fn of_report(&self, report: Option<&UsageReport>, tokens: u64) -> u64 {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        match report.map(|report| (report.basis, report.tokens)) {
            Some((Basis::Reported | Basis::Running, kinds)) => self.of_usage(tokens, kinds),
            Some((Basis::Unused, _)) => self.so_far(tokens),
            Some((Basis::Estimate | Basis::Hold | Basis::Fixed, _)) | None => {
                self.unreported.max(self.so_far(tokens))
            }
        }
    }

    /// The cost of a usage that the server reported.
    ///
    /// Where none of its kinds is known, it is no more than the most that the request may cost while the
    /// tokens are within it: some of them are of the cheaper kind then.
    fn of_usage(&self, tokens: u64, kinds: TokenCounts) -> u64 {
        let cost = self.price.of_usage(tokens, kinds);
        let is_unsplit = kinds.input.is_none() && kinds.output.is_none();
        if is_unsplit && tokens <= self.most && self.tokens == self.most {
            return cost.min(self.unreported);
        }
        cost
    }

    /// Returns the cost of a request that has used these tokens so far, as far as it is beyond what is
    /// charged without a report; 0 below.
    pub fn so_far(&self, tokens: u64) -> u64 {
        match tokens.saturating_sub(self.tokens) {
            0 => 0,
            beyond => {
                let beyond = u128::from(beyond) * u128::from(self.price.dearest());
                self.unreported.saturating_add(whole(beyond)).min(MOST)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::usage_report::RequestEnding;

    /// 0.15, 0.075 and 0.60 of a currency for a million tokens.
    const SMALL: Price =
        Price { input: 150_000, cached_input: 75_000, output: 600_000, request: 0 };

    fn kinds(input: u64, cached: u64, output: u64) -> TokenCounts {
        TokenCounts {
            input: Some(input),
            cached: Some(cached),
            output: Some(output),
            reasoning: None,
        }
    }

    #[test]
    fn a_response_costs_its_tokens_by_kind_rounded_up_once() {
        for (tokens, of, expected) in [
            (0, kinds(0, 0, 0), 0),
            // 0.15 of a micro-unit.
            (1, kinds(1, 0, 0), 1),
            (10, kinds(10, 0, 0), 2),
            (2_000_000, kinds(1_000_000, 0, 1_000_000), 750_000),
            (2_000_000, kinds(1_000_000, 400_000, 1_000_000), 720_000),
            // 0.075 + 0.15 + 0.6 micro-units are one.
            (3, kinds(2, 1, 1), 1),
            // More cached tokens than there are of the input.
            (10, kinds(10, 50, 0), 1),
            // Tokens of no known kind are those of the output.
            (1_000_000, TokenCounts::default(), 600_000),
            (1_000_000, TokenCounts { input: Some(400_000), ..TokenCounts::default() }, 420_000),
        ] {
            assert_eq!(SMALL.of_usage(tokens, of), expected, "{tokens} {of:?}");
        }
        let with_request = Price { request: 500, ..SMALL };
        assert_eq!(with_request.of_usage(0, kinds(0, 0, 0)), 500);
        assert_eq!(with_request.of_usage(10, kinds(10, 0, 0)), 502);
    }

    #[test]
    fn the_bound_takes_the_dearer_tokens_first() {
        // 1000 of input and 1000 of output, in a context of 1500.
        assert_eq!(SMALL.of_bound(1000, 1000, 1500), 600 + 75);
        let dear_input = Price { input: 900_000, ..SMALL };
        assert_eq!(dear_input.of_bound(1000, 1000, 1500), 900 + 300);
        assert_eq!(SMALL.of_bound(1000, 0, 1000), 150);
        let dear_cache = Price { cached_input: 200_000, ..SMALL };
        assert_eq!(dear_cache.of_bound(1000, 0, 1000), 200);
    }

    #[test]
    fn nothing_overflows() {
        let dear = Price { input: MOST, cached_input: MOST, output: MOST, request: MOST };
        assert_eq!(dear.of_usage(u64::MAX, kinds(u64::MAX, u64::MAX, u64::MAX)), MOST);
        assert_eq!(dear.of_bound(u64::MAX, u64::MAX, u64::MAX), MOST);
        let terms = CostTerms { price: dear, tokens: 1, most: 1, unreported: MOST, fixed: None };
        assert_eq!(terms.so_far(u64::MAX), MOST);
    }

    #[test]
    fn what_is_not_reported_costs_what_is_charged_in_its_place() {
        let terms =
            CostTerms { price: SMALL, tokens: 1000, most: 1000, unreported: 400, fixed: None };
        let report = |basis| UsageReport {
            ending: RequestEnding::Cut,
            basis,
            tokens: kinds(1_000_000, 0, 0),
        };
        for (basis, tokens, expected) in [
            (Some(Basis::Reported), 1_000_000, 150_000),
            (Some(Basis::Running), 1_000_000, 150_000),
            (Some(Basis::Unused), 0, 0),
            (Some(Basis::Hold), 0, 400),
            (Some(Basis::Hold), 1000, 400),
            (Some(Basis::Hold), 1010, 406),
            (Some(Basis::Estimate), 1010, 406),
            (None, 1000, 400),
            (None, 2000, 1000),
        ] {
            let report = basis.map(report);
            assert_eq!(terms.of_report(report.as_ref(), tokens), expected, "{basis:?} {tokens}");
        }
        let fixed = CostTerms { fixed: Some(7), ..terms };
        assert_eq!(fixed.of_report(Some(&report(Basis::Reported)), 1_000_000), 7);
        assert_eq!((terms.so_far(1000), terms.so_far(1010)), (0, 406));
    }

    #[test]
    fn tokens_of_no_known_kind_cost_no_more_than_what_is_held() {
        let held = SMALL.of_bound(100_000, 10_000, 110_000);
        let (tokens, most) = (110_000, 110_000);
        let terms = CostTerms { price: SMALL, tokens, most, unreported: held, fixed: None };
        let report =
            |tokens| UsageReport { basis: Basis::Reported, tokens, ..UsageReport::UNREPORTED };
        let unsplit = report(TokenCounts::default());
        assert_eq!((held, SMALL.of_any(110_000)), (21_000, 66_000));
        assert_eq!(terms.of_report(Some(&unsplit), 110_000), held);
        assert_eq!(terms.of_report(Some(&unsplit), 1000), 600);
        assert_eq!(terms.of_report(Some(&unsplit), 110_001), 66_001, "beyond what it may use");
        let split = report(kinds(0, 0, 110_000));
        assert_eq!(terms.of_report(Some(&split), 110_000), 66_000, "the server counted them");
        // Of an estimate the most that the request may cost is not among the terms.
        let estimate = CostTerms { tokens: 1000, unreported: 600, ..terms };
        assert_eq!(estimate.of_report(Some(&unsplit), 110_000), 66_000);
    }

    #[test]
    fn the_text_of_terms_is_short_and_read_as_it_was_written() {
        let terms = CostTerms { price: SMALL, tokens: 9, most: 9, unreported: 4, fixed: None };
        let text = serde_json::to_string(&terms).unwrap();
        assert_eq!(text, r#"{"i":150000,"c":75000,"o":600000,"r":0,"n":9,"m":9,"u":4}"#);
        assert_eq!(serde_json::from_str::<CostTerms>(&text).unwrap(), terms);
    }
}
