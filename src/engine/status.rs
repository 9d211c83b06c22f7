//! The state of the engine's parts, as `/metrics` shows it.

use crate::{
    engine::Engine,
    observe::{
        self,
        exposition::{JwksStatus, Status, TokenStatus},
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
            tokens: TokenStatus { lookups: self.live.lookups().by_result(), entries, bytes },
        }
    }
}
