//! One span for each check, in a real collector.

use std::{process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::collector::{Collector, Span};
use crate::rig::{
    POLICY, Rig, SOON, chat, envoy::failure_mode_allow, free_port, http::Request, issuer::Issuer,
    replace_once, tollgate::Tollgate, until, within,
};

/// The trace of a client that traces.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The longest pause between two exports of the same spans.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The blocks of YAML below a heading of docs/observability.md.
fn documented(heading: &str) -> Vec<String> {
    let page = include_str!("../../docs/observability.md");
    let (_, section) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no heading `{heading}`"));
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```yaml ").skip(1).map(|block| block.split_once('\n').unwrap().1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn indented(block: &str, by: usize) -> String {
    block.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// The shipped Envoy configuration with what docs/observability.md adds to it.
fn tracing_envoy(config: String, collector: u16) -> String {
    let blocks = documented("Tracing");
    let [tollgate, manager, cluster] = blocks.as_slice() else { panic!("{blocks:?}") };
    assert!(tollgate.contains("tracing:"));
    let manager = replace_once(manager.clone(), "value: 10", "value: 100");
    let cluster = replace_once(
        cluster.clone(),
        "address: otel-collector, port_value: 4317",
        &format!("address: 127.0.0.1, port_value: {collector}"),
    );
    let config = replace_once(
        config,
        "stat_prefix: ingress\n",
        &format!("stat_prefix: ingress\n{}", indented(&manager, 16)),
    );
    replace_once(config, "  clusters:\n", &format!("  clusters:\n{}", indented(&cluster, 4)))
}

/// Returns the section of docs/observability.md, with another address.
fn tollgate(collector: u16) -> String {
    let block = documented("Tracing").remove(0);
    let block =
        replace_once(block, "http://otel-collector:4317", &format!("http://127.0.0.1:{collector}"));
    block.replace("${POD_NAME}", "pod-7")
}

fn rig(collector: &Collector, section: &str) -> Rig {
    Rig::with(&format!("{POLICY}{section}"), |config| tracing_envoy(config, collector.grpc))
}

#[test]
fn a_check_is_a_span_below_envoy_s_call() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let rig = rig(&collector, &tollgate(collector.grpc));
    let token = rig.token(json!({ "tenant_id": "acme" }));
    assert_eq!(rig.envoy.send(&chat(&token).header("traceparent", PARENT)).status, 200);

    let check = collector.span("check");
    let line = &rig.tollgate.audit()[0];
    assert_eq!(check.field("Trace ID"), TRACE);
    assert_eq!(check.field("Kind"), "SPAN_KIND_SERVER");
    assert_eq!(check.resource["service.name"], "tollgate");
    assert_eq!(check.resource["k8s.pod.name"], "pod-7");
    let expected = [
        ("tollgate.decision", "allow"),
        ("tollgate.reason", "granted"),
        ("tollgate.decision_id", line["decision_id"].as_str().unwrap()),
        ("tollgate.route", "generate"),
        ("tollgate.model", "qwen"),
        ("tollgate.credential", "jwt"),
    ];
    let expected =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(check.attributes, expected);
    assert_eq!(check.events, ["parse", "route", "authenticate", "authorize", "store", "answer"]);

    // Envoy's span for the call is the parent, below the client's trace.
    let call = until("Envoy's spans", || {
        collector.spans().into_iter().find(|span| span.field("ID") == check.field("Parent ID"))
    });
    assert_eq!((call.field("Trace ID"), call.resource["service.name"].as_str()), (TRACE, "envoy"));

    // Spans contain neither the token nor the subject.
    let seen = collector.process.out();
    for secret in [token.as_str(), "alice", "acme"] {
        assert!(!seen.contains(secret), "{secret}");
    }
}

/// Envoy copies `tracestate` into its own call. A call with headers beyond the listener's limit
/// fails, and under this failure policy a failed check passes.
#[test]
fn headers_that_envoy_copies_into_the_call_cannot_make_it_fail() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let rig = Rig::with(&format!("{POLICY}{}", tollgate(collector.grpc)), |config| {
        let copied = " timeout: 10s\n                        initial_metadata: [{ key: x-copy, value: \"%REQ(x-large)%\" }]";
        let config = replace_once(config, " timeout: 10s", copied);
        failure_mode_allow(tracing_envoy(config, collector.grpc))
    });
    for name in ["tracestate", "x-large", "baggage", "b3"] {
        for bytes in [1_000, 17_000, 40_000, 58_000] {
            let value = format!("a={}", "x".repeat(bytes));
            let request = chat("not-a-token").header("traceparent", PARENT).header(name, &value);
            let reply = rig.envoy.send(&request);
            assert_eq!(reply.status, 401, "{name} of {bytes} bytes");
        }
    }
}

/// The doctor sends such headers, and finds a listener whose limit is below what Envoy copies.
#[test]
fn doctor_finds_a_check_that_large_headers_make_fail() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let small = "listen: { grpc: { address: \"unix:${DIR}/authz.sock\", max_header_bytes: 16KiB }, ops: \"127.0.0.1:0\" }\n";
    for (listen, allow, expected) in
        [("", true, "ok"), (small, false, "fault"), (small, true, "leak")]
    {
        let section = format!("{POLICY}{}{listen}", tollgate(collector.grpc));
        let rig = Rig::with(&section, |config| {
            let config = tracing_envoy(config, collector.grpc);
            if allow { failure_mode_allow(config) } else { config }
        });
        let url = format!("http://127.0.0.1:{}", rig.envoy.port);
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["doctor", &url, "--output", "json"])
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let probes = report["probes"].as_array().unwrap();
        let name = "large_headers_do_not_break_the_check";
        let probe = probes.iter().find(|probe| probe["name"] == name).unwrap();
        assert_eq!(probe["verdict"], expected, "{probe}");
        let detail = probe["detail"].as_str().unwrap();
        if expected == "ok" {
            assert!(detail.ends_with("with up to 58000 bytes"), "{detail}");
        } else {
            assert!(detail.starts_with("`tracestate` of 17000 bytes"), "{detail}");
            assert!(probe["remedy"].as_str().unwrap().contains("`max_header_bytes`"), "{probe}");
        }
    }
}

#[test]
fn steps_end_where_a_check_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    // Over HTTP, and with the subject, as configured.
    let section = format!(
        "observe: {{ tracing: {{ endpoint: 'http://127.0.0.1:{}', protocol: http, identity: true, sample_ratio: 0 }} }}\n",
        collector.http
    );
    let rig = Rig::start(&format!("{POLICY}{section}"));
    let sampled = |request: Request| request.header("traceparent", PARENT);
    // Without a parent this one is not sampled.
    assert_eq!(rig.chat(&rig.token(json!({}))).status, 200);
    for (request, status) in [
        (sampled(Request::get("/nowhere")), 403),
        (sampled(chat("a.b.c")), 401),
        (sampled(chat(&rig.token(json!({ "scope": "other" })))), 403),
        (sampled(Request::get("/health")), 200),
    ] {
        assert_eq!(rig.envoy.send(&request).status, status);
    }
    let spans: Vec<Span> =
        until("four spans", || Some(collector.spans()).filter(|spans| spans.len() == 4));
    let told: Vec<_> = spans
        .iter()
        .map(|span| {
            (span.attribute("tollgate.reason"), span.attribute("enduser.id"), span.events.join(" "))
        })
        .collect();
    let told: Vec<_> =
        told.iter().map(|(reason, who, events)| (*reason, *who, events.as_str())).collect();
    assert_eq!(
        told,
        [
            ("no_route", "", "parse answer"),
            ("malformed_token", "", "parse route answer"),
            ("insufficient_scope", "alice", "parse route authenticate answer"),
            ("public", "", "parse route authorize answer"),
        ]
    );
    for span in &spans {
        assert_eq!((span.field("Trace ID"), span.field("Parent ID")), (TRACE, "00f067aa0ba902b7"));
    }
}

/// Returns the spans that were exported, and those that were dropped because the queue was full or
/// an export failed for good.
fn counted(tollgate: &Tollgate) -> (usize, usize) {
    let spans = |name, labels: &[&str]| tollgate.metric(name, labels) as usize;
    (
        spans("tollgate_trace_spans_exported_total", &[]),
        spans("tollgate_trace_spans_dropped_total", &[]),
    )
}

#[test]
fn a_collector_that_is_away_is_a_counter_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let (grpc, http) = (free_port(), free_port());
    let mut rig = Rig::start(&format!(
        "{POLICY}observe: {{ tracing: {{ endpoint: 'http://127.0.0.1:{grpc}', queue: 2 }} }}\n"
    ));
    // More than may wait: the rest is dropped, and every check is answered.
    let mut sent = 0;
    until("a full queue", || {
        sent += 1;
        assert_eq!(rig.envoy.send(&Request::get("/health")).status, 200);
        (rig.tollgate.metric("tollgate_trace_spans_dropped_total", &["cause=\"full\""]) > 0.0)
            .then_some(())
    });
    let lines = |tollgate: &Tollgate, text: &str| {
        tollgate.process.err().lines().filter(|line| line.contains(text)).count()
    };
    until("the line that names the failure", || {
        (lines(&rig.tollgate, "span export failed") == 1).then_some(())
    });

    // The pause between two attempts is half a minute at most.
    let collector = Collector::at(dir.path(), grpc, http);
    within(LONGEST_PAUSE + SOON, || {
        (lines(&rig.tollgate, "span export works again") == 1).then_some(())
    })
    .expect("the end of the outage");
    assert_eq!(lines(&rig.tollgate, "span export failed"), 1);
    // Every span is exported or counted as dropped, and the collector prints all that it took. It
    // answers an export before it prints.
    until("the fate of every span", || {
        let (exported, dropped) = counted(&rig.tollgate);
        (exported + dropped == sent && exported > 0).then_some(())
    });
    let exported = counted(&rig.tollgate).0;
    until("the spans that waited", || (collector.spans().len() == exported).then_some(()));

    // A span that waits at the end is exported, too.
    assert_eq!(rig.envoy.send(&Request::get("/public/last")).status, 200);
    rig.tollgate.process.signal(Signal::SIGTERM);
    assert!(rig.tollgate.process.ended(SOON).success());
    until("the last span", || (collector.spans().len() == exported + 1).then_some(()));
}
