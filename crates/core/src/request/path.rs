//! The path, both raw and decoded once, so that routes are looked up for both and a difference is
//! refused.
//!
//! A sidecar cannot know how the upstream matches paths: llama.cpp decodes `%2f`, Starlette decodes
//! the whole path, Triton matches raw bytes. A path that one of them could read as another path is
//! a 400: dot segments, `//`, `\`, `;`, NUL, fragments, double encoding, and broken or
//! non-printable encodings (CVE-2019-9901, CVE-2021-29492, CVE-2021-31920, CVE-2021-39156,
//! CVE-2026-26205, CVE-2026-42272, CVE-2026-42274).

use std::borrow::Cow;

use crate::denial::{Denial, malformed};

/// A path that starts with `/` and contains nothing ambiguous.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestPath<'a> {
    raw: &'a str,
    decoded: Cow<'a, str>,
    query: Option<&'a str>,
}

impl<'a> RequestPath<'a> {
    /// Splits `:path` at the first `?` and parses the path. Matching ignores the query.
    ///
    /// # Errors
    /// `malformed_request`, see the module's documentation.
    pub fn parse(target: &'a [u8]) -> Result<Self, Denial> {
        if target.len() > 8192 {
            return Err(malformed("the path is longer than 8192 bytes"));
        }
        let target = std::str::from_utf8(target)
            .map_err(|_| malformed("the path holds bytes that must be percent-encoded"))?;
        // Nearly every path is plain: nothing is encoded, and no segment is empty or begins with a
        // dot.
        let (mut plain, mut begins) = (true, false);
        let end = target.bytes().position(|byte| {
            match byte {
                b'/' | b'.' if begins => plain = false,
                b'%' | b'\\' | b';' => plain = false,
                b'?' => return true,
                _ if !is_visible(byte) => return true,
                _ => {}
            }
            begins = byte == b'/';
            false
        });
        let (raw, rest) = end.and_then(|end| target.split_at_checked(end)).unwrap_or((target, ""));
        let query = rest.strip_prefix('?');
        if !query.unwrap_or(rest).bytes().all(is_visible) {
            let fragment = target.bytes().all(|byte| byte.is_ascii_graphic());
            return Err(malformed(match (query, fragment) {
                (Some(_), true) => "the query holds a fragment (`#`)",
                (None, true) => "the path holds a fragment",
                (Some(_), false) => {
                    "the query holds bytes that must be percent-encoded, such as a space"
                }
                (None, false) => "the path holds bytes that must be percent-encoded",
            }));
        }
        if !raw.starts_with('/') {
            return Err(malformed("the path does not start with `/`"));
        }
        if plain {
            return Ok(Self { raw, decoded: Cow::Borrowed(raw), query });
        }
        let decoded = decode(raw)?;
        let encoded =
            if let Cow::Owned(decoded) = &decoded { Some(decoded.as_str()) } else { None };
        for text in std::iter::once(raw).chain(encoded) {
            if text.contains("//") {
                return Err(malformed("the path holds an empty segment (`//`)"));
            }
            if text.contains(['\\', ';']) {
                return Err(malformed("the path holds `\\` or `;`"));
            }
            // Trimmed, because some servers and file systems ignore space around a name.
            if text.split('/').any(|segment| matches!(segment.trim(), "." | "..")) {
                return Err(malformed("the path holds a dot segment"));
            }
        }
        Ok(Self { raw, decoded, query })
    }

    /// Returns the path as sent, without the query.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Returns the path with every `%XX` decoded once.
    pub fn decoded(&self) -> &str {
        &self.decoded
    }

    /// Whether the raw and the decoded path differ.
    pub fn is_encoded(&self) -> bool {
        matches!(self.decoded, Cow::Owned(_))
    }

    /// The query's parameters in order, each name and value decoded once.
    ///
    /// # Errors
    /// `malformed_request` for a broken encoding, and for `;`, which some servers take for `&`.
    pub fn query_pairs(&self) -> impl Iterator<Item = Result<(String, String), Denial>> {
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            if pair.contains(';') {
                return Err(malformed("the query holds `;`"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((form_decode(key)?, form_decode(value)?))
        })
    }

    /// Returns the value of one query parameter, decoded once (`+` is a space, as in HTML forms).
    ///
    /// # Errors
    /// `malformed_request` if the parameter is repeated or its encoding is broken.
    pub fn query_value(&self, name: &str) -> Result<Option<String>, Denial> {
        let Some(query) = self.query else { return Ok(None) };
        let mut found = None;
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if form_decode(key)? == name {
                if found.is_some() {
                    return Err(malformed("a query parameter that decides is repeated"));
                }
                found = Some(form_decode(value)?);
            }
        }
        Ok(found)
    }
}

