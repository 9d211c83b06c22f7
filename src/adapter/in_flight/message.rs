//! One gRPC message, held to its announced length and to a deadline.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use tokio::time::{Instant, timeout_at};
use tollgate_grpc_unary::{CountedPart, MissingPart, RequestBody, Status, Withheld};

use super::{CALL, ChargedBytes, InFlight, Refusal, reserve};
use crate::engine::check;

/// The reason why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The message is not read. The call is answered with a denial, which is a success to gRPC: the
    /// rest of the request is dropped with its stream, which HTTP/2 resets with NO_ERROR after a
    /// whole response (RFC 9113, section 8.1).
    #[error("there is no room for the message")]
    Refused(Refusal),
    /// The peer disconnected, stalled, or sent something else. The call fails.
    #[error(transparent)]
    Failed(#[from] Status),
}

impl From<Refusal> for MessageError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl InFlight {
    /// Reads the length of a message, reserves its bytes, and then reads the message. The headers of
    /// the call are charged from the beginning, as a proxy can be made to send large ones.
    ///
    /// # Errors
    /// When there is no room, when the message does not arrive in time, or when the body is not one
    /// message.
    pub async fn read_message<B>(
        &self,
        headers: &HeaderMap,
        body: &mut RequestBody<B>,
    ) -> Result<ChargedBytes, MessageError>
    where
        B: Body<Data = Bytes, Error = Status> + Unpin,
    {
        let since = Instant::now();
        let mut read = pin!(self.read_announced(headers, body, since));
        if let Ok(read) = timeout_at(since + self.message_arrival, read.as_mut()).await {
            return read;
        }
        // Read only here: the usual message has arrived by then.
        let within = since + check::time_for(headers);
        timeout_at(within, read).await.unwrap_or(Err(Refusal::Late.into()))
    }

    async fn read_announced<B>(
        &self,
        headers: &HeaderMap,
        body: &mut RequestBody<B>,
        since: Instant,
    ) -> Result<ChargedBytes, MessageError>
    where
        B: Body<Data = Bytes, Error = Status> + Unpin,
    {
        let call = reserve(&self.calls, CALL)?;
        let head: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let head = u32::try_from(head).unwrap_or(u32::MAX).saturating_sub(CALL / 2);
        let mut charged = match head {
            0 => None,
            head => Some(reserve(&self.messages, head)?),
        };
        let withheld = body.withheld().cloned();
        let withheld = withheld.as_ref();
        let places = || self.calls.available_permits() / CALL as usize;
        let count = || self.count(withheld, MissingPart::Length, places());
        let prefix = arrived(pin!(body.length_prefix()), count).await??;
        if prefix.length() > self.max_message {
            return Err(Refusal::TooLarge.into());
        }
        let length = prefix.length() as usize;
        let beyond = prefix.length().saturating_sub(CALL);
        if beyond > 0 {
            let message = reserve(&self.messages, beyond)?;
            match &mut charged {
                Some(head) => head.merge(message),
                none => *none = Some(message),
            }
        }
        let free = || self.messages.available_permits();
        let count = || self.count(withheld, MissingPart::Message(length), free());
        let bytes = arrived(pin!(prefix.message()), count).await??;
        Ok(ChargedBytes { bytes, _call: call, message: charged, since })
    }

    /// Counts a part that a peer has not sent, where the peer is known. All that one peer withholds
    /// is at most seven times what is free, so that every other peer finds some room: a peer alone
    /// has seven eighths.
    fn count(
        &self,
        withheld: Option<&Arc<Withheld>>,
        part: MissingPart,
        free: usize,
    ) -> Result<Option<CountedPart>, Refusal> {
        let Some(withheld) = withheld else { return Ok(None) };
        let counted = Arc::clone(withheld).count(part, free.saturating_mul(7));
        counted.map(Some).ok_or(Refusal::NoRoom)
    }
}

/// Waits for a part of a message. A part that has not arrived yet is counted while it is awaited;
/// the usual one has arrived with its call.
async fn arrived<T>(
    mut part: Pin<&mut impl Future<Output = T>>,
    count: impl FnOnce() -> Result<Option<CountedPart>, Refusal>,
) -> Result<T, Refusal> {
    if let Poll::Ready(part) = poll_fn(|cx| Poll::Ready(part.as_mut().poll(cx))).await {
        return Ok(part);
    }
    let _counted = count()?;
    Ok(part.await)
}
