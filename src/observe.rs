//! What is seen of a check: one [`CheckRecord`] each, and from it, and nothing else, one line in the audit log and one set of metrics.

pub mod audit;
mod check_result;
pub mod exposition;
pub mod log;
pub mod metrics;
pub mod rfc3339;
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
    request::{Headers, RawRequest},
    text::hex_128,
    time::Timestamp,
};

pub use self::check_result::{AllowBasis, CheckResult};
use self::{
    audit::{Audit, Slot, line::CheckLine},
    exposition::{Queues, Status},
    metrics::{CheckSample, Metrics},
    rfc3339::Rfc3339,
    trace::{Trace, Tracer},
};

/// The clock on the wall, for the edge: the core takes the moment as an argument.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Where records go.
#[derive(Debug)]
pub struct Observer {
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    tracer: Option<Tracer>,
}

impl Observer {
    /// Puts the two together. Nothing is traced.
    pub fn new(metrics: Arc<Metrics>, audit: Arc<Audit>) -> Self {
        Self { metrics, audit, tracer: None }
    }

    /// Traces checks besides, where there is a tracer.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// Starts the record of one check: to be called first, and its record kept in the same function as the answer is made in, so that
    /// whatever ends the check ends the record. `now` is the moment the check is decided against.
    pub fn begin<'a>(&'a self, now: Timestamp) -> CheckRecord<'a> {
        let (slot, has_audit_slot) = match self.audit.reserve() {
            Ok(slot) => (slot, true),
            Err(audit::QueueFull) => (None, false),
        };
        CheckRecord {
            observer: self,
            id: hex_128(rand::random()),
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

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The audit log.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// What traces checks, if anything does.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    /// Everything counted, as OpenMetrics text, with what the other rooms know at this moment.
    ///
    /// # Errors
    /// None that occurs: it writes into memory.
    pub fn exposition(&self, status: Status) -> Result<String, std::fmt::Error> {
        let queues = Queues {
            dropped: self.audit.dropped(),
            audit: self.audit.usage(),
            spans: self.tracer().map(Tracer::span_counts),
        };
        exposition::exposition(&self.metrics, status, queues)
    }
}

/// The record of one check. It is finished when it is dropped: as the outcome says after [`CheckRecord::finish`], otherwise as `panic`
/// while unwinding and as `cancelled` in any other case, whatever was decided. Nothing that was not answered counts as allowed.
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
    /// Only of a check that is traced.
    trace: Option<Box<Trace>>,
    answered: bool,
}

/// The question to a store elsewhere.
#[derive(Clone, Copy, Debug)]
enum StoreCall {
    None,
    Started(Instant),
    Finished(Duration),
}

/// The request, as it was sent.
#[derive(Debug, Default)]
struct RequestFields<'a> {
    method: &'a [u8],
    host: &'a [u8],
    path: &'a [u8],
    address: Option<IpAddr>,
}

impl<'a> CheckRecord<'a> {
    /// The decision id: 128 random bits in lower-case hex, the same in the audit line and in the answer's headers.
    pub fn id(&self) -> &str {
        // It is hex. Should it not be, a check without a name is better than none.
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// The moment the check is decided against.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether the audit log has room for this check. Where it has none and the policy says `on_full: deny`, the check must be denied with
    /// [`tollgate_core::denial::Reason::Overloaded`] before the store is asked.
    pub fn has_audit_slot(&self) -> bool {
        self.has_audit_slot
    }

    /// Notes what is asked.
    pub fn set_request(&mut self, request: &RawRequest<'a>) {
        self.request = RequestFields {
            method: request.method,
            host: request.host,
            path: request.path,
            address: request.address,
        };
    }

    /// Begins the span of this check, where checks are traced and this one is sampled. `call` is the head of the proxy's own call, if it
    /// is not the same as the checked request's `headers`.
    pub fn start_trace(&mut self, call: Option<&HeaderMap>, headers: &Headers<'_>) {
        if let Some(tracer) = &self.observer.tracer {
            self.trace = tracer.begin(call, headers);
        }
    }

    /// The span of this check, if it is traced.
    pub(crate) fn trace_mut(&mut self) -> Option<&mut Trace> {
        self.trace.as_deref_mut()
    }

    /// Notes that a store elsewhere is being asked.
    pub fn store_call_started(&mut self) {
        self.store = StoreCall::Started(Instant::now());
        if let Some(trace) = &mut self.trace {
            trace.store_call_started();
        }
    }

    /// Notes that the store, wherever it is, has answered or cannot be asked.
    pub fn store_call_finished(&mut self, outage: Option<Outage>) {
        if let StoreCall::Started(at) = self.store {
            self.store = StoreCall::Finished(at.elapsed());
        }
        if let Some(trace) = &mut self.trace {
            trace.store_call_finished(outage);
        }
    }

    /// Notes what was decided. The last outcome noted is the one that counts.
    pub fn set_outcome(&mut self, outcome: &'a Outcome) {
        self.outcome = Some(outcome);
    }

    /// Finishes the record: the answer is encoded and nothing can go wrong with it here any more.
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

    /// Why it ended so, where there is more to say than the reason.
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

    /// The span of a check that is traced.
    fn traced(&self, trace: Trace, tracer: &Tracer, result: CheckResult) {
        let evidence = self.outcome.map(|outcome| &outcome.evidence);
        let data = trace::CheckData {
            began: self.now,
            decision_id: self.id().to_owned(),
            result,
            route: evidence.and_then(|evidence| evidence.route.clone()),
            model: evidence.and_then(|evidence| evidence.model.clone()),
            outage: evidence.and_then(|evidence| evidence.outage),
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
        let metrics = &self.observer.metrics;
        metrics.count(&CheckSample {
            route,
            model,
            limits: evidence.map(|evidence| evidence.limits.as_slice()).unwrap_or_default(),
            result,
            elapsed,
            store: if let StoreCall::Finished(elapsed) = self.store { Some(elapsed) } else { None },
            outage: evidence.and_then(|evidence| evidence.outage),
            member: self.outcome.and_then(|outcome| match &outcome.decision {
                Decision::Deny(denial) => denial.member_label(),
                _ => None,
            }),
        });
        if let Some(principal) = principal {
            metrics.count_subject(principal, matches!(result, CheckResult::Allow(_)));
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
            client_ip: self.request.address,
            principal,
            method: self.request.method,
            host: self.request.host,
            path: self.request.path,
            model,
            route,
            decision: result.decision(),
            reason: result.reason(),
            cause: cause.as_deref(),
            microseconds: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        };
        self.observer.audit.write(slot, |line| fields.write(line));
    }
}

#[cfg(test)]
pub(crate) mod tests;
