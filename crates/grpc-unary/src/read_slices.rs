//! A stream that is read in slices, so that calls are accepted between two of them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes of a slice: the window of a connection and some frames without data. With less, calls
/// would be refused while their data has arrived and is not read, and h2 counts data of calls that
/// were reset long ago as errors of the peer.
///
/// A call and its reset take 26 bytes at least, so that a slice has fewer of them than
/// `Http2Limits::pending_resets`. They take about 20 MiB until they are accepted.
const SLICE: usize = 576 << 10;

/// The bytes that may be read before the slice is renewed.
#[derive(Clone, Debug)]
pub struct Slice(Arc<AtomicUsize>);

impl Slice {
    /// Returns a whole slice.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(SLICE)))
    }

    /// Permits a whole slice to be read.
    pub fn renew(&self) {
        self.0.store(SLICE, Relaxed);
    }

    /// Whether reading has stopped. Nothing wakes the reader: the owner of the slice polls again.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

impl Default for Slice {
    fn default() -> Self {
        Self::new()
    }
}

/// A stream whose reads end with the slice.
///
/// h2 reads all that has arrived before it returns the first call, and counts the calls that are
/// reset before they are accepted. A proxy forwards the resets of its clients, so that a client
/// could reach any limit of them, and end the calls of all others with the connection
/// (CVE-2023-44487 is the attack that the limit is for).
#[derive(Debug)]
pub struct ReadSlices<S> {
    stream: S,
    slice: Slice,
}

impl<S> ReadSlices<S> {
    /// Wraps a stream, whose reads use up `slice`.
    #[must_use]
    pub fn new(stream: S, slice: Slice) -> Self {
        Self { stream, slice }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadSlices<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.slice.0.load(Relaxed);
        if left == 0 {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len().saturating_sub(before);
        self.slice.0.store(left.saturating_sub(bytes), Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadSlices<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
