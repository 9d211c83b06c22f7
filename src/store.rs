//! Stores, which count limits and keep revocations and bans: one port, [`Store`], in memory and in Redis.
//!
//! A check makes one call ([`Store::admit`]): is it banned, is the credential revoked, and does every
//! bucket have room? The stores implement the models of the core, [`tollgate_core::limit::reference`] and
//! [`tollgate_core::limit::counters`]. When a
//! store does not answer, the route's `on_outage` decides; [`LocalFallback`] implements one of its
//! values.

mod ban;
mod ban_map;
mod config;
mod escrow;
mod follower;
mod key_replica;
mod key_use;
mod leases;
mod local;
mod memory;
mod position;
mod redis;
mod replica;
mod requester;
mod revocation;
mod revocation_map;
mod sharded_map;
mod status;

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, Either, Ready};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement},
    ban::{self as core_ban, Ban},
    credential::api_key::ReplicateKeysConfig,
    limit::reservation::Reservation,
    revocation::Target,
};

pub use self::{
    ban::{AutomaticBan, BanQuery, BegunBan, InvalidBan, NEVER, NewBan, until},
    config::{
        LocalConfig, MemoryConfig, RedisConfig, RedisUrl, RedisUrlError, ReplicateConfig,
        SentinelConfig, StoreConfig,
    },
    escrow::EscrowStatus,
    key_replica::{KeyLookupError, KeyReplica, KeyReplicaStatus},
    key_use::{KeyUpdate, MOST_NETWORKS, MOST_UPDATES, SeenNetworks},
    leases::LeaseStatus,
    local::{LocalFallback, LocalStatus},
    memory::Memory,
    position::{Position, PositionError},
    redis::{
        ACL_RULE, KeyPage, KeyWrite, LEDGER_ACL_RULE, PasswordError, Redis, StoredKey,
        ledger::{
            Append, Appended, ChainClaim, ChainState, MonthClosing, Ownership, PendingEntry,
            STALE as LEDGER_STALE,
        },
        script::{ADMIT_BODY, GIVE_BACK_BODY, RESERVE_BODY, SETTLE_BODY},
    },
    revocation::{Entry, InvalidRevocation, MARGIN, Page, Revocation, TTL_MAX, check_note},
    status::{
        BanStatus, Circuit, NodeStatus, ReplicaStatus, ReservationStatus, StoreStatus,
        StoreUnavailable,
    },
};
use self::{redis::Replication, replica::Replica};
use crate::tls_roots::RootsError;

/// The response to a check: ready in memory, a future in Redis.
pub type AdmitFuture<'a> =
    Either<Ready<Result<AdmitResponse, Outage>>, BoxFuture<'a, Result<AdmitResponse, Outage>>>;

/// A store. A future that is dropped leaves no change half done; whether the change was made is
/// then not known.
///
/// ```
/// use tollgate::store::{Memory, MemoryConfig, Store};
/// use tollgate_core::{
///     admission::{AdmitRequest, AdmitResponse},
///     limit::{Charge, shard::CountedWithin},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store: Box<dyn Store> = Box::new(Memory::new(&MemoryConfig::default()));
/// // Two units, one of which comes back each second.
/// let charge = Charge {
///     limit: "per-subject".into(),
///     bucket: "alice".into(),
///     interval: 1_000_000,
///     burst: 2,
///     cost: 1,
///     by_principal: true,
///     is_shadow: false,
///     lease: None,
///     within: CountedWithin::default(),
/// };
/// let request = AdmitRequest { charges: vec![charge], ..AdmitRequest::default() };
/// for admitted in [true, true, false] {
///     let Ok(AdmitResponse::Counted(verdicts)) = store.admit(&request).await else { panic!() };
///     assert_eq!(verdicts[0].admitted, admitted);
/// }
/// # }
/// ```
pub trait Store: Send + Sync {
    /// Decides one check: one round trip at most, one atomic step, within the deadline.
    ///
    /// # Errors
    /// The store does not answer. What was charged stays charged, and the request is not sent
    /// again.
    fn admit<'a>(&'a self, request: &'a AdmitRequest) -> AdmitFuture<'a>;

