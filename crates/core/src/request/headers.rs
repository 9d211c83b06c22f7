//! The headers as the proxy sent them: repeated ones stay repeated, names are matched in any case.

mod known;

use std::borrow::Cow;

pub(super) use self::known::KnownHeader;
use self::known::{KnownIndex, Occurrence, names_equal};
use super::header_names::{HeaderNames, plain};
use crate::denial::{Denial, malformed};

/// The prefix of every identity header. A client's own headers with this prefix are removed.
pub const IDENTITY_PREFIX: &str = "x-tollgate-";

/// The maximum number of headers of a request.
const MAX_HEADERS: usize = 1000;

/// Headers that servers interpret differently when they are repeated: a repetition is refused.
const SINGLE: [KnownHeader; 5] = [
    KnownHeader::ContentType,
    KnownHeader::ContentLength,
    KnownHeader::ContentEncoding,
    KnownHeader::TransferEncoding,
    KnownHeader::Host,
];

/// The names that `Connection` may list. The next server drops a header of any other name that is
/// listed there, such as an identity header or the upstream's key (RFC 9110 section 7.6.1).
const CONNECTION_OPTIONS: [&str; 6] =
    ["", "close", "keep-alive", "upgrade", "te", "http2-settings"];

/// Whether a value of `Connection` lists options of the connection, and no header.
pub fn lists_only_options(connection: &[u8]) -> bool {
    connection.split(|byte| *byte == b',').all(|option| {
        CONNECTION_OPTIONS
            .iter()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(option.trim_ascii()))
    })
}

/// What the proxy in front does with headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyBehavior {
    /// Repeated headers arrive joined with a comma (Envoy without `encode_raw_headers`), so a comma
    /// may be a repetition.
    pub joins_repeats: bool,
    /// The proxy can remove headers by name. Without this it only overwrites the identity headers
    /// that Tollgate sets.
    pub can_remove: bool,
    /// The proxy forwards `Sec-WebSocket-Protocol` as the answer sets it, so that a token in it does
    /// not reach the upstream.
    pub rewrites_protocols: bool,
    /// The proxy forwards `Cookie` as the answer sets it, so that a cookie can be taken out of it.
    pub rewrites_cookies: bool,
}

impl Default for ProxyBehavior {
    /// Repeated headers arrive separately, and headers can be removed.
    fn default() -> Self {
        Self {
            joins_repeats: false,
            can_remove: true,
            rewrites_protocols: true,
            rewrites_cookies: true,
        }
    }
}

/// A list of headers, borrowed from the front-end.
#[derive(Debug, Default)]
pub struct Headers<'a> {
    /// Names and values.
    list: Vec<(&'a [u8], &'a [u8])>,
    known: KnownIndex,
    proxy: ProxyBehavior,
}

