//! How a `CheckRequest` is read off the wire: bounded before it is decoded, and never an error.

use std::cell::Cell;

use bytes::Buf as _;
use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

/// The most header lines and context extensions one message may hold, together. Envoy lets 100 headers through unless told
/// otherwise. An empty header is two bytes on the wire and two hundred in memory, so without a count a message of a few
/// megabytes would become hundreds of them.
pub const MAX_ENTRIES: usize = 256;

/// The codec of the `Authorization` service, named in `build.rs`.
///
/// A message that cannot be read, or that holds more than [`MAX_ENTRIES`], becomes the empty `CheckRequest`, which is denied
/// for having no attributes. An error here would be a failed check, and a proxy with `failure_mode_allow` lets those pass:
/// a client must not be able to cause one with what it sends.
#[derive(Debug, Default)]
pub struct CheckCodec;

impl Codec for CheckCodec {
    type Encode = CheckResponse;
    type Decode = CheckRequest;
    type Encoder = ProstEncoder<CheckResponse>;
    type Decoder = CheckDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CheckDecoder
    }
}

/// The reading half of [`CheckCodec`].
#[derive(Debug)]
pub struct CheckDecoder;

impl Decoder for CheckDecoder {
    type Item = CheckRequest;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<CheckRequest>, Status> {
        // tonic has the whole message in one piece: this neither copies nor allocates.
        let message = buf.copy_to_bytes(buf.remaining());
        let request =
            if is_bounded(&message) { CheckRequest::decode(message).unwrap_or_default() } else { CheckRequest::default() };
        Ok(Some(request))
    }
}

/// Whether `message` is well formed down to its headers and holds no more than [`MAX_ENTRIES`] of them.
fn is_bounded(message: &[u8]) -> bool {
    let left = Cell::new(MAX_ENTRIES);
    let take = || left.get().checked_sub(1).map(|rest| left.set(rest));
    fields(message, |number, attributes| match number {
        1 => fields(attributes, |number, value| match number {
            4 => fields(value, |number, http| match number {
                2 => fields(http, |number, value| match number {
                    3 => take(),
                    13 => fields(value, |number, _| if number == 1 { take() } else { Some(()) }),
                    _ => Some(()),
                }),
                _ => Some(()),
            }),
            10 => take(),
            _ => Some(()),
        }),
        _ => Some(()),
    })
    .is_some()
}

/// Calls `visit` with the number and the bytes of every length-delimited field, the only kind that can hold anything.
/// `None` when `visit` gave up or when `bytes` is not a message; groups, which no version of these messages has, count as that.
fn fields<'a>(mut bytes: &'a [u8], visit: impl Fn(u64, &'a [u8]) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => bytes = bytes.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                visit(key >> 3, value)?;
            }
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(())
}

/// Takes one base-128 number of at most ten bytes off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    use crate::pb::envoy::service::auth::v3::AttributeContext;
    use crate::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};

    fn message(http: HttpRequest, extensions: usize) -> Vec<u8> {
        let attributes = AttributeContext {
            request: Some(Request { http: Some(http), time: None }),
            context_extensions: (0..extensions).map(|n| (n.to_string(), String::new())).collect(),
            ..Default::default()
        };
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }

    fn lines(count: usize) -> Option<HeaderMap> {
        Some(HeaderMap { headers: vec![HeaderValue::default(); count] })
    }

    #[test]
    fn entries_are_counted_wherever_they_hide() {
        let map = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect();
        let rows = [
            ("nothing at all", HttpRequest::default(), 0, true),
            ("a full map", HttpRequest { headers: map(256), ..Default::default() }, 0, true),
            ("one too many in the map", HttpRequest { headers: map(257), ..Default::default() }, 0, false),
            ("one too many raw lines", HttpRequest { header_map: lines(257), ..Default::default() }, 0, false),
            ("one too many extensions", HttpRequest::default(), 257, false),
            ("together one too many", HttpRequest { headers: map(86), header_map: lines(86), ..Default::default() }, 85, false),
        ];
        for (name, http, extensions, expected) in rows {
            assert_eq!(is_bounded(&message(http, extensions)), expected, "{name}");
        }
    }

    #[test]
    fn a_map_split_over_repeated_messages_is_counted_whole() {
        let mut bytes = message(HttpRequest { header_map: lines(200), ..Default::default() }, 0);
        assert!(is_bounded(&bytes));
        bytes.extend_from_within(..);
        assert!(!is_bounded(&bytes), "two `attributes` fields merge into one of 400 lines");
    }

    #[test]
    fn what_is_not_a_message_is_not_bounded() {
        let good = message(HttpRequest { headers: [("a".into(), "b".into())].into(), ..Default::default() }, 1);
        for end in 1..good.len() {
            let cut = &good[..end];
            assert!(!is_bounded(cut) || CheckRequest::decode(cut).is_ok(), "cut at {end}");
        }
        assert!(!is_bounded(&[0x0b, 0x0c]), "a group");
        assert!(!is_bounded(&[0xff; 11]), "a number without an end");
        assert!(!is_bounded(&[0x0a, 0x05, 0x00]), "a length beyond the end");
    }
}
