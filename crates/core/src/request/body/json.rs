//! The reader of JSON bodies: one pass, driven by a [`Plan`], that refuses what two readers could
//! read differently.
//!
//! The whole body is checked against RFC 8259 without building a tree. In every object that the
//! plan reads, a repeated key is refused (Python takes the last, others the first), and so is a key
//! that differs from a selected one only in case (Go's `encoding/json` folds case). Keys are
//! compared after unescaping. Only the values that the plan selects are kept.

use std::borrow::Cow;

use super::{
    content::{PartCounts, is_external, is_inline_medium, is_text_part, kind},
    facts::{BodyFacts, ForbiddenCause, ForbiddenMember, Message},
    json_error::{DEPTH, JsonError, KEYS, LENGTH, STRINGS},
    names::Found,
    plan::{Expect, Node, Plan, SourceKey, Text, TextRole, Unnamed},
    scan::{RawString, Scanner},
    seen_keys::SeenKeys,
    steps,
};

/// The largest integer that every JSON reader represents exactly (RFC 8259 section 6).
const INTEGER: u64 = (1 << 53) - 1;

/// Reads from a body what `plan` selects.
pub(super) fn read<'a>(bytes: &'a [u8], plan: &Plan) -> Result<BodyFacts<'a>, JsonError> {
    read_boxed(bytes, plan).map_err(|error| *error)
}

/// As [`read`]. A boxed error keeps the results of the functions below in registers.
fn read_boxed<'a>(bytes: &'a [u8], plan: &Plan) -> Result<BodyFacts<'a>, Box<JsonError>> {
    let mut reader = Reader {
        scanner: Scanner::new(bytes)?,
        plan,
        seen: SeenKeys::new(),
        typed: PartCounts::default(),
        keyed: PartCounts::default(),
        tool: ToolState::default(),
        source: Source::default(),
        facts: BodyFacts {
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            ..BodyFacts::default()
        },
    };
    reader.document()?;
    reader.facts.parts.add_larger(reader.typed, reader.keyed);
    Ok(reader.facts)
}

/// What is known of a tool while its object is read.
#[derive(Debug, Default)]
struct ToolState {
    /// The tool has a name.
    is_named: bool,
    /// The type of the tool identifies it, as for tools that the server runs itself.
    has_own_type: bool,
}

struct Reader<'a, 'p> {
    scanner: Scanner<'a>,
    plan: &'p Plan,
    /// Keys of the open objects.
    seen: SeenKeys<'a>,
    /// Parts of the innermost object, recognised by its type.
    typed: PartCounts,
    /// Parts of the innermost object, recognised by its keys.
    keyed: PartCounts,
    /// The innermost tool.
    tool: ToolState,
    /// The innermost object that is a source.
    source: Source<'a>,
    facts: BodyFacts<'a>,
}

/// The members of a source (Anthropic's images and documents): what `data` is depends on those beside it.
#[derive(Default)]
struct Source<'a> {
    data: Option<RawString<'a>>,
    base64: bool,
    medium: bool,
}

