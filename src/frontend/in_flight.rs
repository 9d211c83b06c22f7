//! The sum of the messages in flight, bounded before any of them is buffered or decoded.
//!
//! A gRPC message says how long it is in its first five bytes. [`Bounded`] stands in front of a generated server, reads those
//! five, and takes that many bytes from a budget, or answers at once without reading on. Nothing else sees the message
//! until there is room for it. The bytes go back when the call ends, however it ends.
//!
//! What a process may use for checks, with the defaults (a message limit of 16 MiB and 128 MiB in flight):
//!
//! - the budget: 128 MiB, three quarters for messages, one quarter for what every call costs besides;
//! - frames that HTTP/2 received and nobody read yet: at most one connection window (256 KiB, see `listener::http`) for each of
//!   at most 512 connections, 128 MiB if every one of them is filled;
//! - decoded headers beyond what a call is charged: at most 256 entries of some 200 bytes (see `codec`) in each of the 1024
//!   calls that the second part of the budget allows, 51 MiB if every one is filled.
//!
//! The last two need peers that speak HTTP/2 to Tollgate themselves, and are the reason why its port is not for clients.

mod held;
mod message;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tower_service::Service;

pub use held::{Held, Unread};
pub use message::Message;
use message::{PREFIX, first_bytes, length};

/// Bytes a message may have beyond the body it carries: method, path, headers, certificate.
pub const ALLOWANCE: u64 = 256 << 10;

/// What every call is charged: its task, its HTTP/2 headers, its decoded headers, and a message of up to this many bytes.
pub const CALL: u32 = 32 << 10;

/// How long a message may take to arrive. The proxy holds all of it before it asks, so this only ends broken peers.
pub const ARRIVAL: Duration = Duration::from_secs(10);

/// Why a call was answered before its message was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message is longer than the body limit and [`ALLOWANCE`] permit.
    TooLarge,
    /// The messages in flight leave no room for this one.
    NoRoom,
}

/// Limits that contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// A single message would never fit.
    #[error(
        "`body.max_in_flight` of {max_in_flight} bytes cannot hold one body of {max_body} bytes: at least {least} are needed"
    )]
    TooLittle {
        /// The sum as configured.
        max_in_flight: u64,
        /// The body limit as configured.
        max_body: u64,
        /// The smallest sum that fits it.
        least: u64,
    },
    /// Beyond what a length prefix can say, or a semaphore can count.
    #[error("`{0}` must be less than 4 GiB")]
    TooMuch(&'static str),
}

/// The budget, shared by every connection of a process. Clones share it.
#[derive(Clone)]
pub struct InFlight {
    /// A part of its own for what every call is charged, so that a few large bodies cannot keep small checks out.
    calls: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    total: usize,
    max_message: u32,
    arrival: Duration,
    answer: Arc<dyn Fn(Refusal) -> Bytes + Send + Sync>,
}

impl InFlight {
    /// A budget of `max_in_flight` bytes for messages that carry at most `max_body` bytes of body.
    ///
    /// `answer` gives the encoded response message for a refusal; it decides what a refusal looks like, and may count it.
    ///
    /// # Errors
    /// When the two limits do not fit each other.
    pub fn new(
        max_body: u64,
        max_in_flight: u64,
        answer: impl Fn(Refusal) -> Bytes + Send + Sync + 'static,
    ) -> Result<Self, LimitError> {
        let narrow = |value, name| u32::try_from(value).map_err(|_| LimitError::TooMuch(name));
        let max_message = narrow(max_body.saturating_add(ALLOWANCE), "body.max")?;
        let total = narrow(max_in_flight, "body.max_in_flight")?;
        let calls = total / 4;
        let messages = total - calls;
        if messages < max_message {
            return Err(LimitError::TooLittle { max_in_flight, max_body, least: (u64::from(max_message) * 4 - 1) / 3 });
        }
        Ok(Self {
            calls: Arc::new(Semaphore::new(calls as usize)),
            messages: Arc::new(Semaphore::new(messages as usize)),
            total: total as usize,
            max_message,
            arrival: ARRIVAL,
            answer: Arc::new(answer),
        })
    }

    /// Replaces [`ARRIVAL`].
    #[must_use]
    pub fn with_arrival(self, arrival: Duration) -> Self {
        Self { arrival, ..self }
    }

    /// The longest message that passes, in bytes: what the generated server's `max_decoding_message_size` must allow.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message as usize
    }

    /// Bytes taken at this moment.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total - self.calls.available_permits() - self.messages.available_permits()
    }

    /// Bytes there are: `body.max_in_flight`.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Puts the budget in front of a generated server.
    #[must_use]
    pub fn guard<S>(&self, server: S) -> Bounded<S> {
        Bounded { budget: self.clone(), server }
    }

    /// Reads the length of the message and takes its bytes.
    async fn admit(&self, body: &mut Body, deadline: Instant) -> Result<Admitted, Stopped> {
        let call = take(&self.calls, CALL)?;
        let first = timeout_at(deadline, first_bytes(body)).await.map_err(|_| message::late())??;
        let length = length(&first);
        if length > self.max_message {
            return Err(Stopped::Refused(Refusal::TooLarge));
        }
        let message = match length.saturating_sub(CALL) {
            0 => None,
            more => Some(take(&self.messages, more)?),
        };
        Ok(Admitted { first, length, permits: (call, message) })
    }

    /// The answer to a call whose message is not read. It is a success of gRPC's: the denial is in the message.
    ///
    /// The rest of the request is dropped with its stream: after a whole response HTTP/2 resets it with NO_ERROR (RFC 9113,
    /// section 8.1), and the peer stops sending.
    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        let message = (self.answer)(refusal);
        let mut framed = BytesMut::with_capacity(PREFIX + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.put(message);
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("taken", &self.taken())
            .field("total", &self.total)
            .field("max_message", &self.max_message)
            .finish_non_exhaustive()
    }
}

/// A message there is room for.
struct Admitted {
    first: Bytes,
    length: u32,
    permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

/// Why there is nothing to pass on.
enum Stopped {
    Refused(Refusal),
    /// The peer broke off or stalled: a failure of the call, not an answer to a question.
    Broken(Status),
}

impl From<Status> for Stopped {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

/// Bytes that are there now. Nobody queues for them: a queue would be the memory this is meant to bound.
fn take(budget: &Arc<Semaphore>, bytes: u32) -> Result<OwnedSemaphorePermit, Stopped> {
    Arc::clone(budget).try_acquire_many_owned(bytes).map_err(|_| Stopped::Refused(Refusal::NoRoom))
}

/// A generated server behind an [`InFlight`] budget.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    budget: InFlight,
    server: S,
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Message>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.server.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let budget = self.budget.clone();
        // The clone stays behind; the one that poll_ready was asked about is used.
        let clone = self.server.clone();
        let mut server = std::mem::replace(&mut self.server, clone);
        Box::pin(async move {
            let (parts, mut body) = request.into_parts();
            let deadline = Instant::now() + budget.arrival;
            match budget.admit(&mut body, deadline).await {
                Ok(Admitted { first, length, permits }) => {
                    let message = Message::new(first, body, length, deadline);
                    let response = server.call(Request::from_parts(parts, message)).await;
                    // Held until here, or until the call is dropped.
                    drop(permits);
                    response
                }
                Err(Stopped::Refused(refusal)) => Ok(budget.refuse(refusal)),
                Err(Stopped::Broken(status)) => Ok(status.into_http()),
            }
        })
    }
}
