//! Finding the server of a connection: the one of the URL, the primary of Sentinels, or the node of a
//! cluster that has a slot.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::{
    cluster_map::{self, ClusterMap},
    connector::Connector,
    sentinels::Sentinels,
};
use crate::store::{
    RedisConfig, StoreError,
    config::{Address, Servers},
    redis::error::ConnectionError,
};

/// The servers of a URL.
#[derive(Clone)]
pub(in crate::store::redis) enum Discovery {
    /// There is one.
    Fixed(Address),
    /// Sentinels know the primary.
    Sentinels(Arc<Sentinels>),
    /// The nodes of a cluster know all of them.
    Cluster(Arc<ClusterMap>),
}

impl Discovery {
    /// The servers that a section names. Nothing is queried yet.
    ///
    /// # Errors
    /// The password of the Sentinels cannot be read.
    pub(super) fn new(config: &RedisConfig, connector: &Connector) -> Result<Self, StoreError> {
        let servers = config.url.servers();
        let shown = Arc::from(servers.to_string());
        Ok(match servers {
            Servers::One(address) => Self::Fixed(address.clone()),
            Servers::Sentinel { sentinels, primary } => {
                let connector = connector.to_sentinels(config)?;
                let sentinels = Sentinels::new(sentinels, primary, connector, shown);
                Self::Sentinels(Arc::new(sentinels))
            }
            Servers::Cluster { seeds } => {
                Self::Cluster(Arc::new(ClusterMap::new(seeds, connector.clone(), shown)))
            }
        })
    }
}

/// Finds the server of one connection, each time that it is made.
pub(super) struct Finder {
    discovery: Discovery,
    /// The slot of the keys that are used.
    slot: u16,
    lookup: Mutex<Lookup>,
}

/// What the next connection takes into account.
struct Lookup {
    /// When the last connection was lost: what was known before may be wrong.
    lost_at: Instant,
    /// The node that another one named.
    named: Option<Address>,
}

impl Finder {
    pub(super) fn new(discovery: Discovery, slot: u16) -> Self {
        let lookup = Mutex::new(Lookup { lost_at: Instant::now(), named: None });
        Self { discovery, slot, lookup }
    }

    /// Whether another server may take the place of the one in use.
    pub(super) fn has_replacements(&self) -> bool {
        !matches!(self.discovery, Discovery::Fixed(_))
    }

    /// Returns the server to connect to.
    ///
    /// # Errors
    /// It cannot be found.
    pub(super) async fn find(&self) -> Result<Address, ConnectionError> {
        match &self.discovery {
            Discovery::Fixed(address) => Ok(address.clone()),
            Discovery::Sentinels(sentinels) => sentinels.find().await,
            Discovery::Cluster(map) => {
                let (named, lost_at) = {
                    let mut lookup = self.lookup();
                    (lookup.named.take(), lookup.lost_at)
                };
                match named {
                    Some(named) => Ok(named),
                    None => map.owner(self.slot, lost_at).await,
                }
            }
        }
    }

    /// Notes that the connection to `server` was lost because of `error`, or could not be made.
    pub(super) fn lost(&self, server: &Address, error: &ConnectionError) {
        let mut lookup = self.lookup();
        lookup.lost_at = Instant::now();
        lookup.named = match error {
            ConnectionError::Moved { to, .. } => to.rsplit_once(':').and_then(|(host, port)| {
                cluster_map::address(Some(host.to_owned()), port.parse().ok()?, server)
            }),
            _ => None,
        };
    }

    /// Notes that no connection could be made.
    pub(super) fn missed(&self) {
        self.lookup().lost_at = Instant::now();
    }

    /// Waits until another server takes the place of `server`, without an error on the connection.
    /// Returns its address.
    pub(super) async fn replaced(&self, server: &Address) -> Address {
        match &self.discovery {
            Discovery::Sentinels(sentinels) => sentinels.replaced(server).await,
            // A node of a cluster refuses what it does not have.
            Discovery::Fixed(_) | Discovery::Cluster(_) => pending().await,
        }
    }

    fn lookup(&self) -> std::sync::MutexGuard<'_, Lookup> {
        self.lookup.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
