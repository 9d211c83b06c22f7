//! HTTP/1.1 and HTTP/2 on a listener, by hyper, with every limit set.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::Body;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tollgate_grpc_unary::{CoalescedWrites, Http2Limits, ReadSlices, Slice};

use super::{
    Limits,
    accept::Listener,
    lingering::Lingering,
    serve::{self, BoxError, ConnectionHandler, ConnectionLifetime},
    stream::{Peer, Stream},
};

/// Header lines of one HTTP/1 request, the client's included.
const HTTP1_HEADER_LINES: usize = 200;

/// The time until the next complete header block of an HTTP/1 connection, idle time included. It is
/// longer than the 60 seconds for which nginx keeps idle connections to an upstream, so that the
/// side that sends requests closes the connection and no request is lost.
const HTTP1_HEADER_TIMEOUT: Duration = Duration::from_secs(65);

/// How long a connection of HTTP/1 that is to end waits for a last request. After it, the connection
/// counts as unused.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Whether a connection is to end, and how.
#[derive(Debug, Default)]
struct Closing {
    is_closing: AtomicBool,
    /// Whether its last request was one of HTTP/2, which has a message for the end of a connection.
    is_http2: AtomicBool,
}

/// Serves `service` on every connection of `listener` until `stop` fires, then stops listening,
/// lets open calls end, and after `drain` closes the remaining connections.
///
/// Each request has the [`Peer`] in its extensions.
pub async fn serve<S, B>(listener: Listener, service: S, stop: CancellationToken, drain: Duration)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    serve::serve(listener, Http(service), stop, drain).await;
}

/// Answers requests by a service of hyper.
#[derive(Clone)]
struct Http<S>(S);

impl<S, B> ConnectionHandler for Http<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    async fn handle(
        self,
        stream: Stream,
        peer: Peer,
        lifetime: ConnectionLifetime,
    ) -> Result<(), BoxError> {
        let activity = Arc::clone(lifetime.activity());
        let closing = Arc::<Closing>::default();
        let of_service = Arc::clone(&closing);
        let service = service_fn(move |mut request: Request<Incoming>| {
            activity.record_call();
            request.extensions_mut().insert(peer);
            let is_http1 = request.version() < Version::HTTP_2;
            of_service.is_http2.store(!is_http1, Relaxed);
            let (answering, answer) = (activity.begin_answer(), self.0.call(request));
            let closing = Arc::clone(&of_service);
            async move {
                let mut answer = answer.await;
                drop(answering);
                if is_http1
                    && closing.is_closing.load(Relaxed)
                    && let Ok(answer) = &mut answer
                {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        });
        let builder = builder(lifetime.limits());
        let slice = Slice::new();
        let stream = CoalescedWrites::new(ReadSlices::new(Lingering::new(stream), slice.clone()));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = in_slices(connection.as_mut(), &slice) => return ended,
            () = lifetime.expired() => closing.is_closing.store(true, Relaxed),
        }
        // A connection of HTTP/1 that is closed between two requests loses the one that is on its way.
        // One in use ends with its next answer, which tells its client.
        if !closing.is_http2.load(Relaxed)
            && let Ok(ended) = timeout(LAST_REQUEST, in_slices(connection.as_mut(), &slice)).await
        {
            return ended;
        }
        connection.as_mut().graceful_shutdown();
        // hyper cannot end a connection gracefully before the HTTP/2 preface, which may never
        // arrive.
        lifetime.drain(in_slices(connection, &slice)).await
    }
}

/// Polls a connection, with a slice of its stream at a time. Between two of them hyper accepts the
/// requests that have arrived, so that no number of resets among them ends the connection.
async fn in_slices<T>(mut connection: Pin<&mut impl Future<Output = T>>, slice: &Slice) -> T {
    poll_fn(|cx| {
        loop {
            slice.renew();
            let polled = connection.as_mut().poll(cx);
            if polled.is_ready() || !slice.is_used_up() {
                return polled;
            }
        }
    })
    .await
}

fn builder(of_listener: &Limits) -> Builder<TokioExecutor> {
    let Limits { header_bytes, streams, .. } = *of_listener;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP1_HEADER_TIMEOUT)
        .max_headers(HTTP1_HEADER_LINES)
        .max_buf_size(header_bytes as usize);
    let limits = Http2Limits::default();
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.error_resets)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}
