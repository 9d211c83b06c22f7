//! Where limits are counted and revocations are kept: one port, [`Store`], in memory or in Redis.
//!
//! A check asks once ([`Store::admit`]): is the credential revoked, and has every bucket room, all or nothing. What the
//! stores count is the core's model, [`tollgate_core::limit::reference`]; what is left to decide when a store cannot be
//! asked is the route's, and [`LocalFallback`] is what one of the choices uses.

mod config;
mod leases;
mod local;
mod memory;
mod prehashed;
mod redis;
mod replica;
mod revocation;
mod revoked;
mod status;

use std::sync::Arc;

use futures_util::future::{BoxFuture, Either, Ready};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    revocation::Target,
};

pub use self::{
    config::{LocalConfig, MemoryConfig, RedisConfig, RedisUrl, ReplicateConfig, StoreConfig},
    local::{LocalFallback, LocalStatus},
    memory::Memory,
    redis::{
        ACL_RULE, Redis,
        script::{ADMIT_BODY, GIVE_BACK_BODY},
    },
    revocation::{Entry, InvalidRevocation, Page, Revocation, check_note},
    status::{Circuit, LeaseStatus, ReplicaStatus, StoreStatus},
};
use self::{redis::Replicated, replica::Replica};

/// An answer that is there already, or on its way.
pub type Admitted<'a> =
    Either<Ready<Result<AdmitResponse, Outage>>, BoxFuture<'a, Result<AdmitResponse, Outage>>>;

/// The one port. A future that is dropped leaves nothing half done; whether its question was answered is then not known.
pub trait Store: Send + Sync {
    /// Asks all that one check needs to know: one round trip at most, one atomic step, an answer within the deadline.
    ///
    /// # Errors
    /// The store cannot be asked. What was charged then stays charged, and the question is not sent again.
    fn admit<'a>(&'a self, demands: &'a AdmitRequest) -> Admitted<'a>;

    /// Adds a revocation, or strengthens one of the same target: neither its moment nor its end is moved back.
    ///
    /// # Errors
    /// The store cannot be asked. Revoking again does no harm.
    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>>;

    /// Takes a revocation back. Answers whether there was one.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn reinstate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<bool, Outage>>;

    /// The revocations in force, by the moment they end: `limit` of them (1000 at most) after the first `offset`. An entry that
    /// comes or goes between two pages may shift the others by one.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn list(&self, offset: usize, limit: usize) -> BoxFuture<'_, Result<Page, Outage>>;

    /// Gives back what was taken ahead of need, at the end, when checks are over.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The status for metrics and readiness. Makes no call.
    fn status(&self) -> StoreStatus;
}

/// Most entries in one [`Page`].
pub const PAGE_MAX: usize = 1000;

/// A store that is ready to be asked; Redis may still be on its way.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What counts in an outage, if `store.redis.local` is set.
    pub local: Option<Arc<LocalFallback>>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("local", &self.local.is_some()).finish_non_exhaustive()
    }
}

/// Why a store could not be opened: something of this machine is missing. Redis being down is no such reason.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The password is not there.
    #[error("store.redis.password: {0}")]
    Password(String),
    /// The certificate authorities are not there.
    #[error("store.redis.tls_ca: {0}")]
    Authorities(String),
}

/// Opens the store of a validated section. Never waits for Redis: a store that is down answers with an outage, and comes back
/// by itself. `stop` ends what runs in the background. Call it inside a Tokio runtime.
///
/// # Errors
/// A file the section names cannot be read or is not what it should be.
pub fn open(config: &StoreConfig, stop: CancellationToken) -> Result<Opened, StoreError> {
    match config {
        StoreConfig::Memory(config) => {
            Ok(Opened { store: Arc::new(Memory::new(config)), local: None })
        }
        StoreConfig::Redis(config) => {
            let (local, replicate) = (config.local.as_ref(), config.replicate_revocations.as_ref());
            let refresh = local
                .map(|local| local.refresh.std())
                .into_iter()
                .chain(replicate.map(ReplicateConfig::refresh))
                .min();
            let copy = Arc::new(Replica::new());
            let replicated = replicate.map(|replicate| Replicated {
                replica: Arc::clone(&copy),
                max_staleness: replicate.max_staleness.std(),
            });
            let store = Arc::new(Redis::with(config, replicated, stop.clone())?);
            if let Some(refresh) = refresh {
                replica::follow(Arc::downgrade(&store), Arc::clone(&copy), refresh, stop.clone());
            }
            redis::keep(Arc::downgrade(&store), stop);
            let local = local.map(|local| Arc::new(LocalFallback::new(local, copy)));
            Ok(Opened { store, local })
        }
    }
}
