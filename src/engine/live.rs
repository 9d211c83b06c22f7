//! The policy and the keys in force, behind one pointer that is swapped whole and loaded once per
//! check.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tollgate_core::{
    authenticate::{FromBanned, Verified},
    credential::{Credential, api_key::KeyTable, certificate::Authorities, dpop::NonceKeys},
    limit::reservation::ReservationKeys,
    policy::Policy,
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};

use super::{
    denied_subjects::DeniedRequests,
    network_bans::{BanActivity, NetworkBans},
    policy_worker::PolicyWorker,
    refusals::Refusals,
    usage_histories::UsageHistories,
};
use crate::{
    credential::{
        introspection::Introspection,
        jwks::Source,
        token_cache::{Lookups, TokenCache, TokenCacheConfig},
    },
    store::KeyReplica,
};

/// The sources of API keys of a policy.
#[derive(Clone, Debug, Default)]
pub struct ApiKeySources {
    /// The table of the file; `None` while it has none that may be used.
    pub file: Option<Arc<KeyTable>>,
    /// The copy of the keys in Redis; `None` where Redis is no source.
    pub redis: Option<Arc<KeyReplica>>,
}

impl ApiKeySources {
    /// Returns the tables in the order of the policy's sources.
    fn tables(&self, policy: &Policy) -> Vec<Option<Arc<KeyTable>>> {
        let Some(keys) = &policy.api_keys else { return Vec::new() };
        let file = keys.file.iter().map(|_| self.file.clone());
        let redis = keys.redis.iter();
        let redis = redis.map(|_| self.redis.as_ref().and_then(|replica| replica.table()));
        file.chain(redis).collect()
    }
}

/// What a policy's files have beside keys of issuers and API keys.
#[derive(Clone, Debug, Default)]
pub struct FileCredentials {
    /// The value of `Authorization` for each of the policy's upstream keys; `None` while there is
    /// none that may be used.
    pub upstream: Vec<Option<Secret>>,
    /// The authorities of client certificates; `None` while there are none that may be used.
    pub authorities: Option<Arc<Authorities>>,
}

/// The state that a check loads.
#[derive(Clone, Debug)]
pub struct State {
    /// The policy, the keys and the upstream keys.
    pub snapshot: Snapshot,
    /// The key source of each issuer, by its index in the policy.
    pub sources: Vec<Arc<Source>>,
    /// The sources of API keys.
    pub api_keys: ApiKeySources,
    /// The cache of tokens that were verified under this policy.
    pub tokens: Arc<TokenCache>,
    /// What the issuers of opaque tokens state under this policy.
    pub introspection: Arc<Introspection>,
    /// The refusals of this policy's limits.
    pub(super) refusals: Arc<Refusals>,
    /// What requests used before.
    pub(super) histories: Arc<UsageHistories>,
    /// The failed credentials of networks; `None` where none is banned automatically.
    pub(super) network_bans: Option<Arc<NetworkBans>>,
}

impl State {
    /// Verifies a credential, or returns the result that is remembered.
    pub(super) fn verify(&self, credential: Credential<'_>, now: Timestamp) -> Verified {
        match credential {
            Credential::Opaque(token) => self.introspection.verify(&self.snapshot, token, now),
            other => self.tokens.verify(&self.snapshot, other, now),
        }
    }

    /// Verifies a credential from a network that is banned automatically: what is known here, and of
    /// what is new as much as the policy allows. `None` where it is refused unverified.
    pub(super) fn verify_from_banned(
        &self,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        let Some(bans) = &self.network_bans else { return Some(self.verify(credential, now)) };
        let result = FromBanned::of(
            credential,
            |known| self.tokens.known(&self.snapshot, known, now),
            |other| self.verify(other, now),
            || bans.may_verify(address),
        );
        bans.count_check(address, &result);
        result.verified()
    }
}

/// Contains the state in force.
#[derive(Debug)]
pub struct Live {
    state: ArcSwap<State>,
    /// Serializes writers; readers never wait.
    writing: Mutex<()>,
    token_cache: TokenCacheConfig,
    lookups: Arc<Lookups>,
    histories: Arc<UsageHistories>,
    worker: PolicyWorker,
    ban_activity: Arc<BanActivity>,
    denied: DeniedRequests,
}

