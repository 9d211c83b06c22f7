//! A `CheckResponse`, written straight from the answer.
//!
//! INVARIANT: a `CheckResponse` without a status means *allow* to Envoy, so a message is started by [`allowed`] or [`denied`]
//! alone, and both begin with one.

use bytes::Bytes;
use prost::Message as _;
use tollgate_core::decision::answer::{AllowedAnswer, DeniedAnswer, HeaderList};

use crate::{
    check::Metadata,
    frontend::wire::{Writer, sized},
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

/// The answer to a check that is allowed.
pub(super) fn allowed(answer: &AllowedAnswer<'_>, metadata: &Metadata<'_>) -> Reply {
    let credential = answer.upstream_credential.map(|secret| ("authorization", secret.expose()));
    let set = || texts(&answer.set).chain(credential);
    let ok = set().chain(texts(&answer.response)).map(|(name, value)| sized(option(name, value))).sum::<usize>()
        + answer.remove.iter().map(|name| sized(name.len())).sum::<usize>();
    let metadata_length = metadata.iter().map(|(name, value)| sized(entry(name, value))).sum();
    let mut writer = Writer::with_capacity(sized(0) + sized(ok) + sized(metadata_length));
    // An empty google.rpc.Status: code 0, OK.
    writer.open(STATUS, 0);
    writer.open(OK_RESPONSE, ok);
    for (name, value) in set() {
        write_option(&mut writer, HEADERS, name, value);
    }
    for name in &answer.remove {
        writer.bytes(HEADERS_TO_REMOVE, name.as_bytes());
    }
    for (name, value) in texts(&answer.response) {
        write_option(&mut writer, RESPONSE_HEADERS_TO_ADD, name, value);
    }
    writer.open(DYNAMIC_METADATA, metadata_length);
    for (name, value) in metadata.iter() {
        write_entry(&mut writer, name, value);
    }
    Reply(writer.finish().into())
}

fn texts(list: &HeaderList) -> impl Iterator<Item = (&'static str, &[u8])> {
    list.iter().map(|(name, value)| (name, value.as_bytes()))
}

/// Length of a `HeaderValueOption`.
fn option(name: &str, value: &[u8]) -> usize {
    sized(sized(name.len()) + sized(value.len())) + 2
}

/// `HeaderValueOption { header: { key, value }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }`.
fn write_option(writer: &mut Writer, field: u8, name: &str, value: &[u8]) {
    writer.open(field, option(name, value));
    writer.open(1, sized(name.len()) + sized(value.len()));
    writer.bytes(1, name.as_bytes());
    writer.bytes(2, value);
    writer.number(3, OVERWRITE);
}

/// Length of an entry of `google.protobuf.Struct.fields` whose value is text.
fn entry(name: &str, value: &str) -> usize {
    sized(name.len()) + sized(sized(value.len()))
}

fn write_entry(writer: &mut Writer, name: &str, value: &str) {
    writer.open(1, entry(name, value));
    writer.bytes(1, name.as_bytes());
    writer.open(2, sized(value.len()));
    writer.bytes(3, value.as_bytes());
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
