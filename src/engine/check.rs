//! One check around the core: the snapshot, [`prepare`], one call to the store,
//! [`conclude`](Pending::conclude), the encoded answer, and one record.

mod large;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use http::HeaderMap;
use tollgate_core::{
    admission::{AdmitResponse, Outage},
    authenticate::Verified,
    check::{CheckHooks, Pending, Prepared, PreparedHead, prepare, prepare_head},
    credential::Credential,
    decision::{
        Decision, Failure, Outcome,
        answer::{self, AllowedAnswer, DeniedAnswer},
    },
    denial::{Denial, Reason},
    limit::{Charge, refusal::Refusal},
    request::{Headers, RawBody, RawRequest},
    snapshot::Snapshot,
    stage::Stage,
    time::{Span, Timestamp},
};

pub use self::large::LargeRequest;
pub(crate) use super::body_pool::INLINE;
use super::{
    body_pool::BodyPool,
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
}

/// Returns the time that a check is decided at.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The answer that an adapter encodes.
#[derive(Debug)]
pub struct CheckAnswer<'a> {
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

/// The facts of a check: decision id, route, subject, tenant, model, reason.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a>(pub(crate) [(&'static str, Option<&'a str>); 6]);

impl<'a> Metadata<'a> {
    /// Returns the known facts by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        self.0.iter().filter_map(|(name, value)| Some((*name, (*value)?)))
    }
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checker")
    }
}

impl Checker {
    /// Creates a checker. `local` is the fallback of routes with `on_outage: local`; `max_body` is
    /// `body.max`.
    pub fn new(
        live: Arc<Live>,
        store: Arc<dyn Store>,
        local: Option<Arc<LocalFallback>>,
        observer: Arc<Observer>,
        clock: Clock,
        max_body: usize,
    ) -> Self {
        let remote = store.status().remote;
        let bodies = BodyPool::new();
        Self { live, store, remote, local, observer, clock, max_body, bodies }
    }

