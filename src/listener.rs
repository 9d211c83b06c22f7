//! Where connections come from: TCP or Unix sockets, with or without TLS, each with its limits, and served until told to stop.
//!
//! ```text
//! ListenerConfig -> Listener::bind -> serve: accept -> TLS handshake -> HTTP -> service
//! ListenerConfig -> Listener::bind -> serve_grpc: accept -> TLS handshake -> HTTP/2 -> call
//! ```
//!
//! Every limit is here, in `http` or in `tollgate_grpc_unary`: connections, handshakes, idle time, age, headers, streams, windows. None is left to a
//! library's default, several of which mean no limit.

mod accept;
mod address;
mod config;
mod grpc;
mod http;
mod serve;
mod stream;
mod tls;
mod unix;

use std::time::Duration;

pub use accept::{BindError, Listener};
pub use address::{Address, AddressError};
pub use config::{ListenerConfig, ModeError, SocketMode, TlsConfig};
pub use grpc::serve_grpc;
pub use http::serve;
pub use serve::BoxError;
pub use stream::Peer;
pub use tls::{Tls, TlsError};

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 only.
    Grpc,
    /// HTTP/1.1, and HTTP/2 for those who begin with it.
    Http,
}

impl Protocol {
    /// What TLS offers, most wanted first.
    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Grpc => &[b"h2"],
            Self::Http => &[b"h2", b"http/1.1"],
        }
    }
}

/// What a listener bears. The defaults suit a sidecar and a gateway with some hundred proxies.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; one more is closed at once, so that its proxy fails over instead of waiting. A proxy opens one for
    /// each of its worker threads.
    pub max_connections: usize,
    /// TLS handshakes at a time; others wait within their `handshake`. Each costs a signature, about a millisecond of a core.
    pub max_handshakes: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a new connection may wait with its first request: one that never asks holds a place for nothing.
    pub first_request_timeout: Duration,
    /// How long a connection may stay without a new request, roughly: it is looked at once per such time.
    pub idle_timeout: Duration,
    /// After this a connection is asked to end, without losing a call, so that a client whose certificate or authority was
    /// withdrawn comes back for a new handshake.
    pub max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 512,
            max_handshakes: 64,
            handshake_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            max_age: Duration::from_secs(3600),
        }
    }
}
