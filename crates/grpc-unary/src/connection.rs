//! One HTTP/2 connection: everything that can be read is read, then every call that can be answered
//! is answered, then the responses leave in one write.

use std::{
    future::poll_fn,
    io,
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
    gathered::GatheredWrites,
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
    /// The stream below HTTP/2 cannot be written to.
    #[error("the stream cannot be written to: {0}")]
    Write(#[from] io::Error),
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
    let (stream, writes) = GatheredWrites::new(stream);
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
    writes.hold();
    let mut lost = pin!(wait_until_lost(connection.ping_pong(), limits));
    let (mut arrived, mut open) = (Vec::new(), OpenCalls::new());
    let mut answer = |connection: &mut Connection<_, _>, cx: &mut Context<'_>| {
        loop {
            slice.renew();
            while let Poll::Ready(next) = connection.poll_accept(cx)? {
                let Some((request, respond)) = next else { return Poll::Ready(Ok(())) };
                activity.record_call();
                arrived.push(services.call(request, respond, (activity, &resets), limits));
            }
            // Responses are written when the connection is polled again.
            if !open.poll(arrived.drain(..), cx) {
                if slice.is_used_up() {
                    cx.waker().wake_by_ref();
                }
                // All that h2 has written by now leaves together. Where the peer does not read, this
                // is polled again when it does.
                let _ = writes.poll_send(cx)?;
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

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use bytes::Bytes;
    use http::{HeaderMap, Request};
    use tokio::io::{DuplexStream, ReadBuf};
    use tonic::Status;

    use super::*;
    use crate::{FramedMessage, RequestBody, UnaryMethod};

    /// An end of a pipe whose writes are counted.
    struct CountedWrites(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for CountedWrites {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for CountedWrites {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Relaxed);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Answers with 1.5 KiB, as large as the answer to a check.
    struct Large;

    impl UnaryMethod for Large {
        async fn call(
            &self,
            _: &HeaderMap,
            body: &mut RequestBody,
        ) -> Result<FramedMessage, Status> {
            body.length_prefix().await?.message().await?;
            Ok(FramedMessage::from(&[7; 1536][..]))
        }
    }

    #[tokio::test]
    async fn answers_that_are_ready_together_leave_in_one_write() {
        const CALLS: usize = 8;
        let services = Services::new().unary("/a", Large);
        let (client, server) = tokio::io::duplex(1 << 20);
        let count = Arc::new(AtomicUsize::new(0));
        let server = CountedWrites(server, Arc::clone(&count));
        tokio::spawn(async move {
            let (limits, activity) = (Http2Limits::default(), Arc::new(Activity::default()));
            serve_connection(server, &services, &limits, &activity, std::future::pending()).await
        });
        let (mut client, connection) = h2::client::handshake(client).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        let mut before = 0;
        // The first call is over before the others: settings have been exchanged by then.
        for calls in [1, CALLS] {
            before = count.load(Relaxed);
            for _ in 0..calls {
                let request = Request::post("http://a/a").body(()).unwrap();
                let (answer, mut body) = client.send_request(request, false).unwrap();
                body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
                answers.push(answer);
            }
            for answer in answers.drain(..) {
                let mut body = answer.await.unwrap().into_body();
                let mut bytes = 0;
                while let Some(data) = body.data().await {
                    let length = data.unwrap().len();
                    body.flow_control().release_capacity(length).unwrap();
                    bytes += length;
                }
                assert_eq!((bytes, body.trailers().await.unwrap().unwrap().len()), (1541, 1));
            }
        }
        assert_eq!(count.load(Relaxed) - before, 1);
    }
}
