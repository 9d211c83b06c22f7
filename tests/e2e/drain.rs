//! The end of a process: readiness first, then no new work, and nothing in flight is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{
    POLICY, Rig, chat, grpc::Peer, http::Request, issuer::Issuer, tollgate::Tollgate, until,
};

/// How long connections stay welcome after the signal, so that load balancers notice that readiness is off.
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

    let told = Instant::now();
    rig.tollgate.process.signal(Signal::SIGTERM);
    let reply = until("readiness off", || {
        Request::get("/readyz").try_send(ops).filter(|reply| reply.status == 503)
    });
    assert!(reply.text().contains("shutting down"), "{}", reply.text());
    assert!(told.elapsed() < NOTICE, "{:?}", told.elapsed());
    until("the door to close", || Request::get("/readyz").try_send(ops).is_none().then_some(()));

    // Now they come to their end, and have their answers.
    for half in halves {
        assert_eq!(half.finish().await, (200, String::new()));
    }
    drop(peers);
    assert!(rig.tollgate.process.ended(Duration::from_secs(10)).success());
    // What was decided is written down.
    assert_eq!(rig.tollgate.audit().iter().filter(|line| line["decision"] == "allow").count(), 16);
    // Nobody there: no access.
    assert_eq!((rig.chat(&token).status, rig.upstream.taken().len()), (503, 0));
}

/// Between the signal and the end, load balancers still send; what they send is served.
#[test]
fn load_is_served_until_it_is_turned_away_at_the_door() {
    let mut rig = Rig::start(POLICY);
    let token = rig.token(json!({}));
    let (port, started) = (rig.envoy.port, Instant::now());
    let load: Vec<_> = (0..3)
        .map(|_| {
            let request = chat(&token);
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                while started.elapsed() < Duration::from_millis(900) {
                    let status = request.send(port).status;
                    answers.push((status, Instant::now()));
                }
                answers
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let told = Instant::now();
    rig.tollgate.process.signal(Signal::SIGTERM);
    let answers: Vec<(u16, Instant)> =
        load.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let (during, after): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(_, at)| *at < told + NOTICE);
    assert!(during.len() > 20 && during.iter().all(|(status, _)| *status == 200), "{during:?}");
    assert!(after.iter().all(|(status, _)| [200, 503].contains(status)), "{after:?}");
    assert!(rig.tollgate.process.ended(Duration::from_secs(10)).success());
}

/// A peer that never ends its call does not keep the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_ended_by_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let mut tollgate = Tollgate::start(dir.path(), &format!("{POLICY}drain_timeout: 1s\n"));
    let mut peer = Peer::connect(dir.path()).await;
    let half = peer.begin(&Request::get("/health")).await;
    tollgate.process.signal(Signal::SIGTERM);
    tollgate.process.ended(Duration::from_secs(8));
    drop(half);
}
