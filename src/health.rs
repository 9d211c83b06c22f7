//! `listen.ops`: `/healthz`, `/readyz`, `/metrics`. Nothing secret, nothing that changes anything, nothing of the request in an answer.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use serde_json::json;

use crate::observe::{
    Observer,
    exposition::{self, Status},
};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What must be there before traffic comes, and is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// One phrase each, such as `keys of any issuer`. Empty: ready.
    pub missing: Vec<String>,
}

impl Readiness {
    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }
}

/// What the handlers ask.
pub struct Ops {
    observer: Arc<Observer>,
    readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    status: Box<dyn Fn() -> Status + Send + Sync>,
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops").field("readiness", &(self.readiness)()).finish_non_exhaustive()
    }
}

impl Ops {
    /// `readiness` and `status` are called for each request and must not block.
    pub fn new(
        observer: Arc<Observer>,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
        status: impl Fn() -> Status + Send + Sync + 'static,
    ) -> Self {
        Self { observer, readiness: Box::new(readiness), status: Box::new(status) }
    }
}

/// Answers one request; the body is not looked at.
pub async fn handle<B>(ops: &Ops, request: Request<B>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.uri().path(), request.method()) {
        ("/healthz" | "/readyz" | "/metrics", method)
            if method != Method::GET && method != Method::HEAD =>
        {
            let mut response =
                answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        ("/healthz", _) => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        ("/readyz", _) => readyz(&(ops.readiness)()),
        ("/metrics", _) => match metrics(ops).await {
            Some(text) => (StatusCode::OK, exposition::CONTENT_TYPE, text),
            None => (
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                "the metrics could not be written\n".into(),
            ),
        },
        _ => (StatusCode::NOT_FOUND, TEXT, "only /healthz, /readyz and /metrics are here\n".into()),
    };
    let head = request.method() == Method::HEAD;
    let length = body.len();
    let mut response = answer(status, kind, if head { String::new() } else { body });
    if head {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Off the runtime: thousands of routes are milliseconds of text, and checks do not wait for it.
async fn metrics(ops: &Ops) -> Option<String> {
    let (observer, status) = (Arc::clone(&ops.observer), (ops.status)());
    tokio::task::spawn_blocking(move || observer.exposition(status).ok()).await.ok().flatten()
}

fn readyz(readiness: &Readiness) -> (StatusCode, &'static str, String) {
    let ready = readiness.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, JSON, format!("{}\n", json!({ "ready": ready, "missing": readiness.missing })))
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::observe::{
        audit::Audit,
        metrics::{Metrics, ObserveConfig},
    };

    fn ops(missing: &[&str]) -> Ops {
        let observer = Observer::new(
            Arc::new(Metrics::new(&ObserveConfig::default())),
            Arc::new(Audit::off()),
        );
        let missing: Vec<String> = missing.iter().map(|text| (*text).to_owned()).collect();
        Ops::new(
            Arc::new(observer),
            move || Readiness { missing: missing.clone() },
            Status::default,
        )
    }

    async fn ask(ops: &Ops, method: &str, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = handle(ops, request).await;
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_answers_are_constant() {
        let ops = ops(&[]);
        let nothing_else = "only /healthz, /readyz and /metrics are here\n";
        for (method, path, status, kind, body) in [
            ("GET", "/healthz", 200, TEXT, "ok\n"),
            ("GET", "/healthz?x=1", 200, TEXT, "ok\n"),
            ("HEAD", "/healthz", 200, TEXT, ""),
            ("GET", "/readyz", 200, JSON, "{\"missing\":[],\"ready\":true}\n"),
            ("POST", "/healthz", 405, TEXT, "only GET and HEAD\n"),
            ("DELETE", "/metrics", 405, TEXT, "only GET and HEAD\n"),
            ("OPTIONS", "/readyz", 405, TEXT, "only GET and HEAD\n"),
            ("GET", "/", 404, TEXT, nothing_else),
            ("GET", "/metrics/", 404, TEXT, nothing_else),
            ("GET", "/v1/revocations", 404, TEXT, nothing_else),
            ("POST", "/<script>", 404, TEXT, nothing_else),
            ("GET", "/debug/pprof", 404, TEXT, nothing_else),
        ] {
            // A URI may not hold `<`; the test writes it as a client would.
            let path = path.replace('<', "%3C").replace('>', "%3E");
            assert_eq!(
                ask(&ops, method, &path).await,
                (status, kind.to_owned(), body.to_owned()),
                "{method} {path}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let ops = ops(&["keys of any issuer"]);
        let expected = (
            503,
            JSON.to_owned(),
            "{\"missing\":[\"keys of any issuer\"],\"ready\":false}\n".to_owned(),
        );
        assert_eq!(ask(&ops, "GET", "/readyz").await, expected);
        assert_eq!(ask(&ops, "GET", "/healthz").await.0, 200, "not ready is not dead");
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let (status, kind, body) = ask(&ops(&[]), "GET", "/metrics").await;
        assert_eq!(
            (status, kind.as_str()),
            (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        assert!(body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn head_says_how_long_the_body_would_be() {
        let request = Request::builder().method("HEAD").uri("/healthz").body(()).unwrap();
        assert_eq!(handle(&ops(&[]), request).await.headers()[CONTENT_LENGTH], "3");
    }
}
