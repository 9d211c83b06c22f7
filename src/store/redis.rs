//! The store that all replicas share, in Redis.
//!
//! An atomic script decides checks: all checks that arrived during the last call, each
//! independently. A check that is not answered within the deadline is an outage and is not sent
//! again: it may have been charged. The deadline runs only while this process can read the answer
//! ([`attended`]). [`keys`] names the keys and the format of the data, and
//! docs/operations.md describes them.

mod admit_call;
mod api_keys;
mod attended;
mod bans;
mod connection;
mod error;
mod key_uses;
mod keys;
mod leasing;
pub(super) mod ledger;
mod ledger_chain;
mod link;
mod packed_list;
mod pages;
mod replication;
pub(super) mod script;
mod settling;
mod shards;
mod slot;

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use ::redis::{RedisResult, Value, aio::MultiplexedConnection, pipe};
use futures_util::future::{BoxFuture, Either};
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement},
    ban::{self, Ban},
    limit::reservation::Reservation,
    revocation::Target,
    time::Timestamp,
};

use self::{
    admit_call::ScriptRequest,
    attended::GRACE,
    connection::Servers,
    keys::{CHANGES, FORMAT_KEY, INDEX, Key, NOTES, REVOKED_KINDS, Tag, check_format},
    link::Link,
    pages::{Listed, MemberPage},
    script::Scripts,
    settling::ReservationCounts,
    shards::Shards,
};
pub use self::{
    api_keys::{KeyPage, KeyWrite, StoredKey},
    error::PasswordError,
};
pub(super) use self::{
    leasing::spawn_give_back,
    replication::{BATCH, Change, ChangeSubscription, Cursor},
    settling::spawn_sweep,
};
use super::{
    AdmitFuture, AutomaticBan, BanQuery, BanStatus, BegunBan, Circuit, Entry, NewBan, PAGE_MAX,
    Page, Position, RedisConfig, ReplicaStatus, Revocation, Store, StoreError, StoreStatus,
    leases::Leases, replica::Replica,
};

/// The time limit of a call that is not a check: those of operators, and the steps of replication.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// The permissions of the ACL user: `ACL SETUSER tollgate on >PASSWORD` and this rule.
/// `revocation.foreign` needs its own keys in addition, and another database than 0 `+select`.
pub const ACL_RULE: &str = "~{tollgate}:* -@all +eval +evalsha +time +mget +exists +get +set +pttl +del +zadd +zrem +zcount \
    +zrangebyscore +zscan +hset +hdel +hmget +hscan +sadd +sismember +pexpire \
    +xadd +xrange +xrevrange +xread +info";

/// What the ledger needs beside [`ACL_RULE`].
pub const LEDGER_ACL_RULE: &str = "+hincrby +xdel +xlen +xtrim";

/// A store in Redis.
pub struct Redis {
    /// The link to the keys that are in no shard.
    home: Arc<Link>,
    /// The links to the shards of the counters, if there are some.
    shards: Option<Shards>,
    scripts: Arc<Scripts>,
    replication: Option<Replication>,
    leases: Arc<Leases>,
    reservations: Arc<ReservationCounts>,
    /// The time limit for the answer to a check.
    deadline: Duration,
    /// Ends the connection when it is dropped.
    _alive: DropGuard,
}

/// The greatest age at which the copy of the bans is not confirmed by Redis, where the revocations
/// are not replicated.
pub(super) const BAN_STALENESS: Duration = Duration::from_secs(5);

/// A copy of the bans in Redis, and of the revocations where the configuration requires it.
pub(super) struct Replication {
    pub(super) replica: Arc<Replica>,
    /// The greatest age at which a credential that is not in the copy is not revoked. `None`: Redis
    /// is queried, and revocations in the copy hold in outages only.
    pub(super) max_staleness: Option<Duration>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis")
    }
}

impl Redis {
    /// Opens a store without replication. It connects in the background, until `stop`. Call it
    /// inside a Tokio runtime.
    ///
    /// # Errors
    /// A password file or the certificate authorities cannot be read.
    pub fn open(config: &RedisConfig, stop: CancellationToken) -> Result<Self, StoreError> {
        Self::with_replication(config, None, stop)
    }

