//! The upstream keys of the policy in force, with their files.

use std::time::Duration;

use futures_util::future::join_all;
use tollgate_core::secret::{Secret, SecretSource};

use super::secret_list::{SecretWords, log_look};
use crate::secrets::{
    SecretError, SecretStatus, WatchedSecret, check_upstream_key, upstream_credential,
};

/// The most files that are read at a time: each takes a thread.
const AT_ONCE: usize = 16;

const WORDS: SecretWords =
    SecretWords { name: "upstream key", without: "its routes are denied with 503 not_ready" };

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

    /// Watches further keys, and reads them. If the future is dropped, those that are not read yet
    /// are read by the next [`look`](Self::look).
    pub(super) async fn add(&mut self, sources: &[SecretSource]) {
        let known = self.watched.len();
        for source in sources {
            if self.find(source).is_none() {
                self.watched.push(WatchedSecret::unread(
                    source,
                    self.max_stale,
                    check_upstream_key,
                ));
            }
        }
        let new = self.watched.get_mut(known..).unwrap_or_default();
        look_at(new).await;
    }

    /// Ends the watch of all other keys.
    pub(super) fn retain(&mut self, sources: &[SecretSource]) {
        self.watched.retain(|secret| sources.contains(secret.source()));
    }

    /// Reads all keys again, and logs what changed. Returns whether another key is in force.
    pub(super) async fn look(&mut self) -> bool {
        look_at(&mut self.watched).await
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

/// Reads keys again, and logs what changed. Returns whether another key is in force.
async fn look_at(keys: &mut [WatchedSecret]) -> bool {
    let mut changed = false;
    for some in keys.chunks_mut(AT_ONCE) {
        let looks = join_all(some.iter_mut().map(async |key| {
            let before = key.current().is_some();
            (before, key.look().await)
        }));
        for (before, look) in looks.await {
            changed |= log_look(look, before, WORDS);
        }
    }
    changed
}
