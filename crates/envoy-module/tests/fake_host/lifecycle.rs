//! Streams that end at every point, bodies that are too large, and panics.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::runtime::Runtime;
use tollgate::{
    engine::{
        check::{CheckBounds, Checker},
        live::Live,
    },
    observe::{
        Observer,
        audit::Audit,
        metrics::{Metrics, ObserveConfig},
    },
    policy_test::{Body, Ledger, Request, Verdict},
};
use tollgate_core::snapshot::Snapshot;
use tollgate_envoy::shell::Shell;
use tollgate_testkit::wait::until;

use crate::{
    corpus::{files_with, sent},
    envoy::{Config, Outcome, Running, Sent},
    stored::{Moment, Stored},
};

/// A host with the policy of a row whose request has a body and is allowed.
struct Host {
    config: Config,
    request: Request,
    /// The number of calls of the clock that panic.
    panics: Arc<AtomicUsize>,
    _runtime: Runtime,
}

/// The bounds of a host, and whether its store answers later.
#[derive(Clone, Copy)]
struct Bounds {
    max_body: usize,
    max_in_flight: usize,
    is_late: bool,
}

const USUAL: Bounds = Bounds { max_body: 1 << 20, max_in_flight: 8 << 20, is_late: false };

fn row() -> (Snapshot, Request, tollgate_core::time::Timestamp) {
    for (_, file) in files_with(|name| name == "models.yaml") {
        let snapshot = file.snapshot().unwrap();
        for case in file.cases(None).unwrap() {
            let is_allowed =
                case.expect.as_ref().is_some_and(|expect| expect.decision == Verdict::Allow);
            if is_allowed && matches!(&case.request.body, Body::Whole(body) if body.len() > 8) {
                return (snapshot, case.request, case.now);
            }
        }
    }
    panic!("models.yaml has a row with a body that is allowed");
}

impl Host {
    fn start(bounds: Bounds) -> Self {
        let Bounds { max_body, max_in_flight, is_late } = bounds;
        let runtime = Runtime::new().unwrap();
        let (snapshot, request, now) = row();
        let moment = Arc::<Moment>::default();
        moment.set(now, None);
        let ledger = Arc::new(Mutex::new(Ledger::new(&[], &[])));
        let store = Stored::new(&ledger, &moment);
        let store = if is_late { store.late() } else { store };
        let metrics = Arc::new(Metrics::new(&ObserveConfig::default()));
        let panics = Arc::<AtomicUsize>::default();
        let to_come = Arc::clone(&panics);
        let clock = move || {
            let left = to_come
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            assert!(left.is_err(), "a panic of the clock");
            moment.now()
        };
        let checker = Checker::new(
            Arc::new(Live::fixed(snapshot)),
            Arc::new(store),
            None,
            Arc::new(Observer::new(metrics, Arc::new(Audit::off()))),
            Arc::new(clock),
            CheckBounds { max_body, max_in_flight },
        );
        let handle = runtime.handle().clone();
        let shell = Shell::of_checker(Arc::new(checker), handle, max_body, max_in_flight);
        Self { config: Config::of(shell), request, panics, _runtime: runtime }
    }

    /// The request of the row, with a body of these frames.
    fn sent(&self, frames: Vec<Vec<u8>>) -> Sent {
        let mut random = StdRng::seed_from_u64(3);
        Sent { frames, has_trailers: false, ..sent(&self.request, &mut random) }
    }

    fn run(&self, sent: &Sent) -> Outcome {
        Running::start(&self.config, sent).run(sent)
    }

    fn body(&self) -> Vec<u8> {
        let Body::Whole(body) = &self.request.body else { panic!("the row has a body") };
        body.clone()
    }
}

