//! What the targets hold Tollgate's readers against: other readers of the same bytes, each as lenient as some server is.

pub mod form;
pub mod json;
pub mod path;

use std::sync::Arc;

use tollgate_core::{
    config::{Document, Errors},
    credential::jwt::{issuer::KeySource, key_set::KeySet},
    policy::{Policy, PolicyConfig},
    request::{Body, Headers, RawBody, RawRequest, Request},
    secret::SecretSource,
    snapshot::Snapshot,
};

/// Compiles a policy whose issuers have secrets.
pub fn snapshot(policy: &str) -> Snapshot {
    let document = Document::parse(policy, &|_| None).expect("YAML");
    let config: PolicyConfig = document.read().expect("a policy");
    let mut errors = Errors::default();
    let policy = Policy::compile(&config, &mut errors)
        .unwrap_or_else(|| panic!("{:?}", document.locate(errors)));
    let keys = policy.issuers.list().iter().map(|issuer| match &issuer.source {
        KeySource::Secret(SecretSource::Inline(secret)) => {
            Some(Arc::new(KeySet::from_secret(secret, &issuer.algorithms).expect("a secret")))
        }
        _ => panic!("an inline secret"),
    });
    let keys = keys.collect();
    Snapshot { keys, ..Snapshot::without_keys(Arc::new(policy)) }
}

/// A POST with this body.
pub fn post<'a>(content_type: &'a str, body: &'a [u8]) -> RawRequest<'a> {
    let mut headers = Headers::default();
    headers.push("content-type", content_type.as_bytes());
    RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"api.example",
        path: b"/x",
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::Whole(body),
    }
}

/// The body of a request whose head can be read.
pub fn body_of(raw: RawRequest<'_>) -> Option<Body<'_>> {
    let (head, body) = raw.split();
    Request::parse(head).ok().map(|request| Body::new(body, &request.headers))
}
