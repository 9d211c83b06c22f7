//! The body of an answer: text that is sent in parts, and dropped if its reader is too slow.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::sleep};

/// The bytes that are given to the connection at a time, which may wait for its peer with them.
const PART: usize = 16 << 10;

/// The time in which the peer must take the text.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The peer did not take the answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not read within {} s", READ_WITHIN.as_secs())]
pub struct TooSlow;

/// The body of an answer.
#[derive(Debug)]
pub struct Text {
    held: Arc<Mutex<Held>>,
    rest: usize,
}

#[derive(Debug)]
struct Held {
    text: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl Text {
    /// A short text, which is kept for as long as the connection.
    pub(super) fn short(text: impl Into<Bytes>) -> Self {
        Self::new(text.into(), None)
    }

    /// A long text, which takes `room` until it is read or dropped.
    pub(super) fn long(text: impl Into<Bytes>, room: OwnedSemaphorePermit) -> Self {
        let body = Self::new(text.into(), Some(room));
        let held = Arc::downgrade(&body.held);
        tokio::spawn(async move {
            sleep(READ_WITHIN).await;
            if let Some(held) = held.upgrade() {
                held.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
        body
    }

    fn new(text: Bytes, room: Option<OwnedSemaphorePermit>) -> Self {
        Self { rest: text.len(), held: Arc::new(Mutex::new(Held { text, room })) }
    }
}

impl Held {
    fn clear(&mut self) {
        self.text = Bytes::new();
        self.room = None;
    }
}

impl Body for Text {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        if self.rest == 0 {
            return Poll::Ready(None);
        }
        let part = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let length = PART.min(held.text.len());
            let part = held.text.split_to(length);
            if held.text.is_empty() {
                held.clear();
            }
            part
        };
        if part.is_empty() {
            self.rest = 0;
            return Poll::Ready(Some(Err(TooSlow)));
        }
        self.rest -= part.len();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    fn long(length: usize, room: &Arc<Semaphore>) -> Text {
        Text::long(vec![b'x'; length], Arc::clone(room).try_acquire_owned().unwrap())
    }

    #[tokio::test]
    async fn a_text_is_sent_whole_and_gives_its_room_back() {
        let room = Arc::new(Semaphore::new(1));
        for length in [0, 1, PART - 1, PART, PART + 1, 5 * PART] {
            let body = long(length, &room);
            assert_eq!(body.collect().await.unwrap().to_bytes().len(), length);
            assert_eq!(room.available_permits(), 1, "{length}");
        }
    }

    #[tokio::test]
    async fn a_text_that_is_not_read_is_dropped() {
        let room = Arc::new(Semaphore::new(1));
        let mut body = long(3 * PART, &room);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), PART);
        assert_eq!(room.available_permits(), 0);
        body.held.lock().unwrap().clear();
        assert_eq!(room.available_permits(), 1);
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
