//! Serves a listener, from its first connection to the last call of its drain.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{either::Either, sync::CancellationToken};
use tollgate_grpc_unary::{Activity, Http2Limits};
use tracing::{debug, warn};

use super::{
    Limits,
    accept::{Accepted, Listener},
    stream::{Peer, Stream},
    tls::Tls,
};
use crate::error_text::describe;

/// Any error, as hyper and tower return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The protocol on the connections of a listener.
pub(super) trait ConnectionHandler: Clone + Send + 'static {
    /// Serves one connection until the peer closes it or its `lifetime` ends.
    fn handle(
        self,
        stream: Stream,
        peer: Peer,
        lifetime: ConnectionLifetime,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// Serves every connection of `listener` until `stop` fires, then stops listening, lets open calls
/// end, and after `drain` closes the remaining connections.
pub(super) async fn serve(
    listener: Listener,
    handler: impl ConnectionHandler,
    stop: CancellationToken,
    drain: Duration,
) {
    // Dropped with the future of this function, so that no connection outlives it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => {
                let lifetime = ConnectionLifetime {
                    limits: listener.limits.for_one_of(accepted.place.connections()),
                    stop: stop.clone(),
                    activity: Arc::clone(accepted.place.activity()),
                };
                let tls = listener.tls.clone();
                let id = accepted.place.id();
                let task = connections.spawn(connection(accepted, tls, handler.clone(), lifetime));
                listener.places.started(id, task);
            }
        }
    }
    let address = listener.address().clone();
    drop(listener);
    let drained = timeout(drain, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        let connections = connections.len();
        warn!(%address, connections, "closed connections that did not end within drain_timeout");
    }
}

async fn connection(
    accepted: Accepted,
    tls: Option<Tls>,
    handler: impl ConnectionHandler,
    lifetime: ConnectionLifetime,
) {
    let Accepted { socket, peer, place } = accepted;
    let stream: Stream = match tls {
        None => Either::Left(socket),
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => Either::Right(Box::new(stream)),
            Err(error) => {
                return debug!(%peer, error = describe(&error), "TLS handshake failed");
            }
        },
    };
    if let Err(error) = handler.handle(stream, peer, lifetime).await {
        debug!(%peer, error, "connection failed");
    }
    drop(place);
}

/// Decides when a connection takes no further requests.
#[derive(Clone)]
pub(super) struct ConnectionLifetime {
    limits: Limits,
    stop: CancellationToken,
    activity: Arc<Activity>,
}

impl ConnectionLifetime {
    /// The limits of the listener.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The calls of the connection.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Waits until the open calls of a connection end, for a bounded time: a peer may withhold a
    /// body or not read an answer. On a connection without any request the wait is short: its peer
    /// may be gone without a trace.
    pub(super) async fn drain(
        &self,
        rest: impl Future<Output = Result<(), BoxError>>,
    ) -> Result<(), BoxError> {
        let Http2Limits { unused_drain, drain, .. } = Http2Limits::default();
        let within = if self.activity.calls() == 0 { unused_drain } else { drain };
        timeout(within, rest).await.unwrap_or(Ok(()))
    }

    /// Completes when the connection should take no further requests: the server stops, or the
    /// connection is old, idle or was never used.
    pub(super) async fn expired(&self) {
        let Limits { first_request_timeout, idle_timeout, max_age, .. } = self.limits;
        let idle = async {
            let mut seen = 0;
            sleep(first_request_timeout).await;
            loop {
                match self.activity.calls() {
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
