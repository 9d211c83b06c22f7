//! The only normaliser of requests: matching, limits, audit and answers use its result.
//!
//! A request that two parsers could read differently is refused with `malformed_request`.

pub mod body;
mod header_names;
pub mod headers;
pub mod host;
pub(crate) mod origin;
pub mod path;

use std::net::IpAddr;

pub(crate) use self::header_names::plain;
use self::headers::KnownHeader;
pub use self::{
    body::{Body, RawBody},
    header_names::HeaderNames,
    headers::{Headers, ProxyBehavior},
    host::Host,
    path::RequestPath,
};
use crate::denial::{Denial, malformed};

/// A request as the front-end received it: borrowed and not validated.
#[derive(Debug)]
pub struct RawRequest<'a> {
    /// The method, as the client sent it.
    pub method: &'a [u8],
    /// The scheme of the client's request, as reported by the proxy: one name, or a list to which
    /// each hop appended its own. Empty if unknown. Never `:scheme`, which the client chooses.
    pub scheme: &'a [u8],
    /// The value of `:authority` or `Host`.
    pub host: &'a [u8],
    /// The value of `:path`, query included.
    pub path: &'a [u8],
    /// All headers; repeated ones occur repeatedly.
    pub headers: Headers<'a>,
    /// The client's address, as reported by the proxy.
    pub address: Option<IpAddr>,
    /// The certificate of the client, as Envoy reports it: PEM, percent-encoded. Empty if there is
    /// none.
    pub peer_certificate: &'a [u8],
    /// The body, if there is one.
    pub body: RawBody<'a>,
}

/// A [`RawRequest`] without its body, which a front-end may receive later.
#[derive(Debug)]
pub struct RawHead<'a> {
    /// The method, as the client sent it.
    pub method: &'a [u8],
    /// The scheme of the client's request, as reported by the proxy: one name, or a list to which
    /// each hop appended its own. Empty if unknown. Never `:scheme`, which the client chooses.
    pub scheme: &'a [u8],
    /// The value of `:authority` or `Host`.
    pub host: &'a [u8],
    /// The value of `:path`, query included.
    pub path: &'a [u8],
    /// All headers; repeated ones occur repeatedly.
    pub headers: Headers<'a>,
    /// The client's address, as reported by the proxy.
    pub address: Option<IpAddr>,
    /// The certificate of the client, as Envoy reports it: PEM, percent-encoded. Empty if there is
    /// none.
    pub peer_certificate: &'a [u8],
}

impl<'a> RawRequest<'a> {
    /// Splits the request into head and body.
    pub fn split(self) -> (RawHead<'a>, RawBody<'a>) {
        let Self { method, scheme, host, path, headers, address, peer_certificate, body } = self;
        (RawHead { method, scheme, host, path, headers, address, peer_certificate }, body)
    }
}

/// The head of a request that can be read in exactly one way.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method, in upper-case letters.
    pub method: &'a str,
    /// Whether every hop that the proxy reports used https.
    pub secure: bool,
    /// The host in lower case, without port and trailing dot.
    pub host: Host,
    /// The path, raw and decoded once.
    pub path: RequestPath<'a>,
    /// The headers of the request.
    pub headers: Headers<'a>,
    /// The client's address, if known.
    pub address: Option<IpAddr>,
    /// The certificate of the client, as the proxy reports it; empty if there is none.
    pub peer_certificate: &'a [u8],
}