fn verdict(outcome: &Outcome) -> (u32, String) {
    let reply = outcome.reply.as_ref().expect("the request is answered");
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    (reply.status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_request_that_is_cut_at_any_point_leaves_nothing_behind() {
    let mut random = StdRng::seed_from_u64(4);
    for is_late in [false, true] {
        let host = Host::start(Bounds { is_late, ..USUAL });
        for round in 0..400 {
            let sent = sent(&host.request, &mut random);
            let mut running = Running::start(&host.config, &sent);
            let steps = random.random_range(0..sent.frames.len() + 3);
            if steps > 0 && running.head(sent.frames.is_empty()) {
                for (index, frame) in sent.frames.iter().take(steps - 1).enumerate() {
                    let is_end = index + 1 == sent.frames.len() && !sent.has_trailers;
                    if !running.frame(frame, is_end) {
                        break;
                    }
                }
            }
            // Destroyed while the check waits, or before.
            running.end();
            // The next one is decided as always.
            if round % 50 == 0 {
                let sent = host.sent(vec![host.body()]);
                // A check that was cancelled gives back its share when its task ends.
                until("an allowed request", || host.run(&sent).reply.is_none().then_some(()));
            }
        }
    }
}

#[test]
fn a_body_that_is_too_large_is_answered_while_it_arrives() {
    for is_late in [false, true] {
        let host = Host::start(Bounds { max_body: 1000, is_late, ..USUAL });
        let outcome = host.run(&host.sent(vec![vec![b' '; 300]; 10]));
        assert_eq!(verdict(&outcome), (413, "body_too_large".into()));
        assert_eq!(outcome.frames_needed, 4, "1200 bytes of at most 1000");
        let mut sent = host.sent(vec![vec![b' '; 300]; 10]);
        sent.headers.push((b"content-length".to_vec(), b"3000".to_vec()));
        let outcome = host.run(&sent);
        assert_eq!(verdict(&outcome), (413, "body_too_large".into()));
        assert_eq!(outcome.frames_needed, 0, "the length is announced");
    }
}

#[test]
fn bodies_of_all_requests_share_a_budget() {
    let host = Host::start(Bounds { max_in_flight: 1000, ..USUAL });
    let sent = host.sent(vec![vec![b' '; 400], host.body()]);
    let mut first = Running::start(&host.config, &sent);
    assert!(first.head(false) && first.frame(&[b' '; 800], false));
    assert_eq!(verdict(&host.run(&sent)), (503, "overloaded".into()));
    first.end();
    assert!(host.run(&sent).reply.is_none(), "the bytes of the first are free again");
}

#[test]
fn a_request_without_its_credential_is_refused_before_its_body() {
    let host = Host::start(USUAL);
    let mut sent = host.sent(vec![host.body()]);
    sent.headers.retain(|(name, _)| name != b"authorization");
    let outcome = host.run(&sent);
    assert_eq!((verdict(&outcome).0, outcome.frames_needed), (401, 0));
}

#[test]
fn a_large_body_is_read_by_another_thread() {
    let host = Host::start(USUAL);
    let mut body = host.body();
    body.extend_from_slice(&vec![b' '; 100 << 10]);
    let frames = body.chunks(16 << 10).map(<[u8]>::to_vec).collect();
    let outcome = host.run(&host.sent(frames));
    assert!(outcome.reply.is_none());
    assert_eq!(outcome.body, body);
}

#[test]
fn a_panic_is_answered_with_503_and_the_next_request_is_decided() {
    for is_late in [false, true] {
        // The clock is called outside of the check where the module refuses a request itself.
        let host = Host::start(Bounds { max_body: 1000, is_late, ..USUAL });
        let large = host.sent(vec![vec![b' '; 300]; 10]);
        for (panics, code) in [(1, "internal"), (2, "internal"), (usize::MAX, "")] {
            host.panics.store(0, Ordering::Relaxed);
            let mut running = Running::start(&host.config, &large);
            assert!(running.head(false));
            host.panics.store(panics, Ordering::Relaxed);
            large.frames.iter().all(|frame| running.frame(frame, false));
            let expected = if panics == 2 { "" } else { code };
            assert_eq!(verdict(&running.end()), (503, expected.into()), "{panics} panics");
        }
        host.panics.store(0, Ordering::Relaxed);
        assert!(host.run(&host.sent(vec![host.body()])).reply.is_none());
    }
}
