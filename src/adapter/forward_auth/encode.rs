//! Maps an answer to the HTTP response that the proxy expects.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;
use tollgate_core::{
    credential::{api_key::KeyHeader, dpop},
    decision::{
        Failure,
        answer::{AllowedAnswer, DeniedAnswer, HeaderList, IDENTITY},
    },
    rule::size::BodyChanges,
};

use super::dialect::{
    AbsentHeader, BODY, CHANGES, Dialect, DialectSpec, RESERVATION, STATUS, StatusMapping,
};
use crate::engine::check::{Answer, Metadata};

/// The headers, besides `Authorization`, that may hold an API key or a proof.
const CREDENTIAL_HEADERS: [&str; 3] =
    [KeyHeader::XApiKey.name(), KeyHeader::ApiKey.name(), dpop::HEADER];

/// The response to a check.
pub type ProxyResponse = Response<Full<Bytes>>;

/// The longest body that is sent in a header: proxies limit the headers of a response, nginx to 4
/// or 8 KiB by default. Without it the proxy sends a shorter text of its own.
const MAX_BODY_HEADER: usize = 3072;

/// Encodes an answer. `client` is the list of the client's headers, for routes that forward its
/// credential.
pub fn encode(dialect: Dialect, answer: Answer<'_>, client: &HeaderMap) -> ProxyResponse {
    let spec = dialect.spec();
    match answer {
        Answer::Allow(answer) => allowed(&spec, &answer, client),
        Answer::Deny(answer) => denied(&spec, answer),
        Answer::Fail(failure) => failed(failure),
    }
}

/// The protocols that a client offers for a WebSocket, where the proxy forwards those of the answer.
pub(super) fn protocols(dialect: Dialect, client: &HeaderMap) -> Option<HeaderValue> {
    let values: Vec<&[u8]> =
        client.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().map(HeaderValue::as_bytes).collect();
    if values.is_empty() || !dialect.spec().protocols {
        return None;
    }
    HeaderValue::from_bytes(&values.join(&b", "[..])).ok()
}

/// Adds the reservation of a request, and the members that the proxy writes into its body: a JSON
/// object in ASCII.
pub(super) fn settlement(headers: &mut HeaderMap, metadata: Metadata<'_>) {
    let reservation = metadata.reservation.and_then(value_of);
    let Some(mut reservation) = reservation else { return };
    reservation.set_sensitive(true);
    headers.insert(HeaderName::from_static(RESERVATION), reservation);
    let Some(BodyChanges { bounds, stream_options }) = metadata.changes else { return };
    let bounds = bounds.iter().map(|(name, bound)| ((*name).to_owned(), json!(bound)));
    let options = stream_options
        .iter()
        .map(|options| ("stream_options".to_owned(), serde_json::Value::Object(options.clone())));
    let members: serde_json::Map<_, _> = bounds.chain(options).collect();
    if !members.is_empty()
        && let Some(changes) = value_of(&ascii(&serde_json::Value::Object(members).to_string()))
    {
        headers.insert(HeaderName::from_static(CHANGES), changes);
    }
}

/// Returns 403 without headers and body, for peers that are not trusted.
pub(super) fn forbidden() -> ProxyResponse {
    reply(StatusCode::FORBIDDEN, HeaderMap::new(), String::new())
}

/// Returns 200 with the headers for the upstream, which the proxy copies by name. Each name is in
/// each answer, with a value or with the dialect's form of "no value".
fn allowed(spec: &DialectSpec, answer: &AllowedAnswer<'_>, client: &HeaderMap) -> ProxyResponse {
    let remove: Vec<_> = answer.removed().collect();
    let mut headers = HeaderMap::new();
    // Values are printable ASCII (the core's `header_value`). Any other value is replaced by an
    // empty one, so that the client's value is overwritten all the same.
    let mut put = |name: &'static str, value: &str| {
        headers.insert(
            HeaderName::from_static(name),
            value_of(value).unwrap_or(HeaderValue::from_static("")),
        );
    };
    for (name, value) in HeaderList::of(|list| answer.set(list)).iter() {
        put(name, value);
    }
    for name in IDENTITY.iter().filter(|name| {
        spec.absent == AbsentHeader::Empty && remove.iter().any(|removed| removed == *name)
    }) {
        put(name, "");
    }
    for (name, value) in HeaderList::of(|list| answer.response(list)).iter() {
        put(name, value);
    }
    // Headers with a credential are copied like the others: the upstream's own key, the client's
    // credential, or none.
    let mut put = |name: HeaderName, value: Option<HeaderValue>| {
        if let Some(mut value) = value {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    };
    let forwarded = |name: &HeaderName| {
        let value = client.get(name);
        value.filter(|_| !remove.iter().any(|removed| *removed == *name.as_str())).cloned()
    };
    let authorization = match answer.upstream_credential {
        Some(key) => HeaderValue::from_bytes(key.expose()).ok(),
        None => forwarded(&header::AUTHORIZATION),
    };
    put(header::AUTHORIZATION, authorization);
    for name in CREDENTIAL_HEADERS.map(HeaderName::from_static) {
        let value = forwarded(&name);
        put(name, value);
    }
    if let AbsentHeader::Listed(name) = spec.absent
        && let Some(value) = value_of(&remove.join(",")).filter(|value| !value.is_empty())
    {
        headers.insert(HeaderName::from_static(name), value);
    }
    reply(StatusCode::OK, headers, String::new())
}

fn denied(spec: &DialectSpec, answer: DeniedAnswer) -> ProxyResponse {
    // A value that is no status of an error is a fault of Tollgate, and is sent as a refusal.
    let status = StatusCode::from_u16(answer.status)
        .ok()
        .filter(|status| status.as_u16() >= 400)
        .unwrap_or(StatusCode::FORBIDDEN);
    let mut headers = HeaderMap::new();
    for (name, value) in answer.headers.iter() {
        if let Some(value) = value_of(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let mut body = answer.body;
    let status = match spec.statuses {
        StatusMapping::All => status,
        StatusMapping::UnauthorizedAndForbidden => {
            headers.insert(HeaderName::from_static(STATUS), HeaderValue::from(status.as_u16()));
            if let Some(body) = value_of(&ascii(&body)).filter(|body| body.len() <= MAX_BODY_HEADER)
            {
                headers.insert(HeaderName::from_static(BODY), body);
            }
            // nginx does not read the body, and does not keep a connection with unread bytes.
            body.clear();
            if status == StatusCode::UNAUTHORIZED { status } else { StatusCode::FORBIDDEN }
        }
        // The nearest status with which clients retry later, as they do after a 503.
        StatusMapping::BelowServerErrors if status.is_server_error() => {
            StatusCode::TOO_MANY_REQUESTS
        }
        StatusMapping::BelowServerErrors => status,
    };
    reply(status, headers, body)
}

/// Returns 503 in every dialect, without the headers of a denial: the proxy's own rule for failed
/// checks applies.
fn failed(failure: &Failure) -> ProxyResponse {
    let reason = failure.reason;
    let error = json!({ "error": {
        "message": reason.text(),
        "type": "server_error",
        "param": null,
        "code": reason.code(),
    } });
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    reply(StatusCode::SERVICE_UNAVAILABLE, headers, error.to_string())
}

fn reply(status: StatusCode, headers: HeaderMap, body: String) -> ProxyResponse {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

fn value_of(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// Returns equal JSON with all characters beyond ASCII escaped.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => text.push(c),
            _ => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    text
}
