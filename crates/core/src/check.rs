//! One check, from a raw request to an outcome: [`prepare`], at most one request to the store,
//! [`Pending::conclude`].
//!
//! The order of the stages ([`Stage`]) is the one in which a client learns least: an ambiguous
//! request is refused before a route is known, a route before a credential is read, a credential
//! before its scopes, and the body is only read for a principal who may use the route and is not
//! known to be beyond a limit.

mod credential;
mod csrf;
mod holds;
mod hooks;
mod limits;
mod network;
mod pending;
mod possession;

use std::{borrow::Cow, sync::Arc};

use self::{
    credential::verify_credential,
    holds::{holds, request_cost, request_tokens, reserve},
    limits::check_limits,
};
pub use self::{
    hooks::{CheckHooks, NoHooks},
    pending::Pending,
};
use crate::{
    admission::AdmitRequest,
    credential::dpop::{HEADER as PROOF, ProofUse},
    decision::{
        Decision, Dialect, Evidence, Outcome, Upgrade,
        answer::{DECISION_ID, IDENTITY},
    },
    denial::{Denial, Reason, WouldDeny, malformed},
    details::NormalizedRequest,
    identity::Principal,
    limit::{Charge, ChargeSubject, Held, LimitStatus, RequestUnits, rate::RateLimit},
    pattern::Captures,
    permit::{self, Permit, Progress, RequestContext, RoutePermit},
    request::{Body, RawBody, RawHead, RawRequest, Request},
    route::Route,
    snapshot::Snapshot,
    stage::{Check, Stage},
    time::{Span, Timestamp},
};

/// A check after everything that needs no store.
#[derive(Debug)]
pub enum Prepared {
    /// Decided without the store: a denial.
    Decided(Outcome),
    /// The store decides.
    Pending(Pending),
}

/// A check after everything that needs no body.
#[derive(Debug)]
pub enum PreparedHead<'a> {
    /// The body is not needed.
    Complete(Prepared),
    /// The body is needed.
    NeedsBody(CheckedHead<'a>),
}

/// A check of which the body is still missing. Dropping it decides nothing and allows nothing.
#[derive(Debug)]
pub struct CheckedHead<'a> {
    request: Request<'a>,
    captures: Captures,
    access: Access,
    snapshot: &'a Snapshot,
    now: Timestamp,
    evidence: Evidence,
}

/// The way in which a request may use its route.
#[derive(Debug)]
enum Access {
    Public(Arc<Route>),
    Scoped {
        permit: RoutePermit,
        /// The use of the proof of a bound token.
        proof: Option<Box<ProofUse>>,
    },
}

/// Prepares a check: everything up to the request to the store.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use tollgate_core::{
///     admission::AdmitResponse,
///     check::{NoHooks, Prepared, prepare},
///     config::{Document, Errors},
///     decision::Decision,
///     policy::{Policy, PolicyConfig},
///     request::{Headers, RawBody, RawRequest},
///     snapshot::Snapshot,
///     time::Timestamp,
/// };
///
/// const FILE: &str = "routes: [{ match: { paths: [/health] }, public: true }]";
/// let document = Document::parse(FILE, &|_| None).unwrap();
/// let config: PolicyConfig = document.read().unwrap();
/// let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
/// let snapshot = Snapshot::without_keys(Arc::new(policy));
///
/// let raw = RawRequest {
///     method: b"GET",
///     scheme: b"https",
///     host: b"api.example.com",
///     path: b"/health",
///     headers: Headers::default(),
///     address: None,
///     peer_certificate: b"",
///     body: RawBody::None,
/// };
/// let now = Timestamp::from_secs(1_800_000_000);
/// let outcome = match prepare(&snapshot, raw, now, &mut NoHooks) {
///     Prepared::Decided(outcome) => outcome,
///     // The route is public and has no limits, so that there is nothing to request.
///     Prepared::Pending(pending) => {
///         assert!(pending.admit_request().is_empty());
///         pending.conclude(Ok(AdmitResponse::Counted(Vec::new())))
///     }
/// };
/// assert!(matches!(outcome.decision, Decision::Allow(_)));
/// ```
pub fn prepare(
    snapshot: &Snapshot,
    raw: RawRequest<'_>,
    now: Timestamp,
    hooks: &mut impl CheckHooks,
) -> Prepared {
    let (head, body) = raw.split();
    match check_head(snapshot, head, now, hooks) {
        Ok(head) => head.with_body(body, hooks),
        Err(outcome) => Prepared::Decided(outcome),
    }
}

