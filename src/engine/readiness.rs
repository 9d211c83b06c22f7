//! Readiness: every issuer was tried once, one issuer at least has keys (or none is configured),
//! and the engine is not shutting down.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::engine::live::Live;

/// Whether requests may be sent here, for `/readyz` and gRPC health.
#[derive(Debug)]
pub struct Readiness {
    live: Arc<Live>,
    draining: AtomicBool,
}

impl Readiness {
    /// Reports the readiness of the state in `live`.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, draining: AtomicBool::new(false) }
    }

    /// Makes the engine not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns what is missing, one phrase each; empty when ready. A pod with one dead issuer is
    /// ready; a pod without any keys is not.
    pub fn missing(&self) -> Vec<String> {
        if self.draining.load(Ordering::Relaxed) {
            return vec!["shutting down".into()];
        }
        let state = self.live.load();
        let untried = state.sources.iter().filter(|source| !source.status().tried);
        let mut missing: Vec<String> = untried
            .map(|source| {
                format!("the first fetch of the keys of `{}` has not ended", source.status().issuer)
            })
            .collect();
        if missing.is_empty()
            && !state.sources.is_empty()
            && state.snapshot.keys.iter().all(Option::is_none)
        {
            let issuers: Vec<String> = state
                .sources
                .iter()
                .map(|source| format!("`{}`", source.status().issuer))
                .collect();
            missing.push(format!("no issuer has usable keys: {}", issuers.join(", ")));
        }
        missing
    }
}
