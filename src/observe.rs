//! Observation of checks: each check has one [`CheckRecord`], and its audit line, its metrics and
//! its span are made from that record and nothing else.

pub mod audit;
mod check_result;
pub mod exposition;
pub mod key_events;
pub mod key_uses;
pub mod ledger;
pub mod log;
pub mod metrics;
pub mod offenders;
mod process;
pub mod settlements;
mod subjects;
pub mod trace;

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::HeaderMap;
use tollgate_core::{
    admission::Outage,
    decision::{Decision, Outcome},
    denial::Denial,
    identity::Principal,
    request::{Headers, RawRequest},
    stage::Stage,
    text::hex_128,
    time::Timestamp,
};

pub use tollgate_core::time::rfc3339;

pub use self::check_result::{AllowBasis, CheckResult};
use self::{
    audit::{Audit, Slot, line::CheckLine},
    exposition::{Queues, Status},
    key_uses::KeyUses,
    metrics::{CheckSample, Metrics},
    rfc3339::Rfc3339,
    trace::{Trace, Tracer},
};

/// Returns the current time. The core takes the time as an argument.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The destinations of records: metrics, the audit log and spans.
#[derive(Debug)]
pub struct Observer {
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    tracer: Option<Tracer>,
    key_uses: KeyUses,
}

impl Observer {
    /// Creates an observer that traces nothing.
    pub fn new(metrics: Arc<Metrics>, audit: Arc<Audit>) -> Self {
        Self { metrics, audit, tracer: None, key_uses: KeyUses::new() }
    }

    /// Adds a tracer, if there is one.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// Starts the record of one check. The caller starts it first and keeps it in the function that
    /// makes the answer, so that whatever ends the check ends the record. `now` is the time that
    /// the check is decided at.
    pub fn begin<'a>(&'a self, now: Timestamp) -> CheckRecord<'a> {
        let (slot, has_audit_slot) = match self.audit.reserve() {
            Ok(slot) => (slot, true),
            Err(audit::QueueFull) => (None, false),
        };
        CheckRecord {
            observer: self,
            // One number: an array is filled byte by byte.
            id: hex_128(rand::random::<u128>().to_ne_bytes()),
            now,
            started: Instant::now(),
            store: StoreCall::None,
            slot,
            has_audit_slot,
            request: RequestFields::default(),
            outcome: None,
            trace: None,
            answered: false,
        }
    }

    /// The metrics of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The uses of API keys that are not collected yet.
    pub fn key_uses(&self) -> &KeyUses {
        &self.key_uses
    }

    /// The audit log.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// The tracer; `None` where tracing is off.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    /// Returns all metrics as OpenMetrics text. `status` holds the state of the other modules.
    ///
    /// # Errors
    /// None occurs: it writes into memory.
    pub fn exposition(&self, status: Status) -> Result<String, std::fmt::Error> {
        let queues = Queues {
            dropped: self.audit.dropped(),
            audit: self.audit.usage(),
            spans: self.tracer().map(Tracer::span_counts),
        };
        exposition::exposition(&self.metrics, status, queues)
    }
}

/// The record of one check, finished when it is dropped. Its result is that of the outcome after
/// [`CheckRecord::finish`], otherwise `panic` while unwinding and `cancelled` in any other case. A
/// check that was not answered never counts as allowed.
#[derive(Debug)]
#[must_use = "a record that is dropped at once counts as cancelled"]
pub struct CheckRecord<'a> {
    observer: &'a Observer,
    id: [u8; 32],
    now: Timestamp,
    started: Instant,
    store: StoreCall,
    slot: Option<Slot<'a>>,
    has_audit_slot: bool,
    request: RequestFields<'a>,
    outcome: Option<&'a Outcome>,
    /// The span, where the check is traced.
    trace: Option<Box<Trace>>,
    answered: bool,
}

