//! The table from paths to handlers.
//!
//! The rules of a unary call are those of gRPC over HTTP/2
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::{
    convert::Infallible,
    fmt,
    future::ready,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use tokio::time::timeout;
use tonic::{Status, body::Body, metadata::GRPC_CONTENT_TYPE, server::NamedService};
use tower_service::Service;

use crate::{
    activity::Activity,
    body::{self, RequestBody},
    connection::Http2Limits,
    framing,
    framing::FramedMessage,
    resets::Resets,
    streaming,
};

/// The time in which a generated service must begin its response, once it is called.
const BEGIN_RESPONSE: Duration = Duration::from_secs(10);

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
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GeneratedService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
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

    /// Adds a generated service with all its methods, at `/NAME/`. `charge` runs for each call, and
    /// its result is kept while the call is open. Without one the call is refused.
    #[must_use]
    pub fn generated<S: GeneratedService + NamedService, C: Send + 'static>(
        self,
        service: S,
        charge: impl Fn() -> Option<C> + Send + Sync + 'static,
    ) -> Self {
        self.generated_at(PathPattern::Service(S::NAME), service, charge)
    }

    /// Adds the method of a generated service at `path`, with a charge of its own.
    #[must_use]
    pub fn generated_method<S: GeneratedService, C: Send + 'static>(
        self,
        path: &'static str,
        service: S,
        charge: impl Fn() -> Option<C> + Send + Sync + 'static,
    ) -> Self {
        self.generated_at(PathPattern::Method(path), service, charge)
    }

    /// Adds a method at `path` whose answer begins at once: `method` makes its body of that of the
    /// request, message by message, with the status in its trailers. `charge` is as for
    /// [`generated`](Self::generated).
    #[must_use]
    pub fn streaming<C: Send + 'static>(
        self,
        path: &'static str,
        method: impl Fn(Body) -> Body + Clone + Send + Sync + 'static,
        charge: impl Fn() -> Option<C> + Send + Sync + 'static,
    ) -> Self {
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut response = Response::new(method(request.into_body()));
            response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
            ready(Ok(response))
        });
        self.generated_at(PathPattern::Method(path), service, charge)
    }

    fn generated_at<S: GeneratedService, C: Send + 'static>(
        mut self,
        pattern: PathPattern,
        service: S,
        charge: impl Fn() -> Option<C> + Send + Sync + 'static,
    ) -> Self {
        self.entries.push((pattern, Arc::new(Generated { service, charge })));
        self
    }

    /// Returns the future that answers one call.
    pub(crate) fn call(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        connection: (&Arc<Activity>, &Resets),
        limits: &Http2Limits,
    ) -> BoxFuture<'static, ()> {
        let path = request.uri().path();
        match self.entries.iter().find(|(pattern, _)| pattern.matches(path)) {
            Some((_, handler)) => handler.call(request, respond, connection, limits),
            None => fail(Status::unimplemented("unknown method"), respond),
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
        connection: (&Arc<Activity>, &Resets),
        limits: &Http2Limits,
    ) -> BoxFuture<'static, ()>;
}

/// Ends a call with a status.
fn fail(status: Status, respond: SendResponse<Bytes>) -> BoxFuture<'static, ()> {
    Box::pin(async {
        let _ = framing::send(Err(status), respond);
    })
}

struct Unary<M>(Arc<M>);

impl<M: UnaryMethod> CallHandler for Unary<M> {
    fn call(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        (activity, resets): (&Arc<Activity>, &Resets),
        _: &Http2Limits,
    ) -> BoxFuture<'static, ()> {
        let method = Arc::clone(&self.0);
        // The parts that are not needed are dropped here, so that they are not in the future.
        let (head, body) = request.into_parts();
        let headers = head.headers;
        let mut body = RequestBody::of_call(body, activity);
        let resets = resets.clone();
        Box::pin(async move {
            let answer = {
                let answer = pin!(method.call(&headers, &mut body));
                unless_reset(&mut respond, answer).await
            };
            if let Some(response) = answer {
                if let Some(unused) = body.take_unused() {
                    resets.watch(respond.stream_id().as_u32(), unused);
                }
                let _ = framing::send(response, respond);
            }
        })
    }
}

struct Generated<S, F> {
    service: S,
    charge: F,
}

impl<S, F, C> CallHandler for Generated<S, F>
where
    S: GeneratedService,
    F: Fn() -> Option<C> + Send + Sync,
    C: Send + 'static,
{
    fn call(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        (activity, _): (&Arc<Activity>, &Resets),
        limits: &Http2Limits,
    ) -> BoxFuture<'static, ()> {
        let open = activity.open_generated(limits.generated_calls);
        let Some((open, charge)) = open.zip((self.charge)()) else {
            return fail(Status::resource_exhausted("too many calls are open"), respond);
        };
        let (mut service, activity) = (self.service.clone(), Arc::clone(activity));
        let request = request.map(body::for_tonic);
        Box::pin(async move {
            let response = pin!(timeout(BEGIN_RESPONSE, service.call(request)));
            match unless_reset(&mut respond, response).await {
                None => {}
                Some(Err(_elapsed)) => {
                    let late = Status::deadline_exceeded("the message did not arrive in time");
                    let _ = framing::send(Err(late), respond);
                }
                Some(Ok(response)) => {
                    let response = response.unwrap_or_else(|never| match never {});
                    tokio::select! {
                        biased;
                        _ = streaming::send(response, respond) => {}
                        // A stream would keep the connection open for as long as the peer wants.
                        () = activity.closed() => {}
                    }
                }
            }
            drop((open, charge));
        })
    }
}

/// Returns the output of `work`, or `None` when the peer resets the call first. The future is pinned
/// by the caller: as an argument it would be stored twice, and copied for each call.
async fn unless_reset<T>(
    respond: &mut SendResponse<Bytes>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
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
