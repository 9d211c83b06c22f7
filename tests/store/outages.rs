//! Redis slow, frozen, killed and not yet started: no answer after the deadline, few connections,
//! no charge sent twice, and recovery without a restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tollgate::store::{Circuit, Redis, RedisConfig, Store};
use tollgate_core::{
    admission::{AdmitResponse, Outage},
    time::Span,
};

use super::{
    counting_proxy::CountingProxy,
    redis_server::{self, section},
    requests::{charge, charging, until, verdicts},
};

const DEADLINE: Duration = Duration::from_millis(100);
/// The time that a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(3);

fn hasty(url: &str) -> Redis {
    let config = RedisConfig { deadline: Span::from_millis(100), ..section(url) };
    Redis::open(&config, CancellationToken::new()).unwrap()
}

/// The answer to one check, and its duration.
async fn timed(store: &Redis, key: &str) -> (Result<AdmitResponse, Outage>, Duration) {
    let started = Instant::now();
    let answer = store.admit(&charging(&[charge(key, 3_600_000, 1_000)])).await;
    (answer, started.elapsed())
}

async fn back(store: &Redis) {
    until("Redis answers", async || timed(store, "back").await.0.is_ok()).await;
}

#[tokio::test]
async fn redis_may_start_later() {
    let mut server = redis_server::start(&[]);
    server.kill();
    let store = hasty(&format!("redis://127.0.0.1:{}", server.port()));
    assert_eq!(store.status().circuit, Circuit::HalfOpen);
    for _ in 0..20 {
        let (answer, took) = timed(&store, "k").await;
        assert!(matches!(answer, Err(Outage::Unreachable | Outage::CircuitOpen)), "{answer:?}");
        assert!(took < DEADLINE + SLACK, "{took:?}");
    }
    let status = store.status();
    assert_eq!((status.up, status.circuit), (false, Circuit::Open));
    let error = status.last_error.unwrap();
    assert!(
        error
            == format!(
                "cannot connect to 127.0.0.1:{}: the connection is refused; no server listens there",
                server.port()
            ),
        "{error}"
    );
    server.restart();
    back(&store).await;
    assert_eq!((store.status().up, store.status().circuit), (true, Circuit::Closed));
}

