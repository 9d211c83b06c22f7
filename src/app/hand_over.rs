//! The hand-over between two processes of one machine: a new process takes the listening sockets of the
//! one that runs, and that one ends when the new one is ready.
//!
//! ```text
//! new: connects to the socket of `--hand-over`
//! old: sends the list of its listeners, with their sockets
//! new: starts; it accepts no connection before it is ready
//! new: `ready`, and accepts connections
//! old: accepts no connection any more, ends its connections without losing a request, and ends
//! ```
//!
//! A new process that ends before it is ready changes nothing: the old one has never stopped to accept
//! connections.
//!
//! `tollgate hold` has the old one's part without its end: it keeps the sockets for any number of
//! processes, one after the other or at the same time.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::listener::{
    Address, ControlSocket, InheritedError, InheritedSocket, InheritedSockets, Origin, SharedSocket,
};

/// The key of the socket for hand-overs among the listeners.
pub(super) const KEY: &str = "--hand-over";

/// How long the process that runs may take to send its sockets.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);

/// What a new process sends when it is ready.
const READY: &[u8] = b"ready";

/// The most sockets of one message (`SCM_MAX_FD`).
const MAX_SOCKETS: usize = 253;

/// The most bytes of the list of listeners.
const MAX_LIST: usize = 64 << 10;

/// A hand-over that failed. The process that runs goes on.
#[derive(Debug, Error)]
pub enum HandOverError {
    /// The socket for hand-overs cannot be used.
    #[error("--hand-over {}: {error}", .path.display())]
    Socket {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The peer did not send its sockets in time.
    #[error("--hand-over {}: the process that runs did not send its sockets; stop it first", .0.display())]
    Silent(PathBuf),
    /// The peer sent something else than its sockets.
    #[error("--hand-over {}: the process that runs sent no list of sockets: {error}", .path.display())]
    List {
        /// The path of the socket.
        path: PathBuf,
        /// What is wrong with the list.
        error: serde_json::Error,
    },
    /// The peer sent a descriptor that is no listening socket.
    #[error("--hand-over {}: {error}", .path.display())]
    Descriptor {
        /// The path of the socket.
        path: PathBuf,
        /// What is wrong with the descriptor.
        error: InheritedError,
    },
}

/// The message with the sockets.
#[derive(Debug, Deserialize, Serialize)]
struct Offer {
    /// Whether the process keeps the sockets, and serves nothing itself.
    is_held: bool,
    /// The listeners, in the order of their sockets.
    listeners: Vec<Entry>,
}

/// A listener, by its place and its address in the configuration.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    key: String,
    address: String,
}

/// The process that had the sockets before, as the new one sees it.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: UnixStream,
    /// Whether it keeps the sockets, and serves nothing itself.
    pub(super) is_holder: bool,
}

impl Predecessor {
    /// Connects to the process that runs, and adds its sockets to `sockets`; `None` where none runs.
    ///
    /// # Errors
    /// A process runs that does not send its sockets.
    pub(super) async fn connect(
        path: &Path,
        sockets: &mut InheritedSockets,
    ) -> Result<Option<Self>, HandOverError> {
        let failed = |error| HandOverError::Socket { path: path.to_owned(), error };
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let received = timeout(SEND_WITHIN, receive(&stream)).await;
        let (list, descriptors) =
            received.map_err(|_| HandOverError::Silent(path.to_owned()))?.map_err(failed)?;
        let Offer { is_held, listeners } = serde_json::from_slice(&list)
            .map_err(|error| HandOverError::List { path: path.to_owned(), error })?;
        let origin = if is_held { Origin::Holder } else { Origin::Predecessor };
        for (index, (entry, descriptor)) in listeners.into_iter().zip(descriptors).enumerate() {
            let socket = InheritedSocket::new(index, descriptor, origin)
                .map_err(|error| HandOverError::Descriptor { path: path.to_owned(), error })?;
            // An address that this version cannot read is none of its own listeners.
            if let Ok(address) = entry.address.parse::<Address>() {
                sockets.add_named(entry.key, address, socket);
            }
        }
        Ok(Some(Self { stream, is_holder: is_held }))
    }

    /// Completes when the process has ended.
    pub(super) async fn ended(&mut self) {
        let mut byte = [0];
        // It sends nothing more.
        let _ended = self.stream.read(&mut byte).await;
    }

    /// Reports that this process accepts connections, so that the other one ends, unless it is a holder.
    pub(super) async fn replace(mut self) {
        if self.is_holder {
            return;
        }
        // A failure means that the process has ended already.
        let _ended = self.stream.write_all(READY).await;
    }
}

/// Receives the list of listeners with their sockets: one message.
async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut list = vec![0; MAX_LIST];
            let mut space =
                vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                stream.as_fd(),
                &mut [IoSliceMut::new(&mut list)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
            )?;
            list.truncate(received.bytes);
            let messages = ancillary.drain();
            let descriptors = messages.flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            });
            Ok((list, descriptors.collect()))
        })
        .await
}

