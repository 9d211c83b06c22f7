//! The budget for refreshes that tokens with unknown keys request: at most one per cool-down,
//! whatever clients send.
//!
//! The budget belongs to the issuer, not to a key id. Unknown key ids are therefore not stored, and
//! clients have nothing to fill. `now` is an argument: the time since a fixed moment.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

/// The value of `open_from` while a request waits for its fetch, or a fetch is under way.
const FETCHING: u64 = u64::MAX;

/// The budget of one issuer.
#[derive(Debug, Default)]
pub(super) struct RefreshBudget {
    /// The time from which the next request is accepted, in microseconds.
    open_from: AtomicU64,
    wake: Notify,
    requests: AtomicU64,
}

/// A fetch under way. No request is accepted until it ends.
#[derive(Debug)]
#[must_use]
pub(super) struct FetchInProgress {
    /// The previous `open_from`, if no request led to this fetch.
    before: Option<u64>,
}

impl RefreshBudget {
    /// Requests a refresh. It never blocks; under a storm it costs one load and one addition.
    pub(super) fn request(&self, now: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let open_from = self.open_from.load(Ordering::Acquire);
        if open_from == FETCHING || micros(now) < open_from {
            return;
        }
        if self
            .open_from
            .compare_exchange(open_from, FETCHING, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            self.wake.notify_one();
        }
    }

    /// The number of requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits for a request that is accepted. It may be dropped and called again.
    pub(super) async fn requested(&self) {
        while self.open_from.load(Ordering::Acquire) != FETCHING {
            // A wake-up may be left from a request whose fetch the timer started; hence the loop.
            self.wake.notified().await;
        }
    }

    /// Starts a fetch.
    pub(super) fn begin_fetch(&self) -> FetchInProgress {
        let before = self.open_from.swap(FETCHING, Ordering::AcqRel);
        FetchInProgress { before: (before != FETCHING).then_some(before) }
    }

    /// Ends a good fetch. A requested fetch closes the budget for `cool_down`.
    pub(super) fn succeeded(&self, fetch: FetchInProgress, now: Duration, cool_down: Duration) {
        self.open_from
            .store(fetch.before.unwrap_or_else(|| after(now, cool_down)), Ordering::Release);
    }

    /// Ends a failed fetch. It brought nothing, so the budget is not spent; it opens after
    /// `back_off`.
    pub(super) fn failed(&self, _fetch: FetchInProgress, now: Duration, back_off: Duration) {
        self.open_from.store(after(now, back_off), Ordering::Release);
    }
}

fn after(now: Duration, span: Duration) -> u64 {
    micros(now.saturating_add(span)).min(FETCHING - 1)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const COOL_DOWN: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Whether a request is accepted at this time.
    fn takes(budget: &RefreshBudget, now: Duration) -> bool {
        budget.request(now);
        budget.requested().now_or_never().is_some()
    }

    #[test]
    fn one_request_per_cool_down_is_accepted() {
        let budget = RefreshBudget::default();
        assert!(takes(&budget, at(0)));
        let fetch = budget.begin_fetch();
        budget.request(at(1));
        budget.succeeded(fetch, at(2), COOL_DOWN);
        assert!(!takes(&budget, at(2)), "spent");
        assert!(!takes(&budget, at(31)), "still spent");
        assert!(takes(&budget, at(32)));
        assert_eq!(budget.requests(), 5);
    }

    #[test]
    fn a_scheduled_fetch_spends_nothing() {
        let budget = RefreshBudget::default();
        let fetch = budget.begin_fetch();
        budget.succeeded(fetch, at(0), COOL_DOWN);
        assert!(takes(&budget, at(0)));
        let fetch = budget.begin_fetch();
        budget.succeeded(fetch, at(1), COOL_DOWN);
        let fetch = budget.begin_fetch();
        budget.succeeded(fetch, at(20), COOL_DOWN);
        assert!(!takes(&budget, at(30)), "the cool-down began at 1");
        assert!(takes(&budget, at(31)));
    }

    #[test]
    fn a_failed_fetch_gives_the_budget_back_after_a_short_wait() {
        // kubernetes/kubernetes#139769: without budget there is no fetch; a failed fetch is
        // refunded.
        let budget = RefreshBudget::default();
        assert!(takes(&budget, at(0)));
        let fetch = budget.begin_fetch();
        budget.failed(fetch, at(5), at(1));
        assert!(!takes(&budget, at(5)));
        assert!(takes(&budget, at(6)));
    }

    #[test]
    fn a_request_that_the_timer_overtook_is_served_once() {
        let budget = RefreshBudget::default();
        budget.request(at(0));
        let fetch = budget.begin_fetch();
        budget.succeeded(fetch, at(1), COOL_DOWN);
        assert!(
            budget.requested().now_or_never().is_none(),
            "the wake-up left over fetches nothing"
        );
        assert!(!takes(&budget, at(2)), "and the fetch was spent on the request");
    }

    #[test]
    fn endless_spans_do_not_read_as_a_fetch_under_way() {
        let budget = RefreshBudget::default();
        let fetch = budget.begin_fetch();
        budget.failed(fetch, at(0), Duration::MAX);
        assert!(!takes(&budget, at(1)));
    }
}
