//! A stream whose writes are gathered until its owner sends them.
//!
//! h2 copies small frames behind each other, and writes a DATA frame of 1 KiB or more by itself:
//! an answer of that size would be three writes, and its peer would be woken as often. What is
//! gathered here leaves in one write, whatever the answers' sizes.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes from which on they are sent at once.
const MOST: usize = 32 << 10;

/// A stream as h2 has it.
#[derive(Debug)]
pub(crate) struct GatheredWrites<S>(Arc<Mutex<Gathered<S>>>);

/// The writes of a stream that the owner of the connection sends.
#[derive(Debug)]
pub(crate) struct WriteHandle<S>(Arc<Mutex<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    stream: S,
    bytes: Vec<u8>,
    /// Whether a flush leaves the bytes to the owner.
    is_held: bool,
}

impl<S> GatheredWrites<S> {
    /// Wraps a stream. Until [`WriteHandle::hold`] is called, a flush sends what was written.
    pub(crate) fn new(stream: S) -> (Self, WriteHandle<S>) {
        let gathered = Gathered { stream, bytes: Vec::new(), is_held: false };
        let gathered = Arc::new(Mutex::new(gathered));
        (Self(Arc::clone(&gathered)), WriteHandle(gathered))
    }
}

/// Locks the stream, which only the task of the connection does.
fn lock<S>(gathered: &Mutex<Gathered<S>>) -> MutexGuard<'_, Gathered<S>> {
    gathered.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> WriteHandle<S> {
    /// Gathers all writes from now on.
    pub(crate) fn hold(&self) {
        lock(&self.0).is_held = true;
    }

    /// Sends what was gathered.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = &mut *lock(&self.0);
        if gathered.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(gathered.poll_write_all(cx))?;
        Pin::new(&mut gathered.stream).poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GatheredWrites<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GatheredWrites<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gathered = &mut *lock(&self.0);
        if gathered.bytes.len() + bytes.len() > MOST {
            ready!(gathered.poll_write_all(cx))?;
        }
        let bytes = bytes.get(..MOST).unwrap_or(bytes);
        gathered.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = &mut *lock(&self.0);
        if gathered.is_held {
            return Poll::Ready(Ok(()));
        }
        ready!(gathered.poll_write_all(cx))?;
        Pin::new(&mut gathered.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = &mut *lock(&self.0);
        ready!(gathered.poll_write_all(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Records what it gets, up to `room` bytes a write.
    struct Recorder {
        writes: Vec<Vec<u8>>,
        room: usize,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Pending;
            }
            let taken = bytes[..self.room.min(bytes.len())].to_vec();
            let length = taken.len();
            self.writes.push(taken);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(room: usize) -> (GatheredWrites<Recorder>, WriteHandle<Recorder>) {
        GatheredWrites::new(Recorder { writes: Vec::new(), room })
    }

    fn writes(handle: &WriteHandle<Recorder>) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&handle.0).stream.writes)
    }

    #[tokio::test]
    async fn what_is_gathered_leaves_in_one_write() {
        let (mut stream, handle) = gathered(usize::MAX);
        stream.write_all(b"settings").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(writes(&handle), [b"settings"], "the handshake is not held");
        handle.hold();
        for part in ["head", "data", "trailers"] {
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(writes(&handle).is_empty());
        std::future::poll_fn(|cx| handle.poll_send(cx)).await.unwrap();
        assert_eq!(writes(&handle), [b"headdatatrailers"]);
        stream.write_all(b"goaway").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(writes(&handle), [b"goaway"], "the end sends the rest");
    }

    #[test]
    fn a_peer_that_does_not_read_stops_the_writer() {
        let (mut stream, handle) = gathered(0);
        handle.hold();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut write =
            |stream: &mut GatheredWrites<Recorder>| Pin::new(stream).poll_write(cx, &[7; MOST]);
        assert!(matches!(write(&mut stream), Poll::Ready(Ok(MOST))));
        assert!(write(&mut stream).is_pending());
        lock(&handle.0).stream.room = 1000;
        assert!(matches!(write(&mut stream), Poll::Ready(Ok(MOST))));
        assert_eq!(writes(&handle).concat(), [7; MOST], "in parts, and nothing twice");
    }
}
