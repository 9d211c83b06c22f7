//! The one connection, kept by one task: nobody else connects, so a thousand checks that find Redis gone make one attempt.
//!
//! While a lost connection is first made again, questions wait for it within their deadline. When that fails, or when
//! [`TRIP_AFTER`] answers in a row failed, the circuit is open: questions are answered with an outage at once, and the task
//! alone tries on, with growing pauses, until a connection has answered a real question.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_core::admission::Outage;

use super::{
    batch::Queue,
    dial::{Dialer, Driver, Fault, outage},
    question::{Answered, Asked},
    script::Scripts,
};
use crate::store::Circuit;

/// Failures in a row that open the circuit.
const TRIP_AFTER: u32 = 5;
/// Time for one attempt to connect.
const CONNECT: Duration = Duration::from_secs(1);
/// The first pause between two attempts, and the longest. Each is shortened by up to a half at random, so that replicas that
/// lost Redis together do not come back together.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that lasted this long was a good one: the pauses start anew.
const STEADY: Duration = Duration::from_secs(2);

const CLOSED: &str = "the connection was closed";

/// The way to Redis.
pub(super) struct Link {
    state: watch::Receiver<State>,
    health: Arc<Health>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Line>),
    /// Why the last attempt failed.
    Open(Outage),
}

