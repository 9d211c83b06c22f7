//! Making a connection that is known to work: socket, TLS, login, and one real question.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
    cmd,
    io::tcp::socket2::{SockRef, TcpKeepalive},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, Outage},
    limit::Charge,
    secret::SecretSource,
};

use super::{
    question::{self, Asked},
    script::Scripts,
};
use crate::{
    error_text::describe,
    secrets,
    store::{RedisConfig, StoreError, config::Place},
    tls_roots,
};

/// A peer that stopped answering at the level of TCP is noticed after this long, whatever is on the way to it.
const PEER_GONE: Duration = Duration::from_secs(5);

/// Questions that wait for the socket; more wait in their own tasks, each within its deadline.
const QUEUE: usize = 1024;

/// Everything needed to connect, again and again.
pub(super) struct Dialer {
    place: Place,
    db: i64,
    username: Option<String>,
    password: Option<SecretSource>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    scripts: Arc<Scripts>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) outage: Outage,
    /// For the operator: holds no secret.
    pub(super) text: String,
}

/// What reads and writes one socket. Dropped, it closes it.
pub(super) struct Driver {
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

    /// Waits until the connection is closed, by whichever side.
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
    /// Reads what connecting needs, once, so that a missing file stops the start.
    pub(super) fn new(config: &RedisConfig, scripts: Arc<Scripts>) -> Result<Self, StoreError> {
        let password = config
            .password
            .clone()
            .or_else(|| config.url.password().cloned().map(SecretSource::Inline));
        let username = config.username.clone().or_else(|| config.url.username().map(str::to_owned));
        if let Some(source) = &password {
            login(source).map_err(StoreError::Password)?;
        }
        let tls = match config.url.place() {
            Place::Tcp { host, tls: true, .. } => {
                Some(connector(host, config.tls_ca.as_deref()).map_err(StoreError::Authorities)?)
            }
            _ => None,
        };
        Ok(Self {
            place: config.url.place().clone(),
            db: config.url.db(),
            username,
            password,
            tls,
            scripts,
        })
    }

    /// Connects.
    pub(super) async fn dial(&self) -> Result<(MultiplexedConnection, Driver), Fault> {
        let stream = self.stream().await.map_err(|error| Fault {
            outage: Outage::Unreachable,
            text: format!("cannot connect to `{}`: {}", self.place, describe(&error)),
        })?;
        // Each question has a deadline of its own; a second clock below it would only cost.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&info, stream, config)
                .await
                .map_err(|error| self.fault(&error))?;
        let driver = Driver::start(driver);
        self.greet(&mut connection).await?;
        Ok((connection, driver))
    }

    /// Logs in, and asks what a check asks. Not left to the library, whose errors do not say what the server said.
    async fn greet(&self, connection: &mut MultiplexedConnection) -> Result<(), Fault> {
        if let Some(source) = &self.password {
            let password = login(source).map_err(|text| Fault { outage: Outage::Refused, text })?;
            let mut auth = cmd("AUTH");
            auth.arg(&self.username).arg(password);
            auth.exec_async(connection).await.map_err(|error| self.fault(&error))?;
        }
        // To somebody who has not logged in Redis answers a long question with "protocol error", and a short one with the truth.
        cmd("TIME").exec_async(connection).await.map_err(|error| self.fault(&error))?;
        if self.db != 0 {
            cmd("SELECT")
                .arg(self.db)
                .exec_async(connection)
                .await
                .map_err(|error| self.fault(&error))?;
        }
        self.probe(connection).await.map_err(|error| self.fault(&error))?;
        warn_of_eviction(connection).await;
        Ok(())
    }

    async fn stream(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match &self.place {
            Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Place::Tcp { host, port, .. } => {
                // The name is looked up each time: after a failover it may mean another server.
                let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                tcp.set_nodelay(true)?;
                let socket = SockRef::from(&tcp);
                socket.set_tcp_keepalive(
                    &TcpKeepalive::new().with_time(3 * PEER_GONE).with_interval(PEER_GONE),
                )?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(PEER_GONE))?;
                match &self.tls {
                    Some((connector, name)) => {
                        Box::new(connector.connect(name.clone(), tcp).await?)
                    }
                    None => Box::new(tcp),
                }
            }
        })
    }

    /// Asks what a check asks, of a bucket of its own that never fills: that the server may be written to, and that this user may
    /// do it, shows here and not at the first client's expense. It also brings the script there.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let charge = Charge {
            limit: "probe".into(),
            bucket: "probe".into(),
            interval: 1,
            burst: 1_000_000,
            cost: 1,
            lease: None,
        };
        let probe = Asked::exactly(AdmitRequest { revocation: None, charges: vec![charge] });
        let reply = self
            .scripts
            .admit
            .run(connection, 1, |cmd| question::write(cmd, std::iter::once(&probe)));
        reply.await.map(|_: Vec<u8>| ())
    }

    fn fault(&self, error: &RedisError) -> Fault {
        let outage = outage(error);
        let text = match outage {
            Outage::Refused => format!("`{}` refuses: {error}", self.place),
            _ => format!("the connection to `{}` broke: {error}", self.place),
        };
        Fault { outage, text }
    }
}

/// Whose fault an error is: the connection's, or a server's that answered.
pub(super) fn outage(error: &RedisError) -> Outage {
    if error.kind() == ErrorKind::Io { Outage::Unreachable } else { Outage::Refused }
}

fn login(source: &SecretSource) -> Result<String, String> {
    let secret = secrets::resolve(source).map_err(|error| error.to_string())?;
    std::str::from_utf8(secret.expose())
        .map(str::to_owned)
        .map_err(|_| "the password is not UTF-8".to_owned())
}

fn connector(host: &str, ca: Option<&str>) -> Result<(TlsConnector, ServerName<'static>), String> {
    let config = tls_roots::client_config(ca.map(Path::new)).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("`{host}` cannot be the name in a certificate"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Whoever may not ask (INFO is forbidden in some clouds) is not told.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    if let Ok(info) = cmd("INFO").arg("memory").query_async::<String>(connection).await
        && let Some(policy) = evicts(&info)
    {
        tracing::warn!(
            "redis may evict keys (maxmemory-policy {policy}): an evicted revocation revokes nothing; set it to noeviction"
        );
    }
}

/// The policy by which a Redis that is short of memory drops keys, if it does: those with an end, such as revocations, first.
fn evicts(info: &str) -> Option<&str> {
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
            assert_eq!(evicts(&info), expected, "{info}");
        }
        assert_eq!(evicts(""), None);
    }
}
