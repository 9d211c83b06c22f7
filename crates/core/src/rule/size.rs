//! The size of a request in tokens: a bound that no answer exceeds, known before it is forwarded.
//!
//! # Why the bound is safe
//!
//! **Input.** A token of text covers at least one byte of it, because the tokenizers of language
//! models encode bytes and do not expand them. Each byte of text takes at least one byte of the
//! body: an escape such as `\u00e9` is longer than what it decodes to. A prompt in token ids takes a
//! digit and a comma for each. So the text of a request has no more tokens than its body has bytes.
//! A chat template adds its own text: `MESSAGE` tokens for a message at most, which is less than
//! the JSON around it, and `template_tokens` of the model for a prompt. Declared tools may be
//! written with another layout than the client's, and count twice. An image, a clip or a file counts
//! `max_tokens_per_media`; the bytes of an image or a clip that is part of a message are no text.
//! Without that, and where the prompt continues one that the server stores, the bound is the context
//! of the model: a server refuses a longer prompt.
//!
//! **Output.** A server stops at the number that the request names. Several members may name one,
//! and servers differ in which they read, so the largest counts; `Zero` has what 0 means.
//! Otherwise the answer ends at the model's `max_output`, which the proxy writes;
//! where it cannot, at the context. Each of `n` answers, each of `best_of` candidates, and each prompt
//! of a list has an answer of its own.
//!
//! **Both** are within the context for each answer.

use serde_json::{Map, Value};

use crate::{
    denial::{Denial, Reason, malformed},
    request::body::{Background, BodyFacts, Cap, CappedNumber, Outline, Parts},
};

/// The members of a document that a proxy writes: those that servers read a bound of the answer from
/// at the top.
pub(crate) const WRITTEN: [&str; 4] =
    ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"];

/// The option of a stream that asks for the usage in each event.
const CONTINUOUS_USAGE: &str = "continuous_usage_stats";

/// The most bytes of the client's `stream_options`. The proxy repeats them in each of its reports, which
/// are read up to a size.
const MOST_OPTIONS: usize = 4096;

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
    /// Whether the server reports its usage in each event of a stream that asks for it.
    pub is_continuous: bool,
}

/// How the size of a request is computed, on a route where a limit counts tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Whether the server answers with tokens. Otherwise only its input counts, as for embeddings.
    pub generates: bool,
    /// The members that the proxy writes, where what a request holds is settled.
    pub api: Option<Api>,
    /// The tokens that a request in the background is charged at admission. Without them it is
    /// denied where what a request holds is settled.
    pub background: Option<u64>,
}

/// The members of an API that bound an answer and that ask for its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Those that the path of a request has.
    OfPath,
    /// Those of a preset's route.
    Known {
        /// The member that bounds an answer; `None` where there is none at the top of the document.
        bound: Option<&'static str>,
        /// Whether a stream has its usage only if `stream_options` asks for it.
        asks_usage: bool,
        /// Whether the server answers a completion of 0 tokens with its prompt alone.
        takes_zero: bool,
    },
}

/// What a request means that names 0 tokens and no other number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zero {
    /// As if it named none: `SGLang` reads it so in a chat, and `vLLM` refuses it.
    LeftOut,
    /// No answer: such a completion asks for the log probabilities of its prompt, or fills a cache.
    /// `vLLM`, `SGLang` and llama.cpp make one token at most.
    Kept,
    /// No answer, of a server that may read it as no bound, as Ollama does. The proxy writes 1, which
    /// every server reads in the same way.
    One,
}

impl Api {
    /// Returns the member that bounds an answer, and whether streams are asked for their usage.
    fn members(self, path: &str) -> (Option<&'static str>, bool) {
        let ends = |end: &str| path.trim_end_matches('/').ends_with(end);
        match self {
            Self::Known { bound, asks_usage, .. } => (bound, asks_usage),
            Self::OfPath if ends("/completions") => (Some("max_tokens"), true),
            Self::OfPath if ends("/messages") => (Some("max_tokens"), false),
            Self::OfPath if ends("/responses") => (Some("max_output_tokens"), false),
            Self::OfPath if ends("/completion") => (Some("n_predict"), false),
            Self::OfPath => (None, false),
        }
    }