/// The state of the call to a remote store.
#[derive(Clone, Copy, Debug)]
enum StoreCall {
    None,
    Started(Instant),
    Finished(Duration),
}

/// The parts of the request that audit lines show.
#[derive(Debug, Default)]
struct RequestFields<'a> {
    method: &'a [u8],
    host: &'a [u8],
    path: &'a [u8],
    address: Option<IpAddr>,
    request_id: Option<&'a [u8]>,
}

impl<'a> CheckRecord<'a> {
    /// The decision id: 128 random bits in lower-case hex, as in the audit line and the answer's
    /// headers.
    pub fn id(&self) -> &str {
        // Always hex. If it were not, a check without an id would be better than none.
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// The time that the check is decided at.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The moment at which the check began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The client's address, as the proxy reports it.
    pub fn address(&self) -> Option<IpAddr> {
        self.request.address
    }

    /// Whether the audit queue has room for the line of this check. Without room, and with
    /// `on_full: deny`, the check must be denied with [`tollgate_core::denial::Reason::Overloaded`]
    /// before the store is called.
    pub fn has_audit_slot(&self) -> bool {
        self.has_audit_slot
    }

    /// Records the request.
    pub fn set_request(&mut self, request: &RawRequest<'a>) {
        self.request = RequestFields {
            method: request.method,
            host: request.host,
            path: request.path,
            address: request.address,
            request_id: request.headers.request_id(),
        };
    }

    /// Starts the span of this check, where it is sampled. `call` holds the headers of the proxy's
    /// own call, where they differ from the `headers` of the checked request.
    pub fn start_trace(&mut self, call: Option<&HeaderMap>, headers: &Headers<'_>) {
        if let Some(tracer) = &self.observer.tracer {
            self.trace = tracer.begin(call, headers);
        }
    }

    /// The span of this check, where it is traced.
    pub(crate) fn trace_mut(&mut self) -> Option<&mut Trace> {
        self.trace.as_deref_mut()
    }

    /// Records that the call to a remote store starts.
    pub fn store_call_started(&mut self) {
        self.store = StoreCall::Started(Instant::now());
        if let Some(trace) = &mut self.trace {
            trace.store_call_started();
        }
    }

    /// Records that the store has answered, or failed with an outage.
    pub fn store_call_finished(&mut self, outage: Option<Outage>) {
        if let StoreCall::Started(at) = self.store {
            self.store = StoreCall::Finished(at.elapsed());
        }
        if let Some(trace) = &mut self.trace {
            trace.store_call_finished(outage);
        }
    }

    /// Records the outcome. A later outcome replaces an earlier one.
    pub fn set_outcome(&mut self, outcome: &'a Outcome) {
        self.outcome = Some(outcome);
    }

    /// Finishes the record: the answer is encoded.
    pub fn finish(mut self) {
        self.answered = true;
        if let Some(trace) = &mut self.trace {
            trace.answer_encoded();
        }
    }

    fn result(&self) -> CheckResult {
        match self.outcome {
            _ if thread::panicking() => CheckResult::Panic,
            Some(outcome) if self.answered => CheckResult::of(outcome),
            _ => CheckResult::Cancelled,
        }
    }

    /// The cause for the audit line, where there is more than the reason.
    fn cause(&self, result: CheckResult) -> Option<Cow<'a, str>> {
        let outcome = self.outcome?;
        let decided = CheckResult::of(outcome);
        if decided != result {
            return Some(
                format!(
                    "decided `{}` ({}), and not answered",
                    decided.decision(),
                    decided.reason()
                )
                .into(),
            );
        }
        match &outcome.decision {
            Decision::Allow(_) => outcome
                .evidence
                .outage
                .map(|outage| format!("the store could not be asked ({})", outage.label()).into()),
            Decision::Deny(denial) => Some(Cow::Borrowed(&denial.cause)),
            Decision::Fail(failure) => Some(Cow::Borrowed(&failure.cause)),
        }
    }

