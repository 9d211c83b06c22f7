//! The headers as they came: repeated ones stay repeated, names are lower case.

use std::borrow::Cow;

use crate::denial::Denial;
use crate::denial::malformed;

/// Every identity header starts like this, and no client may send one.
pub const IDENTITY_PREFIX: &str = "x-tollgate-";

/// A list of headers, borrowed.
#[derive(Debug, Default)]
pub struct Headers<'a> {
    /// Names and values.
    list: Vec<(&'a [u8], &'a [u8])>,
    /// One more than the place where each of [`KNOWN`] comes first, or 0: what every check asks for is found without a search.
    first: [u16; KNOWN.len()],
    /// One bit for each of [`KNOWN`] that comes more than once.
    repeated: u16,
    joined: bool,
    overwritten_only: bool,
}

/// A header that every check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    ContentType,
    ContentLength,
    ContentEncoding,
    TransferEncoding,
    Host,
    Authority,
    Method,
    Path,
    Authorization,
    PartialBody,
}

/// Their names, in their order.
const KNOWN: [(Known, &str); 10] = [
    (Known::ContentType, "content-type"),
    (Known::ContentLength, "content-length"),
    (Known::ContentEncoding, "content-encoding"),
    (Known::TransferEncoding, "transfer-encoding"),
    (Known::Host, "host"),
    (Known::Authority, ":authority"),
    (Known::Method, ":method"),
    (Known::Path, ":path"),
    (Known::Authorization, "authorization"),
    (Known::PartialBody, "x-envoy-auth-partial-body"),
];

/// Headers whose repetition two servers read differently: the request is refused when one comes twice.
const SINGLE: [Known; 5] = [
    Known::ContentType,
    Known::ContentLength,
    Known::ContentEncoding,
    Known::TransferEncoding,
    Known::Host,
];

impl Known {
    /// The header of this name, in any case. Its length and its first letter tell nearly every other name.
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        let known = match (name.len(), name.first()? | 0x20) {
            (4, b'h') => Self::Host,
            (5, b':') => Self::Path,
            (7, b':') => Self::Method,
            (10, b':') => Self::Authority,
            (12, b'c') => Self::ContentType,
            (13, b'a') => Self::Authorization,
            (14, b'c') => Self::ContentLength,
            (16, b'c') => Self::ContentEncoding,
            (17, b't') => Self::TransferEncoding,
            (25, b'x') => Self::PartialBody,
            _ => return None,
        };
        is(name, known.name()).then_some(known)
    }

    fn name(self) -> &'static str {
        KNOWN.get(self as usize).map_or("", |(_, name)| name)
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Whether this is `name`, which is lower case: as HTTP/2 has names, so that the slower comparison is rare.
fn is(header: &[u8], name: &str) -> bool {
    header == name.as_bytes() || header.eq_ignore_ascii_case(name.as_bytes())
}

