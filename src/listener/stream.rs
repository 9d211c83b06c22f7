//! A connection: one type for TCP and Unix sockets, plain and TLS.

use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// What was accepted.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// What HTTP is spoken on.
pub(super) type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// Who is at the other end of a connection. Each request carries it in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process on this machine that the mode of the Unix socket let in.
    Unix,
}

impl Peer {
    /// The address, where there is one.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}
