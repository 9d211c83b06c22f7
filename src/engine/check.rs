//! One check around the core: the snapshot, [`prepare`], one call to the store,
//! [`conclude`](Pending::conclude), the encoded answer, and one record.

mod client_shares;
mod large;
mod lookup;
mod stream_guards;
mod unanswered;

use std::{
    borrow::Cow,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use http::HeaderMap;
use tokio::time::timeout;
use tollgate_core::{
    admission::{AdmitResponse, Outage, Settlement, Usage},
    authenticate::Verified,
    ban::Ban,
    check::{CheckHooks, Pending, Prepared, PreparedHead, prepare, prepare_head},
    credential::Credential,
    decision::{
        Decision, Failure, Grant, Missing, Outcome,
        answer::{self, AllowedAnswer, DeniedAnswer},
    },
    denial::{Denial, Reason},
    identity::MetadataFact,
    limit::{
        BucketId, Charge,
        refusal::Refusal,
        reservation::{Reservation, ReservationId},
        usage_history::LearntUsage,
    },
    request::{Headers, RawBody, RawRequest},
    route::OnOutage,
    rule::size::BodyChanges,
    snapshot::Snapshot,
    stage::Stage,
    time::{Span, Timestamp},
};

use self::{
    client_shares::{ClientShares, owner},
    stream_guards::StreamGuards,
    unanswered::Unanswered,
};
pub use self::{large::LargeRequest, stream_guards::StreamGuard};
pub use super::body_pool::INLINE;
pub(crate) use super::deadline::CHECK_WITHIN;
use super::{
    body_pool::BodyPool,
    deadline::Deadline,
    live::{Live, State},
};
use crate::{
    observe::{CheckRecord, Observer, trace::Trace},
    store::{LocalFallback, Store},
};

/// Decides requests. All adapters share one checker, so that none can answer differently.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # use std::sync::Arc;
/// # use tollgate::{config, engine::Engine, observe};
/// # let text = "audit: { to: none }\nroutes: [{ match: { paths: [/health] }, public: true }]";
/// # let loaded = config::compile(text, &|_| None).expect("a valid configuration");
/// # let engine = Engine::start(loaded, Arc::new(observe::now))?;
/// use tollgate::engine::check::{Answer, CheckAnswer};
/// use tollgate_core::request::{Headers, RawBody, RawRequest};
///
/// // An adapter reads its proxy's message into a request, and encodes the answer for it.
/// let read = || {
///     Ok(RawRequest {
///         method: b"POST",
///         scheme: b"https",
///         host: b"api.example.com",
///         path: b"/v1/chat/completions",
///         headers: Headers::default(),
///         address: None,
///         peer_certificate: b"",
///         body: RawBody::Whole(b"{}"),
///     })
/// };
/// let encode = |checked: CheckAnswer<'_>| match checked.answer {
///     Answer::Allow(_) => 200,
///     Answer::Deny(denied) => denied.status,
///     Answer::Fail(_) => 500,
/// };
/// assert_eq!(engine.checker().check(None, read, encode).await, 403);
/// # engine.close().await;
/// # Ok(())
/// # })
/// # }
/// ```
pub struct Checker {
    live: Arc<Live>,
    store: Arc<dyn Store>,
    /// Whether the store is remote: its calls are timed.
    remote: bool,
    local: Option<Arc<LocalFallback>>,
    observer: Arc<Observer>,
    clock: Clock,
    max_body: usize,
    /// Reads large bodies.
    bodies: BodyPool,
    shares: ClientShares,
    guards: StreamGuards,
    /// The longest time that the store takes.
    longest_wait: Duration,
    /// The checks of which the proxy may not wait so long.
    short_times: AtomicU64,
}

/// The call in which a proxy sent a check, where it has headers of its own.
#[derive(Clone, Copy, Debug)]
pub struct ProxyCall<'c> {
    /// The headers of the call. They may name its trace, and the time that the proxy waits.
    pub headers: &'c HeaderMap,
    /// The beginning of the call, from which on the proxy waits.
    pub since: Instant,
}

