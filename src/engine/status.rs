//! The state of the engine's parts, as `/metrics` shows it.

use std::sync::{Arc, PoisonError, Weak};

use tollgate_core::{
    credential::api_key::{KeyTable, PolicyNames},
    policy::Policy,
    snapshot::Snapshot,
};

use crate::{
    engine::{Engine, live::State},
    observe::{
        self,
        exposition::{ApiKeyStatus, JwksStatus, Status, TokenStatus},
        offenders::{FailingNetworks, Offenders},
    },
};

impl Engine {
    /// The state of the key sources, the store and the token cache at this moment. A shell that
    /// has listeners adds what their messages hold.
    pub fn status(&self) -> Status {
        let state = self.live.load();
        let jwks = state.sources.iter().map(|source| {
            let status = source.status();
            JwksStatus {
                issuer: status.issuer.to_string(),
                keys: status.keys as u64,
                age: status.age,
                ok: status.fetches_ok,
                failed: status.fetches_failed,
            }
        });
        let (entries, bytes) = state.tokens.usage();
        Status {
            ready: self.readiness.missing().is_empty(),
            jwks: jwks.collect(),
            store: Some(self.store.store.status()),
            local: self.store.local.as_ref().map(|local| local.status()),
            in_flight: None,
            certificates: Vec::new(),
            refusals: state.refusals.count(observe::now()),
            api_keys: self.api_key_status(&state),
            network_bans: state.network_bans.as_ref().map(|bans| bans.status()),
            most_denials: self.live.denied().most(),
            tokens: TokenStatus { lookups: self.live.lookups().by_result(), entries, bytes },
        }
    }

    /// Returns a function that returns those whose requests are refused most, a number of each kind at
    /// most; of some tenants where tenants are given, of which networks are none.
    pub fn offenders(
        &self,
    ) -> impl Fn(usize, Option<&[String]>) -> Offenders + Send + Sync + 'static {
        let (live, store) = (Arc::clone(&self.live), Arc::clone(&self.store.store));
        move |most, tenants| {
            let state = live.load();
            let networks = state.network_bans.as_ref().filter(|_| tenants.is_none());
            let networks = networks.map(|bans| {
                let mut list = bans.offenders(most);
                for network in &mut list {
                    network.ban = store.network_ban(network.network.first_address());
                }
                let limit = bans.terms().failures.count();
                FailingNetworks { window: bans.window(), limit, list }
            });
            Offenders { networks, subjects: live.denied().offenders(most, tenants) }
        }
    }

    /// The state of the copy of the API keys in Redis. The records that the policy does not fit are
    /// counted again only where the table or the policy is another one.
    fn api_key_status(&self, state: &State) -> Option<ApiKeyStatus> {
        let replica = state.api_keys.redis.as_ref()?.status();
        let Snapshot { policy, api_keys, .. } = &state.snapshot;
        let table = api_keys.get(policy.api_keys.as_ref()?.redis_source()?)?.as_ref();
        let misfits = table.map_or(0, |table| {
            let mut counted = self.misfits.lock().unwrap_or_else(PoisonError::into_inner);
            counted.of(policy, table)
        });
        Some(ApiKeyStatus { replica, misfits })
    }
}

/// The number of records that name a limit or a tier that the policy does not have.
#[derive(Debug, Default)]
pub(super) struct Misfits {
    counted: Option<(Weak<Policy>, Weak<KeyTable>, usize)>,
}

impl Misfits {
    fn of(&mut self, policy: &Arc<Policy>, table: &Arc<KeyTable>) -> usize {
        if let Some((of_policy, of_table, count)) = &self.counted
            && std::ptr::eq(of_policy.as_ptr(), Arc::as_ptr(policy))
            && std::ptr::eq(of_table.as_ptr(), Arc::as_ptr(table))
        {
            return *count;
        }
        let names = PolicyNames {
            has_limit: &|name, quota| policy.has_limit(name, quota),
            has_tier: &|tier| policy.has_key_tier(tier),
        };
        let count = table.iter().filter(|record| !names.fit(record)).count();
        self.counted = Some((Arc::downgrade(policy), Arc::downgrade(table), count));
        count
    }
}
