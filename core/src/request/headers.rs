//! The headers as they came: repeated ones stay repeated, names are lower case.

use super::malformed;
use crate::decision::Denial;

/// Every identity header starts like this, and no client may send one.
pub const IDENTITY_PREFIX: &str = "x-tollgate-";

/// A list of headers, borrowed.
#[derive(Debug, Default)]
pub struct Headers<'a> {
    list: Vec<(&'a str, &'a [u8])>,
    joined: bool,
    overwritten_only: bool,
}

/// Headers whose repetition two servers read differently: the request is refused when one comes twice.
const SINGLE: [&str; 5] = ["content-type", "content-length", "content-encoding", "transfer-encoding", "host"];

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
        self.list.push((name, value));
    }

    /// Every value of `name` (lower case).
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.list.iter().filter(move |(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The only value of `name`.
    ///
    /// # Errors
    /// `malformed_request` when it comes twice, or holds a comma where that may mean twice.
    pub fn one(&self, name: &str) -> Result<Option<&'a [u8]>, Denial> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() || (self.joined && first.is_some_and(|value| value.contains(&b','))) {
            return Err(malformed("a header that decides is repeated"));
        }
        Ok(first)
    }

    /// Whether same-name headers were joined with a comma before we saw them.
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Names that read as an identity header in some server: the prefix in any case, with `_` or other punctuation for `-`.
    pub fn spoofed(&self) -> impl Iterator<Item = &'a str> {
        self.list.iter().map(|(name, _)| *name).filter(|name| is_identity(name))
    }

    /// Names that read as one of `names` in some server: in any case, with `_` or other punctuation for `-`.
    pub fn spelled_like<'n>(&self, names: impl Iterator<Item = &'n String> + Clone) -> impl Iterator<Item = &'a str> {
        let like = move |header: &&str| names.clone().any(|name| name.len() == header.len() && reads_as(header, name));
        self.list.iter().map(|(name, _)| *name).filter(like)
    }

    /// Refuses what no later step may have to think about.
    pub(super) fn check(&self) -> Result<(), Denial> {
        if self.list.len() > 1000 {
            return Err(malformed("there are more than 1000 headers"));
        }
        for name in SINGLE {
            self.one(name)?;
        }
        Ok(())
    }

    /// A pseudo header, where the proxy sends them along, says the same as the request's own field (Envoy sends both).
    pub(super) fn agree(&self, name: &str, field: &[u8]) -> Result<(), Denial> {
        if self.all(name).all(|value| value == field) { Ok(()) } else { Err(malformed("the proxy's report contradicts itself")) }
    }
}

fn is_identity(name: &str) -> bool {
    name.len() >= IDENTITY_PREFIX.len() && reads_as(name, IDENTITY_PREFIX)
}

/// Whether `name` starts as `wanted` does, or the other way round, for a server to which all punctuation is one.
fn reads_as(name: &str, wanted: &str) -> bool {
    let plain = |b: u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    name.bytes().zip(wanted.bytes()).all(|(have, want)| plain(have) == plain(want))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for name in ["x-tollgat-subject", "tollgate-subject", "x-tollgated", "xtollgate-subject", "x--tollgate-subject"] {
            assert_eq!(headers(&[(name, "admin")], false).spoofed().count(), 0, "{name}");
        }
    }

    #[test]
    fn every_spelling_of_a_header_to_strip_is_found() {
        let strip = ["x-body-compressed".to_owned(), "serve_multiplexed_model_id".to_owned()];
        for name in ["x-body-compressed", "X-Body_Compressed", "serve-multiplexed-model-id", "Serve_Multiplexed_Model_Id"] {
            assert_eq!(headers(&[(name, "x")], false).spelled_like(strip.iter()).count(), 1, "{name}");
        }
        for name in ["x-body-compressed-x", "x-body", "body-compressed", "servemultiplexedmodelid"] {
            assert_eq!(headers(&[(name, "x")], false).spelled_like(strip.iter()).count(), 0, "{name}");
        }
    }

    #[test]
    fn too_many_headers_are_refused() {
        let many = vec![("a", "b"); 1001];
        assert!(headers(&many, false).check().is_err());
    }
}
