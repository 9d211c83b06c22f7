//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! [`Question`] is a `CheckRequest` that becomes the core's [`tollgate_core::request::RawRequest`]; `reply` makes a `CheckResponse` of an
//! answer.

mod question;
mod reply;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tonic::{Status, server::NamedService};

pub use self::question::{MAX_ENTRIES, Question};
pub(crate) use self::reply::denied;
use super::grpc::{Framed, Unary};
use crate::check::{Answer, Answered, Checker};

/// The service.
#[derive(Clone, Debug)]
pub struct EnvoyAuthorization {
    checker: Arc<Checker>,
}

impl EnvoyAuthorization {
    /// Serves `checker`'s decisions.
    pub fn new(checker: Arc<Checker>) -> Self {
        Self { checker }
    }
}

impl NamedService for EnvoyAuthorization {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

/// What is read of a message is read where it lies, by [`Question::read`]. A message that cannot be read is denied and never an
/// error: a proxy with `failure_mode_allow` lets failed checks pass, so a client must not be able to cause one with what it sends.
impl Unary for EnvoyAuthorization {
    const PATH: &'static str = "/envoy.service.auth.v3.Authorization/Check";

    async fn answer(&self, head: &HeaderMap, message: &Bytes) -> Result<Framed, Status> {
        let question = Question(message.clone());
        self.checker.check(Some(head), || question.read(), encode).await
    }
}

fn encode(answered: Answered<'_>) -> Result<Framed, Status> {
    match &answered.answer {
        Answer::Allow(answer) => Ok(reply::allowed(answer, &answered.metadata)),
        Answer::Deny(answer) => Ok(denied(answer, &answered.metadata)),
        Answer::Fail(failure) => Err(Status::unavailable(failure.cause.clone())),
    }
}
