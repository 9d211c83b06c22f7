//! The store all replicas share.
//!
//! A check is answered by an atomic script, which answers all checks that came while the last call was under way, each for
//! itself. What cannot be answered within the deadline is an outage, and is not asked again: what was sent may have charged.
//!
//! | key | type | what |
//! |---|---|---|
//! | `{tollgate}:rate:…` | string | a bucket: its TAT in microseconds; ends a second after it is full |
//! | `{tollgate}:revoked:…` | string | a revocation: its moment in seconds; ends with the tokens it is for |
//! | `{tollgate}:revocations` | sorted set | all of them, by the moment they end |
//! | `{tollgate}:revocations:notes` | hash | their notes |
//! | `{tollgate}:revocations:changes` | stream | the last ten thousand changes, for replication |
//! | `{tollgate}:probe` | string | the bucket of the question that tries a new connection |

mod ahead;
mod batch;
mod changes;
mod dial;
mod link;
mod packed;
mod question;
pub(super) mod script;

use std::{future::Future, sync::Arc, time::Duration};

use ::redis::{RedisResult, Value, aio::MultiplexedConnection, cmd, pipe};
use futures_util::future::{BoxFuture, Either};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    revocation::Target,
    time::Timestamp,
};

pub(super) use self::{
    ahead::keep,
    changes::{Change, Cursor, Ear},
};
use self::{
    dial::Dialer,
    link::{Line, Link},
    question::{Answered, Asked, Key},
    script::Scripts,
};
use super::{
    Admitted, Entry, LeaseStatus, PAGE_MAX, Page, RedisConfig, ReplicaStatus, Revocation, Store,
    StoreError, StoreStatus, leases::Leases, replica::Replica,
};

/// Time for what an operator asks, and for one step of the replication: not on the path of a check.
const UNHURRIED: Duration = Duration::from_secs(2);

/// What the ACL user needs, besides a password: `ACL SETUSER tollgate on >… ` and this. `revocation.foreign` needs its own keys
/// besides, and another database than 0 `+select`.
pub const ACL_RULE: &str = "~{tollgate}:* -@all +eval +evalsha +time +mget +exists +get +set +pttl +del +zadd +zrem +zcount \
    +zrangebyscore +zscan +hset +hdel +hmget +xadd +xrange +xrevrange +xread +info";

/// The revocations, by the moment they end, in milliseconds.
const INDEX: &str = "{tollgate}:revocations";
/// The notes of those that have one.
const NOTES: &str = "{tollgate}:revocations:notes";
/// What was added and removed lately, for replication.
const CHANGES: &str = "{tollgate}:revocations:changes";

/// A Redis, and the connection to it.
pub struct Redis {
    link: Link,
    dialer: Arc<Dialer>,
    scripts: Arc<Scripts>,
    deadline: Duration,
    replica: Option<Replicated>,
    leases: Arc<Leases>,
    /// Ends the connection with this value.
    _alive: DropGuard,
}

/// Revocations in memory that checks may rely on.
pub(super) struct Replicated {
    pub(super) replica: Arc<Replica>,
    /// How old they may be.
    pub(super) max_staleness: Duration,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis")
    }
}

impl Redis {
    /// Begins to connect, in the background, until `stop`. Call it inside a Tokio runtime.
    ///
    /// # Errors
    /// A password file or certificate authorities that cannot be read.
    pub fn open(config: &RedisConfig, stop: CancellationToken) -> Result<Self, StoreError> {
        Self::with(config, None, stop)
    }

    /// As [`Redis::open`], where somebody keeps the replica in step.
    pub(super) fn with(
        config: &RedisConfig,
        replica: Option<Replicated>,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let alive = stop.child_token();
        let deadline = config.deadline.std();
        let scripts = Arc::new(Scripts::new());
        let dialer = Arc::new(Dialer::new(config, Arc::clone(&scripts))?);
        let link = Link::start(Arc::clone(&dialer), Arc::clone(&scripts), deadline, alive.clone());
        Ok(Self {
            link,
            dialer,
            scripts,
            deadline,
            replica,
            leases: Arc::default(),
            _alive: alive.drop_guard(),
        })
    }

    async fn ask(&self, demands: &AdmitRequest) -> Result<AdmitResponse, Outage> {
        let demands = match self.known(demands) {
            Known::Revoked(kind) => return Ok(AdmitResponse::Revoked(kind)),
            Known::Good => AdmitRequest { revocation: None, charges: demands.charges.clone() },
            Known::Nothing => demands.clone(),
        };
        if demands.is_empty() {
            return Ok(AdmitResponse::Counted(Vec::new()));
        }
        if demands.charges.iter().any(|charge| charge.lease.is_some()) {
            return self.ask_leased(demands).await;
        }
        self.send(Asked::exactly(demands)).await.map(|answered| answered.answers)
    }

    /// The one round trip.
    async fn send(&self, asked: Asked) -> Result<Answered, Outage> {
        let until = Instant::now() + self.deadline;
        let line = self.line(until).await?;
        timeout_at(until, line.ask(asked))
            .await
            .unwrap_or_else(|_elapsed| Err(line.pulse().silent()))
    }