    /// What 0 means in a request to `path`.
    fn zero(self, path: &str) -> Zero {
        let ends = |end: &str| path.trim_end_matches('/').ends_with(end);
        let completes = ends("/completion") || (ends("/completions") && !ends("/chat/completions"));
        match self {
            Self::Known { takes_zero: true, .. } if completes || ends("/generate") => Zero::Kept,
            Self::Known { .. } | Self::OfPath if completes => Zero::One,
            Self::Known { .. } | Self::OfPath => Zero::LeftOut,
        }
    }
}

/// A request with its size, and what the proxy writes into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizedRequest {
    /// The size of the request.
    pub size: RequestSize,
    /// What the proxy writes into the body, so that no answer exceeds the size.
    pub changes: BodyChanges,
    /// Whether the answer is streamed.
    pub is_streamed: bool,
    /// The tokens that are charged at admission, as the usage is in no response.
    pub fixed: Option<u64>,
    /// The images of the request.
    pub images: RequestImages,
}

/// The images that a request generates, or has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestImages {
    /// The most images that it generates, or those that it has.
    pub count: u64,
    /// Whether they are those that it has.
    pub are_known: bool,
}

impl RequestImages {
    /// The ends of the paths whose requests generate images.
    const GENERATED: [&str; 3] = ["/images/generations", "/images/edits", "/images/variations"];

    /// Whether requests to `path` generate images.
    fn are_generated(path: &str) -> bool {
        let path = path.trim_end_matches('/');
        Self::GENERATED.iter().any(|end| path.ends_with(end))
    }

    /// Returns the images of a request to `path` with so many answers.
    fn of(path: &str, facts: &BodyFacts<'_>, answers: u64) -> Self {
        match Self::are_generated(path) {
            true => Self { count: answers, are_known: false },
            false => Self { count: facts.parts.images, are_known: true },
        }
    }
}

/// Members of a body that the proxy writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyChanges {
    /// The members that bound an answer, with their numbers.
    pub bounds: Vec<(&'static str, u64)>,
    /// The whole `stream_options`.
    pub stream_options: Option<Map<String, Value>>,
}

