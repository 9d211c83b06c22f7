//! The size of a request in tokens: a bound that no answer exceeds, known before it is forwarded.
//!
//! # Why the bound is safe
//!
//! **Input.** A token of text covers at least one byte of it, because the tokenizers of language
//! models encode bytes and do not expand them. Each byte of text takes at least one byte of the
//! body: an escape such as `\u00e9` is longer than what it decodes to. A prompt in token ids takes a
//! digit and a comma for each. So the text of a request has no more tokens than its body has bytes.
//! A chat template adds its own text: [`MESSAGE`] tokens for a message at most, which is less than
//! the JSON around it, and `template_tokens` of the model for a prompt. Declared tools may be
//! written with another layout than the client's, and count twice. An image, a clip or a file counts
//! `max_tokens_per_media`; the bytes of an image or a clip that is part of a message are no text. Without that, and where the prompt continues one that
//! the server stores, the bound is the context of the model: a server refuses a longer prompt.
//!
//! **Output.** A server stops at the number that the request names. Several members may name one,
//! and servers differ in which they read, so the largest counts; 0 counts as left out, because some
//! servers read it so. Otherwise the answer ends at the model's `max_output`. Each of `n` answers,
//! each of `best_of` candidates, and each prompt of a list has an answer of its own.
//!
//! **Both** are within the context for each answer.

use crate::request::body::{BodyFacts, Cap, Outline, Parts};

/// Tokens that a chat template adds to one message at most.
const MESSAGE: u64 = 16;

/// Tokens that are added to a prompt without messages at most: those of its beginning and its end.
const PROMPT: u64 = 16;

/// Tokens that a chat template adds to a prompt, where the model has no number of its own.
pub(super) const TEMPLATE: u64 = 512;

/// The sizes of a model, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSize {
    /// A prompt and its answer.
    pub context: u64,
    /// One answer, at most `context`.
    pub max_output: u64,
    /// One image, clip or file, at most `context`.
    pub media: u64,
    /// What the chat template adds to a prompt.
    pub template: u64,
}

/// The most tokens that a request uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSize {
    /// The tokens of all prompts.
    pub input: u64,
    /// The tokens of one answer.
    pub output: u64,
    /// The number of answers.
    pub answers: u64,
    /// All tokens, within the context for each answer.
    pub total: u64,
}

impl RequestSize {
    /// Returns the size of a request. `generates`: the server answers with tokens, and not with
    /// numbers, as for embeddings.
    pub(crate) fn of(
        model: ModelSize,
        facts: &BodyFacts<'_>,
        outline: &Outline<'_>,
        generates: bool,
    ) -> Self {
        let prompts = facts.prompts.max(1);
        let answers = largest(facts, |cap| matches!(cap, Cap::Choices | Cap::BestOf))
            .unwrap_or(1)
            .max(1)
            .saturating_mul(prompts);
        let named = largest(facts, |cap| cap == Cap::Tokens).filter(|tokens| *tokens > 0);
        let output = match (generates, named) {
            (false, _) => 0,
            (true, Some(named)) => named.min(model.context),
            (true, None) => model.max_output,
        };
        let text = facts.bytes.saturating_sub(outline.media_bytes);
        let text = text.saturating_mul(if outline.has_tools { 2 } else { 1 });
        let Parts { images, audio, videos, files } = facts.parts;
        let media = images.saturating_add(audio).saturating_add(videos).saturating_add(files);
        let media = media.max(outline.media);
        let template = match outline.messages {
            0 => PROMPT.saturating_mul(prompts),
            messages => model
                .template
                .saturating_mul(prompts)
                .saturating_add(MESSAGE.saturating_mul(messages)),
        };
        let bound = text.saturating_add(template).saturating_add(media.saturating_mul(model.media));
        let contexts = model.context.saturating_mul(prompts);
        let input = if outline.is_open { contexts } else { bound.min(contexts) };
        let total = input
            .saturating_add(output.saturating_mul(answers))
            .min(model.context.saturating_mul(answers));
        Self { input, output, answers, total }
    }
}