    /// Opens a store as [`Redis::open`]. The caller keeps the replica up to date.
    pub(super) fn with_replication(
        config: &RedisConfig,
        replication: Option<Replication>,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let alive = stop.child_token();
        let deadline = config.deadline.std();
        let scripts = Arc::new(Scripts::new());
        let reservations = Arc::<ReservationCounts>::default();
        let servers = Servers::new(config, Arc::clone(&scripts))?;
        let start = |tag| {
            Link::start(servers.clone(), tag, &scripts, deadline, &reservations, alive.clone())
        };
        let home = start(Tag::home());
        let shards = config.shard.map(|by| Shards::start(by, config.shard_count(), start));
        Ok(Self {
            home,
            shards,
            scripts,
            replication,
            leases: Arc::default(),
            reservations,
            deadline,
            _alive: alive.drop_guard(),
        })
    }

    async fn decide(&self, request: &AdmitRequest) -> Result<AdmitResponse, Outage> {
        if let Some(shards) = &self.shards {
            return self.decide_in_shards(shards, request).await;
        }
        match self.look_up(request) {
            Lookup::Denied(response) => Ok(response),
            Lookup::NotRevoked => {
                let (revocation, address) = (None, None);
                let counted = AdmitRequest { revocation, address, ..request.clone() };
                self.query(counted, None).await
            }
            Lookup::Unknown => self.query(request.clone(), None).await,
            // INVARIANT: an outage never forgets a revocation or a ban that is known. Redis may have
            // removed it since, so it is queried first.
            Lookup::OnceDenied(response) => {
                self.query_for(Needs::Answer, request.clone(), None).await.or(Ok(response))
            }
        }
    }

    /// Queries the server of a shard, unless leased units suffice. A request of which nothing is enforced
    /// needs no answer.
    async fn query(
        &self,
        request: AdmitRequest,
        shard: Option<usize>,
    ) -> Result<AdmitResponse, Outage> {
        self.query_for(Needs::AnswerIfEnforced, request, shard).await
    }

    async fn query_for(
        &self,
        needs: Needs,
        request: AdmitRequest,
        shard: Option<usize>,
    ) -> Result<AdmitResponse, Outage> {
        if request.is_empty() {
            return Ok(AdmitResponse::Counted(Vec::new()));
        }
        if request.charges.iter().any(|charge| charge.lease.is_some()) {
            return self.decide_leased(needs, request, shard).await;
        }
        let uncounted = needs.can_do_without(&request).then(|| request.uncounted());
        let response = self.link(shard).send(ScriptRequest::exact(request)).await;
        match (response, uncounted) {
            (Ok(response), _) => Ok(response.response),
            (Err(_), Some(uncounted)) => Ok(AdmitResponse::Counted(uncounted)),
            (Err(outage), None) => Err(outage),
        }
    }

    /// Whether the bans were read once, or could not be read.
    pub(super) fn has_tried_bans(&self) -> bool {
        self.replication.as_ref().is_none_or(|replication| replication.replica.is_tried())
    }

    /// Looks up a request in the replicated bans, and its credential in the replicated revocations.
    fn look_up(&self, request: &AdmitRequest) -> Lookup {
        let Some(Replication { replica, max_staleness }) = &self.replication else {
            return Lookup::Unknown;
        };
        // INVARIANT: the age is read before the entries, so that they are not older than the bound.
        let age = replica.age();
        let is_within = |most: Duration| age.is_some_and(|age| age <= most);
        if let Some(ban) = replica.ban(request) {
            let response = AdmitResponse::Banned(ban);
            return if is_within(max_staleness.unwrap_or(BAN_STALENESS)) {
                Lookup::Denied(response)
            } else {
                Lookup::OnceDenied(response)
            };
        }
        // External denylists are not replicated: the configuration is refused, and here they would
        // be queried in Redis.
        let Some(keys) = &request.revocation else { return Lookup::Unknown };
        match (replica.revoked_by(keys), max_staleness.is_some_and(is_within)) {
            (Some(kind), true) => Lookup::Denied(AdmitResponse::Revoked(kind)),
            (Some(kind), false) => Lookup::OnceDenied(AdmitResponse::Revoked(kind)),
            (None, true) if keys.foreign.is_empty() => Lookup::NotRevoked,
            (None, _) => Lookup::Unknown,
        }
    }

