//! Opening a connection to one server: socket, TLS and login.

use std::{future::Future, io, path::Path, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, RedisConnectionInfo,
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
use tollgate_core::secret::{Secret, SecretSource};

use super::socket::SocketProbe;
use crate::{
    secrets::{self, SecretError},
    store::{
        RedisConfig, StoreError,
        config::{Address, Servers},
        redis::error::{ConnectionError, PasswordError},
    },
    tls_roots,
};

/// The time after which the kernel ends a connection whose peer stopped answering at the level of
/// TCP.
const PEER_GONE: Duration = Duration::from_secs(5);

/// The most calls that wait for the socket; further ones wait in their own tasks, each within its
/// deadline.
const QUEUE: usize = 1024;

/// The settings that every connection to some servers has.
#[derive(Clone)]
pub(super) struct Connector {
    login: Login,
    tls: Option<Tls>,
}

/// The user and the password.
#[derive(Clone)]
struct Login {
    username: Option<String>,
    password: Option<SecretSource>,
}

/// TLS, and the name that certificates have in place of the host that is connected to.
#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

/// A connection that was just opened, before its login.
pub(super) struct OpenConnection {
    pub(super) redis: MultiplexedConnection,
    pub(super) driver: Driver,
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

impl Connector {
    /// Reads the files of the settings once, so that a missing one stops the start.
    ///
    /// # Errors
    /// A file cannot be read, or a name cannot be the name in a certificate.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, StoreError> {
        let password = config
            .password
            .clone()
            .or_else(|| config.url.password().cloned().map(SecretSource::Inline));
        let username = config.username.clone().or_else(|| config.url.username().map(str::to_owned));
        let login = Login { username, password };
        login.check().map_err(StoreError::Password)?;
        let tls = if config.url.tls() { Some(Tls::new(config)?) } else { None };
        Ok(Self { login, tls })
    }

    /// The settings of connections to Sentinels, which have a login of their own.
    ///
    /// # Errors
    /// The file of the password cannot be read.
    pub(super) fn to_sentinels(&self, config: &RedisConfig) -> Result<Self, StoreError> {
        let section = config.sentinel.clone().unwrap_or_default();
        let login = Login { username: section.username, password: section.password };
        login.check().map_err(StoreError::SentinelPassword)?;
        Ok(Self { login, tls: self.tls.clone() })
    }

    /// Whether connections use TLS.
    pub(super) fn tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// There is no connection to the server.
    pub(super) async fn open(
        &self,
        address: &Address,
        shown: &Arc<str>,
    ) -> Result<OpenConnection, ConnectionError> {
        let (stream, socket) = self.stream(address, shown).await?;
        // Each call has a deadline of its own; a second timer below it would only cost.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(|error| ConnectionError::call(shown, &error))?;
        Ok(OpenConnection { redis, driver: Driver::start(driver), socket })
    }

    /// Logs in, if there is a password. The library could log in, but its errors do not contain the
    /// server's answer.
    ///
    /// # Errors
    /// The password cannot be read, or is not accepted.
    pub(super) async fn log_in(
        &self,
        connection: &mut MultiplexedConnection,
        shown: &Arc<str>,
    ) -> Result<(), ConnectionError> {
        let Some(source) = &self.login.password else { return Ok(()) };
        let password = password_text(secrets::resolve(source).await)
            .map_err(|error| ConnectionError::Password(Arc::new(error)))?;
        let mut auth = cmd("AUTH");
        auth.arg(&self.login.username).arg(password);
        auth.exec_async(connection).await.map_err(|error| ConnectionError::login(shown, &error))
    }

    async fn stream(
        &self,
        address: &Address,
        shown: &Arc<str>,
    ) -> Result<(Box<dyn Stream>, SocketProbe), ConnectionError> {
        let failed = |error: io::Error| ConnectionError::connect(shown, &error);
        let (host, port) = match address {
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
            .map_err(|_| ConnectionError::unresolved(shown))?;
        let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
        set_options(&tcp).map_err(failed)?;
        let socket = SocketProbe::of(&tcp).map_err(failed)?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(Tls { connector, name }) => {
                let name = match name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(host.to_owned())
                        .map_err(|error| failed(io::Error::other(error)))?,
                };
                Box::new(connector.connect(name, tcp).await.map_err(failed)?)
            }
            None => Box::new(tcp),
        };
        Ok((stream, socket))
    }
}

impl Login {
    /// Reads the password once.
    fn check(&self) -> Result<(), PasswordError> {
        let Some(source) = &self.password else { return Ok(()) };
        password_text(secrets::resolve_blocking(source)).map(drop)
    }
}

impl Tls {
    fn new(config: &RedisConfig) -> Result<Self, StoreError> {
        let client = tls_roots::client_config(config.tls_ca.as_deref().map(Path::new))
            .map_err(StoreError::Authorities)?;
        let name_of = |name: &str| {
            ServerName::try_from(name.to_owned())
                .map_err(|_| StoreError::ServerName(name.to_owned()))
        };
        let name = config.tls_name.as_deref().map(name_of).transpose()?;
        let hosts = match config.url.servers() {
            Servers::One(address) => std::slice::from_ref(address),
            Servers::Sentinel { sentinels: addresses, .. }
            | Servers::Cluster { seeds: addresses } => addresses,
        };
        for host in hosts {
            if let (Address::Tcp { host, .. }, None) = (host, &name) {
                name_of(host)?;
            }
        }
        Ok(Self { connector: TlsConnector::from(Arc::new(client)), name })
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
