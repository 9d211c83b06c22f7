//! One check around the core: the snapshot, [`prepare`], one call to the store,
//! [`conclude`](tollgate_core::check::Pending::conclude), the encoded answer, and one record.

mod admit;
mod answer;
mod client_shares;
mod hooks;
mod large;
mod lookup;
mod stream_guards;
mod unanswered;

use std::{
    borrow::Cow,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use http::HeaderMap;
use tollgate_core::{
    admission::{Settlement, Usage},
    check::{Prepared, PreparedHead, prepare, prepare_head},
    decision::{Decision, Missing, Outcome},
    denial::{Denial, Reason},
    limit::reservation::Reservation,
    request::{Headers, RawBody, RawRequest},
    time::{Span, Timestamp},
};

use self::{
    answer::shape, client_shares::ClientShares, hooks::Hooks, stream_guards::StreamGuards,
    unanswered::Unanswered,
};
pub use self::{
    answer::{Answer, CheckAnswer, Metadata},
    large::LargeRequest,
    stream_guards::StreamGuard,
};
pub use super::body_pool::INLINE;
pub(crate) use super::deadline::CHECK_WITHIN;
use super::{
    body_pool::BodyPool,
    deadline::Deadline,
    live::{Live, State},
};
use crate::{
    observe::{CheckRecord, Observer},
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
        self.note_failure(&outcome, &state, &record);
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
                self.note_failure(&outcome, &state, &record);
                return self.answer(&outcome, &state, record, encode);
            }
        };
        outcome = self.admit(pending, &state, &mut record, (call, began)).await;
        self.answer(&outcome, &state, record, encode)
    }

    /// Counts the credential of a denied request against the network of its client, where no honest
    /// client has such a credential.
    ///
    /// A key that an issuer may have published since the last fetch is not counted as unknown.
    fn note_failure(&self, outcome: &Outcome, state: &State, record: &CheckRecord<'_>) {
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
            bans.count(failure, address, self.store.network_ban(address).is_some());
        }
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
        if let (Decision::Deny(denial), Some(principal)) =
            (&outcome.decision, &outcome.evidence.principal)
        {
            self.live.denied().count(principal, denial.reason);
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
}

fn refused(denial: Denial) -> Prepared {
    Prepared::Decided(Outcome::refused(denial))
}
