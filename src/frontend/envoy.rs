//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! [`Question`] is a `CheckRequest` that becomes the core's [`tollgate_core::request::RawRequest`]; [`Reply`] is the `CheckResponse`
//! made of an answer.

mod question;
mod reply;

use std::sync::Arc;

use tonic::{Request, Response, Status};

pub(crate) use self::reply::denied;
pub use self::{
    question::{MAX_ENTRIES, Question},
    reply::Reply,
};
use crate::check::{Answer, Answered, Checker};

/// The server that tonic generates for the service, with [`Question`] and [`Reply`] for its messages: see `build.rs`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.auth.v3.Authorization.rs"));
}

pub use self::generated::authorization_server::{Authorization, AuthorizationServer};

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

#[tonic::async_trait]
impl Authorization for EnvoyAuthorization {
    async fn check(&self, request: Request<Question>) -> Result<Response<Reply>, Status> {
        let (head, _, question) = request.into_parts();
        let reply = match question.read() {
            Ok(raw) => self.checker.check_called(Some(head.as_ref()), raw, encode).await,
            Err(denial) => self.checker.refuse(denial, encode),
        };
        reply.map(Response::new)
    }
}

fn encode(answered: Answered<'_>) -> Result<Reply, Status> {
    match &answered.answer {
        Answer::Allow(answer) => Ok(reply::allowed(answer, &answered.metadata)),
        Answer::Deny(answer) => Ok(denied(answer, &answered.metadata)),
        Answer::Fail(failure) => Err(Status::unavailable(failure.cause.clone())),
    }
}
