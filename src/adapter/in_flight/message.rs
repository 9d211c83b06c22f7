//! One gRPC message, held to the length it announced and to a deadline.

use std::{future::poll_fn, pin::pin, task::Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::Status;

use super::{CALL, Held, InFlight, Refusal, Stopped, take};

/// gRPC puts a flag (compressed or not) and a length of four bytes in front of each message.
const PREFIX: usize = 5;

impl InFlight {
    /// Reads the length of the message, takes its bytes, and then reads it.
    ///
    /// # Errors
    /// When there is no room, or when what arrives is not one message in the time there is.
    pub async fn message<B>(&self, body: &mut B) -> Result<Held, Stopped>
    where
        B: Body<Data = Bytes, Error = Status> + Unpin,
    {
        let mut read = pin!(self.read_message(body));
        // All of it is there as a rule: no clock is read and no timer made.
        if let Poll::Ready(message) = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
            return message;
        }
        let late = |_| {
            Err(Stopped::Broken(Status::deadline_exceeded("the message did not arrive in time")))
        };
        timeout(self.arrival, read).await.unwrap_or_else(late)
    }

    async fn read_message<B>(&self, body: &mut B) -> Result<Held, Stopped>
    where
        B: Body<Data = Bytes, Error = Status> + Unpin,
    {
        let call = take(&self.calls, CALL)?;
        let mut bytes = Bytes::new();
        while bytes.len() < PREFIX {
            let more = next(body).await?.ok_or_else(|| Status::internal("there is no message"))?;
            bytes = if bytes.is_empty() { more } else { [bytes, more].concat().into() };
        }
        let compressed = bytes.get_u8();
        let length = bytes.get_u32();
        if compressed != 0 {
            return Err(
                Status::internal("the message is compressed, or its flag is not gRPC's").into()
            );
        }
        if length > self.max_message {
            return Err(Stopped::Refused(Refusal::TooLarge));
        }
        let message = match length.saturating_sub(CALL) {
            0 => None,
            more => Some(take(&self.messages, more)?),
        };
        // What comes in several frames is put together in one place, made once; one frame is left where it lies.
        let mut joined = BytesMut::new();
        let length = length as usize;
        while bytes.len().max(joined.len()) < length {
            let more =
                next(body).await?.ok_or_else(|| Status::internal("the message ends too soon"))?;
            if joined.is_empty() {
                joined.reserve(length.max(bytes.len() + more.len()));
                joined.extend_from_slice(&bytes);
            }
            joined.extend_from_slice(&more);
        }
        if !joined.is_empty() {
            bytes = joined.freeze();
        }
        if bytes.len() > length || next(body).await?.is_some() {
            return Err(Status::invalid_argument("more bytes than the message announced").into());
        }
        Ok(Held { bytes, _call: call, message })
    }
}

/// The next bytes, or nothing when there are no more.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, Status>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    while let Some(frame) = body.frame().await {
        // Trailers say nothing here, and are the last.
        let Ok(data) = frame?.into_data() else { break };
        if !data.is_empty() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
