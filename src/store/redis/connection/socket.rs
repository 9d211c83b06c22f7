//! The socket of a connection, apart from the task that reads it.

use std::{
    io::{self, ErrorKind},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use ::redis::io::tcp::socket2::SockRef;

/// A second descriptor of a socket, which tells whether something is unread.
pub(in crate::store::redis) struct SocketProbe(OwnedFd);

impl SocketProbe {
    /// Returns the probe of a non-blocking socket.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        socket.as_fd().try_clone_to_owned().map(Self)
    }

    /// Whether everything that the peer sent has been read.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.0).peek(&mut byte);
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn unread_bytes_are_seen_and_left_to_the_reader() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let probe = SocketProbe::of(&near).unwrap();
        assert!(probe.is_quiet());
        far.write_all(b"ab").unwrap();
        assert!(!probe.is_quiet());
        assert_eq!(near.read(&mut [0; 8]).unwrap(), 2);
        assert!(probe.is_quiet());
        drop(far);
        assert!(!probe.is_quiet(), "the end of the stream is unread");
    }
}
