//! The secrets that authenticate reservations (`metering.secrets`), with their files.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    limit::{metering::MeteringConfig, reservation::ReservationKeys},
    policy::Policy,
    secret::{Secret, SecretSource},
};

use super::secret_list::{SecretList, SecretWords};
use crate::secrets::{SecretError, SecretStatus};

const WORDS: SecretWords = SecretWords {
    name: "metering secret",
    without: "without another one requests that are settled are denied",
};

/// Secrets of reservations that are read again from their files.
#[derive(Debug)]
pub(super) struct ReservationSecrets(SecretList);

impl ReservationSecrets {
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
    pub(super) fn keys(&self) -> Option<Arc<ReservationKeys>> {
        ReservationKeys::new(self.0.current()).ok().map(Arc::new)
    }

    /// The states of the secrets that have files.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.0.status()
    }
}

fn sources(policy: &Policy) -> &[SecretSource] {
    policy
        .metering
        .as_ref()
        .map(|MeteringConfig { secrets, .. }| secrets.as_slice())
        .unwrap_or_default()
}

fn check(secret: &Secret) -> Result<(), SecretError> {
    ReservationKeys::check(secret).map_err(|error| SecretError::Unusable(Box::new(error)))
}
