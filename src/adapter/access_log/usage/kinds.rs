//! The tokens of a response by their kinds, and its seconds, in whichever shape the server reports them.

use tollgate_core::limit::usage_report::UsageCounts;

use super::{Counts, SECONDS, whole};

/// The objects in a usage whose members count a part of the input, or of the output.
pub(in crate::adapter) const DETAILS: [&str; 4] = [
    "prompt_tokens_details",
    "completion_tokens_details",
    "input_tokens_details",
    "output_tokens_details",
];

/// The members of these objects that are read. `SGLang` has the first one beside its other counts.
pub(in crate::adapter) const PARTS: [&str; 2] = ["cached_tokens", "reasoning_tokens"];

impl Counts {
    /// The tokens by kind. Each kind is the largest of those that the shapes of servers name.
    pub(super) fn kinds(&self) -> UsageCounts {
        let shapes: [&[&str]; 5] = [
            &["prompt_tokens"],
            &["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"],
            &["prompt_n", "cache_n"],
            &["tokens_evaluated"],
            &["prompt_eval_count"],
        ];
        let cached = ["cached_tokens", "cache_read_input_tokens", "cache_n"];
        UsageCounts {
            input: shapes.into_iter().filter_map(|names| self.get(names)).max(),
            output: self.output(),
            cached: cached.into_iter().filter_map(|name| self.get(&[name])).max(),
            reasoning: self.get(&["reasoning_tokens"]),
            images: None,
            seconds: self.get(&[SECONDS]),
        }
    }

    /// Reads the parts of an object of details. What is no count is left out: it adds nothing to the
    /// tokens of a response.
    pub(super) fn add_details(&mut self, details: &serde_json::Value) {
        for name in PARTS {
            let count = details.get(name).and_then(serde_json::Value::as_f64).and_then(whole);
            if let Some(count) = count {
                self.raise(name, count);
            }
        }
    }
}

/// Of each kind the larger count.
pub(super) fn larger(one: UsageCounts, other: UsageCounts) -> UsageCounts {
    UsageCounts {
        input: one.input.max(other.input),
        output: one.output.max(other.output),
        cached: one.cached.max(other.cached),
        reasoning: one.reasoning.max(other.reasoning),
        images: one.images.max(other.images),
        seconds: one.seconds.max(other.seconds),
    }
}

/// The counts of which a part is not more than what it is a part of; none without that.
pub(in crate::adapter) fn with_parts_within(counts: UsageCounts) -> UsageCounts {
    let within = |part: Option<u64>, whole: Option<u64>| Some(part?.min(whole?));
    UsageCounts {
        cached: within(counts.cached, counts.input),
        reasoning: within(counts.reasoning, counts.output),
        ..counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_each_shape_are_read() {
        let counts = |input, output, cached, reasoning| UsageCounts {
            input: Some(input),
            output: Some(output),
            cached,
            reasoning,
            ..UsageCounts::NONE
        };
        let none = UsageCounts::default();
        for (members, expected) in [
            (&[("prompt_tokens", 9), ("completion_tokens", 4)][..], counts(9, 4, None, None)),
            (
                &[
                    ("prompt_tokens", 9),
                    ("completion_tokens", 4),
                    ("cached_tokens", 8),
                    ("reasoning_tokens", 3),
                ],
                counts(9, 4, Some(8), Some(3)),
            ),
            (
                &[
                    ("input_tokens", 1),
                    ("cache_creation_input_tokens", 2),
                    ("cache_read_input_tokens", 6),
                    ("output_tokens", 4),
                ],
                counts(9, 4, Some(6), None),
            ),
            (&[("prompt_n", 2), ("cache_n", 7), ("predicted_n", 4)], counts(9, 4, Some(7), None)),
            (&[("prompt_eval_count", 9), ("eval_count", 4)], counts(9, 4, None, None)),
            (&[("total_tokens", 9)], none),
            (&[("seconds", 9)], UsageCounts { seconds: Some(9), ..none }),
        ] {
            let members = members.iter().map(|(name, count)| ((*name).to_owned(), *count));
            assert_eq!(Counts(members.collect()).kinds(), expected);
        }
    }

    #[test]
    fn details_are_parts_and_no_tokens_of_their_own() {
        let mut counts = Counts([("prompt_tokens".to_owned(), 9)].into());
        counts.add_details(&serde_json::json!({ "cached_tokens": 8, "reasoning_tokens": -1 }));
        assert_eq!((counts.kinds().cached, counts.kinds().reasoning), (Some(8), None));
        assert_eq!(counts.tokens(), Some(9));
    }

    #[test]
    fn a_part_is_not_more_than_its_whole() {
        let counts = UsageCounts {
            input: Some(9),
            output: None,
            cached: Some(1 << 53),
            reasoning: Some(1 << 53),
            ..UsageCounts::NONE
        };
        let expected = UsageCounts { input: Some(9), cached: Some(9), ..UsageCounts::default() };
        assert_eq!(with_parts_within(counts), expected);
    }
}
