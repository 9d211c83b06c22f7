//! The sum of the messages in flight, bounded before any of them is buffered or decoded.
//!
//! A gRPC message announces its length in its first five bytes. [`InFlight::read_message`] reads
//! those, reserves that many bytes of a budget, and refuses at once when there is no room. The
//! bytes are returned when the call ends, however it ends.
//!
//! The memory that a process uses for checks, with the defaults (a message limit of 16 MiB and
//! 128 MiB in flight):
//!
//! - the budget: 128 MiB, three quarters for messages and for headers of calls beyond 16 KiB, one
//!   quarter for the fixed cost of each call; streams of the health service take at most an eighth
//!   of the latter;
//! - frames that HTTP/2 received and that are not read yet: at most one connection window (512 KiB,
//!   see [`Http2Limits`](tollgate_grpc_unary::Http2Limits)) for each of at most 512 connections,
//!   256 MiB if each is filled;
//! - decoded headers beyond what a call is charged: at most 256 entries of some 200 bytes (see
//!   `ext_authz::MAX_ENTRIES`) in each of the 1024 calls that the second part of the budget allows,
//!   51 MiB if each is filled.
//!
//! The last two need peers that speak HTTP/2 to Tollgate directly, which is the reason why its port
//! is not for clients.

mod body;
mod message;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::check::{self, CheckBounds};

pub use self::{
    body::{BodyError, ChargedBytes, ChargedStream},
    message::MessageError,
};

/// Bytes that a message may have beyond the body it carries: method, path, headers, certificate.
pub const ALLOWANCE: u64 = 256 << 10;

/// Bytes that each call is charged: its task, its HTTP/2 headers, its decoded headers, and a
/// message of up to this size.
pub const CALL: u32 = check::CALL;

/// The time for a body to arrive. The proxy has all of it before it calls, so this limit ends broken
/// peers only.
pub const ARRIVAL: Duration = Duration::from_secs(10);

/// The time for a gRPC message to arrive, unless its call names a longer one. Then the check is
/// answered without it, before the proxy stops waiting.
pub const MESSAGE_ARRIVAL: Duration = check::CHECK_WITHIN;

/// The reason why a call is answered before its message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message is longer than the body limit and [`ALLOWANCE`] permit.
    TooLarge,
    /// The messages in flight leave no room for this one.
    NoRoom,
    /// The message did not arrive in time.
    Late,
}

/// Limits that contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// A single message would never fit.
    #[error(
        "`body.max_in_flight` of {max_in_flight} bytes cannot hold one body of {max_body} bytes: at \
         least {least} are needed"
    )]
    TooLittle {
        /// The sum as configured.
        max_in_flight: u64,
        /// The body limit as configured.
        max_body: u64,
        /// The smallest sum that fits it.
        least: u64,
    },
    /// More than a length prefix can announce, or a semaphore can count.
    #[error("`{0}` must be less than 4 GiB")]
    TooMuch(&'static str),
}

/// The budget of all connections of a process. Clones share it.
#[derive(Clone)]
pub struct InFlight {
    /// A separate part for the fixed cost of each call, so that a few large bodies cannot keep
    /// small checks out.
    calls: Arc<Semaphore>,
    /// The part of `calls` that streams may take, which stay open for as long as their peers want.
    streams: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    total: usize,
    max_message: u32,
    arrival: Duration,
    message_arrival: Duration,
}

impl InFlight {
    /// Returns a budget of `max_in_flight` bytes for messages that carry at most `max_body` bytes
    /// of body.
    ///
    /// # Errors
    /// When the two limits do not fit each other.
    pub fn new(max_body: u64, max_in_flight: u64) -> Result<Self, LimitError> {
        let narrow = |value, name| u32::try_from(value).map_err(|_| LimitError::TooMuch(name));
        let max_message = narrow(max_body.saturating_add(ALLOWANCE), "body.max")?;
        let total = narrow(max_in_flight, "body.max_in_flight")?;
        let bounds = CheckBounds { max_body: max_message as usize, max_in_flight: total as usize };
        let calls = u32::try_from(bounds.calls()).unwrap_or(u32::MAX);
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
            streams: Arc::new(Semaphore::new((calls / 8).max(CALL) as usize)),
            messages: Arc::new(Semaphore::new(messages as usize)),
            total: total as usize,
            max_message,
            arrival: ARRIVAL,
            message_arrival: MESSAGE_ARRIVAL,
        })
    }

    /// Replaces [`ARRIVAL`] and [`MESSAGE_ARRIVAL`] in tests.
    #[must_use]
    pub fn with_arrival(self, arrival: Duration) -> Self {
        Self { arrival, message_arrival: arrival, ..self }
    }

    /// The length of the longest message that is accepted, in bytes.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message as usize
    }

    /// The number of bytes in use.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total - self.calls.available_permits() - self.messages.available_permits()
    }

    /// The size of the budget in bytes: `body.max_in_flight`.
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

/// Reserves bytes that are free now. Calls do not queue for bytes: a queue would be the memory that
/// the budget bounds.
fn reserve(budget: &Arc<Semaphore>, bytes: u32) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(budget).try_acquire_many_owned(bytes).map_err(|_| Refusal::NoRoom)
}
