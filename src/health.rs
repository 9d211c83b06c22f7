//! `listen.ops`: `/healthz`, `/readyz`, `/metrics`, and the metadata of protected resources (RFC 9728).
//! Answers hold no secret and nothing of the request, and no request changes anything.

mod text;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
    uri::{Authority, PathAndQuery},
};
use serde_json::json;
use tokio::sync::Semaphore;
use tollgate_core::{policy::Policy, route::resource::WELL_KNOWN};

pub use self::text::{Text, TooSlow};
use crate::{
    background,
    observe::{
        Observer,
        exposition::{self, Status},
    },
};

/// The metrics that may wait for their readers. With thousands of routes they are megabytes.
const UNREAD: usize = 16;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What `/readyz` answers.
#[derive(Clone, Debug)]
pub struct ReadinessReport {
    /// Whether requests may be sent here.
    pub ready: bool,
    /// What is missing, one phrase each. What is listed while `ready` is true concerns some requests
    /// only, which are denied.
    pub missing: Vec<String>,
}

/// The data of the handlers.
pub struct Health {
    observer: Arc<Observer>,
    readiness: Box<dyn Fn() -> ReadinessReport + Send + Sync>,
    status: Box<dyn Fn() -> Status + Send + Sync>,
    policy: Box<dyn Fn() -> Option<Arc<Policy>> + Send + Sync>,
    unread: Arc<Semaphore>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("readiness", &(self.readiness)()).finish_non_exhaustive()
    }
}

impl Health {
    /// Creates the handlers. The functions are called for each request and must not block.
    pub fn new(
        observer: Arc<Observer>,
        readiness: impl Fn() -> ReadinessReport + Send + Sync + 'static,
        status: impl Fn() -> Status + Send + Sync + 'static,
        policy: impl Fn() -> Option<Arc<Policy>> + Send + Sync + 'static,
    ) -> Self {
        let unread = Arc::new(Semaphore::new(UNREAD));
        let (readiness, status, policy) =
            (Box::new(readiness) as _, Box::new(status) as _, Box::new(policy) as _);
        Self { observer, readiness, status, policy, unread }
    }
}

