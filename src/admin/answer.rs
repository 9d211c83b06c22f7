//! Responses of the API: JSON that must not be cached.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

/// The response to a call that was refused, with the remedy in its message.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// The stable code, in the response and in the audit line.
    pub(super) code: &'static str,
    message: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(
        status: u16,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, message: message.into(), header: None }
    }

    /// 400: the request is not valid.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request", message)
    }

    /// 409: the request is valid, and the policy in force or the time does not allow its values.
    pub(super) fn out_of_bounds(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, "out_of_bounds", message)
    }

    /// 401, the same for every kind of failed authentication.
    pub(super) fn unauthorized() -> Self {
        Self::new(401, "unauthorized", "send the admin token as `Authorization: Bearer <token>`")
            .with(WWW_AUTHENTICATE, "Bearer realm=\"tollgate-admin\"")
    }

    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    pub(super) fn retry_after(mut self, seconds: u16) -> Self {
        self.header = Some((RETRY_AFTER, seconds.into()));
        self
    }

    pub(super) fn answer(self) -> Response<Full<Bytes>> {
        let mut response = ok(&json!({ "error": { "code": self.code, "message": self.message } }));
        *response.status_mut() = self.status;
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// 405: the path has other methods.
pub(super) fn not_allowed(remedy: &'static str) -> Refusal {
    Refusal::new(405, "method_not_allowed", remedy)
}

/// Returns 200 with a JSON body.
pub(super) fn ok(body: &impl Serialize) -> Response<Full<Bytes>> {
    let mut bytes = serde_json::to_vec(body).unwrap_or_default();
    bytes.push(b'\n');
    json_text(Bytes::from(bytes))
}

/// Returns 200 with a body that is JSON text.
pub(super) fn json_text(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
