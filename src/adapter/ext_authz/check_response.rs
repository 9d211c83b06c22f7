//! Writes a `CheckResponse` directly from the answer.
//!
//! INVARIANT: a `CheckResponse` without a status means *allow* to Envoy. A message is created by
//! [`allowed`] or [`denied`] only, and both write a status first.

use serde_json::{Map, Value};
use tollgate_core::{
    decision::answer::{AllowedAnswer, DeniedAnswer, HeaderSink},
    rule::size::BodyChanges,
};
use tollgate_grpc_unary::{FramedMessage, wire::MessageWriter};

use crate::engine::check::Metadata;

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
/// Fields of `HeaderValueOption`.
const HEADER: u8 = 1;
const APPEND_ACTION: u8 = 3;
/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`. With Envoy's zero value, which appends, a value
/// that the client forged would be kept beside the written one.
const OVERWRITE: u16 = 2;
/// Fields of `HeaderValue`, and of an entry of `google.protobuf.Struct.fields`.
const KEY: u8 = 1;
const VALUE: u8 = 2;
/// Field of `google.protobuf.Struct`.
const ENTRY: u8 = 1;
/// Fields of `google.protobuf.Value`.
const NULL: u8 = 1;
const NUMBER: u8 = 2;
const STRING: u8 = 3;
const BOOL: u8 = 4;
const STRUCT: u8 = 5;
const LIST: u8 = 6;
/// Field of `google.protobuf.ListValue`.
const VALUES: u8 = 1;

/// The initial size of the buffer, enough for nearly every answer. With a preset, the names of the
/// headers to remove alone take 500 bytes. With the five bytes in front of the message it is a power
/// of two, which the allocator finds in half the instructions.
const BUFFER_BYTES: usize = 2048 - 5;

/// The answer to a check that is allowed.
pub(super) fn allowed(answer: &AllowedAnswer<'_>, metadata: &Metadata<'_>) -> FramedMessage {
    let mut writer = MessageWriter::new(FramedMessage::buffer(BUFFER_BYTES));
    // An empty google.rpc.Status: code 0, OK.
    writer.message(STATUS, |_| {});
    writer.long_message(OK_RESPONSE, |ok| {
        answer.set(&mut HeaderOptions { writer: ok, field: HEADERS });
        if let Some(secret) = answer.upstream_credential {
            write_header(ok, HEADERS, "authorization", |value| {
                value.extend_from_slice(secret.expose());
            });
        }
        answer.removed().for_each(|name| ok.bytes(HEADERS_TO_REMOVE, name.as_bytes()));
        answer.response(&mut HeaderOptions { writer: ok, field: RESPONSE_HEADERS_TO_ADD });
    });
    write_metadata(&mut writer, metadata);
    FramedMessage::new(writer.finish())
}

/// The answer to a check of the head that passes: it sets and removes nothing.
pub(super) fn head_passed() -> FramedMessage {
    let mut writer = MessageWriter::new(FramedMessage::buffer(BUFFER_BYTES));
    writer.message(STATUS, |_| {});
    writer.message(OK_RESPONSE, |_| {});
    FramedMessage::new(writer.finish())
}

/// The answer to a check that is denied.
pub(super) fn denied(answer: &DeniedAnswer, metadata: &Metadata<'_>) -> FramedMessage {
    let mut writer = MessageWriter::new(FramedMessage::buffer(BUFFER_BYTES));
    writer.message(STATUS, |status| {
        status.number(CODE, answer.reason.grpc());
        status.bytes(MESSAGE, answer.reason.code().as_bytes());
    });
    writer.message(DENIED_RESPONSE, |denied| {
        denied.message(HTTP_STATUS, |status| status.number(CODE, answer.status));
        for (name, value) in answer.headers.iter() {
            write_header(denied, HEADERS, name, |text| text.extend_from_slice(value.as_bytes()));
        }
        denied.bytes(BODY, answer.body.as_bytes());
    });
    write_metadata(&mut writer, metadata);
    FramedMessage::new(writer.finish())
}

/// Writes each header as a `HeaderValueOption`.
struct HeaderOptions<'w> {
    writer: &'w mut MessageWriter,
    field: u8,
}

impl HeaderSink for HeaderOptions<'_> {
    fn header(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        write_header(self.writer, self.field, name, write);
    }
}

/// Writes `HeaderValueOption { header: { key, value }, append_action: OVERWRITE_IF_EXISTS_OR_ADD
/// }`.
fn write_header(
    writer: &mut MessageWriter,
    field: u8,
    name: &'static str,
    value: impl FnOnce(&mut Vec<u8>),
) {
    writer.message(field, |option| {
        option.message(HEADER, |header| {
            header.bytes(KEY, name.as_bytes());
            header.bytes_with(VALUE, value);
        });
        option.number(APPEND_ACTION, OVERWRITE);
    });
}

/// Writes a `google.protobuf.Struct`: the facts as strings, and what the proxy writes into the body
/// as numbers and objects.
fn write_metadata(writer: &mut MessageWriter, metadata: &Metadata<'_>) {
    if metadata.is_empty() {
        return;
    }
    writer.long_message(DYNAMIC_METADATA, |fields| {
        for (name, value) in metadata.iter() {
            fields.message(ENTRY, |entry| {
                entry.bytes(KEY, name.as_bytes());
                entry.message(VALUE, |wrapped| wrapped.bytes(STRING, value.as_bytes()));
            });
        }
        if let Some(changes) = metadata.changes {
            write_changes(fields, changes);
        }
    });
}

/// Writes the members of a body that the proxy replaces.
#[cold]
fn write_changes(fields: &mut MessageWriter, changes: &BodyChanges) {
    for (name, most) in &changes.bounds {
        fields.message(ENTRY, |entry| {
            entry.bytes(KEY, name.as_bytes());
            entry.message(VALUE, |value| value.double(NUMBER, as_double(*most)));
        });
    }
    if let Some(options) = &changes.stream_options {
        fields.message(ENTRY, |entry| {
            entry.bytes(KEY, b"stream_options");
            entry.message(VALUE, |value| write_struct(value, options));
        });
    }
}

/// Writes the `struct_value` of a `google.protobuf.Value`.
fn write_struct(value: &mut MessageWriter, members: &Map<String, Value>) {
    value.message(STRUCT, |fields| {
        for (name, member) in members {
            fields.message(ENTRY, |entry| {
                entry.bytes(KEY, name.as_bytes());
                entry.message(VALUE, |value| write_value(value, member));
            });
        }
    });
}

/// Writes the content of a `google.protobuf.Value`. The depth of a body is bounded.
fn write_value(to: &mut MessageWriter, value: &Value) {
    match value {
        Value::Null => to.number(NULL, 0),
        Value::Bool(value) => to.number(BOOL, u16::from(*value)),
        Value::Number(number) => to.double(NUMBER, number.as_f64().unwrap_or_default()),
        Value::String(text) => to.bytes(STRING, text.as_bytes()),
        Value::Array(values) => to.message(LIST, |list| {
            for value in values {
                list.message(VALUES, |to| write_value(to, value));
            }
        }),
        Value::Object(members) => write_struct(to, members),
    }
}

/// A number of tokens, which is below 2^53.
#[expect(clippy::cast_precision_loss, reason = "a context is far below 2^53")]
fn as_double(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::{ListValue, Struct, Value, value::Kind};
    use tollgate_core::request::HeaderNames;

    use super::*;
    use crate::proto::envoy::{
        config::core::v3::{
            HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::auth::v3::{CheckResponse, OkHttpResponse, check_response::HttpResponse},
    };

    fn overwrite(name: &str, value: &str) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue {
                key: name.into(),
                value: value.into(),
                raw_value: Vec::new(),
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        }
    }

    #[test]
    fn what_the_proxy_writes_into_a_body_is_written_as_numbers_and_objects() {
        let options = serde_json::json!({ "a": [1.5, null, { "b": "c" }], "include_usage": true });
        let changes = BodyChanges {
            bounds: vec![("max_tokens", 70_000)],
            stream_options: options.as_object().cloned(),
        };
        let metadata = Metadata {
            facts: [("", None); 6],
            reservation: None,
            changes: Some(&changes),
            guard: None,
        };
        let mut writer = MessageWriter::new(Vec::new());
        write_metadata(&mut writer, &metadata);
        let written = CheckResponse::decode(&*writer.finish()).unwrap();
        let value = |kind| Value { kind: Some(kind) };
        let object = |members: Vec<(&str, Value)>| Struct {
            fields: members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        let inner = object(vec![("b", value(Kind::StringValue("c".into())))]);
        let list = vec![
            value(Kind::NumberValue(1.5)),
            value(Kind::NullValue(0)),
            value(Kind::StructValue(inner)),
        ];
        let options = object(vec![
            ("a", value(Kind::ListValue(ListValue { values: list }))),
            ("include_usage", value(Kind::BoolValue(true))),
        ]);
        let expected = object(vec![
            ("max_tokens", value(Kind::NumberValue(70_000.0))),
            ("stream_options", value(Kind::StructValue(options))),
        ]);
        assert_eq!(written.dynamic_metadata, Some(expected));
    }

    #[test]
    fn an_answer_without_facts_has_no_metadata() {
        let written = |facts, reservation| {
            let mut writer = MessageWriter::default();
            write_metadata(
                &mut writer,
                &Metadata { facts, reservation, changes: None, guard: None },
            );
            let message = CheckResponse::decode(&*writer.finish()).unwrap();
            message.dynamic_metadata.map(|object| object.fields.into_keys().collect::<Vec<_>>())
        };
        let (none, mut one) = ([("subject", None); 6], [("", None); 6]);
        one[3] = ("tenant", Some("acme"));
        assert_eq!(written(none, None), None);
        assert_eq!(written(one, None), Some(vec!["tenant".to_owned()]));
        assert_eq!(written(none, Some("text")), Some(vec!["reservation".to_owned()]));
    }

    /// Around every length at which one of the nested lengths needs another byte.
    #[test]
    fn values_of_any_length_are_written_as_the_generated_types_write_them() {
        for length in (1..160).chain(16_300..16_400) {
            let subject = "s".repeat(length);
            let strip = HeaderNames::default();
            let answer = AllowedAnswer {
                decision_id: "d",
                identity: [
                    Some(&subject),
                    Some("t"),
                    Some("a b"),
                    Some("jwt"),
                    Some("m"),
                    Some("i"),
                    Some("k"),
                    Some("a"),
                ],
                removed_by_proxy: false,
                limits: &[],
                upstream_credential: None,
                forward_credential: false,
                strip: &strip,
                spoofed: &[],
                upgrade: None,
                cookies: None,
                next_nonce: None,
            };
            let mut facts = [("", None); 6];
            facts[0] = ("subject", Some(subject.as_str()));
            let metadata = Metadata { facts, reservation: None, changes: None, guard: None };
            let names = [
                "decision-id",
                "subject",
                "tenant",
                "scopes",
                "credential",
                "model",
                "issuer",
                "key-id",
                "actor",
            ]
            .map(|name| format!("x-tollgate-{name}"));
            let values = ["d", &subject, "t", "a b", "jwt", "m", "i", "k", "a"];
            let expected = CheckResponse {
                status: Some(crate::proto::google::rpc::Status::default()),
                http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                    headers: names
                        .iter()
                        .zip(values)
                        .map(|(name, value)| overwrite(name, value))
                        .collect(),
                    headers_to_remove: vec!["authorization".into()],
                    response_headers_to_add: vec![overwrite("x-tollgate-decision-id", "d")],
                })),
                dynamic_metadata: Some(Struct {
                    fields: BTreeMap::from([(
                        "subject".to_owned(),
                        Value { kind: Some(Kind::StringValue(subject.clone())) },
                    )]),
                }),
            };
            assert_eq!(allowed(&answer, &metadata).message(), expected.encode_to_vec(), "{length}");
        }
    }
}