/// The time for a check of a call with these headers.
pub(crate) fn time_for(headers: &HeaderMap) -> Duration {
    Deadline::of(Some(headers)).within()
}

/// The bounds of the memory that checks hold.
#[derive(Clone, Copy, Debug)]
pub struct CheckBounds {
    /// The size of the largest body, `body.max`.
    pub max_body: usize,
    /// The size of all bodies in flight, `body.max_in_flight`.
    pub max_in_flight: usize,
}

impl CheckBounds {
    /// The bytes for the fixed cost of calls: a quarter. The rest is for messages.
    pub(crate) const fn calls(self) -> usize {
        self.max_in_flight / 4
    }
}

/// Bytes that each call is charged: its task, its HTTP/2 headers, its decoded headers, and a
/// message of up to this size.
pub(crate) const CALL: u32 = 32 << 10;

/// The denial of a check for which there is no room or no time.
fn overloaded(cause: impl Into<Cow<'static, str>>) -> Denial {
    Denial::new(Reason::Overloaded, cause).with_retry_after(Span::from_secs(1))
}

/// What a request needs whose head has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedHead {
    /// The check of the whole request, with its body.
    NeedsBody,
    /// The check of the whole request: no rule of its route reads the body.
    Complete,
}

impl PassedHead {
    fn of(reads_body: bool) -> Self {
        if reads_body { Self::NeedsBody } else { Self::Complete }
    }
}

/// Returns the time that a check is decided at.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

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

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checker")
    }
}

impl Checker {
    /// Creates a checker. `local` is the fallback of routes with `on_outage: local`.
    pub fn new(
        live: Arc<Live>,
        store: Arc<dyn Store>,
        local: Option<Arc<LocalFallback>>,
        observer: Arc<Observer>,
        clock: Clock,
        bounds: CheckBounds,
    ) -> Self {
        let remote = store.status().remote;
        let longest_wait = store.longest_wait();
        Self {
            live,
            store,
            remote,
            local,
            observer,
            clock,
            max_body: bounds.max_body,
            bodies: BodyPool::new(),
            shares: ClientShares::new(bounds),
            guards: StreamGuards::default(),
            longest_wait,
            short_times: AtomicU64::new(0),
        }
    }

