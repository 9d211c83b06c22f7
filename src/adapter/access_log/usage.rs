//! Reads the tokens of a response from the metadata that Envoy's filters wrote about it.
//!
//! | filter | metadata | value |
//! |---|---|---|
//! | `sse_to_metadata` | [`NAMESPACE`], one key per object | the last such object of the stream, as JSON text |
//! | the Lua filter of the shipped configuration, or `json_to_metadata` | [`NAMESPACE`], one key per member, by its name | a number |
//! | `ai_protocol_manager` | [`TYPED_NAMESPACE`] | a `TokenUsage` |
//!
//! Every shape has a reader of its own below; a response usually has one shape, or the same counts
//! in two. The largest count is used.

mod kinds;

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::value::Kind;
use tollgate_core::limit::usage_report::UsageCounts;

pub(in crate::adapter) use self::kinds::{DETAILS, PARTS, with_parts_within};
use crate::proto::envoy::{
    config::core::v3::Metadata,
    data::ai::v3::{TokenUsage, token_usage::ExtractionStatus},
};

/// The namespace of the filters that read members of a response.
pub(in crate::adapter) const NAMESPACE: &str = "tollgate.usage";

/// The namespace of the filter that knows the protocols of language models.
const TYPED_NAMESPACE: &str = "envoy.ai.token_usage";

/// The keys of objects in a stream.
pub(in crate::adapter) const USAGE: &str = "usage";
pub(in crate::adapter) const ANTHROPIC_START: &str = "message_usage";
pub(in crate::adapter) const RESPONSES: &str = "response_usage";
pub(in crate::adapter) const SGLANG: &str = "meta_info";
pub(in crate::adapter) const LLAMA_CPP: &str = "timings";
/// The key of SGLang's number of a response, which only a request for several responses has. Events
/// of Anthropic's have a member of this name, too.
pub(in crate::adapter) const INDEX: &str = "index";
/// The key of whether the last event of a stream has a usage, and is not the first one that has: the
/// Lua filter, or the meter of the module, observes it.
pub(in crate::adapter) const EACH_EVENT: &str = "each_event";

/// The key of whether Tollgate has cut the response.
pub(in crate::adapter) const CUT: &str = "cut";

/// Counts above 2^53 are not exact in a double, and no request has so many tokens.
const MOST_TOKENS: u64 = 1 << 53;

/// What is known of the tokens of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::adapter) struct Reading {
    /// The tokens of input and output so far; `None` where none were reported.
    pub(in crate::adapter) tokens: Option<u64>,
    /// The tokens of the output among them, where they are reported apart.
    pub(in crate::adapter) output: Option<u64>,
    /// The tokens by their kinds, as far as they are reported apart.
    pub(in crate::adapter) kinds: UsageCounts,
    /// Whether the count is that of the whole response once it has ended. The first event of a
    /// stream of Anthropic's counts the input only.
    pub(in crate::adapter) is_whole: bool,
    /// Whether the server reports its count with each event, by the form of the report.
    pub(in crate::adapter) is_continuous: bool,
    /// Whether the last event of a stream has a usage, and an earlier one had.
    pub(in crate::adapter) has_usage_in_each_event: bool,
    /// Whether a count was negative, not whole, or too large. It is ignored.
    pub(in crate::adapter) is_absurd: bool,
}

/// The members of a response that were read, by their keys.
#[derive(Clone, Debug, Default)]
pub(in crate::adapter) struct Members(BTreeMap<String, Member>);

/// A member of a response.
#[derive(Clone, Debug, PartialEq)]
enum Member {
    /// A number of a body.
    Number(f64),
    /// An object of a stream, as JSON text.
    Object(String),
    /// What was observed of the response.
    Flag(bool),
    /// A value that counts nothing.
    Null,
    /// A value of another type.
    Other,
}

impl Members {
    /// Keeps the larger one of a number and the one that is known under its name. A value there that
    /// is no number stays.
    pub(in crate::adapter) fn raise(&mut self, name: &str, number: f64) {
        match self.0.get_mut(name) {
            Some(Member::Number(known)) => *known = known.max(number),
            Some(Member::Other) => {}
            _ => {
                self.0.insert(name.to_owned(), Member::Number(number));
            }
        }
    }

