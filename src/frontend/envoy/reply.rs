//! A `CheckResponse`, written straight from the answer.
//!
//! INVARIANT: a `CheckResponse` without a status means *allow* to Envoy, so a message is started by [`allowed`] or [`denied`]
//! alone, and both begin with one.

use bytes::Bytes;
use tollgate_core::decision::answer::{AllowedAnswer, DeniedAnswer, HeaderSink};

use crate::{check::Metadata, frontend::wire::Writer};

/// The bytes of one `CheckResponse`.
#[derive(Clone, Debug)]
pub struct Reply(pub Bytes);

/// Fields of `CheckResponse`.
const STATUS: u8 = 1;
const DENIED_RESPONSE: u8 = 2;
const OK_RESPONSE: u8 = 3;
const DYNAMIC_METADATA: u8 = 4;
/// Fields of `google.rpc.Status`, the first one also of `envoy.type.v3.HttpStatus`.
const CODE: u8 = 1;
const MESSAGE: u8 = 2;
/// Fields of `DeniedHttpResponse`.
const HTTP_STATUS: u8 = 1;
const BODY: u8 = 3;
/// Fields of `OkHttpResponse`, the first one also of `DeniedHttpResponse`.
const HEADERS: u8 = 2;
const HEADERS_TO_REMOVE: u8 = 5;
const RESPONSE_HEADERS_TO_ADD: u8 = 6;
/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`: Envoy's zero value appends, and the client's forged value would stay beside
/// ours.
const OVERWRITE: u16 = 2;

/// Room for nearly every answer.
const ROOM: usize = 1024;

/// The answer to a check that is allowed.
pub(super) fn allowed(answer: &AllowedAnswer<'_>, metadata: &Metadata<'_>) -> Reply {
    let mut writer = Writer::with_capacity(ROOM);
    // An empty google.rpc.Status: code 0, OK.
    writer.message(STATUS, |_| {});
    writer.message(OK_RESPONSE, |ok| {
        answer.set(&mut Options { writer: ok, field: HEADERS });
        if let Some(secret) = answer.upstream_credential {
            option(ok, HEADERS, "authorization", |value| value.extend_from_slice(secret.expose()));
        }
        for name in answer.removed() {
            ok.bytes(HEADERS_TO_REMOVE, name.as_bytes());
        }
        answer.response(&mut Options { writer: ok, field: RESPONSE_HEADERS_TO_ADD });
    });
    write_metadata(&mut writer, metadata);
    Reply(writer.finish().into())
}

/// Writes each header as a `HeaderValueOption`.
struct Options<'w> {
    writer: &'w mut Writer,
    field: u8,
}

impl HeaderSink for Options<'_> {
    fn header(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        option(self.writer, self.field, name, write);
    }
}

/// `HeaderValueOption { header: { key, value }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }`.
fn option(writer: &mut Writer, field: u8, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    let places = open_option(writer, field, name);
    value(writer.text());
    close_option(writer, places);
}

/// What comes before the value. There are a dozen headers in an answer, each with code of its own for the value alone.
#[inline(never)]
fn open_option(writer: &mut Writer, field: u8, name: &str) -> [usize; 3] {
    let option = writer.open(field);
    let header = writer.open(1);
    writer.bytes(1, name.as_bytes());
    [option, header, writer.open(2)]
}

#[inline(never)]
fn close_option(writer: &mut Writer, [option, header, value]: [usize; 3]) {
    writer.close(value);
    writer.close(header);
    writer.number(3, OVERWRITE);
    writer.close(option);
}

/// A denial: also what the body bound answers with before a message is read.
pub(crate) fn denied(answer: &DeniedAnswer, metadata: &Metadata<'_>) -> Reply {
    let mut writer = Writer::with_capacity(ROOM);
    writer.message(STATUS, |status| {
        status.number(CODE, answer.reason.grpc());
        status.bytes(MESSAGE, answer.reason.code().as_bytes());
    });
    writer.message(DENIED_RESPONSE, |denied| {
        denied.message(HTTP_STATUS, |status| status.number(CODE, answer.status));
        for (name, value) in answer.headers.iter() {
            option(denied, HEADERS, name, |text| text.extend_from_slice(value.as_bytes()));
        }
        denied.bytes(BODY, answer.body.as_bytes());
    });
    write_metadata(&mut writer, metadata);
    Reply(writer.finish().into())
}

fn write_metadata(writer: &mut Writer, metadata: &Metadata<'_>) {
    writer.message(DYNAMIC_METADATA, |fields| {
        for (name, value) in metadata.iter() {
            // An entry of `google.protobuf.Struct.fields` whose value is text.
            fields.message(1, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |wrapped| wrapped.bytes(3, value.as_bytes()));
            });
        }
    });
}