/// Completes when another process serves with the sockets of this one.
pub(super) async fn replaced(successors: &ControlSocket, sockets: &[SharedSocket]) {
    loop {
        match successors.accept().await {
            Ok(stream) => {
                if pass_on(stream, sockets).await {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("--hand-over: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Passes the sockets to a process that connected, and waits until it is ready. Returns whether it
/// serves in place of this process.
async fn pass_on(mut stream: UnixStream, sockets: &[SharedSocket]) -> bool {
    if !offer(&stream, sockets, false).await {
        return false;
    }
    tracing::info!("a new process starts with the sockets of this one, which goes on until then");
    // From here on the new process may own the files, also if this one ends before it is ready.
    sockets.iter().for_each(SharedSocket::give_up_file);
    let mut answer = [0; READY.len()];
    let is_ready = stream.read_exact(&mut answer).await.is_ok() && answer == READY;
    if !is_ready {
        sockets.iter().for_each(SharedSocket::own_file);
        tracing::warn!("the new process ended before it was ready; this process goes on");
    }
    is_ready
}

/// Passes the sockets to a process that connected. This one keeps them.
pub(super) async fn lend(stream: &UnixStream, sockets: &[SharedSocket]) {
    if offer(stream, sockets, true).await {
        tracing::info!("a process has the listeners");
    }
}

/// Sends the sockets, and logs why they could not be sent.
async fn offer(stream: &UnixStream, sockets: &[SharedSocket], is_held: bool) -> bool {
    if !is_trusted(stream) {
        tracing::warn!("refused the listeners to a process of another user");
        return false;
    }
    match send(stream, sockets, is_held).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("the listeners could not be handed over: {error}");
            false
        }
    }
}

/// Whether the peer runs as the user of this process, or as root.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Sends the list of listeners with their sockets: one message.
async fn send(stream: &UnixStream, sockets: &[SharedSocket], is_held: bool) -> io::Result<()> {
    let listeners: Vec<Entry> = sockets
        .iter()
        .map(|socket| Entry { key: socket.key.clone(), address: socket.address.to_string() })
        .collect();
    let list = serde_json::to_vec(&Offer { is_held, listeners })?;
    if sockets.len() > MAX_SOCKETS || list.len() > MAX_LIST {
        return Err(io::Error::other(format!("more than {MAX_SOCKETS} listeners")));
    }
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(SharedSocket::descriptor).collect();
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space =
                vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(sendmsg(stream.as_fd(), &[IoSlice::new(&list)], &mut ancillary, flags)?)
        })
        .await?;
    if sent == list.len() { Ok(()) } else { Err(io::Error::other("the list was cut")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::{Listener, ListenerConfig, Protocol};

    async fn listener(address: &Address) -> Listener {
        let config = ListenerConfig::new(address.clone());
        Listener::bind("listen.grpc", &config, Protocol::Grpc).await.unwrap()
    }

    /// A process with one listener that waits for a successor at `path`.
    async fn old(path: &Path, address: Address) -> tokio::task::JoinHandle<bool> {
        let successors = tokio::net::UnixListener::bind(path).unwrap();
        let listener = listener(&address).await;
        let socket = listener.share("listen.grpc", &address).unwrap();
        tokio::spawn(async move {
            let (stream, _) = successors.accept().await.unwrap();
            let is_replaced = pass_on(stream, &[socket]).await;
            drop(listener);
            is_replaced
        })
    }

    #[tokio::test]
    async fn without_a_process_that_runs_there_is_no_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let mut sockets = InheritedSockets::default();
        let path = dir.path().join("hand-over.sock");
        assert!(Predecessor::connect(&path, &mut sockets).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(Predecessor::connect(&path, &mut sockets).await.unwrap().is_none(), "a stale one");
    }

    #[tokio::test]
    async fn sockets_are_passed_on_and_the_file_outlives_the_first_process() {
        let dir = tempfile::tempdir().unwrap();
        let (path, of_grpc) = (dir.path().join("hand-over.sock"), dir.path().join("authz.sock"));
        let address = Address::Unix(of_grpc.clone());
        let old = old(&path, address.clone()).await;
        let mut sockets = InheritedSockets::default();
        let predecessor = Predecessor::connect(&path, &mut sockets).await.unwrap().unwrap();
        let socket = sockets.take("listen.grpc", &address).unwrap();
        predecessor.replace().await;
        assert!(old.await.unwrap());
        assert!(of_grpc.exists());
        UnixStream::connect(&of_grpc).await.unwrap();
        drop(socket);
    }

    #[tokio::test]
    async fn a_new_process_that_ends_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, of_grpc) = (dir.path().join("hand-over.sock"), dir.path().join("authz.sock"));
        let old = old(&path, Address::Unix(of_grpc.clone())).await;
        let mut sockets = InheritedSockets::default();
        drop(Predecessor::connect(&path, &mut sockets).await.unwrap().unwrap());
        assert!(!old.await.unwrap());
        // The first process still removes its file.
        assert!(!of_grpc.exists());
    }

    #[tokio::test]
    async fn what_sends_no_list_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hand-over.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let error = Predecessor::connect(&path, &mut InheritedSockets::default()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("sent no list of sockets"), "{error}");
        peer.await.unwrap();
    }
}
