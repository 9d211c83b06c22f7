//! The stream of a connection: one type for TCP and Unix sockets, plain and TLS.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// An accepted socket.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// A stream for HTTP.
pub(super) type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// The other end of a connection. Each HTTP request has it in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process on this machine that the permissions of the Unix socket admit.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("a process on this machine"),
        }
    }
}

impl Peer {
    /// The IP address of a TCP peer.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}
