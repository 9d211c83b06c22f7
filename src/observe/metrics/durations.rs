//! Histograms of durations.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the duration histogram, in microseconds: from the cost of a check in memory to
/// Envoy's timeout.
pub(in crate::observe) const BUCKETS: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000,
];

/// A histogram without a lock.
#[derive(Debug)]
pub(in crate::observe) struct Durations {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Durations {
    pub(super) fn new() -> Self {
        Self { counts: array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(micros, Relaxed);
    }

    /// Whether nothing was counted.
    pub(in crate::observe) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Relaxed) == 0)
    }

    /// Returns the sum in microseconds and the count of each bucket, that without an upper bound
    /// last.
    pub(in crate::observe) fn read(&self) -> (u64, [u64; BUCKETS.len() + 1]) {
        (
            self.sum.load(Relaxed),
            array::from_fn(|at| self.counts.get(at).map_or(0, |count| count.load(Relaxed))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for (micros, bucket) in [
            (0, 0),
            (50, 0),
            (51, 1),
            (1_000, 4),
            (1_001, 5),
            (1_000_000, 13),
            (1_000_001, 14),
            (u64::MAX, 14),
        ] {
            let durations = Durations::new();
            durations.observe(Duration::from_micros(micros));
            let (sum, counts) = durations.read();
            assert_eq!(sum, micros);
            assert_eq!(counts.iter().position(|count| *count == 1), Some(bucket), "{micros}");
        }
    }
}