/// Answers one request, without reading its body.
pub async fn handle<B>(health: &Health, request: Request<B>) -> Response<Text> {
    let mut room = None;
    let (status, kind, body) = match (request.uri().path(), request.method()) {
        (path, method)
            if (matches!(path, "/healthz" | "/readyz" | "/metrics")
                || path.starts_with(WELL_KNOWN))
                && method != Method::GET
                && method != Method::HEAD =>
        {
            let mut response =
                respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, Text::short("only GET and HEAD\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        ("/healthz", _) => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        ("/readyz", _) => readyz(&(health.readiness)()),
        ("/metrics", _) => {
            room = Arc::clone(&health.unread).try_acquire_owned().ok();
            let text = if room.is_some() { metrics(health).await } else { None };
            match (text, &room) {
                (Some(text), _) => (StatusCode::OK, exposition::CONTENT_TYPE, text),
                (None, Some(_)) => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    TEXT,
                    "the metrics could not be written\n".into(),
                ),
                (None, None) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    "too many answers wait for their readers; retry shortly\n".into(),
                ),
            }
        }
        (path, _) if path.starts_with(WELL_KNOWN) => match resource(health, &request) {
            Some(metadata) => (StatusCode::OK, JSON, metadata),
            None => (StatusCode::NOT_FOUND, TEXT, "no route has this resource\n".into()),
        },
        _ => (StatusCode::NOT_FOUND, TEXT, "only /healthz, /readyz and /metrics are here\n".into()),
    };
    let head = request.method() == Method::HEAD;
    let length = body.len();
    let body = match room {
        _ if head => Text::short(Bytes::new()),
        Some(room) => Text::long(body, room),
        None => Text::short(body),
    };
    let mut response = respond(status, kind, body);
    if head {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Writes the metrics in the background: thousands of routes are milliseconds of text, which must
/// not delay checks.
async fn metrics(health: &Health) -> Option<String> {
    let (observer, status) = (Arc::clone(&health.observer), (health.status)());
    background::run(move || observer.exposition(status).ok()).await.flatten()
}

/// Returns the metadata of the resource that a request means by its host and its path.
fn resource<B>(health: &Health, request: &Request<B>) -> Option<String> {
    let policy = (health.policy)()?;
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(Authority::as_str).or(header)?;
    let target = request.uri().path_and_query().map(PathAndQuery::as_str)?;
    let fitting = policy.resources.iter().filter_map(|it| Some((it.fit(host, target)?, it)));
    let (_, resource) = fitting.max_by_key(|(fit, _)| *fit)?;
    serde_json::to_string(resource).ok().map(|json| format!("{json}\n"))
}

fn readyz(report: &ReadinessReport) -> (StatusCode, &'static str, String) {
    let ReadinessReport { ready, missing } = report;
    let status = if *ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, JSON, format!("{}\n", json!({ "ready": ready, "missing": missing })))
}

fn respond(status: StatusCode, kind: &'static str, body: Text) -> Response<Text> {
    let mut response = Response::new(body);
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

    use tollgate_core::{
        config::{Document, Errors},
        policy::PolicyConfig,
    };

    use super::*;
    use crate::observe::{
        audit::Audit,
        metrics::{Metrics, ObserveConfig},
    };

    fn health(ready: bool, missing: &[&str]) -> Health {
        let observer = Observer::new(
            Arc::new(Metrics::new(&ObserveConfig::default())),
            Arc::new(Audit::off()),
        );
        let missing: Vec<String> = missing.iter().map(|text| (*text).to_owned()).collect();
        let report = ReadinessReport { ready, missing };
        Health::new(Arc::new(observer), move || report.clone(), Status::default, || None)
    }

    async fn get(health: &Health, method: &str, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = handle(health, request).await;
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_answers_are_constant() {
        let health = health(true, &[]);
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
                get(&health, method, &path).await,
                (status, kind.to_owned(), body.to_owned()),
                "{method} {path}"
            );
        }
    }

    #[tokio::test]
    async fn the_metadata_of_a_resource_is_found_by_host_and_path() {
        const FILE: &str = "
issuers:
  - issuer: https://auth.example.com
    audiences: ['https://api.example.com/mcp']
    algorithms: [RS256]
    jwks: { file: /jwks }
routes:
  - { match: { methods: [POST], paths: [/mcp] }, scopes: ['mcp:use'], audience: 'https://api.example.com/mcp' }
";
        let document = Document::parse(FILE, &|_| None).unwrap();
        let config: PolicyConfig = document.read().unwrap();
        let policy = Arc::new(Policy::compile(&config, &mut Errors::default()).unwrap());
        let mut health = health(true, &[]);
        health.policy = Box::new(move || Some(Arc::clone(&policy)));
        let get = async |host: &str, path: &str| {
            let request = Request::get(path).header("host", host).body(()).unwrap();
            let response = handle(&health, request).await;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or(json!(null)))
        };
        let path = "/.well-known/oauth-protected-resource/mcp";
        let expected = json!({
            "resource": "https://api.example.com/mcp",
            "authorization_servers": ["https://auth.example.com"],
            "scopes_supported": ["mcp:use"],
            "bearer_methods_supported": ["header"],
        });
        assert_eq!(get("api.example.com", path).await, (200, expected));
        for (host, path) in [("other.example.com", path), ("api.example.com", WELL_KNOWN)] {
            assert_eq!(get(host, path).await, (404, json!(null)), "{host}{path}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let health = health(false, &["keys of any issuer"]);
        let expected = (
            503,
            JSON.to_owned(),
            "{\"missing\":[\"keys of any issuer\"],\"ready\":false}\n".to_owned(),
        );
        assert_eq!(get(&health, "GET", "/readyz").await, expected);
        assert_eq!(get(&health, "GET", "/healthz").await.0, 200, "not ready is not dead");
        let some = self::health(true, &["API keys"]);
        let body = "{\"missing\":[\"API keys\"],\"ready\":true}\n".to_owned();
        assert_eq!(get(&some, "GET", "/readyz").await, (200, JSON.to_owned(), body));
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let (status, kind, body) = get(&health(true, &[]), "GET", "/metrics").await;
        assert_eq!(
            (status, kind.as_str()),
            (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        assert!(body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn metrics_that_are_not_read_are_bounded() {
        let health = health(true, &[]);
        let get = || handle(&health, Request::get("/metrics").body(()).unwrap());
        let mut unread = Vec::new();
        for _ in 0..UNREAD {
            let response = get().await;
            assert_eq!(response.status(), 200);
            unread.push(response);
        }
        assert_eq!(get().await.status(), 503);
        unread.pop();
        assert_eq!(get().await.status(), 200);
    }

    #[tokio::test]
    async fn head_says_how_long_the_body_would_be() {
        let request = Request::builder().method("HEAD").uri("/healthz").body(()).unwrap();
        assert_eq!(handle(&health(true, &[]), request).await.headers()[CONTENT_LENGTH], "3");
    }
}
