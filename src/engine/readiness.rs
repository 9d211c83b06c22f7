//! Readiness: every issuer, the bans and the API keys in Redis were tried once since the start, one
//! issuer at least has keys (or none is configured: then one source of API keys can be used), one
//! upstream key at least may be used (or none is configured), and the engine is not shutting down.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tollgate_core::{secret::SecretSource, snapshot::Snapshot};

use crate::{
    engine::live::{Live, State},
    store::Opened,
};

/// Whether requests may be sent here, for `/readyz` and gRPC health.
#[derive(Debug)]
pub struct Readiness {
    live: Arc<Live>,
    store: Arc<Opened>,
    draining: AtomicBool,
    /// Whether every issuer was tried once. An issuer that a reload adds does not take this back:
    /// all replicas reload at the same time.
    started: AtomicBool,
}

impl Readiness {
    /// Reports the readiness of the state in `live`, and of the bans of `store`.
    pub fn new(live: Arc<Live>, store: Arc<Opened>) -> Self {
        Self { live, store, draining: AtomicBool::new(false), started: AtomicBool::new(false) }
    }

    /// Makes the engine not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns what is missing before requests may be sent here, one phrase each; empty when ready.
    /// A pod with one dead issuer is ready; a pod without any keys is not. The same holds for
    /// upstream keys, and for API keys, which are those of one more issuer: beside issuers with
    /// keys, a source that cannot be used leaves the pod ready. [`Readiness::unusable`] names it.
    pub fn missing(&self) -> Vec<String> {
        if self.draining.load(Ordering::Relaxed) {
            return vec!["shutting down".into()];
        }
        let state = self.live.load();
        if !self.started.load(Ordering::Relaxed) {
            let untried = state.sources.iter().filter(|source| !source.status().tried);
            let untried = untried.map(|source| {
                format!("the first fetch of the keys of `{}` has not ended", source.status().issuer)
            });
            let mut untried: Vec<String> = untried.collect();
            if state.api_keys.redis.as_ref().is_some_and(|replica| !replica.is_tried()) {
                untried.push("the API keys in Redis are not read yet".to_owned());
            }
            if !self.store.has_tried_bans() {
                untried.push("the bans in Redis are not read yet".to_owned());
            }
            if !untried.is_empty() {
                return untried;
            }
            self.started.store(true, Ordering::Relaxed);
        }
        let mut missing = Vec::new();
        let Snapshot { keys, upstream_keys, api_keys, .. } = &state.snapshot;
        let no_keys = keys.iter().all(Option::is_none);
        if !state.sources.is_empty() && no_keys {
            missing.push(format!("no issuer has usable keys: {}", dead_issuers(&state).join(", ")));
        }
        // Beside dead issuers they are named as well.
        if no_keys && !api_keys.is_empty() && api_keys.iter().all(Option::is_none) {
            missing.push(format!(
                "no source of API keys can be used: {}",
                key_sources(&state).join(", ")
            ));
        }
        if !upstream_keys.is_empty() && upstream_keys.iter().all(Option::is_none) {
            missing.push(format!("no upstream key can be used: {}", key_files(&state).join(", ")));
        }
        missing
    }

    /// Returns what cannot be used although requests may be sent here, one phrase each: what needs
    /// it is denied with `not_ready`. API keys that are not copied are named as well: the record of
    /// each is looked up when it is used.
    pub fn unusable(&self) -> Vec<String> {
        let state = self.live.load();
        let Snapshot { keys, upstream_keys, .. } = &state.snapshot;
        let mut unusable = Vec::new();
        if keys.iter().any(Option::is_some) {
            let issuers = dead_issuers(&state).into_iter();
            unusable
                .extend(issuers.map(|issuer| format!("the issuer {issuer} has no usable keys")));
        }
        if !keys.is_empty() || state.snapshot.api_keys.iter().any(Option::is_some) {
            let sources = key_sources(&state).into_iter();
            unusable
                .extend(sources.map(|source| format!("the API keys in {source} cannot be used")));
        }
        unusable.extend(uncopied_keys(&state));
        let Snapshot { policy, reservation_keys, nonce_keys, .. } = &state.snapshot;
        if policy.metering.is_some() && reservation_keys.is_none() {
            unusable.push("no secret of `metering.secrets` can be used".to_owned());
        }
        let has_nonces = policy.dpop.as_ref().is_some_and(|section| section.nonce.is_some());
        if has_nonces && nonce_keys.is_none() {
            unusable.push("no secret of `dpop.nonce.secrets` can be used".to_owned());
        }
        if upstream_keys.iter().any(Option::is_some) {
            let files = key_files(&state).into_iter();
            unusable.extend(files.map(|file| format!("the upstream key in {file} cannot be used")));
        }
        unusable
    }
}

/// Returns the number of API keys in Redis beyond the copy, as a phrase, if there are some.
fn uncopied_keys(state: &State) -> Option<String> {
    let keys = state.snapshot.policy.api_keys.as_ref()?.redis?;
    let status = state.api_keys.redis.as_ref()?.status();
    let beyond = status.uncopied + status.cached;
    (beyond > 0).then(|| {
        format!(
            "{beyond} API keys in Redis are not copied (`api_keys.replicate.max` is {}): each is looked up when it is used",
            keys.max
        )
    })
}

/// Returns the issuers without keys.
fn dead_issuers(state: &State) -> Vec<String> {
    let issuers = state.sources.iter().zip(&state.snapshot.keys);
    let dead = issuers.filter(|(_, keys)| keys.is_none());
    dead.map(|(source, _)| format!("`{}`", source.status().issuer)).collect()
}

/// Returns the sources of API keys without a table.
fn key_sources(state: &State) -> Vec<String> {
    let Some(keys) = &state.snapshot.policy.api_keys else { return Vec::new() };
    let file = keys.file.iter().map(|file| format!("`{}`", file.display()));
    let names = file.chain(keys.redis.map(|_| "Redis".to_owned()));
    let tables = names.zip(&state.snapshot.api_keys);
    tables.filter(|(_, table)| table.is_none()).map(|(name, _)| name).collect()
}

/// Returns the files of upstream keys that cannot be used.
fn key_files(state: &State) -> Vec<String> {
    let Snapshot { policy, upstream_keys, .. } = &state.snapshot;
    let sources = policy.upstream_keys.iter().zip(upstream_keys);
    let files = sources.filter(|(_, key)| key.is_none()).filter_map(|(source, _)| match source {
        SecretSource::File(file) => Some(format!("`{file}`")),
        SecretSource::Inline(_) => None,
    });
    files.collect()
}
