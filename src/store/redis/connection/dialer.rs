//! Making a connection that is known to work: socket, TLS, login, and one real request.

use std::{future::Future, io, path::Path, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
    cmd,
    io::tcp::socket2::{SockRef, TcpKeepalive},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::AdmitRequest,
    limit::Charge,
    secret::{Secret, SecretSource},
};

use super::socket::SocketProbe;
use crate::{
    secrets::{self, SecretError},
    store::{
        RedisConfig, StoreError,
        config::Address,
        redis::{
            admit_call::{self, ScriptRequest},
            error::{ConnectionError, PasswordError},
            keys::{FORMAT, FORMAT_KEY},
            script::Scripts,
        },
    },
    tls_roots,
};

/// The time after which the kernel ends a connection whose peer stopped answering at the level of
/// TCP.
const PEER_GONE: Duration = Duration::from_secs(5);

/// The most calls that wait for the socket; further ones wait in their own tasks, each within its
/// deadline.
const QUEUE: usize = 1024;

/// The settings of a connection.
pub(in crate::store::redis) struct Dialer {
    address: Address,
    /// The address as messages show it.
    shown: Arc<str>,
    db: i64,
    username: Option<String>,
    password: Option<SecretSource>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    scripts: Arc<Scripts>,
}

/// A connection that was just made.
pub(in crate::store::redis) struct Dialled {
    pub(in crate::store::redis) redis: MultiplexedConnection,
    pub(in crate::store::redis) driver: Driver,
    pub(super) socket: SocketProbe,
}

/// The task that reads and writes one socket. Dropping this value closes the socket.
pub(in crate::store::redis) struct Driver {
    task: AbortHandle,
    ended: CancellationToken,
}

impl Driver {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let ended = CancellationToken::new();
        let at_the_end = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            work.await;
            drop(at_the_end);
        });
        Self { task: task.abort_handle(), ended }
    }

    /// Waits until one of the two sides has closed the connection.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Dialer {
    /// Reads the files of the settings once, so that a missing one stops the start.
    pub(in crate::store::redis) fn new(
        config: &RedisConfig,
        scripts: Arc<Scripts>,
    ) -> Result<Self, StoreError> {
        let password = config
            .password
            .clone()
            .or_else(|| config.url.password().cloned().map(SecretSource::Inline));
        let username = config.username.clone().or_else(|| config.url.username().map(str::to_owned));
        if let Some(source) = &password {
            let secret = secrets::resolve_blocking(source);
            password_text(secret).map_err(StoreError::Password)?;
        }
        let address = config.url.address().clone();
        let tls = match &address {
            Address::Tcp { host, tls: true, .. } => {
                let config = tls_roots::client_config(config.tls_ca.as_deref().map(Path::new))
                    .map_err(StoreError::Authorities)?;
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| StoreError::ServerName(host.clone()))?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
            _ => None,
        };
        let shown = address.to_string().into();
        Ok(Self { address, shown, db: config.url.db(), username, password, tls, scripts })
    }

    /// The address as messages show it: host and port, or the path of the socket.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.shown
    }

    /// Connects to the server.
    pub(in crate::store::redis) async fn dial(&self) -> Result<Dialled, ConnectionError> {
        let (stream, socket) = self.stream().await?;
        // Each call has a deadline of its own; a second timer below it would only cost.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (mut redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(|error| self.error(&error))?;
        let driver = Driver::start(driver);
        self.greet(&mut redis).await?;
        Ok(Dialled { redis, driver, socket })
    }

    /// Logs in, and makes the call of a check. The library could log in, but its errors do not
    /// contain the server's answer.
    async fn greet(&self, connection: &mut MultiplexedConnection) -> Result<(), ConnectionError> {
        if let Some(source) = &self.password {
            let password = password_text(secrets::resolve(source).await)
                .map_err(|error| ConnectionError::Password(Arc::new(error)))?;
            let mut auth = cmd("AUTH");
            auth.arg(&self.username).arg(password);
            auth.exec_async(connection).await.map_err(|error| self.error(&error))?;
        }
        // Without a login Redis answers a long call with "protocol error", and a short one with
        // NOAUTH.
        cmd("TIME").exec_async(connection).await.map_err(|error| self.error(&error))?;
        if self.db != 0 {
            let mut select = cmd("SELECT");
            select.arg(self.db);
            select.exec_async(connection).await.map_err(|error| self.error(&error))?;
        }
        self.probe(connection).await.map_err(|error| self.error(&error))?;
        warn_of_eviction(connection).await;
        Ok(())
    }

    async fn stream(&self) -> Result<(Box<dyn Stream>, SocketProbe), ConnectionError> {
        let failed = |error: io::Error| ConnectionError::connect(&self.shown, &error);
        let (host, port) = match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                let socket = SocketProbe::of(&stream).map_err(failed)?;
                return Ok((Box::new(stream), socket));
            }
            Address::Tcp { host, port, .. } => (host.as_str(), *port),
        };
        // The name is resolved each time: after a failover it may mean another server.
        let addresses: Vec<_> = lookup_host((host, port))
            .await
            .map(Iterator::collect)
            .map_err(|_| ConnectionError::unresolved(&self.shown))?;
        let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
        set_options(&tcp).map_err(failed)?;
        let socket = SocketProbe::of(&tcp).map_err(failed)?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some((connector, name)) => {
                Box::new(connector.connect(name.clone(), tcp).await.map_err(failed)?)
            }
            None => Box::new(tcp),
        };
        Ok((stream, socket))
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
            lease: None,
        };
        let probe =
            ScriptRequest::exact(AdmitRequest { charges: vec![charge], ..AdmitRequest::default() });
        let keys = admit_call::keys(std::iter::once(&probe));
        let reply = self.scripts.admit.run(connection, keys, |cmd| {
            admit_call::write(cmd, std::iter::once(&probe));
        });
        let _reply: Vec<u8> = reply.await?;
        cmd("SET").arg(FORMAT_KEY).arg(FORMAT).arg("NX").exec_async(connection).await
    }

    fn error(&self, error: &RedisError) -> ConnectionError {
        ConnectionError::call(&self.shown, error)
    }
}

fn set_options(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(3 * PEER_GONE).with_interval(PEER_GONE),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(PEER_GONE))?;
    Ok(())
}

fn password_text(secret: Result<Secret, SecretError>) -> Result<String, PasswordError> {
    let secret = secret?;
    let text = std::str::from_utf8(secret.expose()).map_err(|_| PasswordError::Encoding)?;
    Ok(text.to_owned())
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
