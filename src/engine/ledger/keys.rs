//! The keys of the ledger (`ledger.keys`), with their files.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    ledger::{calendar::Calendar, config::LedgerConfig, keys::LedgerKeys},
    policy::Policy,
    secret::{Secret, SecretSource},
};

use super::{LedgerInForce, LedgerSlot};
use crate::{
    engine::secret_list::{SecretList, SecretWords},
    secrets::{SecretError, SecretStatus},
};

const WORDS: SecretWords = SecretWords {
    name: "ledger key",
    without: "without the first one records stay pending in the store",
};

/// Keys of the ledger that are read again from their files, and the ledger in force.
#[derive(Debug)]
pub(in crate::engine) struct LedgerSecrets {
    secrets: SecretList,
    config: Option<LedgerConfig>,
    slot: LedgerSlot,
}

impl LedgerSecrets {
    /// Reads the keys of a policy for the start, with one look. It blocks.
    ///
    /// # Errors
    /// A key cannot be read, or is too short.
    pub(in crate::engine) fn start(
        policy: &Policy,
        max_stale: Duration,
    ) -> Result<Self, SecretError> {
        let config = policy.ledger.clone();
        let secrets = SecretList::start(&sources(config.as_ref()), max_stale, check, WORDS)?;
        let ledger = Self { secrets, config, slot: LedgerSlot::default() };
        ledger.publish();
        Ok(ledger)
    }

    /// The ledger in force.
    pub(in crate::engine) fn slot(&self) -> LedgerSlot {
        Arc::clone(&self.slot)
    }

    /// Watches the keys of another policy. A new key is read by the next [`look`](Self::look).
    pub(in crate::engine) fn follow(&mut self, policy: &Policy) {
        self.config.clone_from(&policy.ledger);
        self.secrets.follow(&sources(self.config.as_ref()));
        self.publish();
    }

    /// Reads all keys again, logs what changed, and puts those in force that have changed.
    pub(in crate::engine) async fn look(&mut self) {
        if self.secrets.look().await {
            self.publish();
        }
    }

    /// The states of the keys that have files.
    pub(in crate::engine) fn status(&self) -> Vec<SecretStatus> {
        self.secrets.status()
    }

    fn publish(&self) {
        let in_force = self.config.as_ref().map(|config| {
            let secrets = config.keys.iter().zip(self.secrets.in_force());
            // Without the first key nothing is signed: the next one is not the first.
            let first = self.secrets.in_force().next().flatten();
            let keys = secrets.filter_map(|(key, secret)| Some((key.id.clone(), secret?.clone())));
            let keys = first.and_then(|_| LedgerKeys::new(keys.collect()).ok());
            let calendar = Calendar::of(&config.time_zone);
            Arc::new(LedgerInForce { config: config.clone(), keys, calendar })
        });
        self.slot.store(in_force);
    }
}

fn sources(config: Option<&LedgerConfig>) -> Vec<SecretSource> {
    config.into_iter().flat_map(|config| &config.keys).map(|key| key.secret.clone()).collect()
}

fn check(secret: &Secret) -> Result<(), SecretError> {
    LedgerKeys::check(secret).map_err(|error| SecretError::Unusable(Box::new(error)))
}
