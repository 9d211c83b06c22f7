//! Serving a listener, from its first connection to the last call of its drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Limits;
use super::accept::{Accepted, Listener};
use super::stream::{Peer, Stream};
use super::tls::Tls;

/// Any error, as hyper and tower take it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection that never asked anything may take to notice that it is over.
const UNUSED_DRAIN: Duration = Duration::from_secs(1);

/// What is spoken on the connections of a listener.
pub(super) trait ConnectionHandler: Clone + Send + 'static {
    /// Speaks until the peer or `life` ends the connection.
    fn handle(
        self,
        stream: Stream,
        peer: Peer,
        lifetime: ConnectionLifetime,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// Speaks on every connection of `listener` until `stop` fires, then stops listening, lets the calls in progress end, and after
/// `drain` closes what is left.
pub(super) async fn serve(
    listener: Listener,
    handler: impl ConnectionHandler,
    stop: CancellationToken,
    drain: Duration,
) {
    // Dropped with the future of this function: no connection outlives it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => {
                let lifetime = ConnectionLifetime { limits: listener.limits.clone(), stop: stop.clone(), requests: Arc::default() };
                connections.spawn(connection(accepted, listener.tls.clone(), handler.clone(), lifetime));
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

async fn connection(
    accepted: Accepted,
    tls: Option<Tls>,
    handler: impl ConnectionHandler,
    lifetime: ConnectionLifetime,
) {
    let Accepted { socket, peer, permit } = accepted;
    let stream: Stream = match tls {
        None => Either::Left(socket),
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => Either::Right(Box::new(stream)),
            Err(error) => return debug!(?peer, %error, "no TLS handshake"),
        },
    };
    if let Err(error) = handler.handle(stream, peer, lifetime).await {
        debug!(?peer, error, "a connection failed");
    }
    drop(permit);
}

/// How long a connection may live.
#[derive(Clone)]
pub(super) struct ConnectionLifetime {
    limits: Limits,
    stop: CancellationToken,
    requests: Arc<AtomicU64>,
}

impl ConnectionLifetime {
    /// A request came.
    pub(super) fn record_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the `rest` of a connection that was asked to end. Where no request ever came there may be nobody to notice.
    pub(super) async fn drain(
        &self,
        rest: impl Future<Output = Result<(), BoxError>>,
    ) -> Result<(), BoxError> {
        match self.requests.load(Ordering::Relaxed) {
            0 => timeout(UNUSED_DRAIN, rest).await.unwrap_or(Ok(())),
            _ => rest.await,
        }
    }

    /// Comes when the connection should take no further requests: the server stops, or it is old, idle, or was never used.
    pub(super) async fn expired(&self) {
        let Limits { first_request_timeout, idle_timeout, max_age, .. } = self.limits;
        let idle = async {
            let mut seen = 0;
            sleep(first_request_timeout).await;
            loop {
                match self.requests.load(Ordering::Relaxed) {
                    now if now == seen => break,
                    now => seen = now,
                }
                sleep(idle_timeout).await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(max_age) => {}
            () = idle => {}
        }
    }
}
