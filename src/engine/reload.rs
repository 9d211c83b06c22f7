//! Reload: the file and the secrets it names are looked at every two seconds and on SIGHUP. What does not compile changes nothing.
//!
//! The content is compared, not inotify events: a ConfigMap is swapped by symlink, some volumes send no events, and both look
//! the same to a reader.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{signal::unix::Signal, sync::Notify};
use tokio_util::sync::CancellationToken;
use tollgate_core::{policy::Policy, secret::Secret};

use crate::{
    config::{self, File, Loaded},
    credential::jwks::Engine,
    engine::live::Live,
    observe::{self, Observer},
    secrets,
};

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// How long a reloaded policy waits for the keys of new issuers.
const FIRST_KEYS: Duration = Duration::from_secs(10);

/// What a reload changes.
pub struct Reloader {
    path: PathBuf,
    live: Arc<Live>,
    engine: Arc<Engine>,
    observer: Arc<Observer>,
    /// The sections in force that only a restart changes, and the text they came from.
    fixed: String,
    text: Option<Vec<u8>>,
    upstream_keys: Vec<Secret>,
    /// Told after each look, for whoever else keeps a file's content.
    looked: Arc<Notify>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Reloader {
    /// A reloader for the file at `path`, which was loaded as `file`.
    pub fn new(
        path: PathBuf,
        file: &File,
        live: Arc<Live>,
        engine: Arc<Engine>,
        observer: Arc<Observer>,
        looked: Arc<Notify>,
    ) -> Self {
        let text = std::fs::read(&path).ok();
        let upstream_keys = live.load().snapshot.upstream_keys.clone();
        Self { path, live, engine, observer, fixed: fixed(file), text, upstream_keys, looked }
    }

    /// Looks until told to stop.
    pub async fn run(mut self, mut hangup: Signal, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => false,
                _ = hangup.recv() => true,
            };
            self.look(asked).await;
            self.looked.notify_waiters();
        }
    }

    /// Whoever `asked` gets an answer, also when nothing changed.
    async fn look(&mut self, asked: bool) {
        let path = self.path.clone();
        // Off the runtime, as is what follows: a slow disk or a large policy must not hold up checks.
        let read = tokio::task::spawn_blocking(move || std::fs::read(path))
            .await
            .unwrap_or_else(|error| Err(error.into()));
        match read {
            Ok(text) if !asked && Some(&text) == self.text.as_ref() => self.look_at_secrets(),
            Ok(text) => {
                self.text = Some(text);
                self.reload().await;
            }
            Err(error) => {
                if self.text.take().is_some() || asked {
                    self.failed(&format!("`{}` cannot be read: {error}", self.path.display()));
                }
            }
        }
    }

    async fn reload(&mut self) {
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            config::load(&path).map_err(|error| error.to_string())
        })
        .await;
        let result = match loaded {
            Ok(Ok(loaded)) => self.apply(loaded).await,
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => {
                self.observer.metrics().reloaded(observe::now(), true);
                tracing::info!(path = %self.path.display(), "configuration reloaded");
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &str) {
        self.observer.metrics().reloaded(observe::now(), false);
        tracing::error!(path = %self.path.display(), "the configuration was not reloaded, the last good one stays:\n{error}");
    }

    async fn apply(&mut self, Loaded { file, policy }: Loaded) -> Result<(), String> {
        if fixed(&file) != self.fixed {
            return Err("listen, body, store, token_cache, audit, observe, log and drain_timeout only change with a restart; restart, or take the change back".into());
        }
        let upstream_keys = secrets::upstream_credentials(&policy.upstream_keys)
            .map_err(|error| error.to_string())?;
        self.upstream_keys.clone_from(&upstream_keys);
        install(&self.live, &self.engine, &self.observer, policy, upstream_keys).await;
        Ok(())
    }

    fn look_at_secrets(&mut self) {
        let state = self.live.load();
        match secrets::upstream_credentials(&state.snapshot.policy.upstream_keys) {
            Ok(keys) if keys != self.upstream_keys => {
                self.upstream_keys.clone_from(&keys);
                self.live.replace_upstream_keys(keys);
                tracing::info!("an upstream key was read again");
            }
            Ok(_) => {}
            // Half-written files happen; the next look reads them whole. The key in force stays.
            Err(error) => tracing::warn!("an upstream key was not read again: {error}"),
        }
    }
}

/// Puts a policy in force: its key sources, its metric labels, and then the pointer.
async fn install(
    live: &Live,
    engine: &Engine,
    observer: &Observer,
    policy: Policy,
    upstream_keys: Vec<Secret>,
) {
    observer.metrics().add_policy(&policy);
    let sources = engine.apply(policy.issuers.list());
    // A new issuer, or one whose address changed, starts without keys. The policy in force goes on until each was tried.
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
    live.replace(Arc::new(policy), sources, upstream_keys);
}

/// The sections only a restart changes, in a form that can be compared. Secrets do not print, so a changed inline secret of
/// these sections goes unnoticed until the restart it needs anyway.
fn fixed(file: &File) -> String {
    let File { listen, body, drain_timeout, store, token_cache, audit, observe, log, .. } = file;
    format!("{:?}", (listen, body, drain_timeout, store, token_cache, audit, observe, log))
}
