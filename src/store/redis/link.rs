//! The link to the server that has the keys with one tag: its connection, made again whenever it is
//! lost, and the calls on it.

use std::{future::Future, sync::Arc, time::Duration};

use ::redis::{RedisResult, aio::MultiplexedConnection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tollgate_core::admission::Outage;

use super::{
    CALL_DEADLINE,
    admit_call::{ScriptRequest, ScriptResponse},
    attended::{Expiry, within},
    connection::{CircuitBreaker, Connection, Dialer, Servers, Unanswered},
    error::ConnectionError,
    keys::Tag,
    script::Scripts,
    settling::ReservationCounts,
};
use crate::store::{Circuit, NodeStatus};

/// The link to one server.
pub(super) struct Link {
    breaker: CircuitBreaker,
    pub(super) dialer: Arc<Dialer>,
    deadline: Duration,
}

impl Link {
    /// Starts to connect, in the background, until `stop`. Checks wait for up to `deadline`.
    pub(super) fn start(
        servers: Servers,
        tag: Tag,
        scripts: &Arc<Scripts>,
        deadline: Duration,
        reservations: &Arc<ReservationCounts>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let dialer = Arc::new(Dialer::new(servers, tag));
        let breaker = CircuitBreaker::start(
            Arc::clone(&dialer),
            Arc::clone(scripts),
            deadline,
            Arc::clone(reservations),
            stop,
        );
        Arc::new(Self { breaker, dialer, deadline })
    }

    /// The tag of its keys.
    pub(super) fn tag(&self) -> &Tag {
        self.dialer.tag()
    }

    /// Makes the one round trip of a check. A request that was not decided, because another server
    /// has the keys, is sent to that one.
    pub(super) async fn send(&self, request: ScriptRequest) -> Result<ScriptResponse, Outage> {
        let started = Instant::now();
        let connection = self.connection().await?;
        match connection.admit(request).await {
            Err(Unanswered::Elsewhere(request, _))
                if self.dialer.has_replacements() && started.elapsed() < self.deadline =>
            {
                let connection = self.breaker.replacement(&connection).await?;
                connection.admit(*request).await.map_err(Unanswered::outage)
            }
            answer => answer.map_err(Unanswered::outage),
        }
    }

    /// The connection, if there is one now.
    pub(super) fn connected(&self) -> Option<Arc<Connection>> {
        self.breaker.connection()
    }

    async fn connection(&self) -> Result<Arc<Connection>, Outage> {
        match self.breaker.connection() {
            Some(connection) => Ok(connection),
            None => self.breaker.wait_for_connection().await,
        }
    }

    /// Makes a call that is not a check. An error does not count against the connection, as a user
    /// may be allowed to make checks only; a timeout does.
    pub(super) async fn call<T, F, A>(&self, call: F) -> Result<T, Outage>
    where
        F: FnOnce(MultiplexedConnection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        self.call_within(CALL_DEADLINE, call).await
    }

    /// Makes a call that is not a check, with a time limit of its own.
    pub(super) async fn call_within<T, F, A>(
        &self,
        deadline: Duration,
        call: F,
    ) -> Result<T, Outage>
    where
        F: FnOnce(MultiplexedConnection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        let connection = self.connection().await?;
        match within(deadline, call(connection.redis())).await {
            Ok(answer) => answer.map_err(|error| connection.failures().record_other_error(&error)),
            Err(Expiry::Store) => Err(connection.failures().record_timeout()),
            Err(Expiry::Process) => Err(Outage::Starved),
        }
    }

    /// The state of the circuit.
    pub(super) fn circuit(&self) -> Circuit {
        self.breaker.circuit()
    }

    /// The number of connections since the start.
    pub(super) fn connections(&self) -> u64 {
        self.breaker.connections()
    }

    /// The last error.
    pub(super) fn last_error(&self) -> Option<String> {
        self.breaker.last_error()
    }

    /// The cause of an outage, in words for the operator. The last error may be missing, or of an
    /// earlier outage, where the call itself had no answer.
    pub(super) fn cause(&self, outage: Outage) -> String {
        let address = Arc::clone(self.dialer.shown());
        match outage {
            Outage::Deadline => ConnectionError::Timeout { address }.to_string(),
            Outage::Starved => format!("this process was too busy for the answer of {address}"),
            _ => self.last_error().unwrap_or_else(|| format!("no connection to {address}")),
        }
    }

    /// The server in use.
    pub(super) fn node(&self, shard: Option<usize>) -> NodeStatus {
        NodeStatus {
            shard,
            node: self.dialer.node().map(|node| node.to_string()),
            up: self.circuit() == Circuit::Closed,
        }
    }
}