    /// The denial, where the request was denied.
    fn denial(&self, result: CheckResult) -> Option<&'a Denial> {
        match (&self.outcome?.decision, result) {
            (Decision::Deny(denial), CheckResult::Deny(_)) => Some(denial),
            _ => None,
        }
    }

    /// Ends the span of a traced check.
    fn traced(&self, trace: Trace, tracer: &Tracer, result: CheckResult) {
        let evidence = self.outcome.map(|outcome| &outcome.evidence);
        let data = trace::CheckData {
            began: self.now,
            decision_id: self.id().to_owned(),
            result,
            route: evidence.and_then(|evidence| evidence.route.clone()),
            model: evidence.and_then(|evidence| evidence.model.clone()),
            outage: evidence.and_then(|evidence| evidence.outage),
            credential: evidence.and_then(|evidence| evidence.credential),
            principal: evidence
                .and_then(|evidence| evidence.principal.clone())
                .filter(|_| tracer.identity()),
        };
        tracer.end(trace, data);
    }
}

impl Drop for CheckRecord<'_> {
    fn drop(&mut self) {
        let result = self.result();
        let elapsed = self.started.elapsed();
        let evidence = self.outcome.map(|outcome| &outcome.evidence);
        let route = evidence
            .and_then(|evidence| evidence.route.as_deref())
            .map(|route| route.name.as_str());
        let principal = evidence.and_then(|evidence| evidence.principal.as_deref());
        let model = evidence.and_then(|evidence| evidence.model.as_deref());
        let credential = evidence.and_then(|evidence| evidence.credential);
        let denial = self.denial(result);
        let claimed = denial.and_then(|denial| denial.claimed.as_deref());
        let claimed_issuer = claimed.and_then(|claimed| claimed.issuer.as_deref());
        let metrics = &self.observer.metrics;
        metrics.count(&CheckSample {
            route,
            credential,
            issuer: principal.map(Principal::issuer).or(claimed_issuer),
            model,
            limits: evidence.map(|evidence| evidence.limits.as_slice()).unwrap_or_default(),
            remembered: evidence.is_some_and(|evidence| evidence.stage == Stage::Refusals),
            result,
            elapsed,
            store: if let StoreCall::Finished(elapsed) = self.store { Some(elapsed) } else { None },
            outage: evidence.and_then(|evidence| evidence.outage),
            member: self.outcome.and_then(|outcome| match &outcome.decision {
                Decision::Deny(denial) => denial.member_label(),
                _ => None,
            }),
            would_deny: evidence.map(|evidence| &evidence.would_deny),
        });
        if let Some(principal) = principal {
            metrics.count_subject(principal, matches!(result, CheckResult::Allow(_)));
            if let Some(key) = principal.key() {
                self.observer.key_uses.note(&key.id, self.request.address, self.now);
            }
        }
        if let (Some(trace), Some(tracer)) = (self.trace.take(), &self.observer.tracer) {
            self.traced(*trace, tracer, result);
        }
        if !self.observer.audit.is_on() {
            return;
        }
        let slot = self.slot.take();
        let cause = self.cause(result);
        let fields = CheckLine {
            time: Rfc3339(self.now),
            decision_id: &self.id,
            request_id: self.request.request_id,
            client_ip: self.request.address,
            credential,
            principal,
            claimed_issuer,
            method: self.request.method,
            host: self.request.host,
            path: self.request.path,
            model: model.or_else(|| claimed.and_then(|claimed| claimed.model.as_deref())),
            route,
            decision: result.decision(),
            reason: result.reason(),
            status: denial.map(Denial::http),
            cause: cause.as_deref(),
            would_deny: evidence.map(|evidence| &evidence.would_deny),
            microseconds: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        };
        self.observer.audit.write(slot, |line| fields.write(line));
    }
}

#[cfg(test)]
pub(crate) mod tests;
