//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! Decodes a `CheckRequest` into the core's [`RawRequest`], and a [`Answered`] into a `CheckResponse`. A `CheckResponse` without a
//! status means *allow* to Envoy, so every response here is made by `allowed` or `denied`, which set one.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use prost_types::{Struct, Value, value::Kind};
use tollgate_core::{
    decision::{
        Denial, Reason,
        answer::{AllowedAnswer, DeniedAnswer},
    },
    request::{Headers, RawBody, RawRequest},
};
use tonic::{Request, Response, Status};

use crate::{
    check::{Answer, Answered, Checker},
    pb::{
        envoy::{
            config::core::v3::{HeaderValue, HeaderValueOption, address, header_value_option::HeaderAppendAction},
            service::auth::v3::{
                AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
                authorization_server::Authorization, check_response::HttpResponse,
            },
            r#type::v3::HttpStatus,
        },
        google::rpc,
    },
};

/// The gRPC code of an allowed check: `google.rpc.Code.OK`.
const OK: i32 = 0;

/// The service.
#[derive(Clone, Debug)]
pub struct EnvoyAuthorization {
    checker: Arc<Checker>,
}

impl EnvoyAuthorization {
    /// Serves `checker`'s decisions.
    pub fn new(checker: Arc<Checker>) -> Self {
        Self { checker }
    }
}

#[tonic::async_trait]
impl Authorization for EnvoyAuthorization {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (head, _, message) = request.into_parts();
        let answered = match decode(&message) {
            Ok(raw) => self.checker.check_called(Some(head.as_ref()), raw).await,
            Err(denial) => self.checker.refuse(denial),
        };
        encode(answered).map(Response::new)
    }
}

fn decode(message: &CheckRequest) -> Result<RawRequest<'_>, Denial> {
    let contradiction = |cause: &'static str| Denial::new(Reason::MalformedRequest, cause);
    let attributes = message.attributes.as_ref();
    // Denied and not failed: what made the message unreadable may be the client's doing, and a failed check may pass.
    let http = attributes
        .and_then(|attributes| attributes.request.as_ref()?.http.as_ref())
        .ok_or_else(|| contradiction("the CheckRequest cannot be read, or has no attributes.request.http"))?;
    let listed = http.header_map.as_ref().map(|map| map.headers.as_slice()).unwrap_or_default();
    let mut headers = Headers::with_capacity(listed.len() + http.headers.len(), !http.headers.is_empty());
    if !listed.is_empty() && !http.headers.is_empty() {
        return Err(contradiction("the proxy sent the headers twice (headers and header_map)"));
    }
    for header in listed {
        // encode_raw_headers: the bytes as they came stand in raw_value.
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        headers.push(&header.key, value);
    }
    for (name, value) in &http.headers {
        headers.push(name, value.as_bytes());
    }
    let body = match (http.raw_body.is_empty(), http.body.is_empty()) {
        (true, true) => RawBody::None,
        (false, true) => RawBody::Whole(&http.raw_body),
        (true, false) => RawBody::Whole(&http.body),
        (false, false) => return Err(contradiction("the proxy sent the body twice (body and raw_body)")),
    };
    Ok(RawRequest {
        method: http.method.as_bytes(),
        scheme: http.scheme.as_bytes(),
        host: http.host.as_bytes(),
        path: http.path.as_bytes(),
        headers,
        address: attributes.and_then(source_address),
        body,
    })
}

fn source_address(attributes: &AttributeContext) -> Option<IpAddr> {
    match attributes.source.as_ref()?.address.as_ref()?.address.as_ref()? {
        address::Address::SocketAddress(socket) => socket.address.parse().ok(),
        _ => None,
    }
}

fn encode(answered: Answered) -> Result<CheckResponse, Status> {
    match answered.answer {
        Answer::Allow(answer) => Ok(allowed(answer, &answered.metadata)),
        Answer::Deny(answer) => Ok(denied(answer, &answered.metadata)),
        Answer::Fail(failure) => Err(Status::unavailable(failure.cause)),
    }
}

fn allowed(answer: AllowedAnswer, metadata: &[(&'static str, String)]) -> CheckResponse {
    let mut headers: Vec<HeaderValueOption> = answer.set.into_iter().map(overwrite).collect();
    if let Some(credential) = answer.upstream_credential {
        headers.push(overwrite(("authorization", String::from_utf8_lossy(credential.expose()).into_owned())));
    }
    let response = OkHttpResponse {
        headers,
        headers_to_remove: answer.remove,
        response_headers_to_add: answer.response.into_iter().map(overwrite).collect(),
    };
    CheckResponse {
        status: Some(rpc::Status { code: OK, message: String::new() }),
        http_response: Some(HttpResponse::OkResponse(response)),
        dynamic_metadata: Some(structured(metadata)),
    }
}

/// A denial, as a message: also what the body bound answers with before a message is read.
pub(crate) fn denied(answer: DeniedAnswer, metadata: &[(&'static str, String)]) -> CheckResponse {
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(answer.status) }),
        headers: answer.headers.into_iter().map(overwrite).collect(),
        body: answer.body,
    };
    CheckResponse {
        status: Some(rpc::Status { code: answer.reason.grpc(), message: answer.reason.code().to_owned() }),
        http_response: Some(HttpResponse::DeniedResponse(response)),
        dynamic_metadata: Some(structured(metadata)),
    }
}

/// Always explicit: Envoy's zero value for `append_action` appends, and the client's forged value would stay beside ours.
fn overwrite((key, value): (&'static str, String)) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value, raw_value: Vec::new() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn structured(metadata: &[(&'static str, String)]) -> Struct {
    let fields: BTreeMap<String, Value> = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value { kind: Some(Kind::StringValue(value.clone())) }))
        .collect();
    Struct { fields }
}
