//! What APIs of JSON share: bearer tokens, bounded bodies, and responses that must not be cached.

use std::{borrow::Cow, error::Error, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
        WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body::Body;
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::bounded_body::{self, BodyError};

/// The time in which a body must arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

/// The response to a call that was refused, with the remedy in its message.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    /// The stable code, in the response and in the audit line.
    pub(crate) code: &'static str,
    message: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(
        status: u16,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, message: message.into(), header: None }
    }

    /// 400: the request is not valid.
    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request", message)
    }

    /// 409: the request is valid, and the policy in force or the time does not allow its values.
    pub(crate) fn out_of_bounds(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, "out_of_bounds", message)
    }

    /// 401, the same for every kind of failed authentication.
    pub(crate) fn unauthorized(remedy: &'static str, challenge: &'static str) -> Self {
        Self::new(401, "unauthorized", remedy).with(WWW_AUTHENTICATE, challenge)
    }

    pub(crate) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u16) -> Self {
        self.header = Some((RETRY_AFTER, seconds.into()));
        self
    }

    pub(crate) fn answer(self) -> Response<Full<Bytes>> {
        let mut response = ok(&json!({ "error": { "code": self.code, "message": self.message } }));
        *response.status_mut() = self.status;
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// 405: the path has other methods.
pub(crate) fn not_allowed(remedy: &'static str) -> Refusal {
    Refusal::new(405, "method_not_allowed", remedy)
}

/// Returns 200 with a JSON body.
pub(crate) fn ok(body: &impl Serialize) -> Response<Full<Bytes>> {
    let mut bytes = serde_json::to_vec(body).unwrap_or_default();
    bytes.push(b'\n');
    json_text(Bytes::from(bytes))
}

/// Returns 200 with a body that is JSON text.
pub(crate) fn json_text(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns the token of a request with exactly one `Authorization` header, which is `Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Reads the whole body of a call that changes something: JSON of at most `max` bytes.
pub(crate) async fn body<B>(request: Request<B>, max: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut kinds = request.headers().get_all(CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
    let kind = kinds.next().filter(|_| kinds.next().is_none()).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    if !kind.trim_ascii().eq_ignore_ascii_case(b"application/json") {
        return Err(Refusal::new(
            415,
            "unsupported_media_type",
            "send a JSON body with one header `Content-Type: application/json`",
        ));
    }
    let body = bounded_body::collect(request.into_body(), max);
    match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.bytes),
        Ok(Err(BodyError::TooLarge(_))) => Err(Refusal::new(
            413,
            "body_too_large",
            format!("the body is larger than {} KiB", max >> 10),
        )),
        Ok(Err(_)) => Err(Refusal::new(400, "invalid_request", "the body is incomplete")),
        Err(_) => Err(Refusal::new(
            408,
            "timeout",
            format!("the body did not arrive within {}s", BODY_DEADLINE.as_secs()),
        )),
    }
}

/// The reason why a text is no object of the expected form.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The text is something else than an object.
    #[error("it is no JSON object")]
    NoObject,
    /// The text is no JSON, or an object of another form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Reads a text, which must be an object. The error names the place in it.
///
/// # Errors
/// See [`Unreadable`].
pub(crate) fn read_object<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Result<T, Unreadable> {
    // serde also reads a struct from a list, whose elements are its members in order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unreadable::NoObject);
    }
    Ok(serde_json::from_slice(text)?)
}

/// Reads a body, which must be an object. The error names the place in the body.
///
/// # Errors
/// 400 for a body that is none.
pub(crate) fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Refusal> {
    read_object(body).map_err(|error| Refusal::invalid(format!("the body cannot be read: {error}")))
}