    /// Applies reports of the usage of reserved requests, each in one atomic step, and returns what
    /// each of them changed. [`tollgate_core::limit::counters`] has the rules.
    ///
    /// # Errors
    /// The store does not answer. Which of the reports were applied is not known; a report that is
    /// sent again is applied once.
    fn settle<'a>(
        &'a self,
        settlements: &'a [Settlement],
    ) -> BoxFuture<'a, Result<Vec<Settled>, Outage>>;

    /// The number of places in which reservations are settled, each whatever the others do: one of them may
    /// be lost.
    fn settling_places(&self) -> usize {
        1
    }

    /// The place in which a reservation is settled, counted from 0.
    fn settling_place(&self, _reservation: &Reservation) -> usize {
        0
    }

    /// The longest time that [`admit`](Self::admit) takes.
    fn longest_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// Adds a revocation, or strengthens the one of the same target: neither its moment nor its end
    /// is moved back.
    ///
    /// # Errors
    /// The store does not answer. Revoking again does no harm.
    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>>;

    /// Removes a revocation. Returns whether it existed.
    ///
    /// # Errors
    /// The store does not answer.
    fn reinstate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<bool, Outage>>;

    /// Lists the revocations in force, by the moment they end and then by their keys: `limit` of them
    /// (1000 at most) after a position. An entry that is there before the first page and after the
    /// last one is listed; one whose end is moved between two pages may be listed twice.
    ///
    /// # Errors
    /// The store does not answer.
    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>>;

    /// Returns the ban of a network that contains an address, as far as it is known without a call;
    /// of several the one that ends last. A known ban holds at any age of the copy.
    fn network_ban(&self, address: IpAddr) -> Option<Ban>;

    /// Adds a ban, or extends the one of the same target: its end is not moved back. Returns the ban
    /// that holds.
    ///
    /// # Errors
    /// The store does not answer. Banning again does no harm.
    fn ban<'a>(&'a self, ban: &'a NewBan) -> BoxFuture<'a, Result<Entry, Outage>>;

    /// Begins the automatic ban of a network, unless one is in force. It lasts twice as long as the one
    /// before, where that is remembered. Returns the ban that holds.
    ///
    /// # Errors
    /// The store does not answer. Beginning it again does no harm.
    fn begin_ban<'a>(&'a self, ban: &'a AutomaticBan) -> BoxFuture<'a, Result<BegunBan, Outage>>;

    /// Lifts the bans of a target; of a network also the automatic one, whose next one is a first one
    /// then. Returns whether one was in force.
    ///
    /// # Errors
    /// The store does not answer.
    fn lift<'a>(&'a self, target: &'a core_ban::Target) -> BoxFuture<'a, Result<bool, Outage>>;

    /// Lists the bans in force, as [`list`](Self::list) does revocations; [`until`] returns the end
    /// of one.
    ///
    /// # Errors
    /// The store does not answer.
    fn list_bans<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>>;

    /// Returns the bans in force that answer a question.
    ///
    /// # Errors
    /// The store does not answer.
    fn bans_of<'a>(&'a self, query: &'a BanQuery) -> BoxFuture<'a, Result<Vec<Entry>, Outage>>;

    /// Returns all leased units, when the process ends and checks are over.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The status for metrics and readiness. Makes no call.
    fn status(&self) -> StoreStatus;
}

/// The most entries in one [`Page`].
pub const PAGE_MAX: usize = 1000;

/// An opened store. Redis may not be connected yet.
pub struct Opened {
    /// The store that was opened.
    pub store: Arc<dyn Store>,
    /// The fallback for outages, if `store.redis.local` is set.
    pub local: Option<Arc<LocalFallback>>,
    /// The same store, if it is a Redis.
    redis: Option<Arc<Redis>>,
}

impl Opened {
    /// Returns the store if it is a Redis, which has records of API keys.
    pub fn redis(&self) -> Option<&Arc<Redis>> {
        self.redis.as_ref()
    }

    /// Whether the bans were read once, or could not be read; always true in memory.
    pub fn has_tried_bans(&self) -> bool {
        self.redis.as_ref().is_none_or(|redis| redis.has_tried_bans())
    }

    /// Releases the escrow and returns all leased units, when the process ends and checks are over.
    pub async fn close(&self) {
        if let Some(local) = &self.local {
            local.close(&*self.store).await;
        }
        self.store.close().await;
    }

    /// Starts to copy the API keys of the store, until the copy is dropped or `stop`; `None` in
    /// memory, where there are none. Without an answer of Redis for `max_stale` the copy is emptied.
    pub fn copy_keys(
        &self,
        bounds: ReplicateKeysConfig,
        max_stale: Duration,
        stop: CancellationToken,
    ) -> Option<Arc<KeyReplica>> {
        let redis = self.redis.as_ref()?;
        Some(KeyReplica::start(redis, bounds, max_stale, stop))
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("local", &self.local.is_some()).finish_non_exhaustive()
    }
}

/// The reason why a store cannot be opened: a file of this machine. A Redis that is down is none.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The password cannot be read.
    #[error("store.redis.password: {0}")]
    Password(PasswordError),
    /// The password of the Sentinels cannot be read.
    #[error("store.redis.sentinel.password: {0}")]
    SentinelPassword(PasswordError),
    /// The certificate authorities cannot be read.
    #[error("store.redis.tls_ca: {0}")]
    Authorities(RootsError),
    /// A host of the URL, or `tls_name`, cannot be the name in a certificate.
    #[error("store.redis: `{0}` cannot be the name in a certificate")]
    ServerName(String),
}

/// Opens the store of a validated section, without waiting for Redis: a store that is down answers
/// with an outage, and reconnects by itself. `stop` ends the background tasks. Call it inside a
/// Tokio runtime.
///
/// # Errors
/// A file that the section names cannot be read, or has no valid content.
pub fn open(config: &StoreConfig, stop: CancellationToken) -> Result<Opened, StoreError> {
    match config {
        StoreConfig::Memory(config) => {
            Ok(Opened { store: Arc::new(Memory::new(config)), local: None, redis: None })
        }
        StoreConfig::Redis(config) => {
            let (local, replicate) = (config.local.as_ref(), config.replicate_revocations.as_ref());
            let refresh = local
                .map(|local| local.refresh.std())
                .into_iter()
                .chain(replicate.map(ReplicateConfig::refresh))
                .fold(redis::BAN_STALENESS / 4, Duration::min);
            let replica = Arc::new(Replica::new(local.is_some() || replicate.is_some()));
            let replication = Replication {
                replica: Arc::clone(&replica),
                max_staleness: replicate.map(|replicate| replicate.max_staleness.std()),
            };
            let store = Arc::new(Redis::with_replication(config, Some(replication), stop.clone())?);
            let source = Arc::downgrade(&store);
            replica::spawn_follower(source, Arc::clone(&replica), refresh, stop.clone());
            redis::spawn_give_back(Arc::downgrade(&store), stop.clone());
            redis::spawn_sweep(Arc::downgrade(&store), stop.clone());
            let local = local.map(|local| Arc::new(LocalFallback::new(local, replica)));
            if let Some(local) = &local {
                escrow::spawn_escrows(Arc::downgrade(&store), local, stop);
            }
            let redis = Some(Arc::clone(&store));
            Ok(Opened { store, local, redis })
        }
    }
}
