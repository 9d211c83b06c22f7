//! The request of a policy test.

use std::net::IpAddr;

use tollgate_core::request::{Headers, ProxyBehavior, RawBody, RawRequest};

/// A request as a proxy reports it.
#[derive(Clone)]
pub struct Request {
    /// The HTTP method.
    pub method: String,
    /// The scheme; empty when the proxy does not report it.
    pub scheme: String,
    /// `:authority` or `Host`.
    pub host: String,
    /// `:path`, with the query.
    pub path: String,
    /// Every header, the credential included.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Whether repeated headers were joined with a comma.
    pub joined: bool,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The certificate of the client in PEM, as Envoy reports it; empty if there is none.
    pub certificate: String,
    /// The body of the request.
    pub body: Body,
}

/// The body of a request.
#[derive(Clone)]
pub enum Body {
    /// The request has no body.
    Absent,
    /// The whole body was sent.
    Whole(Vec<u8>),
    /// The proxy truncated the body.
    Cut,
}

impl std::fmt::Debug for Request {
    /// Prints no headers and no body: they hold the credential and the prompt.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}://{}{}", self.method, self.scheme, self.host, self.path)
    }
}

impl Request {
    /// Returns the request as an adapter passes it to the core.
    pub fn raw(&self) -> RawRequest<'_> {
        let proxy = ProxyBehavior { joins_repeats: self.joined, ..ProxyBehavior::default() };
        let mut headers = Headers::with_capacity(self.headers.len()).with_proxy(proxy);
        for (name, value) in &self.headers {
            headers.push(name, value);
        }
        RawRequest {
            method: self.method.as_bytes(),
            scheme: self.scheme.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            headers,
            address: self.address,
            peer_certificate: self.certificate.as_bytes(),
            body: match &self.body {
                Body::Absent => RawBody::None,
                Body::Whole(bytes) => RawBody::Whole(bytes),
                Body::Cut => RawBody::Partial,
            },
        }
    }
}
