//! The reader of Envoy's `CheckRequest` against prost: both read the same values. Only a message in
//! which an unused field has another type or is not text is refused by prost and read by ours.
#![no_main]

use bytes::Bytes;
use check_request::{MAX_ENTRIES, read_check_request};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tollgate_core::request::RawBody;

/// The file of the server, which is not compiled here.
#[path = "../../../src/adapter/ext_authz/check_request.rs"]
mod check_request;

/// The used fields of the messages, with the numbers of `proto/`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<Request>,
    #[prost(message, repeated, tag = "10")]
    context_extensions: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Peer {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket_address: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "2")]
    http: Option<Http>,
}

#[derive(Clone, PartialEq, Message)]
struct Http {
    #[prost(bytes = "bytes", tag = "2")]
    method: Bytes,
    #[prost(message, repeated, tag = "3")]
    headers: Vec<Entry>,
    #[prost(bytes = "bytes", tag = "4")]
    path: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    host: Bytes,
    #[prost(bytes = "bytes", tag = "11")]
    body: Bytes,
    #[prost(bytes = "bytes", tag = "12")]
    raw_body: Bytes,
    #[prost(message, optional, tag = "13")]
    header_map: Option<HeaderMap>,
}

/// An entry of a map, as it is encoded.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    headers: Vec<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    raw_value: Bytes,
}

fuzz_target!(|input: &[u8]| {
    let ours = read_check_request(input);
    let decoded = CheckRequest::decode(input).ok();
    // Without unused fields: prost skips groups, and our reader refuses every message with one.
    let plain = decoded.as_ref().map(Message::encode_to_vec);
    let theirs = decoded.and_then(|message| {
        let Attributes { source, request, context_extensions } = message.attributes?;
        let address = source
            .and_then(|peer| peer.address?.socket_address)
            .and_then(|socket| socket.address.parse().ok());
        Some((request?.http?, address, context_extensions.len()))
    });
    match (&ours, &theirs) {
        (Ok(ours), Some((theirs, address, _))) => {
            assert_eq!(ours.address, *address);
            assert_eq!(
                (ours.method, ours.path, ours.host),
                (&*theirs.method, &*theirs.path, &*theirs.host)
            );
            let body = match &ours.body {
                RawBody::None | RawBody::Unavailable => &[][..],
                RawBody::Whole(bytes) => bytes,
                other => panic!("{other:?}"),
            };
            assert_eq!(body, [&theirs.body[..], &theirs.raw_body].concat());
            assert_eq!(ours.headers.proxy().joins_repeats, !theirs.headers.is_empty());
            for header in theirs.header_map.iter().flat_map(|map| &map.headers) {
                let value =
                    if header.raw_value.is_empty() { &header.value } else { &header.raw_value };
                assert!(
                    ours.headers
                        .all(&header.key.to_ascii_lowercase())
                        .any(|known| known == &value[..]),
                    "{header:?}"
                );
            }
            for Entry { key, value } in &theirs.headers {
                assert!(
                    ours.headers.all(&key.to_ascii_lowercase()).any(|known| known == &value[..]),
                    "{key}"
                );
            }
        }
        // A message that can be read is refused only when it has values twice or too many entries.
        (Err(denial), Some((theirs, _, extensions))) => {
            let lines = theirs.header_map.as_ref().map_or(0, |map| map.headers.len());
            let twice = (lines > 0 && !theirs.headers.is_empty())
                || (!theirs.body.is_empty() && !theirs.raw_body.is_empty());
            let much = lines + theirs.headers.len() + extensions > MAX_ENTRIES;
            let readable = plain.is_some_and(|plain| read_check_request(&plain).is_ok());
            assert!(twice || much || readable, "{denial:?}");
        }
        (Ok(_) | Err(_), None) => {}
    }
});
