//! The policy and keys in force: one pointer, swapped whole, loaded once per check.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tollgate_core::{policy::Policy, secret::Secret, snapshot::Snapshot};

use crate::jwks::Source;

/// What a check loads.
#[derive(Debug)]
pub struct State {
    /// Policy and keys.
    pub snapshot: Snapshot,
    /// The key source of each issuer, by its index in the policy.
    pub sources: Vec<Arc<Source>>,
}

/// Holds the state in force.
#[derive(Debug)]
pub struct Live {
    state: ArcSwap<State>,
    /// Writers take turns; readers never wait.
    writing: Mutex<()>,
}

impl Live {
    /// Starts with a policy, its key sources and its upstream keys.
    pub fn new(policy: Arc<Policy>, sources: Vec<Arc<Source>>, upstream_keys: Vec<Secret>) -> Self {
        let snapshot = snapshot(policy, &sources, upstream_keys);
        Self { state: ArcSwap::from_pointee(State { snapshot, sources }), writing: Mutex::new(()) }
    }

    /// A state that no key source changes.
    pub fn fixed(snapshot: Snapshot) -> Self {
        Self { state: ArcSwap::from_pointee(State { snapshot, sources: Vec::new() }), writing: Mutex::new(()) }
    }

    /// The state in force.
    pub fn load(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another policy in force.
    pub fn replace(&self, policy: Arc<Policy>, sources: Vec<Arc<Source>>, upstream_keys: Vec<Secret>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(Arc::new(State { snapshot: snapshot(policy, &sources, upstream_keys), sources }));
    }

    /// Takes over what the key sources hold now.
    pub fn refresh_keys(&self) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let Snapshot { policy, upstream_keys, .. } = state.snapshot.clone();
        let sources = state.sources.clone();
        self.state.store(Arc::new(State { snapshot: snapshot(policy, &sources, upstream_keys), sources }));
    }

    /// Takes over upstream keys that were read again.
    pub fn replace_upstream_keys(&self, upstream_keys: Vec<Secret>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let snapshot = Snapshot { upstream_keys, ..state.snapshot.clone() };
        self.state.store(Arc::new(State { snapshot, sources: state.sources.clone() }));
    }
}

fn snapshot(policy: Arc<Policy>, sources: &[Arc<Source>], upstream_keys: Vec<Secret>) -> Snapshot {
    Snapshot { policy, keys: sources.iter().map(|source| source.current()).collect(), upstream_keys }
}
