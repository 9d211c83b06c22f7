//! Latencies in buckets of at most 1/64 of their value: precise enough for percentiles, and of
//! constant size.

/// Sub-buckets of each power of two.
const FINE: u32 = 6;

/// Counts of nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; 64 << FINE], total: 0, max: 0 }
    }

    pub(crate) fn add(&mut self, nanos: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Returns the value in microseconds below which this part of all values is.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank"
        )]
        let rank = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return micros(top(index).min(self.max));
            }
        }
        micros(self.max)
    }

    /// Returns the largest value in microseconds.
    pub(crate) fn max(&self) -> f64 {
        micros(self.max)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a latency")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

fn bucket(nanos: u64) -> usize {
    let bits = 64 - nanos.leading_zeros();
    let shift = bits.saturating_sub(FINE + 1);
    // Below 2^(FINE+1) each value is its own bucket; above, the leading FINE+1 bits choose.
    (u64::from(shift) << FINE) as usize + (nanos >> shift) as usize
}

/// Returns the largest value of a bucket.
fn top(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index >> FINE).saturating_sub(1);
    let lead = index - (shift << FINE);
    ((lead + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut last = 0;
        for exponent in 0..40 {
            for value in
                [1u64 << exponent, (1 << exponent) + (1 << exponent) / 3, (2 << exponent) - 1]
            {
                let index = bucket(value);
                assert!(index >= last, "{value}");
                last = index;
                let top = top(index);
                assert!(
                    top >= value && top - value <= value / 64,
                    "{value} in a bucket up to {top}"
                );
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|value| histogram.add(value * 1000));
        for (part, value) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = histogram.quantile(part);
            assert!((found - value).abs() <= value / 64.0, "{found} for {value}");
        }
        assert!((histogram.max() - 1000.0).abs() < f64::EPSILON);
    }
}
