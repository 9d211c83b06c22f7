//! One string out of a JSON body, and proof that every reader would find the same one.
//!
//! The whole body is checked against RFC 8259 without building a tree. In every object on the way to the value a repeated
//! key is refused (Python keeps the last, others the first), and so is a key that differs from the wanted one only in
//! case (Go's `encoding/json` folds case). Keys are compared after unescaping.

use std::{borrow::Cow, str::FromStr};

use thiserror::Error;

/// How deep values may nest.
const DEPTH: usize = 64;
/// How many keys an object on the way may have.
const KEYS: usize = 256;

/// A place in a JSON document: keys of nested objects, written `/model` or `/session/model` (RFC 6901, objects only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or_else(|| format!("`{text}` is not a JSON pointer; write `/model`"))?;
        let keys: Vec<String> = rest.split('/').map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
        if keys.iter().any(String::is_empty) || keys.len() > 8 {
            return Err(format!("`{text}` is not a JSON pointer of 1 to 8 keys; write `/model`"));
        }
        Ok(Self(keys))
    }
}

impl Pointer {
    /// The last key.
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum JsonError {
    #[error("it is not JSON in UTF-8 (byte {0})")]
    Syntax(usize),
    #[error("it is not a JSON object")]
    NotAnObject,
    #[error("it nests more than {DEPTH} levels")]
    TooDeep,
    #[error("an object in it has more than {KEYS} keys")]
    TooManyKeys,
    #[error("a key is repeated")]
    RepeatedKey,
    #[error("a key differs from `{0}` only in case")]
    CaseVariant(String),
    #[error("`{0}` is not of the type it must have")]
    WrongType(String),
}

/// The string at `pointer`, or `None` when some key on the way is absent.
pub(super) fn string_at<'a>(bytes: &'a [u8], pointer: &Pointer) -> Result<Option<Cow<'a, str>>, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::Syntax(error.valid_up_to()))?;
    let mut reader = Reader { text, bytes, at: 0 };
    reader.space();
    match reader.peek() {
        Some(b'{') => {}
        Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => return Err(JsonError::NotAnObject),
        _ => return Err(reader.syntax()),
    }
    let found = reader.object(&pointer.0, 1)?;
    reader.space();
    if reader.at == bytes.len() { Ok(found) } else { Err(reader.syntax()) }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// A string as it stands between its quotes.
struct RawString<'a> {
    inner: &'a str,
    escaped: bool,
}

impl<'a> RawString<'a> {
    fn unescape(&self, at: usize) -> Result<Cow<'a, str>, JsonError> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.inner));
        }
        // serde_json knows surrogate pairs, and refuses halves of them.
        serde_json::from_str::<String>(&format!("\"{}\"", self.inner)).map(Cow::Owned).map_err(|_| JsonError::Syntax(at))
    }
}

impl<'a> Reader<'a> {
    fn syntax(&self) -> JsonError {
        JsonError::Syntax(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// Whether an opened list or object is empty; then it is closed here.
    fn opens_empty(&mut self, close: u8) -> bool {
        self.at += 1;
        self.space();
        let empty = self.peek() == Some(close);
        self.at += usize::from(empty);
        empty
    }

    /// Whether the list or object goes on (`,`) or ends (`close`).
    fn goes_on(&mut self, close: u8) -> Result<bool, JsonError> {
        self.space();
        let byte = self.peek();
        if byte != Some(b',') && byte != Some(close) {
            return Err(self.syntax());
        }
        self.at += 1;
        Ok(byte == Some(b','))
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.space();
        let start = self.at;
        let key = self.string()?.unescape(start)?;
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(key)
    }

    /// Reads an object whose keys matter. `wanted` is what is left of the pointer, never empty.
    fn object(&mut self, wanted: &[String], depth: usize) -> Result<Option<Cow<'a, str>>, JsonError> {
        let Some((first, rest)) = wanted.split_first() else { return Ok(None) };
        let mut seen: Vec<Cow<'a, str>> = Vec::with_capacity(16);
        let mut found = None;
        if self.opens_empty(b'}') {
            return Ok(None);
        }
        loop {
            let key = self.key()?;
            if seen.contains(&key) {
                return Err(JsonError::RepeatedKey);
            }
            if key == first.as_str() {
                found = self.wanted(first, rest, depth)?;
            } else if folded(&key).eq(folded(first)) {
                return Err(JsonError::CaseVariant(first.clone()));
            } else {
                self.skip(depth + 1)?;
            }
            seen.push(key);
            if seen.len() > KEYS {
                return Err(JsonError::TooManyKeys);
            }
            if !self.goes_on(b'}')? {
                return Ok(found);
            }
        }
    }

    /// Reads the value of a key on the way: the string itself, or the next object.
    fn wanted(&mut self, key: &str, rest: &[String], depth: usize) -> Result<Option<Cow<'a, str>>, JsonError> {
        match (rest.is_empty(), self.peek()) {
            (true, Some(b'"')) => {
                let start = self.at;
                self.string()?.unescape(start).map(Some)
            }
            (false, Some(b'{')) => self.object(rest, depth + 1),
            _ => {
                self.skip(depth + 1)?;
                Err(JsonError::WrongType(key.to_owned()))
            }
        }
    }

