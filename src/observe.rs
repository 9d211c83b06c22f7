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
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::HeaderMap;
use tollgate_core::{
    authn::Principal,
    check::Step,
    decision::{Decision, Outcome},
    limit::Outage,
    request::{Headers, RawRequest},
    route::Route,
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
            id: decision_id(rand::random()),
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
        let queues =
            Queues { dropped: self.audit.dropped(), waiting: self.audit.waiting(), spans: self.tracer().map(Tracer::sent) };
        exposition::exposition(&self.metrics, status, queues)
    }
}

/// 128 bits in lower-case hex.
fn decision_id(random: u128) -> [u8; 32] {
    let mut id = [0; 32];
    for (at, digit) in id.iter_mut().enumerate() {
        let [nibble, ..] = (random >> (124 - 4 * at) & 15).to_le_bytes();
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    id
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
    place: Option<Place>,
    has_room: bool,
    asked: Asked<'a>,
    decided: Option<Decided>,
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

/// The outcome, as far as it is recorded.
#[derive(Debug)]
struct Decided {
    ending: Ending,
    cause: Option<String>,
    route: Option<Arc<Route>>,
    principal: Option<Arc<Principal>>,
    model: Option<Arc<str>>,
    /// The limits that had no room.
    used_up: Vec<Arc<str>>,
    outage: Option<Outage>,
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
    /// [`tollgate_core::decision::Reason::Overloaded`] before the store is asked.
    pub fn has_room(&self) -> bool {
        self.has_room
    }

    /// Notes what is asked.
    pub fn asked(&mut self, request: &RawRequest<'a>) {
        self.asked = Asked { method: request.method, host: request.host, path: request.path, address: request.address };
    }

    /// Begins the span of this check, where checks are traced and this one is sampled. `call` is the head of the proxy's own call, if it
    /// is not the same as the checked request's `headers`.
    pub fn trace(&mut self, call: Option<&HeaderMap>, headers: &Headers<'_>) {
        if let Some(tracer) = &self.observer.tracer {
            self.trace = tracer.begin(call, headers);
        }
    }

    /// What to tell of each step, if the check is traced.
    pub fn steps(&mut self) -> Option<impl FnMut(Step)> {
        self.trace.as_mut().map(|trace| |step| trace.passed(step))
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
    pub fn decided(&mut self, outcome: &Outcome) {
        let evidence = &outcome.evidence;
        let cause = match &outcome.decision {
            Decision::Allow(_) => evidence.outage.map(|outage| format!("the store could not be asked ({})", outage.label())),
            Decision::Deny(denial) => Some(denial.cause.clone().into_owned()),
            Decision::Fail(failure) => Some(failure.cause.clone()),
        };
        self.decided = Some(Decided {
            ending: Ending::of(outcome),
            cause,
            route: evidence.route.clone(),
            principal: evidence.principal.clone(),
            model: evidence.model.clone(),
            used_up: used_up(outcome),
            outage: evidence.outage,
        });
    }

    /// Finishes the record: the answer is encoded and nothing can go wrong with it here any more.
    pub fn answered(mut self) {
        self.answered = true;
        if let Some(trace) = &mut self.trace {
            trace.answered();
        }
    }

    fn ending(&self) -> Ending {
        match &self.decided {
            _ if thread::panicking() => Ending::Panic,
            Some(decided) if self.answered => decided.ending,
            _ => Ending::Cancelled,
        }
    }
}

impl Drop for CheckRecord<'_> {
    fn drop(&mut self) {
        let ending = self.ending();
        let took = self.started.elapsed();
        let decided = self.decided.take();
        let route = decided.as_ref().and_then(|decided| decided.route.as_deref()).map(|route| route.name.as_str());
        let principal = decided.as_ref().and_then(|decided| decided.principal.as_deref());
        let metrics = &self.observer.metrics;
        metrics.count(&Count {
            route,
            model: decided.as_ref().and_then(|decided| decided.model.as_deref()),
            used_up: decided.as_ref().map(|decided| decided.used_up.as_slice()).unwrap_or_default(),
            ending,
            took,
            store: if let Store::Answered(took) = self.store { Some(took) } else { None },
            outage: decided.as_ref().and_then(|decided| decided.outage),
        });
        if let Some(principal) = principal {
            metrics.count_subject(principal, matches!(ending, Ending::Allow(_)));
        }
        if let (Some(trace), Some(tracer)) = (self.trace.take(), &self.observer.tracer) {
            let decided = decided.as_ref();
            let facts = trace::Facts {
                began: self.now,
                decision_id: self.id().to_owned(),
                ending,
                route: decided.and_then(|decided| decided.route.clone()),
                model: decided.and_then(|decided| decided.model.clone()),
                outage: decided.and_then(|decided| decided.outage),
                principal: decided.and_then(|decided| decided.principal.clone()).filter(|_| tracer.identity()),
            };
            tracer.end(*trace, facts);
        }
        if !self.observer.audit.is_on() {
            return;
        }
        let place = self.place.take();
        let unanswered = decided.as_ref().filter(|decided| decided.ending != ending).map(|decided| {
            let (decision, reason) = (decided.ending.decision(), decided.ending.reason());
            format!("decided `{decision}` ({reason}), and not answered")
        });
        let cause = unanswered.as_deref().or(decided.as_ref().and_then(|decided| decided.cause.as_deref()));
        let facts = Facts {
            time: Rfc3339(self.now),
            decision_id: self.id(),
            client_ip: self.asked.address,
            principal,
            method: self.asked.method,
            host: self.asked.host,
            path: self.asked.path,
            model: decided.as_ref().and_then(|decided| decided.model.as_deref()),
            route,
            decision: ending.decision(),
            reason: ending.reason(),
            cause,
            microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        self.observer.audit.write(place, |line| facts.write(line));
    }
}

/// Allocates nothing for a check that had room.
fn used_up(outcome: &Outcome) -> Vec<Arc<str>> {
    if matches!(outcome.decision, Decision::Allow(_)) {
        return Vec::new();
    }
    let full = outcome.evidence.limits.iter().filter(|status| !status.verdict.admitted);
    full.map(|status| Arc::clone(&status.name)).collect()
}

#[cfg(test)]
pub(crate) mod tests;