impl Live {
    /// Starts with a policy, its key sources, what its files have, and its sources of API keys.
    pub fn new(
        policy: Arc<Policy>,
        sources: Vec<Arc<Source>>,
        files: FileCredentials,
        api_keys: ApiKeySources,
        token_cache: TokenCacheConfig,
    ) -> Self {
        let snapshot = snapshot(policy, &sources, files, &api_keys);
        let lookups = Arc::new(Lookups::default());
        let tokens = Arc::new(TokenCache::new(&token_cache, Arc::clone(&lookups)));
        let introspection = Arc::new(Introspection::new(&snapshot.policy));
        let refusals = Arc::new(Refusals::new());
        let histories = Arc::<UsageHistories>::default();
        let ban_activity = Arc::<BanActivity>::default();
        let network_bans = NetworkBans::of(&snapshot.policy, None, &ban_activity);
        let state = State {
            snapshot,
            sources,
            api_keys,
            tokens,
            introspection,
            refusals,
            histories: Arc::clone(&histories),
            network_bans,
        };
        let state = ArcSwap::from_pointee(state);
        let worker = PolicyWorker::default();
        let writing = Mutex::new(());
        let denied = DeniedRequests::default();
        Self { state, writing, token_cache, lookups, histories, worker, ban_activity, denied }
    }

    /// Creates a state without key sources, for tests. It has a token cache only where the policy has
    /// automatic bans, which know the tokens in it.
    pub fn fixed(snapshot: Snapshot) -> Self {
        let histories = Arc::<UsageHistories>::default();
        let ban_activity = Arc::<BanActivity>::default();
        let network_bans = NetworkBans::of(&snapshot.policy, None, &ban_activity);
        let lookups = Arc::<Lookups>::default();
        let tokens = match &network_bans {
            Some(_) => TokenCache::new(&TokenCacheConfig::default(), Arc::clone(&lookups)),
            None => TokenCache::disabled(),
        };
        let state = State {
            snapshot,
            sources: Vec::new(),
            api_keys: ApiKeySources::default(),
            tokens: Arc::new(tokens),
            introspection: Arc::default(),
            refusals: Arc::new(Refusals::new()),
            histories: Arc::clone(&histories),
            network_bans,
        };
        Self {
            state: ArcSwap::from_pointee(state),
            writing: Mutex::new(()),
            token_cache: TokenCacheConfig::default(),
            lookups,
            histories,
            worker: PolicyWorker::default(),
            ban_activity,
            denied: DeniedRequests::default(),
        }
    }

    /// The number of lookups in the token cache.
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// What requests used before. A change of the policy or the keys keeps it.
    pub fn histories(&self) -> &UsageHistories {
        &self.histories
    }

    /// The counts of automatic bans, and the networks that wait to be banned. A change of the policy
    /// keeps them.
    pub(super) fn ban_activity(&self) -> &Arc<BanActivity> {
        &self.ban_activity
    }

    /// The denied requests of holders of valid credentials. A change of the policy keeps them.
    pub(super) fn denied(&self) -> &DeniedRequests {
        &self.denied
    }

    /// Whether the policy in force calls introspection endpoints.
    pub(super) fn introspects(&self) -> bool {
        self.state.load().introspection.has_endpoints()
    }

    /// The thread that compiles policies and frees them.
    pub(super) fn worker(&self) -> &PolicyWorker {
        &self.worker
    }

    /// Returns the state in force.
    pub fn load(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another policy in force. Limits that refused a request count again. Tokens are verified
    /// again where the policy verifies them in another way than the previous one.
    pub fn replace(
        &self,
        policy: Arc<Policy>,
        sources: Vec<Arc<Source>>,
        files: FileCredentials,
        api_keys: ApiKeySources,
    ) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state.load_full();
        let tokens = if policy.verifies_as(&before.snapshot.policy) {
            Arc::clone(&before.tokens)
        } else {
            Arc::new(TokenCache::new(&self.token_cache, Arc::clone(&self.lookups)))
        };
        let Snapshot { reservation_keys, nonce_keys, .. } = before.snapshot.clone();
        let network_bans =
            NetworkBans::of(&policy, before.network_bans.as_ref(), &self.ban_activity);
        let introspection = Arc::new(Introspection::new(&policy));
        let snapshot = snapshot(policy, &sources, files, &api_keys);
        self.state.store(Arc::new(State {
            snapshot: Snapshot { reservation_keys, nonce_keys, ..snapshot },
            sources,
            api_keys,
            tokens,
            introspection,
            refusals: Arc::new(Refusals::new()),
            histories: Arc::clone(&self.histories),
            network_bans,
        }));
        self.retire(before);
    }

