//! A Unix socket for other processes of the same user on this machine.

use std::{io, os::fd::AsFd as _, path::Path};

use tokio::net::{UnixListener, UnixStream};

use super::{
    address::Address,
    config::SocketMode,
    error::SocketError,
    inherited::{InheritedSocket, SharedSocket},
    unix::{self, SocketFile},
};

/// A listening Unix socket that only its own user and root may connect to. Dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: Option<SocketFile>,
}

impl ControlSocket {
    /// Listens on `path`, or on the socket that another process opened there.
    ///
    /// # Errors
    /// When the path cannot be listened on.
    pub async fn bind(
        path: &Path,
        inherited: Option<InheritedSocket>,
    ) -> Result<Self, SocketError> {
        let Some(socket) = inherited else {
            let (listener, file) = unix::bind(path, SocketMode(0o600)).await?;
            return Ok(Self { listener, file: Some(file) });
        };
        let failed = |error| SocketError::System { path: path.to_owned(), error };
        let (listener, file) = socket.into_unix(path).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, file })
    }

    /// Returns the next connection.
    ///
    /// # Errors
    /// The system cannot accept one.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// The socket, for another process that takes it over.
    ///
    /// # Errors
    /// Too many open files.
    pub fn share(&self, key: &str, path: &Path) -> io::Result<SharedSocket> {
        let owner = self.file.as_ref().map(SocketFile::owner);
        SharedSocket::new(key, &Address::Unix(path.to_owned()), self.listener.as_fd(), owner)
    }
}