impl SizedRequest {
    /// Returns the size of a request to `path`, and what the proxy writes into it.
    ///
    /// # Errors
    /// Where what a request holds is settled: `malformed_request` for a body that the proxy would
    /// change otherwise; `field_forbidden` for a number that it cannot lower, and for work that is
    /// done after the answer.
    pub(crate) fn of(
        sizing: Sizing,
        path: &str,
        model: ModelSize,
        facts: &BodyFacts<'_>,
        outline: &Outline<'_>,
    ) -> Result<Self, Denial> {
        let mut size = RequestSize::of(model, facts, outline, sizing.generates);
        // A request without a body generates nothing.
        let is_streamed = outline.is_streamed;
        let images = RequestImages::of(path, facts, size.answers);
        let unchanged =
            Self { size, changes: BodyChanges::default(), is_streamed, fixed: None, images };
        let Some(api) = sizing.api.filter(|_| sizing.generates && facts.bytes > 0) else {
            return Ok(unchanged);
        };
        // Elsewhere a server ignores the member, and answers with all that was asked for.
        let is_charged = outline.background == Background::Yes && runs_in_background(path);
        if is_charged && sizing.background.is_some() {
            // Nothing is written that would end the answer before the context.
            let named = largest(facts, |cap| cap == Cap::Tokens).filter(|tokens| *tokens > 0);
            let output = named.unwrap_or(model.context).min(model.context);
            let size = size.with_output(output, model.context);
            return Ok(Self { size, fixed: sizing.background, ..unchanged });
        }
        if !outline.is_exact {
            return Err(malformed(
                "the body has a number beyond 2^53, which the proxy would change",
            ));
        }
        // Of an image it is what is behind it.
        if outline.background != Background::No && !RequestImages::are_generated(path) {
            let cause = "the usage of an answer in the background is in no response";
            return Err(Denial::new(Reason::FieldForbidden, cause)
                .with_listed_member("background")
                .with_message("`background` may not be sent here"));
        }
        let most = model.max_output;
        let capped = facts.caps.iter().filter(|number| {
            number.cap == Cap::Tokens && number.value > most && !is_written(number, outline)
        });
        let capped = capped.map(|CappedNumber { name, value, .. }| (&**name, *value)).next();
        // A member of the document may have the same name and number, which the proxy lowers.
        let nested = outline.nested_bound.filter(|(_, value)| *value > most);
        if let Some((name, value)) = capped.or(nested) {
            let cause = format!("`{name}` is {value}, over the {most} of one answer");
            return Err(Denial::new(Reason::FieldForbidden, cause)
                .with_listed_member(name)
                .with_message(format!("`{name}` may be at most {most} here")));
        }
        let (bound, asks_usage) = api.members(path);
        let named = largest(facts, |cap| cap == Cap::Tokens);
        let zero = if named == Some(0) { api.zero(path) } else { Zero::LeftOut };
        let is_bounded = bound.is_some()
            || outline.bounds.iter().any(|(name, _)| WRITTEN.contains(name))
            || named.is_some_and(|tokens| tokens > 0);
        let output = match zero {
            Zero::Kept | Zero::One => 1,
            Zero::LeftOut if is_bounded => size.output.min(most),
            // Nothing in the forwarded request ends an answer without a bound before the context.
            Zero::LeftOut => model.context,
        };
        size = size.with_output(output, model.context);
        let mut bounds: Vec<(&'static str, u64)> = outline
            .bounds
            .iter()
            .filter(|(name, value)| {
                let is_open = (*value == 0 && zero != Zero::Kept) || *value > size.output;
                WRITTEN.contains(name) && is_open
            })
            .map(|(name, _)| (*name, size.output))
            .collect();
        if let Some(bound) = bound
            && !outline.bounds.iter().any(|(name, _)| *name == bound)
        {
            bounds.push((bound, size.output));
        }
        let asked = asks_usage && outline.is_streamed;
        let stream_options = if asked {
            Some(stream_options(outline, size.answers, model.is_continuous)?)
        } else {
            None
        };
        Ok(Self { size, changes: BodyChanges { bounds, stream_options }, ..unchanged })
    }
}

/// Whether a server may run the requests of a path in the background: those of the Responses API.
pub(crate) fn runs_in_background(path: &str) -> bool {
    path.trim_end_matches('/').ends_with("/responses")
}

/// Whether the proxy writes every member of a document with this name.
fn is_written(number: &CappedNumber, outline: &Outline<'_>) -> bool {
    WRITTEN.contains(&&*number.name)
        && outline
            .bounds
            .iter()
            .any(|(name, value)| **name == *number.name && *value == number.value)
}

/// Returns the `stream_options` of the client with the wish for usage. With several answers, an
/// event counts the answer that it is part of, so that the usage of a stream that is cut is not
/// known: only the end of the stream counts all of them.
fn stream_options(
    outline: &Outline<'_>,
    answers: u64,
    is_continuous: bool,
) -> Result<Map<String, Value>, Denial> {
    let bytes = outline.stream_options.iter().map(|(name, json)| name.len() + json.len());
    if bytes.sum::<usize>() > MOST_OPTIONS {
        return Err(
            malformed("`stream_options` has more than 4096 bytes").with_param("stream_options")
        );
    }
    let mut options = Map::new();
    for (name, json) in &outline.stream_options {
        let value = serde_json::from_str(json)
            .map_err(|_| malformed("`stream_options` nests too deeply").with_param(&**name))?;
        options.insert(name.to_string(), value);
    }
    options.insert("include_usage".to_owned(), Value::Bool(true));
    if answers == 1 && is_continuous {
        options.insert(CONTINUOUS_USAGE.to_owned(), Value::Bool(true));
    } else if answers > 1
        && let Some(continuous) = options.get_mut(CONTINUOUS_USAGE)
    {
        *continuous = Value::Bool(false);
    }
    Ok(options)
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
        Self { input, output, answers, total: 0 }.with_output(output, model.context)
    }

    /// The tokens that the prompts have as a rule: text has about four bytes for each token.
    pub(crate) const fn prompt_estimate(self) -> u64 {
        self.input.div_ceil(4)
    }

