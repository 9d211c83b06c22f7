//! A check whose body is large: the head is checked as always, and the body is read by a thread of
//! the pool.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt as _;
use tollgate_core::{
    authenticate::Verified,
    check::{CheckHooks, Prepared, PreparedHead, prepare, prepare_head},
    credential::Credential,
    denial::{Denial, Reason},
    identity::Principal,
    limit::{
        BucketId, Charge, refusal::Refusal, reservation::ReservationId, usage_history::LearntUsage,
    },
    request::{Headers, RawBody, RawRequest},
    snapshot::Snapshot,
    stage::Stage,
    time::Timestamp,
};

use super::{
    CheckAnswer, Checker, Hooks, ProxyCall, client_shares::owner, lookup::keep_proven, overloaded,
    refused,
};
use crate::{
    engine::{
        body_pool::{BodyPoolError, READ_WITHIN},
        deadline::Deadline,
        live::State,
        shares::Share,
    },
    observe::CheckRecord,
};

/// A message with a large body, which a thread of its own can read.
pub trait LargeRequest: Send + Sync + 'static {
    /// Reads the request in place.
    ///
    /// # Errors
    /// The denial of a message that is not a request.
    fn read(&self) -> Result<RawRequest<'_>, Denial>;
}

/// The share of the client whose body it is, and the time for its check.
struct Held<'s> {
    share: Option<Share<'s>>,
    since: Instant,
    deadline: Deadline,
    /// The time that the check is prepared at.
    now: Timestamp,
}

impl Checker {
    /// As [`check`](Self::check), for a request with a large body. The check waits for the body
    /// without holding up others. What `request` holds is held until the body is read, even if the
    /// check is cancelled.
    pub async fn check_large<'a, T>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        request: &'a Arc<impl LargeRequest>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        let recorded = self.recorded_large(call, request, &encode);
        let answered = AssertUnwindSafe(recorded).catch_unwind().await;
        answered.unwrap_or_else(|_| self.answer_after_panic(encode))
    }

    async fn recorded_large<'a, T>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        request: &'a Arc<impl LargeRequest>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        // Declared before the record, which borrows it until the end.
        let outcome;
        let mut record = self.observer.begin((self.clock)());
        let mut state = self.live.load();
        let since = call.map_or(record.started(), |call| call.since);
        let deadline = Deadline::of(call.map(|call| call.headers));
        let mut held = Held { share: None, since, deadline, now: record.now() };
        let prepared = match self.begin_large(call, request, &mut record) {
            Ok(raw) => self.prepare_large(&state, raw, request, &mut record, &mut held).await,
            Err(denial) => refused(denial),
        };
        let prepared = match prepared {
            Prepared::Decided(done) if done.evidence.is_incomplete() => {
                let id = done.evidence.missing_record();
                match self.look_up(done, &state, &record, (deadline, since)).await {
                    Ok(with_record) => {
                        state = with_record;
                        // The statement of an issuer was verified after the check began.
                        held.now = (self.clock)();
                        let prepared = match request.read() {
                            Ok(raw) => {
                                let held = &mut held;
                                self.prepare_large(&state, raw, request, &mut record, held).await
                            }
                            Err(denial) => refused(denial),
                        };
                        if let Some(id) = id {
                            keep_proven(&state, id, &prepared);
                        }
                        prepared
                    }
                    Err(outcome) => Prepared::Decided(outcome),
                }
            }
            prepared => prepared,
        };
        outcome = match prepared {
            Prepared::Decided(done) => {
                self.note_failure(&done, &state, &record);
                done
            }
            Prepared::Pending(pending) => {
                self.admit(pending, &state, &mut record, (call, Instant::now())).await
            }
        };
        drop(held);
        self.answer(&outcome, &state, record, encode)
    }

    /// Reads a request for the first time, and records it.
    fn begin_large<'a>(
        &self,
        call: Option<ProxyCall<'_>>,
        request: &'a Arc<impl LargeRequest>,
        record: &mut CheckRecord<'a>,
    ) -> Result<RawRequest<'a>, Denial> {
        let raw = request.read().inspect_err(|_| {
            record.start_trace(call.map(|call| call.headers), &Headers::default());
        })?;
        self.begin(&raw, call, record)?;
        Ok(raw)
    }

    /// Runs every stage before the store. The stages that need no body come first, so that only a
    /// caller who may use the route gets a place in the pool.
    async fn prepare_large<'a>(
        &'a self,
        state: &Arc<State>,
        raw: RawRequest<'a>,
        request: &'a Arc<impl LargeRequest>,
        record: &mut CheckRecord<'a>,
        held: &mut Held<'a>,
    ) -> Prepared {
        let now = held.now;
        let (head, body) = raw.split();
        let mut hooks = Hooks { state, store: &*self.store, trace: record.trace_mut() };
        let head = match prepare_head(&state.snapshot, head, now, &mut hooks) {
            PreparedHead::Complete(prepared) => return prepared,
            PreparedHead::NeedsBody(head) => head,
        };
        let bytes = if let RawBody::Whole(bytes) = body { bytes.len() } else { 0 };
        held.share = self.shares.body(owner(head.principal(), record), bytes);
        if held.share.is_none() {
            let cause = "the client has too many large bodies in flight";
            return Prepared::Decided(head.refuse(overloaded(cause)));
        }
        let Some(left) = held.deadline.left(held.since) else {
            let cause = "the message arrived too late to be read in time";
            return Prepared::Decided(head.refuse(overloaded(cause)));
        };
        let principal = head.principal().cloned();
        let (owned, of_policy) = (Arc::clone(request), Arc::clone(state));
        let read = move || match owned.read() {
            Ok(raw) => {
                let mut hooks = Continued { state: &of_policy, principal };
                prepare(&of_policy.snapshot, raw, now, &mut hooks)
            }
            Err(denial) => refused(denial),
        };
        let prepared = match self.bodies.run(bytes, left.min(READ_WITHIN), read).await {
            Ok(prepared) => prepared,
            Err(error @ (BodyPoolError::Full | BodyPoolError::Late)) => {
                Prepared::Decided(head.refuse(overloaded(error.to_string())))
            }
            Err(error @ BodyPoolError::Panic) => {
                let denial = Denial::new(Reason::Internal, error.to_string());
                Prepared::Decided(head.refuse(denial))
            }
        };
        if let (Prepared::Pending(_), Some(trace)) = (&prepared, record.trace_mut()) {
            trace.passed(Stage::Content);
        }
        prepared
    }
}

/// The hooks of a check whose head has passed: its credential is verified.
struct Continued<'s> {
    state: &'s State,
    principal: Option<Arc<Principal>>,
}

impl CheckHooks for Continued<'_> {
    fn verify(
        &mut self,
        _snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        match self.principal.take() {
            Some(principal) => Ok(principal),
            None => self.state.verify(credential, now),
        }
    }

    // A limit may have refused another request while this one waited.
    fn has_refusals(&self, now: Timestamp) -> bool {
        self.state.refusals.any(now)
    }

    fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.state.refusals.get(charge)
    }

    fn reservation_id(&mut self) -> Option<ReservationId> {
        Some(ReservationId(rand::random()))
    }

    fn learnt_usage(&self, history: BucketId) -> Option<LearntUsage> {
        self.state.histories.learnt(history)
    }
}
