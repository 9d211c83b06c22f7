//! The errors of opening a listener: key, cause and remedy in words.

use std::{io, net::SocketAddr, path::PathBuf};

use super::tls::TlsError;

/// A listener that cannot be opened. `key` is its place in the file, such as `listen.http[0]`.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens on the port.
    #[error(
        "{key}.address: {address} is already in use by another process; choose another port or \
         stop that process"
    )]
    PortInUse {
        /// The key of the listener.
        key: String,
        /// The address as configured.
        address: SocketAddr,
    },
    /// The port needs a privilege.
    #[error(
        "{key}.address: no permission to listen on {address}; choose a port from 1024 on, or give \
         the process the capability CAP_NET_BIND_SERVICE"
    )]
    PortNotPermitted {
        /// The key of the listener.
        key: String,
        /// The address as configured.
        address: SocketAddr,
    },
    /// No network interface has the address.
    #[error(
        "{key}.address: this machine has no network interface with the address of {address}; \
         choose 127.0.0.1, 0.0.0.0 or an address of an interface"
    )]
    AddressNotLocal {
        /// The key of the listener.
        key: String,
        /// The address as configured.
        address: SocketAddr,
    },
    /// Any other failure of a TCP socket.
    #[error("{key}.address: cannot listen on {address}: {error}")]
    Tcp {
        /// The key of the listener.
        key: String,
        /// The address as configured.
        address: SocketAddr,
        /// The error of the system.
        error: io::Error,
    },
    /// The Unix socket cannot be created.
    #[error("{key}.address: {error}")]
    Unix {
        /// The key of the listener.
        key: String,
        /// The cause of the error.
        error: SocketError,
    },
    /// The TLS files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl BindError {
    pub(super) fn of_tcp(key: &str, address: SocketAddr, error: io::Error) -> Self {
        let key = key.to_owned();
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { key, address },
            io::ErrorKind::PermissionDenied => Self::PortNotPermitted { key, address },
            io::ErrorKind::AddrNotAvailable => Self::AddressNotLocal { key, address },
            _ => Self::Tcp { key, address, error },
        }
    }
}

/// A Unix socket that cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory of the socket does not exist.
    #[error(
        "the directory `{directory}` does not exist; create it: mkdir -p {directory}",
        directory = .directory.display()
    )]
    NoDirectory {
        /// The directory that is missing.
        directory: PathBuf,
    },
    /// The directory is not writable for this process.
    #[error(
        "no permission to create the socket `{}`; the user of this process needs write access to \
         the directory `{}`", .path.display(), .directory.display()
    )]
    NotPermitted {
        /// The path of the socket.
        path: PathBuf,
        /// The directory of the socket.
        directory: PathBuf,
    },
    /// Another process listens on the socket.
    #[error(
        "`{}` is already in use by another process; choose another path or stop that process",
        .path.display()
    )]
    InUse {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The path is a file, directory or link.
    #[error("`{}` exists and is not a socket; remove it or choose another path", .path.display())]
    NotASocket {
        /// The path as configured.
        path: PathBuf,
    },
    /// The socket of a process that ended cannot be removed.
    #[error(
        "cannot remove the stale socket `{}`, on which no process listens: {error}; remove it",
        .path.display()
    )]
    Stale {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Any other failure.
    #[error("cannot listen on `{}`: {error}", .path.display())]
    System {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}
