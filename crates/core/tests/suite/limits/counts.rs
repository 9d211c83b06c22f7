//! What the verdict of a counter tells a client: the units that are left, when to retry, and when
//! all is free again. Each is compared with what the counter does at that amount and that moment.

use proptest::prelude::*;
use tollgate_core::{
    limit::{
        BucketId, Counter, Hold, Verdict,
        counters::{Count, HELD_RETRY},
    },
    time::Timestamp,
};

use crate::properties::cases;

const NOW: u64 = 1_800_000_000_000_000;

fn hold(counter: Counter, amount: u64) -> Hold {
    Hold {
        limit: "l".into(),
        counter_id: BucketId::of("l"),
        counter,
        amount,
        unreported: amount,
        by_principal: true,
        is_shadow: false,
    }
}

/// A counter, the units in it when it is full, and the time in which it refills one.
#[derive(Clone, Copy, Debug)]
struct Size {
    counter: Counter,
    limit: u64,
    /// `None` for a counter that does not refill.
    interval: Option<u64>,
    /// The end of the window.
    ends: Option<u64>,
}

fn size() -> impl Strategy<Value = Size> {
    (0u64..200, 1u64..2_000_000, 0u8..5).prop_map(|(limit, time, kind)| {
        let (interval, end) = (time, NOW + time);
        let ends = Timestamp::from_micros(end);
        let (counter, refills) = match kind {
            0 => (Counter::Bucket { interval, burst: limit }, true),
            1 => (Counter::Rate { interval, burst: limit }, true),
            2 => (Counter::Budget { limit, ends }, false),
            3 => (Counter::Requests { limit, ends }, false),
            _ => (Counter::Slots { limit }, false),
        };
        let has_end = matches!(kind, 2 | 3);
        Size { counter, limit, interval: refills.then_some(interval), ends: has_end.then_some(end) }
    })
}

/// A counter in which so many units are spent, and in a bucket `early` microseconds less.
fn count(size: &Size, spent: u64, early: u64, held: u64) -> Count {
    let spent = match size.interval {
        Some(interval) => NOW + spent * interval - early,
        None => spent,
    };
    Count { spent, held }
}

fn admits(count: Count, size: &Size, amount: u64, now: u64) -> bool {
    count.try_hold(&hold(size.counter, amount), now).admitted
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_verdict_tells_what_the_counter_does(
        size in size(),
        (spent, early) in (0u64..220, 0u64..2_000_000),
        (held, amount) in (prop_oneof![Just(0u64), 1u64..100], 1u64..80),
    ) {
        let count = count(&size, spent, early, held);
        let state = count.peek(&hold(size.counter, amount), NOW);
        // What is left is the most that is admitted.
        prop_assert!(state.admitted);
        prop_assert!(state.remaining == 0 || admits(count, &size, state.remaining, NOW));
        prop_assert!(!admits(count, &size, state.remaining + 1, NOW));

        let verdict = count.try_hold(&hold(size.counter, amount), NOW);
        prop_assert_eq!(verdict.admitted, amount <= state.remaining);
        if verdict.admitted {
            prop_assert_eq!(verdict.remaining, state.remaining - amount);
            prop_assert_eq!(verdict.retry_after, 0);
        } else {
            prop_assert_eq!(verdict.remaining, state.remaining);
            retry_is_right(count, &size, amount, verdict)?;
        }
        let added = if verdict.admitted { amount } else { 0 };
        reset_is_right(count, &size, added, verdict.reset)?;
        reset_is_right(count, &size, 0, state.reset)?;
    }
}

fn retry_is_right(
    count: Count,
    size: &Size,
    amount: u64,
    verdict: Verdict,
) -> Result<(), TestCaseError> {
    let retry = verdict.retry_after;
    if amount > size.limit {
        prop_assert_eq!(retry, u64::MAX, "not even an empty counter has room");
        return Ok(());
    }
    let without_holds = Count { held: 0, ..count };
    if size.interval.is_some() {
        let waits_for_holds = count.held + amount > size.limit;
        let count = if waits_for_holds { without_holds } else { count };
        prop_assert!(admits(count, size, amount, NOW + retry));
        if waits_for_holds {
            prop_assert!(retry >= HELD_RETRY);
        }
        if !waits_for_holds || retry > HELD_RETRY {
            prop_assert!(!admits(count, size, amount, NOW + retry - 1));
        }
    } else if admits(without_holds, size, amount, NOW) {
        prop_assert_eq!(retry, HELD_RETRY, "a hold may end at any time");
    } else {
        // What is spent of a window stays spent in it; of slots, nothing is ever spent.
        prop_assert_eq!(retry, size.ends.map_or(HELD_RETRY, |ends| ends - NOW));
    }
    Ok(())
}

/// All is free at `reset`, and not before, if what is held is spent.
fn reset_is_right(count: Count, size: &Size, added: u64, reset: u64) -> Result<(), TestCaseError> {
    match (size.interval, size.ends) {
        (Some(interval), _) => {
            let spent = count.spent.max(NOW) + (count.held + added) * interval;
            let spent = Count { spent, held: 0 };
            let left = |now| spent.peek(&hold(size.counter, 1), now).remaining;
            prop_assert_eq!(left(NOW + reset), size.limit);
            prop_assert!(reset == 0 || size.limit == 0 || left(NOW + reset - 1) < size.limit);
        }
        (None, Some(ends)) => prop_assert_eq!(reset, ends - NOW),
        (None, None) => {
            let is_free = count.spent + count.held + added == 0;
            prop_assert_eq!(reset, if is_free { 0 } else { HELD_RETRY });
        }
    }
    Ok(())
}

/// The time is never zero, which is that of an admitted request.
#[test]
fn a_window_that_ends_now_is_retried_at_once() {
    let ends = Timestamp::from_micros(NOW);
    for counter in [Counter::Budget { limit: 5, ends }, Counter::Requests { limit: 5, ends }] {
        let verdict = Count { spent: 5, held: 0 }.try_hold(&hold(counter, 1), NOW);
        assert_eq!((verdict.retry_after, verdict.reset), (1, 0), "{counter:?}");
    }
}
