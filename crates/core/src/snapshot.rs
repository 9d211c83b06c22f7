//! The policy and the keys that one check uses. They are swapped together, and loaded once per
//! check.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    credential::{
        api_key::{ApiKeys, KeyTable},
        certificate::Authorities,
        dpop::NonceKeys,
        introspection::TokenDigest,
        jwt::key_set::KeySet,
    },
    limit::reservation::ReservationKeys,
    policy::Policy,
    secret::Secret,
};

/// A policy with its keys.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The policy itself.
    pub policy: Arc<Policy>,
    /// The keys of each issuer, by its index in the policy; `None` while there are none that may be
    /// used.
    pub keys: Vec<Option<Arc<KeySet>>>,
    /// For each of the policy's upstream keys: the value of `Authorization`; `None` while there is
    /// none that may be used.
    pub upstream_keys: Vec<Option<Secret>>,
    /// The table of each source of API keys; `None` while a source has none that may be used. A
    /// key that no table knows is denied with `not_ready` then, and with `invalid_api_key`
    /// otherwise. The file comes first.
    pub api_keys: Vec<Option<Arc<KeyTable>>>,
    /// The authorities of client certificates; `None` without them in the policy, and while there
    /// are none that may be used.
    pub authorities: Option<Arc<Authorities>>,
    /// The secrets that authenticate reservations; `None` without the section `metering`, and while
    /// there is none that may be used.
    pub reservation_keys: Option<Arc<ReservationKeys>>,
    /// The secrets of the nonces of DPoP; `None` where the policy requires none, and while there is
    /// none that may be used.
    pub nonce_keys: Option<Arc<NonceKeys>>,
    /// What issuers are known to state about opaque tokens, as their endpoints answer: of case files.
    /// A process that calls endpoints has a cache of its own.
    pub statements: Arc<BTreeMap<TokenDigest, String>>,
}

impl Snapshot {
    /// A snapshot before any key is loaded.
    pub fn without_keys(policy: Arc<Policy>) -> Self {
        let keys = vec![None; policy.issuers.list().len()];
        let sources = policy.api_keys.as_ref().map_or(0, ApiKeys::sources);
        let api_keys = vec![None; sources];
        Self {
            policy,
            keys,
            upstream_keys: Vec::new(),
            api_keys,
            authorities: None,
            reservation_keys: None,
            nonce_keys: None,
            statements: Arc::default(),
        }
    }

    /// The value of `Authorization` of an upstream key.
    pub(crate) fn upstream_key(&self, index: usize) -> Option<&Secret> {
        self.upstream_keys.get(index)?.as_ref()
    }

    /// The table of a source of API keys.
    pub(crate) fn api_key_table(&self, source: usize) -> Option<&Arc<KeyTable>> {
        self.api_keys.get(source)?.as_ref()
    }

    /// The keys of an issuer.
    pub(crate) fn key_set(&self, issuer: usize) -> Option<&Arc<KeySet>> {
        self.keys.get(issuer)?.as_ref()
    }
}
