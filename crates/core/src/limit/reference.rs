//! The bucket, as an executable specification: GCRA in integers.
//!
//! A bucket is one number, its *theoretical arrival time* (TAT): the time at which it is full
//! again. A charge of `cost` units moves it by `cost * interval`. The charge is admitted if the
//! bucket is full again no later than `burst * interval` from now. (ITU-T I.371, virtual scheduling
//! algorithm, with the limit stated as a burst.) All times are microseconds: they are below 2^53,
//! so Lua's doubles represent them exactly.

use super::Verdict;

/// The outcome of one charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The answer if the charge is taken or refused.
    pub verdict: Verdict,
    /// The TAT to store if all charges of the check are admitted.
    pub tat: u64,
}

/// Tries to take `cost` units from a bucket. `tat` is the stored value; `None` is a full bucket.
pub fn try_take(tat: Option<u64>, now: u64, interval: u64, burst: u64, cost: u64) -> Step {
    let full = interval.saturating_mul(burst);
    let start = tat.unwrap_or(now).max(now);
    let next = start.saturating_add(interval.saturating_mul(cost));
    let latest = now.saturating_add(full);
    if next <= latest {
        let verdict = Verdict {
            admitted: true,
            remaining: (latest - next) / interval.max(1),
            retry_after: 0,
            reset: next - now,
        };
        return Step { verdict, tat: next };
    }
    let retry_after = if cost > burst { u64::MAX } else { next - latest };
    let verdict = Verdict {
        admitted: false,
        remaining: latest.saturating_sub(start) / interval.max(1),
        retry_after,
        reset: start - now,
    };
    Step { verdict, tat: start }
}

/// A request for units ahead of need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Units that the check itself costs.
    pub cost: u64,
    /// Units that the replica requests, those of the check included.
    pub want: u64,
}

/// Returns how many units an admitted lease request takes: at most half of those available, so that
/// other replicas are granted some, too, and at least the cost of the check.
pub fn leasable(
    tat: Option<u64>,
    now: u64,
    interval: u64,
    burst: u64,
    LeaseRequest { cost, want }: LeaseRequest,
) -> u64 {
    let start = tat.unwrap_or(now).max(now);
    let available =
        now.saturating_add(interval.saturating_mul(burst)).saturating_sub(start) / interval.max(1);
    want.min(available.div_ceil(2)).max(cost)
}

/// Returns the TAT after the return of units that had moved it by `micros`; `None` is a full
/// bucket.
pub fn tat_after_return(tat: Option<u64>, now: u64, micros: u64) -> Option<u64> {
    tat.map(|tat| tat.saturating_sub(micros)).filter(|tat| *tat > now)
}

/// Returns the verdict of a bucket that had enough units when another bucket refused the check: no
/// units are taken.
pub fn peek(tat: Option<u64>, now: u64, interval: u64, burst: u64) -> Verdict {
    let start = tat.unwrap_or(now).max(now);
    let latest = now.saturating_add(interval.saturating_mul(burst));
    Verdict {
        admitted: true,
        remaining: latest.saturating_sub(start) / interval.max(1),
        retry_after: 0,
        reset: start - now,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_burst_is_admitted_at_once_and_then_one_per_interval() {
        let now = 1_700_000_000 * SECOND;
        let mut tat = None;
        for left in [2, 1, 0] {
            let step = try_take(tat, now, SECOND, 3, 1);
            assert_eq!((step.verdict.admitted, step.verdict.remaining), (true, left));
            tat = Some(step.tat);
        }
        let refused = try_take(tat, now, SECOND, 3, 1);
        assert_eq!(
            refused.verdict,
            Verdict { admitted: false, remaining: 0, retry_after: SECOND, reset: 3 * SECOND }
        );
        assert_eq!(refused.tat, tat.unwrap(), "a refusal takes nothing");
        assert!(!try_take(tat, now + SECOND - 1, SECOND, 3, 1).verdict.admitted);
        assert!(try_take(tat, now + SECOND, SECOND, 3, 1).verdict.admitted);
    }

    #[test]
    fn zero_admits_none_and_says_never() {
        let step = try_take(None, 5, SECOND, 0, 1);
        assert_eq!(
            step.verdict,
            Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 0 }
        );
    }

    #[test]
    fn a_clock_that_steps_back_grants_nothing_new() {
        let tat = Some(10 * SECOND);
        assert!(!try_take(tat, 2 * SECOND, SECOND, 3, 1).verdict.admitted);
    }

    #[test]
    fn a_bucket_that_a_return_fills_is_forgotten() {
        assert_eq!(tat_after_return(Some(9), 3, 5), Some(4));
        assert_eq!(tat_after_return(Some(9), 4, 5), None);
        assert_eq!(tat_after_return(Some(9), 3, u64::MAX), None);
        assert_eq!(tat_after_return(None, 3, 5), None);
    }

    proptest! {
        /// In any window of length `w` no more than `burst + w / interval` units pass.
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            gaps in proptest::collection::vec(0u64..3_000_000, 1..200),
            interval in 1u64..2_000_000,
            burst in 0u64..20,
        ) {
            let (mut now, mut tat, mut passed) = (1_000_000u64, None, Vec::new());
            for gap in gaps {
                now += gap;
                let step = try_take(tat, now, interval, burst, 1);
                if step.verdict.admitted {
                    tat = Some(step.tat);
                    passed.push(now);
                }
            }
            for (from, start) in passed.iter().enumerate() {
                for (to, end) in passed.iter().enumerate().skip(from) {
                    prop_assert!((to - from + 1) as u64 <= burst + (end - start) / interval);
                }
            }
        }

        /// `retry_after` is exact: refused one microsecond earlier, admitted then.
        #[test]
        fn retry_after_is_exact(ahead in 0u64..100_000_000, interval in 1u64..2_000_000, burst in 1u64..20) {
            let now = 1_000_000_000u64;
            let tat = Some(now + ahead);
            let verdict = try_take(tat, now, interval, burst, 1).verdict;
            if !verdict.admitted {
                prop_assert!(try_take(tat, now + verdict.retry_after, interval, burst, 1).verdict.admitted);
                prop_assert!(!try_take(tat, now + verdict.retry_after - 1, interval, burst, 1).verdict.admitted);
            }
        }
    }
}
