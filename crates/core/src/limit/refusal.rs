//! The refusal of a bucket, valid until the bucket has room again.
//!
//! A bucket that has no room for a charge has none for the same charge, or a larger one, until
//! enough units are refilled: other charges only empty it further. A caller that remembers the
//! refusal can deny the next request before its body is read, and without the store.

use super::{Charge, Verdict};
use crate::time::Timestamp;

/// How long a bucket is remembered that never has room for the charge, in microseconds. Its refusal
/// has no end, and would take its place in a table for as long.
const NEVER: u64 = 60_000_000;

/// The refusal of one charge by one bucket. All times are microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When the check was decided that was refused.
    observed_at: u64,
    /// When the refusal is no longer valid.
    ends_at: u64,
    /// When the bucket has room for the charge; `u64::MAX`: never.
    retry_at: u64,
    /// When the bucket is full.
    full_at: u64,
    interval: u64,
    burst: u64,
    cost: u64,
}

impl Refusal {
    /// Returns the refusal of a charge at `now`; `None` if the charge was admitted.
    pub fn of(charge: &Charge, verdict: Verdict, now: Timestamp) -> Option<Self> {
        let now = now.micros();
        let Verdict { admitted: false, retry_after, reset, remaining: _ } = verdict else {
            return None;
        };
        let valid = if retry_after == u64::MAX { NEVER } else { retry_after };
        // Another replica may return units of a leased bucket; it holds them for this long at most.
        let valid = charge.lease.map_or(valid, |terms| valid.min(terms.life));
        Some(Self {
            observed_at: now,
            ends_at: now.saturating_add(valid),
            retry_at: now.saturating_add(retry_after),
            full_at: now.saturating_add(reset),
            interval: charge.interval,
            burst: charge.burst,
            cost: charge.cost,
        })
    }

    /// When the refusal is no longer valid.
    pub fn ends_at(&self) -> Timestamp {
        Timestamp::from_micros(self.ends_at)
    }

    /// Returns the verdict of the bucket on a charge at `now`, which is a refusal. `None`: the
    /// refusal has ended or does not apply, because the charge is smaller or its limit is another
    /// one by now.
    ///
    /// A clock that was set back to before the refusal gives `None` as well, so that it cannot
    /// prolong a refusal by more than it was valid for.
    ///
    /// ```
    /// use tollgate_core::{
    ///     limit::{Charge, Verdict, refusal::Refusal, shard::CountedWithin},
    ///     time::Timestamp,
    /// };
    ///
    /// let charge = Charge {
    ///     limit: "per-subject".into(),
    ///     bucket: "alice".into(),
    ///     interval: 1_000_000,
    ///     burst: 2,
    ///     cost: 1,
    ///     by_principal: true,
    ///     is_shadow: false,
    ///     lease: None,
    ///     within: CountedWithin::default(),
    /// };
    /// let refused = Verdict { admitted: false, remaining: 0, retry_after: 800_000, reset: 1_800_000 };
    /// let now = Timestamp::from_secs(1_800_000_000);
    /// let refusal = Refusal::of(&charge, refused, now).expect("the charge was refused");
    ///
    /// let after = |millis: u64| Timestamp::from_micros(now.micros() + millis * 1000);
    /// let verdict = refusal.verdict(&charge, after(300)).expect("the bucket has no room yet");
    /// assert_eq!((verdict.admitted, verdict.retry_after, verdict.reset), (false, 500_000, 1_500_000));
    /// assert_eq!(refusal.verdict(&charge, after(800)), None);
    /// ```
    pub fn verdict(&self, charge: &Charge, now: Timestamp) -> Option<Verdict> {
        let now = now.micros();
        let same = self.interval == charge.interval && self.burst == charge.burst;
        if !same || charge.cost < self.cost || now < self.observed_at || now >= self.ends_at {
            return None;
        }
        let retry_after = if self.retry_at == u64::MAX || charge.cost > charge.burst {
            u64::MAX
        } else {
            let more = (charge.cost - self.cost).saturating_mul(self.interval);
            (self.retry_at - now).saturating_add(more)
        };
        let reset = self.full_at.saturating_sub(now);
        let units =
            self.interval.saturating_mul(self.burst).saturating_sub(reset) / self.interval.max(1);
        // A replica that counts for itself in an outage refuses with units left.
        let remaining = units.min(charge.cost.saturating_sub(1));
        Some(Verdict { admitted: false, remaining, retry_after, reset })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::reference::try_take, *};
    use crate::limit::lease::LeaseTerms;

