//! The task that keeps one source good: load, wait, load again. Nothing that fails here takes good keys away; only time does.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tollgate_core::credential::jwt::key_set::{KeySet, SkippedKey};

use super::{
    Timing,
    load::{LoadError, Loaded, Loader},
    plan::{Origin, Plan},
    source::{KeysInUse, Source},
    timing,
};

/// Most names of keys in one log line.
const MAX_LOGGED: usize = 16;

/// Keeps one source good until it is dropped.
pub(super) struct Refresher {
    source: Arc<Source>,
    plan: Arc<Plan>,
    timing: Timing,
    changes: watch::Sender<u64>,
    loader: Loader,
    /// Failures since the last success.
    failures: u32,
    /// The time between two good fetches, as the last answer has it.
    usual: Duration,
    warned: Option<Instant>,
    /// The cache file on its way to the disk.
    writing: Option<JoinHandle<()>>,
}

impl Refresher {
    pub(super) fn new(
        source: Arc<Source>,
        plan: Plan,
        timing: Timing,
        changes: watch::Sender<u64>,
    ) -> Self {
        let plan = Arc::new(plan);
        let loader = Loader::new(Arc::clone(&plan));
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

    /// Runs for ever.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let fetch = self.source.budget.begin_fetch();
            self.source.note_begin();
            let loaded = until_stale(&self.source, &self.changes, self.loader.load()).await;
            let wait = match loaded {
                Ok(loaded) => {
                    let wait = self.succeeded(loaded);
                    self.source.budget.succeeded(
                        fetch,
                        self.source.elapsed(),
                        self.plan.pace.cool_down,
                    );
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
                    () = self.source.budget.requested() => {}
                }
            };
            until_stale(&self.source, &self.changes, waiting).await;
        }
    }

    /// Takes over what was loaded. Gives the time to the next fetch, if there is to be one.
    fn succeeded(&mut self, loaded: Loaded) -> Option<Duration> {
        self.usual = self.timing.usual(loaded.fresh_for, &self.plan.pace);
        let failures = std::mem::take(&mut self.failures);
        self.source.note_success();
        self.put_in_use(loaded, None);
        if failures > 0 {
            tracing::info!(issuer = self.source.issuer(), failures, "keys were fetched again");
        }
        self.write_cache();
        match self.plan.trust.origin {
            Origin::Inline(_) => None,
            _ => Some(timing::earlier(self.usual)),
        }
    }

    /// Leaves everything as it is, except for a first failure, which the cache file may make good. Gives the time to the next
    /// attempt.
    async fn failed(&mut self, error: &LoadError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.source.note_failure(error.to_string());
        let kept = if self.source.current().is_some() {
            "the keys in use stay"
        } else {
            "there are none in use"
        };
        self.warn(&format!("no keys were fetched, {kept}: {error}"));
        if !self.source.status().tried && self.source.current().is_none() {
            self.read_cache().await;
        }
        timing::earlier(self.timing.retry(self.failures, self.usual))
    }

    /// Writes the cache file, beside: a disk that hangs must not keep keys from being fetched.
    fn write_cache(&mut self) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let Some(writing) = self.loader.write_cache() else { return };
        let (source, plan) = (Arc::clone(&self.source), Arc::clone(&self.plan));
        self.writing = Some(tokio::spawn(async move {
            if let Err(error) = writing.await {
                let path = plan.cache_file.as_deref();
                tracing::warn!(
                    issuer = source.issuer(),
                    ?path,
                    "the cache file was not written: {error}"
                );
            }
        }));
    }

    async fn read_cache(&mut self) {
        match self.loader.read_cache().await {
            Ok(Some((loaded, age))) => self.put_in_use(loaded, Some(age)),
            Ok(None) => {}
            Err(error) => {
                let path = self.plan.cache_file.as_deref();
                tracing::warn!(
                    issuer = self.source.issuer(),
                    ?path,
                    "the cache file is ignored: {error}"
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
        let shown = kids.get(..MAX_LOGGED).unwrap_or(&kids);
        match cached {
            None => tracing::info!(issuer, keys = keys.len(), kids = ?shown, "keys in use"),
            Some(age) => {
                tracing::warn!(issuer, keys = keys.len(), kids = ?shown, ?age, "keys in use, from the cache file");
            }
        }
        for SkippedKey { kid, reason } in skipped.iter().take(MAX_LOGGED) {
            tracing::warn!(issuer, kid = kid.as_deref(), "a key was left out: {reason}");
        }
    }

    /// A server that is down is told of once in a while, not at each attempt.
    fn warn(&mut self, what: &str) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= self.timing.warn_every) {
            self.warned = Some(Instant::now());
            tracing::warn!(issuer = self.source.issuer(), failures = self.failures, "{what}");
        }
    }
}

/// `future`, and meanwhile an eye on the age of the keys: a fetch that hangs must not keep old keys alive.
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
            "the keys are older than `max_stale`; the issuer's tokens are refused"
        );
        note_change(changes);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        // Keys that arrive with the last moment are taken.
        biased;
        value = future => value,
        never = expiry => match never {},
    }
}

fn note_change(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count += 1);
}

/// Sleeps for ever without a moment.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
