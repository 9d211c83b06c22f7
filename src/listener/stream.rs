//! A connection: one type for TCP and Unix sockets, plain and TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// What was accepted.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// What HTTP is spoken on.
pub(super) type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// A stream to which many small answers go in one write.
///
/// Where a stream can write from several places at once, h2 hands it every DATA frame above 256 bytes by itself, and an answer is
/// larger: one system call for each. Where it cannot (the default of [`AsyncWrite::is_write_vectored`]), h2 copies frames below
/// 1 KiB behind each other and writes what has gathered.
#[derive(Debug)]
pub(super) struct Gathering(pub(super) Stream);

impl AsyncRead for Gathering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

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
