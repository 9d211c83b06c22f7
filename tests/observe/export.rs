//! What a collector answers, and what becomes of the spans: OTLP/HTTP against a server that says anything.

use std::sync::{Arc, Mutex};

use prost::Message as _;
use tollgate::pb::opentelemetry::proto::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};

use crate::rig::{
    POLICY, Rig,
    http::{Answer, Reply, Request, Server},
    until,
};

/// A server that gives these answers in turn, the last one for ever, and keeps the exports.
fn collector(answers: Vec<Reply>) -> (u16, Arc<Mutex<Vec<Request>>>) {
    let exports = Arc::<Mutex<Vec<Request>>>::default();
    let kept = Arc::clone(&exports);
    let server = Server::start(move |request| {
        let mut exports = kept.lock().unwrap();
        let answer = answers.get(exports.len()).or(answers.last()).unwrap().clone();
        exports.push(request);
        Answer::Whole(answer)
    });
    (server.port, exports)
}

fn rig(port: u16, more: &str) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "Bearer of-the-collector-0123456789\n").unwrap();
    let section = format!(
        "observe: {{ tracing: {{ endpoint: 'http://127.0.0.1:{port}/otlp/', protocol: http, headers: {{ authorization: 'file:{}' }} {more} }} }}\n",
        token.display()
    );
    let rig = Rig::start(&format!("{POLICY}{section}"));
    assert_eq!(rig.envoy.send(&Request::get("/health")).status, 200);
    // The file is read for each export.
    std::mem::forget(dir);
    rig
}

#[test]
fn what_may_be_sent_again_is() {
    let (port, exports) = collector(vec![Reply::new(503, "").header("Retry-After", "1"), Reply::new(200, "")]);
    let rig = rig(port, "");
    rig.tollgate.until_metric("tollgate_trace_spans_exported_total", &[], 1.0);
    let exports = exports.lock().unwrap();
    let [first, second] = exports.as_slice() else { panic!("{exports:?}") };
    assert_eq!((first.path.as_str(), &first.body), ("/otlp/v1/traces", &second.body));
    assert_eq!(first.all("content-type"), ["application/x-protobuf"]);
    assert_eq!(first.all("authorization"), ["Bearer of-the-collector-0123456789"]);
    let request = ExportTraceServiceRequest::decode(first.body.as_slice()).unwrap();
    assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 1);
    assert!(!rig.tollgate.process.err().contains("of-the-collector"), "a secret in the log");
}

#[test]
fn what_may_not_is_given_up() {
    let (port, exports) = collector(vec![Reply::new(400, "no")]);
    let rig = rig(port, "");
    rig.tollgate.until_metric("tollgate_trace_spans_dropped_total", &["cause=\"export\""], 1.0);
    assert_eq!(exports.lock().unwrap().len(), 1);
    until("a line in the log", || rig.tollgate.process.err().contains("the collector answered HTTP 400").then_some(()));
}

#[test]
fn what_was_left_out_is_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".into() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (port, _exports) = collector(vec![Reply::new(200, answer)]);
    let rig = rig(port, "");
    rig.tollgate.until_metric("tollgate_trace_spans_dropped_total", &["cause=\"rejected\""], 1.0);
    assert_eq!(rig.tollgate.metric("tollgate_trace_spans_exported_total", &[]), 0.0);
    until("a line in the log", || rig.tollgate.process.err().contains("left out 1 of 1: too old").then_some(()));
}

#[test]
fn a_collector_that_never_answers_holds_nobody_up() {
    let server = Server::start(|_| Answer::Silence);
    let rig = rig(server.port, ", timeout: 100ms");
    until("a failure", || rig.tollgate.process.err().contains("did not answer in time").then_some(()));
    assert_eq!(rig.envoy.send(&Request::get("/health")).status, 200);
}
