//! gRPC services on a listener.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

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

/// The services of a listener: health by its path, and for every other path the server that was generated for checks, which
/// refuses the methods it does not know.
#[derive(Clone, Debug)]
pub struct Services<C, H> {
    checks: C,
    health: H,
}

impl<C, H> Services<C, H> {
    /// Puts the two together.
    pub fn new(checks: C, health: H) -> Self {
        Self { checks, health }
    }
}

/// What the generated servers answer with.
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<C, H> Service<Request<Body>> for Services<C, H>
where
    C: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>,
    H: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    /// The generated servers are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        if request.uri().path().starts_with("/grpc.health.v1.Health/") {
            self.health.call(request)
        } else {
            self.checks.call(request)
        }
    }
}

/// Serves `service`, a generated server or [`Services`], until `stop` fires and the calls in progress have ended
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
