//! The task that refreshes one source. No failure removes good keys: their age does, and a valid
//! document that withdraws them.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tollgate_core::credential::jwt::key_set::{KeySet, SkippedKey};
use tracing::field::display;

use super::{
    Timing,
    load::{LoadError, Loaded, Loader, Looks},
    plan::{Origin, Plan},
    source::{KeysInUse, Source},
    timing,
};
use crate::log_list::LogList;

/// Most key ids in one log line.
const MAX_LOGGED: usize = 16;

/// Refreshes one source until it is dropped.
pub(super) struct Refresher {
    source: Arc<Source>,
    plan: Arc<Plan>,
    timing: Timing,
    changes: watch::Sender<u64>,
    loader: Loader,
    /// Failures since the last success.
    failures: u32,
    /// The time between two good fetches, from the last answer.
    usual: Duration,
    warned: Option<Instant>,
    /// The write of the cache file that is under way.
    writing: Option<JoinHandle<()>>,
}

impl Refresher {
    pub(super) fn new(
        source: Arc<Source>,
        plan: Plan,
        timing: Timing,
        changes: watch::Sender<u64>,
        looks: Looks,
    ) -> Self {
        let plan = Arc::new(plan);
        let loader = Loader::new(Arc::clone(&plan), timing.look_again, looks);
        let usual = timing.usual(None, &plan.pace);
        Self {
            source,
            plan,
            timing,
            changes,
            loader,
            failures: 0,
            usual,
            warned: None,
            writing: None,
        }
    }