/// Prepares a check before the body has arrived. Where the body is not needed, this is the whole
/// of [`prepare`]; otherwise [`CheckedHead::with_body`] continues with it.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use tollgate_core::{
///     check::{NoHooks, Prepared, PreparedHead, prepare_head},
///     config::{Document, Errors},
///     decision::Decision,
///     denial::Reason,
///     policy::{Policy, PolicyConfig},
///     request::{Headers, RawBody, RawHead},
///     snapshot::Snapshot,
///     time::Timestamp,
/// };
///
/// # let header = "eyJhbGciOiJIUzI1NiJ9";
/// # let claims = "eyJpc3MiOiJpIiwic3ViIjoiYWxpY2UiLCJleHAiOjE4MDAwMDA2MDB9";
/// # let signature = "RGJEl_ZRmYbBRT87RgWFjBASN-hB-Fd2Ex4Uzw3Rv-E";
/// const FILE: &str = "
/// issuers:
///   - issuer: i
///     audiences: any
///     algorithms: [HS256]
///     secret: 0123456789abcdef0123456789abcdef
///     required_claims: []
/// routes:
///   - { match: { methods: [POST], paths: [/v1/chat] }, scopes: [], model: { from: body } }
/// ";
/// let document = Document::parse(FILE, &|_| None).unwrap();
/// let config: PolicyConfig = document.read().unwrap();
/// let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
/// let snapshot = Snapshot::without_keys(Arc::new(policy));
/// # let keys = tollgate_core::credential::jwt::key_set::KeySet::from_secret(
/// #     &tollgate_core::secret::Secret::new("0123456789abcdef0123456789abcdef"),
/// #     &snapshot.policy.issuers.list()[0].algorithms,
/// # );
/// # let snapshot = Snapshot { keys: vec![Some(Arc::new(keys.unwrap()))], ..snapshot };
/// # let authorization = format!("Bearer {header}.{claims}.{signature}");
///
/// let mut headers = Headers::default();
/// headers.push("content-type", b"application/json");
/// headers.push("authorization", authorization.as_bytes());
/// let head = RawHead {
///     method: b"POST",
///     scheme: b"https",
///     host: b"api.example.com",
///     path: b"/v1/chat",
///     headers,
///     address: None,
///     peer_certificate: b"",
/// };
/// let now = Timestamp::from_secs(1_800_000_000);
/// let prepared = match prepare_head(&snapshot, head, now, &mut NoHooks) {
///     PreparedHead::Complete(prepared) => prepared,
///     // The headers are good, and the model is in the body: wait for it.
///     PreparedHead::NeedsBody(head) => {
///         assert_eq!(head.route().name, "/v1/chat");
///         head.with_body(RawBody::Whole(b"{\"prompt\":\"hi\"}"), &mut NoHooks)
///     }
/// };
/// let Prepared::Decided(outcome) = prepared else { panic!("the body names no model") };
/// assert!(matches!(
///     outcome.decision,
///     Decision::Deny(denial) if denial.reason == Reason::ModelMissing
/// ));
/// ```
pub fn prepare_head<'a>(
    snapshot: &'a Snapshot,
    head: RawHead<'a>,
    now: Timestamp,
    hooks: &mut impl CheckHooks,
) -> PreparedHead<'a> {
    match check_head(snapshot, head, now, hooks) {
        Ok(head) if head.route().reads_body() => PreparedHead::NeedsBody(head),
        Ok(head) => PreparedHead::Complete(head.with_body(RawBody::None, hooks)),
        Err(outcome) => PreparedHead::Complete(Prepared::Decided(outcome)),
    }
}

/// The stages that need no body: request, transport, network, route, credential, scopes, refusals.
#[allow(
    clippy::result_large_err,
    reason = "an outcome is moved once, and a box would cost each denial an allocation"
)]
fn check_head<'a>(
    snapshot: &'a Snapshot,
    head: RawHead<'a>,
    now: Timestamp,
    hooks: &mut impl CheckHooks,
) -> Result<CheckedHead<'a>, Outcome> {
    let mut evidence = Evidence::new(Dialect::of_target(head.path));
    match enter(snapshot, head, now, hooks, &mut evidence) {
        Ok((request, captures, access)) => {
            let head = CheckedHead { request, captures, access, snapshot, now, evidence };
            if hooks.has_refusals(now) { head.without_refusals(hooks) } else { Ok(head) }
        }
        Err(denial) => Err(Outcome { decision: Decision::Deny(denial), evidence }),
    }
}

/// The most bytes in the names of one request's headers that spell an identity header, or one that
/// the policy strips. Ordinary clients send none.
const MAX_REMOVED_BYTES: usize = 4096;

