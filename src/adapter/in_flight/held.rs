//! What is in the budget, and how bodies of checks that come over plain HTTP get there. Their length may be announced or not.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{ALLOWANCE, CALL, InFlight, Refusal, Stopped, take};

/// A message or a body whose bytes are in the budget until this is dropped.
#[derive(Debug)]
pub struct Held {
    pub(super) bytes: Bytes,
    pub(super) _call: OwnedSemaphorePermit,
    pub(super) message: Option<OwnedSemaphorePermit>,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// There is no room for it.
    Refused(Refusal),
    /// The peer broke off or stalled.
    Broken,
}

impl Held {
    /// The message or the body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl InFlight {
    /// Charges a check that comes without a body.
    ///
    /// # Errors
    /// When there is no room.
    pub fn hold(&self) -> Result<Held, Unread> {
        let call = take(&self.calls, CALL).map_err(|_| Unread::Refused(Refusal::NoRoom))?;
        Ok(Held { bytes: Bytes::new(), _call: call, message: None })
    }

    /// Reads a whole body. What there is no room for is still read, up to the limit of a body and as long as it may take, but
    /// not kept: a peer that is still sending does not read its answer.
    ///
    /// # Errors
    /// When there is no room, when the body is too large, or does not arrive.
    pub async fn collect<B: Body<Data = Bytes> + Unpin>(
        &self,
        mut body: B,
    ) -> Result<Held, Unread> {
        let deadline = Instant::now() + self.arrival;
        let most = u64::from(self.max_message).saturating_sub(ALLOWANCE);
        let read =
            timeout_at(deadline, self.read(&mut body, most)).await.unwrap_or(Err(Unread::Broken));
        if let Err(Unread::Refused(_)) = read {
            let _ = timeout_at(deadline, discard(&mut body, most)).await;
        }
        read
    }

    async fn read<B: Body<Data = Bytes> + Unpin>(
        &self,
        body: &mut B,
        most: u64,
    ) -> Result<Held, Unread> {
        let mut held = self.hold()?;
        let hint = body.size_hint();
        if hint.lower() > most {
            return Err(Unread::Refused(Refusal::TooLarge));
        }
        // All of an announced length at once, so that two bodies that fit only one at a time do not both get half.
        held.grow(self, hint.lower())?;
        let mut parts = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let length = (held.bytes.len() + parts.len()).saturating_add(data.remaining()) as u64;
            if length > most {
                return Err(Unread::Refused(Refusal::TooLarge));
            }
            held.grow(self, length)?;
            // One frame as a rule, and then nothing is copied.
            if held.bytes.is_empty() && parts.is_empty() {
                held.bytes = data;
            } else {
                if parts.is_empty() {
                    parts.reserve(
                        usize::try_from(hint.lower())
                            .unwrap_or(0)
                            .max(held.bytes.len() + data.len()),
                    );
                    parts.extend_from_slice(&std::mem::take(&mut held.bytes));
                }
                parts.extend_from_slice(&data);
            }
        }
        if !parts.is_empty() {
            held.bytes = parts.freeze();
        }
        Ok(held)
    }
}

impl Held {
    /// Charges as much as a body of `length` bytes costs beyond what every check is charged.
    fn grow(&mut self, budget: &InFlight, length: u64) -> Result<(), Unread> {
        let wanted = u32::try_from(length.saturating_sub(u64::from(CALL))).unwrap_or(u32::MAX);
        let had = self
            .message
            .as_ref()
            .map_or(0, |permit| u32::try_from(permit.num_permits()).unwrap_or(u32::MAX));
        let Some(more) = wanted.checked_sub(had).filter(|more| *more > 0) else { return Ok(()) };
        let more = take(&budget.messages, more).map_err(|stopped| match stopped {
            Stopped::Refused(refusal) => Unread::Refused(refusal),
            Stopped::Broken(_) => Unread::Broken,
        })?;
        match &mut self.message {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// Reads and forgets.
async fn discard<B: Body<Data = Bytes> + Unpin>(body: &mut B, most: u64) {
    let mut read = 0u64;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > most {
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
        InFlight::new(MAX, 4 << 20, |_| b""[..].into()).unwrap()
    }

    fn pieces(pieces: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let frames: Vec<_> = pieces
            .iter()
            .map(|size| Ok(http_body::Frame::data(Bytes::from(vec![b'x'; *size]))))
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    #[tokio::test]
    async fn bodies_are_read_whole_and_given_back() {
        let budget = budget();
        for sizes in [&[][..], &[5], &[5, 6], &[40_000, 1, 200_000], &[0, 3, 0]] {
            let held = budget.collect(pieces(sizes)).await.unwrap();
            let sum: usize = sizes.iter().sum();
            assert_eq!(held.bytes().len(), sum, "{sizes:?}");
            assert_eq!(budget.taken(), (CALL as usize).max(sum), "{sizes:?}");
            drop(held);
            assert_eq!(budget.taken(), 0, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused_announced_or_not() {
        let budget = budget();
        let too_large = Err(Unread::Refused(Refusal::TooLarge));
        let most = usize::try_from(MAX).unwrap();
        assert_eq!(
            budget.collect(Full::new(Bytes::from(vec![0; most + 1]))).await.map(drop),
            too_large
        );
        assert_eq!(budget.collect(pieces(&[most, 1])).await.map(drop), too_large);
        assert!(budget.collect(pieces(&[most - 1, 1])).await.is_ok());
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn the_sum_is_bounded() {
        let budget = budget();
        let most = usize::try_from(MAX).unwrap();
        let mut held = Vec::new();
        let refused = loop {
            match budget.collect(pieces(&[most])).await {
                Ok(one) => held.push(one),
                Err(refused) => break refused,
            }
            assert!(held.len() < 10, "there is no bound");
        };
        assert_eq!(refused, Unread::Refused(Refusal::NoRoom));
        assert!(budget.hold().is_ok(), "large bodies do not keep small checks out");
        held.clear();
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let budget = budget().with_arrival(Duration::from_millis(20));
        let never = StreamBody::new(futures_util::stream::pending::<
            Result<http_body::Frame<Bytes>, Infallible>,
        >());
        assert_eq!(budget.collect(never).await.map(drop), Err(Unread::Broken));
        assert_eq!(budget.taken(), 0);
    }
}