impl<'a> Request<'a> {
    /// Validates and normalises the head of a request.
    ///
    /// ```
    /// use tollgate_core::{
    ///     denial::Reason,
    ///     request::{Headers, RawHead, Request},
    /// };
    ///
    /// let raw = |path| RawHead {
    ///     method: b"GET",
    ///     scheme: b"https",
    ///     host: b"API.example.com:443",
    ///     path,
    ///     headers: Headers::default(),
    ///     address: None,
    ///     peer_certificate: b"",
    /// };
    /// let request = Request::parse(raw(b"/v1/models")).expect("the request is unambiguous");
    /// assert_eq!(request.host.as_str(), "api.example.com");
    ///
    /// let denial = Request::parse(raw(b"/v1/../admin")).expect_err("dot segments are ambiguous");
    /// assert_eq!(denial.reason, Reason::MalformedRequest);
    /// ```
    ///
    /// # Errors
    /// `malformed_request` for every ambiguity: see [`path`], [`host`] and [`headers`].
    pub fn parse(raw: RawHead<'a>) -> Result<Self, Denial> {
        let method = method(raw.method)?;
        let secure = is_secure(raw.scheme)?;
        let host = Host::parse(raw.host)?;
        let path = RequestPath::parse(raw.path)?;
        raw.headers.check()?;
        raw.headers.require_equal(KnownHeader::Method, raw.method)?;
        raw.headers.require_equal(KnownHeader::Path, raw.path)?;
        raw.headers.require_equal(KnownHeader::Authority, raw.host)?;
        let RawHead { headers, address, peer_certificate, .. } = raw;
        Ok(Self { method, secure, host, path, headers, address, peer_certificate })
    }
}

/// Returns whether every scheme of a list is https.
///
/// The last entry is that of the nearest proxy. The entries before it may be the client's own, so
/// they can make a request insecure, and never secure. Schemes have no case (RFC 3986 section 3.1).
fn is_secure(list: &[u8]) -> Result<bool, Denial> {
    let mut secure = true;
    for scheme in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
        if is("http") || is("ws") || is("") {
            secure = false;
        } else if !is("https") && !is("wss") {
            return Err(malformed("the scheme is neither http nor https"));
        }
    }
    Ok(secure)
}

/// Reads a method, a token of upper-case letters.
///
/// Methods are case-sensitive (RFC 9110 section 9.1). All methods that inference servers use are in
/// upper case.
fn method(raw: &[u8]) -> Result<&str, Denial> {
    match raw {
        b"GET" => return Ok("GET"),
        b"POST" => return Ok("POST"),
        _ => {}
    }
    let upper = !raw.is_empty()
        && raw.len() <= 32
        && raw.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
    match std::str::from_utf8(raw) {
        Ok(method) if upper => Ok(method),
        _ => Err(malformed("the method is not a word of upper-case letters")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::Reason;

    fn raw(method: &'static str, scheme: &'static str) -> RawHead<'static> {
        RawHead {
            method: method.as_bytes(),
            scheme: scheme.as_bytes(),
            host: b"api.example.com",
            path: b"/v1/models",
            headers: Headers::default(),
            address: None,
            peer_certificate: b"",
        }
    }

    #[test]
    fn methods_are_upper_case_words() {
        for method in ["GET", "POST", "M-SEARCH"] {
            assert!(Request::parse(raw(method, "https")).is_ok(), "{method}");
        }
        for method in
            ["", "get", "Post", "GET ", "G\u{0}T", "P\u{d6}ST", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG"]
        {
            assert_eq!(
                Request::parse(raw(method, "https")).unwrap_err().reason,
                Reason::MalformedRequest,
                "{method}"
            );
        }
    }

    #[test]
    fn only_https_is_secure() {
        for (scheme, secure) in [
            ("https", true),
            ("wss", true),
            ("HTTPS", true),
            ("https, HTTPS", true),
            ("http", false),
            ("ws", false),
            ("", false),
            ("https,http", false),
            ("http,https", false),
            ("https,", false),
        ] {
            assert_eq!(Request::parse(raw("GET", scheme)).unwrap().secure, secure, "{scheme}");
        }
        for scheme in ["ftp", "https;", "https https", "https,ftp", "\u{e9}"] {
            assert!(Request::parse(raw("GET", scheme)).is_err(), "{scheme}");
        }
    }

    #[test]
    fn a_pseudo_header_that_contradicts_the_request_is_refused() {
        for (name, value) in [(":path", "/admin"), (":method", "POST"), (":authority", "other")] {
            let mut request = raw("GET", "https");
            request.headers.push(name, value.as_bytes());
            assert!(Request::parse(request).is_err(), "{name}");
        }
    }
}
