//! An engine on a Redis, and checks that wait for it.

use std::{sync::Arc, time::Instant};

use http::HeaderMap;
use serde_json::json;
use tollgate::{
    config,
    engine::{
        Engine,
        check::{Answer, CheckAnswer, LargeRequest, ProxyCall},
    },
    observe,
};
use tollgate_core::{
    denial::Denial,
    request::{Headers, RawBody, RawRequest},
};
use tollgate_testkit::{Algorithm, KeyPair, Token};

use super::{redis_server::Server, requests::ISSUER};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// An engine whose routes differ in what an outage means: `/allow` is open, `/deny` is closed.
/// `/limited` has three requests an hour, `/open` needs no token, `/chat` reads the body.
pub(super) fn engine(server: &Server, deadline: &str) -> Engine {
    let route = |path: &str, outage: &str| {
        json!({ "match": { "methods": ["GET"], "paths": [path] }, "scopes": [], "on_outage": outage,
                "limits": if path == "/limited" { vec!["few"] } else { vec![] } })
    };
    let text = json!({
        "audit": { "to": "none" },
        "issuers": [{ "issuer": ISSUER, "audiences": "any", "algorithms": ["HS256"], "secret": SECRET }],
        "models": [{ "name": "m" }],
        "limits": [
            { "name": "few", "by": ["subject"], "rate": "3/1h", "burst": 3 },
            { "name": "each", "by": ["address"], "rate": "100000/1s" },
        ],
        "routes": [
            route("/allow", "allow"), route("/deny", "deny"), route("/limited", "allow"),
            { "match": { "methods": ["GET"], "paths": ["/open"] }, "public": true, "limits": ["each"],
              "on_outage": "allow" },
            { "match": { "methods": ["POST"], "paths": ["/chat"] }, "scopes": [], "on_outage": "allow",
              "model": { "from": "body", "scope": "model:{model}" } },
        ],
        "store": { "redis": { "url": server.unix(), "deadline": deadline } },
    });
    let loaded = config::compile(&text.to_string(), &|_| None).unwrap();
    Engine::start(loaded, Arc::new(observe::now)).unwrap()
}

/// One request of a client.
pub(super) struct Check {
    path: &'static str,
    authorization: String,
    address: Option<&'static str>,
    body: Vec<u8>,
}

impl Check {
    /// A request with the token of a subject.
    pub(super) fn of(subject: &str, path: &'static str) -> Self {
        let now = observe::now();
        let claims = json!({
            "iss": ISSUER, "sub": subject, "scope": "model:m",
            "iat": now.secs() - 60, "exp": now.secs() + 600,
        });
        let token = Token::new(Algorithm::Hs256).claims(claims).sign(&KeyPair::secret(SECRET));
        let authorization = format!("Bearer {}", token.unwrap());
        Self { path, authorization, address: None, body: Vec::new() }
    }

    /// A request to the public route.
    pub(super) fn from(address: &'static str) -> Self {
        let authorization = String::new();
        Self { path: "/open", authorization, address: Some(address), body: Vec::new() }
    }

    /// A chat of about this size.
    pub(super) fn with_body(self, bytes: usize) -> Self {
        let body = format!(r#"{{"model":"m","user":"{}"}}"#, "x".repeat(bytes)).into_bytes();
        Self { body, ..self }
    }

    /// Decides the request: `allow`, or the code of the reason.
    pub(super) async fn decide(self, engine: &Engine) -> String {
        self.decide_call(engine, None).await
    }

    /// As [`decide`](Self::decide), for a call that began at `since` and names `grpc-timeout`.
    pub(super) async fn decide_within(
        self,
        engine: &Engine,
        timeout: &str,
        since: Instant,
    ) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", timeout.parse().unwrap());
        self.decide_call(engine, Some(ProxyCall { headers: &headers, since })).await
    }

    async fn decide_call(self, engine: &Engine, call: Option<ProxyCall<'_>>) -> String {
        let check = Arc::new(self);
        if check.body.is_empty() {
            engine.checker().check(call, || check.read(), code).await
        } else {
            engine.checker().check_large(call, &check, code).await
        }
    }
}

impl LargeRequest for Check {
    fn read(&self) -> Result<RawRequest<'_>, Denial> {
        let mut headers = Headers::default();
        if !self.authorization.is_empty() {
            headers.push("authorization", self.authorization.as_bytes());
        }
        headers.push("content-type", b"application/json");
        Ok(RawRequest {
            method: if self.body.is_empty() { b"GET" } else { b"POST" },
            scheme: b"https",
            host: b"api.example.com",
            path: self.path.as_bytes(),
            headers,
            address: self.address.map(|address| address.parse().unwrap()),
            peer_certificate: b"",
            body: RawBody::Whole(&self.body),
        })
    }
}

fn code(checked: CheckAnswer<'_>) -> String {
    match checked.answer {
        Answer::Allow(_) => "allow".to_owned(),
        Answer::Deny(_) => {
            let mut metadata = checked.metadata.iter();
            metadata.find(|(name, _)| *name == "reason").unwrap().1.to_owned()
        }
        Answer::Fail(_) => "a failed check".to_owned(),
    }
}