fn enter<'a>(
    snapshot: &'a Snapshot,
    head: RawHead<'a>,
    now: Timestamp,
    hooks: &mut impl CheckHooks,
    evidence: &mut Evidence,
) -> Result<(Request<'a>, Captures, Access), Denial> {
    let policy = &snapshot.policy;
    let request = Request::parse(head)?;
    if let Some(details) = hooks.details() {
        details.request = Some(normalized(&request));
    }
    evidence.spoofed = request.headers.to_remove(&policy.strip_headers);
    // Some servers read another spelling as the same header (CVE-2025-64484, CVE-2026-39858), so
    // one that would stay is refused.
    let known = |name: &str| {
        name == DECISION_ID
            || IDENTITY.contains(&name)
            || policy.api_keys.as_ref().is_some_and(|keys| keys.headers.contains(&name))
            || (name == PROOF && policy.dpop.is_some())
    };
    if !request.headers.proxy().can_remove
        && !evidence.spoofed.iter().all(|name| known(&name.to_ascii_lowercase()))
    {
        return Err(malformed("the request has a header that the proxy cannot take away"));
    }
    // Envoy over HTTP reads the names to remove from a header of the answer, and treats an answer
    // that is too large as a failed check.
    if evidence.spoofed.iter().map(|name| name.len() + 1).sum::<usize>() > MAX_REMOVED_BYTES {
        return Err(malformed("the names of headers to remove are too many or too long"));
    }
    evidence.stage = Stage::Transport;
    if policy.require_https && !request.secure {
        return Err(Denial::new(Reason::InsecureTransport, "the request did not come over https"));
    }
    hooks.passed(Stage::Transport);
    evidence.stage = Stage::Network;
    // Before the route and the credential: a banned network learns nothing and costs no signature.
    let banned = network::check_network(&request, policy, now, hooks)?;
    evidence.stage = Stage::Route;
    let (route, captures) = policy.routes.find(&request.host, &request.path, request.method)?;
    evidence.route = Some(Arc::clone(route));
    hooks.passed(Stage::Route);
    if let Some(cookies) = &policy.cookies {
        evidence.cookies = cookies.for_upstream(&request.headers)?;
    }
    if route.public {
        let access = Access::Public(Arc::clone(route));
        return Ok((request, captures, access));
    }
    let (principal, proof) =
        verify_credential(&request, route, banned.as_ref(), snapshot, now, hooks, evidence)?;
    let principal = &*evidence.principal.insert(principal);
    if let Some(rule) = &route.websocket {
        let left = principal.validity().until.micros().saturating_sub(now.micros());
        let left = Span::from_micros(left).min(rule.max_duration);
        let protocols = rule.for_upstream(&request.headers);
        evidence.upgrade = Some(Box::new(Upgrade { protocols, left }));
    }
    hooks.passed(Stage::Verification(Check::Claims));
    evidence.stage = Stage::Scopes;
    permit::check_network(principal, request.address)?;
    permit::check_actor(route, principal, &mut evidence.would_deny)?;
    let permit = permit::check_scopes(route, principal)?;
    permit::check_tenant(&permit, &request, &captures)?;
    if route.upstream_key.is_some_and(|index| snapshot.upstream_key(index).is_none()) {
        return Err(Denial::new(
            Reason::NotReady,
            "the upstream key of the route is older than secrets.max_stale, or was never read",
        ));
    }
    Ok((request, captures, Access::Scoped { permit, proof }))
}

fn normalized(request: &Request<'_>) -> NormalizedRequest {
    let path = &request.path;
    NormalizedRequest {
        method: request.method.to_owned(),
        host: request.host.as_str().to_owned(),
        path: path.raw().to_owned(),
        decoded_path: path.is_encoded().then(|| path.decoded().to_owned()),
        secure: request.secure,
        spoofed: request.headers.spoofed().map(Cow::into_owned).collect(),
    }
}

