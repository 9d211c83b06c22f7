//! The resets of calls that were answered already.
//!
//! A peer resets a call whose answer it does not use. If the reset arrives after the answer was
//! written, h2 ignores it, as RFC 9113 section 5.1 permits for a closed stream. What the answer
//! set aside would then never be released. Therefore the frames are observed before h2 reads them.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes that a client sends before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// The bytes of the head of a frame (RFC 9113 section 4.1).
const HEAD: usize = 9;

/// The type of a frame that resets a stream (RFC 9113 section 6.4).
const RST_STREAM: u8 = 3;

/// The most resets that are remembered: more than the calls that are open at a time.
const RESETS: usize = 1024;

/// Runs when the peer does not use an answer.
pub(crate) type Unused = Box<dyn FnOnce() + Send>;

/// The last answers of a connection, and the last resets of its peer.
#[derive(Clone)]
pub(crate) struct Resets(Arc<Mutex<Last>>);

struct Last {
    /// The answers that the peer may not have read, the oldest first. Answers are read in the order
    /// in which they are written, and the peer has no more than `most` open calls.
    answers: VecDeque<(u32, Unused)>,
    most: usize,
    /// The streams that were reset. The answer of one may still be on its way here.
    resets: VecDeque<u32>,
}

impl Resets {
    /// Returns an empty list, for a connection with up to `most` open calls.
    pub(crate) fn new(most: usize) -> Self {
        let (answers, resets) = (VecDeque::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Last { answers, most, resets })))
    }

    /// Runs `unused` when the peer resets the stream, or at once if it did already.
    pub(crate) fn watch(&self, stream: u32, unused: Unused) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.resets.contains(&stream) {
            drop(last);
            return unused();
        }
        if last.answers.len() >= last.most {
            last.answers.pop_front();
        }
        last.answers.push_back((stream, unused));
    }

    /// Notes the reset of a stream.
    fn record(&self, stream: u32) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = last.answers.iter().position(|(answered, _)| *answered == stream);
        if let Some((_, unused)) = place.and_then(|place| last.answers.remove(place)) {
            drop(last);
            return unused();
        }
        if last.resets.len() >= RESETS {
            last.resets.pop_front();
        }
        last.resets.push_back(stream);
    }
}

impl fmt::Debug for Resets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resets")
    }
}

/// The place in the frames of a client.
#[derive(Debug)]
struct Frames {
    /// The bytes that are no head of a frame and come next.
    skip: usize,
    head: [u8; HEAD],
    /// The bytes of the head that have arrived.
    arrived: usize,
}

impl Frames {
    const fn new() -> Self {
        Self { skip: PREFACE, head: [0; HEAD], arrived: 0 }
    }

    /// Reads the next bytes, and passes the streams that they reset to `reset`.
    fn read(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some(head) = self.next_head(&mut bytes) else { return };
            let [a, b, c, kind, _, stream @ ..] = head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind == RST_STREAM {
                // The first bit is reserved.
                reset(u32::from_be_bytes(stream) & (u32::MAX >> 1));
            }
        }
    }

    /// Takes a head from the beginning of `bytes`, or as much of it as has arrived.
    fn next_head(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD]> {
        // The usual head has arrived as a whole, and is not copied.
        if self.arrived == 0
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(*head);
        }
        let missing = self.head.get_mut(self.arrived..).unwrap_or_default();
        let (part, rest) = bytes.split_at(missing.len().min(bytes.len()));
        if let Some(place) = missing.get_mut(..part.len()) {
            place.copy_from_slice(part);
        }
        *bytes = rest;
        self.arrived = (self.arrived + part.len()) % HEAD;
        (self.arrived == 0 && !part.is_empty()).then_some(self.head)
    }
}

/// A stream of a client whose resets are recorded.
#[derive(Debug)]
pub(crate) struct ObservedResets<S> {
    stream: S,
    frames: Frames,
    resets: Resets,
}