    /// Returns the size with another number of tokens in one answer.
    fn with_output(self, output: u64, context: u64) -> Self {
        let Self { input, answers, .. } = self;
        let total = input
            .saturating_add(output.saturating_mul(answers))
            .min(context.saturating_mul(answers));
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

    const MODEL: ModelSize = ModelSize {
        context: 10_000,
        max_output: 2_000,
        media: 700,
        template: 100,
        is_continuous: false,
    };

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

    const CHAT: Sizing = Sizing { generates: true, api: Some(Api::OfPath), background: None };

    /// The tokens of an answer, the members that bound it, and `stream_options`.
    type Found = (u64, Vec<(String, u64)>, Option<String>);

    fn sized(path: &str, body: &str) -> Result<Found, Reason> {
        let document = crate::request::body::outline_of(body.as_bytes());
        let mut facts = facts(1, &[]);
        for (name, value) in &document.bounds {
            facts.caps.push(CappedNumber { cap: Cap::Tokens, name: (*name).into(), value: *value });
        }
        if body.contains("max_new_tokens") {
            let name = "max_new_tokens".into();
            facts.caps.push(CappedNumber { cap: Cap::Tokens, name, value: 3_000 });
        }
        if body.contains(r#""n":2"#) {
            facts.caps.push(CappedNumber { cap: Cap::Choices, name: "n".into(), value: 2 });
        }
        let sized = SizedRequest::of(CHAT, path, MODEL, &facts, &document);
        sized.map_err(|denial| denial.reason).map(|SizedRequest { size, changes, .. }| {
            let bounds = changes.bounds.iter().map(|(name, most)| (name.to_string(), *most));
            let options = changes.stream_options.map(|it| Value::Object(it).to_string());
            (size.output, bounds.collect(), options)
        })
    }

    #[test]
    fn the_proxy_writes_what_bounds_an_answer() {
        let set = |name: &str, most| vec![(name.to_owned(), most)];
        for (path, body, output, bounds) in [
            ("/v1/chat/completions", "{}", 2_000, set("max_tokens", 2_000)),
            ("/v1/responses", "{}", 2_000, set("max_output_tokens", 2_000)),
            ("/v1/messages", "{}", 2_000, set("max_tokens", 2_000)),
            ("/completion", "{}", 2_000, set("n_predict", 2_000)),
            ("/generate", "{}", 10_000, vec![]),
            ("/generate", r#"{"max_tokens":0}"#, 2_000, set("max_tokens", 2_000)),
            ("/generate", r#"{"max_tokens":7}"#, 7, vec![]),
            ("/v1/completions", r#"{"max_tokens":7}"#, 7, vec![]),
            ("/v1/completions", r#"{"max_tokens":0}"#, 1, set("max_tokens", 1)),
            ("/v1/completions/", r#"{"max_tokens":0,"echo":true}"#, 1, set("max_tokens", 1)),
            ("/v1/completions", r#"{"max_completion_tokens":0}"#, 1, {
                [set("max_completion_tokens", 1), set("max_tokens", 1)].concat()
            }),
            ("/completion", r#"{"n_predict":0}"#, 1, set("n_predict", 1)),
            ("/v1/chat/completions", r#"{"max_tokens":0}"#, 2_000, set("max_tokens", 2_000)),
            ("/v1/responses", r#"{"max_output_tokens":0}"#, 2_000, {
                set("max_output_tokens", 2_000)
            }),
            ("/v1/completions", r#"{"max_tokens":9999}"#, 2_000, set("max_tokens", 2_000)),
            ("/v1/completions", r#"{"max_completion_tokens":9}"#, 9, set("max_tokens", 9)),
        ] {
            assert_eq!(sized(path, body), Ok((output, bounds, None)), "{path} {body}");
        }
    }

    #[test]
    fn a_server_that_takes_0_gets_it() {
        let api = |bound| Api::Known { bound, asks_usage: false, takes_zero: true };
        let of = |path: &str, bound, body: &str, caps: &[(Cap, &str, u64)]| {
            let sizing = Sizing { api: Some(api(bound)), ..CHAT };
            let document = crate::request::body::outline_of(body.as_bytes());
            let sized = SizedRequest::of(sizing, path, MODEL, &facts(1, caps), &document).unwrap();
            (sized.size.output, sized.changes.bounds)
        };
        let zero = [(Cap::Tokens, "max_tokens", 0)];
        let (bound, body) = (Some("max_tokens"), r#"{"max_tokens":0}"#);
        assert_eq!(of("/v1/completions", bound, body, &zero), (1, vec![]));
        // A member that the server may not read is no bound.
        let written = of("/v1/completions", bound, r#"{"n_predict":0}"#, &zero);
        assert_eq!(written, (1, vec![("max_tokens", 1)]));
        let chat = of("/v1/chat/completions", bound, body, &zero);
        assert_eq!(chat, (2_000, vec![("max_tokens", 2_000)]));
        let two = [zero[0], (Cap::Tokens, "max_completion_tokens", 9)];
        let both = r#"{"max_tokens":0,"max_completion_tokens":9}"#;
        assert_eq!(of("/v1/completions", bound, both, &two), (9, vec![("max_tokens", 9)]));
        let nested = r#"{"sampling_params":{"max_new_tokens":0}}"#;
        assert_eq!(of("/generate", None, nested, &zero), (1, vec![]));
        assert_eq!(of("/generate", None, nested, &[]), (10_000, vec![]));
    }

    #[test]
    fn streams_are_asked_for_their_usage() {
        let options = |body| sized("/v1/chat/completions", body).unwrap().2;
        let asked = r#"{"include_usage":true}"#.to_owned();
        assert_eq!(options(r#"{"stream":true}"#), Some(asked.clone()));
        assert_eq!(options(r#"{"stream":true,"stream_options":null}"#), Some(asked.clone()));
        assert_eq!(
            options(r#"{"stream":true,"stream_options":{"include_usage":false,"a":{"b":[1]}}}"#),
            Some(r#"{"a":{"b":[1]},"include_usage":true}"#.to_owned())
        );
        let continuous =
            r#"{"stream":true,"stream_options":{"continuous_usage_stats":true},"n":1}"#;
        let both =
            |own| Some(format!(r#"{{"continuous_usage_stats":{own},"include_usage":true}}"#));
        assert_eq!(options(continuous), both(true));
        let several = continuous.replace(r#""n":1"#, r#""n":2"#);
        assert_eq!(options(&several), both(false), "each event counts one of the answers");
        let own = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(options(own), Some(asked.clone()));
        assert_eq!(options("{}"), None);
        assert_eq!(sized("/v1/messages", r#"{"stream":true}"#).unwrap().2, None);
    }

    #[test]
    fn the_options_of_a_stream_are_bounded() {
        let sized_with = |bytes: usize, path: &str| {
            let filler = "x".repeat(bytes);
            let body = format!(r#"{{"stream":true,"stream_options":{{"a":"{filler}"}}}}"#);
            sized(path, &body).map(|_| ())
        };
        let chat = "/v1/chat/completions";
        assert_eq!(sized_with(MOST_OPTIONS - 3, chat), Ok(()));
        assert_eq!(sized_with(MOST_OPTIONS - 2, chat), Err(Reason::MalformedRequest));
        // Nothing of it is returned to the proxy.
        assert_eq!(sized_with(MOST_OPTIONS, "/v1/messages"), Ok(()));
    }

    #[test]
    fn a_server_that_counts_each_event_is_asked_to() {
        let options = |body: &str, is_continuous| {
            let document = crate::request::body::outline_of(body.as_bytes());
            let caps = if body.contains(r#""n":2"#) { &[(Cap::Choices, "n", 2)][..] } else { &[] };
            let model = ModelSize { is_continuous, ..MODEL };
            let (path, facts) = ("/v1/chat/completions", facts(1, caps));
            let sized = SizedRequest::of(CHAT, path, model, &facts, &document).unwrap();
            sized.changes.stream_options.map(|it| Value::Object(it).to_string())
        };
        let both =
            |own| Some(format!(r#"{{"continuous_usage_stats":{own},"include_usage":true}}"#));
        let usage = Some(r#"{"include_usage":true}"#.to_owned());
        let declined = r#"{"stream":true,"stream_options":{"continuous_usage_stats":false}}"#;
        assert_eq!(options(r#"{"stream":true}"#, true), both(true));
        assert_eq!(options(r#"{"stream":true}"#, false), usage);
        assert_eq!(options(declined, true), both(true));
        assert_eq!(options(declined, false), both(false));
        assert_eq!(options(r#"{"stream":true,"n":2}"#, true), usage, "an event counts one answer");
        assert_eq!(options("{}", true), None);
    }

    #[test]
    fn work_in_the_background_has_a_fixed_charge_and_is_not_changed() {
        let fixed = Sizing { background: Some(70), ..CHAT };
        let of = |body: &str, caps: &[(Cap, &str, u64)]| {
            let document = crate::request::body::outline_of(body.as_bytes());
            SizedRequest::of(fixed, "/v1/responses", MODEL, &facts(1, caps), &document).unwrap()
        };
        let background = of(r#"{"background":true,"seed":9007199254740993}"#, &[]);
        assert_eq!((background.fixed, background.size.output), (Some(70), 10_000));
        assert_eq!(background.changes, BodyChanges::default());
        let named = of(r#"{"background":true}"#, &[(Cap::Tokens, "max_output_tokens", 50)]);
        assert_eq!((named.fixed, named.size.output), (Some(70), 50));
        let plain = of(r#"{"background":false}"#, &[]);
        assert_eq!((plain.fixed, plain.changes.bounds.len()), (None, 1));
    }

    #[test]
    fn a_fixed_charge_is_for_work_that_a_server_runs_in_the_background() {
        let fixed = Sizing { background: Some(70), ..CHAT };
        let of = |path: &str, value: &str| {
            let body = format!(r#"{{"background":{value}}}"#);
            let document = crate::request::body::outline_of(body.as_bytes());
            let sized = SizedRequest::of(fixed, path, MODEL, &facts(1, &[]), &document);
            sized.map(|sized| sized.fixed).map_err(|denial| denial.reason)
        };
        assert_eq!(of("/v1/responses", "true"), Ok(Some(70)));
        assert_eq!(of("/openai/v1/responses/", "true"), Ok(Some(70)));
        // A server that reads false answers at once, and one that ignores the member, too.
        for value in ["0", "1", r#""false""#, r#""true""#, "[]", "{}"] {
            assert_eq!(of("/v1/responses", value), Err(Reason::FieldForbidden), "{value}");
        }
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/generate"] {
            assert_eq!(of(path, "true"), Err(Reason::FieldForbidden), "{path}");
            assert_eq!(of(path, "false"), Ok(None), "{path}");
        }
    }

    #[test]
    fn what_the_proxy_cannot_write_is_refused() {
        for (body, reason) in [
            (r#"{"seed":9007199254740993}"#, Reason::MalformedRequest),
            (r#"{"background":true}"#, Reason::FieldForbidden),
            (r#"{"sampling_params":{"max_new_tokens":3000}}"#, Reason::FieldForbidden),
            // The proxy lowers the member of the document only.
            (
                r#"{"max_tokens":3000,"sampling_params":{"max_tokens":3000}}"#,
                Reason::FieldForbidden,
            ),
        ] {
            assert_eq!(sized("/v1/completions", body), Err(reason), "{body}");
        }
    }

    #[test]
    fn images_are_those_that_are_generated_and_otherwise_those_of_the_request() {
        let parts = Parts { images: 2, audio: 1, videos: 0, files: 1 };
        let caps = vec![CappedNumber { cap: Cap::Choices, name: "n".into(), value: 4 }];
        let facts = BodyFacts { bytes: 1, prompts: 1, parts, caps, ..BodyFacts::default() };
        let images = |path: &str| {
            let sized = SizedRequest::of(CHAT, path, MODEL, &facts, &chat(0)).unwrap();
            (sized.images.count, sized.images.are_known)
        };
        for path in ["/v1/images/generations", "/openai/v1/images/edits/", "/images/variations"] {
            assert_eq!(images(path), (4, false), "{path}");
        }
        for path in ["/v1/chat/completions", "/v1/images", "/v1/images/generations/7"] {
            assert_eq!(images(path), (2, true), "{path}");
        }
    }

    #[test]
    fn the_background_of_an_image_is_no_work_in_the_background() {
        let body = r#"{"background":"transparent"}"#;
        assert!(sized("/v1/images/generations", body).is_ok());
        assert_eq!(sized("/v1/responses", body), Err(Reason::FieldForbidden));
    }

    #[test]
    fn numbers_are_no_output() {
        let embedding = RequestSize::of(MODEL, &facts(100, &[]), &chat(0), false);
        assert_eq!(embedding, RequestSize { input: 116, output: 0, answers: 1, total: 116 });
    }
}
