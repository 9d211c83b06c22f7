//! The table from paths to handlers.
//!
//! The rules of a unary call are those of gRPC over HTTP/2
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::{convert::Infallible, fmt, pin::pin, sync::Arc, task::Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower_service::Service;

use crate::{body::RequestBody, framing, framing::FramedMessage, streaming};

/// A method with one request message and one response message.
pub trait UnaryMethod: Send + Sync + 'static {
    /// Reads the message of one call from `body` and answers it, with a message or with the status
    /// of a failed call. `headers` are the call's own.
    ///
    /// The future is dropped when the peer resets the call.
    fn call(
        &self,
        headers: &HeaderMap,
        body: &mut RequestBody,
    ) -> impl Future<Output = Result<FramedMessage, Status>> + Send;
}

/// A server that tonic generates, such as `HealthServer`. Its methods may stream.
pub trait GeneratedService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GeneratedService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The methods and services of a listener, found by the path of a call. Clones share the handlers.
///
/// A server has a handful of entries, so the table is a list that is searched from its beginning:
/// the most frequent method is added first. Any other path is answered with `unimplemented`.
#[derive(Clone, Default)]
pub struct Services {
    entries: Vec<(PathPattern, Arc<dyn CallHandler>)>,
}

impl Services {
    /// Returns a table without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method at `path`, which is `/package.Service/Method`.
    #[must_use]
    pub fn unary(mut self, path: &'static str, method: impl UnaryMethod) -> Self {
        self.entries.push((PathPattern::Method(path), Arc::new(Unary(Arc::new(method)))));
        self
    }

    /// Adds a generated service with all its methods, at `/NAME/`.
    #[must_use]
    pub fn generated<S: GeneratedService>(mut self, service: S) -> Self {
        self.entries.push((PathPattern::Service(S::NAME), Arc::new(Generated(service))));
        self
    }

    /// Returns the future that answers one call.
    pub(crate) fn call(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> BoxFuture<'static, ()> {
        let path = request.uri().path();
        match self.entries.iter().find(|(pattern, _)| pattern.matches(path)) {
            Some((_, handler)) => handler.call(request, respond),
            None => Box::pin(async {
                let _ = framing::send(Err(Status::unimplemented("unknown method")), respond);
            }),
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|(pattern, _)| pattern)).finish()
    }
}

/// The paths of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathPattern {
    /// This path alone.
    Method(&'static str),
    /// All methods of a service.
    Service(&'static str),
}

impl PathPattern {
    fn matches(self, path: &str) -> bool {
        match self {
            Self::Method(method) => path == method,
            Self::Service(name) => path
                .strip_prefix('/')
                .and_then(|path| path.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

/// Answers calls on h2. Errors while a response is sent are ignored: the peer is gone, and h2
/// reports the state of the connection to [`serve_connection`](crate::serve_connection).
trait CallHandler: Send + Sync {
    fn call(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> BoxFuture<'static, ()>;
}

struct Unary<M>(Arc<M>);

impl<M: UnaryMethod> CallHandler for Unary<M> {
    fn call(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> BoxFuture<'static, ()> {
        let method = Arc::clone(&self.0);
        // The parts that are not needed are dropped here, so that they are not in the future.
        let (head, body) = request.into_parts();
        let headers = head.headers;
        let mut body = RequestBody::of_stream(body);
        Box::pin(async move {
            let answer = method.call(&headers, &mut body);
            if let Some(response) = unless_reset(&mut respond, answer).await {
                let _ = framing::send(response, respond);
            }
        })
    }
}

struct Generated<S>(S);

impl<S: GeneratedService> CallHandler for Generated<S> {
    fn call(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> BoxFuture<'static, ()> {
        let mut service = self.0.clone();
        let request = request.map(|body| RequestBody::of_stream(body).into_tonic());
        Box::pin(async move {
            if let Some(response) = unless_reset(&mut respond, service.call(request)).await {
                let response = response.unwrap_or_else(|never| match never {});
                let _ = streaming::send(response, respond).await;
            }
        })
    }
}

/// Returns the output of `work`, or `None` when the peer resets the call first.
async fn unless_reset<T>(
    respond: &mut SendResponse<Bytes>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::PathPattern::{Method, Service};

    #[test]
    fn a_pattern_matches_whole_segments() {
        for (pattern, path, expected) in [
            (Method("/a.B/C"), "/a.B/C", true),
            (Method("/a.B/C"), "/a.B/Cd", false),
            (Method("/a.B/C"), "/a.B/C/", false),
            (Service("a.B"), "/a.B/C", true),
            (Service("a.B"), "/a.B/", true),
            (Service("a.B"), "/a.B", false),
            (Service("a.B"), "/a.Bc/D", false),
            (Service("a.B"), "a.B/C", false),
            (Service("a.B"), "/x/a.B/C", false),
        ] {
            assert_eq!(pattern.matches(path), expected, "{pattern:?} {path}");
        }
    }
}
