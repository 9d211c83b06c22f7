//! Reads a `CheckRequest` in place: the parts that are used are borrowed from the message, the
//! other fields are skipped.

use std::net::IpAddr;

use tollgate_core::{
    denial::{Denial, Reason},
    request::{Headers, ProxyBehavior, RawBody, RawRequest},
};
use tollgate_grpc_unary::wire::{Fields, Malformed, two_short_fields};

/// The largest number of header lines and context extensions of one message, together. Envoy
/// accepts 100 headers by default. An empty header has two bytes on the wire and many more in
/// memory.
pub const MAX_ENTRIES: usize = 256;

/// The fields of one header. An entry of the map `headers` has no [`RAW`] value, and Envoy joins
/// repeated headers in its [`TEXT`]. A line of `header_map` has the original bytes in [`RAW`] when
/// Envoy's filter sets `encode_raw_headers`.
const NAME: u8 = 1;
const TEXT: u8 = 2;
const RAW: u8 = 3;

/// The reason why a message is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum CheckRequestError {
    #[error("the CheckRequest is not a protocol buffers message")]
    Malformed,
    #[error("the CheckRequest has no attributes.request.http")]
    NoHttpRequest,
    #[error("the name of a header is not UTF-8")]
    HeaderName,
    #[error("the CheckRequest has more than 256 headers and context extensions")]
    TooManyEntries,
    #[error("the proxy sent the headers twice (headers and header_map)")]
    TwoHeaderLists,
    #[error("the proxy sent the body twice (body and raw_body)")]
    TwoBodies,
}

impl From<Malformed> for CheckRequestError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Reads the request to decide about.
///
/// # Errors
/// `malformed_request` for a message that cannot be read, has more than [`MAX_ENTRIES`], or
/// contains headers or body twice. This is a denial and not a failed check: the client may have
/// caused it, and a proxy with `failure_mode_allow` forwards requests whose check failed.
pub fn read_check_request(message: &[u8]) -> Result<RawRequest<'_>, Denial> {
    CheckRequest::read(message)
        .and_then(CheckRequest::into_raw_request)
        .map_err(|error| Denial::new(Reason::MalformedRequest, error.to_string()))
}

/// The context extension that marks the first of two checks of one request. The configuration of
/// the proxy sets it; a header of the client cannot.
const PHASE: (&[u8], &[u8]) = (b"tollgate.phase", b"head");

/// Whether the proxy marks the message as a check of the head only (`tollgate.phase: head`). With
/// any other value it is a whole check.
pub(super) fn is_head_check(message: &[u8]) -> bool {
    for field in Fields::of(message) {
        let Ok((number, attributes)) = field else { return false };
        if number == 1 && has_phase(attributes) {
            return true;
        }
    }
    false
}

/// Whether an `AttributeContext` has the context extension [`PHASE`].
fn has_phase(attributes: &[u8]) -> bool {
    for field in Fields::of(attributes) {
        let Ok((number, extension)) = field else { return false };
        if number == 10 && is_phase(extension) {
            return true;
        }
    }
    false
}

