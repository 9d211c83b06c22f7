//! What was read from a body.

use std::borrow::Cow;

use super::{content::Parts, plan::Cap};

/// What a body says about what its route asked for. Strings are borrowed from the body unless they hold escapes.
#[derive(Debug, Default)]
pub struct BodyFacts<'a> {
    /// The length of the body in bytes.
    pub bytes: u64,
    /// The model.
    pub model: Option<Cow<'a, str>>,
    /// Names of adapters.
    pub adapters: Vec<Cow<'a, str>>,
    /// The largest number under each name of a [`Cap`]: the cap, the name, the number.
    pub caps: Vec<(Cap, &'static str, u64)>,
    /// How many prompts there are in the longest list of them.
    pub prompts: u64,
    /// The first member that the route forbids.
    pub forbidden: Option<String>,
    /// Content parts.
    pub parts: Parts,
    /// Whether a part refers to a URL or a file that the server would fetch.
    pub external_reference: bool,
    /// Names of tools, and types of tools that the server itself runs.
    pub tools: Vec<Cow<'a, str>>,
    /// The category that the body declares.
    pub category: Option<Cow<'a, str>>,
    /// The text of the prompt.
    pub prompt_text: PromptText,
    /// JSON-RPC messages.
    pub messages: Vec<Message<'a>>,
    /// Whether the messages came as a list.
    pub batch: bool,
}

/// The text of a prompt, with its parts one below the other.
#[derive(Debug, Default)]
pub struct PromptText {
    /// The text, as far as there is room for it.
    pub text: String,
    /// Whether there is more.
    pub truncated: bool,
    /// Whether some of the prompt is no text: tokens, or embeddings.
    pub opaque: bool,
}

/// One JSON-RPC message. One without a method is an answer.
#[derive(Debug, Default)]
pub struct Message<'a> {
    /// `method`.
    pub method: Option<Cow<'a, str>>,
    /// `params.name`.
    pub name: Option<Cow<'a, str>>,
    /// `params.uri`.
    pub uri: Option<Cow<'a, str>>,
}
