//! Making a connection that is known to work: the server, a login, and one real request.

use std::sync::{Arc, Mutex, PoisonError};

use ::redis::{RedisError, aio::MultiplexedConnection, cmd};
use tollgate_core::{admission::AdmitRequest, limit::Charge};

use super::{
    connector::{Connector, Driver, OpenConnection},
    finder::{Discovery, Finder},
    socket::SocketProbe,
};
use crate::store::{
    RedisConfig, StoreError,
    config::Address,
    redis::{
        admit_call::{self, ScriptRequest},
        error::ConnectionError,
        keys::{FORMAT, Tag},
        script::Scripts,
    },
};

/// How often a node may name another one while a connection is made.
const REDIRECTS: usize = 3;

/// What the connections of a store have in common.
#[derive(Clone)]
pub(in crate::store::redis) struct Servers {
    connector: Connector,
    discovery: Discovery,
    /// The servers as messages show them.
    shown: Arc<str>,
    db: i64,
    scripts: Arc<Scripts>,
}

impl Servers {
    /// Reads the files of the settings once, so that a missing one stops the start.
    ///
    /// # Errors
    /// A file cannot be read, or has no valid content.
    pub(in crate::store::redis) fn new(
        config: &RedisConfig,
        scripts: Arc<Scripts>,
    ) -> Result<Self, StoreError> {
        let connector = Connector::new(config)?;
        let discovery = Discovery::new(config, &connector)?;
        let shown = config.url.servers().to_string().into();
        Ok(Self { connector, discovery, shown, db: config.url.db(), scripts })
    }
}

/// The settings of one connection.
pub(in crate::store::redis) struct Dialer {
    servers: Servers,
    finder: Finder,
    /// The tag of the keys that are used on the connection.
    tag: Tag,
    /// The server that was connected to last.
    node: Mutex<Option<Arc<str>>>,
}

/// A connection that was just made.
pub(in crate::store::redis) struct Dialled {
    pub(in crate::store::redis) redis: MultiplexedConnection,
    pub(in crate::store::redis) driver: Driver,
    pub(super) socket: SocketProbe,
    pub(super) server: Server,
}

/// The server of a connection.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: Address,
    /// The address as messages show it: host and port, or the path of the socket.
    pub(super) shown: Arc<str>,
}

impl Dialer {
    /// The settings of a connection for the keys with a tag.
    pub(in crate::store::redis) fn new(servers: Servers, tag: Tag) -> Self {
        let finder = Finder::new(servers.discovery.clone(), tag.slot());
        Self { servers, finder, tag, node: Mutex::default() }
    }

    /// The servers as messages show them.
    pub(in crate::store::redis) fn shown(&self) -> &Arc<str> {
        &self.servers.shown
    }

    /// The tag of the keys.
    pub(in crate::store::redis) fn tag(&self) -> &Tag {
        &self.tag
    }

    /// Whether another server may take the place of the one in use.
    pub(in crate::store::redis) fn has_replacements(&self) -> bool {
        self.finder.has_replacements()
    }

    /// The finder of the server.
    pub(super) fn finder(&self) -> &Finder {
        &self.finder
    }

    /// The server that was connected to last.
    pub(in crate::store::redis) fn node(&self) -> Option<Arc<str>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects to the server.
    pub(in crate::store::redis) async fn dial(&self) -> Result<Dialled, ConnectionError> {
        let mut redirects = 0;
        loop {
            let address = self.finder.find().await?;
            let server = Server { shown: address.to_string().into(), address };
            match self.dial_server(server.clone()).await {
                Ok(dialled) => {
                    let node = Some(Arc::clone(&dialled.server.shown));
                    *self.node.lock().unwrap_or_else(PoisonError::into_inner) = node;
                    return Ok(dialled);
                }
                Err(error) => {
                    self.finder.lost(&server.address, &error);
                    redirects += 1;
                    if redirects > REDIRECTS || !matches!(error, ConnectionError::Moved { .. }) {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn dial_server(&self, server: Server) -> Result<Dialled, ConnectionError> {
        let OpenConnection { mut redis, driver, socket } =
            self.servers.connector.open(&server.address, &server.shown).await?;
        self.greet(&mut redis, &server.shown).await?;
        Ok(Dialled { redis, driver, socket, server })
    }

    /// Logs in, and makes the call of a check.
    async fn greet(
        &self,
        connection: &mut MultiplexedConnection,
        shown: &Arc<str>,
    ) -> Result<(), ConnectionError> {
        let failed = |error: RedisError| ConnectionError::call(shown, &error);
        self.servers.connector.log_in(connection, shown).await?;
        // Without a login Redis answers a long call with "protocol error", and a short one with
        // NOAUTH.
        cmd("TIME").exec_async(connection).await.map_err(failed)?;
        if self.servers.db != 0 {
            let mut select = cmd("SELECT");
            select.arg(self.servers.db);
            select.exec_async(connection).await.map_err(failed)?;
        }
        self.probe(connection).await.map_err(failed)?;
        warn_of_eviction(connection).await;
        Ok(())
    }

    /// Makes the call of a check, with a bucket of its own that is never empty: a server that
    /// refuses writes, or a user that lacks a permission, shows here and not at the first check.
    /// The call also brings the script to the server. Then the format marker is written if it is
    /// missing.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let charge = Charge {
            limit: "probe".into(),
            bucket: "probe".into(),
            interval: 1,
            burst: 1_000_000,
            cost: 1,
            by_principal: true,
            is_shadow: false,
            lease: None,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        };
        let probe =
            ScriptRequest::exact(AdmitRequest { charges: vec![charge], ..AdmitRequest::default() });
        let keys = admit_call::keys(std::iter::once(&probe));
        let reply = self.servers.scripts.admit.run(connection, keys, |cmd| {
            admit_call::write(cmd, &self.tag, None, std::iter::once(&probe));
        });
        let _reply: Vec<u8> = reply.await?;
        cmd("SET").arg(self.tag.format()).arg(FORMAT).arg("NX").exec_async(connection).await
    }
}

/// Logs a warning if Redis may evict keys. Nothing is logged where INFO is forbidden, as in some
/// clouds.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    if let Ok(info) = cmd("INFO").arg("memory").query_async::<String>(connection).await
        && let Some(policy) = eviction_policy(&info)
    {
        tracing::warn!(
            "store.redis: keys may be evicted (maxmemory-policy {policy}), and an evicted revocation revokes nothing; set maxmemory-policy to noeviction"
        );
    }
}

/// Returns the policy by which a Redis that is short of memory evicts keys, if it does.
fn eviction_policy(info: &str) -> Option<&str> {
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    field("maxmemory_policy")
        .filter(|policy| *policy != "noeviction" && field("maxmemory") != Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_is_noticed_where_it_can_happen() {
        for (memory, policy, expected) in [
            ("0", "noeviction", None),
            ("0", "allkeys-lru", None),
            ("1048576", "noeviction", None),
            ("1048576", "volatile-ttl", Some("volatile-ttl")),
        ] {
            let info = format!(
                "# Memory\r\nused_memory:1\r\nmaxmemory:{memory}\r\nmaxmemory_human:1M\r\nmaxmemory_policy:{policy}\r\n"
            );
            assert_eq!(eviction_policy(&info), expected, "{info}");
        }
        assert_eq!(eviction_policy(""), None);
    }
}
