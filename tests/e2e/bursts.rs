//! Bursts of requests without a credential, through the shipped Envoy with `failure_mode_allow: true`:
//! Envoy forwards a request whose check fails, so none may fail for the number of requests.

use std::{collections::BTreeMap, io::Write as _, net::TcpStream, thread, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use crate::rig::{
    POLICY, Rig,
    envoy::failure_mode_allow,
    http::Request,
    http2_frames::{cancelled_requests, preface, request_headers},
    replace_once,
};

/// Streams of one connection, of which the listener accepts 128.
const STREAMS: usize = 120;

/// Sends requests over several connections at once, and counts the answers by status.
async fn burst(port: u16, connections: usize) -> BTreeMap<u16, usize> {
    let opened = (0..connections).map(|_| async move {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (client, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        client
    });
    let clients = join_all(opened).await;
    let requests = clients.iter().flat_map(|client| (0..STREAMS).map(|_| client.clone()));
    let answers = requests.map(|mut client| async move {
        let request = hyper::Request::get("http://api.example.com/v1/models");
        let sent = client.send_request(request.body(Empty::<Bytes>::new()).unwrap());
        sent.await.unwrap().status().as_u16()
    });
    let statuses = timeout(Duration::from_secs(60), join_all(answers)).await.unwrap();
    let mut counts = BTreeMap::new();
    for status in statuses {
        *counts.entry(status).or_default() += 1;
    }
    counts
}

/// A new connection to Tollgate gets more streams than Tollgate accepts before Envoy has read the
/// limit, and Envoy has breakers for requests: both are failed checks.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_requests_at_once_passes_without_a_decision() {
    let rig = tokio::task::block_in_place(|| Rig::with(POLICY, failure_mode_allow));
    for connections in [4, 20, 45] {
        let answers = burst(rig.envoy.port, connections).await;
        // 503 is Tollgate's own `overloaded`.
        let passed: usize =
            answers.iter().filter(|(s, _)| ![401, 503].contains(*s)).map(|(_, n)| n).sum();
        assert_eq!(passed, 0, "{connections} connections: {answers:?}");
        assert!(answers.contains_key(&401), "{connections} connections: {answers:?}");
    }
    assert_eq!(rig.upstream.taken().len(), 0);
}

/// An operator's own file has Envoy's defaults: 1024 requests for a cluster, and as many streams as
/// there are on a connection whose limit is not known yet.
#[tokio::test(flavor = "multi_thread")]
async fn the_requests_that_envoy_admits_by_default_find_streams() {
    let by_default = |envoy: String| {
        let envoy = replace_once(
            failure_mode_allow(envoy),
            "max_concurrent_streams: 200",
            "max_concurrent_streams: 2147483647",
        );
        let breakers = "circuit_breakers: { thresholds: [{ max_requests: 2000000, max_pending_requests: 2000000 }] }";
        replace_once(envoy, breakers, "")
    };
    let rig = tokio::task::block_in_place(|| Rig::with(POLICY, by_default));
    let answers = burst(rig.envoy.port, 8).await;
    let decided = |status: u16| answers.get(&status).copied().unwrap_or(0);
    assert_eq!(decided(401) + decided(503), 8 * STREAMS, "{answers:?}");
    assert_eq!(rig.upstream.taken().len(), 0);
}

/// Requests that are reset at once make Envoy reset their checks. A connection to Tollgate that ended
/// for their number would fail the checks of others on it.
#[test]
fn cancelled_requests_do_not_fail_the_checks_of_others() {
    // Without its timeouts, so that a busy machine fails no check.
    let rig = Rig::with(POLICY, |envoy| {
        failure_mode_allow(envoy).replace("timeout: 10s", "timeout: 60s")
    });
    let burst =
        [preface(), cancelled_requests(&request_headers(2, "/v1/models"), true, 125)].concat();
    let attack = || {
        let mut attacker = TcpStream::connect(("127.0.0.1", rig.envoy.port)).unwrap();
        // Envoy may close it before the end.
        let _sent = attacker.write_all(&burst);
        attacker
    };
    let check = || rig.envoy.send(&Request::get("/v1/models")).status;
    let statuses: Vec<u16> = thread::scope(|scope| {
        let others: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..16).map(|_| check()).collect::<Vec<_>>())).collect();
        for _ in 0..4 {
            let _attackers: Vec<_> = (0..20).map(|_| attack()).collect();
        }
        others.into_iter().flat_map(|other| other.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(rig.upstream.taken().len(), 0);
}