/// Returns the largest number of a request that one of the caps limits.
fn largest(facts: &BodyFacts<'_>, is_it: impl Fn(Cap) -> bool) -> Option<u64> {
    facts.caps.iter().filter(|number| is_it(number.cap)).map(|number| number.value).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body::CappedNumber;

    const MODEL: ModelSize =
        ModelSize { context: 10_000, max_output: 2_000, media: 700, template: 100 };

    fn facts(bytes: u64, caps: &[(Cap, &str, u64)]) -> BodyFacts<'static> {
        let caps = caps.iter().map(|(cap, name, value)| CappedNumber {
            cap: *cap,
            name: (*name).into(),
            value: *value,
        });
        BodyFacts { bytes, prompts: 1, caps: caps.collect(), ..BodyFacts::default() }
    }

    fn chat(messages: u64) -> Outline<'static> {
        Outline { messages, is_exact: true, ..Outline::default() }
    }

    fn size(facts: &BodyFacts<'_>, outline: &Outline<'_>) -> RequestSize {
        RequestSize::of(MODEL, facts, outline, true)
    }

    #[test]
    fn a_chat_is_bounded_by_its_bytes_its_template_and_what_it_asks_for() {
        let plain = size(&facts(300, &[(Cap::Tokens, "max_tokens", 50)]), &chat(2));
        assert_eq!(plain, RequestSize { input: 432, output: 50, answers: 1, total: 482 });
        let tools = Outline { has_tools: true, ..chat(2) };
        assert_eq!(size(&facts(300, &[]), &tools).input, 732);
        let text = size(&facts(300, &[]), &chat(0));
        assert_eq!(text, RequestSize { input: 316, output: 2_000, answers: 1, total: 2_316 });
        let open = Outline { is_open: true, ..chat(1) };
        assert_eq!(size(&facts(300, &[]), &open).total, 10_000);
    }

    #[test]
    fn the_largest_number_counts_and_zero_is_left_out() {
        let two = [(Cap::Tokens, "max_tokens", 50), (Cap::Tokens, "max_completion_tokens", 80)];
        assert_eq!(size(&facts(1, &two), &chat(1)).output, 80);
        let zero = [(Cap::Tokens, "max_tokens", 0), (Cap::MoreTokens, "min_tokens", 90)];
        assert_eq!(size(&facts(1, &zero), &chat(1)).output, 2_000);
        let huge = [(Cap::Tokens, "max_tokens", u64::MAX)];
        assert_eq!(size(&facts(1, &huge), &chat(1)).output, 10_000);
    }

    #[test]
    fn every_answer_counts() {
        let of = |caps: &[(Cap, &str, u64)], prompts| {
            let facts = BodyFacts { prompts, ..facts(100, caps) };
            let size = size(&facts, &chat(0));
            (size.answers, size.total)
        };
        let cap = (Cap::Tokens, "max_tokens", 10);
        assert_eq!(of(&[cap, (Cap::Choices, "n", 4)], 1), (4, 116 + 40));
        assert_eq!(of(&[cap, (Cap::Choices, "n", 4), (Cap::BestOf, "best_of", 6)], 1), (6, 176));
        assert_eq!(of(&[cap, (Cap::Choices, "n", 4)], 3), (12, 148 + 120));
        assert_eq!(of(&[cap, (Cap::Choices, "n", 0)], 0), (1, 126));
        assert_eq!(of(&[(Cap::Choices, "n", u64::MAX)], 9).1, u64::MAX);
    }

    #[test]
    fn media_count_and_the_context_is_the_most() {
        let parts = Parts { images: 2, audio: 1, videos: 0, files: 1 };
        let media = BodyFacts { parts, ..facts(100, &[(Cap::Tokens, "max_tokens", 1)]) };
        assert_eq!(size(&media, &chat(1)).input, 100 + 116 + 4 * 700);
        let large = size(&facts(1 << 20, &[]), &chat(1));
        assert_eq!((large.input, large.total), (10_000, 10_000));
    }

    #[test]
    fn the_bytes_of_a_medium_are_no_text() {
        let parts = Parts { images: 1, ..Parts::default() };
        let image = BodyFacts { parts, ..facts(5_000, &[(Cap::Tokens, "max_tokens", 1)]) };
        let outline = Outline { media: 1, media_bytes: 4_900, ..chat(1) };
        assert_eq!(size(&image, &outline).input, 100 + 116 + 700);
    }

    #[test]
    fn numbers_are_no_output() {
        let embedding = RequestSize::of(MODEL, &facts(100, &[]), &chat(0), false);
        assert_eq!(embedding, RequestSize { input: 116, output: 0, answers: 1, total: 116 });
    }
}
