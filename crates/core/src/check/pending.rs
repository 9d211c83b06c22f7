//! A check that waits for the store, and the decision with its answer.

use std::sync::Arc;

use super::{
    limits::{check_limits, statuses},
    network,
};
use crate::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    credential::dpop::{ProofFault, ProofRefusal, ProofUse},
    decision::{Decision, Evidence, Failure, Grant, Outcome},
    denial::{Denial, Reason, WouldDeny},
    identity::Principal,
    limit::{Charge, Held, Verdict, refusal::Refusal, reservation::ReservationKeys},
    permit::Permit,
    route::{OnOutage, Route},
    stage::Stage,
    time::{Span, Timestamp},
};

/// A check that waits for the store. Dropping it decides nothing and allows nothing.
#[derive(Debug)]
pub struct Pending {
    pub(super) permit: Permit,
    pub(super) admit_request: AdmitRequest,
    /// What the holds of the reservation are units of, in their order.
    pub(super) held: Vec<Held>,
    /// The secrets that authenticate the reservation, where it is settled.
    pub(super) keys: Option<Arc<ReservationKeys>>,
    pub(super) now: Timestamp,
    pub(super) evidence: Evidence,
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
    /// them ([`CheckHooks::refusal`](super::CheckHooks::refusal)). Charges by model are left out: they are never looked up.
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
