//! Our messages against the crate `envoy-types`, which is generated from Envoy's own files: equal
//! bytes in both directions.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::envoy::r#type::v3 as kind;
use envoy_types::pb::google::protobuf::{Struct, Timestamp, Value, value::Kind};
use envoy_types::pb::google::rpc;
use prost::Message;
use tollgate::adapter::ext_authz::read_check_request;
use tollgate::proto::envoy::config::core::v3 as our_core;
use tollgate::proto::envoy::service::auth::v3 as ours;
use tollgate::proto::envoy::r#type::v3 as our_kind;
use tollgate::proto::google::rpc as our_rpc;
use tollgate_core::request::RawBody;

/// Bytes that are not UTF-8.
const BINARY: &[u8] = b"\x00\xff\xfe{\"model\": 1}\xc3\x28";

fn read<M: Message + Default>(message: &impl Message) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn strings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn socket(address: &str, port: core::socket_address::PortSpecifier) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            protocol: core::socket_address::Protocol::Udp.into(),
            address: address.into(),
            resolver_name: "skipped".into(),
            ipv4_compat: true,
            port_specifier: Some(port),
            ..Default::default()
        })),
    }
}

/// A request in which every field of Envoy is set, used by us or not.
fn request() -> auth::CheckRequest {
    use auth::attribute_context::{HttpRequest, Peer, Request, TlsSession};
    let line = |key: &str, value: &str, raw: &[u8]| core::HeaderValue {
        key: key.into(),
        value: value.into(),
        raw_value: raw.into(),
    };
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            source: Some(Peer {
                address: Some(socket(
                    "203.0.113.7",
                    core::socket_address::PortSpecifier::PortValue(40_000),
                )),
                service: "skipped".into(),
                labels: strings(&[("skipped", "skipped")]),
                principal: "spiffe://example.org/ns/default/sa/client".into(),
                certificate: "-----BEGIN%20CERTIFICATE-----".into(),
            }),
            destination: Some(Peer {
                address: Some(core::Address {
                    address: Some(core::address::Address::Pipe(core::Pipe {
                        path: "/run/proxy.sock".into(),
                        mode: 0o600,
                    })),
                }),
                principal: "spiffe://example.org/ns/default/sa/proxy".into(),
                ..Default::default()
            }),
            request: Some(Request {
                time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
                http: Some(HttpRequest {
                    id: "42".into(),
                    method: "POST".into(),
                    headers: strings(&[
                        (":path", "/v1/chat/completions?a=b"),
                        ("x-two", "a,b"),
                        ("x-empty", ""),
                    ]),
                    header_map: Some(core::HeaderMap {
                        headers: vec![
                            line("x-two", "", b"a"),
                            line("x-two", "", b"b\xff"),
                            line("x-text", "c", b""),
                        ],
                    }),
                    path: "/v1/chat/completions?a=b".into(),
                    host: "api.example.com".into(),
                    scheme: "https".into(),
                    query: "skipped".into(),
                    fragment: "skipped".into(),
                    size: -1,
                    protocol: "HTTP/2".into(),
                    body: "{\"model\": \"qwen ☃\"}".into(),
                    raw_body: BINARY.into(),
                }),
            }),
            context_extensions: strings(&[("virtual_host", "inference")]),
            metadata_context: Some(core::Metadata {
                filter_metadata: [("skipped".into(), Struct::default())].into(),
                ..Default::default()
            }),
            route_metadata_context: Some(core::Metadata::default()),
            tls_session: Some(TlsSession { sni: "skipped".into() }),
        }),
    }
}

