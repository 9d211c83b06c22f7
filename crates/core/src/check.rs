//! One check, from a raw request to an outcome: [`prepare`], one question to the store, [`Pending::conclude`].

use std::{borrow::Cow, sync::Arc};

use crate::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    credential::{
        self, Credential,
        jwt::{self, Refused},
    },
    decision::{
        Decision, Dialect, Evidence, Failure, Grant, Outcome,
        answer::{DECISION_ID, IDENTITY},
    },
    denial::{Denial, Reason, malformed},
    identity::Principal,
    limit::{LimitStatus, rate::ChargeSubject},
    permit::{self, Asked, Permit},
    request::{RawRequest, Request},
    route::{OnOutage, Route},
    snapshot::Snapshot,
    time::{Span, Timestamp},
};

/// What [`prepare`] came to.
#[derive(Debug)]
pub enum Prepared {
    /// Decided without the store: a denial.
    Done(Outcome),
    /// To be decided by the store's answer.
    Ask(Pending),
}

/// Who asks, or why nobody knows.
pub type Verified = Result<Arc<Principal>, Refused>;

/// Who asks? Against the policy and the keys of `snapshot`, at `now`.
///
/// # Errors
/// See [`jwt::verify`].
pub fn verify(snapshot: &Snapshot, credential: Credential<'_>, now: Timestamp) -> Verified {
    let policy = &snapshot.policy;
    jwt::verify(
        credential,
        &policy.issuers,
        |issuer| snapshot.key_set(issuer),
        &policy.foreign,
        now,
    )
}

/// Whether [`verify`] would say the same again of the credential of a principal whom it made, under the same policy.
pub fn holds(snapshot: &Snapshot, principal: &Principal, now: Timestamp) -> bool {
    principal.holds(snapshot.key_set(principal.issuer_index()), now)
}

/// A check that waits for the store. Dropping it decides nothing and allows nothing.
#[derive(Debug)]
pub struct Pending {
    permit: Permit,
    demands: AdmitRequest,
    evidence: Evidence,
}

/// A step that [`prepare_watched`] has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The request is read and not ambiguous.
    Parse,
    /// A route covers it.
    Route,
    /// The credential is good. Not on public routes.
    Authenticate,
    /// Its holder may use the route so, the body included.
    Authorize,
}

/// Steps 1 to 4: what is asked, which rule covers it, who asks, may they. The order is the one in which a client learns
/// least: an ambiguous request is refused before a route is known, a route before a credential is looked at, a
/// credential before its scopes, and the body is only read for somebody who may use the route.
pub fn prepare(snapshot: &Snapshot, raw: RawRequest<'_>, now: Timestamp) -> Prepared {
    prepare_with(snapshot, raw, now, |credential| verify(snapshot, credential, now))
}