    /// Runs until the task is aborted.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let fetch = self.source.budget.begin_fetch(self.source.elapsed());
            self.source.note_begin();
            let loaded = until_stale(&self.source, &self.changes, self.loader.load()).await;
            let wait = match loaded {
                Ok(loaded) => {
                    let before = self.source.current();
                    let wait = self.succeeded(loaded);
                    let cool_down = self.plan.pace.cool_down;
                    if fetch.is_requested() {
                        self.source.refreshed(before.as_ref(), cool_down);
                    }
                    self.source.budget.succeeded(&fetch, cool_down);
                    wait
                }
                Err(error) => {
                    let back_off = self.failed(&error).await;
                    let refund = back_off.min(self.plan.pace.cool_down);
                    self.source.budget.failed(fetch, self.source.elapsed(), refund);
                    Some(back_off)
                }
            };
            let next = wait.map(|wait| Instant::now() + wait);
            self.source.note_end(next);
            let waiting = async {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.source.refresh_requested() => {}
                }
            };
            until_stale(&self.source, &self.changes, waiting).await;
        }
    }

    /// Puts the loaded keys in use. Returns the time to the next fetch, if there is one.
    fn succeeded(&mut self, loaded: Loaded) -> Option<Duration> {
        self.usual = self.timing.usual(loaded.fresh_for, &self.plan.pace);
        let failures = std::mem::take(&mut self.failures);
        self.source.note_success();
        self.put_in_use(loaded, None);
        if failures > 0 {
            tracing::info!(issuer = self.source.issuer(), failures, "key refresh works again");
        }
        self.write_cache();
        match self.plan.trust.origin {
            Origin::Inline(_) => None,
            _ => Some(timing::earlier(self.usual)),
        }
    }

    /// Keeps the keys in use; after a first failure, reads the cache file. Returns the time to the
    /// next attempt.
    async fn failed(&mut self, error: &LoadError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.source.note_failure(error.to_string());
        if error.withdraws_keys(&self.plan.trust.origin) {
            self.withdraw(error);
            return timing::earlier(self.timing.retry(self.failures, self.usual));
        }
        let kept = if self.source.current().is_some() {
            "keeping the previous keys"
        } else {
            "the issuer has no keys"
        };
        self.warn(&format!("key refresh failed, {kept}: {error}"));
        if !self.source.status().tried && self.source.current().is_none() {
            self.read_cache().await;
        }
        timing::earlier(self.timing.retry(self.failures, self.usual))
    }

    /// Removes the keys in use, because the issuer published a set that ends them. The cache file
    /// is not read: it has older keys.
    fn withdraw(&mut self, error: &LoadError) {
        if self.source.current().is_some() {
            self.source.clear();
            tracing::error!(
                issuer = self.source.issuer(),
                "the previous keys are withdrawn, the issuer's tokens are denied: {error}"
            );
            note_change(&self.changes);
        } else {
            self.warn(&format!("key refresh failed, the issuer has no keys: {error}"));
        }
    }

    /// Writes the cache file in a task of its own: a hanging disk must not delay fetches.
    fn write_cache(&mut self) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let Some(writing) = self.loader.write_cache() else { return };
        let (source, plan) = (Arc::clone(&self.source), Arc::clone(&self.plan));
        self.writing = Some(tokio::spawn(async move {
            if let Err(error) = writing.await {
                let path = plan.cache_file.as_deref().map(|path| display(path.display()));
                tracing::warn!(
                    issuer = source.issuer(),
                    path,
                    "key cache file not written: {error}"
                );
            }
        }));
    }

    async fn read_cache(&mut self) {
        match self.loader.read_cache().await {
            Ok(Some((loaded, age))) => self.put_in_use(loaded, Some(age)),
            Ok(None) => {}
            Err(error) => {
                let path = self.plan.cache_file.as_deref().map(|path| display(path.display()));
                tracing::warn!(
                    issuer = self.source.issuer(),
                    path,
                    "key cache file ignored: {error}"
                );
            }
        }
    }

    fn put_in_use(&self, loaded: Loaded, cached: Option<Duration>) {
        let Loaded { keys, skipped, .. } = loaded;
        let now = Instant::now();
        let age_when_recorded = cached.unwrap_or_default();
        let in_use = KeysInUse {
            keys: Arc::clone(&keys),
            skipped: Arc::clone(&skipped),
            recorded_at: now,
            age_when_recorded,
            stale_at: self
                .plan
                .pace
                .max_stale
                .map(|max_stale| now + max_stale.saturating_sub(age_when_recorded)),
            from_cache: cached.is_some(),
        };
        if self.source.put_in_use(in_use) {
            self.announce(&keys, &skipped, cached);
            note_change(&self.changes);
        }
    }

    fn announce(&self, keys: &KeySet, skipped: &[SkippedKey], cached: Option<Duration>) {
        let (issuer, kids) = (self.source.issuer(), keys.kids());
        let shown = LogList::of(kids.iter().take(MAX_LOGGED));
        match cached {
            None => tracing::info!(issuer, keys = keys.len(), kids = shown.value(), "keys in use"),
            Some(age) => {
                tracing::warn!(
                    issuer,
                    keys = keys.len(),
                    kids = shown.value(),
                    age_seconds = age.as_secs(),
                    "keys in use, from the cache file"
                );
            }
        }
        for SkippedKey { kid, reason } in skipped.iter().take(MAX_LOGGED) {
            tracing::warn!(issuer, kid = kid.as_deref(), "key skipped: {reason}");
        }
    }

    /// Warns about a failing server at intervals, not at each attempt.
    fn warn(&mut self, what: &str) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= self.timing.warn_every) {
            self.warned = Some(Instant::now());
            tracing::warn!(issuer = self.source.issuer(), failures = self.failures, "{what}");
        }
    }
}

/// Runs `future`, and removes the keys in use when they reach `max_stale` in the meantime: a
/// hanging fetch must not keep old keys in use.
async fn until_stale<T>(
    source: &Source,
    changes: &watch::Sender<u64>,
    future: impl Future<Output = T>,
) -> T {
    let expiry = async {
        sleep_until(source.stale_at()).await;
        source.clear();
        tracing::error!(
            issuer = source.issuer(),
            "keys are older than `max_stale` and no longer used; the issuer's tokens are denied"
        );
        note_change(changes);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        // Keys that arrive in the last moment are used.
        biased;
        value = future => value,
        never = expiry => match never {},
    }
}

fn note_change(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count += 1);
}

/// Sleeps until the time, or forever without one.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
