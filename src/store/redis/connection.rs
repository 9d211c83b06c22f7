//! The one connection to Redis, with its batcher and its failure tracker.

mod backoff;
mod batcher;
mod breaker;
mod cluster_map;
mod connector;
mod dialer;
mod failures;
mod finder;
mod sentinels;
mod socket;

use std::{sync::Arc, time::Duration};

use ::redis::aio::MultiplexedConnection;

use self::{
    batcher::BatchQueue,
    dialer::{Dialled, Server},
    failures::ErrorLog,
};
pub(super) use self::{
    batcher::Unanswered,
    breaker::CircuitBreaker,
    connector::Driver,
    dialer::{Dialer, Servers},
    failures::FailureTracker,
};
use super::{
    admit_call::{ScriptRequest, ScriptResponse},
    keys::Tag,
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
    server: Server,
}

impl Connection {
    /// Creates a connection whose checks wait for up to `deadline`.
    fn new(
        Dialled { redis, driver, socket, server }: Dialled,
        tag: Tag,
        deadline: Duration,
        scripts: Arc<Scripts>,
        log: Arc<ErrorLog>,
        reservations: Arc<ReservationCounts>,
    ) -> Self {
        let failures = Arc::new(FailureTracker::new(log, Arc::clone(&server.shown)));
        let batches = BatchQueue::start(
            redis.clone(),
            tag,
            socket,
            deadline,
            scripts,
            Arc::clone(&failures),
            reservations,
        );
        Self { redis, batches, driver, failures, server }
    }

    /// A handle for calls that are not checks.
    pub(super) fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    /// Sends the request of a check, in a batch with others, and waits for its answer within the
    /// deadline.
    pub(super) async fn admit(&self, request: ScriptRequest) -> Result<ScriptResponse, Unanswered> {
        self.batches.send(request).await
    }

    /// The failures of calls on this connection.
    pub(super) fn failures(&self) -> &FailureTracker {
        &self.failures
    }
}
