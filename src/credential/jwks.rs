//! The keys of every issuer, refreshed in the background: from a key server, whose address may come
//! from OpenID Connect discovery, from a file, or from a shared secret.
//!
//! Each issuer has a task of its own, so that no issuer can block another ([istio#51636]). A check
//! reads keys from memory and never waits for a fetch. A token with an unknown `kid`, or with a
//! signature that does not verify, is denied at once and requests a refresh, of which at most one per
//! `cool_down` is served. An error, an empty set of a server or a page of HTML never removes keys
//! ([istio#58101]): keys are used until `max_stale` after the last good fetch, and are removed then.
//! A file is written by the operator, so that a valid set without a usable key withdraws the last
//! one; a set that publishes private parts withdraws them wherever it is from. There is no built-in key (CVE-2026-31837).
//!
//! [istio#51636]: https://github.com/istio/istio/issues/51636
//! [istio#58101]: https://github.com/istio/istio/issues/58101

mod cache;
pub(in crate::credential) mod fetch;
pub(in crate::credential) mod guard;
mod load;
pub(in crate::credential) mod plan;
mod proxy;
mod refresh;
mod refresh_budget;
mod source;
mod timing;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle};
use tollgate_core::{
    config::{Errors, Path},
    credential::jwt::{issuer::Issuer, key_set::KeySet},
};

use self::{
    guard::Guard,
    load::Looks,
    plan::{Origin, Plan},
    refresh::Refresher,
};
use crate::secrets::SecretsConfig;

pub use self::{
    source::{Source, SourceStatus},
    timing::Timing,
};

/// One key source for each issuer. Dropping it stops all sources.
pub struct KeySources {
    /// The number of changes of the keys of any source.
    changes: watch::Sender<u64>,
    timing: Timing,
    /// How long a secret is used after its file was last read.
    secret_max_stale: Duration,
    running: Mutex<Vec<Running>>,
    /// Whether cache files are read and written.
    uses_cache_files: bool,
    /// Whether issuers were applied before.
    started: AtomicBool,
}

struct Running {
    plan: Plan,
    source: Arc<Source>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Default for KeySources {
    fn default() -> Self {
        Self::with_timing(Timing::default())
    }
}

impl KeySources {
    /// Creates an empty set of sources with these times.
    pub fn with_timing(timing: Timing) -> Self {
        Self::new(timing, SecretsConfig::default().max_stale.std())
    }

    /// Creates an empty set of sources with these times. `secret_max_stale` is how long a shared
    /// secret is used after its file was last read.
    pub fn new(timing: Timing, secret_max_stale: Duration) -> Self {
        Self {
            changes: watch::Sender::new(0),
            timing,
            secret_max_stale,
            running: Mutex::default(),
            uses_cache_files: true,
            started: AtomicBool::new(false),
        }
    }

    /// Neither reads nor writes cache files: every key comes from its source.
    #[must_use]
    pub fn without_cache_files(self) -> Self {
        Self { uses_cache_files: false, ..self }
    }

    /// Counts how often [`Source::current`] of any source has changed. The count rises after the
    /// keys are in use.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Runs one source for each of these issuers, stops all others, and returns the sources in the
    /// order of the issuers.
    ///
    /// A source whose configuration did not change continues. A source with other refresh times
    /// starts with its previous keys. Any other source starts without keys; a caller that swaps
    /// policies waits for [`Source::tried`] first.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub fn apply(&self, issuers: &[Arc<Issuer>]) -> Vec<Arc<Source>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        // A secret of the start is used after one look; any other one after two.
        let looks = if self.started.swap(true, Relaxed) { Looks::Two } else { Looks::One };
        for issuer in issuers {
            let mut plan = Plan::new(issuer, &self.timing, self.secret_max_stale);
            if !self.uses_cache_files {
                plan.cache_file = None;
            }
            let known = before
                .iter()
                .position(|old| old.plan.trust == plan.trust)
                .map(|index| before.swap_remove(index));
            running.push(match known {
                Some(old) if old.plan == plan => old,
                old => self.start(plan, old.as_ref(), looks),
            });
        }
        running.iter().map(|running| Arc::clone(&running.source)).collect()
    }

    /// Waits until every source has finished its first attempt, successful or not.
    pub async fn tried(&self) {
        for source in self.sources() {
            source.tried().await;
        }
    }

    /// Returns the sources, in the order of the issuers.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|running| Arc::clone(&running.source)).collect()
    }

    fn start(&self, plan: Plan, old: Option<&Running>, looks: Looks) -> Running {
        let source = Arc::new(Source::new(&plan.trust.issuer));
        if let Some(in_use) = old.and_then(|old| old.source.usable()) {
            source.inherit(&in_use, plan.pace.max_stale);
        }
        let changes = self.changes.clone();
        let refresher =
            Refresher::new(Arc::clone(&source), plan.clone(), self.timing, changes, looks);
        let task = tokio::spawn(refresher.run()).abort_handle();
        Running { plan, source, task }
    }
}

/// Adds the errors of the key sources that can be found without a fetch: invalid addresses and
/// hosts, and secrets in the file that are too short. `path` is that of the list.
pub fn validate(issuers: &[Arc<Issuer>], path: &Path, errors: &mut Errors) {
    for (index, issuer) in issuers.iter().enumerate() {
        let path = path.index(index);
        match Plan::new(issuer, &Timing::default(), Duration::MAX).trust.origin {
            Origin::Remote(remote) => {
                errors.take(
                    &path.key("jwks"),
                    Guard::new(&remote).map_err(|error| error.to_string()),
                );
            }
            Origin::Inline(secret) => {
                errors.take(&path.key("secret"), KeySet::from_secret(&secret, &issuer.algorithms));
            }
            Origin::File(_) | Origin::SecretFile(_) => {}
        }
    }
}

impl fmt::Debug for KeySources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySources").field("sources", &self.sources()).finish_non_exhaustive()
    }
}