#[tokio::test]
async fn frozen_and_thawed() {
    let server = redis_server::start(&[]);
    let proxy = CountingProxy::start(server.port()).await;
    let store = hasty(&format!("redis://127.0.0.1:{}", proxy.port));
    let (patient, left) = (redis_server::open(&server.unix()), [charge("k", 3_600_000, 1_000)]);
    back(&store).await;
    assert_eq!(verdicts(&patient, &left).await[0].remaining, 999);
    let connections = proxy.accepted();

    server.freeze();
    let frozen = Instant::now();
    let (mut sent, mut tries) = (0, 0);
    let mut pace = every_millisecond();
    // On a busy machine a call may wait for this process, which is no failure of Redis.
    let mut starved = 0;
    while frozen.elapsed() < Duration::from_secs(3)
        || sent < 5 && frozen.elapsed() < Duration::from_secs(60)
    {
        let (answer, took) = timed(&store, "k").await;
        assert!(took < DEADLINE + SLACK, "{took:?}");
        tries += 1;
        match answer {
            Err(Outage::Deadline) => sent += 1,
            Err(Outage::Starved) => {
                starved += 1;
                pace.tick().await;
            }
            Err(Outage::CircuitOpen) => drop(pace.tick().await),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        (5..10).contains(&sent),
        "{sent} of {tries} waited for the deadline; then the circuit was open"
    );
    assert!(tries > 100, "{tries}");
    assert_eq!(store.status().circuit, Circuit::Open);
    let attempts = proxy.accepted() - connections;
    few(attempts, frozen.elapsed());

    server.thaw();
    back(&store).await;
    // The calls that were sent are charged when Redis is back, none of them twice.
    let left = verdicts(&patient, &left).await[0].remaining;
    assert!(
        (998u64.saturating_sub(sent + starved)..=998).contains(&left),
        "{left} of 998 for {sent} checks that timed out and {starved} that waited for this process"
    );
}

#[tokio::test]
async fn a_call_that_timed_out_is_charged_once() {
    let server = redis_server::start(&[]);
    let (store, patient) = (hasty(&server.unix()), redis_server::open(&server.unix()));
    let left = [charge("k", 3_600_000, 1_000)];
    back(&store).await;
    assert_eq!(verdicts(&patient, &left).await[0].remaining, 999);
    // Fewer than those that open the circuit: the connection stays, and so do the calls on it.
    server.freeze();
    for _ in 0..3 {
        assert_eq!(timed(&store, "k").await.0, Err(Outage::Deadline));
    }
    server.thaw();
    back(&store).await;
    let left = verdicts(&patient, &left).await[0].remaining;
    // Each once at most: a request that did not leave this process is not sent later.
    assert!((999 - 3 - 1..999 - 1).contains(&left), "{left}");
    assert_eq!(store.status().connections, 1);
}

/// Checks the number of attempts to connect: pauses grow to 2 s, each shortened by up to a half.
fn few(attempts: u64, within: Duration) {
    assert!((1..=6 + within.as_secs()).contains(&attempts), "{attempts} attempts in {within:?}");
}

/// The pace of a caller whose checks are answered at once.
fn every_millisecond() -> Interval {
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Callers that send checks all the time, and what they saw.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    longest: Vec<tokio::task::JoinHandle<Duration>>,
}

impl Load {
    fn start(store: &Arc<Redis>, callers: usize) -> Self {
        let (stop, answered, sent) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
            Arc::<AtomicU64>::default(),
        );
        let caller = || {
            let (store, stop, answered, sent) =
                (Arc::clone(store), Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&sent));
            async move {
                let mut longest = Duration::ZERO;
                let mut pace = every_millisecond();
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let (answer, took) = timed(&store, "load").await;
                    longest = longest.max(took);
                    match answer {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        // An open circuit answers at once: the caller sends once a millisecond.
                        Err(_) => drop(pace.tick().await),
                    }
                }
                longest
            }
        };
        let longest = (0..callers).map(|_| tokio::spawn(caller())).collect();
        Self { stop, answered, sent, longest }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    async fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for caller in self.longest {
            longest = longest.max(caller.await.unwrap());
        }
        longest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_and_started_again() {
    let mut server = redis_server::start(&[]);
    let proxy = CountingProxy::start(server.port()).await;
    let store = Arc::new(hasty(&format!("redis://127.0.0.1:{}", proxy.port)));
    back(&store).await;
    assert_eq!(proxy.accepted(), 1);
    let load = Load::start(&store, 64);
    until("the load runs", async || load.answered() > 1000).await;

    server.kill();
    until("the circuit opens", async || store.status().circuit == Circuit::Open).await;
    let (since, sent, accepted) = (Instant::now(), load.sent(), proxy.accepted());
    until("callers and connections go on", async || {
        load.sent() > sent + 10_000 && proxy.accepted() > accepted
    })
    .await;
    few(proxy.accepted() - accepted, since.elapsed());

    let answered = load.answered();
    server.restart();
    until("the load runs again", async || load.answered() > answered + 1000).await;
    let longest = load.end().await;
    assert!(longest < DEADLINE + SLACK, "{longest:?}");
    assert!(store.status().up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_under_load() {
    let server = redis_server::start(&[]);
    let store = Arc::new(hasty(&server.unix()));
    back(&store).await;
    let load = Load::start(&store, 64);
    until("the load runs", async || load.answered() > 1000).await;
    for _ in 0..3 {
        server.freeze();
        until("the circuit opens", async || store.status().circuit == Circuit::Open).await;
        let answered = load.answered();
        server.thaw();
        until("the load runs again", async || load.answered() > answered + 1000).await;
    }
    let longest = load.end().await;
    assert!(longest < DEADLINE + SLACK, "{longest:?}");
}

#[tokio::test]
async fn a_cut_connection_is_made_again_before_a_check_fails() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&format!("redis://127.0.0.1:{}", server.port()));
    assert!(timed(&store, "k").await.0.is_ok());
    let killed: u64 = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .query(&mut server.client())
        .unwrap();
    assert_eq!(killed, 1);
    until("the connection is made again", async || store.status().connections == 2).await;
    let (answer, took) = timed(&store, "k").await;
    assert!(answer.is_ok(), "{answer:?}");
    assert!(took < SLACK, "{took:?}");
}

#[tokio::test]
async fn a_stopped_store_connects_no_more() {
    let server = redis_server::start(&[]);
    let stop = CancellationToken::new();
    let store = Redis::open(&section(&server.unix()), stop.clone()).unwrap();
    assert!(timed(&store, "k").await.0.is_ok());
    stop.cancel();
    let connected = || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.client()).unwrap();
        list.lines().count() - 1
    };
    drop(store);
    until("the connection is closed", async || connected() == 0).await;
}
