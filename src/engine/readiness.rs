//! Readiness: every issuer and the API keys in Redis were tried once since the start, one issuer at least has keys (or none is
//! configured), one upstream key at least may be used (or none is configured), and the engine is
//! not shutting down.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tollgate_core::{secret::SecretSource, snapshot::Snapshot};

use crate::engine::live::Live;

/// Whether requests may be sent here, for `/readyz` and gRPC health.
#[derive(Debug)]
pub struct Readiness {
    live: Arc<Live>,
    draining: AtomicBool,
    /// Whether every issuer was tried once. An issuer that a reload adds does not take this back:
    /// all replicas reload at the same time.
    started: AtomicBool,
}

impl Readiness {
    /// Reports the readiness of the state in `live`.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, draining: AtomicBool::new(false), started: AtomicBool::new(false) }
    }

    /// Makes the engine not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns what is missing, one phrase each; empty when ready. A pod with one dead issuer is
    /// ready; a pod without any keys is not. The same holds for upstream keys.
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
            if !untried.is_empty() {
                return untried;
            }
            self.started.store(true, Ordering::Relaxed);
        }
        let mut missing = Vec::new();
        let Snapshot { keys, upstream_keys, policy, api_keys } = &state.snapshot;
        if !state.sources.is_empty() && keys.iter().all(Option::is_none) {
            let issuers: Vec<String> = state
                .sources
                .iter()
                .map(|source| format!("`{}`", source.status().issuer))
                .collect();
            missing.push(format!("no issuer has usable keys: {}", issuers.join(", ")));
        }
        if !api_keys.is_empty() && api_keys.iter().all(Option::is_none) && keys.is_empty() {
            missing.push("no source of API keys can be used".to_owned());
        }
        if !upstream_keys.is_empty() && upstream_keys.iter().all(Option::is_none) {
            let files = policy.upstream_keys.iter().filter_map(|source| match source {
                SecretSource::File(file) => Some(format!("`{file}`")),
                SecretSource::Inline(_) => None,
            });
            let files: Vec<String> = files.collect();
            missing.push(format!("no upstream key can be used: {}", files.join(", ")));
        }
        missing
    }
}