    /// Frees the state before the one in force, on the thread of the worker and after the last check
    /// that uses it. What it has in common with the one in force stays.
    fn retire(&self, before: Arc<State>) {
        let now = self.state.load();
        let (policy, tokens) = (Arc::clone(&before.snapshot.policy), Arc::clone(&before.tokens));
        let introspection = Arc::clone(&before.introspection);
        let refusals = Arc::clone(&before.refusals);
        let tables = before.snapshot.api_keys.clone();
        // First, so that the parts are not shared with it any more.
        self.worker.retire(before);
        if !Arc::ptr_eq(&policy, &now.snapshot.policy) {
            self.worker.retire(policy);
        }
        if !Arc::ptr_eq(&tokens, &now.tokens) {
            self.worker.retire(tokens);
        }
        if !Arc::ptr_eq(&introspection, &now.introspection) {
            self.worker.retire(introspection);
        }
        if !Arc::ptr_eq(&refusals, &now.refusals) {
            self.worker.retire(refusals);
        }
        for table in tables.into_iter().flatten() {
            let mut in_force = now.snapshot.api_keys.iter().flatten();
            if !in_force.any(|other| Arc::ptr_eq(other, &table)) {
                self.worker.retire(table);
            }
        }
    }

    /// Puts the current keys of the key sources in force.
    pub fn refresh_keys(&self) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let mut new = State::clone(&state);
        new.snapshot.keys = new.sources.iter().map(|source| source.current()).collect();
        new.snapshot.api_keys = new.api_keys.tables(&new.snapshot.policy);
        self.state.store(Arc::new(new));
    }

    /// Puts the table of the file of API keys in force; `None` where it has none that may be used.
    /// Cached results of records that did not change stay valid.
    pub fn replace_key_file(&self, table: Option<Arc<KeyTable>>) {
        self.replace_api_keys(|sources| sources.file = table);
    }

    /// Puts the current table of the copy of the keys in Redis in force, likewise.
    pub fn refresh_redis_keys(&self) {
        self.replace_api_keys(|_| {});
    }

    fn replace_api_keys(&self, change: impl FnOnce(&mut ApiKeySources)) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state.load_full();
        let state = &before;
        let mut api_keys = state.api_keys.clone();
        change(&mut api_keys);
        // INVARIANT: the table of a copy is read inside the turn, so that no older one follows.
        let tables = api_keys.tables(&state.snapshot.policy);
        if are_same(&tables, &state.snapshot.api_keys) {
            return;
        }
        let mut new = State::clone(state);
        (new.snapshot.api_keys, new.api_keys) = (tables, api_keys);
        self.state.store(Arc::new(new));
        self.retire(before);
    }

    /// Puts upstream keys in force.
    pub fn replace_upstream_keys(&self, upstream_keys: Vec<Option<Secret>>) {
        self.replace_secrets(|snapshot| snapshot.upstream_keys = upstream_keys);
    }

    /// Puts the secrets of reservations in force.
    pub fn replace_reservation_keys(&self, keys: Option<Arc<ReservationKeys>>) {
        self.replace_secrets(|snapshot| snapshot.reservation_keys = keys);
    }

    /// Puts the secrets of nonces in force.
    pub fn replace_nonce_keys(&self, keys: Option<Arc<NonceKeys>>) {
        self.replace_secrets(|snapshot| snapshot.nonce_keys = keys);
    }

    /// Puts the authorities of client certificates in force.
    pub fn replace_authorities(&self, authorities: Option<Arc<Authorities>>) {
        self.replace_secrets(|snapshot| snapshot.authorities = authorities);
    }

    fn replace_secrets(&self, change: impl FnOnce(&mut Snapshot)) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        let mut new = State::clone(&state);
        change(&mut new.snapshot);
        self.state.store(Arc::new(new));
    }
}

/// Whether two lists have the same tables: checks that waited for one lookup put its table in force
/// once.
fn are_same(tables: &[Option<Arc<KeyTable>>], others: &[Option<Arc<KeyTable>>]) -> bool {
    let pointers = |tables: &[Option<Arc<KeyTable>>]| -> Vec<Option<*const KeyTable>> {
        tables.iter().map(|table| table.as_ref().map(Arc::as_ptr)).collect()
    };
    pointers(tables) == pointers(others)
}

fn snapshot(
    policy: Arc<Policy>,
    sources: &[Arc<Source>],
    files: FileCredentials,
    api_keys: &ApiKeySources,
) -> Snapshot {
    let FileCredentials { upstream: upstream_keys, authorities } = files;
    let api_keys = api_keys.tables(&policy);
    let keys = sources.iter().map(|source| source.current()).collect();
    Snapshot { keys, upstream_keys, api_keys, authorities, ..Snapshot::without_keys(policy) }
}
