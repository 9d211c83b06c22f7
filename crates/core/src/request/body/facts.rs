//! The facts that are read from a body.

use std::{borrow::Cow, sync::Arc};

use super::{content::Parts, plan::Cap, steps};

/// The facts that a plan selects from a body. Strings are borrowed from the body unless they
/// contain escapes.
#[derive(Debug, Default)]
pub struct BodyFacts<'a> {
    /// The length of the body in bytes.
    pub bytes: u64,
    /// The name of the model.
    pub model: Option<Cow<'a, str>>,
    /// The tenant that the body names.
    pub tenant: Option<Cow<'a, str>>,
    /// The names of adapters.
    pub adapters: Vec<Cow<'a, str>>,
    /// The largest number under each name of a [`Cap`].
    pub caps: Vec<CappedNumber>,
    /// The number of prompts, in all members that contain them.
    pub prompts: u64,
    /// The first member that the route forbids.
    pub forbidden: Option<ForbiddenMember>,
    /// The scopes that members need, as bits: their places in `Tables::scopes`.
    pub scopes: u64,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CappedNumber {
    /// The cap that limits it.
    pub cap: Cap,
    /// The name of the member.
    pub name: Arc<str>,
    /// The value of the number.
    pub value: u64,
}

/// A member that the route forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForbiddenMember {
    /// Its place: `messages[].content[].uuid`, `tools[].type=mcp`, or `?model` for a parameter of the query.
    pub name: String,
    /// Why it is forbidden.
    pub cause: ForbiddenCause,
    /// Whether `name` is complete; otherwise the objects around it add theirs.
    pub(super) complete: bool,
}

/// Why a member is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForbiddenCause {
    /// It is denied by name.
    Denied,
    /// It is not among the members that are allowed.
    Unlisted,
    /// Its value is not a number of at most this.
    Over(u64),
}

/// How many bytes of each name are kept in the place of a member.
const SEGMENT: usize = 64;

impl ForbiddenMember {
    /// A member whose whole place is known.
    pub fn at(name: impl Into<String>, cause: ForbiddenCause) -> Self {
        Self { name: name.into(), cause, complete: true }
    }

    /// The value that is read now; the objects around it add their names.
    pub(super) fn here(value: &str, cause: ForbiddenCause) -> Self {
        Self { name: segment(value).to_owned(), cause, complete: false }
    }

    /// Adds the name of the member, or `[]` for the list, that the place is in.
    pub(super) fn within(&mut self, outer: &str) {
        if self.complete {
            return;
        }
        let separated = self.name.is_empty() || self.name.starts_with(['[', '=']);
        let dot = if separated { "" } else { "." };
        self.name = format!("{}{dot}{}", segment(outer), self.name);
    }
}

/// The beginning of a name.
fn segment(name: &str) -> &str {
    let end = (0..=SEGMENT.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// The text of a prompt; its parts are separated by line breaks.
#[derive(Debug, Default)]
pub struct PromptText {
    /// The text, up to the limit of the plan.
    pub text: String,
    /// Whether the prompt exceeds the limit.
    pub truncated: bool,
    /// Whether a part of the prompt is not text but tokens, embeddings, or of an unknown type.
    pub opaque: bool,
}

impl PromptText {
    /// Adds a part, if the text stays below the limit with it.
    pub(super) fn add(&mut self, part: &str, limit: usize) {
        self.truncated |= part.len() >= limit.saturating_sub(self.text.len());
        if !self.truncated {
            steps::count(part.len() / 8);
            self.text.push_str(part);
            self.text.push('\n');
        }
    }
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

impl BodyFacts<'_> {
    /// Records a forbidden member, unless there is one already.
    pub(super) fn forbid(&mut self, member: impl FnOnce() -> ForbiddenMember) {
        self.forbidden.get_or_insert_with(member);
    }

    /// Adds the facts of a parameter of the query.
    pub(super) fn merge_parameter(&mut self, parameter: BodyFacts<'_>) {
        if let Some(member) = parameter.forbidden {
            self.forbid(|| member);
        }
        for CappedNumber { cap, name, value } in &parameter.caps {
            self.cap(*cap, name, *value);
        }
        self.scopes |= parameter.scopes;
        self.external_reference |= parameter.external_reference;
        self.adapters
            .extend(parameter.adapters.into_iter().map(|name| Cow::Owned(name.into_owned())));
        self.prompt_text.opaque |=
            parameter.prompt_text.opaque || !parameter.prompt_text.text.is_empty();
    }

    /// Records a number under a name: the largest counts.
    pub(super) fn cap(&mut self, cap: Cap, name: &Arc<str>, value: u64) {
        match self.caps.iter_mut().find(|known| known.name == *name) {
            Some(known) => known.value = known.value.max(value),
            None => self.caps.push(CappedNumber { cap, name: Arc::clone(name), value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_put_together_from_within() {
        let mut value = ForbiddenMember::here("=mcp", ForbiddenCause::Denied);
        for outer in ["type", "[]", "tools"] {
            value.within(outer);
        }
        assert_eq!(value.name, "tools[].type=mcp");
        let mut member = ForbiddenMember::here("", ForbiddenCause::Denied);
        for outer in ["uuid", "[]", "content", "[]", "messages"] {
            member.within(outer);
        }
        assert_eq!(member.name, "messages[].content[].uuid");
        let long = ForbiddenMember::here(&"\u{e9}".repeat(100), ForbiddenCause::Unlisted);
        assert_eq!(long.name.len(), 64);
    }
}
