//! A check of an API key whose record is not copied, or of an opaque token whose issuer has not stated
//! what it is: that is looked up, and the check is prepared again with it.

use std::{sync::Arc, time::Instant};

use tokio::time::timeout;
use tollgate_core::{
    admission::Outage,
    check::{Prepared, prepare},
    credential::introspection::{self, UnknownToken},
    decision::{Decision, Outcome},
    denial::{Denial, Reason},
    identity::KeyId,
    request::RawRequest,
    time::Span,
};

use super::{Checker, Hooks, ProxyCall, overloaded, refused};
use crate::{
    credential::introspection::IntrospectionError,
    engine::{deadline::Deadline, live::State, shares::Owner},
    observe::CheckRecord,
    store::KeyLookupError,
};

impl Checker {
    /// Looks up the record that `decided` lacks, and runs every stage before the store again, with
    /// the state that has it.
    pub(super) async fn prepare_with_record<'a: 'r, 'r>(
        &self,
        decided: Outcome,
        state: &mut Arc<State>,
        call: Option<ProxyCall<'_>>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        record: &mut CheckRecord<'r>,
    ) -> Prepared {
        let since = call.map_or(record.started(), |call| call.since);
        let deadline = Deadline::of(call.map(|call| call.headers));
        let id = decided.evidence.missing_record();
        *state = match self.look_up(decided, state, record, (deadline, since)).await {
            Ok(state) => state,
            Err(outcome) => return Prepared::Decided(outcome),
        };
        let raw = match read() {
            Ok(raw) => raw,
            Err(denial) => return refused(denial),
        };
        // The statement of an issuer was verified after the check began.
        let now = (self.clock)();
        let mut hooks = Hooks { state, store: &*self.store, trace: record.trace_mut() };
        let prepared = prepare(&state.snapshot, raw, now, &mut hooks);
        if let Some(id) = id {
            keep_proven(state, id, &prepared);
        }
        prepared
    }

    /// Looks up the record that an outcome lacks, or what the issuer of its token states. Returns the
    /// state that has it.
    ///
    /// # Errors
    /// The outcome of a check whose record cannot be looked up: whatever `on_outage` is, a key
    /// without its record is denied.
    pub(super) async fn look_up(
        &self,
        decided: Outcome,
        state: &Arc<State>,
        record: &CheckRecord<'_>,
        (deadline, since): (Deadline, Instant),
    ) -> Result<Arc<State>, Outcome> {
        if let Some(unknown) = decided.evidence.unknown_token() {
            let unknown = unknown.clone();
            return match self.introspect(&unknown, state, record, (deadline, since)).await {
                // The answer belongs to the policy that the check has begun with.
                Ok(()) => Ok(Arc::clone(state)),
                Err(denial) => {
                    let decision = Decision::Deny(denial);
                    Err(Outcome { decision, ..decided })
                }
            };
        }
        let (Some(id), Some(replica)) = (decided.evidence.missing_record(), &state.api_keys.redis)
        else {
            return Err(decided);
        };
        let deny = |mut decided: Outcome, denial| {
            // The same check with a record may pass.
            decided.evidence.missing = None;
            Outcome { decision: Decision::Deny(denial), ..decided }
        };
        let client = record.address();
        let Some(_share) = self.shares.call(Owner::of_address(client)) else {
            return Err(deny(decided, overloaded("the client has too many checks that wait")));
        };
        let late = "the record of the API key was not looked up in time";
        let Some(left) = deadline.left(since) else {
            return Err(deny(decided, overloaded(late)));
        };
        match timeout(left, replica.look_up(id, client)).await {
            Ok(Ok(())) => {
                self.live.refresh_redis_keys();
                Ok(self.live.load())
            }
            Ok(Err(error)) => {
                let mut outcome = deny(decided, denial_of(error));
                if let KeyLookupError::Outage(outage) = error {
                    outcome.evidence.outage = Some(outage);
                }
                Err(outcome)
            }
            Err(_elapsed) => Err(deny(decided, overloaded(late))),
        }
    }
}

impl Checker {
    /// Waits for what the issuer of an opaque token states.
    ///
    /// # Errors
    /// `overloaded`, and `not_ready` without an answer: whatever `on_outage` is, the token is denied.
    async fn introspect(
        &self,
        unknown: &UnknownToken,
        state: &State,
        record: &CheckRecord<'_>,
        (deadline, since): (Deadline, Instant),
    ) -> Result<(), Denial> {
        // Without an endpoint nothing is waited for, and there may be no runtime.
        if !state.introspection.has_endpoints() {
            return Err(introspection::unavailable(IntrospectionError::Unavailable.to_string()));
        }
        let client = record.address();
        let Some(_share) = self.shares.call(Owner::of_address(client)) else {
            return Err(overloaded("the client has too many checks that wait"));
        };
        let late = || introspection::unavailable("the issuer of the token did not answer in time");
        let left = deadline.left(since).ok_or_else(late)?;
        let (policy, clock) = (&state.snapshot.policy, Arc::clone(&self.clock));
        let answer = state.introspection.look_up(policy, unknown, client, clock);
        match timeout(left, answer).await.map_err(|_elapsed| late())? {
            Ok(()) => Ok(()),
            Err(error @ IntrospectionError::Unavailable) => {
                Err(introspection::unavailable(error.to_string()))
            }
            Err(error @ (IntrospectionError::NoBudget | IntrospectionError::Full)) => {
                Err(overloaded(error.to_string()))
            }
        }
    }
}

/// Returns the denial of a check whose record cannot be looked up.
fn denial_of(error: KeyLookupError) -> Denial {
    match error {
        KeyLookupError::NoBudget
        | KeyLookupError::Full
        | KeyLookupError::Outage(Outage::Starved) => overloaded(error.to_string()),
        KeyLookupError::Outage(_) => Denial::new(Reason::StoreUnavailable, error.to_string())
            .with_retry_after(Span::from_secs(1)),
    }
}

/// Keeps a record that was looked up for longer, where a key was verified with it: records of forged
/// keys must not replace it.
pub(super) fn keep_proven(state: &State, id: KeyId, prepared: &Prepared) {
    let principal = match prepared {
        Prepared::Pending(pending) => pending.principal(),
        Prepared::Decided(outcome) => outcome.evidence.principal.as_ref(),
    };
    let is_proven = principal.and_then(|principal| principal.key()).is_some_and(|key| key.id == id);
    if let Some(replica) = state.api_keys.redis.as_ref().filter(|_| is_proven) {
        replica.keep(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_looked_up_is_an_outage_or_overload() {
        for (error, expected) in [
            (KeyLookupError::NoBudget, Reason::Overloaded),
            (KeyLookupError::Full, Reason::Overloaded),
            (KeyLookupError::Outage(Outage::Starved), Reason::Overloaded),
            (KeyLookupError::Outage(Outage::Unreachable), Reason::StoreUnavailable),
            (KeyLookupError::Outage(Outage::Deadline), Reason::StoreUnavailable),
        ] {
            let denial = denial_of(error);
            assert_eq!(denial.reason, expected, "{error}");
            assert_eq!(denial.retry_after, Some(Span::from_secs(1)), "{error}");
        }
    }
}