/// As [`prepare`], with somebody who may remember what [`verify`] said of a credential.
pub fn prepare_with(
    snapshot: &Snapshot,
    raw: RawRequest<'_>,
    now: Timestamp,
    verify: impl FnOnce(Credential<'_>) -> Verified,
) -> Prepared {
    prepare_watched(snapshot, raw, now, verify, |_| {})
}

/// As [`prepare_with`], and tells `passed` of each step, for whoever measures: there is no clock here.
pub fn prepare_watched(
    snapshot: &Snapshot,
    raw: RawRequest<'_>,
    now: Timestamp,
    verify: impl FnOnce(Credential<'_>) -> Verified,
    mut passed: impl FnMut(Step),
) -> Prepared {
    let mut evidence = Evidence::none(Dialect::of_target(raw.path));
    match permit(snapshot, raw, now, verify, &mut evidence, &mut passed) {
        Ok((permit, demands)) => Prepared::Ask(Pending { permit, demands, evidence }),
        Err(denial) => Prepared::Done(Outcome { decision: Decision::Deny(denial), evidence }),
    }
}

fn permit(
    snapshot: &Snapshot,
    raw: RawRequest<'_>,
    now: Timestamp,
    verify: impl FnOnce(Credential<'_>) -> Verified,
    evidence: &mut Evidence,
    passed: &mut impl FnMut(Step),
) -> Result<(Permit, AdmitRequest), Denial> {
    let policy = &snapshot.policy;
    let request = Request::parse(raw)?;
    evidence.spoofed = request.headers.spoofed().map(Cow::into_owned).collect();
    evidence
        .spoofed
        .extend(request.headers.spelled_like(policy.strip_headers.iter()).map(Cow::into_owned));
    // Some servers read another spelling as the same header (CVE-2025-64484, CVE-2026-39858), so one that would stay is refused.
    let known = |name: &str| name == DECISION_ID || IDENTITY.contains(&name);
    if !request.headers.proxy().can_remove
        && !evidence.spoofed.iter().all(|name| known(&name.to_ascii_lowercase()))
    {
        return Err(malformed("the request has a header that the proxy cannot take away"));
    }
    if policy.require_https && !request.secure {
        return Err(Denial::new(Reason::InsecureTransport, "the request did not come over https"));
    }
    passed(Step::Parse);
    let (route, captures) = policy.routes.find(&request.host, &request.path, request.method)?;
    evidence.route = Some(Arc::clone(route));
    passed(Step::Route);
    let asked = Asked { request: &request, captures: &captures, now };
    let permit = if route.public {
        permit::open(route, asked)?
    } else {
        let principal = authenticate(&request, verify, evidence)?;
        let principal = &*evidence.principal.insert(principal);
        passed(Step::Authenticate);
        permit::authorize(route, principal, &policy.models, asked, &mut evidence.model)?
    };
    passed(Step::Authorize);
    let facts = ChargeSubject {
        principal: permit.principal().map(Arc::as_ref),
        model: permit.model(),
        route: &route.name,
        address: request.address,
    };
    let mut charges = Vec::with_capacity(route.limits.len());
    for limit in &route.limits {
        charges.push(limit.charge(&facts)?);
    }
    let demands = AdmitRequest {
        revocation: permit.principal().map(|principal| Arc::clone(principal.revocation())),
        charges,
    };
    Ok((permit, demands))
}

fn authenticate(
    request: &Request<'_>,
    verify: impl FnOnce(Credential<'_>) -> Verified,
    evidence: &mut Evidence,
) -> Result<Arc<Principal>, Denial> {
    verify(credential::extract(&request.headers)?).map_err(|refused| {
        evidence.failed_check = Some(refused.check);
        evidence.unknown_key = refused.unknown_key;
        *refused.denial
    })
}

impl Pending {
    /// What to ask the store.
    pub fn admit_request(&self) -> &AdmitRequest {
        &self.demands
    }

    /// The holder of the credential; `None` on a public route.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.permit.principal()
    }

    /// The route that covers the request.
    pub fn route(&self) -> &Route {
        self.permit.route()
    }

    /// What the route does when the store cannot be asked.
    pub fn on_outage(&self) -> OnOutage {
        self.permit.route().on_outage
    }

    /// As [`Pending::conclude`], for a check that was answered locally because the store could not be asked.
    pub fn conclude_locally(
        mut self,
        outage: Outage,
        answers: Result<AdmitResponse, Outage>,
    ) -> Outcome {
        self.evidence.outage = Some(outage);
        self.conclude(answers)
    }

    /// Steps 5 and 6: is the credential still good, is there room, and the answer.
    pub fn conclude(self, answers: Result<AdmitResponse, Outage>) -> Outcome {
        let Self { permit, demands, mut evidence } = self;
        let counted = match answers {
            Ok(AdmitResponse::Counted(verdicts)) if verdicts.len() == demands.charges.len() => {
                evidence.limits = demands
                    .charges
                    .into_iter()
                    .zip(verdicts)
                    .map(|(charge, verdict)| LimitStatus::of(charge, verdict))
                    .collect();
                within(&evidence.limits)
            }
            Ok(AdmitResponse::Counted(_)) => Err(Decision::Deny(Denial::new(
                Reason::Internal,
                "the store answered another question",
            ))),
            Ok(AdmitResponse::Revoked(by)) => {
                Err(Decision::Deny(Denial::new(Reason::Revoked, format!("revoked by {by}"))))
            }
            Err(outage) => {
                evidence.outage = Some(outage);
                in_outage(permit.route().on_outage, outage)
            }
        };
        // INVARIANT: the one place that allows.
        let decision = match counted {
            Ok(()) => Decision::Allow(Grant::new(permit)),
            Err(decision) => decision,
        };
        Outcome { decision, evidence }
    }
}

/// Every limit has room; or the denial of the one that takes longest to have it.
fn within(limits: &[LimitStatus]) -> Result<(), Decision> {
    let Some(worst) = limits
        .iter()
        .filter(|status| !status.verdict.admitted)
        .max_by_key(|status| status.verdict.retry_after)
    else {
        return Ok(());
    };
    let denial = Denial::new(Reason::RateLimited, format!("limit `{}` is used up", worst.name));
    Err(Decision::Deny(match worst.retry_after() {
        Some(span) => denial
            .with_message(format!("rate limit `{}` reached; retry in {}", worst.name, shown(span)))
            .with_retry_after(span),
        None => denial.with_message(format!("rate limit `{}` admits no requests", worst.name)),
    }))
}

fn shown(span: Span) -> String {
    if span < Span::from_secs(1) {
        format!("{}ms", span.micros().div_ceil(1000))
    } else {
        format!("{}s", span.micros().div_ceil(1_000_000))
    }
}

/// The failure policy, as data. `Local` arrives here when even the local count could not be used.
fn in_outage(policy: OnOutage, outage: Outage) -> Result<(), Decision> {
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
        for outage in Outage::ALL {
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
}
