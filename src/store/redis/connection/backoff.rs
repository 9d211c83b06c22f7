//! The pause before an attempt to connect.

use std::time::Duration;

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that double up to a bound. Each is shortened by up to a half at random, so that replicas
/// that lost Redis together do not reconnect together.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// Whether there was no pause yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.0 == FIRST
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.0;
        self.0 = (full * 2).min(LONGEST);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_random() {
        let mut backoff = Backoff::new();
        assert!(backoff.is_fresh());
        for full in [100, 200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis) {
            let pause = backoff.next();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        assert!(!backoff.is_fresh());
    }
}
