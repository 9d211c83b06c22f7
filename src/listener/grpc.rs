//! gRPC on a listener: HTTP/2 only, by [`tollgate_grpc_unary`].

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tollgate_grpc_unary::{Http2Limits, Services, serve_connection};

use super::{
    Limits,
    accept::Listener,
    serve::{self, BoxError, ConnectionHandler, ConnectionLifetime},
    stream::{Peer, Stream},
};

/// Answers the calls of every connection of `listener` until `stop` fires, then stops listening,
/// lets open calls end, and after `drain` closes the remaining connections.
///
/// `grpc-timeout` is not enforced here: a caller that sets it resets the stream when the time is
/// over, which drops the call.
pub async fn serve_grpc(
    listener: Listener,
    services: Services,
    stop: CancellationToken,
    drain: Duration,
) {
    serve::serve(listener, Grpc(Arc::new(services)), stop, drain).await;
}

/// Answers calls by a table of services.
#[derive(Clone)]
struct Grpc(Arc<Services>);

impl ConnectionHandler for Grpc {
    async fn handle(
        self,
        stream: Stream,
        _: Peer,
        lifetime: ConnectionLifetime,
    ) -> Result<(), BoxError> {
        let Limits { header_bytes, streams, .. } = *lifetime.limits();
        let concurrent_streams = streams;
        let limits = Http2Limits { header_bytes, concurrent_streams, ..Http2Limits::default() };
        Ok(serve_connection(stream, &self.0, &limits, lifetime.activity(), lifetime.expired())
            .await?)
    }
}
