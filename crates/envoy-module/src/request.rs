//! The request as the core reads it: lent by Envoy, or copied for another thread.

use std::{net::IpAddr, ops::Range};

use tollgate::{adapter::ext_authz::MAX_ENTRIES, engine::check::LargeRequest};
use tollgate_core::{
    denial::{Denial, Reason},
    request::{Headers, RawBody, RawRequest},
};

use crate::host::{HeaderList, HeaderMap, Stream, Text};

/// The header by which Envoy's ext_authz filter reports a body that it cut: a client's own means
/// nothing.
const PARTIAL_BODY: &[u8] = b"x-envoy-auth-partial-body";

/// The head of a request.
pub(crate) trait HeadView<'h> {
    /// Returns the names and values of all headers.
    fn lines(&self) -> impl Iterator<Item = (&'h [u8], &'h [u8])>;

    /// Whether the request has a header, named in lower case.
    fn has(&self, name: &str) -> bool {
        self.lines().any(|(header, _)| header == name.as_bytes())
    }

    /// Returns the first value of a header, named in lower case.
    fn first(&self, name: &[u8]) -> Option<&'h [u8]> {
        self.lines().find(|(header, _)| *header == name).map(|(_, value)| value)
    }

    /// Returns the value of `:path`.
    fn path(&self) -> &'h [u8] {
        self.first(b":path").unwrap_or_default()
    }

    /// Whether the request asks for another protocol: what follows its headers is no body.
    fn is_upgrade(&self) -> bool {
        self.first(b":method") == Some(b"CONNECT")
            || self.has(":protocol")
            || self.first(b"upgrade").is_some()
    }

    /// Whether the request is a call of gRPC, whose client may wait for an answer before it ends its
    /// messages.
    fn is_grpc(&self) -> bool {
        let kind = self.first(b"content-type").unwrap_or_default();
        kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"))
    }

    /// Whether Envoy answers the request as a call of gRPC: with 200, and the status in a header.
    fn has_grpc_answer(&self) -> bool {
        let kind = self.first(b"content-type").unwrap_or_default();
        let rest = kind.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
    }

    /// Returns the length of the body that the request announces.
    fn content_length(&self) -> Option<u64> {
        std::str::from_utf8(self.first(b"content-length")?).ok()?.parse().ok()
    }
}

/// The head of a request, lent by Envoy.
#[derive(Debug)]
pub(crate) struct LentHead<'s> {
    headers: HeaderList<'s>,
    pub(crate) address: Option<IpAddr>,
    has_streams: bool,
}

impl<'s> LentHead<'s> {
    /// Reads the head of a stream.
    pub(crate) fn of(stream: &'s Stream) -> Self {
        let protocol = stream.text(Text::Protocol).unwrap_or_default();
        let has_streams = protocol.starts_with(b"HTTP/2") || protocol.starts_with(b"HTTP/3");
        let address = stream.text(Text::SourceAddress).and_then(address);
        Self { headers: stream.headers(HeaderMap::Request), address, has_streams }
    }

    /// Returns the body of a request whose body is not read: over a protocol with streams it may
    /// have one without a header that announces it.
    pub(crate) fn unread_body(&self) -> RawBody<'s> {
        let method = self.first(b":method").unwrap_or_default();
        let may_have =
            self.has_streams && !matches!(method, b"GET" | b"HEAD") && !self.has("content-length");
        if may_have { RawBody::Unavailable } else { RawBody::None }
    }

    /// Returns the request with a body.
    ///
    /// # Errors
    /// As [`read`].
    pub(crate) fn request<'b>(&self, body: RawBody<'b>) -> Result<RawRequest<'b>, Denial>
    where
        's: 'b,
    {
        read(self.lines(), self.address, body)
    }
}

impl<'s> HeadView<'s> for LentHead<'s> {
    fn lines(&self) -> impl Iterator<Item = (&'s [u8], &'s [u8])> {
        self.headers.iter()
    }
}

/// The head of a request that is not read.
#[derive(Debug)]
pub(crate) struct NoHead;

impl HeadView<'static> for NoHead {
    fn lines(&self) -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
        std::iter::empty()
    }
}

