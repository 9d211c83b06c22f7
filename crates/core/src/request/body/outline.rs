//! The outline of a JSON body: what metering reads of it, whatever the rules of the route read.
//!
//! The objects and lists that have a [`Place`] are levels of one loop; everything else is skipped by
//! the scanner. A repeated key is refused in all of them.

mod place;

use self::place::Place;
use super::{
    content::{Kind, PartType},
    distinct::Distinct,
    json_error::{DEPTH, JsonError, LENGTH},
    plan::answer_bound,
    scan::{RawString, Scanner, Structure, is_exact},
    seen_keys::{OpenKeys, SeenKeys},
};

/// What metering reads of a JSON body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline<'a> {
    /// The elements of `messages` and of a list `input`.
    pub messages: u64,
    /// Whether the request declares tools, which the server writes into the prompt.
    pub has_tools: bool,
    /// Whether the prompt has a part that is stored at the server, or a template of the client, so
    /// that the body does not bound its length.
    pub is_open: bool,
    /// Whether the answer is streamed.
    pub is_streamed: bool,
    /// Whether the server answers before it has generated.
    pub background: Background,
    /// The members of `stream_options`, with their JSON.
    pub stream_options: Vec<(String, &'a str)>,
    /// The members of the document that bound an answer, with their values.
    pub bounds: Vec<(&'static str, u64)>,
    /// The largest number that bounds an answer in an object of settings, with its name.
    pub nested_bound: Option<(&'static str, u64)>,
    /// The images, clips and videos that are parts of messages.
    pub media: u64,
    /// The bytes of those that are part of the body: no server reads them as text.
    pub media_bytes: u64,
    /// Whether a proxy that reads numbers as doubles writes the same document again.
    pub is_exact: bool,
}

/// The member `background`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Background {
    /// It is left out, `null` or `false`.
    #[default]
    No,
    /// It is `true`.
    Yes,
    /// It has another type. Servers differ in what they read.
    Unclear,
}

/// Reads the outline of a body.
pub(super) fn read(bytes: &[u8]) -> Result<Outline<'_>, JsonError> {
    let scanner = Scanner::new(bytes).map_err(|error| *error)?;
    let mut reader = Reader {
        read: Distinct::new(SeenKeys::new(scanner.text())),
        scanner,
        levels: Vec::with_capacity(8),
        member: None,
        parts: Vec::new(),
        outline: Outline::default(),
    };
    reader.document().map_err(|error| *error)?;
    Ok(Outline { is_exact: reader.read.is_exact, ..reader.outline })
}

struct Reader<'a> {
    scanner: Scanner<'a>,
    read: Distinct<'a>,
    /// The objects and lists that are open and have a place of their own, the innermost last.
    levels: Vec<Level>,
    /// The place of the member of the innermost object whose value is next, if its key was read before
    /// the object was one of them.
    member: Option<Place>,
    /// The parts of messages that are open, the innermost last.
    parts: Vec<Part>,
    outline: Outline<'a>,
}

/// An open object or list.
struct Level {
    /// The keys of an object.
    keys: OpenKeys,
    place: Place,
    /// The bracket that closes it.
    close: u8,
}

