//! What requests used, as far as it is remembered: a limit with `hold: estimate` holds a quantile of
//! it.
//!
//! A history is a histogram whose classes grow by a quarter, so that any quantile is known to a
//! quarter, in a fixed number of bytes. Its counts are halved when they are full: it follows the
//! last two hundred reports or so.

use serde::{Deserialize, Serialize};

use super::BucketId;

/// The number of classes: numbers up to 2^28.
const CLASSES: usize = 108;

/// The number of reports at which all counts are halved. A count fits in a byte.
const MOST_REPORTS: u8 = 240;

/// The number of reports from which on a history is used.
pub const LEAST_REPORTS: u8 = 8;

/// The part of requests, in percent, that use no more than the estimate.
pub const QUANTILE: u32 = 90;

/// The bytes of a response for one token, in sixteenths of a byte, before any report: four bytes, as
/// in English text. Streams have more, and are counted too high until the first reports.
const SIXTEENTHS: u64 = 64;

/// The most bytes for one token, in sixteenths of a byte: 256 bytes, about an event of a stream with
/// one token. A client chooses what else its responses consist of, such as log probabilities, and
/// streams that are cut would cost it next to nothing.
const MOST_SIXTEENTHS: u64 = 256 * 16;

/// The histories that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryIds {
    /// That of its subject, model and route, and of streams or bodies.
    pub own: BucketId,
    /// That of all subjects, which is used while the other one has few reports.
    pub shared: BucketId,
}

/// The usage of one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedUsage {
    /// The tokens of input and output.
    pub tokens: u64,
    /// The tokens of the answer, and the bytes in which it arrived, where both are known.
    pub answer: Option<(u64, u64)>,
}

/// The usage that a history predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearntUsage {
    /// The tokens that [`QUANTILE`] percent of requests do not exceed.
    pub tokens: u64,
    /// The bytes of a response for one token of its answer, in sixteenths of a byte.
    sixteenths: Option<u64>,
}

/// A history of usage, of about two hundred bytes.
#[derive(Clone, Debug, Default)]
pub struct UsageHistory {
    tokens: Histogram,
    sixteenths: Histogram,
}

impl UsageHistory {
    /// Adds the usage of one response.
    pub fn record(&mut self, ObservedUsage { tokens, answer }: ObservedUsage) {
        self.tokens.record(tokens);
        if let Some((tokens @ 1.., bytes @ 1..)) = answer {
            self.sixteenths.record(bytes.saturating_mul(16) / tokens);
        }
    }

    /// Returns what the history predicts; `None` where it has too few reports.
    pub fn learnt(&self) -> Option<LearntUsage> {
        let (_, tokens) = self.tokens.quantile(QUANTILE)?;
        // Fewer bytes for a token are more tokens.
        let sixteenths =
            self.sixteenths.quantile(50).map(|(least, _)| least.clamp(1, MOST_SIXTEENTHS));
        Some(LearntUsage { tokens, sixteenths })
    }
}

/// Returns the tokens of a response of so many bytes, of which no usage was reported.
pub fn tokens_of_response(learnt: Option<LearntUsage>, bytes: u64) -> u64 {
    let sixteenths = learnt.and_then(|learnt| learnt.sixteenths).unwrap_or(SIXTEENTHS);
    bytes.saturating_mul(16).div_ceil(sixteenths)
}

/// Counts of numbers by class.
#[derive(Clone, Debug)]
struct Histogram {
    counts: [u8; CLASSES],
    reports: u8,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; CLASSES], reports: 0 }
    }
}

impl Histogram {
    fn record(&mut self, number: u64) {
        if self.reports >= MOST_REPORTS {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            // The counts were at most as many as the reports.
            self.reports = self.counts.iter().sum();
        }
        if let Some(count) = self.counts.get_mut(class(number).min(CLASSES - 1)) {
            *count += 1;
            self.reports += 1;
        }
    }

    /// Returns the bounds of the class with a quantile; `None` where there are too few reports.
    fn quantile(&self, percent: u32) -> Option<(u64, u64)> {
        if self.reports < LEAST_REPORTS {
            return None;
        }
        let rank = (u32::from(self.reports) * percent).div_ceil(100);
        let mut below = 0;
        let found = self.counts.iter().position(|count| {
            below += u32::from(*count);
            below >= rank
        });
        found.map(bounds)
    }
}