/// A request that was copied, for a check on another thread.
#[derive(Debug)]
pub(crate) struct OwnedRequest {
    text: Vec<u8>,
    lines: Vec<(Range<usize>, Range<usize>)>,
    address: Option<IpAddr>,
    body: OwnedBody,
}

#[derive(Debug)]
enum OwnedBody {
    None,
    Unavailable,
    Whole(Vec<u8>),
    Partial,
}

impl OwnedRequest {
    /// Copies a request.
    pub(crate) fn of(head: &LentHead<'_>, body: RawBody<'_>) -> Self {
        let mut text = Vec::with_capacity(2048);
        let mut copy = |bytes: &[u8]| {
            let start = text.len();
            text.extend_from_slice(bytes);
            start..text.len()
        };
        let lines = head.lines().map(|(name, value)| (copy(name), copy(value))).collect();
        let body = match body {
            RawBody::None => OwnedBody::None,
            RawBody::Unavailable => OwnedBody::Unavailable,
            RawBody::Whole(bytes) => OwnedBody::Whole(bytes.to_vec()),
            RawBody::Partial => OwnedBody::Partial,
        };
        Self { text, lines, address: head.address, body }
    }

    /// The size of the body in bytes.
    pub(crate) fn body_size(&self) -> usize {
        if let OwnedBody::Whole(bytes) = &self.body { bytes.len() } else { 0 }
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.text.get(range.clone()).unwrap_or_default()
    }
}

impl<'h> HeadView<'h> for &'h OwnedRequest {
    fn lines(&self) -> impl Iterator<Item = (&'h [u8], &'h [u8])> {
        let request: &'h OwnedRequest = self;
        request.lines.iter().map(|(name, value)| (request.slice(name), request.slice(value)))
    }
}

impl LargeRequest for OwnedRequest {
    fn read(&self) -> Result<RawRequest<'_>, Denial> {
        let body = match &self.body {
            OwnedBody::None => RawBody::None,
            OwnedBody::Unavailable => RawBody::Unavailable,
            OwnedBody::Whole(bytes) => RawBody::Whole(bytes),
            OwnedBody::Partial => RawBody::Partial,
        };
        read(HeadView::lines(&self), self.address, body)
    }
}

/// Reads a request from the lines of its head.
///
/// # Errors
/// `malformed_request` for a head with more than [`MAX_ENTRIES`] lines, and for a name that is no
/// text: as Envoy's ext_authz filter would send it.
fn read<'a>(
    lines: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    address: Option<IpAddr>,
    body: RawBody<'a>,
) -> Result<RawRequest<'a>, Denial> {
    let mut headers = Headers::with_capacity(32);
    let (mut method, mut host, mut path) = (&[][..], &[][..], &[][..]);
    for (count, (name, value)) in lines.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(malformed("the request has more than 256 headers"));
        }
        if name.first() == Some(&b':') {
            match name {
                b":method" => method = value,
                b":authority" => host = value,
                b":path" => path = value,
                _ => {}
            }
        } else if name == PARTIAL_BODY {
            continue;
        }
        if !name.is_ascii() && std::str::from_utf8(name).is_err() {
            return Err(malformed("the name of a header is not UTF-8"));
        }
        headers.push_bytes(name, value);
    }
    // `:scheme` is the client's, which may be `https` over plain HTTP/2. The header is Envoy's own.
    let scheme = headers.forwarded_scheme();
    // The ABI has no certificate of the client: `client_certificates.header` names one of Envoy's.
    let peer_certificate = &[];
    Ok(RawRequest { method, scheme, host, path, headers, address, peer_certificate, body })
}

fn malformed(cause: &'static str) -> Denial {
    Denial::new(Reason::MalformedRequest, cause)
}

/// Reads an address with its port: `192.0.2.1:443`, `[2001:db8::1]:443`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let (address, _port) = text.rsplit_once(':')?;
    address.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_ports() {
        for (text, expected) in [
            ("192.0.2.1:443", Some("192.0.2.1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("/run/client.sock", None),
            ("", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(address(text.as_bytes()), expected, "{text}");
        }
    }
}
