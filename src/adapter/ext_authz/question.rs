//! A `CheckRequest`, read where it lies: what it says is borrowed from the message, and what is not asked for is passed over.

use std::net::IpAddr;

use bytes::Bytes;
use tollgate_core::{
    denial::{Denial, Reason},
    request::{Headers, ProxyBehavior, RawBody, RawRequest},
};

use crate::adapter::wire::{Value, fields, pair};

/// The most header lines and context extensions one message may hold, together. Envoy lets 100 headers through unless told
/// otherwise. An empty header is two bytes on the wire and many more in memory.
pub const MAX_ENTRIES: usize = 256;

/// The fields of one header. An entry of the map `headers` has no [`RAW`] value, and a [`TEXT`] that Envoy has joined; in a line of
/// `header_map` the bytes as they came stand in [`RAW`], with `encode_raw_headers`.
const NAME: u8 = 1;
const TEXT: u8 = 2;
const RAW: u8 = 3;

/// The bytes of one `CheckRequest`, not looked at yet.
#[derive(Clone, Debug)]
pub struct Question(pub Bytes);

/// What the message says, the last one winning where a field comes twice, as protocol buffers have it.
#[derive(Default)]
struct Said<'a> {
    has_http: bool,
    method: &'a [u8],
    scheme: &'a [u8],
    host: &'a [u8],
    path: &'a [u8],
    text: &'a [u8],
    raw: &'a [u8],
    headers: Headers<'a>,
    has_joined: bool,
    has_listed: bool,
    /// Headers and context extensions.
    entries: usize,
    address: Option<IpAddr>,
}

impl Question {
    /// The request to decide about.
    ///
    /// # Errors
    /// `malformed_request` for a message that cannot be read, that has more than [`MAX_ENTRIES`], or that says a thing in two
    /// ways. A denial and not a failed check: what made it so may be the client's doing, and a proxy with `failure_mode_allow`
    /// lets failed checks pass.
    pub fn read(&self) -> Result<RawRequest<'_>, Denial> {
        let contradiction = |cause: &'static str| Denial::new(Reason::MalformedRequest, cause);
        let mut said = Said { headers: Headers::with_capacity(32), ..Said::default() };
        let read = fields(&self.0, |number, value| match (number, value) {
            (1, Value::Bytes(attributes)) => said.attributes(attributes),
            _ => Some(()),
        });
        if read.is_none() || !said.has_http {
            return Err(contradiction(
                "the CheckRequest cannot be read, or has no attributes.request.http",
            ));
        }
        if said.has_joined && said.has_listed {
            return Err(contradiction("the proxy sent the headers twice (headers and header_map)"));
        }
        if said.has_joined {
            let proxy = ProxyBehavior { joins_repeats: true, ..ProxyBehavior::default() };
            said.headers = said.headers.with_proxy(proxy);
        }
        let body = match (said.raw, said.text) {
            ([], []) => RawBody::None,
            (body, []) | ([], body) => RawBody::Whole(body),
            _ => return Err(contradiction("the proxy sent the body twice (body and raw_body)")),
        };
        let Said { method, scheme, host, path, headers, address, .. } = said;
        Ok(RawRequest { method, scheme, host, path, headers, address, body })
    }
}

impl<'a> Said<'a> {
    /// `AttributeContext`.
    fn attributes(&mut self, message: &'a [u8]) -> Option<()> {
        fields(message, |number, value| match (number, value) {
            (1, Value::Bytes(peer)) => self.source(peer),
            (4, Value::Bytes(request)) => fields(request, |number, value| match (number, value) {
                (2, Value::Bytes(http)) => self.http(http),
                _ => Some(()),
            }),
            (10, Value::Bytes(_)) => self.entry(),
            _ => Some(()),
        })
    }

    /// `AttributeContext.HttpRequest`.
    fn http(&mut self, message: &'a [u8]) -> Option<()> {
        self.has_http = true;
        fields(message, |number, value| {
            let Value::Bytes(bytes) = value else { return Some(()) };
            match number {
                2 => self.method = bytes,
                3 => {
                    self.has_joined = true;
                    self.header(bytes, TEXT)?;
                }
                4 => self.path = bytes,
                5 => self.host = bytes,
                6 => self.scheme = bytes,
                11 => self.text = bytes,
                12 => self.raw = bytes,
                13 => fields(bytes, |number, value| match (number, value) {
                    (1, Value::Bytes(line)) => {
                        self.has_listed = true;
                        self.header(line, RAW)
                    }
                    _ => Some(()),
                })?,
                _ => {}
            }
            Some(())
        })
    }

    /// One header: an entry of the map `headers`, or a line of `header_map`, where the value stands in [`RAW`] or else in [`TEXT`].
    fn header(&mut self, entry: &'a [u8], field: u8) -> Option<()> {
        let (name, value) = pair(entry, NAME, field).or_else(|| any_header(entry, field))?;
        if !name.is_ascii() && std::str::from_utf8(name).is_err() {
            return None;
        }
        self.headers.push_bytes(name, value);
        self.entry()
    }

    /// Counts with each entry, so that a message costs no more than it may hold.
    fn entry(&mut self) -> Option<()> {
        self.entries += 1;
        (self.entries <= MAX_ENTRIES).then_some(())
    }

