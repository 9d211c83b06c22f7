//! Reads the usage of a response while it passes, without holding it: members of bodies and lines of
//! JSON, and objects of the events of a stream.

#[cfg(test)]
mod tests;

use std::mem;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::document::Document;
use crate::adapter::access_log::usage::{
    ANTHROPIC_START, EACH_EVENT, INDEX, LLAMA_CPP, Members, RESPONSES, SGLANG, USAGE,
};

/// Bytes of an event above which it is not read.
const MAX_EVENT: usize = 10 << 20;

/// Reads the pieces of one response.
#[derive(Debug, Default)]
pub(in crate::adapter) struct Scanner {
    form: Form,
    members: Members,
}

/// The form of a body.
#[derive(Debug, Default)]
enum Form {
    /// A body that is not read.
    #[default]
    Unread,
    /// JSON, or lines of JSON.
    Json(Document),
    /// A stream of events.
    Events(Events),
}

impl Scanner {
    /// Returns the scanner for a content type. A body that is encoded is not read.
    pub(in crate::adapter) fn of(content_type: &[u8], is_encoded: bool) -> Self {
        let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let is = |name: &str| kind.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        let form = if is_encoded {
            Form::Unread
        } else if is("text/event-stream") {
            Form::Events(Events::default())
        } else if is("application/json") || is("application/x-ndjson") || is("application/jsonl") {
            Form::Json(Document::default())
        } else {
            Form::Unread
        };
        Self { form, members: Members::default() }
    }

    /// What was read so far.
    pub(in crate::adapter) fn members(&self) -> &Members {
        &self.members
    }

    /// Reads a piece. Returns whether it had usage.
    pub(in crate::adapter) fn read(&mut self, piece: &[u8]) -> bool {
        match &mut self.form {
            Form::Unread => false,
            Form::Json(document) => document.read(piece, &mut self.members),
            Form::Events(events) => events.read(piece, &mut self.members),
        }
    }
}

/// A stream of events.
#[derive(Debug, Default)]
struct Events {
    /// The line that has not ended.
    line: Vec<u8>,
    /// The data of the event that has not ended.
    data: Vec<u8>,
    /// Whether the event is too large to be read.
    is_skipped: bool,
    /// Whether the last line ended with a carriage return, whose line feed may follow.
    has_return: bool,
    /// Whether an event had a usage.
    has_counted: bool,
}

/// The members of an event that tell its usage.
#[derive(Deserialize)]
struct Event<'e> {
    #[serde(borrow)]
    usage: Option<&'e RawValue>,
    #[serde(borrow)]
    message: Option<&'e RawValue>,
    #[serde(borrow)]
    response: Option<&'e RawValue>,
    #[serde(borrow)]
    meta_info: Option<&'e RawValue>,
    #[serde(borrow)]
    index: Option<&'e RawValue>,
    #[serde(borrow)]
    timings: Option<&'e RawValue>,
}

/// The usage in an object of an event.
#[derive(Deserialize)]
struct Nested<'e> {
    #[serde(borrow)]
    usage: Option<&'e RawValue>,
}

impl Events {
    fn read(&mut self, piece: &[u8], members: &mut Members) -> bool {
        let mut found = false;
        let mut rest = piece;
        while let Some((first, after)) = rest.split_first() {
            if mem::take(&mut self.has_return) && *first == b'\n' {
                rest = after;
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let Some(end) = end else {
                self.keep(rest);
                break;
            };
            if end > 0 {
                self.keep(rest.get(..end).unwrap_or_default());
            }
            self.has_return = rest.get(end) == Some(&b'\r');
            rest = rest.get(end + 1..).unwrap_or_default();
            found |= self.end_line(members);
        }
        found
    }

    /// Keeps a part of a line.
    fn keep(&mut self, part: &[u8]) {
        if self.line.len() + self.data.len() + part.len() > MAX_EVENT {
            self.is_skipped = true;
            self.line = Vec::new();
            self.data = Vec::new();
        }
        if !self.is_skipped {
            self.line.extend_from_slice(part);
        } else if self.line.is_empty() {
            // Distinguishes the line from an empty one, which ends the event.
            self.line.push(b' ');
        }
    }

    /// Takes the line that has ended; an empty one ends its event.
    fn end_line(&mut self, members: &mut Members) -> bool {
        if !self.line.is_empty() {
            if let Some(data) = self.line.strip_prefix(b"data:").filter(|_| !self.is_skipped) {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
            self.line.clear();
            return false;
        }
        self.is_skipped = false;
        let found = self.objects(members);
        self.data.clear();
        found
    }

    /// Keeps the objects of the event that has ended that tell its usage.
    fn objects(&mut self, members: &mut Members) -> bool {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(&self.data) else { return false };
        // A server writes `null` in the events before the one with its usage.
        let usage = text_of(event.usage).filter(|usage| *usage != "null");
        members.set_flag(EACH_EVENT, usage.is_some() && self.has_counted);
        self.has_counted |= usage.is_some();
        let mut found = false;
        for (key, object) in [
            (USAGE, usage),
            (ANTHROPIC_START, nested(event.message)),
            (RESPONSES, nested(event.response)),
            (SGLANG, text_of(event.meta_info)),
            (INDEX, text_of(event.index)),
            (LLAMA_CPP, text_of(event.timings)),
        ] {
            if let Some(object) = object.filter(|object| *object != "null") {
                members.replace(key, object);
                found |= key != INDEX;
            }
        }
        found
    }
}

/// Returns the usage in an object.
fn nested(object: Option<&RawValue>) -> Option<&str> {
    let object = object.filter(|object| object.get().starts_with('{'))?;
    text_of(serde_json::from_str::<Nested<'_>>(object.get()).ok()?.usage)
}

fn text_of(object: Option<&RawValue>) -> Option<&str> {
    object.map(RawValue::get)
}
