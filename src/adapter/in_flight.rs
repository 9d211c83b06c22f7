//! The sum of the messages in flight, bounded before any of them is buffered or decoded.
//!
//! A gRPC message says how long it is in its first five bytes. [`InFlight::message`] reads those five, and takes that many bytes
//! from a budget, or refuses at once without reading on. The bytes go back when the call ends, however it ends.
//!
//! What a process may use for checks, with the defaults (a message limit of 16 MiB and 128 MiB in flight):
//!
//! - the budget: 128 MiB, three quarters for messages, one quarter for what every call costs besides;
//! - frames that HTTP/2 received and nobody read yet: at most one connection window (512 KiB, see `listener::http2`) for each of
//!   at most 512 connections, 256 MiB if every one of them is filled;
//! - decoded headers beyond what a call is charged: at most 256 entries of some 200 bytes (see `envoy::question`) in each of the 1024
//!   calls that the second part of the budget allows, 51 MiB if every one is filled.
//!
//! The last two need peers that speak HTTP/2 to Tollgate themselves, and are the reason why its port is not for clients.

mod held;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

pub use held::{Held, Unread};

use super::grpc::Framed;

/// Bytes a message may have beyond the body it carries: method, path, headers, certificate.
pub const ALLOWANCE: u64 = 256 << 10;

/// What every call is charged: its task, its HTTP/2 headers, its decoded headers, and a message of up to this many bytes.
pub const CALL: u32 = 32 << 10;

/// How long a message may take to arrive. The proxy holds all of it before it asks, so this only ends broken peers.
pub const ARRIVAL: Duration = Duration::from_secs(10);

/// Why a call was answered before its message was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message is longer than the body limit and [`ALLOWANCE`] permit.
    TooLarge,
    /// The messages in flight leave no room for this one.
    NoRoom,
}

/// Limits that contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// A single message would never fit.
    #[error(
        "`body.max_in_flight` of {max_in_flight} bytes cannot hold one body of {max_body} bytes: at least {least} are needed"
    )]
    TooLittle {
        /// The sum as configured.
        max_in_flight: u64,
        /// The body limit as configured.
        max_body: u64,
        /// The smallest sum that fits it.
        least: u64,
    },
    /// Beyond what a length prefix can say, or a semaphore can count.
    #[error("`{0}` must be less than 4 GiB")]
    TooMuch(&'static str),
}

/// The budget, shared by every connection of a process. Clones share it.
#[derive(Clone)]
pub struct InFlight {
    /// A part of its own for what every call is charged, so that a few large bodies cannot keep small checks out.
    calls: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    total: usize,
    max_message: u32,
    arrival: Duration,
    answer: Arc<dyn Fn(Refusal) -> Framed + Send + Sync>,
}

impl InFlight {
    /// A budget of `max_in_flight` bytes for messages that carry at most `max_body` bytes of body.
    ///
    /// `answer` gives the response message for a refusal; it decides what a refusal looks like, and may count it.
    ///
    /// # Errors
    /// When the two limits do not fit each other.
    pub fn new(
        max_body: u64,
        max_in_flight: u64,
        answer: impl Fn(Refusal) -> Framed + Send + Sync + 'static,
    ) -> Result<Self, LimitError> {
        let narrow = |value, name| u32::try_from(value).map_err(|_| LimitError::TooMuch(name));
        let max_message = narrow(max_body.saturating_add(ALLOWANCE), "body.max")?;
        let total = narrow(max_in_flight, "body.max_in_flight")?;
        let calls = total / 4;
        let messages = total - calls;
        if messages < max_message {
            return Err(LimitError::TooLittle {
                max_in_flight,
                max_body,
                least: (u64::from(max_message) * 4 - 1) / 3,
            });
        }
        Ok(Self {
            calls: Arc::new(Semaphore::new(calls as usize)),
            messages: Arc::new(Semaphore::new(messages as usize)),
            total: total as usize,
            max_message,
            arrival: ARRIVAL,
            answer: Arc::new(answer),
        })
    }

    /// Replaces [`ARRIVAL`].
    #[must_use]
    pub fn with_arrival(self, arrival: Duration) -> Self {
        Self { arrival, ..self }
    }

    /// The longest message that passes, in bytes.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message as usize
    }

    /// Bytes taken at this moment.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total - self.calls.available_permits() - self.messages.available_permits()
    }

    /// Bytes there are: `body.max_in_flight`.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("taken", &self.taken())
            .field("total", &self.total)
            .field("max_message", &self.max_message)
            .finish_non_exhaustive()
    }
}

/// Why there is no message.
#[derive(Debug)]
pub enum Stopped {
    /// There is no room for it.
    Refused(Refusal),
    /// The peer broke off, stalled, or sent something else: a failure of the call, not an answer to a question.
    Broken(Status),
}

impl Stopped {
    /// What the peer is told. A refusal is a success of gRPC's: the denial is in the message.
    ///
    /// The rest of the request is dropped with its stream: after a whole response HTTP/2 resets it with NO_ERROR (RFC 9113,
    /// section 8.1), and the peer stops sending.
    ///
    /// # Errors
    /// The status of the failed call.
    pub fn answer(self, budget: &InFlight) -> Result<Framed, Status> {
        match self {
            Self::Refused(refusal) => Ok((budget.answer)(refusal)),
            Self::Broken(status) => Err(status),
        }
    }
}

impl From<Status> for Stopped {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

/// Bytes that are there now. Nobody queues for them: a queue would be the memory this is meant to bound.
fn take(budget: &Arc<Semaphore>, bytes: u32) -> Result<OwnedSemaphorePermit, Stopped> {
    Arc::clone(budget).try_acquire_many_owned(bytes).map_err(|_| Stopped::Refused(Refusal::NoRoom))
}
