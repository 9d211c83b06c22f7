//! What a request costs, in whole micro-units: millionths of the currency of the policy.
//!
//! The price is that of the moment at which the request was admitted: its terms travel with the
//! reservation, so that a price that changes meanwhile changes nothing. The cost of the tokens of a
//! request is added up in millionths of a micro-unit, in 128 bits, and rounded up once; images and
//! seconds cost whole micro-units. A sum that no store counts exactly is [`MOST`].

use serde::{Deserialize, Serialize};

use super::usage_report::{Basis, UsageCounts, UsageReport};

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
    /// The price of one image.
    #[serde(rename = "g", default, skip_serializing_if = "is_zero")]
    pub image: u64,
    /// One second of audio or video.
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    pub second: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Price {
    /// Returns the cost of a response with `tokens` in all, of these kinds. Tokens of which the kind is
    /// not known cost as much as the dearer one of input and output.
    pub fn of_usage(&self, tokens: u64, kinds: UsageCounts) -> u64 {
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

    /// Returns the cost of images and seconds.
    pub fn of_media(&self, images: u64, seconds: u64) -> u64 {
        let of = |count: u64, price: u64| u128::from(count) * u128::from(price);
        let sum = of(images, self.image).saturating_add(of(seconds, self.second));
        u64::try_from(sum).unwrap_or(u64::MAX).min(MOST)
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

/// The most images and seconds of a request, which are charged where they are not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaBound {
    /// The most images of the request.
    #[serde(rename = "ng", default, skip_serializing_if = "is_zero")]
    pub images: u64,
    /// Its seconds of audio or video.
    #[serde(rename = "ns", default, skip_serializing_if = "is_zero")]
    pub seconds: u64,
    /// Whether the images are those that the request has, which no report needs to count.
    #[serde(rename = "k", default, skip_serializing_if = "std::ops::Not::not")]
    pub are_images_known: bool,
}

/// The terms on which an admitted request is charged its cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The most images and seconds that the request may have; their cost is a part of `unreported`.
    #[serde(flatten)]
    pub media: MediaBound,
}

impl CostTerms {
    /// Returns the cost of a request that was charged these tokens, by the report of its end, which a
    /// request that expired has not. Where the server reported no usage, it is the cost of what was charged
    /// in its place, and as much as the dearer kind for each token beyond.
    pub fn of_report(&self, report: Option<&UsageReport>, tokens: u64) -> u64 {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        match report.map(|report| (report.basis, report.counts)) {
            Some((Basis::Reported | Basis::Running, counts)) => {
                let of_tokens = self.of_tokens(tokens, counts);
                of_tokens.saturating_add(self.of_media(counts)).min(MOST)
            }
            Some((Basis::Unused, _)) => self.so_far(tokens),
            Some((Basis::Estimate | Basis::Hold | Basis::Fixed, _)) | None => {
                self.unreported.max(self.so_far(tokens))
            }
        }
    }

    /// Returns the cost of a request of which nothing but a number of tokens is known.
    pub fn of_any(&self, tokens: u64) -> u64 {
        self.price.of_any(tokens).saturating_add(self.of_media(UsageCounts::NONE)).min(MOST)
    }

    /// Returns where the cost comes from: as its tokens do, or from what was held of images and seconds
    /// that were not reported.
    pub fn basis(&self, report: &UsageReport) -> Basis {
        match report.basis {
            _ if self.fixed.is_some() => Basis::Fixed,
            Basis::Reported | Basis::Running if !self.has_media(report.counts) => Basis::Hold,
            basis => basis,
        }
    }

    /// Returns what a report counts, with the images that the request has.
    pub fn counts(&self, report: &UsageReport) -> UsageCounts {
        let is_charged = matches!(report.basis, Basis::Reported | Basis::Running);
        let known = self.media.are_images_known && self.price.image > 0 && is_charged;
        let images = report.counts.images.or(known.then_some(self.media.images));
        UsageCounts { images, ..report.counts }
    }

    /// Whether the cost of a response depends on its images and seconds only, and these are known.
    pub fn is_of_media(&self, counts: UsageCounts) -> bool {
        let has_price = self.price.image > 0 || self.price.second > 0;
        has_price && self.price.dearest() == 0 && self.has_media(counts)
    }

    /// Whether a count is more than so many times what the request may have.
    pub fn is_beyond(&self, counts: UsageCounts, times: u64) -> bool {
        let is_more = |count: Option<u64>, most: u64| {
            most > 0 && count.is_some_and(|count| count > most.saturating_mul(times))
        };
        is_more(counts.images, self.media.images) || is_more(counts.seconds, self.media.seconds)
    }

    /// Whether every number is known of what the model has a price for beside its tokens.
    fn has_media(&self, counts: UsageCounts) -> bool {
        let has_images = counts.images.is_some() || self.media.are_images_known;
        (has_images || self.price.image == 0)
            && (counts.seconds.is_some() || self.price.second == 0)
    }

    /// The cost of images and seconds: of as many as the request may have, where they are not reported.
    fn of_media(&self, counts: UsageCounts) -> u64 {
        let MediaBound { images, seconds, .. } = self.media;
        self.price.of_media(counts.images.unwrap_or(images), counts.seconds.unwrap_or(seconds))
    }

    /// The cost of the tokens of a response, and of the request.
    ///
    /// Where none of their kinds is known, they cost no more than the most that the request may cost
    /// while they are within it: some of them are of the cheaper kind then.
    fn of_tokens(&self, tokens: u64, counts: UsageCounts) -> u64 {
        let cost = self.price.of_usage(tokens, counts);
        let is_unsplit = counts.input.is_none() && counts.output.is_none();
        if is_unsplit && tokens <= self.most && self.tokens == self.most {
            return cost.min(self.unreported.saturating_sub(self.of_media(UsageCounts::NONE)));
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
    const SMALL: Price = Price {
        input: 150_000,
        cached_input: 75_000,
        output: 600_000,
        request: 0,
        image: 0,
        second: 0,
    };

    fn kinds(input: u64, cached: u64, output: u64) -> UsageCounts {
        UsageCounts {
            input: Some(input),
            cached: Some(cached),
            output: Some(output),
            ..UsageCounts::NONE
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
            (1_000_000, UsageCounts::default(), 600_000),
            (1_000_000, UsageCounts { input: Some(400_000), ..UsageCounts::default() }, 420_000),
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
        let dear = Price {
            input: MOST,
            cached_input: MOST,
            output: MOST,
            request: MOST,
            image: MOST,
            second: MOST,
        };
        assert_eq!(dear.of_media(u64::MAX, u64::MAX), MOST);
        assert_eq!(dear.of_usage(u64::MAX, kinds(u64::MAX, u64::MAX, u64::MAX)), MOST);
        assert_eq!(dear.of_bound(u64::MAX, u64::MAX, u64::MAX), MOST);
        let terms =
            CostTerms { price: dear, tokens: 1, most: 1, unreported: MOST, ..CostTerms::default() };
        assert_eq!(terms.of_any(u64::MAX), MOST);
        assert_eq!(terms.so_far(u64::MAX), MOST);
    }

    #[test]
    fn tokens_of_no_known_kind_cost_at_most_what_the_request_may() {
        // 1000 tokens, of which at most 400 may be of the output: 90 + 240 micro-units.
        let terms = CostTerms {
            price: SMALL,
            tokens: 1000,
            most: 1000,
            unreported: 330,
            ..CostTerms::default()
        };
        assert_eq!(terms.of_tokens(100, UsageCounts::NONE), 60);
        assert_eq!(terms.of_tokens(1000, UsageCounts::NONE), 330);
        // More than the request may have.
        assert_eq!(terms.of_tokens(1001, UsageCounts::NONE), 601);
        let output = UsageCounts { output: Some(1000), ..UsageCounts::NONE };
        assert_eq!(terms.of_tokens(1000, output), 600);
        // An estimate is below what the request may have.
        let estimated = CostTerms { tokens: 700, ..terms };
        assert_eq!(estimated.of_tokens(1000, UsageCounts::NONE), 600);
    }

    #[test]
    fn what_is_not_reported_costs_what_is_charged_in_its_place() {
        let terms = CostTerms {
            price: SMALL,
            tokens: 1000,
            most: 1000,
            unreported: 400,
            ..CostTerms::default()
        };
        let report = |basis| UsageReport {
            ending: RequestEnding::Cut,
            basis,
            counts: kinds(1_000_000, 0, 0),
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
    fn the_text_of_terms_is_short_and_read_as_it_was_written() {
        let terms =
            CostTerms { price: SMALL, tokens: 9, most: 9, unreported: 4, ..CostTerms::default() };
        let media = MediaBound { images: 2, seconds: 3, are_images_known: true };
        let price = Price { image: 5, second: 6, ..SMALL };
        let tokens = r#""i":150000,"c":75000,"o":600000,"r":0"#;
        for (terms, text) in [
            (terms, format!(r#"{{{tokens},"n":9,"m":9,"u":4}}"#)),
            (
                CostTerms { price, media, ..terms },
                format!(r#"{{{tokens},"g":5,"s":6,"n":9,"m":9,"u":4,"ng":2,"ns":3,"k":true}}"#),
            ),
        ] {
            assert_eq!(serde_json::to_string(&terms).unwrap(), text);
            assert_eq!(serde_json::from_str::<CostTerms>(&text).unwrap(), terms);
        }
    }

    /// Three micro-units for an image, five for a second, and none for a token.
    fn of_media(images: u64, seconds: u64) -> CostTerms {
        let price = Price { image: 3, second: 5, ..Price::default() };
        let media = MediaBound { images, seconds, are_images_known: false };
        let unreported = price.of_media(images, seconds);
        CostTerms { price, tokens: 9, most: 9, unreported, fixed: None, media }
    }

    #[test]
    fn images_and_seconds_cost_what_is_reported_and_otherwise_what_is_held() {
        let terms = of_media(4, 60);
        let report = |basis, images, seconds| UsageReport {
            ending: RequestEnding::Complete,
            basis,
            counts: UsageCounts { images, seconds, ..UsageCounts::NONE },
        };
        for (basis, images, seconds, cost, of_cost) in [
            (Basis::Reported, Some(2), Some(7), 6 + 35, Basis::Reported),
            (Basis::Reported, Some(0), Some(0), 0, Basis::Reported),
            (Basis::Reported, Some(2), None, 6 + 300, Basis::Hold),
            (Basis::Running, None, Some(7), 12 + 35, Basis::Hold),
            // More than may be is charged, as tokens are.
            (Basis::Reported, Some(5), Some(61), 15 + 305, Basis::Reported),
            (Basis::Hold, Some(2), Some(7), 312, Basis::Hold),
            (Basis::Estimate, None, None, 312, Basis::Estimate),
            (Basis::Unused, None, None, 0, Basis::Unused),
        ] {
            let report = report(basis, images, seconds);
            let found = (terms.of_report(Some(&report), 0), terms.basis(&report));
            assert_eq!(found, (cost, of_cost), "{report:?}");
        }
        assert_eq!((terms.of_report(None, 0), terms.of_any(0)), (312, 312));
        let fixed = CostTerms { fixed: Some(7), ..terms };
        assert_eq!(fixed.basis(&report(Basis::Reported, None, None)), Basis::Fixed);
    }

    #[test]
    fn the_images_of_a_request_are_known_without_a_report() {
        let mut terms = of_media(4, 0);
        terms.price.second = 0;
        terms.media.are_images_known = true;
        let report = |basis| UsageReport { basis, ..UsageReport::UNREPORTED };
        let reported = report(Basis::Reported);
        assert_eq!(terms.of_report(Some(&reported), 0), 12);
        assert_eq!(
            (terms.basis(&reported), terms.counts(&reported).images),
            (Basis::Reported, Some(4))
        );
        assert_eq!(terms.counts(&report(Basis::Hold)).images, None, "nothing of it is known");
        let none = UsageCounts::NONE;
        assert!(terms.is_of_media(none) && !of_media(4, 0).is_of_media(none));
        terms.price.input = 1;
        assert!(!terms.is_of_media(none), "tokens have a price");
        assert!(!CostTerms { price: Price::default(), ..terms }.is_of_media(none));
    }

    #[test]
    fn a_count_is_compared_with_what_the_request_may_have() {
        let terms = of_media(4, 0);
        let images = |images| UsageCounts { images: Some(images), ..UsageCounts::NONE };
        assert!(!terms.is_beyond(images(4), 1) && terms.is_beyond(images(5), 1));
        assert!(!terms.is_beyond(images(64), 16) && terms.is_beyond(images(65), 16));
        let seconds = UsageCounts { seconds: Some(u64::MAX), ..UsageCounts::NONE };
        assert!(!terms.is_beyond(seconds, 1), "it has no bound");
    }

    #[test]
    fn tokens_of_no_known_kind_cost_no_more_than_what_is_held() {
        // 100 of input and 10 of output.
        let held = SMALL.of_bound(100_000, 10_000, 110_000);
        let terms = CostTerms {
            price: SMALL,
            tokens: 110_000,
            most: 110_000,
            unreported: held,
            ..CostTerms::default()
        };
        let report =
            |counts| UsageReport { basis: Basis::Reported, counts, ..UsageReport::UNREPORTED };
        let unsplit = report(UsageCounts::NONE);
        assert_eq!((held, SMALL.of_any(110_000)), (21_000, 66_000));
        assert_eq!(terms.of_report(Some(&unsplit), 110_000), held);
        assert_eq!(terms.of_report(Some(&unsplit), 1000), 600);
        assert_eq!(terms.of_report(Some(&unsplit), 110_001), 66_001, "beyond what it may use");
        let split = report(kinds(0, 0, 110_000));
        assert_eq!(terms.of_report(Some(&split), 110_000), 66_000, "the server counted them");
    }
}
