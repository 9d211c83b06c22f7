//! gRPC on a listener: [checks](Unary), answered here on HTTP/2 itself, and health, by tonic.
//!
//! A check is one message and one answer. What tonic and hyper do to make streams of both costs more than the decision, so the
//! few rules that are left for a unary call (gRPC over HTTP/2: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>)
//! stand in `grpc/unary.rs`.

mod streaming;
mod unary;

use std::{convert::Infallible, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tower_service::Service;

use self::streaming::Received;
pub use self::unary::Framed;
use super::in_flight::InFlight;
use crate::listener::{Listener, serve_calls};

/// A health question holds the name of a service and nothing else. tonic would take 4 MiB of it, outside of every budget.
const MAX_HEALTH_QUESTION: usize = 4 << 10;

const HEALTH: &str = "/grpc.health.v1.Health/";

/// A method with one message and one answer.
pub trait Unary: Send + Sync + 'static {
    /// `/package.Service/Method`.
    const PATH: &'static str;

    /// Answers one message with another, or with the status of a call that failed.
    fn answer(
        &self,
        head: &HeaderMap,
        message: &Bytes,
    ) -> impl Future<Output = Result<Framed, Status>> + Send;
}

/// What a generated server of tonic's is to its transport.
pub trait Generated:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Generated for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What is served on a listener: a method whose messages are in a budget, health by its path, and nothing else.
#[derive(Debug)]
pub struct Services<U, H> {
    method: U,
    budget: InFlight,
    health: H,
}

impl<U: Unary, H: Generated> Services<U, H> {
    /// Puts them together.
    pub fn new(method: U, budget: InFlight, health: H) -> Self {
        Self { method, budget, health }
    }

    /// Answers one call. What is not needed any more is dropped before there is a future, which is moved when it is made.
    fn call(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> impl Future<Output = ()> + use<U, H> {
        let asked = if request.uri().path() == U::PATH {
            let (head, body) = request.into_parts();
            Ok((head.headers, Received::new(body)))
        } else {
            Err(Box::new(request))
        };
        async move {
            // Only the transport hears of an error while an answer is sent: the peer is gone, and so is who would want to know.
            let _ = match asked {
                Ok((head, mut body)) => {
                    match unless_reset(&mut respond, self.unary(&head, &mut body)).await {
                        Some(answer) => unary::send(answer, respond),
                        None => Ok(()),
                    }
                }
                Err(request) => Box::pin(self.other(*request, respond)).await,
            };
        }
    }

    async fn unary(&self, head: &HeaderMap, body: &mut Received) -> Result<Framed, Status> {
        match self.budget.message(body).await {
            // The bytes are given back when there is an answer, or when the call is dropped.
            Ok(message) => self.method.answer(head, message.bytes()).await,
            Err(stopped) => stopped.answer(&self.budget),
        }
    }

    async fn other(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let health = request.uri().path().starts_with(HEALTH).then(|| self.health.clone());
        let request = request.map(|body| Body::new(Received::new(body)));
        let answer = async {
            match health {
                Some(mut health) => {
                    health.call(request).await.unwrap_or_else(|never| match never {})
                }
                None => Status::unimplemented("there is no such method").into_http(),
            }
        };
        match unless_reset(&mut respond, answer).await {
            Some(answer) => streaming::send(answer, respond).await,
            None => Ok(()),
        }
    }
}

/// What `work` gives, or nothing when the peer takes the call back first.
async fn unless_reset<T>(
    respond: &mut SendResponse<Bytes>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// Serves until `stop` fires and the calls in progress have ended or `drain` has passed.
///
/// `grpc-timeout` is not enforced here: the caller that sets it resets the stream when it is over, and that drops the call.
pub async fn serve<U: Unary, H: Generated>(
    listener: Listener,
    services: Services<U, H>,
    stop: CancellationToken,
    drain: Duration,
) {
    let services = Arc::new(services);
    let call = move |request, respond| Arc::clone(&services).call(request, respond);
    serve_calls(listener, call, stop, drain).await;
}

/// `grpc.health.v1.Health`, and the handle that says what it answers. Ready means serving: call `set_serving` and
/// `set_not_serving` for each service name, and for `""`, which stands for the whole process and starts as serving.
#[must_use]
pub fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    (reporter, server.max_decoding_message_size(MAX_HEALTH_QUESTION))
}