/// What is known of a part of a message while it is read.
#[derive(Clone, Copy, Default)]
struct Part {
    kind: PartKind,
    /// The bytes of the strings that hold a medium.
    bytes: u64,
    /// The media within it, and their bytes: those of the result of a tool.
    inner: (u64, u64),
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum PartKind {
    Medium,
    ToolResult,
    #[default]
    Other,
}

impl PartKind {
    /// The kind of a part with a type. A document is text, in whatever form it comes.
    fn of(text: &RawString<'_>) -> Result<Self, Box<JsonError>> {
        if text.inner.len() > LENGTH {
            return Ok(Self::Other);
        }
        let name = text.unescape()?;
        Ok(match PartType::of(&name) {
            PartType::Medium(Kind::Image | Kind::Audio | Kind::Video) => Self::Medium,
            _ if name == "tool_result" => Self::ToolResult,
            _ => Self::Other,
        })
    }
}

/// A value, as far as the outline has it.
enum Value<'a> {
    Scalar(&'a str),
    Text(RawString<'a>),
    /// Whether it has elements.
    List(bool),
    Object,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<(), Box<JsonError>> {
        self.scanner.space();
        if self.scanner.peek() != Some(b'{') {
            return Err(JsonError::NotAnObject.into());
        }
        self.open_object(Place::Document)?;
        while let Some(level) = self.levels.last_mut() {
            if level.close == b']' {
                self.elements()?;
                continue;
            }
            let place = match self.member.take() {
                Some(place) => place,
                None => {
                    let key = self.read.seen.read_key(&mut self.scanner, &mut level.keys)?;
                    level.place.of_member(key, || self.read.seen.last())
                }
            };
            if !self.value(place)? {
                self.close()?;
            }
        }
        self.scanner.space();
        if self.scanner.at_end() { Ok(()) } else { Err(self.scanner.syntax()) }
    }

    /// Reads elements of the innermost list, up to an object that opens a level, or to the end of the
    /// list. Lists in it have no place, but for lists of settings.
    fn elements(&mut self) -> Result<(), Box<JsonError>> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let (place, around) = (level.place, self.levels.len() - 1);
        let (mut open, mut count) = (1, 0);
        loop {
            // Lists within the objects are counted as well.
            self.read.elements = 0;
            let is_object =
                self.scanner.skip_elements(&mut open, DEPTH - around, &mut self.read)?;
            count += self.read.elements;
            if !is_object {
                break;
            }
            if open == 1 || place == Place::Settings {
                let list = || Level { keys: OpenKeys::default(), place, close: b']' };
                self.levels.extend((1..open).map(|_| list()));
                if self.open_object(place.of_element())? {
                    break;
                }
                self.levels.truncate(around + 1);
            } else {
                self.scanner.skip_value(around + open + 1, &mut self.read)?;
            }
            while open > 0 && !self.scanner.has_next(b']')? {
                open -= 1;
            }
            if open == 0 {
                break;
            }
        }
        if place == Place::Messages {
            self.outline.messages += count;
        }
        if open == 0 {
            self.levels.pop();
            self.close()?;
        }
        Ok(())
    }

    /// Reads a value at a place. Returns whether it is a level that is open now.
    fn value(&mut self, place: Place) -> Result<bool, Box<JsonError>> {
        match (place, self.scanner.peek()) {
            (Place::Noted, _) => self.noted()?,
            (Place::Type, Some(b'"')) => {
                self.scanner.count(Structure::Member)?;
                let kind = PartKind::of(&self.scanner.string()?)?;
                if let Some(part) = self.parts.last_mut() {
                    part.kind = kind;
                }
            }
            (Place::Medium, Some(b'"')) => {
                self.scanner.count(Structure::Member)?;
                let length = self.scanner.string()?.inner.len();
                if let Some(part) = self.parts.last_mut() {
                    let length = u64::try_from(length).unwrap_or(u64::MAX);
                    part.bytes = part.bytes.saturating_add(length);
                }
            }
            (Place::StreamOptions, Some(b'{')) => self.stream_options()?,
            (Place::Other | Place::Type | Place::StreamOptions, _) => self.skip()?,
            (_, Some(b'{')) => return self.open_object(place),
            (Place::Messages | Place::Content | Place::Settings, Some(b'[')) => {
                return self.open_list(place);
            }
            _ => self.skip()?,
        }
        Ok(false)
    }

    /// Reads a value in which nothing has a place.
    fn skip(&mut self) -> Result<(), Box<JsonError>> {
        self.scanner.skip_value(self.levels.len() + 1, &mut self.read)
    }

    /// Enters a list, and returns whether it has elements.
    fn open_list(&mut self, place: Place) -> Result<bool, Box<JsonError>> {
        if self.levels.len() >= DEPTH {
            return Err(JsonError::TooDeep.into());
        }
        if self.scanner.opens_empty(b']')? {
            return Ok(false);
        }
        self.levels.push(Level { keys: OpenKeys::default(), place, close: b']' });
        Ok(true)
    }

    /// Reads an object, up to a member that has a place or is more than a scalar, with which the
    /// object is a level. Returns false if there is none.
    fn open_object(&mut self, place: Place) -> Result<bool, Box<JsonError>> {
        if self.levels.len() >= DEPTH {
            return Err(JsonError::TooDeep.into());
        }
        if self.scanner.opens_empty(b'}')? {
            return Ok(false);
        }
        let mut keys = self.read.seen.open();
        loop {
            // Of a repeated key another reader takes another value: it is refused wherever it is.
            let key = self.read.seen.read_key(&mut self.scanner, &mut keys)?;
            let member = place.of_member(key, || self.read.seen.last());
            if member != Place::Other || !self.scanner.scalar_value(&mut self.read)? {
                self.member = Some(member);
                break;
            }
            if !self.scanner.has_next(b'}')? {
                self.read.seen.close(keys);
                return Ok(false);
            }
        }
        if place == Place::Part {
            self.parts.push(Part::default());
        }
        self.levels.push(Level { keys, place, close: b'}' });
        Ok(true)
    }

    /// Goes up to the next member or element, and closes the levels that have no other.
    fn close(&mut self) -> Result<(), Box<JsonError>> {
        while let Some(level) = self.levels.last() {
            if self.scanner.has_next(level.close)? {
                return Ok(());
            }
            if level.close == b'}' {
                self.read.seen.close(level.keys);
                if level.place == Place::Part {
                    self.end_part();
                }
            }
            self.levels.pop();
        }
        Ok(())
    }

    /// Counts a part of a message. What is in the arguments of a tool is text, whatever its names.
    fn end_part(&mut self) {
        let part = self.parts.pop().unwrap_or_default();
        let (media, bytes) = match part.kind {
            PartKind::Medium => (1, part.bytes),
            PartKind::ToolResult => part.inner,
            PartKind::Other => return,
        };
        let (all_media, all_bytes) = match self.parts.last_mut() {
            Some(outer) => (&mut outer.inner.0, &mut outer.inner.1),
            None => (&mut self.outline.media, &mut self.outline.media_bytes),
        };
        *all_media = all_media.saturating_add(media);
        *all_bytes = all_bytes.saturating_add(bytes);
    }

    /// Reads a member of the document or of its settings, and notes it.
    #[inline(never)]
    fn noted(&mut self) -> Result<(), Box<JsonError>> {
        self.scanner.count(Structure::Member)?;
        let value = match self.scanner.peek() {
            Some(b'"') => Value::Text(self.scanner.string()?),
            Some(b'[') => Value::List(!self.scanner.is_empty_list()),
            Some(b'{') => Value::Object,
            _ => Value::Scalar(self.scanner.scalar()?),
        };
        let key = self.read.seen.last();
        match self.levels.len() {
            1 => self.outline.note_member(&key, &value),
            _ => self.outline.note_setting(&key, &value),
        }
        match value {
            Value::Scalar(scalar) => self.read.is_exact &= is_exact(scalar),
            Value::Text(_) => {}
            Value::List(_) | Value::Object => self.skip()?,
        }
        Ok(())
    }

    /// Reads the members of `stream_options`, whose JSON is kept.
    fn stream_options(&mut self) -> Result<(), Box<JsonError>> {
        if self.scanner.opens_empty(b'}')? {
            return Ok(());
        }
        let mut object = self.read.seen.open();
        loop {
            self.read.seen.read_key(&mut self.scanner, &mut object)?;
            let key = (*self.read.seen.last()).to_owned();
            let before = self.scanner.rest();
            self.scanner.skip_value(3, &mut self.read)?;
            let length = before.len() - self.scanner.rest().len();
            let json = before.get(..length).ok_or_else(|| self.scanner.syntax())?;
            self.outline.stream_options.push((key, json));
            if !self.scanner.has_next(b'}')? {
                break;
            }
        }
        self.read.seen.close(object);
        Ok(())
    }
}

impl<'a> Outline<'a> {
    /// Notes a member of the document.
    fn note_member(&mut self, key: &str, value: &Value<'a>) {
        let is_set = !matches!(value, Value::Scalar("null"));
        match (key, value) {
            ("tools" | "functions", Value::List(has_elements)) => self.has_tools |= has_elements,
            ("stream", value) => self.is_streamed = is_set && !is_false(value),
            ("background", value) => {
                self.background = match value {
                    Value::Scalar("true") => Background::Yes,
                    Value::Scalar("false" | "null") => Background::No,
                    _ => Background::Unclear,
                };
            }
            ("previous_response_id" | "conversation" | "chat_template" | "template", _) => {
                self.is_open |= is_set;
            }
            // A prompt that is stored at the server.
            ("prompt", Value::Object) => self.is_open = true,
            (name, value) => self.bounds.extend(bound_of(name, value)),
        }
    }

