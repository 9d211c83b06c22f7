//! The answer to a check, as adapters encode it.

use tollgate_core::{
    decision::{
        Decision, Failure, Grant, Outcome,
        answer::{self, AllowedAnswer, DeniedAnswer},
    },
    denial::Reason,
    identity::MetadataFact,
    rule::size::BodyChanges,
    snapshot::Snapshot,
};

/// The answer that an adapter encodes.
#[derive(Debug)]
pub struct CheckAnswer<'a> {
    /// The id of the decision, as in the audit line.
    pub decision_id: &'a str,
    /// The decision with its headers and body.
    pub answer: Answer<'a>,
    /// Values that the proxy may log and later filters may read.
    pub metadata: Metadata<'a>,
}

/// A decision with its headers and body.
#[derive(Debug)]
pub enum Answer<'a> {
    /// The request is forwarded, with these changes.
    Allow(AllowedAnswer<'a>),
    /// The request is denied, with this response.
    Deny(DeniedAnswer),
    /// The check fails, and the proxy decides.
    Fail(&'a Failure),
}

/// The facts of a check that the policy selects; the reservation, and what the proxy writes into the
/// body.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    pub(crate) facts: [(&'static str, Option<&'a str>); MetadataFact::ALL.len()],
    /// The text of the reservation that an allowed request has.
    pub reservation: Option<&'a str>,
    /// What the proxy writes into the body.
    pub changes: Option<&'a BodyChanges>,
    /// The name of the guard of a stream that may be cut.
    pub guard: Option<&'a str>,
}

impl<'a> Metadata<'a> {
    /// Returns the known facts, the reservation and the guard by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let facts = self.facts.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        let facts = facts.chain(self.reservation.map(|text| ("reservation", text)));
        facts.chain(self.guard.map(|id| ("guard", id)))
    }

    /// Whether the proxy gets no metadata.
    pub fn is_empty(&self) -> bool {
        self.changes.is_none() && self.iter().next().is_none()
    }
}

/// Returns the answer with an outcome.
pub(super) fn shape<'a>(
    outcome: &'a Outcome,
    snapshot: &'a Snapshot,
    decision_id: &'a str,
    guard: Option<&'a str>,
) -> CheckAnswer<'a> {
    let evidence = &outcome.evidence;
    let principal = evidence.principal.as_ref();
    let (answer, reason) = match &outcome.decision {
        Decision::Allow(grant) => {
            (Answer::Allow(answer::allowed(grant, evidence, snapshot, decision_id)), None)
        }
        Decision::Deny(denial) => {
            (Answer::Deny(answer::denied(denial, evidence, decision_id)), Some(denial.reason))
        }
        Decision::Fail(failure) => (Answer::Fail(failure), Some(failure.reason)),
    };
    let grant = match &outcome.decision {
        Decision::Allow(grant) => Some(grant),
        Decision::Deny(_) | Decision::Fail(_) => None,
    };
    let sent = &snapshot.policy.dynamic_metadata;
    let fact = |fact: MetadataFact, value: Option<&'a str>| {
        (fact.name(), if sent.sends(fact) { value } else { None })
    };
    let route = evidence.route.as_ref().map(|route| route.name.as_str());
    let facts = [
        fact(MetadataFact::DecisionId, Some(decision_id)),
        fact(MetadataFact::Route, route),
        fact(MetadataFact::Subject, principal.map(|principal| principal.subject())),
        fact(MetadataFact::Tenant, principal.and_then(|principal| principal.tenant())),
        fact(MetadataFact::Model, evidence.model.as_deref()),
        fact(MetadataFact::Reason, reason.map(Reason::code)),
    ];
    let reservation = grant.and_then(Grant::reservation);
    let changes = grant.and_then(Grant::changes);
    let metadata = Metadata { facts, reservation, changes, guard };
    CheckAnswer { decision_id, answer, metadata }
}
