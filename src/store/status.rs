//! The status of a store, for metrics and readiness.

use std::time::Duration;

use thiserror::Error;
use tollgate_core::{admission::Outage, ban::Kind, limit::model_tag::ExpiredTokens};

use super::{Store, leases::LeaseStatus};

/// The store did not answer a call of an operator. A repeated call does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the store is not available ({})", .outage.label())]
pub struct StoreUnavailable {
    outage: Outage,
    #[source]
    cause: Option<LastError>,
}

/// The last error of a store, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
struct LastError(String);

impl StoreUnavailable {
    /// The outage of a call of `store`, with the last error of its connections as the cause.
    pub fn of(store: &dyn Store, outage: Outage) -> Self {
        Self { outage, cause: store.status().last_error.map(LastError) }
    }
}

impl From<Outage> for StoreUnavailable {
    fn from(outage: Outage) -> Self {
        Self { outage, cause: None }
    }
}

/// The state of the circuit breaker of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Circuit {
    /// Requests are sent.
    Closed,
    /// A connection is being made; requests wait for it within their deadline.
    HalfOpen,
    /// Requests are answered with an outage at once, while one probe at a time tests whether the
    /// store is back.
    Open,
}

impl Circuit {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// The status of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether the store is on the other side of a socket.
    pub remote: bool,
    /// Whether the store answers. A store in memory is always up.
    pub up: bool,
    /// The state of its circuit breaker.
    pub circuit: Circuit,
    /// The number of connections since the start; 0 in memory.
    pub connections: u64,
    /// The last error, for the operator; it contains no secret.
    pub last_error: Option<String>,
    /// The servers in use: of the keys that are in no shard, and of each shard; none in memory.
    pub nodes: Vec<NodeStatus>,
    /// The number of buckets in this process; `None` where the store is remote.
    pub buckets: Option<u64>,
    /// The number of revocations in this process; `None` where the store is remote.
    pub revocations: Option<u64>,
    /// The copy of Redis' revocations that checks rely on (`store.redis.replicate_revocations`);
    /// `None` without one.
    pub replica: Option<ReplicaStatus>,
    /// The bans that this process knows; `None` for a connection without a copy of them.
    pub bans: Option<BanStatus>,
    /// The units of leased limits that this process holds; `None` in memory.
    pub leases: Option<LeaseStatus>,
    /// The open and the expired reservations.
    pub reservations: ReservationStatus,
}

/// The server that a connection is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The shard whose counters are there; `None` for the keys that are in no shard.
    pub shard: Option<usize>,
    /// The host and port, or the socket, that was connected to last; `None` before the first
    /// connection.
    pub node: Option<String>,
    /// Whether it answers.
    pub up: bool,
}

/// The reservations of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservationStatus {
    /// The number of open reservations of all replicas; `None` before this process has made one.
    pub open: Option<u64>,
    /// The number of reservations that this process found expired, and charged, since its start.
    pub expired: u64,
    /// The tokens that it charged for them, by the tags of their models.
    pub expired_tokens: ExpiredTokens,
}

/// The bans that a process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanStatus {
    /// The number of bans of each kind, in the order of [`Kind::ALL`].
    pub counts: [u64; Kind::ALL.len()],
    /// The age of the copy of Redis' bans; `None` before it was first read, and in memory.
    pub age: Option<Duration>,
}

/// The copy of the revocations in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The number of revocations in the copy.
    pub revocations: u64,
    /// The age of the copy; `None` before it was first read.
    pub age: Option<Duration>,
    /// The greatest age at which checks rely on the copy; beyond it each check queries Redis.
    pub max_staleness: Duration,
}
