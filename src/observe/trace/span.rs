//! One check as a span: what is recorded while it runs, and its form on the wire.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate_core::{
    admission::Outage,
    identity::{CredentialKind, Principal},
    route::Route,
    stage::Stage,
    time::Timestamp,
};

use super::context::Parent;
use crate::{
    observe::check_result::CheckResult,
    proto::opentelemetry::proto::{
        common::v1::{AnyValue, KeyValue, any_value},
        trace::v1 as wire,
    },
};

/// `flags`: whether bit 9, the location of the parent, is valid.
const KNOWS_WHERE_PARENT_IS: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// Most bytes of a text in an attribute, as in an audit line.
const MAX_TEXT: usize = 256;

/// The span of a running check.
#[derive(Debug)]
pub(crate) struct Trace {
    trace: u128,
    span: u64,
    parent: Option<Parent>,
    started: Instant,
    events: Vec<(&'static str, Duration)>,
    store: Option<StoreCall>,
}

/// The call to the store.
#[derive(Clone, Copy, Debug)]
struct StoreCall {
    from: Duration,
    to: Option<Duration>,
    outage: Option<Outage>,
}

/// The span of a finished check.
#[derive(Debug)]
pub(crate) struct Span {
    trace: Trace,
    data: CheckData,
    elapsed: Duration,
}

/// The facts of a finished check, from its record.
#[derive(Debug)]
pub(crate) struct CheckData {
    pub(crate) began: Timestamp,
    pub(crate) decision_id: String,
    pub(crate) result: CheckResult,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) model: Option<Arc<str>>,
    pub(crate) outage: Option<Outage>,
    pub(crate) credential: Option<CredentialKind>,
    /// Set only with `observe.tracing.identity`.
    pub(crate) principal: Option<Arc<Principal>>,
}

impl Trace {
    pub(super) fn new(parent: Option<Parent>) -> Self {
        let trace =
            parent.as_ref().map_or_else(|| rand::random::<u128>().max(1), |parent| parent.trace);
        let span = rand::random::<u64>().max(1);
        Self {
            trace,
            span,
            parent,
            started: Instant::now(),
            events: Vec::with_capacity(6),
            store: None,
        }
    }

    /// Records that a stage was passed. The stages that end a part of the check are events.
    pub(crate) fn passed(&mut self, stage: Stage) {
        let event = match stage {
            Stage::Transport => "parse",
            Stage::Route => "route",
            Stage::Verification(_) => "authenticate",
            Stage::Content => "authorize",
            Stage::Request
            | Stage::Network
            | Stage::Credential
            | Stage::Scopes
            | Stage::Refusals
            | Stage::Body
            | Stage::Model
            | Stage::Conditions
            | Stage::Limits
            | Stage::Store => return,
        };
        self.events.push((event, self.started.elapsed()));
    }

    /// Records that the call to a remote store starts.
    pub(crate) fn store_call_started(&mut self) {
        self.store = Some(StoreCall { from: self.started.elapsed(), to: None, outage: None });
    }

    /// Records that the store has answered, or failed with an outage.
    pub(crate) fn store_call_finished(&mut self, outage: Option<Outage>) {
        let now = self.started.elapsed();
        if let Some(call) = &mut self.store {
            *call = StoreCall { to: Some(now), outage, ..*call };
        }
        self.events.push(("store", now));
    }

    /// Records that the answer is encoded.
    pub(crate) fn answer_encoded(&mut self) {
        self.events.push(("answer", self.started.elapsed()));
    }

    pub(super) fn end(self, data: CheckData) -> Span {
        let elapsed = self.started.elapsed();
        Span { trace: self, data, elapsed }
    }
}

impl Span {
    /// The number of spans that are exported for this check.
    pub(super) fn count(&self) -> u64 {
        1 + u64::from(self.trace.store.is_some())
    }

