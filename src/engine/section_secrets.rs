//! The secrets of one section of the policy, and the keys that are made of them: those of
//! reservations (`metering.secrets`) and those of nonces (`dpop.nonce.secrets`).

use std::{fmt, sync::Arc, time::Duration};

use tollgate_core::{
    credential::dpop::NonceKeys,
    limit::reservation::ReservationKeys,
    policy::Policy,
    secret::{Secret, SecretSource},
};

use super::secret_list::{SecretList, SecretWords};
use crate::secrets::{SecretError, SecretStatus};

/// A section with secrets, of which keys of the type `K` are made.
pub(super) struct SecretSection<K> {
    sources: fn(&Policy) -> &[SecretSource],
    check: fn(&Secret) -> Result<(), SecretError>,
    keys: fn(Vec<Secret>) -> Option<K>,
    words: SecretWords,
}

/// The secrets that authenticate reservations.
pub(super) const RESERVATIONS: SecretSection<ReservationKeys> = SecretSection {
    sources: |policy| policy.metering.as_ref().map_or(&[], |metering| &metering.secrets),
    check: |secret| ReservationKeys::check(secret).map_err(unusable),
    keys: |secrets| ReservationKeys::new(secrets).ok(),
    words: SecretWords {
        name: "metering secret",
        without: "without another one requests that are settled are denied",
    },
};

/// The secrets that authenticate the nonces of DPoP.
pub(super) const NONCES: SecretSection<NonceKeys> = SecretSection {
    sources: |policy| {
        let nonce = policy.dpop.as_ref().and_then(|section| section.nonce.as_ref());
        nonce.map_or(&[], |nonce| &nonce.secrets)
    },
    check: |secret| NonceKeys::check(secret).map_err(unusable),
    keys: |secrets| NonceKeys::new(secrets).ok(),
    words: SecretWords {
        name: "DPoP nonce secret",
        without: "without another one tokens that are bound to a key are denied with 503 not_ready",
    },
};

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> SecretError {
    SecretError::Unusable(Box::new(error))
}

/// Secrets of one section that are read again from their files.
pub(super) struct SectionSecrets<K> {
    section: SecretSection<K>,
    list: SecretList,
}

impl<K> SectionSecrets<K> {
    /// Reads the secrets of a policy for the start, with one look. It blocks.
    ///
    /// # Errors
    /// A secret cannot be read, or is too short.
    pub(super) fn start(
        section: SecretSection<K>,
        policy: &Policy,
        max_stale: Duration,
    ) -> Result<Self, SecretError> {
        let sources = (section.sources)(policy);
        let list = SecretList::start(sources, max_stale, section.check, section.words)?;
        Ok(Self { section, list })
    }

    /// Watches the secrets of another policy. A new secret is read by the next
    /// [`look`](Self::look).
    pub(super) fn follow(&mut self, policy: &Policy) {
        self.list.follow((self.section.sources)(policy));
    }

    /// Reads all secrets again, and logs what changed. Returns whether others are in force.
    pub(super) async fn look(&mut self) -> bool {
        self.list.look().await
    }

    /// The keys in force; `None` where there are none.
    pub(super) fn keys(&self) -> Option<Arc<K>> {
        (self.section.keys)(self.list.current()).map(Arc::new)
    }

    /// The states of the secrets that have files.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.list.status()
    }
}

impl<K> fmt::Debug for SectionSecrets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SectionSecrets").field(&self.list).finish()
    }
}