    /// Reads one request, decides it and encodes the answer. A request that `read` rejects is
    /// denied, and a panic inside is caught and denied. `call` holds the headers of the proxy's own
    /// call, which may name the trace that the check belongs to.
    ///
    /// There is one wait at most: for a remote store. Temporaries are dropped before it, to keep
    /// the future small.
    pub async fn check<'a, T>(
        &'a self,
        call: Option<&HeaderMap>,
        read: impl FnOnce() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        let answered = AssertUnwindSafe(self.recorded(call, read, &encode)).catch_unwind().await;
        answered.unwrap_or_else(|_| self.answer_after_panic(encode))
    }

    /// The answer to a check that panicked. The panic has finished its record.
    fn answer_after_panic<T>(&self, encode: impl Fn(CheckAnswer<'_>) -> T) -> T {
        let denial = Denial::new(Reason::Internal, "a panic inside the check");
        encode(shape(&Outcome::refused(denial), &self.live.load().snapshot, "panic"))
    }

    /// Checks the head of a request. A denial is answered and recorded as by [`check`](Self::check).
    /// A head that passes is answered with `pass`: nothing is charged or recorded, because the
    /// proxy sends the request again with its body.
    pub fn check_head<'a, T>(
        &'a self,
        call: Option<&HeaderMap>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
        pass: impl FnOnce() -> T,
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
        call: Option<&HeaderMap>,
        read: impl Fn() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> Option<T> {
        let state = self.live.load();
        let outcome = match read() {
            Err(denial) => Outcome::refused(denial),
            Ok(raw) => {
                let mut hooks = Hooks { state: &state, trace: None };
                let (head, _) = raw.split();
                match prepare_head(&state.snapshot, head, (self.clock)(), &mut hooks) {
                    PreparedHead::Complete(Prepared::Decided(outcome)) => outcome,
                    PreparedHead::Complete(Prepared::Pending(_)) | PreparedHead::NeedsBody(_) => {
                        return None;
                    }
                }
            }
        };
        let mut record = self.observer.begin((self.clock)());
        match read() {
            Ok(raw) => {
                record.set_request(&raw);
                record.start_trace(call, &raw.headers);
            }
            Err(_) => record.start_trace(call, &Headers::default()),
        }
        Some(self.answer(&outcome, &state, record, encode))
    }

    /// Answers a request that an adapter did not read, such as one that is too large.
    pub fn refuse<T>(&self, denial: Denial, encode: impl Fn(CheckAnswer<'_>) -> T) -> T {
        let outcome = Outcome::refused(denial);
        let mut record = self.observer.begin((self.clock)());
        record.start_trace(None, &Headers::default());
        self.answer(&outcome, &self.live.load(), record, encode)
    }

    async fn recorded<'a, T>(
        &'a self,
        call: Option<&HeaderMap>,
        read: impl FnOnce() -> Result<RawRequest<'a>, Denial>,
        encode: impl Fn(CheckAnswer<'_>) -> T,
    ) -> T {
        // Declared before the record, which borrows it until the end.
        let outcome;
        let mut record = self.observer.begin((self.clock)());
        let state = self.live.load();
        let pending = match self.prepare(&state, call, read, &mut record) {
            Prepared::Pending(pending) => pending,
            Prepared::Decided(done) => {
                outcome = done;
                return self.answer(&outcome, &state, record, encode);
            }
        };
        let answers = self.ask(&pending, &mut record).await;
        outcome = self.conclude(pending, answers, &state, record.now());
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
        if let Some(source) = outcome.evidence.refresh.and_then(|issuer| state.sources.get(issuer))
        {
            source.request_refresh();
        }
        let encoded = encode(shape(outcome, &state.snapshot, record.id()));
        record.finish();
        encoded
    }

    /// Runs every stage before the store.
    fn prepare<'a: 'r, 'r>(
        &self,
        state: &State,
        call: Option<&HeaderMap>,
        read: impl FnOnce() -> Result<RawRequest<'a>, Denial>,
        record: &mut CheckRecord<'r>,
    ) -> Prepared {
        let raw = match read() {
            Ok(raw) => raw,
            Err(denial) => {
                record.start_trace(call, &Headers::default());
                return refused(denial);
            }
        };
        if let Err(denial) = self.begin(&raw, call, record) {
            return refused(denial);
        }
        let now = record.now();
        let mut hooks = Hooks { state, trace: record.trace_mut() };
        prepare(&state.snapshot, raw, now, &mut hooks)
    }

    /// Records a request, and checks that there is room for its audit line and its body.
    fn begin<'a: 'r, 'r>(
        &self,
        raw: &RawRequest<'a>,
        call: Option<&HeaderMap>,
        record: &mut CheckRecord<'r>,
    ) -> Result<(), Denial> {
        record.set_request(raw);
        record.start_trace(call, &raw.headers);
        if !record.has_audit_slot() {
            let denial = Denial::new(
                Reason::Overloaded,
                "the audit queue is full, and audit.on_full is deny",
            );
            return Err(denial.with_retry_after(Span::from_secs(1)));
        }
        if matches!(raw.body, RawBody::Whole(bytes) if bytes.len() > self.max_body) {
            return Err(Denial::new(Reason::BodyTooLarge, "the body is larger than body.max"));
        }
        Ok(())
    }

    /// Calls the store, at most once, and not when there is nothing to admit.
    async fn ask(
        &self,
        pending: &Pending,
        record: &mut CheckRecord<'_>,
    ) -> Result<AdmitResponse, Outage> {
        if pending.admit_request().is_empty() {
            return Ok(AdmitResponse::Counted(Vec::new()));
        }
        if self.remote {
            record.store_call_started();
        }
        let answers = self.store.admit(pending.admit_request()).await;
        record.store_call_finished(answers.as_ref().err().copied());
        answers
    }

    fn conclude(
        &self,
        pending: Pending,
        answers: Result<AdmitResponse, Outage>,
        state: &State,
        now: Timestamp,
    ) -> Outcome {
        match (answers, &self.local) {
            (Err(outage), Some(local)) if pending.counts_locally(outage) => {
                let answers = local.admit(pending.admit_request());
                remember(&pending, &answers, state, now);
                pending.conclude_locally(outage, answers)
            }
            (answers, _) => {
                remember(&pending, &answers, state, now);
                pending.conclude(answers)
            }
        }
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
    trace: Option<&'h mut Trace>,
}

impl CheckHooks for Hooks<'_> {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.state.tokens.verify(snapshot, credential, now)
    }

    fn has_refusals(&self, now: Timestamp) -> bool {
        self.state.refusals.any(now)
    }

    fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.state.refusals.get(charge)
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
    let metadata = Metadata([
        ("decision_id", Some(decision_id)),
        ("route", evidence.route.as_ref().map(|route| route.name.as_str())),
        ("subject", principal.map(|principal| principal.subject())),
        ("tenant", principal.and_then(|principal| principal.tenant())),
        ("model", evidence.model.as_deref()),
        ("reason", reason.map(Reason::code)),
    ]);
    CheckAnswer { answer, metadata }
}
