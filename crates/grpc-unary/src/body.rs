//! The request body of one call, and the message in it.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame};
use tonic::Status;

use crate::{
    activity::{Activity, Answering},
    resets::Unused,
    withheld::Withheld,
};

/// gRPC puts a flag (compressed or not) and a length of four bytes in front of each message.
const PREFIX_BYTES: usize = 5;

/// The bytes that a peer sends for one call.
pub struct RequestBody<B = H2Body> {
    body: B,
    activity: Option<Arc<Activity>>,
    /// Set when the message has arrived.
    answering: Option<Answering>,
    unused: Option<Unused>,
}

/// A request body as h2 receives it.
#[derive(Debug)]
pub struct H2Body {
    stream: RecvStream,
    /// Whether all of it was returned.
    has_ended: bool,
}

impl H2Body {
    fn new(stream: RecvStream) -> Self {
        Self { stream, has_ended: false }
    }
}

impl RequestBody {
    /// The body of a call on the connection of `activity`. Its answer begins when its message has
    /// arrived, and ends when this value is dropped.
    pub(crate) fn of_call(stream: RecvStream, activity: &Arc<Activity>) -> Self {
        Self { activity: Some(Arc::clone(activity)), ..Self::new(H2Body::new(stream)) }
    }
}

impl<B> RequestBody<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    /// Wraps any body, for callers and tests that have no h2 stream.
    pub fn new(body: B) -> Self {
        Self { body, activity: None, answering: None, unused: None }
    }

    /// Runs `unused` if the peer resets the call although it is answered, because it does not use
    /// the answer.
    pub fn on_unused_answer(&mut self, unused: impl FnOnce() + Send + 'static) {
        self.unused = Some(Box::new(unused));
    }

    /// Removes what runs if the answer is not used.
    pub(crate) fn take_unused(&mut self) -> Option<Unused> {
        self.unused.take()
    }

    /// What the peer withholds, for a message that has not arrived.
    #[must_use]
    pub fn withheld(&self) -> Option<&Arc<Withheld>> {
        self.activity.as_deref().map(Activity::withheld)
    }

    /// Reads the prefix of the message, and nothing behind the frame in which it ends.
    ///
    /// The length is known before the message is buffered, so that a caller can reserve memory for
    /// it or refuse it.
    ///
    /// # Errors
    /// `internal` when the body ends before a whole prefix, or when the message is compressed. The
    /// status of the stream when the peer resets it.
    pub async fn length_prefix(&mut self) -> Result<LengthPrefix<'_, B>, Status> {
        let mut received = Bytes::new();
        while received.len() < PREFIX_BYTES {
            let frame = self.next_data().await?;
            let frame = frame.ok_or_else(|| Status::internal("the call has no message"))?;
            received = if received.is_empty() { frame } else { [received, frame].concat().into() };
        }
        if received.get_u8() != 0 {
            return Err(Status::internal(
                "the message is compressed, or its flag is not one of gRPC",
            ));
        }
        let length = received.get_u32();
        Ok(LengthPrefix { body: self, length, received })
    }

    /// The next data, or `None` at the end. Trailers of a request have no meaning and end it.
    async fn next_data(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
            let Ok(data) = frame?.into_data() else { break };
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl<B: fmt::Debug> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("body", &self.body).finish_non_exhaustive()
    }
}

/// A message of which only the length is read.
#[derive(Debug)]
pub struct LengthPrefix<'b, B = H2Body> {
    body: &'b mut RequestBody<B>,
    length: u32,
    received: Bytes,
}

impl<B> LengthPrefix<'_, B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    /// The number of bytes that the message has.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Reads the message. A message in one frame is not copied; one in several frames is copied
    /// into a buffer that is allocated once.
    ///
    /// # Errors
    /// `internal` when the body ends too early, `invalid_argument` when it has more bytes than the
    /// prefix announced, the status of the stream when the peer resets it.
    pub async fn message(self) -> Result<Bytes, Status> {
        let Self { body, length, mut received } = self;
        let length = length as usize;
        let mut joined = BytesMut::new();
        while received.len().max(joined.len()) < length {
            let frame = body.next_data().await?;
            let frame =
                frame.ok_or_else(|| Status::internal("the message is shorter than announced"))?;
            if joined.is_empty() {
                joined.reserve(length.max(received.len() + frame.len()));
                joined.extend_from_slice(&received);
            }
            joined.extend_from_slice(&frame);
        }
        if !joined.is_empty() {
            received = joined.freeze();
        }
        if received.len() > length || body.next_data().await?.is_some() {
            return Err(Status::invalid_argument("the message is longer than announced"));
        }
        body.answering = body.activity.take().map(|activity| activity.begin_answer());
        Ok(received)
    }
}

impl Body for H2Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.stream.poll_data(cx)) {
            Some(data) => data.map(|data| {
                self.has_ended = self.stream.is_end_stream();
                // The peer may send as much again. This fails only for a stream that has ended;
                // h2 returns its part to the connection when the stream is dropped.
                if !self.has_ended {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                }
                Frame::data(data)
            }),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(Some(trailers)) => Ok(Frame::trailers(trailers)),
                Ok(None) => return Poll::Ready(None),
                Err(error) => Err(error),
            },
        };
        Poll::Ready(Some(frame.map_err(|error| Status::from_error(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.stream.is_end_stream()
    }
}

/// The body for a server that tonic generates.
pub(crate) fn for_tonic(stream: RecvStream) -> tonic::body::Body {
    tonic::body::Body::new(H2Body::new(stream))
}
