//! Bytes that are charged to the budget, and how bodies of checks over plain HTTP are charged,
//! whose length may be announced or not.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{ALLOWANCE, CALL, InFlight, Refusal, reserve};

/// A message or a body whose bytes are charged until this is dropped.
#[derive(Debug)]
pub struct ChargedBytes {
    pub(super) bytes: Bytes,
    pub(super) _call: OwnedSemaphorePermit,
    pub(super) message: Option<OwnedSemaphorePermit>,
    /// The beginning of the call.
    pub(super) since: Instant,
}

/// A stream that is charged until this is dropped.
#[derive(Debug)]
pub struct ChargedStream {
    _call: OwnedSemaphorePermit,
    _part: OwnedSemaphorePermit,
}

/// The reason why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// There is no room for the body.
    #[error("there is no room for the body")]
    Refused(Refusal),
    /// The peer disconnected or stalled.
    #[error("the body did not arrive")]
    Incomplete,
}

impl From<Refusal> for BodyError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl InFlight {
    /// Charges a check that has no body.
    ///
    /// # Errors
    /// When there is no room.
    pub fn charge_call(&self) -> Result<ChargedBytes, BodyError> {
        let call = reserve(&self.calls, CALL)?;
        Ok(ChargedBytes { bytes: Bytes::new(), _call: call, message: None, since: Instant::now() })
    }

    /// Charges a stream, which may stay open.
    ///
    /// # Errors
    /// When there is no room, or when streams have taken their part of it.
    pub fn charge_stream(&self) -> Result<ChargedStream, BodyError> {
        let part = reserve(&self.streams, CALL)?;
        Ok(ChargedStream { _call: reserve(&self.calls, CALL)?, _part: part })
    }

    /// Reads a whole body. A refused body is read to its end as well, up to the limit of a body and
    /// within the time for it, but not stored: a peer that is still sending does not read its
    /// answer.
    ///
    /// # Errors
    /// When there is no room, when the body is too large, or does not arrive.
    pub async fn read_body<B: Body<Data = Bytes> + Unpin>(
        &self,
        mut body: B,
    ) -> Result<ChargedBytes, BodyError> {
        let deadline = Instant::now() + self.arrival;
        let max = u64::from(self.max_message).saturating_sub(ALLOWANCE);
        let read = timeout_at(deadline, self.read_within(&mut body, max)).await;
        let read = read.unwrap_or(Err(BodyError::Incomplete));
        if let Err(BodyError::Refused(_)) = read {
            let _ = timeout_at(deadline, discard(&mut body, max)).await;
        }
        read
    }

    async fn read_within<B: Body<Data = Bytes> + Unpin>(
        &self,
        body: &mut B,
        max: u64,
    ) -> Result<ChargedBytes, BodyError> {
        let mut charged = self.charge_call()?;
        let announced = body.size_hint().lower();
        if announced > max {
            return Err(Refusal::TooLarge.into());
        }
        // The announced length is charged at once, so that of two bodies of which only one fits,
        // not both get half.
        charged.grow(self, announced)?;
        let mut parts = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Incomplete)?;
            let Ok(data) = frame.into_data() else { continue };
            let length = (charged.bytes.len() + parts.len()).saturating_add(data.remaining());
            if length as u64 > max {
                return Err(Refusal::TooLarge.into());
            }
            charged.grow(self, length as u64)?;
            // A body in one frame, which is usual, is not copied.
            if charged.bytes.is_empty() && parts.is_empty() {
                charged.bytes = data;
            } else {
                if parts.is_empty() {
                    parts.reserve(usize::try_from(announced).unwrap_or(0).max(length));
                    parts.extend_from_slice(&std::mem::take(&mut charged.bytes));
                }
                parts.extend_from_slice(&data);
            }
        }
        if !parts.is_empty() {
            charged.bytes = parts.freeze();
        }
        Ok(charged)
    }
}