    /// Makes a call that is not a check: see [`Link::call`].
    async fn call<T, F, A>(&self, call: F) -> Result<T, Outage>
    where
        F: FnOnce(MultiplexedConnection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        self.home.call(call).await
    }

    /// Makes a call that is not a check, with a time limit of its own.
    async fn call_within<T, F, A>(&self, deadline: Duration, call: F) -> Result<T, Outage>
    where
        F: FnOnce(MultiplexedConnection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        self.home.call_within(deadline, call).await
    }

    /// Checks the format marker, and returns the time of Redis.
    async fn format_and_time(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Timestamp> {
        let mut clock = pipe();
        clock.cmd("GET").arg(FORMAT_KEY).cmd("TIME");
        let (format, (seconds, micros)): (Option<String>, (u64, u64)) =
            clock.query_async(connection).await?;
        check_format(format)?;
        Ok(Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros)))
    }

    async fn page(&self, after: Option<&Position>, limit: usize) -> Result<Page, Outage> {
        let MemberPage { rows, total, next } = self.members(REVOCATIONS, after, limit).await?;
        if rows.is_empty() {
            return Ok(Page { entries: Vec::new(), total, next });
        }
        let rows = &rows;
        let (moments, notes): (Vec<Option<u64>>, Vec<Option<String>>) = self
            .call(|mut connection| async move {
                let mut details = pipe();
                details.cmd("MGET");
                for (key, _) in rows {
                    details.arg(Key::revoked(key));
                }
                details.cmd("HMGET").arg(NOTES);
                for (key, _) in rows {
                    details.arg(key);
                }
                details.query_async(&mut connection).await
            })
            .await?;
        // An entry without a moment has just ended.
        let entries = rows.iter().zip(moments).zip(notes);
        let entries = entries.filter_map(|(((key, ends), at), note)| {
            let ends = Timestamp::from_micros(ends.saturating_mul(1000));
            let key = String::from_utf8_lossy(key).into_owned();
            Some(Entry { key, at: Timestamp::from_secs(at?), ends, note })
        });
        Ok(Page { entries: entries.collect(), total, next })
    }
}

/// Whether a request needs the answer of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// The answer decides.
    Answer,
    /// The answer decides where something of the request is enforced.
    AnswerIfEnforced,
}

impl Needs {
    /// Whether the request passes without an answer.
    ///
    /// INVARIANT: a limit in shadow never refuses, also where it cannot be counted.
    fn can_do_without(self, request: &AdmitRequest) -> bool {
        self == Self::AnswerIfEnforced && request.is_in_shadow()
    }
}

/// The result of a look-up in the copy.
enum Lookup {
    /// The request is banned, or its credential revoked.
    Denied(AdmitResponse),
    /// The request is not banned, and its credential not revoked.
    NotRevoked,
    /// A copy that is too old bans the request or revokes its credential.
    OnceDenied(AdmitResponse),
    /// There is no copy, or one that is too old and has no such entry.
    Unknown,
}

/// An entry of the list, from a moment in seconds and an end in milliseconds, which an f64 holds
/// exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an f64 below 2^53; the cast saturates"
)]
fn entry(key: String, at: u64, ends: f64, note: Option<String>) -> Entry {
    let ends = Timestamp::from_micros((ends as u64).saturating_mul(1000));
    Entry { key, at: Timestamp::from_secs(at), ends, note }
}

/// The list of revocations, by their ends in milliseconds.
const REVOCATIONS: Listed = Listed { key: INDEX, unit: 1000, ends: true };

impl Store for Redis {
    fn admit<'a>(&'a self, request: &'a AdmitRequest) -> AdmitFuture<'a> {
        Either::Right(Box::pin(self.decide(request)))
    }

