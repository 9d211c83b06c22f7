//! Binding, and accepting without ever spinning or running out.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::either::Either;
use tracing::warn;

use super::address::Address;
use super::config::ListenerConfig;
use super::stream::{Peer, Socket};
use super::tls::{Tls, TlsError};
use super::unix::{self, SocketFile};
use super::{Limits, Protocol};

/// When the system asks a silent TCP peer whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The first and the longest pause after an error that is nobody's connection, such as too many open files.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, or not ours.
    #[error("cannot listen on `{address}`: {error}")]
    Address {
        /// The address as configured.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
    /// Its TLS files do not load.
    #[error("cannot serve TLS on `{address}`: {error}")]
    Tls {
        /// The address as configured.
        address: Address,
        /// Which file, and why.
        error: TlsError,
    },
}

/// A bound socket, ready for [`serve`](super::serve). Dropping it stops listening and removes its Unix socket.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    address: Address,
    pub(super) tls: Option<Tls>,
    pub(super) limits: Limits,
    permits: Arc<Semaphore>,
    rejected: AtomicU64,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when dropped")] SocketFile),
}

/// An accepted connection and its place among those that are allowed.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) peer: Peer,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Binds, and loads the TLS files, with the limits a listener has by default.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the TLS files do not load.
    pub async fn bind(config: &ListenerConfig, protocol: Protocol) -> Result<Self, BindError> {
        Self::bind_with(config, protocol, Limits::default()).await
    }

    /// Binds with other limits.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_with(
        config: &ListenerConfig,
        protocol: Protocol,
        limits: Limits,
    ) -> Result<Self, BindError> {
        // The files first: they are the likelier mistake, and cost nothing to undo.
        let tls = config
            .tls
            .as_ref()
            .map(|tls| Tls::load(tls, protocol.alpn(), &limits))
            .transpose()
            .map_err(|error| BindError::Tls { address: config.address.clone(), error })?;
        let (source, address) = Source::open(config)
            .await
            .map_err(|error| BindError::Address { address: config.address.clone(), error })?;
        Ok(Self {
            source,
            address,
            tls,
            permits: Arc::new(Semaphore::new(limits.max_connections)),
            limits,
            rejected: AtomicU64::new(0),
        })
    }

    /// Where it really listens: the port is the one the system chose when the configuration says 0.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The handle that reloads its certificates.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The next connection there is a place for.
    pub(super) async fn accept(&self) -> Accepted {
        let mut pause = PAUSE.0;
        loop {
            match self.source.accept().await {
                Ok((socket, peer)) => match Arc::clone(&self.permits).try_acquire_owned() {
                    Ok(permit) => {
                        return Accepted { socket, peer, permit };
                    }
                    Err(_) => self.reject(),
                },
                Err(error) if is_peer_error(&error) => {}
                Err(error) => {
                    // The connection stays in the queue, so trying again at once would burn a core for nothing.
                    warn!(address = %self.address, %error, "cannot accept connections");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn reject(&self) {
        let count = self.rejected.fetch_add(1, Ordering::Relaxed) + 1;
        // Told ever more rarely: whoever causes this would fill the log too.
        if count.is_power_of_two() {
            let limit = self.limits.max_connections;
            warn!(address = %self.address, limit, count, "closed a connection: the limit is reached");
        }
    }
}

impl Source {
    async fn open(config: &ListenerConfig) -> io::Result<(Self, Address)> {
        match &config.address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok((Self::Tcp(listener), address))
            }
            Address::Unix(path) => {
                let (listener, file) = unix::bind(path, config.mode).await?;
                Ok((Self::Unix(listener, file), config.address.clone()))
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                configure(&stream);
                Ok((Either::Left(stream), Peer::Tcp(peer)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), Peer::Unix))
            }
        }
    }
}

/// Answers are small and leave at once; a peer that vanished is noticed. A socket that refuses either is already closed, which
/// the first read will say.
fn configure(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
}

/// Errors of a connection that ended before it was accepted; `accept(2)` hands them on.
fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}