impl<S> ObservedResets<S> {
    /// Wraps a stream at its beginning.
    pub(crate) const fn new(stream: S, resets: Resets) -> Self {
        Self { stream, frames: Frames::new(), resets }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedResets<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames, resets } = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        frames.read(bytes, |stream| resets.record(stream));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedResets<S> {
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use http::HeaderMap;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::mpsc,
        time::timeout,
    };
    use tonic::Status;

    use super::*;
    use crate::{
        Activity, FramedMessage, Http2Limits, RequestBody, Services, UnaryMethod, serve_connection,
    };

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn resets_are_found_however_the_bytes_arrive() {
        let bytes = [
            vec![RST_STREAM; PREFACE],
            frame(0, 1, &frame(RST_STREAM, 9, &[0; 4])),
            frame(RST_STREAM, 3, &[0, 0, 0, 8]),
            frame(4, 0, &[]),
            frame(RST_STREAM, 5 | 1 << 31, &[0, 0, 0, 8]),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let (mut frames, mut found) = (Frames::new(), Vec::new());
            bytes.chunks(size).for_each(|chunk| frames.read(chunk, |stream| found.push(stream)));
            assert_eq!(found, [3, 5], "{size}");
        }
    }

    #[test]
    fn an_answer_is_unused_once_whichever_comes_first() {
        let (resets, count) = (Resets::new(2), Arc::new(AtomicU32::new(0)));
        let watch = |stream| {
            let count = Arc::clone(&count);
            resets.watch(stream, Box::new(move || _ = count.fetch_add(stream, Ordering::Relaxed)));
        };
        watch(1);
        resets.record(1);
        resets.record(1);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        resets.record(3);
        watch(3);
        assert_eq!(count.load(Ordering::Relaxed), 4);
        // The peer has read all answers before the last two.
        (5..8).for_each(watch);
        resets.record(5);
        assert_eq!(count.load(Ordering::Relaxed), 4);
        resets.record(7);
        assert_eq!(count.load(Ordering::Relaxed), 11);
    }

    /// Answers each call, and reports the answers that are not used.
    struct Reporting(mpsc::UnboundedSender<()>);

    impl UnaryMethod for Reporting {
        async fn call(
            &self,
            _: &HeaderMap,
            body: &mut RequestBody,
        ) -> Result<FramedMessage, Status> {
            let message = body.length_prefix().await?.message().await?;
            let report = self.0.clone();
            body.on_unused_answer(move || _ = report.send(()));
            Ok(FramedMessage::from(&message[..]))
        }
    }

    #[tokio::test]
    async fn a_reset_behind_the_answer_is_observed() {
        const WITHIN: Duration = Duration::from_secs(30);
        let (report, mut reports) = mpsc::unbounded_channel();
        let services = Services::new().unary("/a", Reporting(report));
        let (mut client, server) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (limits, activity) = (Http2Limits::default(), Arc::new(Activity::default()));
            serve_connection(server, &services, &limits, &activity, std::future::pending()).await
        });
        // POST http://a/a in HPACK (RFC 7541), with END_HEADERS; a message with END_STREAM.
        let mut headers = frame(1, 1, b"\x83\x86\x01\x01a\x04\x02/a");
        headers[4] = 4;
        let mut data = frame(0, 1, b"\0\0\0\0\x01x");
        data[4] = 1;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let opening = [preface, frame(4, 0, &[]), headers, data].concat();
        client.write_all(&opening).await.unwrap();
        // The answer ends with the trailers: a frame of headers with END_STREAM.
        timeout(WITHIN, async {
            loop {
                let mut head = [0; HEAD];
                client.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                client.read_exact(&mut payload).await.unwrap();
                if (head[3], head[4] & 1) == (1, 1) {
                    break;
                }
            }
        })
        .await
        .unwrap();
        assert!(reports.try_recv().is_err());
        client.write_all(&frame(RST_STREAM, 1, &[0, 0, 0, 8])).await.unwrap();
        assert_eq!(timeout(WITHIN, reports.recv()).await.unwrap(), Some(()));
    }
}