    /// Writes the span of the check, and below it that of the store call.
    pub(super) fn write(&self, spans: &mut Vec<wire::Span>) {
        let Self { trace, data, elapsed } = self;
        let began = data.began.micros().saturating_mul(1000);
        let at = |after: Duration| {
            began.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX))
        };
        let state = trace.parent.as_ref().map(|parent| parent.state.clone()).unwrap_or_default();
        let parent = trace
            .parent
            .as_ref()
            .map(|parent| parent.span.to_be_bytes().to_vec())
            .unwrap_or_default();
        let remote = if trace.parent.is_some() { PARENT_IS_REMOTE } else { 0 };
        let events = trace.events.iter().map(|(name, after)| wire::span::Event {
            time_unix_nano: at(*after),
            name: (*name).to_owned(),
        });
        spans.push(wire::Span {
            trace_id: trace.trace.to_be_bytes().to_vec(),
            span_id: trace.span.to_be_bytes().to_vec(),
            trace_state: state.clone(),
            parent_span_id: parent,
            name: "check".into(),
            kind: wire::span::SpanKind::Server.into(),
            start_time_unix_nano: began,
            end_time_unix_nano: at(*elapsed),
            attributes: data.attributes(),
            events: events.collect(),
            status: Some(status(data.is_fault())),
            flags: SAMPLED | KNOWS_WHERE_PARENT_IS | remote,
        });
        let Some(store) = trace.store else { return };
        let outage = match (store.to, store.outage) {
            (_, Some(outage)) => Some(outage.label()),
            // The check ended before the store answered.
            (None, None) => Some("cancelled"),
            (Some(_), None) => None,
        };
        spans.push(wire::Span {
            trace_id: trace.trace.to_be_bytes().to_vec(),
            span_id: rand::random::<u64>().max(1).to_be_bytes().to_vec(),
            trace_state: state,
            parent_span_id: trace.span.to_be_bytes().to_vec(),
            name: "store".into(),
            kind: wire::span::SpanKind::Client.into(),
            start_time_unix_nano: at(store.from),
            end_time_unix_nano: at(store.to.unwrap_or(*elapsed)),
            attributes: outage.map(|outage| text("tollgate.outage", outage)).into_iter().collect(),
            events: Vec::new(),
            status: Some(status(outage.is_some())),
            flags: SAMPLED | KNOWS_WHERE_PARENT_IS,
        });
    }
}

impl CheckData {
    /// Whether the check itself failed. A rightly denied request is no fault.
    fn is_fault(&self) -> bool {
        match self.result {
            CheckResult::Allow(_) | CheckResult::Cancelled => false,
            CheckResult::Error(_) | CheckResult::Panic => true,
            CheckResult::Deny(reason) => reason.http() >= 500,
        }
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let key = self.principal.as_ref().and_then(|principal| principal.key());
        let optional = [
            ("tollgate.route", self.route.as_ref().map(|route| route.name.as_str())),
            ("tollgate.model", self.model.as_deref()),
            ("tollgate.outage", self.outage.map(Outage::label)),
            ("tollgate.credential", self.credential.map(CredentialKind::label)),
            ("enduser.id", self.principal.as_ref().map(|principal| principal.subject())),
            ("tollgate.tenant", self.principal.as_ref().and_then(|principal| principal.tenant())),
            ("tollgate.key_id", key.map(|key| key.id.as_str())),
        ];
        [
            ("tollgate.decision", self.result.decision()),
            ("tollgate.reason", self.result.reason()),
            ("tollgate.decision_id", self.decision_id.as_str()),
        ]
        .into_iter()
        .chain(optional.into_iter().filter_map(|(name, value)| Some((name, value?))))
        .map(|(name, value)| text(name, value))
        .collect()
    }
}

fn status(fault: bool) -> wire::Status {
    let code =
        if fault { wire::status::StatusCode::Error } else { wire::status::StatusCode::Unset };
    wire::Status { code: code.into() }
}

/// Returns a text attribute, truncated: the text may come from a token or a body.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    let mut end = value.len().min(MAX_TEXT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = value.get(..end).unwrap_or_default().to_owned();
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
    }
}
