//! gRPC calls over real connections, with the client of `envoy-types` and with raw bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tollgate::listener::Address;
use tollgate_testkit::wait::until_async;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::clients::{Answer, CHECK, call, channel, connect, framed, http2, message};
use super::servers::{Checks, Gate, Running, SOON, Wanted, budget};
use crate::rig::http2_frames::{cancelled_requests, frame, preface, request_headers};

const MIB: u64 = 1 << 20;

fn gated() -> (Checks, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    (Checks { gate: Some(Arc::clone(&gate)), ..Checks::default() }, gate)
}

#[tokio::test]
async fn a_check_and_a_health_check_over_tcp_and_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Address::Unix(dir.path().join("authz.sock"));
    for address in ["127.0.0.1:0".parse().unwrap(), socket] {
        let server = Wanted { address, ..Default::default() }
            .grpc(Checks::default(), budget(16 * MIB, 128 * MIB))
            .await;
        let channel = channel(&server.address).await;

        let request = auth::CheckRequest {
            attributes: Some(auth::AttributeContext {
                request: Some(auth::attribute_context::Request {
                    http: Some(auth::attribute_context::HttpRequest {
                        body: "12345".into(),
                        ..Default::default()
                    }),
                    time: None,
                }),
                ..Default::default()
            }),
        };
        let status = AuthorizationClient::new(channel.clone())
            .check(request)
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap();
        assert_eq!(status.message, "5");

        let mut health = HealthClient::new(channel);
        let request = |length| HealthCheckRequest { service: "x".repeat(length) };
        assert_eq!(health.check(request(0)).await.unwrap().into_inner().status, 1, "serving");
        assert_eq!(health.check(request(1000)).await.unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(health.check(request(5000)).await.unwrap_err().code(), tonic::Code::OutOfRange);

        server.stop.cancel();
        server.task.await.unwrap();
        assert!(connect(&server.address).await.is_err());
        if let Address::Unix(path) = &server.address {
            assert!(!path.exists());
        }
    }
}

/// A proxy forwards the resets of its clients, however many of them arrive together.
#[tokio::test]
async fn no_number_of_resets_ends_a_connection() {
    let server = Wanted::default().grpc(Checks::default(), budget(MIB, 4 * MIB)).await;
    survives_resets(&server, "/envoy.service.auth.v3.Authorization/Check").await;
}

/// The same for a proxy that calls over HTTP/2.
#[tokio::test]
async fn no_number_of_resets_ends_a_connection_of_http_2() {
    let server = Wanted::default().http().await;
    survives_resets(&server, "/check").await;
}

async fn survives_resets(server: &Running, path: &str) {
    const CALLS: u32 = 100_000;
    let headers = request_headers(3, path);
    let mut sent = preface();
    sent.extend(cancelled_requests(&headers, false, CALLS));
    sent.extend(frame(6, 0, 0, b"the end."));
    let (mut reading, mut writing) = tokio::io::split(connect(&server.address).await.unwrap());
    let writing = tokio::spawn(async move { writing.write_all(&sent).await });
    // Until the answer to the ping: no GOAWAY.
    let answered = timeout(SOON, async {
        loop {
            let mut head = [0; 9];
            reading.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            reading.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                (6, 1) => return payload,
                (kind, _) => assert_ne!(kind, 7, "GOAWAY: {payload:?}"),
            }
        }
    });
    assert_eq!(answered.await.unwrap(), b"the end.");
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_largest_body_passes_and_one_that_is_larger_is_denied() {
    let server = Wanted::default().grpc(Checks::default(), budget(16 * MIB, 32 * MIB)).await;
    let mut client = http2(connect(&server.address).await.unwrap()).await;
    let body = 16 << 20;
    let answer = call(&mut client, CHECK, message(body)).await.unwrap();
    assert!(
        matches!(&answer, Answer::Verdict(0, text) if text.ends_with("16777216")),
        "{answer:?}"
    );
    let answer = call(&mut client, CHECK, message(body + (256 << 10))).await.unwrap();
    assert!(answer.is(7, "too large"), "{answer:?}");
}

#[tokio::test]
async fn a_call_that_is_not_a_check_fails_or_is_denied() {
    let server = Wanted::default().grpc(Checks::default(), budget(MIB, 4 * MIB)).await;
    let mut client = http2(connect(&server.address).await.unwrap()).await;
    let good = message(10);
    let other = "http://tollgate/envoy.service.auth.v3.Authorization/Other";
    let failed = |code: &str| Answer::Failed(code.to_owned());
    let rows = [
        ("another method", other, good.clone(), failed("12")),
        ("another service", "http://tollgate/x.Y/Check", good.clone(), failed("12")),
        ("a compressed message", CHECK, framed(1, &good[5..]), failed("13")),
        ("a flag that does not exist", CHECK, framed(7, &good[5..]), failed("13")),
        ("no message", CHECK, Bytes::new(), failed("13")),
        ("half a prefix", CHECK, good.slice(..3), failed("13")),
        ("half a message", CHECK, good.slice(..good.len() - 3), failed("13")),
        ("two messages", CHECK, [&good[..], &good[..]].concat().into(), failed("3")),
        ("not protobuf", CHECK, framed(0, b"\xff\xff\xff"), Answer::Verdict(0, "empty".into())),
        ("too many headers", CHECK, framed(0, &headers(257)), Answer::Verdict(0, "empty".into())),
    ];
    for (name, uri, body, expected) in rows {
        assert_eq!(call(&mut client, uri, body).await.unwrap(), expected, "{name}");
    }
}

