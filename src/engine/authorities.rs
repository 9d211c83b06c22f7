//! The authorities of client certificates (`client_certificates.authorities`), with their file.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    credential::certificate::Authorities,
    policy::Policy,
    secret::{Secret, SecretSource},
};

use super::secret_list::{SecretWords, log_look};
use crate::secrets::{SecretError, SecretStatus, WatchedSecret};

const WORDS: SecretWords = SecretWords {
    name: "file of client certificate authorities",
    without: "client certificates are denied with 503 not_ready",
};

/// Authorities that are read again from their file.
#[derive(Debug)]
pub(super) struct ClientAuthorities {
    watched: Option<WatchedSecret>,
    /// The authorities in force: those of the last text that was read.
    current: Option<Arc<Authorities>>,
    max_stale: Duration,
}

impl ClientAuthorities {
    /// Reads the authorities of a policy for the start, with one look. It blocks.
    ///
    /// # Errors
    /// The file cannot be read, or has something else than certificates of authorities.
    pub(super) fn start(policy: &Policy, max_stale: Duration) -> Result<Self, SecretError> {
        let start = |source| WatchedSecret::start(source, max_stale, check);
        let watched = source(policy).map(start).transpose()?;
        let mut authorities = Self { watched, current: None, max_stale };
        authorities.parse();
        Ok(authorities)
    }

    /// Watches the authorities of another policy. Those of another source are read by the next
    /// [`look`](Self::look).
    pub(super) fn follow(&mut self, policy: &Policy) {
        let source = source(policy);
        if self.watched.as_ref().map(WatchedSecret::source) != source {
            self.watched =
                source.map(|source| WatchedSecret::unread(source, self.max_stale, check));
            self.parse();
        }
    }

    /// Reads the authorities again, and logs what changed. Returns whether others are in force.
    pub(super) async fn look(&mut self) -> bool {
        let Some(watched) = &mut self.watched else { return false };
        let was_in_force = watched.current().is_some();
        let changed = log_look(watched.look().await, was_in_force, WORDS);
        if changed {
            self.parse();
        }
        changed
    }

    /// The authorities in force; `None` where there are none.
    pub(super) fn current(&self) -> Option<Arc<Authorities>> {
        self.current.clone()
    }

    /// The state of the file, if there is one.
    pub(super) fn status(&self) -> Vec<SecretStatus> {
        self.watched.iter().filter_map(WatchedSecret::status).collect()
    }

    fn parse(&mut self) {
        let text = self.watched.as_ref().and_then(WatchedSecret::current);
        self.current =
            text.and_then(|text| Authorities::from_pem(text.expose()).ok()).map(Arc::new);
    }
}

fn source(policy: &Policy) -> Option<&SecretSource> {
    policy.client_certificates.as_ref()?.authorities.as_ref()
}

fn check(text: &Secret) -> Result<(), SecretError> {
    let parsed = Authorities::from_pem(text.expose());
    parsed.map(|_| ()).map_err(|error| SecretError::Unusable(Box::new(error)))
}
