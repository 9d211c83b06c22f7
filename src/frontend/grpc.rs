//! gRPC services on a listener.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tower::ServiceExt as _;
use tower_service::Service;

use crate::listener::{self, BoxError, Listener};

/// A health question holds the name of a service and nothing else. tonic would take 4 MiB of it, outside of every budget.
const MAX_HEALTH_QUESTION: usize = 4 << 10;

/// Serves `service`, a generated server or tonic's `Routes` of several, until `stop` fires and the calls in progress have ended
/// or `drain` has passed.
///
/// `grpc-timeout` is not enforced here: the caller that sets it resets the stream when it is over, and that drops the call.
pub async fn serve<S>(listener: Listener, service: S, stop: CancellationToken, drain: Duration)
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    let service = service.map_request(|request: Request<Incoming>| request.map(Body::new));
    listener::serve(listener, TowerToHyperService::new(service), stop, drain).await;
}

/// `grpc.health.v1.Health`, and the handle that says what it answers. Ready means serving: call `set_serving` and
/// `set_not_serving` for each service name, and for `""`, which stands for the whole process and starts as serving.
#[must_use]
pub fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    (reporter, server.max_decoding_message_size(MAX_HEALTH_QUESTION))
}
