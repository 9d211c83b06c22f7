//! The upstream keys of the policy in force, with their files.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tollgate_core::secret::{Secret, SecretSource};

use crate::secrets::{
    Look, SecretError, SecretStatus, WatchedSecret, check_upstream_key, upstream_credential,
};

/// The most files that are read at a time: each takes a thread.
const AT_ONCE: usize = 16;

/// Upstream keys that are read again from their files.
#[derive(Debug)]
pub(super) struct UpstreamKeys {
    watched: Vec<WatchedSecret>,
    max_stale: Duration,
}

impl UpstreamKeys {
    /// Reads the keys for the start, with one look. It blocks.
    ///
    /// # Errors
    /// A key cannot be read or used.
    pub(super) fn start(
        sources: &[SecretSource],
        max_stale: Duration,
    ) -> Result<Self, SecretError> {
        let start = |source| WatchedSecret::start(source, max_stale, check_upstream_key);
        Ok(Self { watched: sources.iter().map(start).collect::<Result<_, _>>()?, max_stale })
    }

    /// Reads the keys that are not watched yet, and watches them as well.
    ///
    /// # Errors
    /// One of them cannot be read or used. The others may be watched then.
    pub(super) async fn add(&mut self, sources: &[SecretSource]) -> Result<(), SecretError> {
        let is_new = |source: &&SecretSource| self.find(source).is_none();
        let new: Vec<&SecretSource> = sources.iter().filter(is_new).collect();
        for some in new.chunks(AT_ONCE) {
            let added = some.iter().map(async |source| {
                let mut secret = WatchedSecret::unread(source, self.max_stale, check_upstream_key);
                match secret.look().await {
                    Look::Unchanged | Look::Changed => Ok(secret),
                    Look::Failed { error, .. } | Look::Lapsed(error) => Err(error),
                }
            });
            let added = try_join_all(added).await?;
            self.watched.extend(added);
        }
        Ok(())
    }

    /// Ends the watch of all other keys.
    pub(super) fn retain(&mut self, sources: &[SecretSource]) {
        self.watched.retain(|secret| sources.contains(secret.source()));
    }

    /// Reads all keys again, and logs what changed. Returns whether another key is in force.
    pub(super) async fn look(&mut self) -> bool {
        let mut changed = false;
        let mut looks = Vec::with_capacity(self.watched.len());
        for some in self.watched.chunks_mut(AT_ONCE) {
            looks.extend(join_all(some.iter_mut().map(WatchedSecret::look)).await);
        }
        for look in looks {
            match look {
                Look::Unchanged | Look::Failed { is_new: false, .. } => {}
                Look::Changed => {
                    changed = true;
                    tracing::info!("upstream key reloaded");
                }
                Look::Failed { error, is_new: true } => {
                    tracing::warn!(
                        "upstream key reload failed, keeping the previous one for \
                         `secrets.max_stale`: {error}"
                    );
                }
                Look::Lapsed(error) => {
                    changed = true;
                    tracing::error!(
                        "an upstream key is older than `secrets.max_stale` and no longer used, its \
                         routes are denied: {error}"
                    );
                }
            }
        }
        changed
    }

    /// Returns the value of `Authorization` for each source; `None` without a key in force.
    pub(super) fn credentials(&self, sources: &[SecretSource]) -> Vec<Option<Secret>> {
        let credential =
            |source| self.find(source).and_then(WatchedSecret::current).map(upstream_credential);
        sources.iter().map(credential).collect()
    }

    /// Returns the states of the keys that have files.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.watched.iter().filter_map(WatchedSecret::status).collect()
    }

    fn find(&self, source: &SecretSource) -> Option<&WatchedSecret> {
        self.watched.iter().find(|secret| secret.source() == source)
    }
}