    /// Keeps that a count has a value that is no number.
    pub(in crate::adapter) fn set_other(&mut self, name: &str) {
        self.0.insert(name.to_owned(), Member::Other);
    }

    /// Keeps a member of a usage as it was reported.
    pub(in crate::adapter) fn set(&mut self, name: &str, value: &serde_json::Value) {
        let member = match value {
            serde_json::Value::Null => Member::Null,
            value => value.as_f64().map_or(Member::Other, Member::Number),
        };
        self.0.insert(name.to_owned(), member);
    }

    /// Keeps an object of a stream, in the place of an earlier one.
    pub(in crate::adapter) fn replace(&mut self, key: &str, object: &str) {
        match self.0.get_mut(key) {
            Some(Member::Object(known)) => object.clone_into(known),
            _ => {
                self.0.insert(key.to_owned(), Member::Object(object.to_owned()));
            }
        }
    }

    /// Keeps what was observed.
    pub(in crate::adapter) fn set_flag(&mut self, key: &str, flag: bool) {
        match self.0.get_mut(key) {
            Some(Member::Flag(known)) => *known = flag,
            _ => {
                self.0.insert(key.to_owned(), Member::Flag(flag));
            }
        }
    }

    fn of_metadata(metadata: &Metadata) -> Self {
        let fields = metadata.filter_metadata.get(NAMESPACE).map(|members| &members.fields);
        let member = |value: &prost_types::Value| match &value.kind {
            Some(Kind::NumberValue(number)) => Member::Number(*number),
            Some(Kind::StringValue(text)) => Member::Object(text.clone()),
            Some(Kind::BoolValue(flag)) => Member::Flag(*flag),
            Some(Kind::NullValue(_)) | None => Member::Null,
            Some(_) => Member::Other,
        };
        let fields = fields.into_iter().flatten();
        Self(fields.map(|(key, value)| (key.clone(), member(value))).collect())
    }
}

/// Reads the usage in the members of a response.
pub(in crate::adapter) fn of_members(members: &Members) -> Reading {
    let (mut reading, partial) = reading_of(members);
    reading.is_whole = reading.tokens.is_some() && !partial && !reading.is_absurd;
    reading
}

/// Reads members, and whether what they count is a part.
fn reading_of(Members(members): &Members) -> (Reading, bool) {
    let mut reading = Reading { is_whole: true, ..Reading::default() };
    let objects = Objects(members);
    let body = Counts::of_members(members);
    let start = objects.counts(ANTHROPIC_START);
    let end = objects.counts(USAGE);
    let sglang = objects.counts(SGLANG);
    // Of a stream that has only begun, the end is not known.
    let has_begun = start.as_ref().is_ok_and(|counts| !counts.0.is_empty());
    let has_ended = end.as_ref().is_ok_and(|counts| counts.0.contains_key("output_tokens"));
    // One of several responses counts itself only.
    let has_sglang = sglang.as_ref().is_ok_and(|counts| !counts.0.is_empty());
    let is_one_of_several = has_sglang && members.contains_key(INDEX);
    let partial = is_one_of_several || (has_begun && !has_ended);
    reading.is_continuous = has_sglang && !is_one_of_several;
    reading.has_usage_in_each_event = members.get(EACH_EVENT) == Some(&Member::Flag(true));
    let whole = start.and_then(|start| Ok(start.merged(end?)));
    for counts in [whole, objects.counts(RESPONSES), sglang, objects.counts(LLAMA_CPP), body] {
        if let Ok(counts) = &counts {
            reading.output = reading.output.max(counts.output());
            reading.kinds = kinds::larger(reading.kinds, counts.kinds());
        }
        reading.add(counts.map(|counts| counts.tokens()));
    }
    (reading, partial)
}

