//! The keys of one issuer, as the rest of the program sees them: always at hand, never waited for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::watch, time::Instant};
use tollgate_core::credential::jwt::key_set::{KeySet, SkippedKey};

use super::refresh_budget::RefreshBudget;

/// The keys of one issuer. A background task keeps them good; every method here answers at once from memory.
#[derive(Debug)]
pub struct Source {
    issuer: Arc<str>,
    in_use: ArcSwapOption<KeysInUse>,
    pub(super) budget: RefreshBudget,
    base: Instant,
    report: Mutex<Report>,
    tried: watch::Sender<bool>,
}

/// Keys in use.
#[derive(Clone, Debug)]
pub(super) struct KeysInUse {
    pub(super) keys: Arc<KeySet>,
    pub(super) skipped: Arc<[SkippedKey]>,
    /// When this was written down, and how old the keys were then.
    pub(super) recorded_at: Instant,
    pub(super) age_when_recorded: Duration,
    /// From when on they must not be used; `None` for a secret.
    pub(super) stale_at: Option<Instant>,
    /// Whether they are from the cache file, and the server has not answered since.
    pub(super) from_cache: bool,
}

#[derive(Debug, Default)]
struct Report {
    next_refresh: Option<Instant>,
    fetches_ok: u64,
    fetches_failed: u64,
    last_error: Option<String>,
}

/// How a source is doing: for metrics, readiness and the log. Holds no secrets.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// The issuer; `absent` for the one of tokens without `iss`.
    pub issuer: Arc<str>,
    /// How many keys may be used now.
    pub keys: usize,
    /// The names of those that have one, sorted.
    pub kids: Vec<String>,
    /// Keys of the document in use that were left out, and why.
    pub skipped: Vec<SkippedKey>,
    /// Time since the last good fetch of the keys in use, the run that wrote the cache file included; `None` without keys.
    pub age: Option<Duration>,
    /// Whether the keys come from the cache file because the server has not answered yet.
    pub from_cache: bool,
    /// Time to the next scheduled fetch; `None` when none is scheduled, or one is under way.
    pub next_refresh: Option<Duration>,
    /// Good fetches since the start.
    pub fetches_ok: u64,
    /// Failed ones.
    pub fetches_failed: u64,
    /// Why the last fetch failed; `None` when it was good.
    pub last_error: Option<String>,
    /// How often [`Source::unknown_key`] was called.
    pub unknown_keys: u64,
    /// Whether the first attempt is over, good or bad.
    pub tried: bool,
}

impl Source {
    pub(super) fn new(issuer: &Arc<str>) -> Self {
        Self {
            issuer: if issuer.is_empty() { "absent".into() } else { Arc::clone(issuer) },
            in_use: ArcSwapOption::empty(),
            budget: RefreshBudget::default(),
            base: Instant::now(),
            report: Mutex::default(),
            tried: watch::Sender::new(false),
        }
    }

    /// The keys that may be used now: `None` before the first success, and from `max_stale` after the last one.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.usable().map(|in_use| Arc::clone(&in_use.keys))
    }

    /// Says that a token named a key that is not in the set. Never blocks; leads to at most one fetch per `cool_down`.
    pub fn unknown_key(&self) {
        self.budget.request(self.elapsed());
    }

    /// How the source is doing.
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
            unknown_keys: self.budget.requests(),
            tried: *self.tried.borrow(),
        }
    }

    /// Waits until the first attempt is over, good or bad; returns at once from then on.
    pub async fn tried(&self) {
        let mut tried = self.tried.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _tried = tried.wait_for(|tried| *tried).await;
    }

    /// Its name in the log.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Time since the source was made: the clock of its hints.
    pub(super) fn elapsed(&self) -> Duration {
        self.base.elapsed()
    }

    /// What is in_use and may be used.
    pub(super) fn usable(&self) -> Option<Arc<KeysInUse>> {
        self.in_use
            .load_full()
            .filter(|in_use| in_use.stale_at.is_none_or(|at| Instant::now() < at))
    }

    /// Puts keys in use. Answers whether [`Self::current`] changed.
    pub(super) fn put_in_use(&self, in_use: KeysInUse) -> bool {
        let before = self.current();
        let same = before.is_some_and(|before| Arc::ptr_eq(&before, &in_use.keys));
        self.in_use.store(Some(Arc::new(in_use)));
        !same
    }

    /// Takes over the keys of a source that differs only in how often and how long, for as long as is allowed now.
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

    /// When the keys in use will have been used too long.
    pub(super) fn stale_at(&self) -> Option<Instant> {
        self.in_use.load().as_ref().and_then(|in_use| in_use.stale_at)
    }

    /// Lets go of what is too old.
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

    /// The end of an attempt, which may be the first.
    pub(super) fn note_end(&self, next_refresh: Option<Instant>) {
        self.report().next_refresh = next_refresh;
        self.tried.send_if_modified(|tried| !std::mem::replace(tried, true));
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        // Plain numbers and texts: none of them can be left half-written.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeysInUse {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.recorded_at).saturating_add(self.age_when_recorded)
    }
}
