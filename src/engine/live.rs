//! The policy and keys in force: one pointer, swapped whole, loaded once per check.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tollgate_core::{policy::Policy, secret::Secret, snapshot::Snapshot};

use crate::credential::{
    jwks::Source,
    token_cache::{Lookups, TokenCache, TokenCacheConfig},
};

/// What a check loads.
#[derive(Debug)]
pub struct State {
    /// Policy and keys.
    pub snapshot: Snapshot,
    /// The key source of each issuer, by its index in the policy.
    pub sources: Vec<Arc<Source>>,
    /// The tokens that were verified under this policy.
    pub tokens: Arc<TokenCache>,
}

/// Holds the state in force.
#[derive(Debug)]
pub struct Live {
    state: ArcSwap<State>,
    /// Writers take turns; readers never wait.
    writing: Mutex<()>,
    token_cache: TokenCacheConfig,
    lookups: Arc<Lookups>,
}

impl Live {
    /// Starts with a policy, its key sources and its upstream keys.
    pub fn new(
        policy: Arc<Policy>,
        sources: Vec<Arc<Source>>,
        upstream_keys: Vec<Secret>,
        token_cache: TokenCacheConfig,
    ) -> Self {
        let snapshot = snapshot(policy, &sources, upstream_keys);
        let lookups = Arc::new(Lookups::default());
        let tokens = Arc::new(TokenCache::new(&token_cache, Arc::clone(&lookups)));
        let state = ArcSwap::from_pointee(State { snapshot, sources, tokens });
        Self { state, writing: Mutex::new(()), token_cache, lookups }
    }

    /// A state that no key source changes, and that remembers no tokens.
    pub fn fixed(snapshot: Snapshot) -> Self {
        let state =
            State { snapshot, sources: Vec::new(), tokens: Arc::new(TokenCache::disabled()) };
        Self {
            state: ArcSwap::from_pointee(state),
            writing: Mutex::new(()),
            token_cache: TokenCacheConfig::default(),
            lookups: Arc::default(),
        }
    }

    /// How often tokens were looked up.
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// The state in force.
    pub fn load(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another policy in force. Tokens are verified anew under it.
    pub fn replace(
        &self,
        policy: Arc<Policy>,
        sources: Vec<Arc<Source>>,
        upstream_keys: Vec<Secret>,
    ) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = Arc::new(TokenCache::new(&self.token_cache, Arc::clone(&self.lookups)));
        self.state.store(Arc::new(State {
            snapshot: snapshot(policy, &sources, upstream_keys),
            sources,
            tokens,
        }));
    }

    /// Takes over what the key sources hold now.
    pub fn refresh_keys(&self) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let Snapshot { policy, upstream_keys, .. } = state.snapshot.clone();
        let (sources, tokens) = (state.sources.clone(), Arc::clone(&state.tokens));
        self.state.store(Arc::new(State {
            snapshot: snapshot(policy, &sources, upstream_keys),
            sources,
            tokens,
        }));
    }

    /// Takes over upstream keys that were read again.
    pub fn replace_upstream_keys(&self, upstream_keys: Vec<Secret>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let snapshot = Snapshot { upstream_keys, ..state.snapshot.clone() };
        let (sources, tokens) = (state.sources.clone(), Arc::clone(&state.tokens));
        self.state.store(Arc::new(State { snapshot, sources, tokens }));
    }
}

fn snapshot(policy: Arc<Policy>, sources: &[Arc<Source>], upstream_keys: Vec<Secret>) -> Snapshot {
    Snapshot {
        policy,
        keys: sources.iter().map(|source| source.current()).collect(),
        upstream_keys,
    }
}
