//! The end of a connection whose peer is still sending.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a peer may go on sending after the last answer. It closes earlier, as a rule, because
/// it has read that answer.
const TIME: Duration = Duration::from_secs(1);

/// The bytes that are read and dropped after the last answer: more than a proxy's own limit for
/// headers, and than it sends of a body before it reads the answer.
const BYTES: usize = 4 << 20;

/// A stream that is read to its end, within bounds, after it was shut down.
///
/// A socket that is closed while bytes arrive is reset, and the peer loses the answer that it has
/// not read yet: a refusal of its headers becomes a failed check (RFC 9112 section 9.6).
#[derive(Debug)]
pub(super) struct Lingering<S> {
    stream: S,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// Nothing more is sent; bytes are dropped until the peer closes or the bounds are met.
    Lingering {
        until: Pin<Box<Sleep>>,
        bytes: usize,
    },
    Ended,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, state: State::Open }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
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
        let Self { stream, state } = &mut *self;
        loop {
            match state {
                State::Open => {
                    ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                    *state = State::Lingering { until: Box::pin(sleep(TIME)), bytes: BYTES };
                }
                State::Lingering { until, bytes } => {
                    let mut dropped = [0; 4096];
                    let mut buffer = ReadBuf::new(&mut dropped);
                    let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
                    let length = buffer.filled().len();
                    *bytes = bytes.saturating_sub(length);
                    let is_pending = read.is_pending();
                    let has_ended = match read {
                        Poll::Pending => until.as_mut().poll(cx).is_ready(),
                        Poll::Ready(Ok(())) => length == 0 || *bytes == 0,
                        Poll::Ready(Err(_reset)) => true,
                    };
                    if has_ended {
                        *state = State::Ended;
                    } else if is_pending {
                        return Poll::Pending;
                    }
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        spawn,
        time::Instant,
    };

    use super::*;

    /// A peer reads the last answer whenever it likes, and its bytes are dropped until it closes.
    #[tokio::test]
    async fn bytes_are_dropped_until_the_peer_closes() {
        let (stream, mut peer) = duplex(64);
        let mut stream = Lingering::new(stream);
        let end = spawn(async move {
            stream.write_all(b"431").await.unwrap();
            stream.shutdown().await
        });
        peer.write_all(&[0; 100_000]).await.unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "431");
        assert!(!end.is_finished());
        drop(peer);
        end.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_stays_is_left_after_a_while() {
        let (stream, _peer) = duplex(64);
        let start = Instant::now();
        Lingering::new(stream).shutdown().await.unwrap();
        assert!(start.elapsed() >= TIME, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_peer_that_sends_without_end_is_left_after_some_bytes() {
        let (stream, mut peer) = duplex(1 << 16);
        let sent = spawn(async move {
            let mut sent = 0;
            while let Ok(length) = peer.write(&[0; 1 << 16]).await {
                sent += length;
            }
            sent
        });
        Lingering::new(stream).shutdown().await.unwrap();
        let sent = sent.await.unwrap();
        assert!((BYTES..BYTES + (1 << 18)).contains(&sent), "{sent}");
    }
}
