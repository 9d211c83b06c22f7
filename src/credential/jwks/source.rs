//! The keys of one issuer, as the rest of the program reads them: from memory, without waiting.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::watch, time::Instant};
use tollgate_core::credential::jwt::key_set::{KeySet, SkippedKey};

use super::refresh_budget::RefreshBudget;

/// How long keys are known to be the present ones, beside the cool-down.
const CONFIRMED_FOR: Duration = Duration::from_secs(30);

/// The keys of one issuer. A background task refreshes them; every method here reads from memory.
#[derive(Debug)]
pub struct Source {
    issuer: Arc<str>,
    in_use: ArcSwapOption<KeysInUse>,
    pub(super) budget: RefreshBudget,
    /// The time until which the keys are known to be the present ones, in microseconds since `base`:
    /// a refresh that tokens requested has brought no others.
    confirmed_until: AtomicU64,
    base: Instant,
    report: Mutex<Report>,
    tried: watch::Sender<bool>,
}

/// The keys in use, and their age.
#[derive(Clone, Debug)]
pub(super) struct KeysInUse {
    pub(super) keys: Arc<KeySet>,
    pub(super) skipped: Arc<[SkippedKey]>,
    /// The time when the age was recorded.
    pub(super) recorded_at: Instant,
    pub(super) age_when_recorded: Duration,
    /// The time from which the keys must not be used; `None` for a secret in the
    /// configuration.
    pub(super) stale_at: Option<Instant>,
    /// Whether the keys are from the cache file, and the server has not answered since.
    pub(super) from_cache: bool,
}

#[derive(Debug, Default)]
struct Report {
    next_refresh: Option<Instant>,
    fetches_ok: u64,
    fetches_failed: u64,
    last_error: Option<String>,
}

/// The state of a source, for metrics, readiness and the log. It holds no secret.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// The issuer; `absent` for the issuer of tokens without `iss`.
    pub issuer: Arc<str>,
    /// The number of keys that may be used now.
    pub keys: usize,
    /// The key ids of the keys, sorted.
    pub kids: Vec<String>,
    /// Keys of the document in use that were skipped, and the reasons.
    pub skipped: Vec<SkippedKey>,
    /// The time since the last good fetch of the keys in use, also of an earlier run that wrote the
    /// cache file; `None` without keys.
    pub age: Option<Duration>,
    /// Whether the keys are from the cache file because the server has not answered yet.
    pub from_cache: bool,
    /// The time to the next scheduled fetch; `None` when none is scheduled, or one is under way.
    pub next_refresh: Option<Duration>,
    /// Good fetches since the start.
    pub fetches_ok: u64,
    /// Failed fetches since the start.
    pub fetches_failed: u64,
    /// The error of the last fetch; `None` when it was good.
    pub last_error: Option<String>,
    /// The number of calls of [`Source::request_refresh`].
    pub refresh_requests: u64,
    /// Whether the first attempt has ended, successful or not.
    pub tried: bool,
}

impl Source {
    pub(super) fn new(issuer: &Arc<str>) -> Self {
        Self {
            issuer: if issuer.is_empty() { "absent".into() } else { Arc::clone(issuer) },
            in_use: ArcSwapOption::empty(),
            budget: RefreshBudget::default(),
            confirmed_until: AtomicU64::new(0),
            base: Instant::now(),
            report: Mutex::default(),
            tried: watch::Sender::new(false),
        }
    }