    fn settle<'a>(
        &'a self,
        settlements: &'a [Settlement],
    ) -> BoxFuture<'a, Result<Vec<Settled>, Outage>> {
        Box::pin(self.settle_all(settlements))
    }

    fn settling_places(&self) -> usize {
        self.places().count()
    }

    fn settling_place(&self, reservation: &Reservation) -> usize {
        self.index_of(reservation.shard).map_or(0, |shard| shard + 1)
    }

    /// One deadline for a connection whose circuit is half-open, one for the answer, and the time
    /// for which this process may be busy; one more where another server may take the place of the
    /// one in use.
    fn longest_wait(&self) -> Duration {
        let deadlines = if self.home.dialer.has_replacements() { 3 } else { 2 };
        // With shards, the home may be queried before.
        let calls = if self.has_shards() { 2 } else { 1 };
        (self.deadline * deadlines + GRACE) * calls
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>> {
        Box::pin(self.call(move |mut connection| async move {
            let member = revocation.target().key();
            let reply = self.scripts.revoke.run(&mut connection, 6, |cmd| {
                cmd.arg(Key::revoked(&member)).arg(INDEX).arg(NOTES).arg(CHANGES);
                cmd.arg(REVOKED_KINDS).arg(FORMAT_KEY);
                cmd.arg(&member)
                    .arg(revocation.at().secs())
                    .arg(revocation.life().micros().div_ceil(1000));
                cmd.arg(revocation.note().unwrap_or_default());
            });
            reply.await.map(|_: Value| ())
        }))
    }

    fn reinstate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(self.call(move |mut connection| async move {
            let member = target.key();
            let reply = self.scripts.reinstate.run(&mut connection, 5, |cmd| {
                cmd.arg(Key::revoked(&member)).arg(INDEX).arg(NOTES).arg(CHANGES).arg(FORMAT_KEY);
                cmd.arg(&member);
            });
            reply.await
        }))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>> {
        Box::pin(self.page(after, limit.min(PAGE_MAX)))
    }

    fn network_ban(&self, address: IpAddr) -> Option<Ban> {
        self.replication.as_ref()?.replica.network_ban(address)
    }

    fn ban<'a>(&'a self, ban: &'a NewBan) -> BoxFuture<'a, Result<Entry, Outage>> {
        Box::pin(self.add_ban(ban))
    }

    fn begin_ban<'a>(&'a self, ban: &'a AutomaticBan) -> BoxFuture<'a, Result<BegunBan, Outage>> {
        Box::pin(self.add_automatic_ban(ban))
    }

    fn lift<'a>(&'a self, target: &'a ban::Target) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(self.lift_ban(target))
    }

    fn list_bans<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>> {
        Box::pin(self.ban_page(after, limit.min(PAGE_MAX)))
    }

    fn bans_of<'a>(&'a self, query: &'a BanQuery) -> BoxFuture<'a, Result<Vec<Entry>, Outage>> {
        Box::pin(self.find_bans(query))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.give_back(true))
    }

    fn status(&self) -> StoreStatus {
        let links = || self.places().map(|shard| (shard, self.link(shard)));
        let circuit = links().map(|(_, link)| link.circuit()).max().unwrap_or(Circuit::Closed);
        let failing = links().find(|(_, link)| link.circuit() != Circuit::Closed);
        let last_error = failing.and_then(|(_, link)| link.last_error());
        StoreStatus {
            remote: true,
            up: circuit == Circuit::Closed,
            circuit,
            connections: links().map(|(_, link)| link.connections()).sum(),
            last_error: last_error.or_else(|| self.home.last_error()),
            nodes: links().map(|(shard, link)| link.node(shard)).collect(),
            buckets: None,
            revocations: None,
            replica: self.replication.as_ref().and_then(
                |Replication { replica, max_staleness }| {
                    Some(ReplicaStatus {
                        revocations: replica.len(),
                        age: replica.age(),
                        max_staleness: (*max_staleness)?,
                    })
                },
            ),
            bans: self.replication.as_ref().map(|Replication { replica, .. }| BanStatus {
                counts: replica.ban_counts(),
                age: replica.age(),
            }),
            leases: Some(self.leases.status()),
            reservations: self.reservations.status(),
        }
    }
}
