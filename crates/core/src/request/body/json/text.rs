//! Strings that the plan reads: names, references, types of parts, text of the prompt.

use std::borrow::Cow;

use super::{
    super::{
        content::{PartType, is_external, is_inline_medium},
        facts::ForbiddenCause,
        json_error::{JsonError, LENGTH, STRINGS},
        plan::{Expect, Node, SourceKey, Text, TextRole},
        scan::{RawString, Structure},
        steps,
    },
    Reader,
};

impl<'a> Reader<'a, '_> {
    /// Records a string at a node.
    pub(super) fn string(
        &mut self,
        node: &Node,
        string: &RawString<'a>,
    ) -> Result<(), Box<JsonError>> {
        if matches!(node.text_role, TextRole::Text | TextRole::Free) {
            self.add_prompt_text(string)?;
        }
        if node.has_marks && !string.inner.is_empty() {
            self.marked_string(node, string)?;
        }
        match &node.expect {
            Expect::Container { .. } | Expect::Cap(..) | Expect::Tool | Expect::List => {
                return Err(self.wrong_type());
            }
            Expect::AtMost(most) if !string.inner.is_empty() => {
                self.forbid("", ForbiddenCause::Over(*most));
            }
            Expect::Prompts { .. } => {
                self.facts.prompts = self.facts.prompts.saturating_add(1);
            }
            Expect::Part { strict } => self.part_type(string, *strict)?,
            Expect::Media(kind) => {
                self.scanner.count(Structure::Member)?;
                if let Some(parts) = self.parts() {
                    parts.keyed.add(*kind);
                }
                self.add_reference(string);
            }
            Expect::Reference => self.add_reference(string),
            Expect::Text(text) | Expect::Texts(text) => {
                if string.inner.len() > LENGTH {
                    return Err(JsonError::TooLong.into());
                }
                self.emit(*text, string.unescape()?)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Records the type of a part. `strict`: an unknown type hides text.
    fn part_type(&mut self, string: &RawString<'a>, strict: bool) -> Result<(), Box<JsonError>> {
        self.scanner.count(Structure::Member)?;
        // No known type is longer.
        let part_type = match string.inner.len() <= LENGTH {
            true => PartType::of(&string.unescape()?),
            false => PartType::Unknown,
        };
        match part_type {
            PartType::Medium(kind) => {
                if let Some(parts) = self.parts() {
                    parts.typed.add(kind);
                }
            }
            // The type of the part is unknown, so its text cannot be read.
            PartType::Unknown => self.facts.prompt_text.opaque |= strict,
            PartType::Text => {}
        }
        Ok(())
    }

    /// A string whose node has marks.
    fn marked_string(&mut self, node: &Node, string: &RawString<'a>) -> Result<(), Box<JsonError>> {
        self.scanner.count(Structure::Member)?;
        self.mark(node);
        if node.reference {
            self.add_reference(string);
        }
        if let Some(values) = node.values {
            let value = string.unescape()?;
            self.look_up(values, &value);
        }
        match node.source {
            Some(key) => self.source_member(key, string),
            None => Ok(()),
        }
    }

    /// A member of a source.
    fn source_member(
        &mut self,
        key: SourceKey,
        string: &RawString<'a>,
    ) -> Result<(), Box<JsonError>> {
        match key {
            SourceKey::Type => self.source.base64 = string.unescape()? == "base64",
            SourceKey::MediaType => {
                self.source.medium = is_inline_medium(&string.unescape()?);
            }
            SourceKey::Data => self.source.data = Some(string.clone()),
        }
        Ok(())
    }

    /// The end of a source: its data are text, or a medium in base64, or what cannot be read.
    pub(super) fn end_source(&mut self) -> Result<(), Box<JsonError>> {
        match self.source.data.take() {
            Some(_) if self.source.base64 => self.facts.prompt_text.opaque |= !self.source.medium,
            Some(data) => self.add_prompt_text(&data)?,
            None => {}
        }
        Ok(())
    }

    /// Adds a part of the prompt's text.
    fn add_prompt_text(&mut self, string: &RawString<'_>) -> Result<(), Box<JsonError>> {
        let limit = self.plan.prompt_text_limit;
        let prompt = &mut self.facts.prompt_text;
        // An escape decodes to at least a sixth of its length, so a longer string is not decoded.
        prompt.truncated |= string.inner.len() / 6 > limit.saturating_sub(prompt.text.len());
        if !prompt.truncated {
            prompt.add(&string.unescape()?, limit);
        }
        Ok(())
    }

    fn add_reference(&mut self, string: &RawString<'a>) {
        // The beginning decides. Clients have no reason to escape it.
        steps::count(string.inner.len().min(LENGTH) / 4);
        let escaped = string.inner.bytes().take(LENGTH).any(|byte| byte == b'\\');
        self.facts.external_reference |= escaped || is_external(string.inner);
    }

    /// Records a selected string.
    fn emit(&mut self, text: Text, value: Cow<'a, str>) -> Result<(), Box<JsonError>> {
        let message = self.facts.messages.last_mut();
        match text {
            Text::Model => self.facts.model = Some(value),
            Text::Category => self.facts.category = Some(value),
            Text::Tenant => self.facts.tenant = Some(value),
            Text::Adapter if value.is_empty() => {}
            Text::Adapter => self.facts.adapters.push(value),
            Text::Tool => {
                self.tool.is_named = true;
                self.facts.tools.push(value);
            }
            Text::ToolType if matches!(&*value, "function" | "custom") => {}
            Text::ToolType => {
                self.tool.has_own_type = true;
                self.facts.tools.push(value);
            }
            Text::Method => drop(message.map(|message| message.method = Some(value))),
            Text::Name => drop(message.map(|message| message.name = Some(value))),
            Text::Uri => drop(message.map(|message| message.uri = Some(value))),
        }
        if self.facts.tools.len() > STRINGS || self.facts.adapters.len() > STRINGS {
            Err(JsonError::TooMany.into())
        } else {
            Ok(())
        }
    }
}