impl ChargedBytes {
    /// The message or the body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The beginning of the call, from which on its message was awaited.
    #[must_use]
    pub fn since(&self) -> std::time::Instant {
        self.since.into_std()
    }

    /// Charges the cost of a body of `length` bytes beyond the fixed cost of a call.
    fn grow(&mut self, budget: &InFlight, length: u64) -> Result<(), BodyError> {
        let wanted = u32::try_from(length.saturating_sub(u64::from(CALL))).unwrap_or(u32::MAX);
        let charged = self
            .message
            .as_ref()
            .map_or(0, |permit| u32::try_from(permit.num_permits()).unwrap_or(u32::MAX));
        let Some(more) = wanted.checked_sub(charged).filter(|more| *more > 0) else {
            return Ok(());
        };
        let more = reserve(&budget.messages, more)?;
        match &mut self.message {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// Reads a body without storing it.
async fn discard<B: Body<Data = Bytes> + Unpin>(body: &mut B, max: u64) {
    let mut read = 0u64;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > max {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http_body_util::{Full, StreamBody};

    use super::*;

    const MAX: u64 = 1 << 20;

    fn budget() -> InFlight {
        InFlight::new(MAX, 4 << 20).unwrap()
    }

    fn pieces(pieces: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let frames: Vec<_> = pieces
            .iter()
            .map(|size| Ok(http_body::Frame::data(Bytes::from(vec![b'x'; *size]))))
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    #[tokio::test]
    async fn bodies_are_read_whole_and_returned_to_the_budget() {
        let budget = budget();
        for sizes in [&[][..], &[5], &[5, 6], &[40_000, 1, 200_000], &[0, 3, 0]] {
            let charged = budget.read_body(pieces(sizes)).await.unwrap();
            let sum: usize = sizes.iter().sum();
            assert_eq!(charged.bytes().len(), sum, "{sizes:?}");
            assert_eq!(budget.taken(), (CALL as usize).max(sum), "{sizes:?}");
            drop(charged);
            assert_eq!(budget.taken(), 0, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused_whether_announced_or_not() {
        let budget = budget();
        let too_large = Err(BodyError::Refused(Refusal::TooLarge));
        let most = usize::try_from(MAX).unwrap();
        assert_eq!(
            budget.read_body(Full::new(Bytes::from(vec![0; most + 1]))).await.map(drop),
            too_large
        );
        assert_eq!(budget.read_body(pieces(&[most, 1])).await.map(drop), too_large);
        assert!(budget.read_body(pieces(&[most - 1, 1])).await.is_ok());
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn the_sum_is_bounded() {
        let budget = budget();
        let most = usize::try_from(MAX).unwrap();
        let mut held = Vec::new();
        let refused = loop {
            match budget.read_body(pieces(&[most])).await {
                Ok(one) => held.push(one),
                Err(refused) => break refused,
            }
            assert!(held.len() < 10, "there is no bound");
        };
        assert_eq!(refused, BodyError::Refused(Refusal::NoRoom));
        assert!(budget.charge_call().is_ok(), "large bodies do not keep small checks out");
        held.clear();
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn streams_leave_room_for_checks() {
        let budget = budget();
        let streams: Vec<_> = std::iter::from_fn(|| budget.charge_stream().ok()).collect();
        assert_eq!(streams.len(), 4, "an eighth of a quarter of 4 MiB, 32 KiB each");
        let checks: Vec<_> = std::iter::from_fn(|| budget.charge_call().ok()).collect();
        assert_eq!(checks.len(), 28);
        drop((streams, checks));
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn a_body_that_never_arrives_is_not_awaited_for_long() {
        let budget = budget().with_arrival(Duration::from_millis(20));
        let never = StreamBody::new(futures_util::stream::pending::<
            Result<http_body::Frame<Bytes>, Infallible>,
        >());
        assert_eq!(budget.read_body(never).await.map(drop), Err(BodyError::Incomplete));
        assert_eq!(budget.taken(), 0);
    }
}
