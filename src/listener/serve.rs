//! Serving a listener, from its first connection to the last call of its drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Limits;
use super::accept::{Accepted, Listener};
use super::http::Protocol;
use super::stream::{Gathering, Peer, Stream};
use super::tls::Tls;

/// Any error, as hyper and tower take it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection that never asked anything may take to notice that it is over.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Serves `service` on every connection of `listener` until `stop` fires, then stops listening, lets the calls in progress end,
/// and after `drain` closes what is left.
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
    let terms = Arc::new(Terms {
        tls: listener.tls.clone(),
        protocol: listener.protocol,
        limits: listener.limits.clone(),
        stop: stop.clone(),
    });
    // Dropped with the future of this function: no connection outlives it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => {
                connections.spawn(connection(accepted, service.clone(), Arc::clone(&terms)));
            }
        }
    }
    let address = listener.address().clone();
    drop(listener);
    let drained = timeout(drain, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        warn!(%address, connections = connections.len(), "closed connections that did not end in time");
    }
}

/// What every connection of a listener is under.
struct Terms {
    tls: Option<Tls>,
    protocol: Protocol,
    limits: Limits,
    stop: CancellationToken,
}

async fn connection<S, B>(accepted: Accepted, service: S, terms: Arc<Terms>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Accepted { socket, peer, place } = accepted;
    let stream: Stream = match &terms.tls {
        None => Either::Left(socket),
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => Either::Right(Box::new(stream)),
            Err(error) => return debug!(?peer, %error, "no TLS handshake"),
        },
    };
    if let Err(error) = speak(stream, peer, service, &terms).await {
        debug!(?peer, error, "a connection failed");
    }
    drop(place);
}

async fn speak<S, B>(stream: Stream, peer: Peer, service: S, terms: &Terms) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    let service = service_fn(move |mut request: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let builder = terms.protocol.builder();
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Gathering(stream)), service));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = retired(terms, &requests) => connection.as_mut().graceful_shutdown(),
    }
    if requests.load(Ordering::Relaxed) > 0 {
        return connection.await;
    }
    // hyper cannot end a connection gracefully whose HTTP/2 preface has not come, and it may never.
    timeout(LAST_CALL, connection).await.unwrap_or(Ok(()))
}

/// Comes when a connection should take no further requests: the server stops, or it is old, idle, or was never used.
async fn retired(terms: &Terms, requests: &AtomicU64) {
    let Limits { first_request, idle, age, .. } = terms.limits;
    let unused = async {
        let mut seen = 0;
        sleep(first_request).await;
        loop {
            match requests.load(Ordering::Relaxed) {
                now if now == seen => break,
                now => seen = now,
            }
            sleep(idle).await;
        }
    };
    tokio::select! {
        () = terms.stop.cancelled() => {}
        () = sleep(age) => {}
        () = unused => {}
    }
}