    const NOW: u64 = 1_700_000_000_000_000;

    fn charge(interval: u64, burst: u64, cost: u64) -> Charge {
        Charge {
            limit: "l".into(),
            bucket: "b".into(),
            interval,
            burst,
            cost,
            by_principal: true,
            is_shadow: false,
            lease: None,
            within: crate::limit::shard::CountedWithin::default(),
        }
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn refused(charge: &Charge, tat: u64) -> Option<Refusal> {
        let step = try_take(Some(tat), NOW, charge.interval, charge.burst, charge.cost);
        Refusal::of(charge, step.verdict, at(NOW))
    }

    proptest! {
        /// The remembered refusal is compared with the bucket itself, which nothing else charges.
        #[test]
        fn the_verdict_is_that_of_the_bucket(
            (interval, burst) in (1u64..10_000_000, 0u64..200),
            (cost, more) in (1u64..50, 0u64..50),
            filled in 0.0f64..1.2,
            later in 0.0f64..1.5,
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part")]
            let part = |whole: u64, part: f64| (whole as f64 * part) as u64;
            let tat = NOW + part(interval * burst, filled);
            let first = charge(interval, burst, cost);
            let Some(refusal) = refused(&first, tat) else { return Ok(()) };
            let span = refusal.ends_at().micros() - NOW;
            let now = NOW + part(span, later);
            let next = charge(interval, burst, cost + more);
            let bucket = try_take(Some(tat), now, interval, burst, cost + more).verdict;
            if now < refusal.ends_at().micros() {
                prop_assert_eq!(refusal.verdict(&next, at(now)), Some(bucket));
            } else {
                prop_assert_eq!(refusal.verdict(&next, at(now)), None);
                let same = try_take(Some(tat), now, interval, burst, cost).verdict;
                prop_assert!(same.admitted || same.retry_after == u64::MAX, "it ends in time");
            }
        }
    }

    #[test]
    fn it_does_not_apply_to_a_smaller_charge_or_another_limit() {
        let first = charge(1_000_000, 10, 5);
        let refusal = refused(&first, NOW + 8_000_000).unwrap();
        assert!(refusal.verdict(&first, at(NOW)).is_some());
        assert!(refusal.verdict(&charge(1_000_000, 10, 6), at(NOW)).is_some());
        for other in [charge(1_000_000, 10, 4), charge(1_000_000, 11, 5), charge(900_000, 10, 5)] {
            assert_eq!(refusal.verdict(&other, at(NOW)), None, "{other:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_ends_it() {
        let first = charge(1_000_000, 1, 1);
        let refusal = refused(&first, NOW + 1_000_000).unwrap();
        assert_eq!(refusal.verdict(&first, at(NOW - 1)), None);
        assert!(refusal.verdict(&first, at(NOW)).is_some());
    }

    #[test]
    fn a_limit_that_admits_nothing_is_remembered_for_a_minute() {
        let closed = charge(1_000_000, 0, 1);
        let refusal = refused(&closed, NOW).unwrap();
        assert_eq!(refusal.verdict(&closed, at(NOW)).unwrap().retry_after, u64::MAX);
        assert_eq!(refusal.ends_at(), at(NOW + 60_000_000));
    }

    #[test]
    fn a_leased_bucket_is_remembered_until_others_may_have_returned_units() {
        let terms = LeaseTerms { slice: 2, life: 2_000_000 };
        let leased = Charge { lease: Some(terms), ..charge(360_000_000, 10, 1) };
        let refusal = refused(&leased, NOW + 3_600_000_000).unwrap();
        assert_eq!(refusal.verdict(&leased, at(NOW)).unwrap().retry_after, 360_000_000);
        assert_eq!(refusal.verdict(&leased, at(NOW + 2_000_000)), None);
    }

    #[test]
    fn an_admitted_charge_is_no_refusal() {
        let admitted = Verdict { admitted: true, remaining: 0, retry_after: 0, reset: 5 };
        assert_eq!(Refusal::of(&charge(1, 1, 1), admitted, at(NOW)), None);
    }
}