    /// Notes a member of an object of settings.
    fn note_setting(&mut self, key: &str, value: &Value<'a>) {
        let known = self.nested_bound.take();
        let bounds = [known, bound_of(key, value)].into_iter().flatten();
        self.nested_bound = bounds.max_by_key(|(_, number)| *number);
    }
}

/// Whether servers that convert types read a value as false. What they may read as true streams the
/// answer.
fn is_false(value: &Value<'_>) -> bool {
    match value {
        Value::Scalar(scalar) => *scalar == "false" || scalar.parse() == Ok(0.0),
        Value::Text(text) => ["0", "off", "f", "false", "n", "no"]
            .iter()
            .any(|word| text.inner.eq_ignore_ascii_case(word)),
        Value::List(_) | Value::Object => false,
    }
}

/// Returns a number that bounds an answer, with the name of its member.
fn bound_of(name: &str, value: &Value<'_>) -> Option<(&'static str, u64)> {
    match value {
        Value::Scalar(scalar) => answer_bound(name).zip(scalar.parse().ok()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline<'_> {
        read(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_bounds_a_request_is_read_at_the_top_of_the_document() {
        let chat = outline(
            r#"{"messages":[{"role":"user","content":"a"},{}],"tools":[{"max_tokens":7}],
                "stream":true,"stream_options":{"chunk_size":2, "x":{"a":[1]}},
                "max_tokens":5,"max_completion_tokens":9,"options":{"num_predict":3}}"#,
        );
        assert_eq!((chat.messages, chat.has_tools, chat.is_streamed), (2, true, true));
        assert_eq!(chat.stream_options, [("chunk_size".into(), "2"), ("x".into(), r#"{"a":[1]}"#)]);
        assert_eq!(chat.bounds, [("max_tokens", 5), ("max_completion_tokens", 9)]);
        assert_eq!(chat.nested_bound, Some(("num_predict", 3)));
        let lists =
            outline(r#"{"options":[[1,{}],[[{"x":1},{"num_predict":4}],{"max_tokens":5}],2]}"#);
        assert_eq!(lists.nested_bound, Some(("max_tokens", 5)));
        let lists =
            outline(r#"{"messages":[1,[{"a":[1,2,{}]},3],{"content":[[{}],4]}],"input":[[]]}"#);
        assert_eq!(lists.messages, 4);
        assert!(chat.is_exact && !chat.is_open && chat.background == Background::No);
        let plain = outline(
            r#"{"input":"a","tools":[],"stream":false,"max_tokens":null,"background":false}"#,
        );
        assert_eq!(plain, Outline { is_exact: true, ..Outline::default() });
    }

    #[test]
    fn a_medium_is_no_text_and_everything_else_is() {
        let media = |content: &str| {
            let text = format!(r#"{{"messages":[{{"role":"user","content":[{content}]}}]}}"#);
            let outline = read(text.as_bytes()).unwrap();
            (outline.media, outline.media_bytes)
        };
        for (content, expected) in [
            (r#"{"type":"image_url","image_url":{"url":"data:123","detail":"low"}}"#, (1, 8)),
            (r#"{"image_url":"data:123","type":"input_image"},{"type":"text","text":"a"}"#, (1, 8)),
            (r#"{"type":"input_audio","input_audio":{"data":"12345","format":"wav"}}"#, (1, 5)),
            (r#"{"type":"image","source":{"type":"base64","data":"1234"}}"#, (1, 4)),
            (
                r#"{"type":"tool_result","content":[{"type":"image","source":{"data":"1234"}}]}"#,
                (1, 4),
            ),
            (r#"{"type":"text","text":"data:image/png;base64,1"}"#, (0, 0)),
            (r#"{"type":"text","text":"a","image_url":{"url":"data:123"}}"#, (0, 0)),
            (r#"{"image_url":{"url":"data:123"}}"#, (0, 0)),
            (r#"{"type":"image_url","text":"12345678"}"#, (1, 0)),
            (r#"{"type":"document","source":{"type":"text","data":"1234"}}"#, (0, 0)),
            (
                r#"{"type":"tool_use","input":{"content":[{"type":"image","source":{"data":"1234"}}]}}"#,
                (0, 0),
            ),
            (
                r#"{"type":"tool_use","content":[{"type":"image","source":{"data":"1234"}}]}"#,
                (0, 0),
            ),
        ] {
            assert_eq!(media(content), expected, "{content}");
        }
        let tools = br#"{"tools":[{"content":[{"type":"image","data":"1234"}]}]}"#;
        assert_eq!(read(tools).unwrap().media, 0);
    }

    #[test]
    fn a_prompt_that_the_body_does_not_bound_is_open() {
        for text in [
            r#"{"previous_response_id":"resp_1"}"#,
            r#"{"conversation":{"id":"c"}}"#,
            r#"{"prompt":{"id":"p"}}"#,
            r#"{"chat_template":"{{ x }}"}"#,
        ] {
            assert!(outline(text).is_open, "{text}");
        }
        for text in [r#"{"previous_response_id":null}"#, r#"{"prompt":"a"}"#, r#"{"prompt":[1,2]}"#]
        {
            assert!(!outline(text).is_open, "{text}");
        }
    }

    #[test]
    fn work_in_the_background_is_asked_for_by_true_alone() {
        for (value, expected) in [
            ("true", Background::Yes),
            ("false", Background::No),
            ("null", Background::No),
            ("0", Background::Unclear),
            ("1", Background::Unclear),
            (r#""false""#, Background::Unclear),
            (r#""true""#, Background::Unclear),
            ("{}", Background::Unclear),
        ] {
            let text = format!(r#"{{"background":{value}}}"#);
            assert_eq!(outline(&text).background, expected, "{text}");
        }
    }

    #[test]
    fn a_stream_is_whatever_a_server_may_read_as_true() {
        for value in ["true", "1", "1.0", "2", r#""true""#, r#""1""#, r#""on""#, "[]", "{}"] {
            let text = format!(r#"{{"stream":{value}}}"#);
            assert!(outline(&text).is_streamed, "{text}");
        }
        for value in ["false", "null", "0", "0.0", "-0", r#""false""#, r#""No""#, r#""off""#] {
            let text = format!(r#"{{"stream":{value}}}"#);
            assert!(!outline(&text).is_streamed, "{text}");
        }
    }

    #[test]
    fn numbers_that_a_double_changes_are_found_everywhere() {
        for (number, exact) in [
            ("9007199254740992", true),
            ("-9007199254740992", true),
            ("9007199254740993", false),
            ("12345678901234567890", false),
            ("123456789012345678901234567890", false),
            ("0.1", true),
            ("1e300", true),
            ("1e400", false),
            ("true", true),
            (r#""12345678901234567890""#, true),
        ] {
            let text = format!(r#"{{"a":[{{"b":{number}}}]}}"#);
            assert_eq!(outline(&text).is_exact, exact, "{number}");
        }
    }

    #[test]
    fn a_repeated_key_is_refused_at_every_depth() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":[{"b":{"c":1,"c":1}}]}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"stream_options":{"a":1,"a":2}}"#,
        ] {
            assert_eq!(read(text.as_bytes()), Err(JsonError::RepeatedKey), "{text}");
        }
        for text in ["", "[]", "{}x", "{", r#"{"a"}"#] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