    /// What is known of a credential without asking Redis.
    fn known(&self, demands: &AdmitRequest) -> Known {
        let (Some(Replicated { replica, max_staleness }), Some(keys)) =
            (&self.replica, &demands.revocation)
        else {
            return Known::Nothing;
        };
        // INVARIANT: looked at before it is looked up, so that what is found is no older than the bound. Blacklists of other
        // services are not replicated: the configuration is refused, and here they would be asked for.
        if replica.age().is_none_or(|age| age > *max_staleness) || !keys.foreign.is_empty() {
            return Known::Nothing;
        }
        replica.revokes(keys).map_or(Known::Good, Known::Revoked)
    }

    async fn line(&self, until: Instant) -> Result<Arc<Line>, Outage> {
        match self.link.ready() {
            Some(line) => Ok(line),
            None => timeout_at(until, self.link.line()).await.unwrap_or(Err(Outage::Deadline)),
        }
    }

    /// Asks something that is not a check. A refusal says nothing of checks (a user may be allowed only those), so only silence
    /// counts against the line.
    async fn unhurried<T, F, A>(&self, question: F) -> Result<T, Outage>
    where
        F: FnOnce(MultiplexedConnection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        let until = Instant::now() + UNHURRIED;
        let line = self.line(until).await?;
        match timeout_at(until, question(line.connection())).await {
            Ok(answer) => answer.map_err(|error| line.pulse().refused(&error)),
            Err(_elapsed) => Err(line.pulse().silent()),
        }
    }

    async fn page(&self, offset: usize, limit: usize) -> Result<Page, Outage> {
        let listed = self.unhurried(move |mut connection| async move {
            let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut connection).await?;
            let after = format!("({}", seconds * 1000 + micros / 1000);
            let mut listing = pipe();
            listing.cmd("ZCOUNT").arg(INDEX).arg(&after).arg("+inf");
            listing.cmd("ZRANGEBYSCORE").arg(INDEX).arg(&after).arg("+inf").arg("WITHSCORES");
            listing.arg("LIMIT").arg(offset).arg(limit);
            let (total, ends): (u64, Vec<(String, f64)>) =
                listing.query_async(&mut connection).await?;
            if ends.is_empty() {
                return Ok(Page { entries: Vec::new(), total });
            }
            let mut details = pipe();
            details.cmd("MGET");
            for (key, _) in &ends {
                details.arg(Key::revoked(key));
            }
            details.cmd("HMGET").arg(NOTES);
            for (key, _) in &ends {
                details.arg(key);
            }
            let (moments, notes): (Vec<Option<u64>>, Vec<Option<String>>) =
                details.query_async(&mut connection).await?;
            let rows = ends.into_iter().zip(moments).zip(notes);
            // One without a moment has just ended.
            let entries = rows
                .filter_map(|(((key, ends), at), note)| Some(entry(key, at?, ends, note)))
                .collect();
            Ok(Page { entries, total })
        });
        listed.await
    }
}

/// What a replica says of a credential.
enum Known {
    Revoked(&'static str),
    Good,
    /// Too old, or none.
    Nothing,
}

/// An entry from Redis' numbers: a moment in seconds and an end in milliseconds, which an f64 holds exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an f64 below 2^53; the cast saturates"
)]
fn entry(key: String, at: u64, ends: f64, note: Option<String>) -> Entry {
    let ends = Timestamp::from_micros((ends as u64).saturating_mul(1000));
    Entry { key, at: Timestamp::from_secs(at), ends, note }
}

impl Store for Redis {
    fn admit<'a>(&'a self, demands: &'a AdmitRequest) -> Admitted<'a> {
        Either::Right(Box::pin(self.ask(demands)))
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>> {
        Box::pin(self.unhurried(move |mut connection| async move {
            let member = revocation.target().key();
            let reply = self.scripts.revoke.run(&mut connection, 4, |cmd| {
                cmd.arg(Key::revoked(&member)).arg(INDEX).arg(NOTES).arg(CHANGES);
                cmd.arg(&member)
                    .arg(revocation.at().secs())
                    .arg(revocation.ttl().micros().div_ceil(1000));
                cmd.arg(revocation.note().unwrap_or_default());
            });
            reply.await.map(|_: Value| ())
        }))
    }

    fn reinstate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(self.unhurried(move |mut connection| async move {
            let member = target.key();
            let reply = self.scripts.reinstate.run(&mut connection, 4, |cmd| {
                cmd.arg(Key::revoked(&member)).arg(INDEX).arg(NOTES).arg(CHANGES).arg(&member);
            });
            reply.await
        }))
    }

    fn list(&self, offset: usize, limit: usize) -> BoxFuture<'_, Result<Page, Outage>> {
        Box::pin(self.page(offset, limit.min(PAGE_MAX)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.give_back(true))
    }

    fn status(&self) -> StoreStatus {
        let (buckets, units) = self.leases.held();
        let circuit = self.link.circuit();
        StoreStatus {
            remote: true,
            up: circuit == super::Circuit::Closed,
            circuit,
            connections: self.link.connections(),
            last_error: self.link.last_error(),
            buckets: None,
            revocations: None,
            replica: self.replica.as_ref().map(|Replicated { replica, max_staleness }| {
                ReplicaStatus {
                    revocations: replica.len(),
                    age: replica.age(),
                    max_staleness: *max_staleness,
                }
            }),
            leases: Some(LeaseStatus { buckets, units }),
        }
    }
}
