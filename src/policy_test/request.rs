//! The request of a case.

use std::net::IpAddr;

use tollgate_core::request::{Headers, ProxyBehavior, RawBody, RawRequest};

/// A request as a proxy would report it.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The scheme; empty when the proxy does not say.
    pub scheme: String,
    /// `:authority`.
    pub host: String,
    /// `:path`.
    pub path: String,
    /// Every header, the credential among them.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Whether same-name headers were joined with a comma.
    pub joined: bool,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The body.
    pub body: Body,
}

/// The body of a request.
#[derive(Clone)]
pub enum Body {
    /// None came.
    Absent,
    /// All of it came.
    Whole(Vec<u8>),
    /// The proxy cut it.
    Cut,
}

impl std::fmt::Debug for Request {
    /// Without headers and body: they hold the credential and the prompt.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}://{}{}", self.method, self.scheme, self.host, self.path)
    }
}

impl Request {
    /// What a front-end would hand to the core.
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
            body: match &self.body {
                Body::Absent => RawBody::None,
                Body::Whole(bytes) => RawBody::Whole(bytes),
                Body::Cut => RawBody::Partial,
            },
        }
    }
}
