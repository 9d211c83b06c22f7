//! The budget for refreshes that tokens request, because their key is unknown or their signature
//! does not verify: at most one per cool-down, whatever clients send.
//!
//! The budget belongs to the issuer, not to a key id. Unknown key ids are therefore not stored, and
//! clients have nothing to fill. A request during the cool-down is served at its end, and a request
//! during a fetch by the next fetch, because the key may have been published after the fetch began.
//! A new key is thus known at most one cool-down and one fetch after the first token that it signed.
//! `now` is an argument: the time since a fixed moment.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

/// The budget of one issuer.
#[derive(Debug, Default)]
pub(super) struct RefreshBudget {
    /// Whether a request waits for its fetch.
    is_requested: AtomicBool,
    /// The time from which a requested fetch may begin, in microseconds.
    open_from: AtomicU64,
    wake: Notify,
    requests: AtomicU64,
}

/// A fetch under way.
#[derive(Debug)]
#[must_use]
pub(super) struct FetchInProgress {
    /// Whether it serves a request.
    is_requested: bool,
    began: Duration,
}

impl FetchInProgress {
    /// Whether tokens requested the fetch.
    pub(super) const fn is_requested(&self) -> bool {
        self.is_requested
    }
}

impl RefreshBudget {
    /// Requests a refresh. It never blocks; under a storm it costs one load and one addition.
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let is_new = !self.is_requested.load(Ordering::Acquire)
            && !self.is_requested.swap(true, Ordering::AcqRel);
        if is_new {
            self.wake.notify_one();
        }
    }

    /// The number of requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits for a request. It may be dropped and called again.
    pub(super) async fn requested(&self) {
        while !self.is_requested.load(Ordering::Acquire) {
            // A wake-up may be left from a request whose fetch the timer started; hence the loop.
            self.wake.notified().await;
        }
    }

    /// The time from which a requested fetch may begin.
    pub(super) fn open_from(&self) -> Duration {
        Duration::from_micros(self.open_from.load(Ordering::Acquire))
    }

    /// Starts a fetch.
    pub(super) fn begin_fetch(&self, now: Duration) -> FetchInProgress {
        let is_requested = self.is_requested.swap(false, Ordering::AcqRel);
        FetchInProgress { is_requested, began: now }
    }

    /// Ends a good fetch. The cool-down after a requested fetch counts from its beginning.
    pub(super) fn succeeded(&self, fetch: &FetchInProgress, cool_down: Duration) {
        if fetch.is_requested {
            self.open(fetch.began.saturating_add(cool_down));
        }
    }

    /// Ends a failed fetch. It brought nothing, so the budget is not spent; it opens after
    /// `back_off`.
    pub(super) fn failed(&self, _fetch: FetchInProgress, now: Duration, back_off: Duration) {
        self.open(now.saturating_add(back_off));
    }

    fn open(&self, from: Duration) {
        let micros = u64::try_from(from.as_micros()).unwrap_or(u64::MAX);
        self.open_from.store(micros, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const COOL_DOWN: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The time at which the next requested fetch begins, if one is requested.
    fn next(budget: &RefreshBudget) -> Option<Duration> {
        budget.requested().now_or_never().map(|()| budget.open_from())
    }

    #[test]
    fn one_request_per_cool_down_is_served() {
        let budget = RefreshBudget::default();
        assert_eq!(next(&budget), None);
        budget.request();
        budget.request();
        assert_eq!(next(&budget), Some(at(0)));
        let fetch = budget.begin_fetch(at(1));
        budget.succeeded(&fetch, COOL_DOWN);
        assert_eq!(next(&budget), None, "both are served");
        budget.request();
        assert_eq!(next(&budget), Some(at(31)), "the cool-down counts from the fetch's beginning");
        assert_eq!(budget.requests(), 3);
    }

    /// The fetch may have read the document before the key was published.
    #[test]
    fn a_request_during_a_fetch_is_served_by_the_next_one() {
        let budget = RefreshBudget::default();
        budget.request();
        let fetch = budget.begin_fetch(at(1));
        budget.request();
        budget.succeeded(&fetch, COOL_DOWN);
        assert_eq!(next(&budget), Some(at(31)));
    }

    #[test]
    fn a_scheduled_fetch_spends_nothing() {
        let budget = RefreshBudget::default();
        let fetch = budget.begin_fetch(at(0));
        budget.succeeded(&fetch, COOL_DOWN);
        budget.request();
        assert_eq!(next(&budget), Some(at(0)));
        let fetch = budget.begin_fetch(at(1));
        budget.succeeded(&fetch, COOL_DOWN);
        let fetch = budget.begin_fetch(at(20));
        budget.succeeded(&fetch, COOL_DOWN);
        budget.request();
        assert_eq!(next(&budget), Some(at(31)), "the cool-down began at 1");
    }

    #[test]
    fn a_failed_fetch_gives_the_budget_back_after_a_short_wait() {
        // kubernetes/kubernetes#139769: without budget there is no fetch; a failed fetch is
        // refunded.
        let budget = RefreshBudget::default();
        budget.request();
        let fetch = budget.begin_fetch(at(0));
        budget.failed(fetch, at(5), at(1));
        assert_eq!(next(&budget), None);
        budget.request();
        assert_eq!(next(&budget), Some(at(6)));
    }

    #[test]
    fn a_request_that_the_timer_overtook_is_served_once() {
        let budget = RefreshBudget::default();
        budget.request();
        let fetch = budget.begin_fetch(at(0));
        budget.succeeded(&fetch, COOL_DOWN);
        assert_eq!(next(&budget), None, "the wake-up left over fetches nothing");
        budget.request();
        assert_eq!(next(&budget), Some(at(30)), "and the fetch was spent on the request");
    }

    #[test]
    fn endless_spans_do_not_overflow() {
        let budget = RefreshBudget::default();
        let fetch = budget.begin_fetch(at(0));
        budget.failed(fetch, at(1), Duration::MAX);
        budget.request();
        assert!(next(&budget).is_some_and(|from| from > at(1 << 40)));
    }
}
