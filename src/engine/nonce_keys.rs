//! The secrets that authenticate the nonces of DPoP (`dpop.nonce.secrets`), with their files.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    credential::dpop::NonceKeys,
    policy::Policy,
    secret::{Secret, SecretSource},
};

use super::secret_list::{SecretList, SecretWords};
use crate::secrets::{SecretError, SecretStatus};

const WORDS: SecretWords = SecretWords {
    name: "DPoP nonce secret",
    without: "without another one tokens that are bound to a key are denied with 503 not_ready",
};

/// Secrets of nonces that are read again from their files.
#[derive(Debug)]
pub(super) struct NonceSecrets(SecretList);

impl NonceSecrets {
    /// Reads the secrets of a policy for the start, with one look. It blocks.
    ///
    /// # Errors
    /// A secret cannot be read, or is too short.
    pub(super) fn start(policy: &Policy, max_stale: Duration) -> Result<Self, SecretError> {
        SecretList::start(sources(policy), max_stale, check, WORDS).map(Self)
    }

    /// Watches the secrets of another policy. A new secret is read by the next
    /// [`look`](Self::look).
    pub(super) fn follow(&mut self, policy: &Policy) {
        self.0.follow(sources(policy));
    }

    /// Reads all secrets again, and logs what changed. Returns whether others are in force.
    pub(super) async fn look(&mut self) -> bool {
        self.0.look().await
    }

    /// The keys in force; `None` where there are none.
    pub(super) fn keys(&self) -> Option<Arc<NonceKeys>> {
        NonceKeys::new(self.0.current()).ok().map(Arc::new)
    }

    /// The states of the secrets that have files.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.0.status()
    }
}

fn sources(policy: &Policy) -> &[SecretSource] {
    let nonce = policy.dpop.as_ref().and_then(|section| section.nonce.as_ref());
    nonce.map(|nonce| nonce.secrets.as_slice()).unwrap_or_default()
}

fn check(secret: &Secret) -> Result<(), SecretError> {
    NonceKeys::check(secret).map_err(|error| SecretError::Unusable(Box::new(error)))
}