    /// Checks a value of any kind and moves past it.
    fn skip(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > DEPTH {
            return Err(JsonError::TooDeep);
        }
        match self.peek() {
            Some(b'{') => {
                let mut more = !self.opens_empty(b'}');
                while more {
                    self.key()?;
                    self.skip(depth + 1)?;
                    more = self.goes_on(b'}')?;
                }
                Ok(())
            }
            Some(b'[') => {
                let mut more = !self.opens_empty(b']');
                while more {
                    self.space();
                    self.skip(depth + 1)?;
                    more = self.goes_on(b']')?;
                }
                Ok(())
            }
            Some(b'"') => {
                let start = self.at;
                self.string()?.unescape(start).map(drop)
            }
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), JsonError> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// RFC 8259 section 6.
    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.syntax()) }
    }

    /// A string from quote to quote: no control characters, known escapes only.
    fn string(&mut self) -> Result<RawString<'a>, JsonError> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u') => self.at += 1,
                        _ => return Err(self.syntax()),
                    }
                }
                Some(0..0x20) | None => return Err(self.syntax()),
                Some(_) => self.at += 1,
            }
        }
        let inner = self.text.get(start..self.at).ok_or_else(|| self.syntax())?;
        self.at += 1;
        Ok(RawString { inner, escaped })
    }
}

/// A key as Go folds it: ASCII case, and the two other letters that fold into ASCII (long s and the Kelvin sign).
fn folded(key: &str) -> impl Iterator<Item = char> + '_ {
    key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => c.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(body: &str) -> Result<Option<String>, JsonError> {
        string_at(body.as_bytes(), &Pointer(vec!["model".into()])).map(|found| found.map(Cow::into_owned))
    }

    #[test]
    fn the_string_is_found_wherever_it_stands() {
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
        let nested: Pointer = "/session/model".parse().unwrap();
        assert_eq!(string_at(br#"{"model":"a","session":{"model":"b"}}"#, &nested), Ok(Some("b".into())));
        assert_eq!(string_at(br#"{"session":[]}"#, &nested), Err(JsonError::WrongType("session".into())));
    }

    #[test]
    fn an_absent_model_is_absent_and_a_wrong_one_is_an_error() {
        assert_eq!(model(r#"{}"#), Ok(None));
        assert_eq!(model(r#"{"x":{"model":"m"}}"#), Ok(None));
        for body in [r#"{"model":null}"#, r#"{"model":1}"#, r#"{"model":["m"]}"#, r#"{"model":{"a":"m"}}"#, r#"{"model":true}"#] {
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
        for body in [r#"{"model":"a","Model":"b"}"#, r#"{"MODEL":"b"}"#, r#"{"mode\u004c":"b","model":"a"}"#] {
            assert_eq!(model(body), Err(JsonError::CaseVariant("model".into())), "{body}");
        }
        let tasks: Pointer = "/tasks".parse().unwrap();
        assert_eq!(string_at("{\"ta\u{17f}k\u{17f}\":\"x\"}".as_bytes(), &tasks), Err(JsonError::CaseVariant("tasks".into())));
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
                matches!(string_at(body, &Pointer(vec!["model".into()])), Err(JsonError::Syntax(_))),
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
        let nested = |levels: usize| format!("{{\"model\":\"m\",\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(model(&nested(DEPTH - 1)), Ok(Some("m".into())));
        assert_eq!(model(&nested(DEPTH)), Err(JsonError::TooDeep));
        assert_eq!(model(&nested(100_000)), Err(JsonError::TooDeep));
        let keys = |count: usize| {
            format!("{{\"model\":\"m\",{}}}", (1..count).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(","))
        };
        assert_eq!(model(&keys(KEYS)), Ok(Some("m".into())));
        assert_eq!(model(&keys(KEYS + 1)), Err(JsonError::TooManyKeys));
    }

    #[test]
    fn serde_json_agrees_on_what_is_json() {
        // Every prefix of a body with all kinds of values: either both read it or neither.
        let body = r#"{"a":[1,-2.5e3,true,false,null,"x\n\u00e9\ud83d\ude00",{"b":{}}],"model":"m"}"#;
        for end in 0..=body.len() {
            let prefix = &body[..end];
            assert_eq!(serde_json::from_str::<serde_json::Value>(prefix).is_ok(), model(prefix).is_ok(), "{prefix}");
        }
    }
}
