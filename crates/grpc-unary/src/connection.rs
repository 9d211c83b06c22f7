//! One HTTP/2 connection: everything that can be read is read, then every call that can be answered
//! is answered, then the responses leave in one write.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2::{
    Ping, PingPong,
    server::{Builder, Connection},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

use crate::{
    activity::Activity,
    batch::OpenCalls,
    coalesced::CoalescedWrites,
    read_slices::{ReadSlices, Slice},
    resets::{ObservedResets, Resets},
    services::Services,
};

/// The limits of one HTTP/2 connection. Each is set: several defaults of the libraries are "none".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Bytes that one stream may send before they are read. Two frames of the largest size suffice
    /// on loopback, where the next window arrives within microseconds; the default of eight also
    /// fills a network.
    pub stream_window: u32,
    /// Bytes that all streams of one connection may send before they are read, which bounds what
    /// HTTP/2 buffers ahead of any budget. The default holds 64 checks with bodies of some KiB,
    /// which are then answered together. It also keeps the frames on their way when streams are
    /// refused to 32 of full size: h2 remembers the last 50 resets, and counts frames for older
    /// ones as errors of the peer.
    pub connection_window: u32,
    /// Calls at a time on one connection. A proxy opens another connection beyond it. Each holds
    /// some KiB until its peer has read the answer.
    pub concurrent_streams: u32,
    /// Calls of generated services at a time on one connection. Their streams stay open as long as
    /// the peer wants; further calls end with `resource_exhausted`.
    pub generated_calls: usize,
    /// Resets by the peer of calls that were not accepted yet, before the connection is closed. A
    /// proxy resets the call of each client that disconnects, as often as its clients want, so the
    /// limit is above what is read between two accepts. It protects against rapid reset
    /// (CVE-2023-44487).
    pub pending_resets: usize,
    /// Protocol errors of the peer over the life of a connection, before it is closed.
    pub error_resets: usize,
    /// Bytes of the headers of one call. h2 rejects a call beyond it with 431, which its caller
    /// takes for a failed call.
    pub header_bytes: u32,
    /// Bytes of responses that are buffered while the peer does not read.
    pub unread_bytes: usize,
    /// Time between two pings.
    pub ping_interval: Duration,
    /// Time for the answer to a ping, after which the peer counts as lost.
    pub ping_timeout: Duration,
    /// Time for a graceful shutdown of a connection on which no call ever arrived. Its peer may be
    /// gone without a trace.
    pub unused_drain: Duration,
    /// Time for a graceful shutdown of any other connection: longer than a call takes, unless its
    /// peer withholds the message or does not read the answer.
    pub drain: Duration,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            stream_window: 128 << 10,
            connection_window: 512 << 10,
            concurrent_streams: 256,
            generated_calls: 4,
            pending_resets: 32_768,
            error_resets: 1024,
            header_bytes: 128 << 10,
            unread_bytes: 400 << 10,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            unused_drain: Duration::from_secs(1),
            drain: Duration::from_secs(30),
        }
    }
}

impl Http2Limits {
    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_concurrent_streams(self.concurrent_streams)
            .max_pending_accept_reset_streams(self.pending_resets)
            .max_local_error_reset_streams(Some(self.error_resets))
            .max_header_list_size(self.header_bytes)
            .max_send_buffer_size(self.unread_bytes);
        builder
    }
}

/// The reason why a connection ended before its peer closed it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// HTTP/2 or the stream below it failed.
    #[error("HTTP/2 failed: {0}")]
    Http2(#[from] h2::Error),
    /// The peer did not answer a ping in time.
    #[error("the peer does not answer pings")]
    PeerLost,
}

/// Answers the calls of one connection until the peer closes it, or until `shutdown` completes:
/// then no further calls are accepted, the open ones are answered, and streams end. `activity` counts
/// the calls.
///
/// Dropping the future drops the connection and its calls.
///
/// # Errors
/// When HTTP/2 fails or the peer is lost.
pub async fn serve_connection<S>(
    stream: S,
    services: &Services,
    limits: &Http2Limits,
    activity: &Arc<Activity>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut shutdown = pin!(shutdown);
    let slice = Slice::new();
    let resets = Resets::new(limits.concurrent_streams as usize);
    let stream = ObservedResets::new(ReadSlices::new(stream, slice.clone()), resets.clone());
    let stream = CoalescedWrites::new(stream);
    let mut handshake = pin!(limits.builder().handshake(stream));
    let (mut connection, is_shut_down) = tokio::select! {
        biased;
        connection = handshake.as_mut() => (connection?, false),
        // A peer sends its first calls with the handshake, which may be here already.
        () = shutdown.as_mut() => match timeout(limits.unused_drain, handshake).await {
            Ok(connection) => (connection?, true),
            Err(_) => return Ok(()),
        },
    };
    let shutdown = async {
        if !is_shut_down {
            shutdown.await;
        }
    };
    let mut lost = pin!(wait_until_lost(connection.ping_pong(), limits));
    let (mut arrived, mut open) = (Vec::new(), OpenCalls::new());
    let mut answer = |connection: &mut Connection<_, _>, cx: &mut Context<'_>| {
        loop {
            slice.renew();
            while let Poll::Ready(next) = connection.poll_accept(cx)? {
                let Some(call) = next else { return Poll::Ready(Ok(())) };
                activity.record_call();
                arrived.push(call);
            }
            let calls = arrived.drain(..).map(|(request, respond)| {
                services.call(request, respond, (activity, &resets), limits)
            });
            // Responses are written when the connection is polled again.
            if !open.poll(calls, cx) {
                if slice.is_used_up() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
    };
    tokio::select! {
        biased;
        ended = poll_fn(|cx| answer(&mut connection, cx)) => return ended,
        () = shutdown => {
            connection.graceful_shutdown();
            activity.close();
        }
        () = lost.as_mut() => return Err(ConnectionError::PeerLost),
    }
    let within = if activity.calls() == 0 { limits.unused_drain } else { limits.drain };
    let rest = timeout(within, poll_fn(|cx| answer(&mut connection, cx)));
    tokio::select! {
        ended = rest => ended.unwrap_or(Ok(())),
        () = lost => Err(ConnectionError::PeerLost),
    }
}

/// Completes when the peer does not answer a ping.
async fn wait_until_lost(pings: Option<PingPong>, limits: &Http2Limits) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(limits.ping_interval).await;
        if !matches!(timeout(limits.ping_timeout, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}
