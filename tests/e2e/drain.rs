//! The end of a process: readiness first, then no new work, and nothing in flight is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{POLICY, Rig, chat, http::Request, redis::Redis, until};

/// What waits for a store that is slow has its answer before the process ends.
#[test]
fn checks_in_flight_are_answered_before_the_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let store = redis.store().replace("${DIR}", &place).replace(" } }", ", deadline: 1s } }");
    let mut rig = Rig::start(&format!("{POLICY}{store}drain_timeout: 10s\n"));
    let token = rig.token(json!({}));
    assert_eq!(rig.chat(&token).status, 200);
    rig.upstream.taken();

    let (port, ops) = (rig.envoy.port, rig.tollgate.ops);
    redis.pause();
    // Fewer than open the circuit.
    let waiting: Vec<_> = (0..4).map(|_| chat(&token)).map(|request| std::thread::spawn(move || request.send(port))).collect();
    // They are on their way: give them the time to be asked about, within the deadline of the store.
    std::thread::sleep(Duration::from_millis(150));
    let told = Instant::now();
    rig.tollgate.process.signal(Signal::SIGTERM);
    let reply = until("readiness off", || Request::get("/readyz").try_send(ops).filter(|reply| reply.status == 503));
    assert!(reply.text().contains("shutting down"), "{}", reply.text());
    assert!(told.elapsed() < Duration::from_millis(400), "{:?}", told.elapsed());
    redis.resume();
    for thread in waiting {
        let reply = thread.join().unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(rig.upstream.taken().len(), 4);
    assert!(rig.tollgate.process.ended(Duration::from_secs(10)).success());
    // What was decided is written down.
    assert_eq!(rig.tollgate.audit().iter().filter(|line| line["decision"] == "allow").count(), 5);
    // Nobody there: no access.
    assert_eq!((rig.chat(&token).status, rig.upstream.taken().len()), (503, 0));
}

/// Between the signal and the end, load balancers still send; what they send is served.
#[test]
fn load_that_still_comes_is_served_until_it_is_turned_away_at_the_door() {
    let mut rig = Rig::start(POLICY);
    let token = rig.token(json!({}));
    let (port, started) = (rig.envoy.port, Instant::now());
    let load: Vec<_> = (0..3)
        .map(|_| {
            let request = chat(&token);
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                while started.elapsed() < Duration::from_millis(600) {
                    answers.push(request.send(port).status);
                }
                answers
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    rig.tollgate.process.signal(Signal::SIGTERM);
    let answers: Vec<u16> = load.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(answers.len() > 20 && answers.iter().all(|status| *status == 200), "{answers:?}");
    assert!(rig.tollgate.process.ended(Duration::from_secs(10)).success());
}

/// A peer that never ends its call does not keep the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_ended_by_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    crate::rig::issuer::Issuer::new("https://auth.example.com").publish(dir.path());
    let mut tollgate = crate::rig::tollgate::Tollgate::start(dir.path(), &format!("{POLICY}drain_timeout: 1s\n"));
    let mut peer = crate::rig::grpc::Peer::connect(dir.path()).await;
    let half = peer.begin(&Request::get("/health")).await;
    tollgate.process.signal(Signal::SIGTERM);
    tollgate.process.ended(Duration::from_secs(5));
    drop(half);
}
