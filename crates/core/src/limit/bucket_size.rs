//! The size of a bucket, compiled from a rate and a burst.

use crate::time::{Rate, RateError};

/// The longest time in which an empty bucket is filled, in microseconds.
const LONGEST_FILL: u64 = 366 * 86_400 * 1_000_000;

/// The size and the refill interval of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketSize {
    /// Microseconds in which one unit is refilled.
    pub(super) interval: u64,
    /// Units in a full bucket.
    pub(super) burst: u64,
}

impl BucketSize {
    /// Compiles a rate. The interval is rounded up to a whole microsecond, so that the bucket never
    /// fills faster than the rate.
    pub(super) fn compile(rate: Rate, burst: Option<u64>) -> Result<Self, RateError> {
        let burst = if rate.count() == 0 { 0 } else { burst.unwrap_or(rate.count()) };
        let interval = rate.per().micros().div_ceil(rate.count().max(1));
        match interval.checked_mul(burst) {
            Some(full) if full <= LONGEST_FILL => Ok(Self { interval, burst }),
            _ => Err(RateError::Burst { rate, burst }),
        }
    }

    /// The bucket of a rate in the record of a key.
    pub(super) fn of_record(rate: Rate) -> Self {
        Self { interval: rate.per().micros().div_ceil(rate.count().max(1)), burst: rate.count() }
    }

    /// Returns the bucket that exceeds neither rate nor burst of either.
    pub(super) fn at_most(self, most: Self) -> Self {
        Self { interval: self.interval.max(most.interval), burst: self.burst.min(most.burst) }
    }
}
