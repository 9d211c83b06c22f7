//! Reload: another configuration is put in force while checks go on, whole or not at all.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tollgate_core::{policy::Policy, secret::Secret};

use super::live::Live;
use crate::{
    config::{LoadError, Loaded, ServerConfig},
    credential::jwks::KeySources,
    observe::{self, Observer},
    secrets::{self, SecretError},
};

/// How long a reloaded policy waits for the keys of new issuers.
const FIRST_KEYS: Duration = Duration::from_secs(10);

/// The reason why a configuration is not put in force.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file cannot be read, or is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// These sections differ, which only a restart changes.
    #[error("{} changed, which needs a restart; restart, or undo the change", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// An upstream key is missing or cannot be used.
    #[error("upstream_key: {0}")]
    UpstreamKey(SecretError),
    /// A panic ended the compilation.
    #[error("the file could not be compiled: a panic was caught, see the log")]
    Interrupted,
}

/// Puts configurations in force.
pub(super) struct Reloader {
    live: Arc<Live>,
    key_sources: Arc<KeySources>,
    observer: Arc<Observer>,
    /// The sections in force that only a restart changes.
    server: ServerConfig,
    upstream_keys: Vec<Secret>,
}

impl Reloader {
    /// Creates a reloader for an engine that was started with `server`.
    pub(super) fn new(
        server: ServerConfig,
        live: Arc<Live>,
        key_sources: Arc<KeySources>,
        observer: Arc<Observer>,
    ) -> Self {
        let upstream_keys = live.load().snapshot.upstream_keys.clone();
        Self { live, key_sources, observer, server, upstream_keys }
    }

    /// Puts a configuration in force.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<(), ReloadError> {
        let Loaded { file, policy } = loaded;
        let changed = file.server.changed_sections(&self.server);
        if !changed.is_empty() {
            return Err(ReloadError::NeedsRestart(changed));
        }
        let upstream_keys = secrets::upstream_credentials(&policy.upstream_keys)
            .map_err(ReloadError::UpstreamKey)?;
        self.upstream_keys.clone_from(&upstream_keys);
        self.install(policy, upstream_keys).await;
        Ok(())
    }

    /// Counts and logs the result of a reload.
    pub(super) fn report(&self, result: &Result<(), ReloadError>) {
        self.observer.metrics().reloaded(observe::now(), result.is_ok());
        match result {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => {
                tracing::error!("configuration reload failed, keeping the previous one:\n{error}");
            }
        }
    }

    /// Reads the upstream keys from their files, and puts them in force if they have changed.
    pub(super) fn reload_upstream_keys(&mut self) {
        let state = self.live.load();
        match secrets::upstream_credentials(&state.snapshot.policy.upstream_keys) {
            Ok(keys) if keys != self.upstream_keys => {
                self.upstream_keys.clone_from(&keys);
                self.live.replace_upstream_keys(keys);
                tracing::info!("upstream key reloaded");
            }
            Ok(_) => {}
            // A file may be read while it is written; the next round reads it whole.
            Err(error) => {
                tracing::warn!("upstream key reload failed, keeping the previous one: {error}");
            }
        }
    }

    /// Starts the policy's key sources, adds its metric labels, and swaps the pointer.
    async fn install(&self, policy: Policy, upstream_keys: Vec<Secret>) {
        self.observer.metrics().add_policy(&policy);
        let sources = self.key_sources.apply(policy.issuers.list());
        // A new issuer, or one whose address has changed, starts without keys. The previous policy
        // stays in force until each was tried.
        let tried = async {
            for source in &sources {
                source.tried().await;
            }
        };
        if tokio::time::timeout(FIRST_KEYS, tried).await.is_err() {
            tracing::warn!(
                "some issuers have not answered yet; the reloaded policy serves without their keys"
            );
        }
        self.live.replace(Arc::new(policy), sources, upstream_keys);
    }
}