/// The class of a number: four for each doubling, and one for each number below eight.
fn class(number: u64) -> usize {
    let Some(doublings) = number.checked_ilog2().filter(|doublings| *doublings >= 2) else {
        return usize::try_from(number).unwrap_or(0);
    };
    let quarter = number >> (doublings - 2) & 3;
    usize::try_from(u64::from(doublings - 1) * 4 + quarter).unwrap_or(CLASSES)
}

/// The least and the greatest number of a class.
fn bounds(class: usize) -> (u64, u64) {
    let class = class as u64;
    if class < 4 {
        return (class, class);
    }
    let (shift, quarter) = (class / 4 - 1, class % 4);
    let least = |quarter: u64| (4 + quarter) << shift;
    (least(quarter), least(quarter + 1) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn history(tokens: impl IntoIterator<Item = u64>) -> UsageHistory {
        let mut history = UsageHistory::default();
        for tokens in tokens {
            history.record(ObservedUsage { tokens, answer: None });
        }
        history
    }

    #[test]
    fn an_estimate_needs_reports_and_covers_nine_of_ten() {
        assert_eq!(history([20; 7]).learnt(), None);
        assert_eq!(history([20; 8]).learnt().unwrap().tokens, 23);
        assert_eq!(history([0; 8]).learnt().unwrap().tokens, 0);
        let mixed = (0..100).map(|n| if n % 10 == 0 { 5000 } else { 300 });
        assert_eq!(history(mixed).learnt().unwrap().tokens, 319);
        let more = (0..100).map(|n| if n % 5 == 0 { 5000 } else { 300 });
        assert_eq!(history(more).learnt().unwrap().tokens, 5119);
        assert_eq!(history([u64::MAX; 8]).learnt().unwrap().tokens, (1 << 28) - 1);
    }

    #[test]
    fn a_history_follows_what_changes() {
        let mut history = history([100; 10_000]);
        for _ in 0..40 {
            history.record(ObservedUsage { tokens: 9000, answer: None });
        }
        assert!(history.learnt().unwrap().tokens >= 9000);
    }

    #[test]
    fn the_tokens_of_a_response_follow_its_bytes() {
        assert_eq!(tokens_of_response(None, 4000), 1000);
        let mut history = history([]);
        for _ in 0..8 {
            history.record(ObservedUsage { tokens: 60, answer: Some((50, 10_000)) });
        }
        let learnt = history.learnt();
        assert_eq!(tokens_of_response(learnt, 0), 0);
        // 200 bytes for a token, in the class that begins at 192.
        assert_eq!(tokens_of_response(learnt, 4000), 21);
        for answer in [Some((0, 9)), Some((9, 0)), None] {
            history.record(ObservedUsage { tokens: 60, answer });
        }
        assert_eq!(tokens_of_response(history.learnt(), 4000), 21);
        assert_eq!(tokens_of_response(learnt, u64::MAX), u64::MAX.div_ceil(3072));
    }

    #[test]
    fn responses_with_many_bytes_for_a_token_do_not_make_others_cheap() {
        let mut history = history([]);
        for _ in 0..8 {
            // One token, and the log probabilities of the prompt.
            history.record(ObservedUsage { tokens: 60, answer: Some((1, 1_000_000)) });
        }
        assert_eq!(tokens_of_response(history.learnt(), 256_000), 1000);
    }

    proptest! {
        #[test]
        fn a_class_has_its_numbers_and_is_narrow(number in 0u64..1 << 28) {
            let (least, most) = bounds(class(number));
            prop_assert!(least <= number && number <= most);
            prop_assert!(most - least <= number / 4);
            prop_assert_eq!(class(most) + 1, class(most + 1));
        }

        /// The quantile is that of the sorted numbers, up to the width of its class.
        #[test]
        fn a_quantile_is_that_of_the_numbers(
            mut numbers in proptest::collection::vec(0u64..100_000, 8..200),
            percent in 1u32..=100,
        ) {
            let mut histogram = Histogram::default();
            numbers.iter().for_each(|number| histogram.record(*number));
            numbers.sort_unstable();
            let rank = (numbers.len() * percent as usize).div_ceil(100);
            let exact = numbers[rank - 1];
            let (least, most) = histogram.quantile(percent).unwrap();
            prop_assert!(least <= exact && exact <= most, "{least} {exact} {most}");
        }
    }
}
