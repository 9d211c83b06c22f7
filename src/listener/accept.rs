//! Binds a socket and accepts its connections.

use std::{
    io::{self, ErrorKind},
    os::fd::AsFd as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    time::sleep,
};
use tokio_util::either::Either;
use tollgate_core::network::Networks;
use tracing::warn;

use super::{
    Limits, Protocol,
    address::Address,
    config::ListenerConfig,
    error::{BindError, SocketError},
    inherited::{InheritedSocket, SharedSocket},
    places::{PeerGroup, Place, Places},
    stream::{Peer, Socket},
    tls::Tls,
    unix::{self, SocketFile},
};

/// The time after which the system probes a silent TCP peer.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The first and the longest pause after an error that no single connection caused, such as too
/// many open files.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A bound socket, ready for [`serve`](super::serve) or [`serve_grpc`](super::serve_grpc). Dropping
/// it stops listening and removes its Unix socket.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    address: Address,
    pub(super) tls: Option<Tls>,
    pub(super) limits: Limits,
    pub(super) places: Places,
    trusted: Option<Networks>,
    /// What keeps others away from the listener, for the log.
    remedy: &'static str,
    rejected: AtomicU64,
    untrusted: AtomicU64,
    replaced: AtomicU64,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    /// With its file, where this process removes it.
    Unix(UnixListener, Option<SocketFile>),
}

/// An accepted connection, and its place among the connections that are allowed.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) peer: Peer,
    pub(super) place: Place,
}

impl Listener {
    /// Binds a socket and loads its TLS files, with the default limits. `key` is the listener's
    /// place in the file, such as `listen.grpc`, for error messages.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the TLS files cannot be used.
    pub async fn bind(
        key: &str,
        config: &ListenerConfig,
        protocol: Protocol,
    ) -> Result<Self, BindError> {
        Self::bind_with(key, config, protocol, Limits::default()).await
    }

    /// Binds a socket with other limits. `max_header_bytes` of the configuration replaces the one
    /// among them.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_with(
        key: &str,
        config: &ListenerConfig,
        protocol: Protocol,
        limits: Limits,
    ) -> Result<Self, BindError> {
        Self::bind_on(key, config, protocol, limits, None).await
    }

    /// Listens on a socket that another process opened, or binds one.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_on(
        key: &str,
        config: &ListenerConfig,
        protocol: Protocol,
        mut limits: Limits,
        inherited: Option<InheritedSocket>,
    ) -> Result<Self, BindError> {
        if let Some(size) = config.max_header_bytes.and_then(|size| u32::try_from(size.0).ok()) {
            limits.header_bytes = size;
        }
        let tls = config
            .tls
            .as_ref()
            .map(|tls| Tls::load(key, tls, protocol.alpn(), &limits))
            .transpose()?;
        let (source, address) = match inherited {
            Some(socket) => Source::inherit(key, config, socket)?,
            None => Source::open(key, config).await?,
        };
        Ok(Self {
            source,
            address,
            tls,
            // Where only proxies connect, none of them loses a connection.
            places: Places::new(limits.max_connections, config.trusted_proxies.is_none()),
            trusted: config.trusted_proxies.clone(),
            remedy: remedy(key, &config.address),
            limits,
            rejected: AtomicU64::new(0),
            untrusted: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
        })
    }

    /// The address that is listened on. Its port is the one that the system chose when the
    /// configuration has port 0.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The socket, for another process that takes it over. `key` and `configured` are the listener's
    /// place in the file and its address there.
    ///
    /// # Errors
    /// Too many open files.
    pub fn share(&self, key: &str, configured: &Address) -> io::Result<SharedSocket> {
        match &self.source {
            Source::Tcp(socket) => SharedSocket::new(key, configured, socket.as_fd(), None),
            Source::Unix(socket, file) => {
                let owner = file.as_ref().map(SocketFile::owner);
                SharedSocket::new(key, configured, socket.as_fd(), owner)
            }
        }
    }

    /// The handle that reloads the certificates.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Returns the next connection. Connections of peers that are not trusted, or beyond the limit,
    /// are closed.
    pub(super) async fn accept(&self) -> Accepted {
        let mut backoff = MIN_BACKOFF;
        loop {
            match self.source.accept().await {
                Ok((_, peer, _))
                    if self.trusted.as_ref().is_some_and(|list| {
                        peer.ip().is_some_and(|address| !list.contains(address))
                    }) =>
                {
                    self.reject_untrusted(peer);
                }
                Ok((socket, peer, group)) => match self.places.take(group) {
                    Some(place) => {
                        if place.replaced_another() {
                            self.record_replacement();
                        }
                        return Accepted { socket, peer, place };
                    }
                    None => self.reject(),
                },
                Err(error) if is_peer_error(&error) => {}
                Err(error) => {
                    // The connection is still queued: without a pause this loop would use a core.
                    warn!(address = %self.address, %error, "cannot accept connections");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    fn reject(&self) {
        let count = self.rejected.fetch_add(1, Ordering::Relaxed) + 1;
        // Logged at powers of two, so that peers cannot fill the log.
        if count.is_power_of_two() {
            let limit = self.limits.max_connections;
            let address = &self.address;
            warn!(%address, limit, count, "closed a connection: the limit is reached");
        }
    }

    fn record_replacement(&self) {
        let count = self.replaced.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let limit = self.limits.max_connections;
            let address = &self.address;
            let remedy = self.remedy;
            warn!(
                %address, limit, count,
                "closed an idle connection for a new one: the limit is reached; {remedy}"
            );
        }
    }

    fn reject_untrusted(&self, peer: Peer) {
        let count = self.untrusted.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let address = &self.address;
            warn!(
                %address, %peer, count,
                "closed a connection: its peer is not listed in `trusted_proxies`"
            );
        }
    }
}

/// What keeps others away from a listener, by its place in the file.
fn remedy(key: &str, address: &Address) -> &'static str {
    match (key, address) {
        (_, Address::Unix(_)) => "its directory and `mode` decide who may connect",
        ("listen.settle" | "listen.admin", Address::Tcp(_)) => {
            "let only those that call it connect: a firewall, or a NetworkPolicy"
        }
        (_, Address::Tcp(_)) => "list the proxies in `trusted_proxies`",
    }
}