impl<'a> Headers<'a> {
    /// An empty list with room.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity), ..Self::default() }
    }

    /// The front-end got same-name headers joined with a comma (Envoy without `encode_raw_headers`), so a comma may be a
    /// repetition.
    pub fn are_joined(&mut self) {
        self.joined = true;
    }

    /// The proxy that asks overwrites the identity headers that it knows by name, and can take nothing else away.
    pub fn overwrite_only(&mut self) {
        self.overwritten_only = true;
    }

    /// Whether a header that has to go stays: see [`Headers::overwrite_only`].
    pub fn overwritten_only(&self) -> bool {
        self.overwritten_only
    }

    /// Adds one header; `name` as the front-end got it.
    pub fn push(&mut self, name: &'a str, value: &'a [u8]) {
        self.push_bytes(name.as_bytes(), value);
    }

    /// As [`Headers::push`], for a name that is UTF-8 and was not read as such.
    #[inline]
    pub fn push_bytes(&mut self, name: &'a [u8], value: &'a [u8]) {
        self.list.push((name, value));
        if let Some(known) = Known::of(name)
            && let Some(first) = self.first.get_mut(known as usize)
        {
            if *first == 0 {
                // A list that is longer is refused before anybody asks.
                *first = u16::try_from(self.list.len()).unwrap_or(u16::MAX);
            } else {
                self.repeated |= known.bit();
            }
        }
    }

    /// The first value of a known header.
    pub(super) fn first(&self, known: Known) -> Option<&'a [u8]> {
        let place = self.first.get(known as usize)?.checked_sub(1)?;
        self.list.get(usize::from(place)).map(|(_, value)| *value)
    }

    /// Whether every value of a known header is this one.
    pub(super) fn is_only(&self, known: Known, value: &[u8]) -> bool {
        if self.repeated & known.bit() == 0 {
            self.first(known).is_none_or(|first| first == value)
        } else {
            self.all(known.name()).all(|each| each == value)
        }
    }

    /// Every value of `name` (lower case).
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let within = match Known::of(name.as_bytes()) {
            Some(known) => match self.first.get(known as usize).map(|first| usize::from(*first)) {
                None | Some(0) => None,
                Some(first) if self.repeated & known.bit() == 0 => self.list.get(first - 1..first),
                Some(first) => self.list.get(first - 1..),
            },
            None => Some(self.list.as_slice()),
        };
        within
            .unwrap_or_default()
            .iter()
            .filter(move |(header, _)| is(header, name))
            .map(|(_, value)| *value)
    }

    /// The only value of `name`.
    ///
    /// # Errors
    /// `malformed_request` when it comes twice, or holds a comma where that may mean twice.
    pub fn one(&self, name: &str) -> Result<Option<&'a [u8]>, Denial> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some()
            || (self.joined && first.is_some_and(|value| value.contains(&b',')))
        {
            return Err(malformed("a header that decides is repeated"));
        }
        Ok(first)
    }

    /// Whether same-name headers were joined with a comma before we saw them.
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Names that read as an identity header in some server: the prefix in any case, with `_` or other punctuation for `-`.
    pub fn spoofed(&self) -> impl Iterator<Item = Cow<'a, str>> {
        self.list
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| is_identity(name))
            .map(String::from_utf8_lossy)
    }

    /// Names that read as one of `names` in some server: in any case, with `_` or other punctuation for `-`.
    pub fn spelled_like<'n>(
        &self,
        names: impl Iterator<Item = &'n String> + Clone,
    ) -> impl Iterator<Item = Cow<'a, str>> {
        // Most headers are as long as none of them.
        let lengths = names.clone().fold(0_u64, |lengths, name| lengths | 1 << (name.len() & 63));
        let like = move |header: &&[u8]| {
            lengths >> (header.len() & 63) & 1 == 1
                && names.clone().any(|name| name.len() == header.len() && reads_as(header, name))
        };
        self.list.iter().map(|(name, _)| *name).filter(like).map(String::from_utf8_lossy)
    }

    /// Refuses what no later step may have to think about.
    pub(super) fn check(&self) -> Result<(), Denial> {
        if self.list.len() > 1000 {
            return Err(malformed("there are more than 1000 headers"));
        }
        let repeated = |known: Known| {
            self.repeated & known.bit() != 0
                || (self.joined && self.first(known).is_some_and(|value| value.contains(&b',')))
        };
        if SINGLE.into_iter().any(repeated) {
            Err(malformed("a header that decides is repeated"))
        } else {
            Ok(())
        }
    }

    /// A pseudo header, where the proxy sends them along, says the same as the request's own field (Envoy sends both).
    pub(super) fn agree(&self, known: Known, field: &[u8]) -> Result<(), Denial> {
        if self.is_only(known, field) {
            Ok(())
        } else {
            Err(malformed("the proxy's report contradicts itself"))
        }
    }
}

fn is_identity(name: &[u8]) -> bool {
    // The third letter tells nearly every other name.
    matches!(name, [b'x' | b'X', _, b't' | b'T', ..])
        && name.len() >= IDENTITY_PREFIX.len()
        && reads_as(name, IDENTITY_PREFIX)
}

/// Whether `name` starts as `wanted` does, or the other way round, for a server to which all punctuation is one.
fn reads_as(name: &[u8], wanted: &str) -> bool {
    let plain = |b: u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    name.iter().zip(wanted.as_bytes()).all(|(have, want)| plain(*have) == plain(*want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_found_as_everything_else() {
        for (at, (known, name)) in KNOWN.into_iter().enumerate() {
            assert_eq!((known as usize, known.name()), (at, name));
            assert_eq!(Known::of(name.as_bytes()), Some(known));
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), Some(known));
            assert_eq!(
                Known::of(name.replace('-', "_").replace(':', ";").as_bytes()),
                (name == "host" || name == "authorization").then_some(known)
            );
            let upper = name.to_ascii_uppercase();
            let list = [("a", "0"), (name, "1"), ("b", "2"), (&upper, "3"), ("c", "4")];
            let headers = headers(&list, false);
            assert_eq!(headers.all(name).collect::<Vec<_>>(), [b"1", b"3"], "{name}");
            assert_eq!(headers.all("b").collect::<Vec<_>>(), [b"2"]);
            assert_eq!(
                (headers.first(known), headers.is_only(known, b"1")),
                (Some(&b"1"[..]), false)
            );
            assert_eq!(Headers::default().all(name).count(), 0);
            assert!(Headers::default().is_only(known, b""));
        }
    }

    fn headers<'a>(list: &[(&'a str, &'a str)], joined: bool) -> Headers<'a> {
        let mut headers = Headers::with_capacity(list.len());
        if joined {
            headers.are_joined();
        }
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
    fn every_spelling_of_a_header_to_strip_is_found() {
        let strip = ["x-body-compressed".to_owned(), "serve_multiplexed_model_id".to_owned()];
        for name in [
            "x-body-compressed",
            "X-Body_Compressed",
            "serve-multiplexed-model-id",
            "Serve_Multiplexed_Model_Id",
        ] {
            assert_eq!(
                headers(&[(name, "x")], false).spelled_like(strip.iter()).count(),
                1,
                "{name}"
            );
        }
        for name in ["x-body-compressed-x", "x-body", "body-compressed", "servemultiplexedmodelid"]
        {
            assert_eq!(
                headers(&[(name, "x")], false).spelled_like(strip.iter()).count(),
                0,
                "{name}"
            );
        }
    }

    #[test]
    fn too_many_headers_are_refused() {
        let many = vec![("a", "b"); 1001];
        assert!(headers(&many, false).check().is_err());
    }
}