    /// Reads one request, decides it and encodes the answer. A request that `read` rejects is
    /// denied, and a panic inside is caught and denied. `call` holds the headers of the proxy's own
    /// call, which may name the trace that the check belongs to.
    ///
    /// There is one wait at most, for a remote store, and before it one for the record of an API key
    /// that is not copied, or for what the issuer of an opaque token states: the request is read and
    /// prepared again then. Temporaries are dropped
    /// before a wait, to keep the future small.
    pub async fn check<'a, T>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        let answered = AssertUnwindSafe(self.recorded(call, read, &encode)).catch_unwind().await;
        answered.unwrap_or_else(|_| self.answer_after_panic(encode))
    }

    /// The answer to a check that panicked. The panic has finished its record.
    fn answer_after_panic<T>(&self, encode: impl Fn(CheckAnswer<'_>) -> T) -> T {
        let denial = Denial::new(Reason::Internal, "a panic inside the check");
        encode(shape(&Outcome::refused(denial), &self.live.load().snapshot, "panic", None))
    }

    /// Checks the head of a request. A denial is answered and recorded as by [`check`](Self::check).
    /// A head that passes is answered with `pass`, which gets what the request needs then: nothing is charged or recorded, because the
    /// proxy sends the request again with its body.
    pub fn check_head<'a, T>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
        pass: impl FnOnce(PassedHead) -> T,
    ) -> T {
        let checked = AssertUnwindSafe(|| self.head_denial(call, read, &encode));
        match std::panic::catch_unwind(checked) {
            Ok(denial) => denial.unwrap_or_else(pass),
            Err(_) => self.answer_after_panic(encode),
        }
    }

    /// The answer to a request whose head is denied.
    fn head_denial<'a, T>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> Result<T, PassedHead> {
        let state = self.live.load();
        let outcome = match read() {
            Err(denial) => Outcome::refused(denial),
            Ok(raw) => {
                let mut hooks = Hooks { state: &state, store: &*self.store, trace: None };
                let (head, _) = raw.split();
                match prepare_head(&state.snapshot, head, (self.clock)(), &mut hooks) {
                    // What is missing is looked up for the request with its body.
                    PreparedHead::Complete(Prepared::Decided(outcome))
                        if outcome.evidence.is_incomplete() =>
                    {
                        let route = outcome.evidence.route.as_ref();
                        return Err(PassedHead::of(route.is_some_and(|route| route.reads_body())));
                    }
                    PreparedHead::Complete(Prepared::Decided(outcome)) => outcome,
                    PreparedHead::Complete(Prepared::Pending(_)) => {
                        return Err(PassedHead::Complete);
                    }
                    PreparedHead::NeedsBody(_) => return Err(PassedHead::NeedsBody),
                }
            }
        };
        let record = self.record_of(call, read);
        note_failure(&outcome, &state, &record);
        Ok(self.answer(&outcome, &state, record, encode))
    }

    /// Begins the record of a request that is decided already.
    fn record_of<'a>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
    ) -> CheckRecord<'a> {
        let mut record = self.observer.begin((self.clock)());
        match read() {
            Ok(raw) => {
                record.set_request(&raw);
                record.start_trace(call.map(|call| call.headers), &raw.headers);
            }
            Err(_) => record.start_trace(call.map(|call| call.headers), &Headers::default()),
        }
        record
    }

    /// Whether a check may wait: for a remote store, or for the issuer of an opaque token.
    pub fn may_wait(&self) -> bool {
        self.remote || self.live.introspects()
    }

    /// Releases the reservation of an answer that the proxy does not use, by its text. This needs a
    /// runtime.
    pub fn release(&self, reservation: &str) {
        let Some(keys) = self.live.load().snapshot.reservation_keys.clone() else { return };
        let Ok(reservation) = Reservation::open(reservation, &keys) else { return };
        let settlement = Settlement { reservation, usage: Usage::Released, report: None };
        if self.local.as_ref().and_then(|local| local.settle(&settlement)).is_none() {
            Unanswered::release(&self.store, settlement.reservation);
        }
    }

    /// Answers a request that an adapter did not read, such as one that is too large.
    pub fn refuse<T>(&self, denial: Denial, encode: impl Fn(CheckAnswer<'_>) -> T) -> T {
        let outcome = Outcome::refused(denial);
        let mut record = self.observer.begin((self.clock)());
        record.start_trace(None, &Headers::default());
        self.answer(&outcome, &self.live.load(), record, encode)
    }

    /// Answers a request that an adapter denies itself, such as one whose body it does not hold.
    pub fn refuse_request<'a, T>(
        &'a self,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        denial: Denial,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        let outcome = Outcome::refused(denial);
        let record = self.record_of(None, read);
        self.answer(&outcome, &self.live.load(), record, encode)
    }

    async fn recorded<'a, T>(
        &'a self,
        call: Option<ProxyCall<'_>>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        // Declared before the record, which borrows it until the end.
        let outcome;
        let mut record = self.observer.begin((self.clock)());
        let mut state = self.live.load();
        let mut began = record.started();
        let prepared = match self.prepare(&state, call, &read, &mut record) {
            Prepared::Decided(done) if done.evidence.is_incomplete() => {
                let again = self.prepare_with_record(done, &mut state, call, &read, &mut record);
                let prepared = Box::pin(again).await;
                began = Instant::now();
                prepared
            }
            prepared => prepared,
        };
        let pending = match prepared {
            Prepared::Pending(pending) => pending,
            Prepared::Decided(done) => {
                outcome = done;
                note_failure(&outcome, &state, &record);
                return self.answer(&outcome, &state, record, encode);
            }
        };
        outcome = self.admit(pending, &state, &mut record, (call, began)).await;
        self.answer(&outcome, &state, record, encode)
    }

    fn answer<'a, T>(
        &self,
        outcome: &'a Outcome,
        state: &State,
        mut record: CheckRecord<'a>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        record.set_outcome(outcome);
        if let Some(Missing::Key { source }) = outcome.evidence.missing
            && let Some(source) = state.sources.get(source)
        {
            source.request_refresh();
        }
        let guard = self.guard(outcome, record.id());
        let encoded = encode(shape(outcome, &state.snapshot, record.id(), guard));
        record.finish();
        encoded
    }

    /// Runs every stage before the store.
    fn prepare<'a: 'r, 'r>(
        &self,
        state: &State,
        call: Option<ProxyCall<'_>>,
        read: impl FnOnce() -> Result<RawRequest<'a>, Denial>,
        record: &mut CheckRecord<'r>,
    ) -> Prepared {
        let raw = match read() {
            Ok(raw) => raw,
            Err(denial) => {
                record.start_trace(call.map(|call| call.headers), &Headers::default());
                return refused(denial);
            }
        };
        if let Err(denial) = self.begin(&raw, call, record) {
            return refused(denial);
        }
        let now = record.now();
        let mut hooks = Hooks { state, store: &*self.store, trace: record.trace_mut() };
        prepare(&state.snapshot, raw, now, &mut hooks)
    }

    /// Records a request, and checks that there is room for its audit line and its body.
    fn begin<'a: 'r, 'r>(
        &self,
        raw: &RawRequest<'a>,
        call: Option<ProxyCall<'_>>,
        record: &mut CheckRecord<'r>,
    ) -> Result<(), Denial> {
        record.set_request(raw);
        record.start_trace(call.map(|call| call.headers), &raw.headers);
        if !record.has_audit_slot() {
            return Err(overloaded("the audit queue is full, and audit.on_full is deny"));
        }
        if matches!(raw.body, RawBody::Whole(bytes) if bytes.len() > self.max_body) {
            return Err(Denial::new(Reason::BodyTooLarge, "the body is larger than body.max"));
        }
        Ok(())
    }

    /// Decides a prepared check of a call, and calls the store: at most once, not when there is
    /// nothing to admit, and at `now`.
    async fn admit(
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

/// Counts the credential of a denied request against the network of its client, where no honest client
/// has such a credential.
///
/// A key that an issuer may have published since the last fetch is not counted as unknown.
fn note_failure(outcome: &Outcome, state: &State, record: &CheckRecord<'_>) {
    let (Some(bans), Some(address)) = (&state.network_bans, record.address()) else { return };
    let Decision::Deny(denial) = &outcome.decision else { return };
    let Some(failure) = denial.failure else { return };
    let is_certain = match outcome.evidence.missing {
        Some(Missing::Key { source }) => {
            state.sources.get(source).is_some_and(|source| source.has_confirmed_keys())
        }
        _ => true,
    };
    if is_certain {
        bans.count(failure, address);
    }
}

fn refused(denial: Denial) -> Prepared {
    Prepared::Decided(Outcome::refused(denial))
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

/// The hooks of a check: verified tokens are cached, refusals are remembered, and stages are
/// traced.
struct Hooks<'h> {
    state: &'h State,
    store: &'h dyn Store,
    trace: Option<&'h mut Trace>,
}

impl CheckHooks for Hooks<'_> {
    // The store has a clock that never steps.
    fn network_ban(&self, address: IpAddr, _now: Timestamp) -> Option<Ban> {
        self.store.network_ban(address)
    }

    fn verify_from_banned(
        &mut self,
        _snapshot: &Snapshot,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        self.state.verify_from_banned(credential, address, now)
    }

    fn verify(
        &mut self,
        _snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.state.verify(credential, now)
    }

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

    fn passed(&mut self, stage: Stage) {
        if let Some(trace) = &mut self.trace {
            trace.passed(stage);
        }
    }
}

fn shape<'a>(
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