fn headers(count: usize) -> Vec<u8> {
    use prost::Message as _;
    let http = auth::attribute_context::HttpRequest {
        headers: (0..count).map(|n| (n.to_string(), "x".to_owned())).collect(),
        ..Default::default()
    };
    let request = auth::attribute_context::Request { http: Some(http), time: None };
    let attributes = auth::AttributeContext { request: Some(request), ..Default::default() };
    auth::CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

/// Calls in one batch: some wait for the rest of their message, and one panics.
async fn calls_in_one_batch() {
    let checks = Checks { panics_at: Some(13), ..Checks::default() };
    let server = Wanted::default().grpc(checks, budget(MIB, 64 * MIB)).await;
    let client = http2(connect(&server.address).await.unwrap()).await;
    for round in 0..3 {
        let lengths = [0, 13, 700, 13, 40_000, 300_000, 5].into_iter().cycle().take(70);
        let calls: Vec<_> = lengths
            .map(|length| {
                let mut client = client.clone();
                (
                    length,
                    tokio::spawn(async move { call(&mut client, CHECK, message(length)).await }),
                )
            })
            .collect();
        for (length, call) in calls {
            match call.await.unwrap() {
                Ok(answer) => {
                    assert_eq!(answer, Answer::Verdict(0, length.to_string()), "round {round}")
                }
                Err(error) => assert_eq!(length, 13, "round {round}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn calls_in_one_batch_are_answered_on_one_core() {
    calls_in_one_batch().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_one_batch_are_answered_on_several_cores() {
    calls_in_one_batch().await;
}

/// A refusal resets its stream while the peer is still sending. h2 may count the frames that arrive
/// afterwards as errors of the peer, and closes a connection after 1024 of them, with all other
/// checks on it.
#[tokio::test]
async fn refusals_do_not_end_the_connection_or_its_other_checks() {
    let (checks, gate) = gated();
    let server = Wanted::default().grpc(checks, budget(256 << 10, 128 * MIB)).await;
    let client = http2(connect(&server.address).await.unwrap()).await;
    let mut first = client.clone();
    let waiting = tokio::spawn(async move { call(&mut first, CHECK, message(10)).await });
    gate.entered.notified().await;

    let large = message(1 << 20);
    let refused: Vec<_> = (0..400)
        .map(|_| {
            let (mut client, large) = (client.clone(), large.clone());
            tokio::spawn(async move { call(&mut client, CHECK, large).await })
        })
        .collect();
    for call in refused {
        let answer = call.await.unwrap().unwrap();
        assert!(answer.is(7, "too large"), "{answer:?}");
    }
    gate.open.notify_one();
    let answer = waiting.await.unwrap().unwrap();
    assert!(matches!(answer, Answer::Verdict(0, _)), "{answer:?}");
}

#[tokio::test]
async fn a_cancelled_call_returns_its_bytes() {
    let (checks, gate) = gated();
    let budget = budget(MIB, 4 * MIB);
    let server = Wanted::default().grpc(checks, budget.clone()).await;
    let mut client = http2(connect(&server.address).await.unwrap()).await;
    let waiting = tokio::spawn(async move { call(&mut client, CHECK, message(1 << 20)).await });
    gate.entered.notified().await;
    assert!(budget.taken() > 1 << 20);
    waiting.abort();
    until_async("an empty budget", async || (budget.taken() == 0).then_some(())).await;
}

/// A server that is stopping, with one check in progress.
async fn stopping(
    drain: Duration,
) -> (Running, Arc<Gate>, tokio::task::JoinHandle<Result<Answer, hyper::Error>>) {
    let (checks, gate) = gated();
    let server = Wanted { drain, ..Default::default() }.grpc(checks, budget(MIB, 4 * MIB)).await;
    let mut client = http2(connect(&server.address).await.unwrap()).await;
    let waiting = tokio::spawn(async move { call(&mut client, CHECK, message(10)).await });
    gate.entered.notified().await;
    server.stop.cancel();
    until_async("a closed listener", async || connect(&server.address).await.err()).await;
    (server, gate, waiting)
}

#[tokio::test]
async fn a_check_in_progress_is_finished_before_the_server_ends() {
    let (server, gate, waiting) = stopping(SOON).await;
    assert!(!server.task.is_finished());
    gate.open.notify_one();
    let answer = waiting.await.unwrap().unwrap();
    assert!(matches!(answer, Answer::Verdict(0, _)), "{answer:?}");
    timeout(SOON / 2, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_check_that_does_not_end_is_dropped_at_the_deadline() {
    let (server, _gate, waiting) = stopping(Duration::from_millis(100)).await;
    timeout(SOON, server.task).await.unwrap().unwrap();
    assert!(waiting.await.unwrap().is_err());
}
