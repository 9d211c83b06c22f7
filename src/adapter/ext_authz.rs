//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! `check_request` maps a `CheckRequest` to the core's [`RawRequest`], `check_response` maps an
//! answer to a `CheckResponse`. The transport is [`tollgate_grpc_unary`].

mod check_request;
mod check_response;

use std::{sync::Arc, time::Instant};

use http::HeaderMap;
use tollgate_core::{
    denial::{Denial, Reason},
    request::RawRequest,
    time::Span,
};
use tollgate_grpc_unary::{FramedMessage, RequestBody, Status, UnaryMethod};
use tonic::server::NamedService;

use self::check_request::is_head_check;
pub use self::check_request::{MAX_ENTRIES, read_check_request};
use super::in_flight::{ChargedBytes, InFlight, MessageError, Refusal};
use crate::engine::check::{Answer, CheckAnswer, Checker, INLINE, LargeRequest, ProxyCall};

/// The path of the method `Check`.
pub const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The method `Check`.
#[derive(Clone, Debug)]
pub struct EnvoyAuthorization {
    checker: Arc<Checker>,
    budget: InFlight,
}

impl EnvoyAuthorization {
    /// Answers with the decisions of `checker`. Messages are charged to `budget`.
    pub fn new(checker: Arc<Checker>, budget: InFlight) -> Self {
        Self { checker, budget }
    }

    /// Answers one `CheckRequest` with a `CheckResponse`. `headers` are those of the call. Of a
    /// request that the proxy marks as the first of two checks, only the head is checked.
    ///
    /// A message that cannot be read is denied and is never an error: a proxy with
    /// `failure_mode_allow` forwards requests whose check failed, so a client must not be able to
    /// cause a failed check.
    ///
    /// # Errors
    /// `unavailable` where the route hands an outage to the proxy.
    pub async fn check(
        &self,
        headers: &HeaderMap,
        message: &[u8],
    ) -> Result<FramedMessage, Status> {
        let call = ProxyCall { headers, since: Instant::now() };
        self.check_call(call, message).await.map(|encoded| encoded.message)
    }

    async fn check_call(&self, call: ProxyCall<'_>, message: &[u8]) -> Result<Encoded, Status> {
        let read = || read_check_request(message);
        if is_head_check(message) {
            let pass = |_| Ok(Encoded::from(check_response::head_passed()));
            return self.checker.check_head(Some(call), read, encode, pass);
        }
        self.checker.check(Some(call), read, encode).await
    }

    /// As [`check`](Self::check), for a message that may have a large body, which is then read by
    /// another thread.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub async fn check_large(
        &self,
        headers: &HeaderMap,
        message: ChargedBytes,
    ) -> Result<FramedMessage, Status> {
        self.check_large_call(headers, message).await.map(|encoded| encoded.message)
    }

    async fn check_large_call(
        &self,
        headers: &HeaderMap,
        message: ChargedBytes,
    ) -> Result<Encoded, Status> {
        let call = ProxyCall { headers, since: message.since() };
        if is_head_check(message.bytes()) {
            return self.check_call(call, message.bytes()).await;
        }
        let message = Arc::new(message);
        self.checker.check_large(Some(call), &message, encode).await
    }

    /// The denial for a message that is not read.
    fn refuse(&self, refusal: Refusal) -> Result<Encoded, Status> {
        let denial = match refusal {
            Refusal::TooLarge => {
                Denial::new(Reason::BodyTooLarge, "the CheckRequest is larger than body.max allows")
            }
            Refusal::NoRoom => Denial::new(Reason::Overloaded, "body.max_in_flight is used up")
                .with_retry_after(Span::from_secs(1)),
            Refusal::Late => {
                Denial::new(Reason::Overloaded, "the CheckRequest did not arrive in time")
                    .with_retry_after(Span::from_secs(1))
            }
        };
        self.checker.refuse(denial, encode)
    }
}

impl LargeRequest for ChargedBytes {
    fn read(&self) -> Result<RawRequest<'_>, Denial> {
        read_check_request(self.bytes())
    }
}

impl NamedService for EnvoyAuthorization {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

impl UnaryMethod for EnvoyAuthorization {
    async fn call(
        &self,
        headers: &HeaderMap,
        body: &mut RequestBody,
    ) -> Result<FramedMessage, Status> {
        let encoded = match self.budget.read_message(headers, body).await {
            // The message is charged until there is an answer, or until the call is dropped.
            Ok(message) if message.bytes().len() <= INLINE => {
                let call = ProxyCall { headers, since: message.since() };
                self.check_call(call, message.bytes()).await
            }
            Ok(message) => Box::pin(self.check_large_call(headers, message)).await,
            Err(MessageError::Refused(refusal)) => self.refuse(refusal),
            Err(MessageError::Failed(status)) => Err(status),
        };
        let Encoded { message, reservation } = encoded?;
        // Envoy reports the end of a request only if it has the reservation, which it does not read
        // for a client that is gone.
        if let Some(reservation) = reservation {
            let checker = Arc::clone(&self.checker);
            body.on_unused_answer(move || checker.release(&reservation));
        }
        Ok(message)
    }
}

/// A `CheckResponse` as it is sent.
struct Encoded {
    message: FramedMessage,
    /// The text of the reservation in it.
    reservation: Option<Box<str>>,
}

impl From<FramedMessage> for Encoded {
    fn from(message: FramedMessage) -> Self {
        Self { message, reservation: None }
    }
}

fn encode(answered: CheckAnswer<'_>) -> Result<Encoded, Status> {
    match &answered.answer {
        Answer::Allow(answer) => Ok(Encoded {
            message: check_response::allowed(answer, &answered.metadata),
            reservation: answered.metadata.reservation.map(Box::from),
        }),
        Answer::Deny(answer) => Ok(check_response::denied(answer, &answered.metadata).into()),
        Answer::Fail(failure) => Err(Status::unavailable(failure.cause.clone())),
    }
}
