//! What is seen of a check: one [`CheckRecord`] each, and from it, and nothing else, one line in the audit log and one set of metrics.

pub mod audit;
mod ending;
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

pub use self::ending::{Basis, Ending};
use self::{
    audit::{Audit, Place, line::Facts},
    exposition::{Queues, Status},
    metrics::{Count, Metrics},
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
        let (place, has_room) = match self.audit.reserve() {
            Ok(place) => (place, true),
            Err(audit::Full) => (None, false),
        };
        CheckRecord {
            observer: self,
            id: hex_128(rand::random()),
            now,
            started: Instant::now(),
            store: Store::NotAsked,
            place,
            has_room,
            asked: Asked::default(),
            decided: None,
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
            waiting: self.audit.waiting(),
            spans: self.tracer().map(Tracer::sent),
        };
        exposition::exposition(&self.metrics, status, queues)
    }
}

/// The record of one check. It is finished when it is dropped: as the outcome says after [`CheckRecord::answered`], otherwise as `panic`
/// while unwinding and as `cancelled` in any other case, whatever was decided. Nothing that was not answered counts as allowed.
#[derive(Debug)]
#[must_use = "a record that is dropped at once counts as cancelled"]
pub struct CheckRecord<'a> {
    observer: &'a Observer,
    id: [u8; 32],
    now: Timestamp,
    started: Instant,
    store: Store,
    place: Option<Place<'a>>,
    has_room: bool,
    asked: Asked<'a>,
    decided: Option<&'a Outcome>,
    /// Only of a check that is traced.
    trace: Option<Box<Trace>>,
    answered: bool,
}

/// The question to a store elsewhere.
#[derive(Clone, Copy, Debug)]
enum Store {
    NotAsked,
    Asked(Instant),
    Answered(Duration),
}

/// The request, as it was sent.
#[derive(Debug, Default)]
struct Asked<'a> {
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
    pub fn has_room(&self) -> bool {
        self.has_room
    }

    /// Notes what is asked.
    pub fn asked(&mut self, request: &RawRequest<'a>) {
        self.asked = Asked {
            method: request.method,
            host: request.host,
            path: request.path,
            address: request.address,
        };
    }

    /// Begins the span of this check, where checks are traced and this one is sampled. `call` is the head of the proxy's own call, if it
    /// is not the same as the checked request's `headers`.
    pub fn trace(&mut self, call: Option<&HeaderMap>, headers: &Headers<'_>) {
        if let Some(tracer) = &self.observer.tracer {
            self.trace = tracer.begin(call, headers);
        }
    }

    /// The span of this check, if it is traced.
    pub(crate) fn trace_in_progress(&mut self) -> Option<&mut Trace> {
        self.trace.as_deref_mut()
    }

    /// Notes that a store elsewhere is being asked.
    pub fn asking(&mut self) {
        self.store = Store::Asked(Instant::now());
        if let Some(trace) = &mut self.trace {
            trace.asking();
        }
    }

    /// Notes that the store, wherever it is, has answered or cannot be asked.
    pub fn told(&mut self, outage: Option<Outage>) {
        if let Store::Asked(at) = self.store {
            self.store = Store::Answered(at.elapsed());
        }
        if let Some(trace) = &mut self.trace {
            trace.told(outage);
        }
    }

    /// Notes what was decided. The last outcome noted is the one that counts.
    pub fn decided(&mut self, outcome: &'a Outcome) {
        self.decided = Some(outcome);
    }

    /// Finishes the record: the answer is encoded and nothing can go wrong with it here any more.
    pub fn answered(mut self) {
        self.answered = true;
        if let Some(trace) = &mut self.trace {
            trace.answered();
        }
    }

    fn ending(&self) -> Ending {
        match self.decided {
            _ if thread::panicking() => Ending::Panic,
            Some(outcome) if self.answered => Ending::of(outcome),
            _ => Ending::Cancelled,
        }
    }

    /// Why it ended so, where there is more to say than the reason.
    fn cause(&self, ending: Ending) -> Option<Cow<'a, str>> {
        let outcome = self.decided?;
        let decided = Ending::of(outcome);
        if decided != ending {
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
    fn traced(&self, trace: Trace, tracer: &Tracer, ending: Ending) {
        let evidence = self.decided.map(|outcome| &outcome.evidence);
        let facts = trace::Facts {
            began: self.now,
            decision_id: self.id().to_owned(),
            ending,
            route: evidence.and_then(|evidence| evidence.route.clone()),
            model: evidence.and_then(|evidence| evidence.model.clone()),
            outage: evidence.and_then(|evidence| evidence.outage),
            principal: evidence
                .and_then(|evidence| evidence.principal.clone())
                .filter(|_| tracer.identity()),
        };
        tracer.end(trace, facts);
    }
}

impl Drop for CheckRecord<'_> {
    fn drop(&mut self) {
        let ending = self.ending();
        let took = self.started.elapsed();
        let evidence = self.decided.map(|outcome| &outcome.evidence);
        let route = evidence
            .and_then(|evidence| evidence.route.as_deref())
            .map(|route| route.name.as_str());
        let principal = evidence.and_then(|evidence| evidence.principal.as_deref());
        let model = evidence.and_then(|evidence| evidence.model.as_deref());
        let metrics = &self.observer.metrics;
        metrics.count(&Count {
            route,
            model,
            limits: evidence.map(|evidence| evidence.limits.as_slice()).unwrap_or_default(),
            ending,
            took,
            store: if let Store::Answered(took) = self.store { Some(took) } else { None },
            outage: evidence.and_then(|evidence| evidence.outage),
        });
        if let Some(principal) = principal {
            metrics.count_subject(principal, matches!(ending, Ending::Allow(_)));
        }
        if let (Some(trace), Some(tracer)) = (self.trace.take(), &self.observer.tracer) {
            self.traced(*trace, tracer, ending);
        }
        if !self.observer.audit.is_on() {
            return;
        }
        let place = self.place.take();
        let cause = self.cause(ending);
        let facts = Facts {
            time: Rfc3339(self.now),
            decision_id: &self.id,
            client_ip: self.asked.address,
            principal,
            method: self.asked.method,
            host: self.asked.host,
            path: self.asked.path,
            model,
            route,
            decision: ending.decision(),
            reason: ending.reason(),
            cause: cause.as_deref(),
            microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        self.observer.audit.write(place, |line| facts.write(line));
    }
}

#[cfg(test)]
pub(crate) mod tests;
