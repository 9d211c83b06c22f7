//! The circuit breaker: it owns the one connection, and decides whether checks are sent on it.
//!
//! One task connects, so that a thousand checks that find no connection make one attempt. While a
//! lost connection is made again for the first time, requests wait for it within their deadline
//! (half-open). When that fails, or when too many answers in a row have failed, the circuit opens:
//! requests are answered with an outage at once, and the task alone tries on, with growing pauses,
//! until a new connection has answered a real request.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tollgate_core::admission::Outage;

use super::{Connection, backoff::Backoff, dialer::Dialer, failures::ErrorLog};
use crate::store::{
    Circuit,
    redis::{
        attended::{Expiry, within},
        error::ConnectionError,
        script::Scripts,
        settling::ReservationCounts,
    },
};

/// The time limit of one attempt to connect.
const CONNECT: Duration = Duration::from_secs(1);

/// A connection that lasted this long was stable: the next pause is the shortest one again.
const STABLE: Duration = Duration::from_secs(2);

/// The state of the circuit, and the connection.
pub(in crate::store::redis) struct CircuitBreaker {
    state: watch::Receiver<State>,
    log: Arc<ErrorLog>,
}

#[derive(Clone)]
enum State {
    HalfOpen,
    Closed(Arc<Connection>),
    /// The circuit is open, because of this outage, or because this process had no time to connect.
    Open(Outage),
}

impl CircuitBreaker {
    /// Starts to connect, in the background, until `stop`.
    pub(in crate::store::redis) fn start(
        dialer: Arc<Dialer>,
        scripts: Arc<Scripts>,
        deadline: Duration,
        reservations: Arc<ReservationCounts>,
        stop: CancellationToken,
    ) -> Self {
        let (state, watched) = watch::channel(State::HalfOpen);
        let log = Arc::new(ErrorLog::new());
        let supervisor =
            Supervisor { dialer, scripts, deadline, reservations, state, log: Arc::clone(&log) };
        tokio::spawn(async move { stop.run_until_cancelled(supervisor.run()).await });
        Self { state: watched, log }
    }

    /// The connection, if the circuit is closed.
    pub(in crate::store::redis) fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            State::Closed(connection) => Some(Arc::clone(connection)),
            State::HalfOpen | State::Open(_) => None,
        }
    }

    /// Waits for the connection while the circuit is half-open, which it is for no longer than the
    /// deadline of a check.
    pub(in crate::store::redis) async fn wait_for_connection(
        &self,
    ) -> Result<Arc<Connection>, Outage> {
        match &*self.state.borrow() {
            State::Open(Outage::Starved) => return Err(Outage::Starved),
            State::Open(_) => return Err(Outage::CircuitOpen),
            State::HalfOpen | State::Closed(_) => {}
        }
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::HalfOpen)).await;
        match settled.as_deref() {
            Ok(State::Closed(connection)) => Ok(Arc::clone(connection)),
            Ok(State::Open(outage)) => Err(*outage),
            // The process is shutting down.
            Ok(State::HalfOpen) | Err(_) => Err(Outage::Starved),
        }
    }

    /// Waits until there is another connection than `lost`, which is being given up: as long as a
    /// request waits for a connection.
    pub(in crate::store::redis) async fn replacement(
        &self,
        lost: &Arc<Connection>,
    ) -> Result<Arc<Connection>, Outage> {
        let is_lost = |state: &State| match state {
            State::Closed(connection) => Arc::ptr_eq(connection, lost),
            State::HalfOpen | State::Open(_) => false,
        };
        let mut state = self.state.clone();
        drop(state.wait_for(|state| !is_lost(state)).await);
        match self.connection() {
            Some(connection) => Ok(connection),
            None => self.wait_for_connection().await,
        }
    }

    /// The state for the status of the store.
    pub(in crate::store::redis) fn circuit(&self) -> Circuit {
        match &*self.state.borrow() {
            State::HalfOpen => Circuit::HalfOpen,
            State::Closed(_) => Circuit::Closed,
            State::Open(_) => Circuit::Open,
        }
    }

    /// The number of connections since the start.
    pub(in crate::store::redis) fn connections(&self) -> u64 {
        self.log.connections()
    }

    /// The last error.
    pub(in crate::store::redis) fn last_error(&self) -> Option<String> {
        self.log.last_error()
    }
}

