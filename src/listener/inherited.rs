//! Listening sockets that another process opened: systemd, or the process that this one replaces.
//!
//! The processes share one queue of connections. So a connection that arrives while one of them ends
//! and the other one starts waits, and is not refused.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{SockAddr, Socket, Type};

use super::{
    address::Address,
    unix::{FileOwner, SocketFile},
};

/// A socket that another process opened.
#[derive(Debug)]
pub struct InheritedSocket {
    socket: Socket,
    from: Origin,
}

/// The process that opened a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process that keeps the socket, and owns the file of a Unix socket: systemd, or `tollgate hold`.
    Holder,
    /// The process that this one replaces. The file of a Unix socket becomes this one's.
    Predecessor,
}

/// A socket that no listener can use.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// Not a listening TCP or Unix socket.
    #[error("descriptor {0} is not a listening TCP or Unix socket")]
    NotListening(usize),
    /// The system does not describe it.
    #[error("descriptor {index} cannot be used: {error}")]
    System {
        /// The position among the sockets that were passed.
        index: usize,
        /// The error of the system.
        error: io::Error,
    },
}

impl InheritedSocket {
    /// Takes a descriptor, the one at `index` of those that were passed.
    ///
    /// # Errors
    /// It is no listening stream socket.
    pub fn new(index: usize, descriptor: OwnedFd, from: Origin) -> Result<Self, InheritedError> {
        let failed = |error| InheritedError::System { index, error };
        let socket = Socket::from(descriptor);
        let is_stream = socket.r#type().map_err(failed)? == Type::STREAM;
        if !is_stream || !socket.is_listener().map_err(failed)? {
            return Err(InheritedError::NotListening(index));
        }
        let address = socket.local_addr().map_err(failed)?;
        if address_of(&address).is_none() {
            return Err(InheritedError::NotListening(index));
        }
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, from })
    }

    /// The address that the socket is bound to.
    pub fn address(&self) -> Option<Address> {
        address_of(&self.socket.local_addr().ok()?)
    }

    /// Whether clients that connect to `address` reach the socket: the file of a Unix socket may have
    /// been removed.
    pub fn serves(&self, address: &Address) -> bool {
        match (self.address(), address) {
            (Some(Address::Unix(bound)), Address::Unix(path)) => {
                bound == *path && fs::symlink_metadata(path).is_ok()
            }
            (Some(Address::Tcp(bound)), Address::Tcp(wanted)) => {
                bound.ip() == wanted.ip() && (wanted.port() == 0 || bound.port() == wanted.port())
            }
            _ => false,
        }
    }

    /// The TCP socket.
    pub(super) fn into_tcp(self) -> TcpListener {
        OwnedFd::from(self.socket).into()
    }

    /// The Unix socket at `path`, and its file where this process is to remove it.
    pub(super) fn into_unix(self, path: &Path) -> io::Result<(UnixListener, Option<SocketFile>)> {
        let file = match self.from {
            Origin::Holder => None,
            Origin::Predecessor => {
                let file = SocketFile::new(path)?;
                // Until this process serves, it is the other one's to remove.
                file.owner().give_up();
                Some(file)
            }
        };
        Ok((OwnedFd::from(self.socket).into(), file))
    }
}

fn address_of(address: &SockAddr) -> Option<Address> {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Some(Address::Tcp(address)),
        (None, Some(path)) => Some(Address::Unix(PathBuf::from(path))),
        (None, None) => None,
    }
}

/// A listening socket that can be passed to another process. As long as it exists, connections to its
/// address are queued, also while no process accepts them.
#[derive(Debug)]
pub struct SharedSocket {
    /// The key of the listener in the configuration.
    pub key: String,
    /// The address in the configuration.
    pub address: Address,
    descriptor: OwnedFd,
    file: Option<FileOwner>,
}

impl SharedSocket {
    pub(super) fn new(
        key: &str,
        address: &Address,
        socket: BorrowedFd<'_>,
        file: Option<FileOwner>,
    ) -> io::Result<Self> {
        let descriptor = socket.try_clone_to_owned()?;
        Ok(Self { key: key.to_owned(), address: address.clone(), descriptor, file })
    }

