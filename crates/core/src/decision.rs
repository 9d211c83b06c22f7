//! What a check answers. There is no `Default` here: nothing that was skipped, cancelled or timed out can read as allow.

pub mod answer;

use std::sync::Arc;

use crate::{
    denial::{Denial, Reason},
    identity::Principal,
    limit::LimitStatus,
    permit::Permit,
    route::Route,
};

/// The answer to one check.
#[derive(Debug)]
pub enum Decision {
    /// Forward the request, with identity headers set.
    Allow(Grant),
    /// Refuse the request, with a reason the client sees.
    Deny(Denial),
    /// The check itself failed and the route says that the proxy decides (`on_outage: error`).
    Fail(Failure),
}

/// Proof that a request may pass. Only [`crate::check::Pending::conclude`] makes one.
#[derive(Debug)]
pub struct Grant {
    permit: Permit,
}

impl Grant {
    pub(crate) fn new(permit: Permit) -> Self {
        Self { permit }
    }

    /// What was authorized.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// Why no decision could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason it would have been denied with.
    pub reason: Reason,
    /// What happened, for the operator.
    pub cause: String,
}

/// A decision and what is known about how it came to be.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub decision: Decision,
    /// What the answer rests on, for the audit line, the metrics and the headers.
    pub evidence: Evidence,
}

/// What a check learned on its way.
#[derive(Debug)]
pub struct Evidence {
    /// The rule that covers the request.
    pub route: Option<Arc<Route>>,
    /// Who asked, once that is proven.
    pub principal: Option<Arc<Principal>>,
    /// The model asked for, by its policy name.
    pub model: Option<Arc<str>>,
    /// Where each limit of the route stands.
    pub limits: Vec<LimitStatus>,
    /// Headers of the client that spell an identity header in another way, or one that no server may get: to be removed.
    pub spoofed: Vec<String>,
    /// The shape of error bodies this client reads.
    pub dialect: Dialect,
    /// The check of the token that failed.
    pub failed_check: Option<crate::credential::jwt::Check>,
    /// The issuer (its index in the policy) whose key set does not know the token's key: worth a refresh.
    pub unknown_key: Option<usize>,
    /// The store could not be asked.
    pub outage: Option<crate::admission::Outage>,
}

impl Evidence {
    /// Nothing known yet.
    pub(crate) fn none(dialect: Dialect) -> Self {
        Self {
            route: None,
            principal: None,
            model: None,
            limits: Vec::new(),
            spoofed: Vec::new(),
            dialect,
            failed_check: None,
            unknown_key: None,
            outage: None,
        }
    }
}

impl Outcome {
    /// A denial for what stopped a check before it began: no room, not ready, a panic.
    pub fn refused(denial: Denial) -> Self {
        Self { decision: Decision::Deny(denial), evidence: Evidence::none(Dialect::OpenAi) }
    }
}

/// The shape of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error":{"message","type","param","code"}}`
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`, on `/v1/messages`
    Anthropic,
}

impl Dialect {
    /// The dialect of an endpoint, by `:path` as it was sent: a request is answered in its client's dialect even when it is
    /// refused before anything else of it is read.
    pub fn of_target(target: &[u8]) -> Self {
        let below = |rest: &[u8]| matches!(rest, [] | [b'/' | b'?' | b'#', ..]);
        let anthropic = target.strip_prefix(b"/v1/messages").is_some_and(below)
            || target.starts_with(b"/anthropic/");
        if anthropic { Self::Anthropic } else { Self::OpenAi }
    }
}
