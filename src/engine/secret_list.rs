//! A list of secrets that are read again from their files, and the log of what each look found.

use std::time::Duration;

use tollgate_core::secret::{Secret, SecretSource};

use crate::secrets::{Look, SecretError, SecretStatus, WatchedSecret};

/// The words of the log about a kind of secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecretWords {
    /// The secret: `metering secret`.
    pub(super) name: &'static str,
    /// The consequence while there is none: `its routes are denied`.
    pub(super) without: &'static str,
}

/// Logs a look at a secret. `was_in_force` is whether there was one until then. Returns whether
/// another one, or none, is in force.
pub(super) fn log_look(look: Look, was_in_force: bool, words: SecretWords) -> bool {
    let SecretWords { name, without } = words;
    match look {
        Look::Unchanged | Look::Failed { is_new: false, .. } => false,
        Look::Changed => {
            tracing::info!("{name} reloaded");
            true
        }
        Look::Failed { error, is_new: true } if was_in_force => {
            tracing::warn!(
                "{name} reload failed, keeping the previous one for `secrets.max_stale`: {error}"
            );
            false
        }
        Look::Failed { error, is_new: true } => {
            tracing::error!("{name} cannot be read, {without} until it can: {error}");
            false
        }
        Look::Lapsed(error) => {
            tracing::error!(
                "{name} is older than `secrets.max_stale` and no longer used, {without}: {error}"
            );
            true
        }
    }
}

/// Secrets of one section of the policy, in the order of the policy.
#[derive(Debug)]
pub(super) struct SecretList {
    watched: Vec<WatchedSecret>,
    max_stale: Duration,
    check: fn(&Secret) -> Result<(), SecretError>,
    words: SecretWords,
}

impl SecretList {
    /// Reads secrets for the start, with one look. It blocks.
    ///
    /// # Errors
    /// A secret cannot be read, or `check` refuses it.
    pub(super) fn start(
        sources: &[SecretSource],
        max_stale: Duration,
        check: fn(&Secret) -> Result<(), SecretError>,
        words: SecretWords,
    ) -> Result<Self, SecretError> {
        let start = |source| WatchedSecret::start(source, max_stale, check);
        let watched = sources.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { watched, max_stale, check, words })
    }

    /// Watches other secrets, in their order, and ends the watch of all others. A new secret is read
    /// by the next [`look`](Self::look).
    pub(super) fn follow(&mut self, sources: &[SecretSource]) {
        let mut before = std::mem::take(&mut self.watched);
        for source in sources {
            let known = before.iter().position(|secret| secret.source() == source);
            self.watched.push(match known {
                Some(at) => before.swap_remove(at),
                None => WatchedSecret::unread(source, self.max_stale, self.check),
            });
        }
    }

    /// Reads all secrets again, and logs what changed. Returns whether others are in force.
    pub(super) async fn look(&mut self) -> bool {
        let mut changed = false;
        for secret in &mut self.watched {
            let was_in_force = secret.current().is_some();
            changed |= log_look(secret.look().await, was_in_force, self.words);
        }
        changed
    }

    /// The secrets in the order of the policy; `None` of one that is not in force.
    pub(super) fn in_force(&self) -> impl Iterator<Item = Option<&Secret>> {
        self.watched.iter().map(WatchedSecret::current)
    }

    /// The secrets in force.
    pub(super) fn current(&self) -> Vec<Secret> {
        self.watched.iter().filter_map(|secret| secret.current().cloned()).collect()
    }

    /// The states of the secrets that have files.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.watched.iter().filter_map(WatchedSecret::status).collect()
    }
}
