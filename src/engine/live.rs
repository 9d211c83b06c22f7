//! The policy and the keys in force, behind one pointer that is swapped whole and loaded once per
//! check.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tollgate_core::{
    credential::api_key::KeyTable, policy::Policy, secret::Secret, snapshot::Snapshot,
};

use super::refusals::Refusals;
use crate::credential::{
    jwks::Source,
    token_cache::{Lookups, TokenCache, TokenCacheConfig},
};

/// The state that a check loads.
#[derive(Debug)]
pub struct State {
    /// The policy, the keys and the upstream keys.
    pub snapshot: Snapshot,
    /// The key source of each issuer, by its index in the policy.
    pub sources: Vec<Arc<Source>>,
    /// The cache of tokens that were verified under this policy.
    pub tokens: Arc<TokenCache>,
    /// The refusals of this policy's limits.
    pub(super) refusals: Arc<Refusals>,
}

/// Contains the state in force.
#[derive(Debug)]
pub struct Live {
    state: ArcSwap<State>,
    /// Serializes writers; readers never wait.
    writing: Mutex<()>,
    token_cache: TokenCacheConfig,
    lookups: Arc<Lookups>,
}

impl Live {
    /// Starts with a policy, its key sources, its upstream keys and its tables of API keys.
    pub fn new(
        policy: Arc<Policy>,
        sources: Vec<Arc<Source>>,
        upstream_keys: Vec<Option<Secret>>,
        api_keys: Vec<Option<Arc<KeyTable>>>,
        token_cache: TokenCacheConfig,
    ) -> Self {
        let snapshot = snapshot(policy, &sources, upstream_keys, api_keys);
        let lookups = Arc::new(Lookups::default());
        let tokens = Arc::new(TokenCache::new(&token_cache, Arc::clone(&lookups)));
        let refusals = Arc::new(Refusals::new());
        let state = ArcSwap::from_pointee(State { snapshot, sources, tokens, refusals });
        Self { state, writing: Mutex::new(()), token_cache, lookups }
    }

    /// Creates a state without key sources and without a token cache, for tests.
    pub fn fixed(snapshot: Snapshot) -> Self {
        let state = State {
            snapshot,
            sources: Vec::new(),
            tokens: Arc::new(TokenCache::disabled()),
            refusals: Arc::new(Refusals::new()),
        };
        Self {
            state: ArcSwap::from_pointee(state),
            writing: Mutex::new(()),
            token_cache: TokenCacheConfig::default(),
            lookups: Arc::default(),
        }
    }

    /// The number of lookups in the token cache.
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// Returns the state in force.
    pub fn load(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another policy in force. Tokens are verified again under it, and limits that refused a
    /// request count again.
    pub fn replace(
        &self,
        policy: Arc<Policy>,
        sources: Vec<Arc<Source>>,
        upstream_keys: Vec<Option<Secret>>,
        api_keys: Vec<Option<Arc<KeyTable>>>,
    ) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = Arc::new(TokenCache::new(&self.token_cache, Arc::clone(&self.lookups)));
        self.state.store(Arc::new(State {
            snapshot: snapshot(policy, &sources, upstream_keys, api_keys),
            sources,
            tokens,
            refusals: Arc::new(Refusals::new()),
        }));
    }

    /// Puts the current keys of the key sources in force.
    pub fn refresh_keys(&self) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let Snapshot { policy, upstream_keys, api_keys, .. } = state.snapshot.clone();
        let (sources, tokens) = (state.sources.clone(), Arc::clone(&state.tokens));
        self.state.store(Arc::new(State {
            snapshot: snapshot(policy, &sources, upstream_keys, api_keys),
            sources,
            tokens,
            refusals: Arc::clone(&state.refusals),
        }));
    }

    /// Puts the table of one source of API keys in force; `None` where it has none that may be used.
    /// Cached results of records that did not change stay valid. A source that the policy in force
    /// does not have is left out.
    pub fn replace_api_keys(&self, source: usize, table: Option<Arc<KeyTable>>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let mut snapshot = state.snapshot.clone();
        if let Some(place) = snapshot.api_keys.get_mut(source) {
            *place = table;
        }
        let (sources, tokens) = (state.sources.clone(), Arc::clone(&state.tokens));
        let refusals = Arc::clone(&state.refusals);
        self.state.store(Arc::new(State { snapshot, sources, tokens, refusals }));
    }

    /// Puts upstream keys in force.
    pub fn replace_upstream_keys(&self, upstream_keys: Vec<Option<Secret>>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let snapshot = Snapshot { upstream_keys, ..state.snapshot.clone() };
        let (sources, tokens) = (state.sources.clone(), Arc::clone(&state.tokens));
        let refusals = Arc::clone(&state.refusals);
        self.state.store(Arc::new(State { snapshot, sources, tokens, refusals }));
    }
}

fn snapshot(
    policy: Arc<Policy>,
    sources: &[Arc<Source>],
    upstream_keys: Vec<Option<Secret>>,
    api_keys: Vec<Option<Arc<KeyTable>>>,
) -> Snapshot {
    Snapshot {
        policy,
        keys: sources.iter().map(|source| source.current()).collect(),
        upstream_keys,
        api_keys,
    }
}
