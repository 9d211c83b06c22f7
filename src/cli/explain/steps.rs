//! The steps of a decision, printed from what the core recorded: its evidence and its details. No
//! step is repeated here.

use std::net::IpAddr;

use serde_json::Value;
use tollgate_core::{
    admission::Outage,
    authenticate::Verified,
    ban::Ban,
    check::{CheckHooks, Prepared, prepare},
    credential::Credential,
    decision::{Decision, Outcome},
    denial::{Denial, Reason},
    details::Details,
    limit::{
        BucketId, Charge, refusal::Refusal, reservation::ReservationId, usage_history::LearntUsage,
    },
    snapshot::Snapshot,
    stage::{Check, Stage},
    time::Timestamp,
};

use super::{keys::PolicyKeys, record::Record};
use crate::policy_test::{self, Body, Case, Differences, Ledger, LedgerHooks, Observed, Request};

/// The request to explain, and what is known about it.
pub(super) struct ExplainInput<'a> {
    pub(super) found: &'a PolicyKeys,
    pub(super) request: &'a Request,
    pub(super) now: Timestamp,
    /// `body.max`, where the configuration is a whole file.
    pub(super) max_body: Option<usize>,
    pub(super) outage: Option<Outage>,
    /// Whether the state of the store is assumed: nothing is revoked or banned, and every bucket
    /// is full.
    pub(super) assumed: bool,
}

/// The steps of a decision, and the answer.
pub(in crate::cli) struct Explanation {
    pub(super) case: Option<String>,
    pub(super) now: Timestamp,
    pub(super) steps: Vec<Step>,
    pub(super) outcome: Outcome,
    pub(super) observed: Observed,
    pub(super) expected: Option<Result<(), Differences>>,
    /// Whether the answer is unknown, because the keys of the token's issuer, or the records of API
    /// keys, are not here.
    pub(super) unknown: bool,
}

/// One step of a decision.
pub(super) struct Step {
    pub(super) stage: Stage,
    pub(super) state: State,
    pub(super) facts: Vec<(&'static str, Value)>,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Passed,
    Failed,
    NotNeeded,
    NotReached,
}

impl State {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotNeeded => "not needed",
            Self::NotReached => "not reached",
        }
    }
}

impl Explanation {
    /// Adds the name of a case and the comparison with what it expects.
    pub(super) fn of(mut self, case: &Case) -> Self {
        self.case = Some(case.name.clone());
        self.expected =
            case.expect.as_ref().map(|expect| policy_test::compare(expect, &self.observed));
        self
    }

    /// Whether the request would be forwarded.
    pub(super) fn allows(&self) -> bool {
        matches!(self.outcome.decision, Decision::Allow(_))
    }

    /// The comparison with what the case expects; `None` without an expectation.
    pub(in crate::cli) fn expectation(&self) -> Option<&Result<(), Differences>> {
        self.expected.as_ref()
    }

    /// The decision on the request.
    pub(in crate::cli) fn decision(&self) -> &Decision {
        &self.outcome.decision
    }

    /// Whether the answer is as the case expects; `None` without an expectation.
    pub(super) fn is_as_expected(&self) -> Option<bool> {
        self.expected.as_ref().map(Result::is_ok)
    }
}

/// Hooks that record details, and find the refusals of earlier requests.
struct Recorder<'a> {
    details: Details,
    earlier: LedgerHooks<'a>,
}

impl CheckHooks for Recorder<'_> {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.earlier.verify(snapshot, credential, now)
    }

    fn verify_from_banned(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        self.earlier.verify_from_banned(snapshot, credential, address, now)
    }

    fn network_ban(&self, address: IpAddr, now: Timestamp) -> Option<Ban> {
        self.earlier.network_ban(address, now)
    }

    fn has_refusals(&self, now: Timestamp) -> bool {
        self.earlier.has_refusals(now)
    }

    fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.earlier.refusal(charge)
    }

    fn reservation_id(&mut self) -> Option<ReservationId> {
        self.earlier.reservation_id()
    }

    fn learnt_usage(&self, history: BucketId) -> Option<LearntUsage> {
        self.earlier.learnt_usage(history)
    }

    fn details(&mut self) -> Option<&mut Details> {
        Some(&mut self.details)
    }
}

/// Decides the request and lists the steps.
pub(super) fn explain(input: &ExplainInput<'_>, mut store: Ledger) -> Explanation {
    let snapshot = &input.found.snapshot;
    let too_large = matches!((&input.request.body, input.max_body), (Body::Whole(bytes), Some(max)) if bytes.len() > max);
    let mut recorder = Recorder { details: Details::default(), earlier: store.hooks() };
    let prepared =
        (!too_large).then(|| prepare(snapshot, input.request.raw(), input.now, &mut recorder));
    let details = recorder.details;
    let (outcome, admit_request) = match prepared {
        None => (
            Outcome::refused(Denial::new(Reason::BodyTooLarge, "the body is larger than body.max")),
            None,
        ),
        Some(Prepared::Decided(outcome)) => (outcome, None),
        Some(Prepared::Pending(pending)) => {
            let admit_request = pending.admit_request().clone();
            (store.conclude(pending, input.now, input.outage), Some(admit_request))
        }
    };
    let record = Record {
        input,
        evidence: &outcome.evidence,
        details: &details,
        admit_request: admit_request.as_ref(),
        denied: match &outcome.decision {
            Decision::Deny(denial) => Some(denial.reason),
            Decision::Allow(_) | Decision::Fail(_) => None,
        },
    };
    let failed =
        (!matches!(outcome.decision, Decision::Allow(_))).then_some(outcome.evidence.stage);
    let is_remote = record
        .issuer()
        .and_then(|index| input.found.sources.get(index))
        .is_some_and(|source| source.is_remote);
    // A key of a source that is not here may be known there.
    let is_key_elsewhere = record.denied == Some(Reason::NotReady) && record.api_key().is_some();
    // The endpoint of an issuer is not called here.
    let is_token_elsewhere =
        outcome.evidence.unknown_token().is_some() && !input.found.knows_statements;
    let unknown = (is_remote || is_key_elsewhere || is_token_elsewhere)
        && failed == Some(Stage::Verification(Check::Key));
    // The checks of a credential are one step.
    let stages = Stage::ALL
        .into_iter()
        .filter(|stage| !matches!(stage, Stage::Verification(check) if *check != Check::Shape));
    let steps = stages.map(|stage| record.step(stage, failed)).collect();
    let observed = Observed::of(&outcome, snapshot, "explain");
    Explanation { case: None, now: input.now, steps, outcome, observed, expected: None, unknown }
}
