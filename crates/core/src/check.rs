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
mod possession;

use std::{borrow::Cow, sync::Arc};

pub use self::hooks::{CheckHooks, NoHooks};
use self::{
    credential::verify_credential,
    holds::{holds, request_tokens, reserve},
    limits::{check_limits, statuses},
};
use crate::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    credential::dpop::{HEADER as PROOF, ProofFault, ProofRefusal, ProofUse},
    decision::{
        Decision, Dialect, Evidence, Failure, Grant, Outcome, Upgrade,
        answer::{DECISION_ID, IDENTITY},
    },
    denial::{Denial, Reason, WouldDeny, malformed},
    details::NormalizedRequest,
    identity::Principal,
    limit::{
        Charge, ChargeSubject, Held, LimitStatus, Verdict, rate::RateLimit, refusal::Refusal,
        reservation::ReservationKeys,
    },
    pattern::Captures,
    permit::{self, Permit, Progress, RequestContext, RoutePermit},
    request::{Body, RawBody, RawHead, RawRequest, Request},
    route::{OnOutage, Route},
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

/// A check that waits for the store. Dropping it decides nothing and allows nothing.
#[derive(Debug)]
pub struct Pending {
    permit: Permit,
    admit_request: AdmitRequest,
    /// What the holds of the reservation are units of, in their order.
    held: Vec<Held>,
    /// The secrets that authenticate the reservation, where it is settled.
    keys: Option<Arc<ReservationKeys>>,
    now: Timestamp,
    evidence: Evidence,
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
        let mut held = holds(&permit, &subject, tokens, now, evidence)?;
        if snapshot.reservation_keys.is_none() {
            // No usage could be reported, which is no reason for a limit in shadow to deny.
            held.retain(|held| !held.hold.is_shadow || !held.hold.is_settled());
        }
        let reservation = reserve(&held, (tokens, histories), &subject, snapshot, now, || {
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

impl Pending {
    /// The request to the store.
    pub fn admit_request(&self) -> &AdmitRequest {
        &self.admit_request
    }

    /// Adds the id of the decision to the facts of the request, where a ledger is kept.
    pub fn set_decision_id(&mut self, id: &str) {
        let reservation = self.admit_request.reservation.as_mut();
        if let Some(facts) = reservation.and_then(|reservation| reservation.facts.as_mut()) {
            id.clone_into(&mut facts.decision_id);
        }
    }

    /// The holder of the credential; `None` on a public route.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.permit.principal()
    }

    /// The route that covers the request.
    pub fn route(&self) -> &Route {
        self.permit.route()
    }

    /// Denies the request, for a reason outside of it: the store cannot be called now.
    pub fn refuse(self, denial: Denial) -> Outcome {
        Outcome { decision: Decision::Deny(denial), evidence: self.evidence }
    }

    /// Returns each charge that `verdicts` refuse, and its refusal, for a caller that remembers
    /// them ([`CheckHooks::refusal`]). Charges by model are left out: they are never looked up.
    pub fn refusals(
        &self,
        verdicts: &[Verdict],
        now: Timestamp,
    ) -> impl Iterator<Item = (&Charge, Refusal)> {
        let charges = &self.admit_request.charges;
        let answered = charges.len() + self.held.len() == verdicts.len();
        let limits = &self.permit.route().limits;
        let refused = charges
            .iter()
            .zip(verdicts)
            .filter(move |(charge, verdict)| answered && !verdict.admitted && !charge.is_shadow);
        let looked_up = refused.filter(move |(charge, _)| {
            limits.iter().any(|limit| limit.name == charge.limit && !limit.needs_model())
        });
        looked_up.filter_map(move |(charge, verdict)| {
            Some((charge, Refusal::of(charge, *verdict, now)?))
        })
    }

    /// Whether the route counts locally in this outage of the store. A proof is never accepted without
    /// the store, which other replicas use as well.
    pub fn counts_locally(&self, outage: Outage) -> bool {
        self.permit.route().on_outage == OnOutage::Local
            && outage != Outage::Starved
            && self.admit_request.proof.is_none()
    }

    /// As [`Pending::conclude`], for a check that was counted locally in an outage of the store.
    pub fn conclude_locally(
        mut self,
        outage: Outage,
        response: Result<AdmitResponse, Outage>,
    ) -> Outcome {
        self.evidence.outage = Some(outage);
        self.conclude(response)
    }

    /// Decides with the response of the store: whether the network or the holder is banned, whether
    /// the credential is revoked, whether a proof was used before, and whether every limit has room.
    ///
    /// # Examples
    /// ```
    /// # use std::sync::Arc;
    /// # use tollgate_core::{
    /// #     check::{NoHooks, Pending, Prepared, prepare},
    /// #     config::{Document, Errors},
    /// #     policy::{Policy, PolicyConfig},
    /// #     request::{Headers, RawBody, RawRequest},
    /// #     snapshot::Snapshot,
    /// #     time::Timestamp,
    /// # };
    /// use tollgate_core::{
    ///     admission::{AdmitResponse, Outage},
    ///     decision::Decision,
    ///     denial::Reason,
    ///     limit::Verdict,
    /// };
    ///
    /// # const FILE: &str = "
    /// # routes: [{ match: { paths: [/health] }, public: true, limits: [all] }]
    /// # limits: [{ name: all, by: [route], rate: 1/1m }]
    /// # ";
    /// # let document = Document::parse(FILE, &|_| None).unwrap();
    /// # let config: PolicyConfig = document.read().unwrap();
    /// # let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
    /// # let snapshot = Snapshot::without_keys(Arc::new(policy));
    /// # let pending = || {
    /// #     let raw = RawRequest {
    /// #         method: b"GET",
    /// #         scheme: b"https",
    /// #         host: b"api.example.com",
    /// #         path: b"/health",
    /// #         headers: Headers::default(),
    /// #         address: None,
    /// #         peer_certificate: b"",
    /// #         body: RawBody::None,
    /// #     };
    /// #     match prepare(&snapshot, raw, Timestamp::from_secs(1), &mut NoHooks) {
    /// #         Prepared::Pending(pending) => pending,
    /// #         Prepared::Decided(outcome) => panic!("{:?}", outcome.decision),
    /// #     }
    /// # };
    /// // One limit, and the store has room: the only way to an allowed request.
    /// let room = Verdict { admitted: true, remaining: 0, retry_after: 0, reset: 60_000_000 };
    /// let outcome = pending().conclude(Ok(AdmitResponse::Counted(vec![room])));
    /// assert!(matches!(outcome.decision, Decision::Allow(_)));
    ///
    /// // No response: the failure policy of the route decides, by default with a denial.
    /// let outcome = pending().conclude(Err(Outage::Deadline));
    /// assert!(matches!(
    ///     outcome.decision,
    ///     Decision::Deny(denial) if denial.reason == Reason::StoreUnavailable
    /// ));
    /// ```
    pub fn conclude(self, response: Result<AdmitResponse, Outage>) -> Outcome {
        let Self { permit, admit_request, held, mut keys, now, mut evidence } = self;
        let AdmitRequest { charges, mut reservation, proof, .. } = admit_request;
        let mut sealed = None;
        evidence.stage = Stage::Store;
        let counted = match response {
            Ok(AdmitResponse::Counted(verdicts))
                if verdicts.len() == charges.len() + held.len() =>
            {
                if let Some(reservation) = &mut reservation
                    && reservation.holds.iter().any(|hold| hold.is_shadow)
                {
                    reservation.remove_refused(verdicts.get(charges.len()..).unwrap_or_default());
                    keys = keys.filter(|_| reservation.is_settled());
                }
                let mut would_deny = WouldDeny::default();
                evidence.limits = statuses(charges, held, verdicts, &mut would_deny);
                let checked = check_limits(&evidence.limits, "").map_err(Decision::Deny);
                if checked.is_ok() {
                    evidence.would_deny.append(would_deny);
                    sealed =
                        reservation.zip(keys).map(|(reservation, keys)| reservation.seal(&keys));
                }
                checked
            }
            Ok(AdmitResponse::Counted(_)) => Err(Decision::Deny(Denial::new(
                Reason::Internal,
                "the response of the store belongs to another request",
            ))),
            Ok(AdmitResponse::Banned(ban)) => Err(Decision::Deny(network::denial(ban, now))),
            Ok(AdmitResponse::Revoked(by)) => {
                Err(Decision::Deny(Denial::new(Reason::Revoked, format!("revoked by {by}"))))
            }
            Ok(AdmitResponse::Proof(refusal)) => {
                Err(Decision::Deny(refused_proof(refusal, proof.as_deref(), &mut evidence)))
            }
            // A public route with limits in shadow only: none of them denies, also while the store
            // cannot be called.
            Err(_) if is_in_shadow(&permit, proof.as_deref(), &charges, &held) => Ok(()),
            Err(outage) => {
                evidence.outage = Some(outage);
                // INVARIANT: without the store, a proof could be used twice.
                let policy =
                    if proof.is_some() { OnOutage::Deny } else { permit.route().on_outage };
                in_outage(policy, outage)
            }
        };
        // INVARIANT: the one place that allows.
        let decision = match counted {
            Ok(()) => Decision::Allow(Grant::new(permit, sealed)),
            Err(decision) => decision,
        };
        Outcome { decision, evidence }
    }
}

/// Whether nothing is enforced with the store: there is no credential that could be revoked, and all
/// limits are in shadow.
#[cold]
fn is_in_shadow(
    permit: &Permit,
    proof: Option<&ProofUse>,
    charges: &[Charge],
    held: &[Held],
) -> bool {
    permit.principal().is_none()
        && proof.is_none()
        && !(charges.is_empty() && held.is_empty())
        && charges.iter().all(|charge| charge.is_shadow)
        && held.iter().all(|held| held.hold.is_shadow)
}

/// The denial of a request whose proof the store does not permit.
#[cold]
fn refused_proof(
    refusal: ProofRefusal,
    proof: Option<&ProofUse>,
    evidence: &mut Evidence,
) -> Denial {
    match refusal {
        ProofRefusal::Used => {
            evidence.proof.get_or_insert_default().fault = Some(ProofFault::Proof);
            let cause = "the proof in the header `DPoP` was used before; make one for each request";
            Denial::new(Reason::InvalidProof, cause).with_message(cause)
        }
        ProofRefusal::TooMany => {
            let most = proof.map_or(0, |proof| proof.most);
            let cause = format!(
                "{most} proofs of the subject are remembered, as many as `dpop.max_proofs` allows"
            );
            Denial::new(Reason::RateLimited, cause)
                .with_message("too many proofs were sent within a short time; retry in 1s")
                .with_retry_after(Span::from_secs(1))
        }
    }
}

/// The failure policy, as data. `Local` gets here where the local count is out as well.
fn in_outage(policy: OnOutage, outage: Outage) -> Result<(), Decision> {
    // INVARIANT: a client can make this process busy, so the policy for outages never decides then.
    if outage == Outage::Starved {
        let denial = Denial::new(
            Reason::Overloaded,
            "the check waited for this process and not for the store (starved)",
        );
        return Err(Decision::Deny(denial.with_retry_after(Span::from_secs(1))));
    }
    let cause = format!("the store cannot be asked ({})", outage.label());
    match policy {
        OnOutage::Allow => Ok(()),
        OnOutage::Error => Err(Decision::Fail(Failure { reason: Reason::StoreUnavailable, cause })),
        OnOutage::Deny | OnOutage::Local => Err(Decision::Deny(
            Denial::new(Reason::StoreUnavailable, cause).with_retry_after(Span::from_secs(1)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_policy_allows_only_where_the_route_says_so() {
        for outage in Outage::ALL.into_iter().filter(|outage| *outage != Outage::Starved) {
            assert!(in_outage(OnOutage::Allow, outage).is_ok());
            assert!(matches!(in_outage(OnOutage::Error, outage), Err(Decision::Fail(_))));
            for policy in [OnOutage::Deny, OnOutage::Local] {
                let Err(Decision::Deny(denial)) = in_outage(policy, outage) else {
                    panic!("{policy:?} must deny")
                };
                assert_eq!(
                    (denial.reason, denial.retry_after),
                    (Reason::StoreUnavailable, Some(Span::from_secs(1)))
                );
            }
        }
    }

    #[test]
    fn the_lack_of_time_of_this_process_is_denied_by_every_failure_policy() {
        for policy in [OnOutage::Allow, OnOutage::Deny, OnOutage::Error, OnOutage::Local] {
            let Err(Decision::Deny(denial)) = in_outage(policy, Outage::Starved) else {
                panic!("{policy:?} must deny")
            };
            assert_eq!(
                (denial.reason, denial.retry_after),
                (Reason::Overloaded, Some(Span::from_secs(1))),
                "{policy:?}"
            );
        }
    }
}