/// The task that keeps the connection.
struct Supervisor {
    dialer: Arc<Dialer>,
    scripts: Arc<Scripts>,
    deadline: Duration,
    reservations: Arc<ReservationCounts>,
    state: watch::Sender<State>,
    log: Arc<ErrorLog>,
}

impl Supervisor {
    async fn run(self) {
        let mut backoff = Backoff::new();
        loop {
            let connection = self.connect(&mut backoff).await;
            let since = Instant::now();
            self.log.connected();
            self.state.send_replace(State::Closed(Arc::clone(&connection)));
            let server = connection.server.clone();
            tracing::info!("store.redis: connected to {}", server.shown);
            let tripped = tokio::select! {
                () = connection.driver.ended() => None,
                error = connection.failures.tripped() => Some(error),
                by = self.dialer.finder().replaced(&server.address) => {
                    let (address, by) = (Arc::clone(&server.shown), by.to_string());
                    Some(ConnectionError::Replaced { address, by })
                }
            };
            drop(connection);
            if since.elapsed() >= STABLE {
                backoff = Backoff::new();
            }
            let closed = || ConnectionError::Closed { address: Arc::clone(&server.shown) };
            self.dialer.finder().lost(&server.address, tripped.as_ref().unwrap_or(&closed()));
            match tripped {
                // Redis is often back at once (a restart, an idle connection that was cut), so
                // requests may wait for one attempt.
                None if backoff.is_fresh() => {
                    backoff.next();
                    self.state.send_replace(State::HalfOpen);
                    self.report(&closed(), true);
                }
                None => self.open(&closed(), &mut backoff, true).await,
                // Another server has the keys, so requests may wait for one attempt.
                Some(error) if error.is_elsewhere() && backoff.is_fresh() => {
                    backoff.next();
                    self.state.send_replace(State::HalfOpen);
                    self.report(&error, true);
                }
                Some(error) => self.open(&error, &mut backoff, true).await,
            }
        }
    }

    /// Tries until there is a connection.
    async fn connect(&self, backoff: &mut Backoff) -> Arc<Connection> {
        loop {
            let attempt = within(CONNECT, self.dialer.dial());
            tokio::pin!(attempt);
            let dialled = match within(self.deadline, &mut attempt).await {
                Ok(dialled) => dialled,
                Err(expiry) => {
                    // No request waits longer than its deadline.
                    self.state.send_if_modified(|state| {
                        let waiting = matches!(state, State::HalfOpen);
                        if waiting {
                            *state = State::Open(expiry.outage());
                        }
                        waiting
                    });
                    attempt.await
                }
            };
            let address = || Arc::clone(self.dialer.shown());
            let error = match dialled {
                Ok(Ok(dialled)) => {
                    let (scripts, log) = (Arc::clone(&self.scripts), Arc::clone(&self.log));
                    let reservations = Arc::clone(&self.reservations);
                    let tag = self.dialer.tag().clone();
                    let connection =
                        Connection::new(dialled, tag, self.deadline, scripts, log, reservations);
                    return Arc::new(connection);
                }
                Ok(Err(error)) => error,
                Err(Expiry::Store) => ConnectionError::ConnectTimeout { address: address() },
                Err(Expiry::Process) => ConnectionError::Starved { address: address() },
            };
            // An attempt that was given up has not noted this itself.
            self.dialer.finder().missed();
            self.open(&error, backoff, false).await;
        }
    }

    /// Opens the circuit, or keeps it open, for one pause.
    async fn open(&self, error: &ConnectionError, backoff: &mut Backoff, was_closed: bool) {
        self.state.send_replace(State::Open(error.outage()));
        self.report(error, was_closed);
        sleep(backoff.next()).await;
    }

    /// Logs an error, once until it changes.
    fn report(&self, error: &ConnectionError, was_closed: bool) {
        if self.log.record(error) || was_closed {
            tracing::warn!("store.redis: {error}");
        }
    }
}