#[derive(Default)]
struct Health {
    connections: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Link {
    /// Begins to connect, until `stop`.
    pub(super) fn start(
        dialer: Arc<Dialer>,
        scripts: Arc<Scripts>,
        deadline: Duration,
        stop: CancellationToken,
    ) -> Self {
        let (state, watched) = watch::channel(State::Connecting);
        let health = Arc::<Health>::default();
        let keeper = Keeper { dialer, scripts, deadline, state, health: Arc::clone(&health) };
        tokio::spawn(async move { stop.run_until_cancelled(keeper.run()).await });
        Self { state: watched, health }
    }

    /// The connection, if there is one now.
    pub(super) fn ready(&self) -> Option<Arc<Line>> {
        match &*self.state.borrow() {
            State::Up(line) => Some(Arc::clone(line)),
            State::Connecting | State::Open(_) => None,
        }
    }

    /// The connection, waited for while it is being made. The caller bounds the wait.
    pub(super) async fn line(&self) -> Result<Arc<Line>, Outage> {
        if let State::Open(_) = &*self.state.borrow() {
            return Err(Outage::CircuitOpen);
        }
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match settled.as_deref() {
            Ok(State::Up(line)) => Ok(Arc::clone(line)),
            Ok(State::Open(outage)) => Err(*outage),
            // Shutting down.
            Ok(State::Connecting) | Err(_) => Err(Outage::Unreachable),
        }
    }

    pub(super) fn circuit(&self) -> Circuit {
        match &*self.state.borrow() {
            State::Connecting => Circuit::HalfOpen,
            State::Up(_) => Circuit::Closed,
            State::Open(_) => Circuit::Open,
        }
    }

    pub(super) fn connections(&self) -> u64 {
        self.health.connections.load(Ordering::Relaxed)
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.health.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Health {
    /// Keeps what went wrong last. Answers whether it is news.
    fn note(&self, text: &str) -> bool {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let news = last.as_deref() != Some(text);
        if news {
            *last = Some(text.to_owned());
        }
        news
    }
}

/// One connection.
pub(super) struct Line {
    connection: MultiplexedConnection,
    queue: Queue,
    /// Closes the socket when the last question on it has its answer or has given up.
    driver: Driver,
    pulse: Arc<Pulse>,
}

impl Line {
    fn new(
        connection: MultiplexedConnection,
        driver: Driver,
        scripts: Arc<Scripts>,
        health: Arc<Health>,
    ) -> Self {
        let pulse = Arc::new(Pulse {
            failures: AtomicU32::new(0),
            tripped: Notify::new(),
            last: Mutex::default(),
            health,
        });
        let queue = Queue::start(connection.clone(), scripts, Arc::clone(&pulse));
        Self { connection, queue, driver, pulse }
    }

    /// A handle to ask with.
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// Asks what a check asks.
    pub(super) async fn ask(&self, asked: Asked) -> Result<Answered, Outage> {
        self.queue.ask(asked).await
    }

    /// How it does.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }
}

/// How a connection does.
pub(super) struct Pulse {
    failures: AtomicU32,
    tripped: Notify,
    last: Mutex<Option<Fault>>,
    health: Arc<Health>,
}

impl Pulse {
    /// A call was answered.
    pub(super) fn worked(&self) {
        // Read first: on the good path nobody writes to a line of cache that all threads share.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A question had no answer in time.
    pub(super) fn silent(&self) -> Outage {
        self.count(
            Fault { outage: Outage::Deadline, text: "no answer within the deadline".into() },
            1,
        )
    }

    /// A call was answered with an error.
    pub(super) fn failed(&self, error: &RedisError) -> Outage {
        // After a failover the old primary stays read-only, and a server that forgot the login will not remember it: only a new
        // connection helps.
        let for_good = matches!(error.code(), Some("READONLY" | "NOAUTH"));
        self.count(
            Fault { outage: outage(error), text: error.to_string() },
            if for_good { TRIP_AFTER } else { 1 },
        )
    }

    /// Something that is no check was answered with an error.
    pub(super) fn refused(&self, error: &RedisError) -> Outage {
        self.health.note(&error.to_string());
        outage(error)
    }

    /// What one check asked for is there and is no number. It says nothing of other checks.
    pub(super) fn unreadable(&self) -> Outage {
        self.health.note("a bucket or a revocation of ours holds something that is no number");
        Outage::Refused
    }

    fn count(&self, fault: Fault, weight: u32) -> Outage {
        self.health.note(&fault.text);
        let outage = fault.outage;
        let before = self.failures.fetch_add(weight, Ordering::Relaxed);
        if before < TRIP_AFTER && before.saturating_add(weight) >= TRIP_AFTER {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            self.tripped.notify_one();
        }
        outage
    }

    async fn tripped(&self) -> Fault {
        self.tripped.notified().await;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.unwrap_or(Fault { outage: Outage::Unreachable, text: "the connection failed".into() })
    }
}

struct Keeper {
    dialer: Arc<Dialer>,
    scripts: Arc<Scripts>,
    deadline: Duration,
    state: watch::Sender<State>,
    health: Arc<Health>,
}

impl Keeper {
    async fn run(self) {
        let mut pause = Pause(PAUSE);
        loop {
            let line = self.connect(&mut pause).await;
            let since = Instant::now();
            self.health.connections.fetch_add(1, Ordering::Relaxed);
            self.state.send_replace(State::Up(Arc::clone(&line)));
            tracing::info!("redis is connected");
            let tripped = tokio::select! {
                () = line.driver.ended() => None,
                fault = line.pulse.tripped() => Some(fault),
            };
            drop(line);
            if since.elapsed() >= STEADY {
                pause = Pause(PAUSE);
            }
            match tripped {
                // Often back at once (a restart, an idle connection that was cut), so questions may wait for one attempt.
                None if pause.is_fresh() => {
                    pause.next();
                    self.state.send_replace(State::Connecting);
                    self.down(CLOSED, true);
                }
                None => {
                    self.open(
                        &Fault { outage: Outage::Unreachable, text: CLOSED.into() },
                        &mut pause,
                        true,
                    )
                    .await
                }
                Some(fault) => self.open(&fault, &mut pause, true).await,
            }
        }
    }

    /// Tries until there is a connection.
    async fn connect(&self, pause: &mut Pause) -> Arc<Line> {
        loop {
            let attempt = timeout(CONNECT, self.dialer.dial());
            tokio::pin!(attempt);
            let dialled = tokio::select! {
                dialled = &mut attempt => dialled,
                () = sleep(self.deadline) => {
                    // Whoever waited has given up by now, and nobody else need wait.
                    self.state.send_if_modified(|state| {
                        let waiting = matches!(state, State::Connecting);
                        if waiting {
                            *state = State::Open(Outage::Deadline);
                        }
                        waiting
                    });
                    attempt.await
                }
            };
            let fault = match dialled {
                Ok(Ok((connection, driver))) => {
                    return Arc::new(Line::new(
                        connection,
                        driver,
                        Arc::clone(&self.scripts),
                        Arc::clone(&self.health),
                    ));
                }
                Ok(Err(fault)) => fault,
                Err(_elapsed) => Fault {
                    outage: Outage::Deadline,
                    text: "no answer to a new connection within 1s".into(),
                },
            };
            self.open(&fault, pause, false).await;
        }
    }

    /// The circuit opens, or stays open, for one pause.
    async fn open(&self, fault: &Fault, pause: &mut Pause, was_up: bool) {
        self.state.send_replace(State::Open(fault.outage));
        self.down(&fault.text, was_up);
        sleep(pause.next()).await;
    }

    /// Tells the operator, once for each change.
    fn down(&self, text: &str, was_up: bool) {
        if self.health.note(text) || was_up {
            tracing::warn!("redis is down: {text}");
        }
    }
}

/// The pause before the next attempt.
struct Pause(Duration);

impl Pause {
    fn is_fresh(&self) -> bool {
        self.0 == PAUSE
    }

    fn next(&mut self) -> Duration {
        let full = self.0;
        self.0 = (full * 2).min(PAUSE_MAX);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_never_in_step() {
        let mut pause = Pause(PAUSE);
        assert!(pause.is_fresh());
        for full in [100, 200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis) {
            let pause = pause.next();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
    }
}