    /// `AttributeContext.Peer`, of which the address of a socket is used.
    fn source(&mut self, peer: &'a [u8]) -> Option<()> {
        fields(peer, |number, value| match (number, value) {
            (1, Value::Bytes(address)) => fields(address, |number, value| match (number, value) {
                (1, Value::Bytes(socket)) => fields(socket, |number, value| {
                    if let (2, Value::Bytes(text)) = (number, value) {
                        self.address =
                            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                    }
                    Some(())
                }),
                _ => Some(()),
            }),
            _ => Some(()),
        })
    }
}

/// As [`pair`], for a header of any shape.
#[inline(never)]
fn any_header(entry: &[u8], field: u8) -> Option<(&[u8], &[u8])> {
    let (mut name, mut text, mut raw) = (&[][..], &[][..], &[][..]);
    fields(entry, |number, value| {
        match (number, value) {
            (1, Value::Bytes(bytes)) => name = bytes,
            (2, Value::Bytes(bytes)) => text = bytes,
            (3, Value::Bytes(bytes)) if field == RAW => raw = bytes,
            _ => {}
        }
        Some(())
    })?;
    Some((name, if raw.is_empty() { text } else { raw }))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        adapter::wire::Writer,
        proto::envoy::{
            config::core::v3::{
                Address, HeaderMap, HeaderValue, SocketAddress, address::Address as Kind,
            },
            service::auth::v3::{
                AttributeContext, CheckRequest,
                attribute_context::{HttpRequest, Peer, Request},
            },
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
        Question(Bytes::copy_from_slice(bytes)).read().is_ok()
    }

    fn lines(count: usize) -> Option<HeaderMap> {
        Some(HeaderMap { headers: vec![HeaderValue::default(); count] })
    }

    #[test]
    fn everything_asked_for_is_read() {
        let socket = SocketAddress { address: "2001:db8::1".into(), ..Default::default() };
        let source = Peer {
            address: Some(Address { address: Some(Kind::SocketAddress(socket)) }),
            ..Default::default()
        };
        let http = HttpRequest {
            id: "7".into(),
            method: "POST".into(),
            scheme: "https".into(),
            host: "h".into(),
            path: "/v1?x".into(),
            headers: [("a".to_owned(), "1,2".to_owned()), ("b".to_owned(), String::new())].into(),
            raw_body: Bytes::from_static(b"{}"),
            size: 2,
            ..Default::default()
        };
        let mut message = CheckRequest::decode(&*encoded(http, 3)).unwrap();
        message.attributes.as_mut().unwrap().source = Some(source);
        let question = Question(message.encode_to_vec().into());
        let raw = question.read().unwrap();
        assert_eq!(
            (raw.method, raw.scheme, raw.host, raw.path),
            (&b"POST"[..], &b"https"[..], &b"h"[..], &b"/v1?x"[..])
        );
        assert_eq!(raw.headers.all("a").collect::<Vec<_>>(), [b"1,2"]);
        assert_eq!(raw.headers.all("b").collect::<Vec<_>>(), [b""]);
        assert!(raw.headers.proxy().joins_repeats);
        assert_eq!(raw.address, Some("2001:db8::1".parse().unwrap()));
        assert!(matches!(raw.body, RawBody::Whole(b"{}")));
    }

    #[test]
    fn raw_lines_are_read_as_they_came() {
        let line = |value: &str, raw: &[u8]| HeaderValue {
            key: "a".into(),
            value: value.into(),
            raw_value: raw.to_vec(),
        };
        let map =
            HeaderMap { headers: vec![line("text", b""), line("", b"\xff"), line("both", b"raw")] };
        let question = Question(
            encoded(HttpRequest { header_map: Some(map), ..Default::default() }, 0).into(),
        );
        let raw = question.read().unwrap();
        assert_eq!(raw.headers.all("a").collect::<Vec<_>>(), [&b"text"[..], b"\xff", b"raw"]);
        assert!(!raw.headers.proxy().joins_repeats);
    }

    #[test]
    fn a_header_of_any_shape_is_read_the_same() {
        let long = "x".repeat(200);
        let field = |number: u8, text: &str| {
            let mut writer = Writer::default();
            writer.bytes(number, text.as_bytes());
            writer.finish()
        };
        for (name, parts, text, raw) in [
            ("as Envoy writes it", vec![field(1, "a"), field(2, "b")], "b", "b"),
            ("as it came", vec![field(1, "a"), field(3, "b")], "", "b"),
            ("the other way round", vec![field(2, "b"), field(1, "a")], "b", "b"),
            ("both values", vec![field(1, "a"), field(2, "b"), field(3, "c")], "b", "c"),
            (
                "an empty value as it came",
                vec![field(1, "a"), field(2, "b"), field(3, "")],
                "b",
                "b",
            ),
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
            ("something else besides", vec![field(1, "a"), field(9, "x"), field(2, "b")], "b", "b"),
            ("no value", vec![field(1, "a")], "", ""),
        ] {
            for (field, expected) in [(TEXT, text), (RAW, raw)] {
                let (mut said, entry) = (Said::default(), parts.concat());
                said.header(&entry, field).unwrap();
                assert_eq!(
                    said.headers.all("a").collect::<Vec<_>>(),
                    [expected.as_bytes()],
                    "{name}, {field}"
                );
            }
        }
        assert!(Said::default().header(&field(1, "\u{e9}"), RAW).is_some());
        assert!(
            Said::default().header(b"\x0a\x01\xff\x1a\x01b", RAW).is_none(),
            "a name that is no text"
        );
    }

    #[test]
    fn what_is_said_in_two_ways_is_refused() {
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
    fn entries_are_counted_wherever_they_hide() {
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
    fn what_cannot_be_decoded_is_not_read() {
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
}
