use tollgate_core::{
    admission::Outage,
    denial::Reason,
    stage::{Check, Stage},
    time::{Span as Period, Timestamp},
};

use super::*;
use crate::{
    observe::check_result::{AllowBasis, CheckResult},
    proto::opentelemetry::proto::{common::v1::any_value::Value, trace::v1 as wire},
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn config(sections: &str) -> TracingConfig {
    // No program listens on port 1 of loopback.
    let text = format!("{{ endpoint: 'http://127.0.0.1:1', {sections} }}");
    tollgate_core::config::Document::parse(&text, &|_| None).unwrap().read().unwrap()
}

fn headers(parent: Option<&'static str>) -> Headers<'static> {
    let mut headers = Headers::default();
    if let Some(parent) = parent {
        headers.push("traceparent", parent.as_bytes());
    }
    headers
}

fn data(result: CheckResult) -> CheckData {
    CheckData {
        began: Timestamp::from_micros(1_795_318_921_000_042),
        decision_id: "0123456789abcdef0123456789abcdef".into(),
        result,
        route: None,
        model: Some("qwen".into()),
        outage: None,
        credential: None,
        principal: None,
    }
}

fn written(trace: Trace, data: CheckData) -> Vec<wire::Span> {
    let mut spans = Vec::new();
    trace.end(data).write(&mut spans);
    spans
}

fn attributes(span: &wire::Span) -> Vec<(&str, &str)> {
    let attributes = span.attributes.iter();
    let read = attributes.map(|attribute| {
        match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => (attribute.key.as_str(), text.as_str()),
            other => panic!("{other:?}"),
        }
    });
    read.collect()
}

#[tokio::test]
async fn a_parent_decides_and_else_the_ratio() {
    for (ratio, parent, sampled) in [
        ("1", None, true),
        ("0", None, false),
        ("0", Some(PARENT), true),
        ("1", Some(UNSAMPLED), false),
        ("0.5", Some(PARENT), true),
    ] {
        let tracer = Tracer::start(&config(&format!("sample_ratio: {ratio}"))).unwrap();
        assert_eq!(tracer.begin(None, &headers(parent)).is_some(), sampled, "{ratio} {parent:?}");
    }
    let tracer = Tracer::start(&config("sample_ratio: 0.25")).unwrap();
    let sampled = (0..4000).filter(|_| tracer.begin(None, &headers(None)).is_some()).count();
    // Ten standard deviations.
    assert!((730..1270).contains(&sampled), "{sampled} of 4000");
}

#[test]
fn a_span_says_what_happened_when_and_below_what() {
    let mut trace = Trace::new(Parent::find(None, &headers(Some(PARENT))));
    for stage in Stage::ALL.into_iter().filter(|stage| {
        // The last check of a credential represents all of them.
        !matches!(stage, Stage::Verification(check) if *check != Check::Claims)
    }) {
        trace.passed(stage);
    }
    trace.store_call_started();
    trace.store_call_finished(None);
    trace.answer_encoded();
    let spans = written(trace, data(CheckResult::Allow(AllowBasis::Credential)));
    let [check, store] = spans.as_slice() else { panic!("{spans:?}") };

    assert_eq!(check.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(check.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!((check.name.as_str(), check.kind), ("check", wire::span::SpanKind::Server.into()));
    assert_eq!(check.start_time_unix_nano, 1_795_318_921_000_042_000);
    // Sampled, and the parent is known to be in another process.
    assert_eq!(check.flags, 0x301);
    let events: Vec<_> = check.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["parse", "route", "authenticate", "authorize", "store", "answer"]);
    let times: Vec<u64> = check
        .events
        .iter()
        .map(|event| event.time_unix_nano)
        .chain([check.end_time_unix_nano])
        .collect();
    assert!(times.is_sorted() && times[0] >= check.start_time_unix_nano, "{times:?}");
    assert_eq!(
        attributes(check),
        [
            ("tollgate.decision", "allow"),
            ("tollgate.reason", "granted"),
            ("tollgate.decision_id", "0123456789abcdef0123456789abcdef"),
            ("tollgate.model", "qwen"),
        ]
    );
    assert_eq!(check.status.unwrap().code, wire::status::StatusCode::Unset as i32);

    assert_eq!((&store.trace_id, &store.parent_span_id), (&check.trace_id, &check.span_id));
    assert_eq!(
        (store.name.as_str(), store.kind, store.flags),
        ("store", wire::span::SpanKind::Client.into(), 0x101)
    );
    assert!(store.start_time_unix_nano >= times[3] && store.end_time_unix_nano <= times[4]);
}

#[test]
fn what_failed_is_marked_and_what_was_refused_is_not() {
    use wire::status::StatusCode::{Error, Unset};
    for (result, status) in [
        (CheckResult::Deny(Reason::Expired), Unset),
        (CheckResult::Deny(Reason::RateLimited), Unset),
        (CheckResult::Cancelled, Unset),
        (CheckResult::Deny(Reason::StoreUnavailable), Error),
        (CheckResult::Error(Reason::StoreUnavailable), Error),
        (CheckResult::Panic, Error),
    ] {
        let [check] = &written(Trace::new(None), data(result))[..] else { panic!("{result:?}") };
        assert_eq!(check.status.unwrap().code, status as i32, "{result:?}");
        assert_eq!((check.parent_span_id.len(), check.flags), (0, 0x101));
    }
    let mut trace = Trace::new(None);
    trace.store_call_started();
    trace.store_call_finished(Some(Outage::Deadline));
    let spans = written(trace, data(CheckResult::Error(Reason::StoreUnavailable)));
    assert_eq!(
        (attributes(&spans[1]), spans[1].status.unwrap().code),
        (vec![("tollgate.outage", "deadline")], Error as i32)
    );
    // Cancelled before the store answered.
    let mut trace = Trace::new(None);
    trace.store_call_started();
    assert_eq!(
        attributes(&written(trace, data(CheckResult::Cancelled))[1]),
        [("tollgate.outage", "cancelled")]
    );
}

#[test]
fn texts_are_cut() {
    let spans = written(
        Trace::new(None),
        CheckData { model: Some("é".repeat(200).into()), ..data(CheckResult::Cancelled) },
    );
    assert_eq!(attributes(&spans[0])[3], ("tollgate.model", &*"é".repeat(128)));
}

/// Without an exporter the queue fills; further spans are counted and dropped, and nothing waits.
#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let tracer = Tracer::start(&config("queue: 3, sample_ratio: 1")).unwrap();
    // The exporter does not run before this test awaits.
    for _ in 0..5 {
        let trace = tracer.begin(None, &headers(None)).unwrap();
        tracer.end(*trace, data(CheckResult::Cancelled));
    }
    assert_eq!(tracer.span_counts(), SpanCounts { full: 2, ..SpanCounts::default() });
    // Closing tries once, and discards what no collector takes.
    assert!(tracer.close(Duration::from_secs(10)).await);
    assert_eq!(tracer.span_counts(), SpanCounts { full: 2, export: 3, ..SpanCounts::default() });
    let late = tracer.begin(None, &headers(None)).unwrap();
    tracer.end(*late, data(CheckResult::Cancelled));
    assert_eq!(tracer.span_counts().full, 3);
}

#[tokio::test]
async fn a_file_that_is_not_there_stops_the_start() {
    for section in ["headers: { authorization: 'file:/nowhere/token' }", "tls_ca: /nowhere/ca.pem"]
    {
        let mut config = config(section);
        if config.tls_ca.is_some() {
            config.endpoint = "https://127.0.0.1:1".into();
        }
        let error = Tracer::start(&config).unwrap_err().to_string();
        assert!(error.starts_with("observe.tracing.") && error.contains("/nowhere/"), "{error}");
    }
    assert_eq!(config("timeout: 2s").timeout, Period::from_secs(2));
}