impl<'a> Headers<'a> {
    /// Creates an empty list with room for `capacity` headers.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity), ..Self::default() }
    }

    /// Sets what the proxy does with headers.
    #[must_use]
    pub fn with_proxy(self, proxy: ProxyBehavior) -> Self {
        Self { proxy, ..self }
    }

    /// Returns what the proxy does with headers.
    pub fn proxy(&self) -> ProxyBehavior {
        self.proxy
    }

    /// Adds one header, named as the proxy sent it.
    pub fn push(&mut self, name: &'a str, value: &'a [u8]) {
        self.push_bytes(name.as_bytes(), value);
    }

    /// Adds one header whose name is UTF-8 in bytes.
    #[inline]
    pub fn push_bytes(&mut self, name: &'a [u8], value: &'a [u8]) {
        self.known.record(name, self.list.len());
        self.list.push((name, value));
    }

    /// Returns the first value of a known header.
    pub(super) fn first(&self, known: KnownHeader) -> Option<&'a [u8]> {
        match self.known.get(known) {
            Occurrence::Absent => None,
            Occurrence::Once(position) | Occurrence::Repeated(position) => {
                self.list.get(position).map(|(_, value)| *value)
            }
        }
    }

    /// Whether every value of a known header equals `value`.
    pub(super) fn is_only(&self, known: KnownHeader, value: &[u8]) -> bool {
        match self.known.get(known) {
            Occurrence::Absent => true,
            Occurrence::Once(_) => self.first(known) == Some(value),
            Occurrence::Repeated(_) => self.all(known.name()).all(|each| each == value),
        }
    }

    /// Returns every value of `name`, which is in lower case.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let searched = match KnownHeader::of(name.as_bytes()).map(|known| self.known.get(known)) {
            None => Some(self.list.as_slice()),
            Some(Occurrence::Absent) => None,
            Some(Occurrence::Once(position)) => self.list.get(position..=position),
            Some(Occurrence::Repeated(position)) => self.list.get(position..),
        };
        searched
            .unwrap_or_default()
            .iter()
            .filter(move |(header, _)| names_equal(header, name))
            .map(|(_, value)| *value)
    }

    /// Returns the only value of `name`.
    ///
    /// # Errors
    /// `malformed_request` if the header is repeated, or has a comma where that may be a repetition.
    pub fn one(&self, name: &str) -> Result<Option<&'a [u8]>, Denial> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some()
            || (self.proxy.joins_repeats && first.is_some_and(|value| value.contains(&b',')))
        {
            return Err(malformed("a header that decides is repeated"));
        }
        Ok(first)
    }

    /// Returns the value of `x-request-id`, the id of the request that the proxy reports; `None`
    /// where there is none, or several.
    pub fn request_id(&self) -> Option<&'a [u8]> {
        match self.known.get(KnownHeader::RequestId) {
            Occurrence::Once(_) => self.first(KnownHeader::RequestId),
            Occurrence::Absent | Occurrence::Repeated(_) => None,
        }
    }

    /// Returns the scheme in `x-forwarded-proto`: one name, or a list. Empty without the header. Of
    /// several lines the first one is returned that has anything but `https`, if there is one.
    pub fn forwarded_scheme(&self) -> &'a [u8] {
        if let Occurrence::Once(_) = self.known.get(KnownHeader::ForwardedProto) {
            return self.first(KnownHeader::ForwardedProto).unwrap_or_default();
        }
        let mut lines = self.all(KnownHeader::ForwardedProto.name());
        let first = lines.next().unwrap_or_default();
        match first.eq_ignore_ascii_case(b"https") {
            true => lines.find(|line| !line.eq_ignore_ascii_case(b"https")).unwrap_or(first),
            false => first,
        }
    }

    /// Returns the names that some server reads as an identity header: the prefix in any case, with
    /// `_` or other punctuation in place of `-`.
    pub fn spoofed(&self) -> impl Iterator<Item = Cow<'a, str>> {
        self.list
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| is_identity(name))
            .map(String::from_utf8_lossy)
    }

    /// Whether there is a header that some server reads as `name`, which is in lower case, under
    /// another spelling: with `_` or other punctuation in place of `-`.
    pub(crate) fn has_variant(&self, name: &str) -> bool {
        self.list.iter().any(|(header, _)| {
            header.len() == name.len() && reads_as(header, name) && !names_equal(header, name)
        })
    }

    /// Returns the names to remove: those that some server reads as an identity header, or as one of
    /// `names`.
    pub fn to_remove(&self, names: &HeaderNames) -> Vec<String> {
        let mut found = Vec::new();
        for (name, _) in &self.list {
            if is_identity(name) || names.contains_like(name) {
                found.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        found
    }

    /// Refuses lists that are too long, repeated headers that servers interpret differently, and a
    /// `Connection` that makes the next server drop a header.
    pub(super) fn check(&self) -> Result<(), Denial> {
        if self.list.len() > MAX_HEADERS {
            return Err(malformed("there are more than 1000 headers"));
        }
        let repeated = |known: KnownHeader| {
            matches!(self.known.get(known), Occurrence::Repeated(_))
                || (self.proxy.joins_repeats
                    && self.first(known).is_some_and(|value| value.contains(&b',')))
        };
        if SINGLE.into_iter().any(repeated) {
            return Err(malformed("a header that decides is repeated"));
        }
        if !self.all("connection").all(lists_only_options) {
            return Err(malformed("the `Connection` header lists headers to drop"));
        }
        Ok(())
    }

    /// Refuses a pseudo-header that differs from the request's own field (Envoy sends both).
    pub(super) fn require_equal(&self, known: KnownHeader, field: &[u8]) -> Result<(), Denial> {
        if self.is_only(known, field) {
            Ok(())
        } else {
            Err(malformed("the proxy's report contradicts itself"))
        }
    }
}

#[inline]
fn is_identity(name: &[u8]) -> bool {
    // The third letter rules out nearly every other name.
    matches!(name, [b'x' | b'X', _, b't' | b'T', ..])
        && name.len() >= IDENTITY_PREFIX.len()
        && reads_as(name, IDENTITY_PREFIX)
}

/// Whether one name is a prefix of the other for a server that treats all punctuation alike.
fn reads_as(name: &[u8], wanted: &str) -> bool {
    name.iter().zip(wanted.as_bytes()).all(|(have, want)| plain(*have) == plain(*want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_headers_are_read_like_all_others() {
        let upper = "Content-TYPE";
        let list = [("a", "0"), ("content-type", "1"), ("b", "2"), (upper, "3"), ("c", "4")];
        let headers = headers(&list, false);
        let known = KnownHeader::ContentType;
        assert_eq!(headers.all("content-type").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(headers.all("b").collect::<Vec<_>>(), [b"2"]);
        assert_eq!((headers.first(known), headers.is_only(known, b"1")), (Some(&b"1"[..]), false));
        assert_eq!(Headers::default().all("content-type").count(), 0);
        assert!(Headers::default().is_only(known, b""));
    }

    fn headers<'a>(list: &[(&'a str, &'a str)], joined: bool) -> Headers<'a> {
        let proxy = ProxyBehavior { joins_repeats: joined, ..ProxyBehavior::default() };
        let mut headers = Headers::with_capacity(list.len()).with_proxy(proxy);
        for (name, value) in list {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    #[test]
    fn a_header_that_decides_comes_once() {
        let twice = [("content-type", "application/json"), ("Content-Type", "text/plain")];
        assert!(headers(&twice, false).one("content-type").is_err());
        assert!(headers(&[("x", "a,b")], true).one("x").is_err(), "joined by the proxy");
        assert!(headers(&[("x", "a,b")], false).one("x").is_ok());
        assert_eq!(headers(&[("x", "a")], false).one("y").unwrap(), None);
    }

    #[test]
    fn every_spelling_of_an_identity_header_is_found() {
        // R18, CVE-2025-64484, CVE-2026-39858: underscore aliases; R26, R27.
        let spellings = [
            "x-tollgate-subject",
            "X-Tollgate-Subject",
            "x_tollgate_subject",
            "X-TOLLGATE_TENANT",
            "x.tollgate.scopes",
            "x-tollgate-",
        ];
        for name in spellings {
            assert_eq!(headers(&[(name, "admin")], false).spoofed().count(), 1, "{name}");
        }
        for name in [
            "x-tollgat-subject",
            "tollgate-subject",
            "x-tollgated",
            "xtollgate-subject",
            "x--tollgate-subject",
        ] {
            assert_eq!(headers(&[(name, "admin")], false).spoofed().count(), 0, "{name}");
        }
    }

    #[test]
    fn the_least_secure_line_is_the_forwarded_scheme() {
        let name = "x-forwarded-proto";
        for (lines, scheme) in [
            (&[][..], ""),
            (&["https"], "https"),
            (&["https", "http"], "http"),
            (&["http", "https"], "http"),
            (&["HTTPS", "https"], "HTTPS"),
            (&["https", "https,http", "https"], "https,http"),
        ] {
            let list: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
            assert_eq!(headers(&list, false).forwarded_scheme(), scheme.as_bytes(), "{lines:?}");
        }
    }

    #[test]
    fn connection_lists_no_headers() {
        for value in ["close", "keep-alive, Upgrade", "TE", "", " HTTP2-Settings ,upgrade"] {
            assert!(headers(&[("Connection", value)], false).check().is_ok(), "{value}");
        }
        for value in ["X-Tollgate-Subject", "close, authorization", "keep-alive,x_tollgate_tenant"]
        {
            assert!(headers(&[("connection", value)], false).check().is_err(), "{value}");
            let second = [("connection", "close"), ("Connection", value)];
            assert!(headers(&second, false).check().is_err(), "{value}, in the second header");
        }
    }

    #[test]
    fn too_many_headers_are_refused() {
        let many = vec![("a", "b"); 1001];
        assert!(headers(&many, false).check().is_err());
    }
}
