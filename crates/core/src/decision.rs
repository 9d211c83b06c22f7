//! The result of a check. No type here has a `Default`: a step that was skipped, cancelled or timed
//! out leaves nothing that reads as allow.

pub mod answer;

use std::sync::Arc;

use crate::{
    admission::Outage,
    credential::{cookie::UpstreamCookies, dpop::ProofAnswer, introspection::UnknownToken},
    denial::{Denial, Reason, WouldDeny},
    identity::{CredentialKind, KeyId, Principal},
    limit::LimitStatus,
    permit::Permit,
    route::Route,
    rule::size::BodyChanges,
    stage::Stage,
    time::Span,
};

/// The answer to one check.
#[derive(Debug)]
pub enum Decision {
    /// Forward the request, with identity headers set.
    Allow(Grant),
    /// Refuse the request, with a reason that the client sees.
    Deny(Denial),
    /// The check itself failed, and the route leaves the decision to the proxy
    /// (`on_outage: error`).
    Fail(Failure),
}

/// Proof that a request may pass. Only `Pending::conclude` makes one.
#[derive(Debug)]
pub struct Grant {
    permit: Permit,
    /// The authenticated text of what the request holds, where it is settled.
    reservation: Option<String>,
}

impl Grant {
    pub(crate) fn new(permit: Permit, reservation: Option<String>) -> Self {
        Self { permit, reservation }
    }

    /// The authenticated text of what the request holds, for who reports its usage. It is not sent
    /// to the client, nor to the upstream.
    pub fn reservation(&self) -> Option<&str> {
        self.reservation.as_deref()
    }

    /// What the proxy writes into the body, where what the request holds is settled.
    pub fn changes(&self) -> Option<&BodyChanges> {
        self.reservation.as_ref()?;
        self.permit.sized().map(|sized| &sized.changes)
    }

    /// The permit that it rests on.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// The reason why no decision was possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason of the denial that it replaces.
    pub reason: Reason,
    /// The cause, for the operator.
    pub cause: String,
}

/// A decision with its evidence.
#[derive(Debug)]
pub struct Outcome {
    /// The decision itself.
    pub decision: Decision,
    /// The facts that the answer rests on, for the audit line, the metrics and the headers.
    pub evidence: Evidence,
}

/// The facts of a check, recorded while it runs: all that spans, metrics, audit lines and `explain`
/// report.
#[derive(Debug)]
pub struct Evidence {
    /// The stage that decided: the one that refused the request, or the last one.
    pub stage: Stage,
    /// The route that covers the request.
    pub route: Option<Arc<Route>>,
    /// The kind of the credential, once it is known: also of one that is refused.
    pub credential: Option<CredentialKind>,
    /// The holder of the credential, once it is verified.
    pub principal: Option<Arc<Principal>>,
    /// The model of the request, by its policy name.
    pub model: Option<Arc<str>>,
    /// The state of each limit of the route.
    pub limits: Vec<LimitStatus>,
    /// Headers of the client to be removed: other spellings of an identity header, and those that
    /// no server may get.
    pub spoofed: Vec<String>,
    /// The form of error bodies that the client reads.
    pub dialect: Dialect,
    /// What the verification of the credential lacks, where the caller may get it.
    pub missing: Option<Missing>,
    /// The outage of the store.
    pub outage: Option<Outage>,
    /// The changes to a handshake, on a route for WebSockets.
    pub upgrade: Option<Box<Upgrade>>,
    /// The cookies that the upstream gets, empty for none; `None` where those of the client stay.
    pub cookies: Option<Box<UpstreamCookies>>,
    /// What the answer has about a proof, where the client sent a token with the scheme `DPoP`, or had
    /// to.
    pub proof: Option<Box<ProofAnswer>>,
    /// What rules and limits in shadow would have denied.
    pub would_deny: WouldDeny,
}

/// What the verification of a credential lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The key of the credential, in a source with this index in the policy: a refresh may help.
    Key {
        /// The index of the source.
        source: usize,
    },
    /// The record of the API key with this id, which its source has and the table has not: once it is
    /// in the table, the check is prepared again.
    Record(KeyId),
    /// What the issuer of this token states about it: once that is known, the check is prepared again.
    Statement(Box<UnknownToken>),
}

impl Evidence {
    /// The id of the API key whose record is missing.
    pub fn missing_record(&self) -> Option<KeyId> {
        match self.missing.as_ref()? {
            Missing::Record(id) => Some(*id),
            Missing::Key { .. } | Missing::Statement(_) => None,
        }
    }

    /// Whether the check is prepared again, once its caller has what is missing.
    pub fn is_incomplete(&self) -> bool {
        matches!(self.missing, Some(Missing::Record(_) | Missing::Statement(_)))
    }

    /// The token whose issuer has to state what it is.
    pub fn unknown_token(&self) -> Option<&UnknownToken> {
        match self.missing.as_ref()? {
            Missing::Statement(token) => Some(token),
            Missing::Key { .. } | Missing::Record(_) => None,
        }
    }
}

/// The changes to the handshake of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The protocols that the upstream is offered, without the one that holds a token; `None` for no
    /// header.
    pub protocols: Option<String>,
    /// How long the connection may live.
    pub left: Span,
}

impl Evidence {
    /// The evidence of a check that begins.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            stage: Stage::Request,
            route: None,
            credential: None,
            principal: None,
            model: None,
            limits: Vec::new(),
            spoofed: Vec::new(),
            dialect,
            missing: None,
            outage: None,
            upgrade: None,
            cookies: None,
            proof: None,
            would_deny: WouldDeny::default(),
        }
    }
}

impl Outcome {
    /// A denial before the check began: no room, not ready, a panic.
    pub fn refused(denial: Denial) -> Self {
        Self { decision: Decision::Deny(denial), evidence: Evidence::new(Dialect::OpenAi) }
    }
}

/// The form of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's form: `{"error":{"message","type","param","code"}}`.
    OpenAi,
    /// Anthropic's form, on `/v1/messages`: `{"type":"error","error":{"type","message"}}`.
    Anthropic,
}

impl Dialect {
    /// The dialect of an endpoint, by `:path` as it was sent: a request that is refused before
    /// anything else is read still gets the dialect of its client.
    pub fn of_target(target: &[u8]) -> Self {
        let below = |rest: &[u8]| matches!(rest, [] | [b'/' | b'?' | b'#', ..]);
        let anthropic = target.strip_prefix(b"/v1/messages").is_some_and(below)
            || target.starts_with(b"/anthropic/");
        if anthropic { Self::Anthropic } else { Self::OpenAi }
    }
}
