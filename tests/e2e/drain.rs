//! The shutdown of a process: readiness turns off first, then no new connection is accepted, and
//! checks in flight are answered.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{
    POLICY, Rig, SOON, chat, grpc::Peer, http::Request, issuer::Issuer, tollgate::Tollgate, until,
};

/// The time between the signal and the closing of the listeners, in which load balancers notice that
/// readiness is off.
const NOTICE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_in_flight_are_answered_before_the_process_ends() {
    let mut rig = Rig::start(&format!("{POLICY}drain_timeout: 20s\n"));
    let (dir, ops) = (rig.dir.path(), rig.tollgate.ops);
    let token = rig.token(json!({}));
    let mut peers = Vec::new();
    let mut halves = Vec::new();
    for _ in 0..8 {
        let mut peer = Peer::connect(dir).await;
        halves.push(peer.begin(&chat(&token)).await);
        peers.push(peer);
    }
    // One round on each connection: what was sent before it has arrived.
    for peer in &mut peers {
        assert_eq!(peer.begin(&Request::get("/health")).await.finish().await.0, 200);
    }

    rig.tollgate.process.signal(Signal::SIGTERM);
    // Readiness is off while connections are still accepted.
    let reply = until("readiness off", || {
        Request::get("/readyz").try_send(ops).filter(|reply| reply.status == 503)
    });
    assert!(reply.text().contains("shutting down"), "{}", reply.text());
    until("closed listeners", || Request::get("/readyz").try_send(ops).is_none().then_some(()));

    // The checks are sent to their end, and are answered.
    for half in halves {
        assert_eq!(half.finish().await, (200, String::new()));
    }
    drop(peers);
    assert!(rig.tollgate.process.ended(SOON).success());
    // Every decision has its audit line.
    assert_eq!(rig.tollgate.audit().iter().filter(|line| line["decision"] == "allow").count(), 16);
    // Without Tollgate there is no access.
    assert_eq!((rig.chat(&token).status, rig.upstream.taken().len()), (503, 0));
}

/// Load balancers send requests until they notice the signal; these requests are served.
#[test]
fn requests_are_served_until_the_listener_closes() {
    let mut rig = Rig::start(POLICY);
    let token = rig.token(json!({}));
    let (port, answers) = (rig.envoy.port, Mutex::new(Vec::new()));
    let signalled = std::thread::scope(|scope| {
        for _ in 0..3 {
            // Each client sends until its first refusal.
            scope.spawn(|| {
                let mut status = 200;
                while status == 200 {
                    status = chat(&token).send(port).status;
                    answers.lock().unwrap().push((status, Instant::now()));
                }
            });
        }
        until("some answers", || (answers.lock().unwrap().len() > 20).then_some(()));
        let signalled = Instant::now();
        rig.tollgate.process.signal(Signal::SIGTERM);
        signalled
    });
    for (status, at) in answers.into_inner().unwrap() {
        let expected: &[u16] = if at < signalled + NOTICE { &[200] } else { &[200, 503] };
        assert!(expected.contains(&status), "{status} after {:?}", at - signalled);
    }
    assert!(rig.tollgate.process.ended(SOON).success());
}

/// A peer that never ends its call does not keep the process running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_timeout_ends_calls_that_do_not_end() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let mut tollgate = Tollgate::start(dir.path(), &format!("{POLICY}drain_timeout: 1s\n"));
    let mut peer = Peer::connect(dir.path()).await;
    let half = peer.begin(&Request::get("/health")).await;
    tollgate.process.signal(Signal::SIGTERM);
    tollgate.process.ended(SOON);
    drop(half);
}