/// Whether a byte is printable and does not begin a fragment.
fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

fn form_decode(text: &str) -> Result<String, Denial> {
    percent_decode(&text.replace('+', " "))
        .ok_or_else(|| malformed("the query holds a broken percent-encoding"))
}

/// Decodes a path once. Refuses encoded characters that have a meaning of their own in a URL.
fn decode(raw: &str) -> Result<Cow<'_, str>, Denial> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded =
        percent_decode(raw).ok_or_else(|| malformed("the path holds a broken percent-encoding"))?;
    if decoded.chars().any(|c| c.is_control() || matches!(c, '%' | '?' | '#' | '\\' | ';')) {
        return Err(malformed(
            "the path holds an encoded control character or one of `% ? # \\ ;`",
        ));
    }
    Ok(Cow::Owned(decoded))
}

/// Decodes `%XX`; `None` if a `%` is not followed by two hex digits or the bytes are not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<RequestPath<'_>, Denial> {
        RequestPath::parse(target.as_bytes())
    }

    #[test]
    fn plain_paths_are_borrowed_and_the_query_is_split_off() {
        let path = parse("/v1/chat/completions?a=/../b").unwrap();
        assert_eq!(
            (path.raw(), path.decoded(), path.is_encoded()),
            ("/v1/chat/completions", "/v1/chat/completions", false)
        );
    }

    #[test]
    fn encoded_paths_are_decoded_once() {
        let path = parse("/models/Qwen%2FQwen2%20%C3%A9").unwrap();
        assert_eq!(path.decoded(), "/models/Qwen/Qwen2 \u{e9}");
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let cases = [
            ("", "empty"),
            ("v1/models", "R15: no leading slash"),
            ("*", "asterisk form"),
            ("http://other/v1", "absolute form"),
            ("//admin/people", "R1: an authority to url.Parse"),
            ("/v1//models", "R10: double slash"),
            ("/v1/models/%2f", "R10: double slash once decoded"),
            ("/user/../admin", "R3: dot segments"),
            ("/user/%2e%2e/admin", "R3: encoded dot segments"),
            ("/user/.%2E/admin", "R3: half encoded"),
            ("/user%2f..%2fadmin", "R3, R4: encoded slashes around dots"),
            ("/./v1", "R12: single dot"),
            ("/v1/.", "trailing dot segment"),
            (
                "/user/%20%2e%2e/admin",
                "found by fuzzing: dots behind a space, which a server may trim",
            ),
            ("/user/..%20/admin", "and before one"),
            ("/user/%e3%80%80../admin", "any space"),
            ("/v1#/admin", "R8, R9: fragment"),
            ("/v1%23", "encoded fragment"),
            ("/v1%3Fx", "R2: encoded question mark"),
            ("/v1\\models", "R10: backslash"),
            ("/v1%5cmodels", "R10: encoded backslash"),
            ("/v1;x=1/models", "path parameters"),
            ("/v1%3bx", "encoded path parameters"),
            ("/v1%00", "NUL"),
            ("/v1%0a", "line feed"),
            ("/v1%7f", "DEL"),
            ("/v1%c2%85", "C1 control"),
            ("/v1%252fmodels", "double encoding"),
            ("/v1%2", "short encoding"),
            ("/v1%zz", "no hex"),
            ("/v1%+1", "a sign is no hex digit"),
            ("/v1%ff", "not UTF-8"),
            ("/v1%c0%af", "overlong slash"),
            ("/v1/\u{e9}", "raw non-ASCII"),
            ("/v1 x", "raw space"),
        ];
        for (path, why) in cases {
            assert!(parse(path).is_err(), "{why}: {path}");
        }
    }

    #[test]
    fn query_values_are_single_and_decoded() {
        let path = parse("/x?a=1&model=Qwen%2FQwen2+7B&b").unwrap();
        assert_eq!(path.query_value("model").unwrap().as_deref(), Some("Qwen/Qwen2 7B"));
        assert_eq!(path.query_value("none").unwrap(), None);
        assert!(parse("/x?model=a&model=b").unwrap().query_value("model").is_err());
        assert!(parse("/x?model=a&mod%65l=b").unwrap().query_value("model").is_err());
        assert!(parse("/x?model=%zz").unwrap().query_value("model").is_err());
        let pairs: Result<Vec<_>, _> = path.query_pairs().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs, Ok(vec![pair("a", "1"), pair("model", "Qwen/Qwen2 7B"), pair("b", "")]));
        assert!(parse("/x?a=1;model=b").unwrap().query_pairs().any(|pair| pair.is_err()));
        assert!(parse("/x?%zz").unwrap().query_pairs().any(|pair| pair.is_err()));
        assert_eq!(parse("/x?&&").unwrap().query_pairs().count(), 0);
    }
}
