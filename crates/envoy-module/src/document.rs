//! Writes members at the top of a JSON document. Every other byte of it stays as it is.

use serde_json::{Map, Value};
use tollgate_core::rule::size::BodyChanges;

/// The member that asks a server for the usage of a stream.
const STREAM_OPTIONS: &str = "stream_options";

/// Returns the document with the members of `changes` in the place of its own; `None` where the text
/// is no object.
pub(crate) fn with_members(document: &[u8], changes: &BodyChanges) -> Option<Vec<u8>> {
    let members = members_of(changes);
    let mut written = Vec::with_capacity(document.len() + 128);
    written.push(b'{');
    for member in Members::of(document)? {
        let Member { key, text } = member?;
        if !members.contains_key(&key) {
            push(&mut written, text);
        }
    }
    for (name, value) in &members {
        let member = format!("{}:{value}", Value::from(name.as_str()));
        push(&mut written, member.as_bytes());
    }
    written.push(b'}');
    Some(written)
}

/// Whether there is nothing to write.
pub(crate) fn is_unchanged(changes: &BodyChanges) -> bool {
    changes.bounds.is_empty() && changes.stream_options.is_none()
}

fn members_of(changes: &BodyChanges) -> Map<String, Value> {
    let bounds = changes.bounds.iter();
    let bounds = bounds.map(|(name, most)| ((*name).to_owned(), Value::from(*most)));
    let options = changes.stream_options.clone();
    bounds.chain(options.map(|options| (STREAM_OPTIONS.to_owned(), options.into()))).collect()
}

fn push(written: &mut Vec<u8>, member: &[u8]) {
    if written.len() > 1 {
        written.push(b',');
    }
    written.extend_from_slice(member);
}

/// A member of an object: its decoded key, and its text from the key to the end of the value.
struct Member<'d> {
    key: String,
    text: &'d [u8],
}

/// The members of an object, read one after the other; `None` for a text that is no JSON.
struct Members<'d> {
    document: &'d [u8],
    at: usize,
    is_first: bool,
    has_ended: bool,
}

impl<'d> Members<'d> {
    fn of(document: &'d [u8]) -> Option<Self> {
        let mut members = Self { document, at: 0, is_first: true, has_ended: false };
        members.skip_space();
        members.accept(b'{').then_some(members)
    }

    fn peek(&self) -> Option<u8> {
        self.document.get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Reads to the end of a string, whose quote is next.
    fn skip_string(&mut self) -> Option<()> {
        if !self.accept(b'"') {
            return None;
        }
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    /// Reads to the end of a value.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        if self.peek() == Some(b',') {
            return None;
        }
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 && matches!(self.peek()?, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                return Some(());
            }
        }
    }

    /// Reads the next member; `None` at the end of the object.
    fn read(&mut self) -> Option<Option<Member<'d>>> {
        self.skip_space();
        if self.accept(b'}') {
            self.skip_space();
            return self.peek().is_none().then_some(None);
        }
        if !self.is_first && !self.accept(b',') {
            return None;
        }
        self.is_first = false;
        self.skip_space();
        let start = self.at;
        self.skip_string()?;
        let key = serde_json::from_slice(self.document.get(start..self.at)?).ok()?;
        self.skip_space();
        if !self.accept(b':') {
            return None;
        }
        self.skip_space();
        self.skip_value()?;
        Some(Some(Member { key, text: self.document.get(start..self.at)? }))
    }
}

impl<'d> Iterator for Members<'d> {
    type Item = Option<Member<'d>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let read = self.read();
        self.has_ended = !matches!(read, Some(Some(_)));
        match read {
            Some(member) => member.map(Some),
            None => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> BodyChanges {
        let options = serde_json::json!({ "include_usage": true });
        BodyChanges {
            bounds: vec![("max_tokens", 70)],
            stream_options: options.as_object().cloned(),
        }
    }

    #[test]
    fn members_at_the_top_are_written_and_every_other_byte_is_kept() {
        const END: &str = r#""max_tokens":70,"stream_options":{"include_usage":true}}"#;
        for (document, kept) in [
            (r#"{}"#, r"{"),
            (r#"{"model":"m"}"#, r#"{"model":"m","#),
            (r#" { "a" : 12345678901234567890.10 } "#, r#"{"a" : 12345678901234567890.10,"#),
            (r#"{"max_tokens":9999,"model":"m"}"#, r#"{"model":"m","#),
            (r#"{"max_\u0074okens":9999,"model":"m"}"#, r#"{"model":"m","#),
            (
                r#"{"max_tokens":1,"a":[{"max_tokens":2}],"max_tokens":3}"#,
                r#"{"a":[{"max_tokens":2}],"#,
            ),
            (
                r#"{"x":{"max_tokens":5,"s":"}{,\"max_tokens\":1"},"stream_options":null}"#,
                r#"{"x":{"max_tokens":5,"s":"}{,\"max_tokens\":1"},"#,
            ),
            ("{\"a\":true ,\n\"b\":[1,2] }\n", "{\"a\":true,\"b\":[1,2],"),
            (r#"{"k\"}":"\\"}"#, r#"{"k\"}":"\\","#),
        ] {
            let written = with_members(document.as_bytes(), &changes()).expect(document);
            let written = String::from_utf8(written).unwrap();
            assert_eq!(written, format!("{kept}{END}"), "{document}");
            let value: Value = serde_json::from_str(&written).unwrap();
            assert_eq!(value["max_tokens"], 70, "{document}");
        }
    }

    #[test]
    fn a_text_that_is_no_object_is_not_changed() {
        for document in [
            "",
            "[]",
            "7",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1} x"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a"#,
        ] {
            assert_eq!(with_members(document.as_bytes(), &changes()), None, "{document}");
        }
    }
}
