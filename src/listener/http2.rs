//! HTTP/2 alone, straight on h2, for gRPC: its calls are so small that what hyper and tonic do for each of them costs more than
//! a decision. All calls that arrive together are answered together: everything there is to read is read, then every call that
//! can be answered is, then the answers leave in one write.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{CatchUnwind, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::Request;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::accept::Listener;
use super::serve::{self, BoxError, Life, Speak};
use super::stream::{Gathering, Peer};

/// What one stream may send before it is read. Two of the largest frames would do on loopback, where the next window is there
/// within microseconds; eight also fill a network.
pub(super) const STREAM_WINDOW: u32 = 128 << 10;

/// What all streams of one connection may send before it is read. With at most `Limits::connections` of them this bounds what
/// HTTP/2 buffers ahead of any budget: 256 MiB with 512. It holds 64 checks with bodies of some KiB, which are then answered
/// together. It also keeps what is on its way when streams are refused to 32 full frames: h2 remembers the last 50
/// resets, and counts frames for older ones as errors of the peer.
pub(super) const CONNECTION_WINDOW: u32 = 512 << 10;

/// Calls at a time on one connection. A proxy opens the next connection beyond it, so it must not be small, and without a value
/// there is no limit at all.
pub(super) const STREAMS: u32 = 1024;

/// Resets by the peer of calls that were not yet accepted, before the connection ends. A proxy resets the check of each client
/// that goes away, many at once when it restarts; h2's own default of 20 would then cost everybody else their connection. The
/// limit is there against rapid reset (CVE-2023-44487).
pub(super) const PENDING_RESETS: usize = 1024;

/// Errors of the peer, over the life of a connection, before it ends.
pub(super) const ERROR_RESETS: usize = 1024;

/// Bytes of one gRPC call's headers. The client's headers travel inside the message of the check, not here.
pub(super) const GRPC_HEADERS: u32 = 16 << 10;

/// An idle HTTP/2 peer is asked this often whether it is there ...
pub(super) const PING_EVERY: Duration = Duration::from_secs(30);
/// ... and has this long to answer.
pub(super) const PING_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of answers that one connection holds while its peer does not read. One that does not read at all has at most
/// [`STREAMS`] calls open.
const UNREAD: usize = 400 << 10;

/// Answers every call on every connection of `listener` until `stop` fires, then stops listening, lets the calls in progress
/// end, and after `drain` closes what is left.
///
/// A call whose future is dropped, because its peer is gone, or panics, has its stream reset.
pub async fn serve_calls<C, F>(
    listener: Listener,
    call: C,
    stop: CancellationToken,
    drain: Duration,
) where
    C: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    serve::serve(listener, Http2(call), stop, drain).await;
}

/// How a call is answered.
#[derive(Clone)]
struct Http2<C>(C);

impl<C, F> Speak for Http2<C>
where
    C: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    async fn speak(self, stream: Gathering, _: Peer, life: Life) -> Result<(), BoxError> {
        let mut over = pin!(life.over());
        let mut connection = tokio::select! {
            connection = builder().handshake(stream) => connection?,
            () = over.as_mut() => return Ok(()),
        };
        let mut gone = pin!(gone(connection.ping_pong()));
        let (mut came, mut calls) = (Vec::new(), Calls::new());
        let mut answer = |connection: &mut Connection<_, _>, cx: &mut Context<'_>| {
            loop {
                while let Poll::Ready(next) = connection.poll_accept(cx)? {
                    let Some(call) = next else { return Poll::Ready(Ok(())) };
                    life.asked();
                    came.push(call);
                }
                // What was answered is written when the connection is looked at again.
                if !calls.advance(
                    came.drain(..).map(|(request, respond)| (self.0)(request, respond)),
                    cx,
                ) {
                    return Poll::Pending;
                }
            }
        };
        tokio::select! {
            biased;
            ended = poll_fn(|cx| answer(&mut connection, cx)) => return ended,
            () = over => connection.graceful_shutdown(),
            gone = gone.as_mut() => return Err(gone),
        }
        let rest = poll_fn(|cx| answer(&mut connection, cx));
        tokio::select! {
            ended = life.last_call(rest) => ended,
            gone = gone => Err(gone),
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .max_header_list_size(GRPC_HEADERS)
        .max_send_buffer_size(UNREAD);
    builder
}

/// Comes when the peer no longer answers.
async fn gone(pings: Option<PingPong>) -> BoxError {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        if !matches!(timeout(PING_WITHIN, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return "the peer does not answer pings".into();
        }
    }
}

/// The calls of one connection that have no answer yet.
enum Calls<F> {
    /// One core: nobody else could answer them, so they are answered here, without a task for each.
    Here(Here<F>),
    /// Several cores: a proxy has a connection for each of its threads, and there may be fewer of those.
    Anywhere(JoinSet<()>),
}

impl<F: Future<Output = ()> + Send + 'static> Calls<F> {
    fn new() -> Self {
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => {
                Self::Here(Here { spare: None, waiting: FuturesUnordered::new() })
            }
            _ => Self::Anywhere(JoinSet::new()),
        }
    }

    /// Takes the calls that `came`, and says whether some were answered.
    fn advance(&mut self, came: impl Iterator<Item = F>, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Here(calls) => calls.advance(came, cx),
            Self::Anywhere(calls) => {
                for call in came {
                    calls.spawn(call);
                }
                let mut some = false;
                while let Poll::Ready(Some(_)) = calls.poll_join_next(cx) {
                    some = true;
                }
                some
            }
        }
    }
}

type Caught<F> = CatchUnwind<AssertUnwindSafe<F>>;

/// Calls that are answered by the task of their connection.
struct Here<F> {
    /// The place of a call that was answered at once, for the next one: nearly all are, one after the other, in the same few KiB.
    spare: Option<Pin<Box<Caught<F>>>>,
    /// Those that wait: for the rest of their message, or for a store.
    waiting: FuturesUnordered<Pin<Box<Caught<F>>>>,
}

impl<F: Future<Output = ()>> Here<F> {
    fn advance(&mut self, came: impl Iterator<Item = F>, cx: &mut Context<'_>) -> bool {
        let mut some = false;
        for call in came {
            let call = AssertUnwindSafe(call).catch_unwind();
            let mut place = match self.spare.take() {
                None => Box::pin(call),
                Some(mut place) => {
                    place.set(call);
                    place
                }
            };
            if place.as_mut().poll(cx).is_ready() {
                some = true;
                self.spare = Some(place);
            } else {
                self.waiting.push(place);
            }
        }
        while let Poll::Ready(Some(_)) = self.waiting.poll_next_unpin(cx) {
            some = true;
        }
        some
    }
}
