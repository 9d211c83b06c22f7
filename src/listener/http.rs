//! HTTP with every limit set.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;

/// What one stream may send before it is read. Two of the largest frames would do on loopback, where the next window is there
/// within microseconds; eight also fill a network.
const STREAM_WINDOW: u32 = 128 << 10;

/// What all streams of one connection may send before it is read. With at most `Limits::connections` of them this bounds what
/// HTTP/2 buffers ahead of any budget: 128 MiB with 512. Larger windows are not faster here, because every stream is read or
/// refused at once. It also keeps what is on its way when streams are refused to 16 full frames: h2 remembers the last 50
/// resets, and counts frames for older ones as errors of the peer.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Calls at a time on one connection. A proxy opens the next connection beyond it, so it must not be small, and without a value
/// there is no limit at all.
const STREAMS: u32 = 1024;

/// Resets by the peer of calls that were not yet accepted, before the connection ends. A proxy resets the check of each client
/// that goes away, many at once when it restarts; h2's own default of 20 would then cost everybody else their connection. The
/// limit is there against rapid reset (CVE-2023-44487).
const PENDING_RESETS: usize = 1024;

/// Errors of the peer, over the life of a connection, before it ends.
const ERROR_RESETS: usize = 1024;

/// Bytes of one gRPC call's headers. The client's headers travel inside the message of the check, not here.
const GRPC_HEADERS: u32 = 16 << 10;

/// An idle HTTP/2 peer is asked this often whether it is there ...
const PING_EVERY: Duration = Duration::from_secs(30);
/// ... and has this long to answer.
const PING_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of one request's headers, and lines of them in HTTP/1, where the client's travel with the check. More than Envoy (60
/// KiB) and nginx (32 KiB) pass on: what they let in is to be judged, cookies included, and not to fail.
const HTTP_HEADERS: u32 = 128 << 10;
const HTTP1_LINES: usize = 200;

/// How long an HTTP/1 connection may take to its next complete header block, idle time included. Above the 60 seconds for which
/// nginx keeps idle connections to an upstream, so that the side that sends is the side that closes and no request is lost.
const HTTP1_NEXT: Duration = Duration::from_secs(65);

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
    pub(super) fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Grpc => &[b"h2"],
            Self::Http => &[b"h2", b"http/1.1"],
        }
    }

    pub(super) fn builder(self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        if self == Self::Grpc {
            builder = builder.http2_only();
        }
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HTTP1_NEXT)
            .max_headers(HTTP1_LINES)
            .max_buf_size(HTTP_HEADERS as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            .max_header_list_size(if self == Self::Grpc { GRPC_HEADERS } else { HTTP_HEADERS })
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        builder
    }
}
