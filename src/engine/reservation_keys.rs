//! The secrets that authenticate reservations (`metering.secrets`), with their files.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    limit::{metering::MeteringConfig, reservation::ReservationKeys},
    policy::Policy,
    secret::{Secret, SecretSource},
};

use crate::secrets::{Look, SecretError, SecretStatus, WatchedSecret};

/// Secrets of reservations that are read again from their files.
#[derive(Debug)]
pub(super) struct ReservationSecrets {
    /// In the order of the policy.
    watched: Vec<WatchedSecret>,
    max_stale: Duration,
}

impl ReservationSecrets {
    /// Reads the secrets of a policy for the start, with one look. It blocks.
    ///
    /// # Errors
    /// A secret cannot be read, or is too short.
    pub(super) fn start(policy: &Policy, max_stale: Duration) -> Result<Self, SecretError> {
        let start = |source| WatchedSecret::start(source, max_stale, check);
        let watched = sources(policy).iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { watched, max_stale })
    }

    /// Watches the secrets of another policy in its order, and ends the watch of all others. A new
    /// secret is read by the next [`look`](Self::look).
    pub(super) fn follow(&mut self, policy: &Policy) {
        let mut before = std::mem::take(&mut self.watched);
        for source in sources(policy) {
            let known = before.iter().position(|secret| secret.source() == source);
            self.watched.push(match known {
                Some(at) => before.swap_remove(at),
                None => WatchedSecret::unread(source, self.max_stale, check),
            });
        }
    }

    /// Reads all secrets again, and logs what changed. Returns whether others are in force.
    pub(super) async fn look(&mut self) -> bool {
        let mut changed = false;
        for secret in &mut self.watched {
            match secret.look().await {
                Look::Unchanged | Look::Failed { is_new: false, .. } => {}
                Look::Changed => {
                    changed = true;
                    tracing::info!("metering secret reloaded");
                }
                Look::Failed { error, is_new: true } => tracing::warn!(
                    "metering secret reload failed, a secret in force stays for \
                     `secrets.max_stale`: {error}"
                ),
                Look::Lapsed(error) => {
                    changed = true;
                    tracing::error!(
                        "a metering secret is older than `secrets.max_stale` and no longer used: \
                         {error}"
                    );
                }
            }
        }
        changed
    }

    /// The keys in force; `None` where there are none.
    pub(super) fn keys(&self) -> Option<Arc<ReservationKeys>> {
        let secrets = self.watched.iter().filter_map(|secret| secret.current().cloned()).collect();
        ReservationKeys::new(secrets).ok().map(Arc::new)
    }

    /// The states of the secrets that have files.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.watched.iter().filter_map(WatchedSecret::status).collect()
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
