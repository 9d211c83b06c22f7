//! A `CheckResponse`, written straight from the answer.
//!
//! INVARIANT: a `CheckResponse` without a status means *allow* to Envoy, so a message is started by [`allowed`] or [`denied`]
//! alone, and both begin with one.

use tollgate_core::decision::answer::{AllowedAnswer, DeniedAnswer, HeaderSink};

use crate::{
    adapter::{grpc::Framed, wire::Writer},
    check::Metadata,
};

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
const OVERWRITE: u8 = 2;
/// Keys of fields, with the wire type of text, bytes and messages: of `HeaderValueOption`, of `HeaderValue` and an entry of
/// `google.protobuf.Struct.fields` alike, of `Struct`, and of `google.protobuf.Value`.
const HEADER: u8 = 1 << 3 | 2;
const KEY: u8 = 1 << 3 | 2;
const VALUE: u8 = 2 << 3 | 2;
const ENTRY: u8 = 1 << 3 | 2;
const STRING: u8 = 3 << 3 | 2;
/// The field of `HeaderValueOption`, whole.
const APPEND_ACTION: &[u8; 2] = &[3 << 3, OVERWRITE];

/// Room for nearly every answer.
const ROOM: usize = 1024;

/// The answer to a check that is allowed.
pub(super) fn allowed(answer: &AllowedAnswer<'_>, metadata: &Metadata<'_>) -> Framed {
    let mut writer = Writer::new(Framed::buffer(ROOM));
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
    Framed::new(writer.finish())
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
fn option(writer: &mut Writer, field: u8, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
    let from = open_option(writer.out(), field, name);
    let at = writer.out().len();
    value(writer.out());
    close_option(writer, from, at);
}

/// What comes before the value, and where it begins. There are a dozen headers in an answer, each with code of its own for the value
/// alone.
#[inline(never)]
fn open_option(out: &mut Vec<u8>, field: u8, name: &'static str) -> usize {
    let from = out.len();
    // Names of ours, shorter than 128 bytes. The lengths of what is open are not known yet.
    out.extend_from_slice(&[field << 3 | 2, 0, HEADER, 0, KEY, name.len().to_le_bytes()[0]]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&[VALUE, 0]);
    from
}

/// What comes after the value, which begins at `at`, of the option that begins at `from`; and the lengths.
#[inline(never)]
fn close_option(writer: &mut Writer, from: usize, at: usize) {
    let out = writer.out();
    let value = out.len() - at;
    let header = at - (from + 4) + value;
    let option = header + 4;
    if option < 0x80
        && let Some([_, option_length, _, header_length, .., value_length]) = out.get_mut(from..at)
    {
        [*value_length, *header_length, *option_length] =
            [value, header, option].map(|length| length.to_le_bytes()[0]);
        return out.extend_from_slice(APPEND_ACTION);
    }
    writer.close(at);
    writer.close(from + 4);
    writer.out().extend_from_slice(APPEND_ACTION);
    writer.close(from + 2);
}

/// A denial: also what the body bound answers with before a message is read.
pub(crate) fn denied(answer: &DeniedAnswer, metadata: &Metadata<'_>) -> Framed {
    let mut writer = Writer::new(Framed::buffer(ROOM));
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
    Framed::new(writer.finish())
}

fn write_metadata(writer: &mut Writer, metadata: &Metadata<'_>) {
    writer.message(DYNAMIC_METADATA, |fields| {
        for (name, value) in metadata.iter() {
            // An entry of `google.protobuf.Struct.fields` whose value is text; nearly always shorter than 128 bytes.
            let entry = 6 + name.len() + value.len();
            if entry < 0x80 {
                let [entry, name_length, value_length] =
                    [entry, name.len(), value.len()].map(|length| length.to_le_bytes()[0]);
                let out = fields.out();
                out.extend_from_slice(&[ENTRY, entry, KEY, name_length]);
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(&[VALUE, value_length + 2, STRING, value_length]);
                out.extend_from_slice(value.as_bytes());
                continue;
            }
            fields.message(1, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |wrapped| wrapped.bytes(3, value.as_bytes()));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;
    use prost_types::{Struct, Value, value::Kind};

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

    /// Around every length at which one of the nested lengths needs another byte.
    #[test]
    fn values_of_any_length_are_written_as_the_generated_types_write_them() {
        for length in (1..160).chain(16_300..16_400) {
            let subject = "s".repeat(length);
            let strip = BTreeSet::new();
            let answer = AllowedAnswer {
                decision_id: "d",
                identity: [Some(&subject), Some("t"), Some("a b"), Some("jwt"), Some("m")],
                limits: &[],
                upstream_credential: None,
                forward_credential: false,
                strip: &strip,
                spoofed: &[],
            };
            let mut known = [("", None); 6];
            known[0] = ("subject", Some(subject.as_str()));
            let metadata = Metadata(known);
            let names = ["decision-id", "subject", "tenant", "scopes", "credential", "model"]
                .map(|name| format!("x-tollgate-{name}"));
            let values = ["d", &subject, "t", "a b", "jwt", "m"];
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
