//! Readiness: policy loaded, every issuer tried once, at least one issuer with keys (or none configured), not draining.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::engine::live::Live;

/// Answers `/readyz` and gRPC health.
#[derive(Debug)]
pub struct Readiness {
    live: Arc<Live>,
    draining: AtomicBool,
}

impl Readiness {
    /// Readiness of what `live` holds.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, draining: AtomicBool::new(false) }
    }

    /// From now on: not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What is missing; empty when ready. One dead issuer does not stop the pod; all of them do.
    pub fn missing(&self) -> Vec<String> {
        if self.draining.load(Ordering::Relaxed) {
            return vec!["shutting down".into()];
        }
        let state = self.live.load();
        let untried = state.sources.iter().filter(|source| !source.status().tried);
        let mut missing: Vec<String> = untried
            .map(|source| {
                format!("the keys of `{}` have not been asked for yet", source.status().issuer)
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
            missing.push(format!("no issuer has keys that may be used: {}", issuers.join(", ")));
        }
        missing
    }
}