#[test]
fn a_full_request_of_envoy_is_read() {
    use ours::attribute_context::{HttpRequest, Peer};
    let ours::CheckRequest { attributes } = read(&request());
    let ours::AttributeContext { source, destination, request, context_extensions } =
        attributes.unwrap();

    let address = |address| Some(our_core::Address { address: Some(address) });
    let socket = our_core::SocketAddress {
        address: "203.0.113.7".into(),
        port_specifier: Some(our_core::socket_address::PortSpecifier::PortValue(40_000)),
    };
    let source_expected = Peer {
        address: address(our_core::address::Address::SocketAddress(socket)),
        principal: "spiffe://example.org/ns/default/sa/client".into(),
        certificate: "-----BEGIN%20CERTIFICATE-----".into(),
    };
    assert_eq!(source, Some(source_expected));
    let pipe = our_core::Pipe { path: "/run/proxy.sock".into() };
    let destination = destination.unwrap();
    assert_eq!(destination.address, address(our_core::address::Address::Pipe(pipe)));
    assert_eq!(destination.principal, "spiffe://example.org/ns/default/sa/proxy");
    assert_eq!(context_extensions, strings(&[("virtual_host", "inference")]));

    let request = request.unwrap();
    let time = request.time.unwrap();
    assert_eq!((time.seconds, time.nanos), (1_700_000_000, 5));
    let line = |key: &str, value: &str, raw: &[u8]| our_core::HeaderValue {
        key: key.into(),
        value: value.into(),
        raw_value: raw.into(),
    };
    let expected = HttpRequest {
        id: "42".into(),
        method: "POST".into(),
        headers: strings(&[
            (":path", "/v1/chat/completions?a=b"),
            ("x-two", "a,b"),
            ("x-empty", ""),
        ])
        .into_iter()
        .collect(),
        header_map: Some(our_core::HeaderMap {
            headers: vec![
                line("x-two", "", b"a"),
                line("x-two", "", b"b\xff"),
                line("x-text", "c", b""),
            ],
        }),
        path: "/v1/chat/completions?a=b".into(),
        host: "api.example.com".into(),
        scheme: "https".into(),
        size: -1,
        protocol: "HTTP/2".into(),
        body: "{\"model\": \"qwen ☃\"}".into(),
        raw_body: BINARY.into(),
    };
    assert_eq!(request.http, Some(expected));
}

#[test]
fn a_request_of_ours_is_read_by_envoy() {
    let ours: ours::CheckRequest = read(&request());
    let mut expected = request();
    let attributes = expected.attributes.as_mut().unwrap();
    attributes.metadata_context = None;
    attributes.route_metadata_context = None;
    attributes.tls_session = None;
    let source = attributes.source.as_mut().unwrap();
    source.service.clear();
    source.labels.clear();
    source.address = Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "203.0.113.7".into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(40_000)),
            ..Default::default()
        })),
    });
    let destination = attributes.destination.as_mut().unwrap();
    destination.address = Some(core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: "/run/proxy.sock".into(),
            mode: 0,
        })),
    });
    let http = attributes.request.as_mut().unwrap().http.as_mut().unwrap();
    http.query.clear();
    http.fragment.clear();
    assert_eq!(read::<auth::CheckRequest>(&ours), expected, "all but what we skip");
}

#[test]
fn a_named_port_and_an_internal_address_are_not_read() {
    use ours::attribute_context::Peer;
    let peer =
        |address| auth::attribute_context::Peer { address: Some(address), ..Default::default() };
    let named: Peer =
        read(&peer(socket("x", core::socket_address::PortSpecifier::NamedPort("http".into()))));
    let Some(our_core::address::Address::SocketAddress(socket)) = named.address.unwrap().address
    else {
        panic!("a socket address");
    };
    assert_eq!(socket.port_specifier, None);
    let internal: Peer = read(&peer(core::Address {
        address: Some(core::address::Address::EnvoyInternalAddress(
            core::EnvoyInternalAddress::default(),
        )),
    }));
    assert_eq!(internal.address.unwrap().address, None);
}