/// Whether Tollgate has cut the response.
pub(super) fn was_cut(metadata: &Metadata) -> bool {
    let members = metadata.filter_metadata.get(NAMESPACE);
    let cut = members.and_then(|members| members.fields.get(CUT));
    cut.is_some_and(|value| value.kind == Some(Kind::BoolValue(true)))
}

/// Whether the last byte of the response has arrived, as `ai_protocol_manager` has read its whole usage.
/// It publishes nothing of a response that ends before.
pub(super) fn has_arrived(metadata: &Metadata) -> bool {
    let typed = metadata.typed_filter_metadata.get(TYPED_NAMESPACE);
    let usage = typed.and_then(|typed| TokenUsage::decode(typed.value.as_slice()).ok());
    usage.is_some_and(|usage| usage.extraction_status() == ExtractionStatus::Complete)
}

/// Reads the usage in the metadata of a request.
pub(super) fn read(metadata: &Metadata) -> Reading {
    let (mut reading, mut partial) = reading_of(&Members::of_metadata(metadata));
    if let Some(typed) = metadata.typed_filter_metadata.get(TYPED_NAMESPACE) {
        match TokenUsage::decode(typed.value.as_slice()) {
            Ok(usage) => {
                partial |= usage.extraction_status() == ExtractionStatus::Partial;
                reading.add(Ok(typed_tokens(&usage)));
            }
            Err(_) => reading.add(Err(Absurd)),
        }
    }
    reading.is_whole = reading.tokens.is_some() && !partial && !reading.is_absurd;
    reading
}

impl Reading {
    fn add(&mut self, tokens: Result<Option<u64>, Absurd>) {
        match tokens {
            Ok(tokens) => self.tokens = self.tokens.max(tokens),
            Err(Absurd) => self.is_absurd = true,
        }
    }
}

/// A count that no response can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Absurd;

/// The objects of a stream, which the filter stores as text.
struct Objects<'a>(&'a BTreeMap<String, Member>);

impl Objects<'_> {
    /// Returns the counts of an object; none where it is absent or `null`.
    fn counts(&self, key: &str) -> Result<Counts, Absurd> {
        let Some(Member::Object(text)) = self.0.get(key) else { return Ok(Counts::default()) };
        let object: serde_json::Value = serde_json::from_str(text).map_err(|_| Absurd)?;
        let Some(members) = object.as_object() else { return Ok(Counts::default()) };
        let mut counts = Counts::default();
        for (name, value) in members {
            if kinds::DETAILS.contains(&name.as_str()) {
                counts.add_details(value);
            }
            if name == SECONDS {
                counts.add_seconds(value.as_f64());
            } else if is_count(name) && !value.is_null() {
                let count = value.as_u64().filter(|count| *count <= MOST_TOKENS);
                counts.set(name, count.or_else(|| whole(value.as_f64()?)))?;
            }
        }
        Ok(counts)
    }
}

/// The counts of tokens in one object, by the names of their members.
#[derive(Clone, Debug, Default)]
struct Counts(BTreeMap<String, u64>);

/// The member that counts seconds of audio: of a transcription, in the place of its tokens.
const SECONDS: &str = "seconds";

/// The members that count tokens, of which two count a part of others, and seconds. Further ones, such
/// as times, are not read.
const COUNTS: [&str; 17] = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "prompt_n",
    "predicted_n",
    "cache_n",
    "prompt_eval_count",
    "eval_count",
    "tokens_evaluated",
    "tokens_predicted",
    "cached_tokens",
    "reasoning_tokens",
    SECONDS,
];

/// Whether a member counts something.
pub(in crate::adapter) fn is_count(name: &str) -> bool {
    COUNTS.contains(&name)
}

/// Returns a number of seconds, of which a part counts as a whole one.
pub(in crate::adapter) fn whole_seconds(seconds: f64) -> Option<u64> {
    Some(seconds).filter(|seconds| *seconds >= 0.0).and_then(|seconds| whole(seconds.ceil()))
}

/// Returns a double that is a count.
fn whole(value: f64) -> Option<u64> {
    #[expect(clippy::cast_precision_loss, reason = "2^53 is exact in a double")]
    let is_count = value >= 0.0 && value <= MOST_TOKENS as f64 && value.fract() == 0.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 0 to 2^53"
    )]
    is_count.then_some(value as u64)
}