impl CheckedHead<'_> {
    /// The route that covers the request.
    pub fn route(&self) -> &Route {
        match &self.access {
            Access::Public(route) => route,
            Access::Scoped { permit, .. } => permit.route(),
        }
    }

    /// The holder of the credential; `None` on a public route.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.evidence.principal.as_ref()
    }

    /// Denies the request, for a reason outside of it: its body cannot be read now.
    pub fn refuse(self, denial: Denial) -> Outcome {
        Outcome { decision: Decision::Deny(denial), evidence: self.evidence }
    }

    /// Denies the request if a limit of its route is remembered to be used up. Limits by model are
    /// not looked up: the model is known from the body only.
    #[allow(
        clippy::result_large_err,
        reason = "an outcome is moved once, and a box would cost each denial an allocation"
    )]
    fn without_refusals(mut self, hooks: &impl CheckHooks) -> Result<Self, Outcome> {
        let principal = match &self.access {
            Access::Public(_) => None,
            Access::Scoped { permit, .. } => Some(permit.principal()),
        };
        let route = self.route();
        let subject = ChargeSubject {
            principal,
            model: None,
            route: &route.name,
            address: self.request.address,
        };
        let looked_up = |limit: &RateLimit| !limit.needs_model() && !limit.is_shadow();
        let refused = route.limits.iter().filter(|limit| looked_up(limit)).filter_map(|limit| {
            // A request that lacks what a limit counts by is denied in its own stage.
            let charge = limit.charge(&subject).ok()?;
            let verdict = hooks.refusal(&charge)?.verdict(&charge, self.now)?;
            Some(LimitStatus::of(charge, verdict))
        });
        let refused: Vec<LimitStatus> = refused.collect();
        let Err(denial) = check_limits(&refused, ", as remembered from an earlier check") else {
            return Ok(self);
        };
        self.evidence.stage = Stage::Refusals;
        self.evidence.limits = refused;
        Err(self.refuse(denial))
    }

    /// Continues with the body: model, conditions, content, and what to count by. A route that
    /// needs no body does not read it.
    pub fn with_body(self, body: RawBody<'_>, hooks: &mut impl CheckHooks) -> Prepared {
        let Self { request, captures, access, snapshot, now, mut evidence } = self;
        let context = RequestContext { request: &request, captures: &captures, now };
        let body = Body::new(body, &request.headers);
        match authorize(access, snapshot, context, &body, &mut evidence, hooks) {
            Ok((permit, admit_request, held)) => {
                let keys = match &admit_request.reservation {
                    Some(reservation) if reservation.is_settled() => {
                        snapshot.reservation_keys.clone()
                    }
                    _ => None,
                };
                Prepared::Pending(Pending { permit, admit_request, held, keys, now, evidence })
            }
            Err(denial) => {
                Prepared::Decided(Outcome { decision: Decision::Deny(denial), evidence })
            }
        }
    }
}

fn authorize(
    access: Access,
    snapshot: &Snapshot,
    context: RequestContext<'_>,
    body: &Body<'_>,
    evidence: &mut Evidence,
    hooks: &mut impl CheckHooks,
) -> Result<(Permit, AdmitRequest, Vec<Held>), Denial> {
    let mut progress = Progress {
        stage: &mut evidence.stage,
        model: &mut evidence.model,
        details: hooks.details(),
        would_deny: &mut evidence.would_deny,
    };
    let (permit, proof) = match access {
        Access::Public(route) => (permit::permit_public(route, context, &mut progress)?, None),
        Access::Scoped { permit, proof } => {
            (permit.authorize(&snapshot.policy.models, context, body, &mut progress)?, proof)
        }
    };
    hooks.passed(Stage::Content);
    evidence.stage = Stage::Limits;
    let address = context.request.address;
    let subject = ChargeSubject {
        principal: permit.principal().map(Arc::as_ref),
        model: permit.model(),
        route: &permit.route().name,
        address,
    };
    let charges = charges(permit.route(), &subject, &mut evidence.would_deny)?;
    let (held, reservation) = if permit.route().holds.is_empty() {
        (Vec::new(), None)
    } else {
        let now = context.now;
        let (tokens, histories) =
            request_tokens(&permit, &subject, |history| hooks.learnt_usage(history));
        let cost = request_cost(&permit, &subject, tokens, snapshot, now);
        let units = RequestUnits { tokens, cost: cost.map(|(_, amounts)| amounts) };
        let mut held = holds(&permit, &subject, units, now, evidence)?;
        if snapshot.reservation_keys.is_none() {
            // No usage could be reported, which is no reason for a limit in shadow to deny.
            held.retain(|held| !held.hold.is_shadow || !held.hold.is_settled());
        }
        let terms = cost.map(|(terms, _)| terms);
        let of_request = (tokens.fixed, terms, histories);
        let counts_cost = permit.route().holds.iter().any(|limit| limit.counts_cost());
        let reservation =
            reserve(&held, of_request, (&subject, counts_cost), snapshot, now, || {
                hooks.reservation_id()
            })?;
        (held, reservation)
    };
    let revocation = permit.principal().map(|principal| Arc::clone(principal.revocation()));
    Ok((permit, AdmitRequest { revocation, address, proof, charges, reservation }, held))
}

/// One charge for each rate of the route, except those in shadow that cannot count the request.
fn charges(
    route: &Route,
    subject: &ChargeSubject<'_>,
    would_deny: &mut WouldDeny,
) -> Result<Vec<Charge>, Denial> {
    let mut charges = Vec::with_capacity(route.limits.len());
    for limit in &route.limits {
        match limit.charge(subject) {
            Ok(charge) => charges.push(charge),
            Err(denial) if limit.is_shadow() => {
                would_deny.record("limits", Some(&limit.name), denial);
            }
            Err(denial) => return Err(denial),
        }
    }
    Ok(charges)
}
