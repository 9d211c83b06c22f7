//! The file of API keys of the policy in force: read at the start, and again when it changes.
//!
//! A file with an error changes nothing, and a file that cannot be read for longer than
//! `secrets.max_stale` leaves no table: its keys are denied with `not_ready` then, as what an
//! operator removed may be in it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate_core::{credential::api_key::KeyTable, policy::Policy};

use crate::{
    background,
    bounded_file::{self, LOOK_AGAIN},
    config::{
        LoadError, MAX_KEY_FILE, TextDigest, compile_keys, key_file_error, read_keys_blocking,
    },
    secrets::SecretStatus,
};

/// The tables of API keys, one for each source of the policy in force.
#[derive(Debug)]
pub(super) struct ApiKeyFile {
    policy: Arc<Policy>,
    path: PathBuf,
    max_stale: Duration,
    in_force: Option<Arc<KeyTable>>,
    /// The text that the table was compiled from for the policy in force.
    applied: Option<TextDigest>,
    /// The text that failed last.
    rejected: Option<TextDigest>,
    /// The time of the last look that found a good file.
    found: Instant,
    /// The last error that was logged.
    reported: Option<String>,
}

impl ApiKeyFile {
    /// Reads the file for the start, with one look. It blocks. Returns `None` for a policy without a
    /// file.
    ///
    /// # Errors
    /// The file cannot be read, or has errors.
    pub(super) fn start(
        policy: &Arc<Policy>,
        max_stale: Duration,
    ) -> Result<Option<Self>, LoadError> {
        let Some(path) = file_of(policy) else { return Ok(None) };
        let text = read_keys_blocking(path)?;
        let table = compile_keys(path, &text, policy)?;
        Ok(Some(Self {
            in_force: Some(Arc::new(table)),
            applied: Some(TextDigest::of(&text)),
            ..Self::unread(policy, path, max_stale)
        }))
    }

    /// Returns the file of another policy: with the table in force where the path is the same, so
    /// that a reload waits for no file; the next look compiles it again. A file of another path is
    /// not read yet.
    pub(super) fn for_policy(
        previous: Option<Self>,
        policy: &Arc<Policy>,
        max_stale: Duration,
    ) -> Option<Self> {
        let path = file_of(policy)?;
        Some(match previous.filter(|file| file.path == path) {
            Some(file) => {
                Self { policy: Arc::clone(policy), applied: None, rejected: None, ..file }
            }
            None => Self::unread(policy, path, max_stale),
        })
    }

    fn unread(policy: &Arc<Policy>, path: &Path, max_stale: Duration) -> Self {
        Self {
            policy: Arc::clone(policy),
            path: path.to_owned(),
            max_stale,
            in_force: None,
            applied: None,
            rejected: None,
            found: Instant::now(),
            reported: None,
        }
    }

    /// Whether a table is in force.
    pub(super) fn is_usable(&self) -> bool {
        self.in_force.is_some()
    }

    /// Reads the file again, and logs what changed. Returns whether another table is in force.
    pub(super) async fn look(&mut self) -> bool {
        match self.read().await {
            Ok(None) => {
                self.found = Instant::now();
                self.reported = None;
                false
            }
            Ok(Some(table)) => {
                tracing::info!(keys = table.len(), "API keys reloaded");
                self.in_force = Some(Arc::new(table));
                self.found = Instant::now();
                self.reported = None;
                true
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Returns the table of the file if it is another one than that in force.
    async fn read(&mut self) -> Result<Option<KeyTable>, LoadError> {
        let in_force = self.in_force.is_some();
        let (applied, rejected) = (self.applied, self.rejected);
        let is_known = |bytes: &[u8]| {
            let text = TextDigest::of_bytes(bytes);
            (in_force && applied == Some(text)) || rejected == Some(text)
        };
        let bytes = bounded_file::read_settled(&self.path, MAX_KEY_FILE, LOOK_AGAIN, is_known)
            .await
            .map_err(key_file_error)?;
        let text = bounded_file::text(&self.path, bytes)?;
        let digest = TextDigest::of(&text);
        if in_force && applied == Some(digest) {
            return Ok(None);
        }
        let (path, policy) = (self.path.clone(), Arc::clone(&self.policy));
        // In the background: many records must not delay checks.
        match background::run(move || compile_keys(&path, &text, &policy)).await {
            Some(Ok(table)) => {
                self.applied = Some(digest);
                self.rejected = None;
                Ok(Some(table))
            }
            Some(Err(error)) => {
                self.rejected = Some(digest);
                Err(error)
            }
            None => Ok(None),
        }
    }

    fn failed(&mut self, error: &LoadError) -> bool {
        let text = error.to_string();
        let lapses = self.in_force.is_some() && self.found.elapsed() >= self.max_stale;
        if lapses || self.reported.as_ref() != Some(&text) {
            tracing::error!("{}:\n{text}", self.consequence(lapses));
        }
        if lapses {
            self.in_force = None;
        }
        self.reported = Some(text);
        lapses
    }

    /// Returns what a file that cannot be used means for its keys, for the log.
    fn consequence(&self, lapses: bool) -> &'static str {
        match (self.is_usable(), lapses) {
            (_, true) => {
                "the file of API keys is older than `secrets.max_stale` and no longer used, its \
                 keys are denied with 503 not_ready"
            }
            (true, false) => {
                "API key reload failed, keeping the previous keys for `secrets.max_stale`"
            }
            (false, false) => {
                "the file of API keys cannot be used, and no previous one is in force: its keys \
                 are denied with 503 not_ready until it can be used"
            }
        }
    }

    /// Returns the table in force.
    pub(super) fn table(&self) -> Option<Arc<KeyTable>> {
        self.in_force.clone()
    }

    /// Returns the state of the file for metrics.
    pub(super) fn status(&self) -> SecretStatus {
        SecretStatus {
            file: self.path.display().to_string(),
            usable: self.in_force.is_some(),
            found: self.found,
        }
    }
}

fn file_of(policy: &Policy) -> Option<&Path> {
    policy.api_keys.as_ref()?.file.as_deref()
}

#[cfg(test)]
mod tests;