impl Counts {
    /// Reads the numbers whose key is the name of a count.
    fn of_members(members: &BTreeMap<String, Member>) -> Result<Self, Absurd> {
        let mut counts = Self::default();
        for (name, value) in members.iter().filter(|(name, _)| is_count(name)) {
            match value {
                Member::Number(number) if name == SECONDS => counts.add_seconds(Some(*number)),
                _ if name == SECONDS => {}
                Member::Number(number) => counts.set(name, whole(*number))?,
                Member::Null => {}
                Member::Object(_) | Member::Flag(_) | Member::Other => counts.set(name, None)?,
            }
        }
        Ok(counts)
    }

    /// Adds seconds, of which a part counts as a whole one. What is no number of them is left out: it
    /// makes no count of tokens wrong.
    fn add_seconds(&mut self, seconds: Option<f64>) {
        if let Some(seconds) = seconds.and_then(whole_seconds) {
            self.0.insert(SECONDS.to_owned(), seconds);
        }
    }

    /// Keeps the value of a member. A part that is no count is left out: it adds nothing to the tokens
    /// of a response.
    fn set(&mut self, name: &str, count: Option<u64>) -> Result<(), Absurd> {
        let Some(count) = count else {
            return if kinds::PARTS.contains(&name) { Ok(()) } else { Err(Absurd) };
        };
        self.raise(name, count);
        Ok(())
    }

    /// Keeps the larger one of a count and the one that is known under its name.
    fn raise(&mut self, name: &str, count: u64) {
        let known = self.0.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }

    /// The counts of two objects, of each the larger one.
    fn merged(mut self, other: Self) -> Self {
        for (name, count) in other.0 {
            let known = self.0.entry(name).or_default();
            *known = count.max(*known);
        }
        self
    }

    /// The sum of these members; `None` where none is there.
    fn get(&self, names: &[&str]) -> Option<u64> {
        let found = names.iter().filter_map(|name| self.0.get(*name));
        found.copied().reduce(u64::saturating_add)
    }

    /// The tokens of input and output, in whichever shape the counts have.
    fn tokens(&self) -> Option<u64> {
        let shapes = [self.openai(), self.messages(), self.llama_cpp(), self.ollama()];
        shapes.into_iter().flatten().max()
    }

    /// The tokens of the output, in whichever shape the counts have.
    fn output(&self) -> Option<u64> {
        let names =
            ["completion_tokens", "output_tokens", "predicted_n", "tokens_predicted", "eval_count"];
        names.into_iter().filter_map(|name| self.0.get(name)).max().copied()
    }

    /// OpenAI: chat, completions, embeddings; rerank, which has a total only; SGLang `/generate`.
    fn openai(&self) -> Option<u64> {
        self.get(&["prompt_tokens", "completion_tokens"]).max(self.get(&["total_tokens"]))
    }

    /// OpenAI's Responses and transcriptions; Anthropic, whose input leaves out what a cache read or
    /// wrote.
    fn messages(&self) -> Option<u64> {
        self.get(&[
            "input_tokens",
            "output_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
        ])
    }

    /// llama.cpp `/completion`: `prompt_n` leaves out what a cache had.
    fn llama_cpp(&self) -> Option<u64> {
        let timings = self.get(&["prompt_n", "cache_n", "predicted_n"]);
        timings.max(self.get(&["tokens_evaluated", "tokens_predicted"]))
    }

    /// Ollama `/api/chat` and `/api/generate`.
    fn ollama(&self) -> Option<u64> {
        self.get(&["prompt_eval_count", "eval_count"])
    }
}

/// The tokens of a `TokenUsage`.
fn typed_tokens(usage: &TokenUsage) -> Option<u64> {
    let sum = [usage.input_tokens, usage.output_tokens].into_iter().flatten();
    let sum = sum.reduce(u64::saturating_add);
    sum.max(usage.total_tokens).max(usage.provider_total_tokens)
}
