//! Listeners: TCP or Unix sockets, with or without TLS, served until they are stopped.
//!
//! ```text
//! ListenerConfig -> Listener::bind -> serve: accept -> TLS handshake -> HTTP -> service
//! ListenerConfig -> Listener::bind -> serve_grpc: accept -> TLS handshake -> HTTP/2 -> method
//! ```
//!
//! Every limit is set, here, in `http` or in [`Http2Limits`](tollgate_grpc_unary::Http2Limits):
//! connections, handshakes, idle time, age, headers, streams, windows. Several defaults of the
//! libraries mean no limit.
//!
//! Nothing here installs a signal handler or any other global state: a caller stops a listener with
//! the token it passes.

mod accept;
mod address;
mod config;
mod control;
mod error;
mod grpc;
mod http;
mod inherited;
mod lingering;
mod places;
mod serve;
mod stream;
mod tls;
mod unix;

use std::time::Duration;

pub use self::{
    accept::Listener,
    address::{Address, AddressError},
    config::{ListenerConfig, ModeError, SocketMode, TlsConfig, header_bytes},
    control::ControlSocket,
    error::{BindError, SocketError},
    grpc::serve_grpc,
    http::serve,
    inherited::{InheritedError, InheritedSocket, InheritedSockets, Origin, SharedSocket},
    serve::BoxError,
    stream::Peer,
    tls::{Tls, TlsError, TlsProblem, Validity},
};

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 without HTTP/1.
    Grpc,
    /// HTTP/1.1, and HTTP/2 for clients that begin with it.
    Http,
}

impl Protocol {
    /// The protocols that TLS offers, in order of preference.
    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Grpc => &[b"h2"],
            Self::Http => &[b"h2", b"http/1.1"],
        }
    }
}

/// The limits of a listener. The defaults suit a sidecar, and a gateway with some hundred proxies.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time. A further one gets the place of an idle one, or is closed at once, so
    /// that the proxy fails over instead of waiting. A proxy opens one connection for each of its
    /// worker threads.
    pub max_connections: usize,
    /// TLS handshakes at a time. Further ones wait within `handshake_timeout`. Each costs a
    /// signature, about a millisecond of a core.
    pub max_handshakes: usize,
    /// The time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// The time for the first request of a connection. A connection without one uses a place.
    pub first_request_timeout: Duration,
    /// The time without a new request after which a connection ends. It is checked once per such
    /// time, so that a connection may stay up to twice as long.
    pub idle_timeout: Duration,
    /// The age at which a connection ends, without losing a call, so that a client whose
    /// certificate or authority was withdrawn needs a new handshake.
    pub max_age: Duration,
    /// Requests at a time on one connection of HTTP/2, for the first eight connections. The proxy
    /// takes the limit from its first frame, and what it sent before that is refused beyond it: a
    /// failed check. The default is the number of requests that Envoy sends at most to a cluster
    /// without breakers of its own, and the number of its streams on a new connection.
    pub streams: u32,
    /// The bytes of the headers of one request or call. Beyond it, HTTP/2 answers 431 before any
    /// code of this program runs, which a proxy takes for a failed check: the limit is above
    /// everything that a proxy with its default limits can be made to send.
    pub header_bytes: u32,
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
            streams: 1024,
            header_bytes: 128 << 10,
        }
    }
}

impl Limits {
    /// The limits of a connection that was accepted as one of `connections`. Beyond eight they share
    /// the streams of eight, but each has a quarter, above what the shipped proxies use: all 512
    /// together have fewer than 145 000, each of which holds some KiB until its peer has read the
    /// answer.
    #[must_use]
    pub(crate) fn for_one_of(&self, connections: usize) -> Self {
        let shared = u64::from(self.streams) * 8 / (connections as u64).max(1);
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        let least = (self.streams / 4).max(16).min(self.streams);
        Self { streams: shared.clamp(least, self.streams), ..self.clone() }
    }

    /// The limits of a listener whose peers open one stream each, for as long as they run: a
    /// connection that ends loses what is on its way.
    #[must_use]
    pub fn for_long_streams() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            max_connections: 256,
            streams: 16,
            idle_timeout: day,
            max_age: day,
            ..Self::default()
        }
    }

    /// The limits of a listener whose peers open a stream for each response, for as long as it runs.
    #[must_use]
    pub fn for_responses() -> Self {
        let streams = Self::default().streams;
        Self { streams, ..Self::for_long_streams() }
    }

    /// The limits of a listener for probes, scrapers and operators, which are few. Together with
    /// the default for checks they stay below 1024 open files, a usual limit of a process.
    #[must_use]
    pub fn for_operators() -> Self {
        Self { max_connections: 64, streams: 16, header_bytes: 32 << 10, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_all_connections_are_bounded() {
        let limits = Limits::default();
        let streams = |connections| limits.for_one_of(connections).streams;
        let expected = [(1, 1024), (8, 1024), (9, 910), (16, 512), (32, 256), (512, 256)];
        assert_eq!(expected.map(|(connections, _)| (connections, streams(connections))), expected);
        assert!((1..=512).map(streams).sum::<u32>() < 145_000);
        let few = Limits { streams: 1, ..limits };
        assert_eq!(few.for_one_of(512).streams, 1);
    }
}
