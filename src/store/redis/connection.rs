//! The one connection to Redis, with its batcher and its failure tracker.

mod backoff;
mod batcher;
mod breaker;
mod dialer;
mod failures;
mod socket;

use std::{sync::Arc, time::Duration};

use ::redis::aio::MultiplexedConnection;
use tollgate_core::admission::Outage;

use self::{batcher::BatchQueue, dialer::Dialled, failures::ErrorLog};
pub(super) use self::{
    breaker::CircuitBreaker,
    dialer::{Dialer, Driver},
    failures::FailureTracker,
};
use super::{
    admit_call::{ScriptRequest, ScriptResponse},
    script::Scripts,
    settling::ReservationCounts,
};

/// A connection that answers.
pub(super) struct Connection {
    redis: MultiplexedConnection,
    batches: BatchQueue,
    /// Closes the socket when the last call on it has been answered or given up.
    driver: Driver,
    failures: Arc<FailureTracker>,
}

impl Connection {
    /// Creates a connection whose checks wait for up to `deadline`.
    fn new(
        Dialled { redis, driver, socket }: Dialled,
        deadline: Duration,
        scripts: Arc<Scripts>,
        log: Arc<ErrorLog>,
        reservations: Arc<ReservationCounts>,
    ) -> Self {
        let failures = Arc::new(FailureTracker::new(log));
        let batches = BatchQueue::start(
            redis.clone(),
            socket,
            deadline,
            scripts,
            Arc::clone(&failures),
            reservations,
        );
        Self { redis, batches, driver, failures }
    }

    /// A handle for calls that are not checks.
    pub(super) fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    /// Sends the request of a check, in a batch with others, and waits for its answer within the
    /// deadline.
    pub(super) async fn admit(&self, request: ScriptRequest) -> Result<ScriptResponse, Outage> {
        self.batches.send(request).await
    }

    /// The failures of calls on this connection.
    pub(super) fn failures(&self) -> &FailureTracker {
        &self.failures
    }
}