#[test]
fn answers_of_ours_are_read_by_envoy_and_back() {
    let actions = [
        (our_core::header_value_option::HeaderAppendAction::AppendIfExistsOrAdd, 0),
        (our_core::header_value_option::HeaderAppendAction::AddIfAbsent, 1),
        (our_core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd, 2),
        (our_core::header_value_option::HeaderAppendAction::OverwriteIfExists, 3),
    ];
    let our_headers: Vec<_> = actions
        .iter()
        .map(|(action, _)| our_core::HeaderValueOption {
            header: Some(our_core::HeaderValue {
                key: "x-tollgate-subject".into(),
                value: "alice".into(),
                raw_value: BINARY.into(),
            }),
            append_action: (*action).into(),
            keep_empty_value: true,
        })
        .collect();
    let headers: Vec<_> = actions
        .iter()
        .map(|(_, number)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: "x-tollgate-subject".into(),
                value: "alice".into(),
                raw_value: BINARY.into(),
            }),
            append_action: *number,
            keep_empty_value: true,
            ..Default::default()
        })
        .collect();
    let our_denial = ours::DeniedHttpResponse {
        status: Some(our_kind::HttpStatus { code: our_kind::StatusCode::TooManyRequests.into() }),
        headers: our_headers.clone(),
        body: "{\"error\":{}}".into(),
    };
    let denial = auth::DeniedHttpResponse {
        status: Some(kind::HttpStatus { code: kind::StatusCode::TooManyRequests.into() }),
        headers: headers.clone(),
        body: "{\"error\":{}}".into(),
    };
    let removed = vec!["x-tollgate-tenant".to_owned(), "authorization".to_owned()];
    let our_allow = ours::OkHttpResponse {
        headers: our_headers.clone(),
        headers_to_remove: removed.clone(),
        response_headers_to_add: our_headers,
    };
    let allow = auth::OkHttpResponse {
        headers: headers.clone(),
        headers_to_remove: removed,
        response_headers_to_add: headers,
        ..Default::default()
    };

    type Ours = ours::check_response::HttpResponse;
    type Theirs = auth::check_response::HttpResponse;
    let rows = [
        (16, Ours::DeniedResponse(our_denial.clone()), Theirs::DeniedResponse(denial.clone())),
        (0, Ours::OkResponse(our_allow), Theirs::OkResponse(allow)),
        (7, Ours::ErrorResponse(our_denial), Theirs::ErrorResponse(denial)),
    ];
    for (code, our_answer, answer) in rows {
        let ours = ours::CheckResponse {
            status: Some(our_rpc::Status { code, message: "why".into() }),
            http_response: Some(our_answer),
            dynamic_metadata: Some(prost_types::Struct {
                fields: [(
                    "subject".into(),
                    prost_types::Value {
                        kind: Some(prost_types::value::Kind::StringValue("alice".into())),
                    },
                )]
                .into(),
            }),
        };
        let theirs = auth::CheckResponse {
            status: Some(rpc::Status { code, message: "why".into(), details: vec![] }),
            http_response: Some(answer),
            dynamic_metadata: Some(Struct {
                fields: [(
                    "subject".into(),
                    Value { kind: Some(Kind::StringValue("alice".into())) },
                )]
                .into(),
            }),
        };
        assert_eq!(read::<auth::CheckResponse>(&ours), theirs, "code {code}, ours to Envoy");
        assert_eq!(read::<ours::CheckResponse>(&theirs), ours, "code {code}, and back");
    }
}

#[test]
fn the_statuses_have_the_numbers_of_http() {
    for (ours, theirs) in [
        (our_kind::StatusCode::Empty, kind::StatusCode::Empty),
        (our_kind::StatusCode::BadRequest, kind::StatusCode::BadRequest),
        (our_kind::StatusCode::Unauthorized, kind::StatusCode::Unauthorized),
        (our_kind::StatusCode::Forbidden, kind::StatusCode::Forbidden),
        (our_kind::StatusCode::PayloadTooLarge, kind::StatusCode::PayloadTooLarge),
        (our_kind::StatusCode::UnsupportedMediaType, kind::StatusCode::UnsupportedMediaType),
        (our_kind::StatusCode::TooManyRequests, kind::StatusCode::TooManyRequests),
        (our_kind::StatusCode::ServiceUnavailable, kind::StatusCode::ServiceUnavailable),
    ] {
        assert_eq!(ours as i32, theirs as i32);
        assert_eq!(ours.as_str_name(), theirs.as_str_name());
    }
}

/// A body of 16 MiB costs 16 MiB, because it is a slice of the message, in either field.
#[test]
fn bodies_are_not_copied() {
    let mut request = request();
    let http =
        request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.header_map = None;
    let (text, raw) = ("b".repeat(1000), vec![0xff; 1000]);
    for (body, raw_body) in [(text, Vec::new()), (String::new(), raw)] {
        let http =
            request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
        (http.body, http.raw_body) = (body, raw_body);
        let message = request.encode_to_vec();
        let raw = read_check_request(&message).unwrap();
        let RawBody::Whole(body) = raw.body else { panic!("a body") };
        assert_eq!(body.len(), 1000);
        assert!(message.as_ptr_range().contains(&body.as_ptr()));
    }
}