/// Whether an entry of the context extensions is [`PHASE`].
fn is_phase(extension: &[u8]) -> bool {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields::of(extension) {
        match field {
            Ok((1, text)) => key = text,
            Ok((2, text)) => value = text,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    (key, value) == PHASE
}

/// The used parts of a message. Of a field that occurs twice the last one is used, as protocol
/// buffers specify.
#[derive(Default)]
struct CheckRequest<'a> {
    has_http: bool,
    method: &'a [u8],
    host: &'a [u8],
    path: &'a [u8],
    protocol: &'a [u8],
    text_body: &'a [u8],
    raw_body: &'a [u8],
    headers: Headers<'a>,
    has_joined_headers: bool,
    has_header_lines: bool,
    /// Headers and context extensions.
    entries: usize,
    address: Option<IpAddr>,
    peer_certificate: &'a [u8],
}

impl<'a> CheckRequest<'a> {
    fn read(message: &'a [u8]) -> Result<Self, CheckRequestError> {
        let mut request = Self { headers: Headers::with_capacity(32), ..Self::default() };
        for field in Fields::of(message) {
            if let (1, attributes) = field? {
                request.read_attributes(attributes)?;
            }
        }
        Ok(request)
    }

    fn into_raw_request(mut self) -> Result<RawRequest<'a>, CheckRequestError> {
        if !self.has_http {
            return Err(CheckRequestError::NoHttpRequest);
        }
        if self.has_joined_headers && self.has_header_lines {
            return Err(CheckRequestError::TwoHeaderLists);
        }
        if self.has_joined_headers {
            let proxy = ProxyBehavior { joins_repeats: true, ..ProxyBehavior::default() };
            self.headers = self.headers.with_proxy(proxy);
        }
        let body = match (self.raw_body, self.text_body) {
            ([], []) if self.may_have_body() => RawBody::Unavailable,
            ([], []) => RawBody::None,
            (body, []) | ([], body) => RawBody::Whole(body),
            _ => return Err(CheckRequestError::TwoBodies),
        };
        let Self { method, host, path, headers, address, peer_certificate, .. } = self;
        // The field `scheme` is the client's `:scheme`, which may be `https` over plain HTTP/2. The
        // header is Envoy's own.
        let scheme = headers.forwarded_scheme();
        Ok(RawRequest { method, scheme, host, path, headers, address, peer_certificate, body })
    }

    /// Whether the request may have a body that Envoy did not send.
    ///
    /// Without `with_request_body`, Envoy reports no body of any request. A length, a transfer
    /// coding, and the lack of both in HTTP/1 (RFC 9112 section 6.3) say whether there is one; the
    /// core reads them. Over HTTP/2 and HTTP/3 a body needs none of them. The body of a GET has no
    /// meaning (RFC 9110 section 9.3.1).
    fn may_have_body(&self) -> bool {
        let has = |name: &str| self.headers.all(name).next().is_some();
        !matches!(self.method, b"GET" | b"HEAD")
            && (self.protocol.starts_with(b"HTTP/2") || self.protocol.starts_with(b"HTTP/3"))
            && !has("content-length")
            // Envoy adds it to each body that it read.
            && !has("x-envoy-auth-partial-body")
    }

    /// Reads an `AttributeContext`.
    fn read_attributes(&mut self, message: &'a [u8]) -> Result<(), CheckRequestError> {
        for field in Fields::of(message) {
            match field? {
                (1, peer) => self.read_source(peer)?,
                (4, request) => {
                    for field in Fields::of(request) {
                        if let (2, http) = field? {
                            self.read_http(http)?;
                        }
                    }
                }
                (10, _extension) => self.count_entry()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads an `AttributeContext.HttpRequest`.
    fn read_http(&mut self, message: &'a [u8]) -> Result<(), CheckRequestError> {
        self.has_http = true;
        for field in Fields::of(message) {
            match field? {
                (2, method) => self.method = method,
                (3, entry) => {
                    self.has_joined_headers = true;
                    self.read_header(entry, TEXT)?;
                }
                (4, path) => self.path = path,
                (5, host) => self.host = host,
                (10, protocol) => self.protocol = protocol,
                (11, body) => self.text_body = body,
                (12, body) => self.raw_body = body,
                (13, header_map) => {
                    for field in Fields::of(header_map) {
                        if let (1, line) = field? {
                            self.has_header_lines = true;
                            self.read_header(line, RAW)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads one header: an entry of the map `headers`, or a line of `header_map`, whose value is
    /// in [`RAW`] or, when that is empty, in [`TEXT`].
    fn read_header(&mut self, entry: &'a [u8], field: u8) -> Result<(), CheckRequestError> {
        let (name, value) = match two_short_fields(entry, NAME, field) {
            Some(header) => header,
            None => read_any_header(entry, field)?,
        };
        if !name.is_ascii() && std::str::from_utf8(name).is_err() {
            return Err(CheckRequestError::HeaderName);
        }
        self.headers.push_bytes(name, value);
        self.count_entry()
    }

    /// Counts an entry when it is read, so that a message is not read beyond its limit.
    fn count_entry(&mut self) -> Result<(), CheckRequestError> {
        self.entries += 1;
        match self.entries <= MAX_ENTRIES {
            true => Ok(()),
            false => Err(CheckRequestError::TooManyEntries),
        }
    }

    /// Reads an `AttributeContext.Peer`, of which the address of a socket is used, and the certificate
    /// (`include_peer_certificate` of the filter: PEM, percent-encoded).
    fn read_source(&mut self, peer: &'a [u8]) -> Result<(), CheckRequestError> {
        for field in Fields::of(peer) {
            let address = match field? {
                (1, address) => address,
                (5, certificate) => {
                    self.peer_certificate = certificate;
                    continue;
                }
                _ => continue,
            };
            for field in Fields::of(address) {
                let (1, socket) = field? else { continue };
                for field in Fields::of(socket) {
                    if let (2, text) = field? {
                        self.address =
                            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a header of any form; the usual form is read by [`two_short_fields`].
#[inline(never)]
fn read_any_header(entry: &[u8], field: u8) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut name, mut text, mut raw) = (&[][..], &[][..], &[][..]);
    for part in Fields::of(entry) {
        match part? {
            (1, bytes) => name = bytes,
            (2, bytes) => text = bytes,
            (3, bytes) if field == RAW => raw = bytes,
            _ => {}
        }
    }
    Ok((name, if raw.is_empty() { text } else { raw }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;
    use tollgate_grpc_unary::wire::MessageWriter;

    use super::{CheckRequest as Reader, *};
    use crate::proto::envoy::{
        config::core::v3::{
            Address, HeaderMap, HeaderValue, SocketAddress, address::Address as Kind,
        },
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Peer, Request},
        },
    };

    fn encoded(http: HttpRequest, extensions: usize) -> Vec<u8> {
        let attributes = AttributeContext {
            request: Some(Request { http: Some(http), time: None }),
            context_extensions: (0..extensions).map(|n| (n.to_string(), String::new())).collect(),
            ..Default::default()
        };
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }

    fn reads(bytes: &[u8]) -> bool {
        read_check_request(bytes).is_ok()
    }

    fn lines(count: usize) -> Option<HeaderMap> {
        Some(HeaderMap { headers: vec![HeaderValue::default(); count] })
    }

    #[test]
    fn every_used_field_is_read() {
        let socket = SocketAddress { address: "2001:db8::1".into(), ..Default::default() };
        let source = Peer {
            certificate: "-----BEGIN%20".into(),
            address: Some(Address { address: Some(Kind::SocketAddress(socket)) }),
            ..Default::default()
        };
        let http = HttpRequest {
            id: "7".into(),
            method: "POST".into(),
            scheme: "http".into(),
            host: "h".into(),
            path: "/v1?x".into(),
            headers: [("a", "1,2"), ("b", ""), ("x-forwarded-proto", "https"), (":scheme", "http")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            raw_body: Bytes::from_static(b"{}"),
            size: 2,
            ..Default::default()
        };
        let mut message = CheckRequest::decode(&*encoded(http, 3)).unwrap();
        message.attributes.as_mut().unwrap().source = Some(source);
        let message = message.encode_to_vec();
        let raw = read_check_request(&message).unwrap();
        assert_eq!(
            (raw.method, raw.scheme, raw.host, raw.path),
            (&b"POST"[..], &b"https"[..], &b"h"[..], &b"/v1?x"[..])
        );
        assert_eq!(raw.headers.all("a").collect::<Vec<_>>(), [b"1,2"]);
        assert_eq!(raw.headers.all("b").collect::<Vec<_>>(), [b""]);
        assert!(raw.headers.proxy().joins_repeats);
        assert_eq!(raw.address, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(raw.peer_certificate, b"-----BEGIN%20");
        assert!(matches!(raw.body, RawBody::Whole(b"{}")));
    }

    #[test]
    fn a_body_that_may_be_missing_is_not_an_empty_one() {
        for (method, protocol, headers, missing) in [
            ("POST", "HTTP/2", &[][..], true),
            ("DELETE", "HTTP/2", &[], true),
            ("PUT", "HTTP/3", &[("transfer-encoding", "chunked")], true),
            ("POST", "HTTP/2", &[("content-length", "0")], false),
            // The core refuses it: a length, and no body.
            ("POST", "HTTP/2", &[("content-length", "5")], false),
            ("POST", "HTTP/2", &[("x-envoy-auth-partial-body", "false")], false),
            ("POST", "HTTP/1.1", &[], false),
            ("POST", "HTTP/1.0", &[], false),
            ("GET", "HTTP/2", &[], false),
            ("HEAD", "HTTP/3", &[], false),
        ] {
            let http = HttpRequest {
                method: method.into(),
                protocol: protocol.into(),
                headers: headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                ..HttpRequest::default()
            };
            let message = encoded(http, 0);
            let body = read_check_request(&message).unwrap().body;
            let is_missing = matches!(body, RawBody::Unavailable);
            assert_eq!(is_missing, missing, "{method} {protocol} {headers:?}: {body:?}");
        }
    }

    #[test]
    fn the_scheme_of_the_client_is_ignored() {
        let headers = [(":scheme".to_owned(), "https".to_owned())].into();
        let http = HttpRequest { scheme: "https".into(), headers, ..HttpRequest::default() };
        assert_eq!(read_check_request(&encoded(http, 0)).unwrap().scheme, b"");
    }

    #[test]
    fn raw_lines_are_read_unchanged() {
        let line = |value: &str, raw: &[u8]| HeaderValue {
            key: "a".into(),
            value: value.into(),
            raw_value: raw.to_vec(),
        };
        let map =
            HeaderMap { headers: vec![line("text", b""), line("", b"\xff"), line("both", b"raw")] };
        let message = encoded(HttpRequest { header_map: Some(map), ..Default::default() }, 0);
        let raw = read_check_request(&message).unwrap();
        assert_eq!(raw.headers.all("a").collect::<Vec<_>>(), [&b"text"[..], b"\xff", b"raw"]);
        assert!(!raw.headers.proxy().joins_repeats);
    }

    #[test]
    fn a_header_of_any_form_is_read_the_same() {
        let long = "x".repeat(200);
        let field = |number: u8, text: &str| {
            let mut writer = MessageWriter::default();
            writer.bytes(number, text.as_bytes());
            writer.finish()
        };
        for (name, parts, text, raw) in [
            ("as Envoy writes it", vec![field(1, "a"), field(2, "b")], "b", "b"),
            ("raw", vec![field(1, "a"), field(3, "b")], "", "b"),
            ("value first", vec![field(2, "b"), field(1, "a")], "b", "b"),
            ("both values", vec![field(1, "a"), field(2, "b"), field(3, "c")], "b", "c"),
            ("an empty value raw", vec![field(1, "a"), field(2, "b"), field(3, "")], "b", "b"),
            ("a long value", vec![field(1, "a"), field(2, &long)], &long, &long),
            (
                "a name that comes twice",
                vec![field(1, "x"), field(1, "a"), field(2, "b")],
                "b",
                "b",
            ),
            (
                "a value that comes twice",
                vec![field(1, "a"), field(2, "x"), field(2, "b")],
                "b",
                "b",
            ),
            ("another field", vec![field(1, "a"), field(9, "x"), field(2, "b")], "b", "b"),
            ("no value", vec![field(1, "a")], "", ""),
        ] {
            for (field, expected) in [(TEXT, text), (RAW, raw)] {
                let (mut request, entry) = (Reader::default(), parts.concat());
                request.read_header(&entry, field).unwrap();
                assert_eq!(
                    request.headers.all("a").collect::<Vec<_>>(),
                    [expected.as_bytes()],
                    "{name}, {field}"
                );
            }
        }
        assert_eq!(Reader::default().read_header(&field(1, "\u{e9}"), RAW), Ok(()));
        assert_eq!(
            Reader::default().read_header(b"\x0a\x01\xff\x1a\x01b", RAW),
            Err(CheckRequestError::HeaderName)
        );
    }

    #[test]
    fn headers_or_a_body_sent_twice_are_refused() {
        let headers = [("a".to_owned(), "1".to_owned())];
        assert!(!reads(&encoded(
            HttpRequest { headers: headers.into(), header_map: lines(1), ..Default::default() },
            0
        )));
        let body = HttpRequest {
            body: Bytes::from_static(b"{}"),
            raw_body: Bytes::from_static(b"{}"),
            ..Default::default()
        };
        assert!(!reads(&encoded(body, 0)));
        assert!(!reads(b""), "no attributes");
        assert!(
            !reads(&CheckRequest { attributes: Some(AttributeContext::default()) }.encode_to_vec()),
            "no request"
        );
    }

    #[test]
    fn entries_are_counted_in_every_field() {
        let map = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect();
        let rows = [
            ("nothing at all", HttpRequest::default(), 0, true),
            ("a full map", HttpRequest { headers: map(256), ..Default::default() }, 0, true),
            (
                "one too many in the map",
                HttpRequest { headers: map(257), ..Default::default() },
                0,
                false,
            ),
            (
                "one too many raw lines",
                HttpRequest { header_map: lines(257), ..Default::default() },
                0,
                false,
            ),
            ("one too many extensions", HttpRequest::default(), 257, false),
            (
                "together one too many",
                HttpRequest { header_map: lines(172), ..Default::default() },
                85,
                false,
            ),
        ];
        for (name, http, extensions, expected) in rows {
            assert_eq!(reads(&encoded(http, extensions)), expected, "{name}");
        }
    }

    #[test]
    fn a_map_split_over_repeated_messages_is_counted_whole() {
        let mut bytes = encoded(HttpRequest { header_map: lines(200), ..Default::default() }, 0);
        assert!(reads(&bytes));
        bytes.extend_from_within(..);
        assert!(!reads(&bytes), "two `attributes` fields merge into one of 400 lines");
    }

    #[test]
    fn a_message_that_prost_cannot_decode_is_refused() {
        let good = encoded(
            HttpRequest { headers: [("a".into(), "b".into())].into(), ..Default::default() },
            1,
        );
        for end in 0..good.len() {
            let cut = &good[..end];
            assert!(!reads(cut) || CheckRequest::decode(cut).is_ok(), "cut at {end}");
        }
        assert!(!reads(&[0x0b, 0x0c]), "a group");
        assert!(!reads(&[0xff; 11]), "a number without an end");
        assert!(!reads(&[0x0a, 0x05, 0x00]), "a length beyond the end");
    }

    /// A message of each form that Envoy sends.
    fn forms() -> Vec<Vec<u8>> {
        let map = [("a".to_owned(), "1,2".to_owned()), (":path".to_owned(), "x".repeat(200))];
        let line = |key: &str, value: &str, raw: &[u8]| HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: raw.to_vec(),
        };
        let lines = vec![line("a", "", b"1"), line("a", "2", b""), line("b", "", &[b'x'; 200])];
        let socket = SocketAddress { address: "192.0.2.1".into(), ..Default::default() };
        let address = Address { address: Some(Kind::SocketAddress(socket)) };
        [
            HttpRequest { headers: map.into(), body: "{}".into(), ..Default::default() },
            HttpRequest {
                method: "post".into(),
                path: "/v1".into(),
                host: "h".into(),
                size: 300,
                header_map: Some(HeaderMap { headers: lines }),
                raw_body: Bytes::from_static(b"{\"model\": 1}"),
                ..Default::default()
            },
        ]
        .map(|http| {
            let mut message = CheckRequest::decode(&*encoded(http, 2)).unwrap();
            let source = Peer { address: Some(address.clone()), ..Default::default() };
            message.attributes.as_mut().unwrap().source = Some(source);
            message.encode_to_vec()
        })
        .into()
    }

    #[test]
    fn mutated_messages_are_read_as_prost_reads_them() {
        use rand::{Rng as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let (forms, mut both) = (forms(), 0);
        for round in 0..100_000 {
            let mut message = forms[round % forms.len()].clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..message.len());
                match random.random_range(0..4) {
                    0 => message[at] = random.random(),
                    1 => message[at] ^= 1 << random.random_range(0..8),
                    2 => message.insert(at, random.random()),
                    _ => drop(message.remove(at)),
                }
            }
            // prost does not check the wire type of a map: these are the tags of the two maps with
            // another type, which the specification treats as unknown fields.
            if message.iter().any(|byte| matches!(byte, 0x18 | 0x19 | 0x1d | 0x50 | 0x51 | 0x55)) {
                continue;
            }
            let Ok(reference) = CheckRequest::decode(&*message) else { continue };
            let Some(attributes) = reference.attributes else { continue };
            let Some(http) = attributes.request.and_then(|request| request.http) else { continue };
            // A refusal is for repeated values, for many entries, or for a group.
            let Ok(ours) = read_check_request(&message) else { continue };
            both += 1;
            assert_eq!(
                (ours.method, ours.path, ours.host),
                (http.method.as_bytes(), http.path.as_bytes(), http.host.as_bytes()),
                "{message:?}"
            );
            let body = [&http.body[..], &http.raw_body].concat();
            assert!(
                matches!(ours.body, RawBody::Whole(bytes) if bytes == body)
                    || (matches!(ours.body, RawBody::None | RawBody::Unavailable)
                        && body.is_empty()),
                "{message:?}"
            );
            for (name, value) in &http.headers {
                let mut values = ours.headers.all(name);
                assert!(
                    name.bytes().any(|byte| byte.is_ascii_uppercase())
                        || values.any(|ours| ours == value.as_bytes()),
                    "{name}: {message:?}"
                );
            }
            for line in http.header_map.iter().flat_map(|map| &map.headers) {
                let value =
                    if line.raw_value.is_empty() { line.value.as_bytes() } else { &line.raw_value };
                let mut values = ours.headers.all(&line.key);
                assert!(
                    line.key.bytes().any(|byte| byte.is_ascii_uppercase())
                        || values.any(|ours| ours == value),
                    "{}: {message:?}",
                    line.key
                );
            }
        }
        assert!(both > 10_000, "{both} messages are readable for both");
    }
}