impl<'a, 'p> Reader<'a, 'p> {
    fn document(&mut self) -> Result<(), Box<JsonError>> {
        self.scanner.space();
        let root = self.plan.node(0).ok_or(JsonError::NotAnObject)?;
        match self.scanner.peek() {
            Some(b'{') => self.message(root, 1)?,
            Some(b'[') if self.plan.rpc => {
                self.facts.batch = true;
                let mut more = !self.scanner.opens_empty(b']');
                while more {
                    self.scanner.space();
                    if self.scanner.peek() != Some(b'{') {
                        return Err(JsonError::NotAnObject.into());
                    }
                    self.message(root, 2)?;
                    more = self.scanner.has_next(b']')?;
                }
            }
            Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                return Err(JsonError::NotAnObject.into());
            }
            _ => return Err(self.scanner.syntax()),
        }
        self.scanner.space();
        if self.scanner.at_end() { Ok(()) } else { Err(self.scanner.syntax()) }
    }

    fn message(&mut self, root: &'p Node, depth: usize) -> Result<(), Box<JsonError>> {
        if self.plan.rpc {
            if self.facts.messages.len() >= STRINGS {
                return Err(JsonError::TooMany.into());
            }
            self.facts.messages.push(Message::default());
        }
        self.object(root, depth).map(drop)
    }

    /// Reads a value with its node. `key` is the member that is or contains the value.
    fn value(&mut self, node: &'p Node, key: &str, depth: usize) -> Result<(), Box<JsonError>> {
        steps::count(1);
        let wrong = || Box::new(JsonError::WrongType(key.to_owned()));
        match &node.expect {
            Expect::Field(name) => {
                self.facts.forbid(|| ForbiddenMember::at(name.clone(), ForbiddenCause::Denied));
                return self.skip(depth);
            }
            // A member that is null is one that is left out.
            Expect::Denied if self.scanner.peek() != Some(b'n') => {
                self.facts.forbid(|| ForbiddenMember::here("", ForbiddenCause::Denied));
                return self.skip(depth);
            }
            _ => {}
        }
        let is_opaque = |byte: Option<u8>| match node.text_role {
            TextRole::None | TextRole::Free => false,
            // A number in place of text is a token.
            TextRole::Text => matches!(byte, Some(b'-' | b'0'..=b'9')),
            TextRole::Opaque => byte != Some(b'n'),
        };
        self.facts.prompt_text.opaque |= is_opaque(self.scanner.peek());
        match self.scanner.peek() {
            Some(b'{') => {
                if node.has_marks {
                    self.mark(node);
                }
                match &node.expect {
                    Expect::Text(_) | Expect::Texts(_) | Expect::Cap(..) | Expect::List => {
                        Err(wrong())
                    }
                    Expect::AtMost(most) => {
                        let cause = ForbiddenCause::Over(*most);
                        self.facts.forbid(|| ForbiddenMember::here("", cause));
                        self.skip(depth)
                    }
                    Expect::Tool => {
                        let outer = std::mem::take(&mut self.tool);
                        self.object(node, depth)?;
                        if !self.tool.is_named && !self.tool.has_own_type {
                            return Err(JsonError::NamelessTool.into());
                        }
                        self.tool = outer;
                        Ok(())
                    }
                    Expect::Media(kind) => {
                        self.keyed.add(*kind);
                        self.object(node, depth).map(drop)
                    }
                    Expect::Prompts { .. } => self.prompts_object(node, depth),
                    _ if self.shape(node).reads_members() => self.object(node, depth).map(drop),
                    _ => self.skip(depth),
                }
            }
            Some(b'[') => match &node.expect {
                Expect::Text(_)
                | Expect::Cap(..)
                | Expect::Container { lists: false }
                | Expect::Tool => Err(wrong()),
                Expect::AtMost(most) => self.empty_list(*most, depth),
                _ => self.list(node, key, depth),
            },
            Some(b'"') => {
                let string = self.scanner.string()?;
                self.string(node, key, &string)
            }
            _ => {
                let scalar = self.scanner.scalar()?;
                if scalar == "null" {
                    return Ok(());
                }
                if node.has_marks {
                    self.mark(node);
                    if let Some(values) = node.values
                        && matches!(scalar, "true" | "false")
                    {
                        self.look_up(values, scalar);
                    }
                }
                match &node.expect {
                    Expect::Cap(cap, name) => {
                        let number = integer(scalar)
                            .ok_or_else(|| JsonError::NotAnInteger(name.to_string()))?;
                        self.facts.cap(*cap, name, number);
                    }
                    Expect::AtMost(most) => {
                        let within = matches!(scalar, "true" | "false")
                            || integer(scalar).is_some_and(|number| number <= *most);
                        if !within {
                            let cause = ForbiddenCause::Over(*most);
                            self.facts.forbid(|| ForbiddenMember::here("", cause));
                        }
                    }
                    Expect::Text(_)
                    | Expect::Texts(_)
                    | Expect::Container { .. }
                    | Expect::Tool
                    | Expect::List => {
                        return Err(wrong());
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// The place whose members an object at `node` has.
    fn shape(&self, node: &'p Node) -> &'p Node {
        node.object.and_then(|place| self.plan.node(place)).unwrap_or(node)
    }

    /// Notes what a value that is there needs, and what it counts as.
    fn mark(&mut self, node: &Node) {
        if let Some(scope) = node.scope {
            self.facts.scopes |= 1 << scope;
        }
        if let Some(kind) = node.part {
            self.keyed.add(kind);
        }
    }

    /// A value that its table must list.
    fn look_up(&mut self, values: usize, value: &str) {
        let Some(table) = self.plan.node(values) else { return };
        let place = match (table.keys.get(value), table.unnamed) {
            (Some(place), _) => self.plan.node(place),
            (None, Unnamed::Forbid) => {
                self.facts.forbid(|| {
                    ForbiddenMember::here(&format!("={value}"), ForbiddenCause::Unlisted)
                });
                None
            }
            (None, _) => None,
        };
        let Some(place) = place else { return };
        if place.expect == Expect::Denied {
            self.facts
                .forbid(|| ForbiddenMember::here(&format!("={value}"), ForbiddenCause::Denied));
        }
        if let Some(scope) = place.scope {
            self.facts.scopes |= 1 << scope;
        }
        if let Some(kind) = place.part {
            self.typed.add(kind);
        }
    }

    /// An object where prompts are: one prompt, or without a table of its own one for each member.
    fn prompts_object(&mut self, node: &'p Node, depth: usize) -> Result<(), Box<JsonError>> {
        let outer = self.facts.prompts;
        let members = if self.shape(node).reads_members() {
            self.object(node, depth)?
        } else {
            self.skip(depth)?;
            1
        };
        let own = if self.shape(node).table { 1 } else { members.max(1) };
        self.add_prompts(outer, own);
        Ok(())
    }

    /// Adds `own` prompts to the `outer` ones; those counted within are the same prompts, seen closer.
    fn add_prompts(&mut self, outer: u64, own: u64) {
        let within = self.facts.prompts.saturating_sub(outer);
        self.facts.prompts = outer.saturating_add(own.max(within));
    }

    /// A list where a number must be: only an empty one says nothing.
    fn empty_list(&mut self, most: u64, depth: usize) -> Result<(), Box<JsonError>> {
        let before = self.scanner.rest();
        self.skip(depth)?;
        steps::count(before.len() - self.scanner.rest().len());
        let inside = before.get(1..before.len() - self.scanner.rest().len()).unwrap_or_default();
        if inside.bytes().any(|byte| !byte.is_ascii_whitespace() && byte != b']') {
            self.facts.forbid(|| ForbiddenMember::here("", ForbiddenCause::Over(most)));
        }
        Ok(())
    }

    /// Records a string at a node.
    fn string(
        &mut self,
        node: &Node,
        key: &str,
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
                Err(JsonError::WrongType(key.to_owned()).into())
            }
            Expect::AtMost(most) => {
                if !string.inner.is_empty() {
                    let cause = ForbiddenCause::Over(*most);
                    self.facts.forbid(|| ForbiddenMember::here("", cause));
                }
                Ok(())
            }
            Expect::Prompts { .. } => {
                self.facts.prompts = self.facts.prompts.saturating_add(1);
                Ok(())
            }
            // No known type is longer.
            Expect::Part { strict } => {
                let short = Some(string).filter(|string| string.inner.len() <= LENGTH);
                let part_type = short.map(RawString::unescape).transpose()?;
                match part_type.as_deref().and_then(kind) {
                    Some(kind) => self.typed.add(kind),
                    // The type of the part is unknown, so its text cannot be read.
                    None if *strict => {
                        self.facts.prompt_text.opaque |=
                            !part_type.is_some_and(|t| is_text_part(&t));
                    }
                    None => {}
                }
                Ok(())
            }
            Expect::Media(kind) => {
                self.keyed.add(*kind);
                self.add_reference(string);
                Ok(())
            }
            Expect::Reference => {
                self.add_reference(string);
                Ok(())
            }
            Expect::Text(text) | Expect::Texts(text) => {
                if string.inner.len() > LENGTH {
                    return Err(JsonError::TooLong.into());
                }
                let value = string.unescape()?;
                self.emit(*text, value)
            }
            _ => Ok(()),
        }
    }

    /// A string whose node has marks.
    fn marked_string(&mut self, node: &Node, string: &RawString<'a>) -> Result<(), Box<JsonError>> {
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
    fn end_source(&mut self) -> Result<(), Box<JsonError>> {
        match self.source.data.take() {
            Some(_) if self.source.base64 => self.facts.prompt_text.opaque |= !self.source.medium,
            Some(data) => self.add_prompt_text(&data)?,
            None => {}
        }
        Ok(())
    }

    /// Adds a part of the prompt's text.
    fn add_prompt_text(&mut self, string: &RawString<'_>) -> Result<(), Box<JsonError>> {
        let prompt = &mut self.facts.prompt_text;
        let room = self.plan.prompt_text_limit.saturating_sub(prompt.text.len());
        // An escape decodes to at least a sixth of its length, so a longer string is not decoded.
        prompt.truncated |= string.inner.len() / 6 > room;
        if prompt.truncated {
            return Ok(());
        }
        let text = string.unescape()?;
        prompt.truncated |= text.len() >= room;
        if !prompt.truncated {
            steps::count(text.len() / 8);
            prompt.text.push_str(&text);
            prompt.text.push('\n');
        }
        Ok(())
    }

    fn add_reference(&mut self, string: &RawString<'a>) {
        // The beginning decides. Clients have no reason to escape it.
        steps::count(string.inner.len().min(LENGTH));
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

    /// Reads an object whose members are read, and returns their number.
    fn object(&mut self, node: &'p Node, depth: usize) -> Result<u64, Box<JsonError>> {
        let node = self.shape(node);
        if depth > DEPTH {
            return Err(JsonError::TooDeep.into());
        }
        let tool = node.tool.then(|| std::mem::take(&mut self.tool));
        if self.scanner.opens_empty(b'}') {
            return if tool.is_some() { Err(JsonError::NamelessTool.into()) } else { Ok(0) };
        }
        let outer = (std::mem::take(&mut self.typed), std::mem::take(&mut self.keyed));
        let source = node.has_source.then(|| std::mem::take(&mut self.source));
        let mut open = self.seen.open();
        loop {
            let raw = self.scanner.key()?;
            if raw.inner.len() > LENGTH {
                return Err(JsonError::TooLong.into());
            }
            let key = raw.unescape()?;
            if self.seen.contains(&mut open, &key) {
                return Err(JsonError::RepeatedKey.into());
            }
            if self.seen.count(&open) >= KEYS {
                return Err(JsonError::TooManyKeys.into());
            }
            if node.text_role == TextRole::Free {
                self.add_prompt_text(&raw)?;
            }
            let before = self.facts.forbidden.is_some();
            let place = match (member(node, &key)?, node.unnamed) {
                (Some(place), _) | (None, Unnamed::Read(place)) => self.plan.node(place),
                (None, Unnamed::Skip) => None,
                (None, Unnamed::Forbid) => {
                    self.facts.forbid(|| ForbiddenMember::here("", ForbiddenCause::Unlisted));
                    None
                }
            };
            match place {
                Some(place) => self.value(place, &key, depth + 1)?,
                None => self.skip(depth + 1)?,
            }
            if !before && let Some(member) = &mut self.facts.forbidden {
                member.within(&key);
            }
            self.seen.push(key);
            if !self.scanner.has_next(b'}')? {
                break;
            }
        }
        let count = self.seen.close(open);
        self.facts.parts.add_larger(self.typed, self.keyed);
        (self.typed, self.keyed) = outer;
        if let Some(outer) = source {
            self.end_source()?;
            self.source = outer;
        }
        if let Some(outer) = tool {
            if !self.tool.is_named && !self.tool.has_own_type {
                return Err(JsonError::NamelessTool.into());
            }
            self.tool = outer;
        }
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// Reads a list whose elements may be read.
    fn list(&mut self, node: &'p Node, key: &str, depth: usize) -> Result<(), Box<JsonError>> {
        if depth > DEPTH {
            return Err(JsonError::TooDeep.into());
        }
        let element = match &node.expect {
            Expect::Texts(_) | Expect::Media(_) | Expect::Reference => Some(node),
            _ => node.element.and_then(|place| self.plan.node(place)),
        };
        let conversation = node.expect == Expect::Prompts { conversation: true };
        let outer = self.facts.prompts;
        let mut prompts = 0;
        let mut more = !self.scanner.opens_empty(b']');
        while more {
            self.scanner.space();
            // A list of numbers is one prompt in tokens; a list of messages is one conversation.
            prompts += match self.scanner.peek() {
                Some(b'"' | b'[') => 1,
                Some(b'{') => u64::from(!conversation),
                _ => 0,
            };
            let before = self.facts.forbidden.is_some();
            match element {
                Some(element) => self.value(element, key, depth + 1)?,
                None => self.skip(depth + 1)?,
            }
            if !before && let Some(member) = &mut self.facts.forbidden {
                member.within("[]");
            }
            more = self.scanner.has_next(b']')?;
        }
        if matches!(node.expect, Expect::Prompts { .. }) {
            self.add_prompts(outer, prompts.max(1));
        }
        Ok(())
    }

    /// Checks and skips a value of any type, whatever is in it, without a call for each level.
    fn skip(&mut self, depth: usize) -> Result<(), Box<JsonError>> {
        const { assert!(DEPTH <= u64::BITS as usize, "each open level has a bit") };
        // A bit for each open level, the innermost last: whether it is an object.
        let (mut objects, mut open) = (0_u64, 0);
        loop {
            steps::count(1);
            match self.scanner.peek() {
                Some(b'"') => drop(self.scanner.skip_string()?),
                Some(byte @ (b'{' | b'[')) => {
                    if depth + open > DEPTH {
                        return Err(JsonError::TooDeep.into());
                    }
                    let is_object = byte == b'{';
                    if !self.scanner.opens_empty(if is_object { b'}' } else { b']' }) {
                        (objects, open) = (objects << 1 | u64::from(is_object), open + 1);
                        if is_object {
                            self.scanner.skip_key()?;
                        }
                        continue;
                    }
                }
                _ => self.scanner.skip_scalar()?,
            }
            // The value may be the last one of the innermost level, which then ends as well.
            loop {
                if open == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                if !self.scanner.has_next(if is_object { b'}' } else { b']' })? {
                    (objects, open) = (objects >> 1, open - 1);
                    continue;
                }
                if is_object {
                    self.scanner.skip_key()?;
                } else {
                    self.scanner.space();
                }
                break;
            }
        }
    }
}

/// Parses an integer that every reader reads alike: digits only, no sign, fraction or exponent.
pub(super) fn integer(scalar: &str) -> Option<u64> {
    let digits = scalar.bytes().all(|byte| byte.is_ascii_digit());
    scalar.parse().ok().filter(|number| digits && *number <= INTEGER)
}

/// Returns the node of the member `key`.
///
/// Refuses a key that Go reads as another, selected one: Go folds ASCII case, and the two other
/// letters that fold into ASCII (long s and the Kelvin sign).
fn member(node: &Node, key: &str) -> Result<Option<usize>, Box<JsonError>> {
    match node.keys.find(key) {
        Found::Place(place) => Ok(Some(place)),
        Found::Variant(name) => Err(JsonError::CaseVariant(name.to_string()).into()),
        Found::None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::json_error::NUMBER, *};

    fn string_at<'a>(body: &'a [u8], pointer: &str) -> Result<Option<Cow<'a, str>>, JsonError> {
        let mut plan = Plan::default();
        plan.model(&pointer.parse().unwrap()).unwrap();
        read(body, &plan).map(|facts| facts.model)
    }

    fn model(body: &str) -> Result<Option<String>, JsonError> {
        string_at(body.as_bytes(), "/model").map(|found| found.map(Cow::into_owned))
    }

    #[test]
    fn the_string_is_found_at_every_position() {
        for body in [
            r#"{"model":"m"}"#,
            r#" { "messages" : [ { "model" : "x", "n" : -1.5e+3 } , [] , {} ] , "model" : "m" } "#,
            "{\"a\":null,\"b\":[true,false,0,10,0.5],\"model\":\"m\",\"c\":{\"d\":{}}}\n",
            r#"{"model":"\u006d"}"#,
            r#"{"mod\u0065l":"m"}"#,
            r#"{"emoji":"\ud83d\ude00","model":"m"}"#,
        ] {
            assert_eq!(model(body), Ok(Some("m".into())), "{body}");
        }
        let nested = "/session/model";
        assert_eq!(
            string_at(br#"{"model":"a","session":{"model":"b"}}"#, nested),
            Ok(Some("b".into()))
        );
        assert_eq!(
            string_at(br#"{"session":[]}"#, nested),
            Err(JsonError::WrongType("session".into()))
        );
    }

    #[test]
    fn an_absent_model_is_absent_and_a_wrong_one_is_an_error() {
        assert_eq!(model(r#"{}"#), Ok(None));
        assert_eq!(model(r#"{"x":{"model":"m"}}"#), Ok(None));
        assert_eq!(model(r#"{"model":null}"#), Ok(None));
        for body in
            [r#"{"model":1}"#, r#"{"model":["m"]}"#, r#"{"model":{"a":"m"}}"#, r#"{"model":true}"#]
        {
            assert_eq!(model(body), Err(JsonError::WrongType("model".into())), "{body}");
        }
    }

    #[test]
    fn what_two_readers_read_differently_is_refused() {
        let repeated = [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"x":1,"x":2,"model":"a"}"#,
            r#"{"model":"a","model":"a"}"#,
        ];
        for body in repeated {
            assert_eq!(model(body), Err(JsonError::RepeatedKey), "{body}");
        }
        for body in [
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MODEL":"b"}"#,
            r#"{"mode\u004c":"b","model":"a"}"#,
        ] {
            assert_eq!(model(body), Err(JsonError::CaseVariant("model".into())), "{body}");
        }
        let tasks = "/tasks";
        assert_eq!(
            string_at("{\"ta\u{17f}k\u{17f}\":\"x\"}".as_bytes(), tasks),
            Err(JsonError::CaseVariant("tasks".into()))
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let bodies: [&[u8]; 35] = [
            b"",
            b" ",
            b"{",
            b"}",
            b"{]",
            b"\xef\xbb\xbf{\"model\":\"m\"}",
            b"\xff\xfe{\x00}\x00",
            b"{\"model\":\"m\"}x",
            b"{\"model\":\"m\"}\0",
            b"{\"model\":\"m\"}{}",
            b"{\"model\":\"m\",}",
            b"{,\"model\":\"m\"}",
            b"{model:\"m\"}",
            b"{'model':'m'}",
            b"{\"model\":\"m\" \"a\":1}",
            b"{\"model\" \"m\"}",
            b"{\"a\":NaN}",
            b"{\"a\":Infinity}",
            b"{\"a\":-}",
            b"{\"a\":01}",
            b"{\"a\":1.}",
            b"{\"a\":.5}",
            b"{\"a\":1e}",
            b"{\"a\":+1}",
            b"{\"a\":0x10}",
            b"{\"a\":tru}",
            b"{\"a\":[1,]}",
            b"{\"a\":[1 2]}",
            b"{\"a\":\"\x01\"}",
            b"{\"a\":\"\\x\"}",
            b"{\"a\":\"\\u12\"}",
            b"{\"a\":\"\\ud800\"}",
            b"{\"\\udc00\":1}",
            b"{\"a\":\"\xff\"}",
            b"/**/{}",
        ];
        for body in bodies {
            assert!(
                matches!(string_at(body, "/model"), Err(JsonError::Syntax(_))),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
        for body in ["[]", "\"x\"", "1", "null", "[{\"model\":\"m\"}]"] {
            assert_eq!(model(body), Err(JsonError::NotAnObject), "{body}");
        }
    }

    #[test]
    fn depth_and_keys_are_bounded() {
        let nested = |levels: usize| {
            format!("{{\"model\":\"m\",\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels))
        };
        assert_eq!(model(&nested(DEPTH - 1)), Ok(Some("m".into())));
        assert_eq!(model(&nested(DEPTH)), Err(JsonError::TooDeep));
        assert_eq!(model(&nested(100_000)), Err(JsonError::TooDeep));
        for places in [r#"{"model":"m","a":[NUMBER]}"#, r#"{"model":"m","a":{"b":-0.NUMBER}}"#] {
            assert_eq!(
                model(&places.replace("NUMBER", &"1".repeat(NUMBER - 3))),
                Ok(Some("m".into()))
            );
            assert_eq!(
                model(&places.replace("NUMBER", &"1".repeat(NUMBER + 1))),
                Err(JsonError::LongNumber)
            );
        }
        let keys = |count: usize| {
            format!(
                "{{\"model\":\"m\",{}}}",
                (1..count).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(",")
            )
        };
        assert_eq!(model(&keys(KEYS)), Ok(Some("m".into())));
        assert_eq!(model(&keys(KEYS + 1)), Err(JsonError::TooManyKeys));
    }

    #[test]
    fn serde_json_agrees_on_what_is_json() {
        // Every prefix of a body with all kinds of values: either both read it or neither.
        let body =
            r#"{"a":[1,-2.5e3,true,false,null,"x\n\u00e9\ud83d\ude00",{"b":{}}],"model":"m"}"#;
        for end in 0..=body.len() {
            let prefix = &body[..end];
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(prefix).is_ok(),
                model(prefix).is_ok(),
                "{prefix}"
            );
        }
    }
}
