//! Sockets that a service manager opened (`LISTEN_FDS`, as systemd passes them). It keeps them while this
//! process is replaced, so that connections wait in between.

use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use thiserror::Error;

use crate::listener::{Address, InheritedError, InheritedSocket, InheritedSockets, Origin};

/// A socket of the service manager that cannot be used.
#[derive(Debug, Error)]
pub enum ActivationError {
    /// Not a listening socket.
    #[error("LISTEN_FDS: {0}; pass stream sockets that listen (`ListenStream=`)")]
    Socket(#[from] InheritedError),
    /// No listener of the file has the address.
    #[error(
        "LISTEN_FDS: no listener of the file has the address {0}; write the same address in the \
         socket unit and in `listen`"
    )]
    Unused(Address),
}

/// Takes the sockets that were passed to this process. Call it before other threads are started: it
/// changes the environment.
///
/// # Errors
/// A descriptor that is no listening TCP or Unix socket.
pub(crate) fn sockets() -> Result<InheritedSockets, ActivationError> {
    let mut passed = ListenFd::from_env();
    let mut sockets = InheritedSockets::default();
    for index in 0..passed.len() {
        let tcp = passed.take_tcp_listener(index).ok().flatten().map(OwnedFd::from);
        let descriptor = match tcp {
            Some(tcp) => Some(tcp),
            None => passed.take_unix_listener(index).ok().flatten().map(OwnedFd::from),
        };
        let descriptor = descriptor.ok_or(InheritedError::NotListening(index))?;
        sockets.add_held(InheritedSocket::new(index, descriptor, Origin::Holder)?);
    }
    Ok(sockets)
}

/// Checks that every socket has its listener: one that nothing accepts would never answer.
///
/// # Errors
/// The first socket without one.
pub(super) fn check_used(sockets: &InheritedSockets) -> Result<(), ActivationError> {
    match sockets.unused().into_iter().next() {
        Some(address) => Err(ActivationError::Unused(address)),
        None => Ok(()),
    }
}