    /// The descriptor of the socket.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Leaves the file of a Unix socket to the process that took the socket over.
    pub fn give_up_file(&self) {
        if let Some(file) = &self.file {
            file.give_up();
        }
    }

    /// Takes the file: this process serves, and no other one.
    pub fn own_file(&self) {
        if let Some(file) = &self.file {
            file.own();
        }
    }
}

/// The sockets that a process got from another one, by what they are for.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// Sockets of another Tollgate: the keys and addresses of its listeners.
    named: Vec<(String, Address, InheritedSocket)>,
    /// Sockets of systemd, found by their addresses.
    held: Vec<InheritedSocket>,
}

impl InheritedSockets {
    /// Adds a socket that systemd passed.
    pub fn add_held(&mut self, socket: InheritedSocket) {
        self.held.push(socket);
    }

    /// Adds the socket of a listener, by its key and its address in the configuration.
    pub fn add_named(&mut self, key: String, address: Address, socket: InheritedSocket) {
        self.named.push((key, address, socket));
    }

    /// Takes the socket of a listener, if there is one that clients of its address reach.
    pub fn take(&mut self, key: &str, address: &Address) -> Option<InheritedSocket> {
        let is_held = |socket: &InheritedSocket| {
            socket.address().as_ref() == Some(address) && socket.serves(address)
        };
        if let Some(at) = self.held.iter().position(is_held) {
            return Some(self.held.swap_remove(at));
        }
        let is_same = |(known, of, socket): &(String, Address, InheritedSocket)| {
            known == key && of == address && socket.serves(address)
        };
        let at = self.named.iter().position(is_same)?;
        Some(self.named.swap_remove(at).2)
    }

    /// Whether systemd passed sockets.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// The addresses of the sockets of systemd that no listener has taken.
    pub fn unused(&self) -> Vec<Address> {
        self.held.iter().filter_map(InheritedSocket::address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(socket: impl Into<OwnedFd>) -> InheritedSocket {
        InheritedSocket::new(0, socket.into(), Origin::Holder).unwrap()
    }

    #[test]
    fn a_socket_of_systemd_is_found_by_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.sock");
        let (unix, tcp) =
            (UnixListener::bind(&path).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = tcp.local_addr().unwrap();
        let mut sockets = InheritedSockets::default();
        sockets.add_held(passed(unix));
        sockets.add_held(passed(tcp));
        assert!(sockets.take("listen.grpc", &Address::Unix(dir.path().join("other"))).is_none());
        assert!(sockets.take("listen.grpc", &Address::Unix(path.clone())).is_some());
        assert!(sockets.take("listen.grpc", &Address::Unix(path)).is_none(), "it is taken once");
        assert_eq!(sockets.unused(), [Address::Tcp(port)]);
        assert!(sockets.take("listen.http[0]", &Address::Tcp(port)).is_some());
        assert!(sockets.unused().is_empty());
    }

    #[test]
    fn a_socket_whose_file_is_gone_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.sock");
        let mut sockets = InheritedSockets::default();
        sockets.add_held(passed(UnixListener::bind(&path).unwrap()));
        fs::remove_file(&path).unwrap();
        assert!(sockets.take("listen.grpc", &Address::Unix(path)).is_none());
    }

    #[test]
    fn a_socket_of_another_process_is_found_by_key_and_address() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let any: Address = "127.0.0.1:0".parse().unwrap();
        let mut sockets = InheritedSockets::default();
        let socket = InheritedSocket::new(0, socket.into(), Origin::Predecessor).unwrap();
        sockets.add_named("listen.ops".into(), any.clone(), socket);
        assert!(sockets.take("listen.grpc", &any).is_none());
        assert!(sockets.take("listen.ops", &"127.0.0.1:1".parse().unwrap()).is_none());
        assert!(sockets.take("listen.ops", &any).is_some());
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for descriptor in [file, connection.into()] {
            InheritedSocket::new(3, descriptor, Origin::Holder).unwrap_err();
        }
    }
}