    /// Returns the keys that may be used now; `None` before the first success, and from `max_stale`
    /// after the last one.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.usable().map(|in_use| Arc::clone(&in_use.keys))
    }

    /// Requests a refresh because the keys do not verify a token that a newer set may verify. It
    /// never blocks, and leads to at most one fetch per `cool_down`.
    pub fn request_refresh(&self) {
        self.budget.request();
    }

    /// Whether a token that these keys do not verify is one that its issuer did not sign, as far as it
    /// can be known: a refresh that such tokens requested has just brought the same keys. A token that
    /// was signed with a new key, which is not loaded yet, is thus not taken for a forged one.
    pub fn has_confirmed_keys(&self) -> bool {
        let now = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        now < self.confirmed_until.load(Ordering::Acquire)
    }

    /// Notes that a requested refresh has ended, before which `keys` were in use.
    pub(super) fn refreshed(&self, keys: Option<&Arc<KeySet>>, cool_down: Duration) {
        let current = self.in_use.load();
        let is_same = matches!((&*current, keys), (Some(current), Some(keys)) if Arc::ptr_eq(&current.keys, keys));
        let until = if is_same {
            // The next requested refresh begins one cool-down later, and takes a while.
            let until = self.elapsed().saturating_add(cool_down).saturating_add(CONFIRMED_FOR);
            u64::try_from(until.as_micros()).unwrap_or(u64::MAX)
        } else {
            0
        };
        self.confirmed_until.store(until, Ordering::Release);
    }

    /// Returns the state of the source.
    pub fn status(&self) -> SourceStatus {
        let now = Instant::now();
        let in_use = self.usable();
        let report = self.report();
        SourceStatus {
            issuer: Arc::clone(&self.issuer),
            keys: in_use.as_ref().map_or(0, |in_use| in_use.keys.len()),
            kids: in_use.iter().flat_map(|in_use| in_use.keys.kids()).map(str::to_owned).collect(),
            skipped: in_use.iter().flat_map(|in_use| in_use.skipped.iter().cloned()).collect(),
            age: in_use.as_ref().map(|in_use| in_use.age(now)),
            from_cache: in_use.is_some_and(|in_use| in_use.from_cache),
            next_refresh: report.next_refresh.map(|at| at.saturating_duration_since(now)),
            fetches_ok: report.fetches_ok,
            fetches_failed: report.fetches_failed,
            last_error: report.last_error.clone(),
            refresh_requests: self.budget.requests(),
            tried: *self.tried.borrow(),
        }
    }

    /// Waits until the first attempt has ended, successful or not.
    pub async fn tried(&self) {
        let mut tried = self.tried.subscribe();
        // The sender is a field of `self`, so the wait cannot fail.
        let _tried = tried.wait_for(|tried| *tried).await;
    }

    /// Waits until a refresh is requested and the budget permits it.
    pub(super) async fn refresh_requested(&self) {
        self.budget.requested().await;
        match self.base.checked_add(self.budget.open_from()) {
            Some(moment) => tokio::time::sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }

    /// The issuer's name in the log.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The time since the source was created: the clock of its budget.
    pub(super) fn elapsed(&self) -> Duration {
        self.base.elapsed()
    }

    /// Returns the keys in use, if they are not too old.
    pub(super) fn usable(&self) -> Option<Arc<KeysInUse>> {
        self.in_use
            .load_full()
            .filter(|in_use| in_use.stale_at.is_none_or(|at| Instant::now() < at))
    }

    /// Puts keys in use. Returns whether [`Self::current`] changed.
    pub(super) fn put_in_use(&self, in_use: KeysInUse) -> bool {
        let before = self.current();
        let same = before.is_some_and(|before| Arc::ptr_eq(&before, &in_use.keys));
        if !same {
            self.confirmed_until.store(0, Ordering::Release);
        }
        self.in_use.store(Some(Arc::new(in_use)));
        !same
    }

    /// Takes over the keys of a source that differs only in its refresh times, for as long as the
    /// new times permit.
    pub(super) fn inherit(&self, in_use: &KeysInUse, max_stale: Option<Duration>) {
        let now = Instant::now();
        let age_when_recorded = in_use.age(now);
        let stale_at = max_stale.map(|max_stale| now + max_stale.saturating_sub(age_when_recorded));
        self.in_use.store(Some(Arc::new(KeysInUse {
            recorded_at: now,
            age_when_recorded,
            stale_at,
            ..in_use.clone()
        })));
        self.tried.send_replace(true);
    }

    /// The time from which the keys in use are too old.
    pub(super) fn stale_at(&self) -> Option<Instant> {
        self.in_use.load().as_ref().and_then(|in_use| in_use.stale_at)
    }

    /// Removes the keys in use.
    pub(super) fn clear(&self) {
        self.in_use.store(None);
    }

    pub(super) fn note_begin(&self) {
        self.report().next_refresh = None;
    }

    pub(super) fn note_success(&self) {
        let mut report = self.report();
        report.fetches_ok += 1;
        report.last_error = None;
    }

    pub(super) fn note_failure(&self, error: String) {
        let mut report = self.report();
        report.fetches_failed += 1;
        report.last_error = Some(error);
    }

    /// Records the end of an attempt, which may be the first.
    pub(super) fn note_end(&self, next_refresh: Option<Instant>) {
        self.report().next_refresh = next_refresh;
        self.tried.send_if_modified(|tried| !std::mem::replace(tried, true));
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        // Plain numbers and texts: none can be left half-written by a panic.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeysInUse {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.recorded_at).saturating_add(self.age_when_recorded)
    }
}
