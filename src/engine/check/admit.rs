//! The call to the store, and the decision with its answer or without it.

use std::{sync::atomic::Ordering, time::Instant};

use tokio::time::timeout;
use tollgate_core::{
    admission::{AdmitResponse, Outage},
    check::Pending,
    decision::Outcome,
    route::OnOutage,
    time::Timestamp,
};

use super::{Checker, ProxyCall, client_shares::owner, overloaded, unanswered::Unanswered};
use crate::{
    engine::{deadline::Deadline, live::State},
    observe::CheckRecord,
};

impl Checker {
    /// Decides a prepared check of a call, and calls the store: at most once, not when there is
    /// nothing to admit, and at `now`.
    pub(super) async fn admit(
        &self,
        mut pending: Pending,
        state: &State,
        record: &mut CheckRecord<'_>,
        (call, now): (Option<ProxyCall<'_>>, Instant),
    ) -> Outcome {
        if pending.admit_request().is_empty() {
            return conclude(pending, Ok(AdmitResponse::Counted(Vec::new())), state, record.now());
        }
        pending.set_decision_id(record.id());
        if !self.remote {
            let answers = self.store.admit(pending.admit_request()).await;
            record.store_call_finished(answers.as_ref().err().copied());
            return conclude(pending, answers, state, record.now());
        }
        let Some(share) = self.shares.call(owner(pending.principal(), record)) else {
            return pending.refuse(overloaded("the client has too many checks that wait"));
        };
        record.store_call_started();
        let since = call.map_or(record.started(), |call| call.since);
        let unanswered = Unanswered::of(&self.store, &pending);
        let answers =
            self.ask(&pending, Deadline::of(call.map(|call| call.headers)), since, now).await;
        let is_stale = has_stale_key(&pending, state);
        let answers = if is_stale { unless_admitted(&pending, answers) } else { answers };
        record.store_call_finished(answers.as_ref().err().copied());
        drop(share);
        self.conclude_remote(pending, answers, unanswered, (state, record.now()))
    }

    /// Logs that the proxy may not wait as long as the store may take, at powers of two.
    fn note_short_time(&self, deadline: Deadline) {
        if deadline.allows(self.longest_wait) {
            return;
        }
        let count = self.short_times.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let within = deadline.within().as_millis();
            let store = self.longest_wait.as_millis();
            tracing::warn!(
                count,
                "the proxy's timeout for checks leaves {within} ms, and with `store.redis.deadline` \
                 the store may take {store} ms: a check that takes longer is answered with 503 \
                 overloaded; raise the timeout (2s), or lower the deadline"
            );
        }
    }

    /// Calls the remote store at `now`, for as long as a check may take that began at `since`.
    async fn ask(
        &self,
        pending: &Pending,
        deadline: Deadline,
        since: Instant,
        now: Instant,
    ) -> Result<AdmitResponse, Outage> {
        let admitted = self.store.admit(pending.admit_request());
        // A usual check needs no timer of its own.
        if deadline.allows(now.saturating_duration_since(since) + self.longest_wait) {
            return admitted.await;
        }
        self.note_short_time(deadline);
        // INVARIANT: the call is not repeated, and what was charged stays charged. How long the
        // store would have taken is not known, so this is no outage of the store.
        let Some(left) = deadline.left(since) else { return Err(Outage::Starved) };
        Box::pin(timeout(left, admitted)).await.unwrap_or(Err(Outage::Starved))
    }

    /// Decides with what the remote store answered, or without it.
    fn conclude_remote(
        &self,
        pending: Pending,
        answers: Result<AdmitResponse, Outage>,
        unanswered: Option<Unanswered>,
        (state, now): (&State, Timestamp),
    ) -> Outcome {
        match (answers, &self.local) {
            (Err(outage), Some(local)) if pending.counts_locally(outage) => {
                let answers = local.admit(pending.admit_request());
                // INVARIANT: a request that is admitted in an outage is settled under the identity
                // that the store may hold, so that this is not released.
                if is_admitted(&pending, &answers)
                    && let Some(unanswered) = unanswered
                {
                    unanswered.answered();
                }
                remember(&pending, &answers, state, now);
                pending.conclude_locally(outage, answers)
            }
            (answers, local) => {
                if let Ok(response) = &answers
                    && let Some(unanswered) = unanswered
                {
                    if let Some(local) = local
                        && pending.route().on_outage == OnOutage::Local
                    {
                        local.note(pending.admit_request(), response);
                    }
                    unanswered.answered();
                }
                conclude(pending, answers, state, now)
            }
        }
    }
}

/// Decides with the response of the store, or without one.
fn conclude(
    pending: Pending,
    answers: Result<AdmitResponse, Outage>,
    state: &State,
    now: Timestamp,
) -> Outcome {
    remember(&pending, &answers, state, now);
    pending.conclude(answers)
}

fn is_admitted(pending: &Pending, answers: &Result<AdmitResponse, Outage>) -> bool {
    let Ok(AdmitResponse::Counted(verdicts)) = answers else { return false };
    pending.admit_request().is_admitted_by(verdicts)
}

/// Whether the record of a check's key is in a copy that Redis has not confirmed in time: the key may
/// be revoked.
fn has_stale_key(pending: &Pending, state: &State) -> bool {
    let Some(replica) = &state.api_keys.redis else { return false };
    let keys = state.snapshot.policy.api_keys.as_ref();
    let Some((keys, bounds)) = keys.and_then(|keys| Some((keys, keys.redis?))) else {
        return false;
    };
    pending.principal().is_some_and(|principal| {
        principal.key().is_some()
            && keys.redis_source() == Some(principal.validity().keys.source)
            && replica.is_stale(bounds.max_staleness.std())
    })
}

/// Turns an answer that admits a check into an outage.
///
/// INVARIANT: a revocation, a ban and a limit that the store knows hold in an outage, too.
fn unless_admitted(
    pending: &Pending,
    answers: Result<AdmitResponse, Outage>,
) -> Result<AdmitResponse, Outage> {
    if is_admitted(pending, &answers) { Err(Outage::Stale) } else { answers }
}

/// Remembers the limits that refused a check, from the moment that it was decided at: the store
/// refused it later, so that what is remembered ends a little early.
fn remember(
    pending: &Pending,
    answers: &Result<AdmitResponse, Outage>,
    state: &State,
    now: Timestamp,
) {
    let Ok(AdmitResponse::Counted(verdicts)) = answers else { return };
    if verdicts.iter().all(|verdict| verdict.admitted) {
        return;
    }
    let owner = pending.principal().map(|principal| principal.revocation().subject().fingerprint());
    for (charge, refusal) in pending.refusals(verdicts, now) {
        state.refusals.remember(charge, owner, refusal, now);
    }
}
