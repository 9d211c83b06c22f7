//! A `CheckResponse`, written straight from the answer.
//!
//! INVARIANT: a `CheckResponse` without a status means *allow* to Envoy, so a message is started by [`allowed`] or [`denied`]
//! alone, and both begin with one.

use bytes::Bytes;
use prost::Message as _;
use tollgate_core::decision::answer::{AllowedAnswer, DeniedAnswer, HeaderSink};

use crate::{
    check::Metadata,
    frontend::wire::Writer,
    pb::{
        envoy::{
            config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
            service::auth::v3::{CheckResponse, DeniedHttpResponse, check_response::HttpResponse},
            r#type::v3::HttpStatus,
        },
        google::rpc,
    },
};

/// The bytes of one `CheckResponse`.
#[derive(Clone, Debug)]
pub struct Reply(pub Bytes);

/// Fields of `CheckResponse`.
const STATUS: u8 = 1;
const OK_RESPONSE: u8 = 3;
const DYNAMIC_METADATA: u8 = 4;
/// Fields of `OkHttpResponse`.
const HEADERS: u8 = 2;
const HEADERS_TO_REMOVE: u8 = 5;
const RESPONSE_HEADERS_TO_ADD: u8 = 6;
/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`: Envoy's zero value appends, and the client's forged value would stay beside
/// ours.
const OVERWRITE: u8 = 2;

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
    writer.message(DYNAMIC_METADATA, |fields| {
        for (name, value) in metadata.iter() {
            entry(fields, name, value);
        }
    });
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
    writer.message(field, |option| {
        option.message(1, |header| {
            header.bytes(1, name.as_bytes());
            header.value(2, value);
        });
        option.number(3, OVERWRITE);
    });
}

/// An entry of `google.protobuf.Struct.fields` whose value is text.
fn entry(fields: &mut Writer, name: &str, value: &str) {
    fields.message(1, |entry| {
        entry.bytes(1, name.as_bytes());
        entry.message(2, |wrapped| wrapped.bytes(3, value.as_bytes()));
    });
}

/// A denial: also what the body bound answers with before a message is read.
pub(crate) fn denied(answer: &DeniedAnswer, metadata: &Metadata<'_>) -> Reply {
    let overwrite = |(name, value): (&str, &str)| HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(answer.status) }),
        headers: answer.headers.iter().map(overwrite).collect(),
        body: answer.body.clone(),
    };
    let text = |value: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) };
    let fields = metadata.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
    let response = CheckResponse {
        status: Some(rpc::Status { code: answer.reason.grpc(), message: answer.reason.code().to_owned() }),
        http_response: Some(HttpResponse::DeniedResponse(response)),
        dynamic_metadata: Some(prost_types::Struct { fields }),
    };
    Reply(response.encode_to_vec().into())
}
