//! The bucket, as an executable specification: GCRA in integers.
//!
//! A bucket is one number, its *theoretical arrival time* (TAT): the moment at which it would be full again. A charge of
//! `cost` units moves it by `cost * interval`; it is admitted when the bucket would be full again no later than
//! `burst * interval` from now. (ITU-T I.371, virtual scheduling algorithm, with the limit stated as a burst.)
//! Microseconds everywhere: they stay below 2^53, so Lua's doubles count the same.

use super::Verdict;

/// The outcome of one bucket's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to answer if the charge is taken (or refused).
    pub verdict: Verdict,
    /// The TAT to store if every charge of the check is admitted.
    pub tat: u64,
}

/// Asks a bucket for `cost` units. `tat` is what is stored (`None`: never charged, full); all times in microseconds.
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

/// How many units an admitted charge of `cost` takes when up to `want` are wanted to be held: half of what is there at most,
/// so that others find some, too.
pub fn leasable(
    tat: Option<u64>,
    now: u64,
    interval: u64,
    burst: u64,
    (cost, want): (u64, u64),
) -> u64 {
    let start = tat.unwrap_or(now).max(now);
    let there =
        now.saturating_add(interval.saturating_mul(burst)).saturating_sub(start) / interval.max(1);
    want.min(there.div_ceil(2)).max(cost)
}

/// What is stored after units were given back that had moved the TAT by `micros`; `None` for a full bucket.
pub fn tat_after_return(tat: Option<u64>, now: u64, micros: u64) -> Option<u64> {
    tat.map(|tat| tat.saturating_sub(micros)).filter(|tat| *tat > now)
}

/// The verdict of a bucket that had room in a check that was refused for another one: nothing was taken.
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
