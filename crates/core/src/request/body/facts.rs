//! The facts that are read from a body.

use std::borrow::Cow;

use super::{content::Parts, plan::Cap};

/// The facts that a plan selects from a body. Strings are borrowed from the body unless they
/// contain escapes.
#[derive(Debug, Default)]
pub struct BodyFacts<'a> {
    /// The length of the body in bytes.
    pub bytes: u64,
    /// The name of the model.
    pub model: Option<Cow<'a, str>>,
    /// The names of adapters.
    pub adapters: Vec<Cow<'a, str>>,
    /// The largest number under each name of a [`Cap`].
    pub caps: Vec<CappedNumber>,
    /// The number of prompts in the longest list of prompts.
    pub prompts: u64,
    /// The first member that the route forbids.
    pub forbidden: Option<String>,
    /// The number of content parts of each kind.
    pub parts: Parts,
    /// Whether a part refers to a URL or a file that the server would fetch.
    pub external_reference: bool,
    /// The names of tools, and the types of tools that the server runs itself.
    pub tools: Vec<Cow<'a, str>>,
    /// The category that the body declares.
    pub category: Option<Cow<'a, str>>,
    /// The text of the prompt, if it is classified.
    pub prompt_text: PromptText,
    /// The JSON-RPC messages.
    pub messages: Vec<Message<'a>>,
    /// Whether the messages are sent as a list.
    pub batch: bool,
}

/// A number of the body that a [`Cap`] limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CappedNumber {
    /// The cap that limits it.
    pub cap: Cap,
    /// The name of the member.
    pub name: &'static str,
    /// The value of the number.
    pub value: u64,
}

/// The text of a prompt; its parts are separated by line breaks.
#[derive(Debug, Default)]
pub struct PromptText {
    /// The text, up to the limit of the plan.
    pub text: String,
    /// Whether the prompt exceeds the limit.
    pub truncated: bool,
    /// Whether a part of the prompt is not text but tokens or embeddings.
    pub opaque: bool,
}

/// One JSON-RPC message. A message without a method is a response.
#[derive(Debug, Default)]
pub struct Message<'a> {
    /// The member `method`.
    pub method: Option<Cow<'a, str>>,
    /// The member `params.name`.
    pub name: Option<Cow<'a, str>>,
    /// The member `params.uri`.
    pub uri: Option<Cow<'a, str>>,
}