impl Source {
    async fn open(key: &str, config: &ListenerConfig) -> Result<(Self, Address), BindError> {
        match &config.address {
            Address::Tcp(address) => {
                let failed = |error| BindError::of_tcp(key, *address, error);
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let bound = Address::Tcp(listener.local_addr().map_err(failed)?);
                Ok((Self::Tcp(listener), bound))
            }
            Address::Unix(path) => {
                let (listener, file) = unix::bind(path, config.mode)
                    .await
                    .map_err(|error| BindError::Unix { key: key.to_owned(), error })?;
                Ok((Self::Unix(listener, Some(file)), config.address.clone()))
            }
        }
    }

    fn inherit(
        key: &str,
        config: &ListenerConfig,
        socket: InheritedSocket,
    ) -> Result<(Self, Address), BindError> {
        match &config.address {
            Address::Tcp(address) => {
                let failed = |error| BindError::of_tcp(key, *address, error);
                let listener = TcpListener::from_std(socket.into_tcp()).map_err(failed)?;
                let bound = Address::Tcp(listener.local_addr().map_err(failed)?);
                Ok((Self::Tcp(listener), bound))
            }
            Address::Unix(path) => {
                let of_socket = |error| BindError::Unix { key: key.to_owned(), error };
                let failed = |error| of_socket(SocketError::System { path: path.clone(), error });
                let (listener, file) = socket.into_unix(path).map_err(failed)?;
                if file.is_some() {
                    unix::set_mode(path, config.mode).map_err(of_socket)?;
                }
                let listener = UnixListener::from_std(listener).map_err(failed)?;
                Ok((Self::Unix(listener, file), config.address.clone()))
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Peer, PeerGroup)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                configure(&stream);
                let peer = Peer::Tcp(peer);
                Ok((Either::Left(stream), peer, PeerGroup::of(peer, None)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|process| process.uid());
                Ok((Either::Right(stream), Peer::Unix, PeerGroup::of(Peer::Unix, user)))
            }
        }
    }
}

/// Sends small answers at once and detects vanished peers. Both calls fail only on a closed socket,
/// which the first read reports.
fn configure(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
}

/// Whether the connection ended before it was accepted, which `accept(2)` reports as an error.
fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message of a listener that cannot be opened.
    async fn message(address: &str) -> String {
        let config = ListenerConfig::new(address.parse().unwrap());
        let opened = Listener::bind("listen.http[0]", &config, Protocol::Http).await;
        opened.unwrap_err().to_string()
    }

    #[test]
    fn the_remedy_is_one_that_the_listener_has() {
        let tcp = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let unix = Address::Unix("/run/tollgate/settle.sock".into());
        for (key, address, is_list) in [
            ("listen.grpc", &tcp, true),
            ("listen.http[0]", &tcp, true),
            ("listen.settle", &tcp, false),
            ("listen.admin", &tcp, false),
            ("listen.grpc", &unix, false),
        ] {
            let text = remedy(key, address);
            assert_eq!(text.contains("trusted_proxies"), is_list, "{key}: {text}");
        }
    }

    #[tokio::test]
    async fn messages_name_key_cause_and_remedy() {
        let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let used = used.local_addr().map(|address| (used, address)).unwrap();
        assert_eq!(
            message(&used.1.to_string()).await,
            format!(
                "listen.http[0].address: {} is already in use by another process; choose another \
                 port or stop that process",
                used.1
            )
        );
        assert_eq!(
            message("192.0.2.1:9000").await,
            "listen.http[0].address: this machine has no network interface with the address of \
             192.0.2.1:9000; choose 127.0.0.1, 0.0.0.0 or an address of an interface"
        );
        assert_eq!(
            message("unix:/does/not/exist/authz.sock").await,
            "listen.http[0].address: the directory `/does/not/exist` does not exist; create it: \
             mkdir -p /does/not/exist"
        );
        let address = "127.0.0.1:80".parse().unwrap();
        let refused = io::Error::from(ErrorKind::PermissionDenied);
        assert_eq!(
            BindError::of_tcp("listen.grpc", address, refused).to_string(),
            "listen.grpc.address: no permission to listen on 127.0.0.1:80; choose a port from 1024 \
             on, or give the process the capability CAP_NET_BIND_SERVICE"
        );
    }
}
