//! The body of a call with one message in it, held to the length it announced and to a deadline.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

/// gRPC puts a flag (compressed or not) and a length of four bytes in front of each message.
pub(super) const PREFIX: usize = 5;

/// Reads until the prefix is there, or the body ends. One frame as a rule, and then nothing is copied.
pub(super) async fn first_bytes(body: &mut Body) -> Result<Bytes, Status> {
    let mut first = Bytes::new();
    while first.len() < PREFIX {
        let Some(frame) = body.frame().await else {
            break;
        };
        match frame?.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => first = [first, data].concat().into(),
            Err(_trailers) => break,
        }
    }
    Ok(first)
}

/// What the prefix announces. A body too short to have one has no message: the server behind says so.
pub(super) fn length(mut first: &[u8]) -> u32 {
    match first.try_get_u8() {
        // The flag is the server's to refuse, which it does before it buffers anything.
        Ok(_compressed) => first.try_get_u32().unwrap_or(0),
        Err(_) => 0,
    }
}

/// The peer did not send what it announced in the time there is.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("the message did not arrive in time")
}

/// A request body with a message whose bytes are in the budget.
#[derive(Debug)]
pub struct Message {
    /// What was read to learn the length.
    first: Bytes,
    rest: Body,
    /// Bytes that may still arrive.
    left: usize,
    deadline: Instant,
    /// Made when there is first something to wait for: most messages are there in one piece.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Message {
    pub(super) fn new(first: Bytes, rest: Body, length: u32, deadline: Instant) -> Self {
        Self { first, rest, left: PREFIX.saturating_add(length as usize), deadline, timer: None }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.rest).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(late())))
    }
}

impl http_body::Body for Message {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = if self.first.is_empty() {
            ready!(self.poll_rest(cx))
        } else {
            Some(Ok(Frame::data(std::mem::take(&mut self.first))))
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len()) {
                Some(left) => self.left = left,
                None => {
                    let status = Status::invalid_argument("more bytes than the message announced");
                    return Poll::Ready(Some(Err(status)));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }
}
