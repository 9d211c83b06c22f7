//! Reload: another policy is put in force while checks go on, whole or not at all.
//!
//! What only a restart changes keeps no policy out, and neither does a secret that is missing: what
//! the policy removes has to stop.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::time::timeout;
use tollgate_core::{
    credential::dpop::NonceKeys, limit::reservation::ReservationKeys, policy::Policy,
};

use super::{
    api_keys::ApiKeyFile,
    authorities::ClientAuthorities,
    ledger::LedgerSecrets,
    live::{ApiKeySources, FileCredentials, Live},
    redis_keys::RedisKeys,
    section_secrets::SectionSecrets,
    upstream_keys::UpstreamKeys,
};
use crate::{
    config::{
        self, AdminCredentialConfig, LoadError, Loaded, ReporterConfig, ServerConfig, TextDigest,
    },
    credential::jwks::{KeySources, Source},
    observe::{self, Observer},
};

/// How long a reload waits for the keys of issuers whose key source has changed. Their tokens were
/// accepted before, and would be denied in between; what the reload removes is accepted for as
/// long.
const FIRST_KEYS: Duration = Duration::from_millis(750);

/// How long a reload waits for new upstream keys: two looks at a file, a second apart, have to
/// agree. A file that is missing is not waited for.
const NEW_UPSTREAM_KEYS: Duration = Duration::from_millis(1500);

/// The reason why a configuration is not in force, or not all of it.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file cannot be read, or is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The policy is in force. These sections differ, which only a restart changes.
    #[error("{} changed, which needs a restart; restart, or undo the change", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// A panic ended the compilation.
    #[error("the file could not be compiled: a panic was caught, see the log")]
    Interrupted,
}

impl ReloadError {
    /// Whether the same text fails again, whatever happens to other files.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Load(LoadError::Invalid { .. }) | Self::NeedsRestart(_) | Self::Interrupted => {
                true
            }
            Self::Load(LoadError::Read(_)) => false,
        }
    }
}

/// The secrets of the policy in force that have files.
pub(super) struct FileSecrets {
    pub(super) upstream_keys: UpstreamKeys,
    pub(super) reservation_secrets: SectionSecrets<ReservationKeys>,
    pub(super) nonce_secrets: SectionSecrets<NonceKeys>,
    pub(super) authorities: ClientAuthorities,
    pub(super) ledger: LedgerSecrets,
}

/// A list of the file that is in force, and that a reload replaces.
type InForce<T> = Arc<ArcSwap<Vec<T>>>;

/// Puts configurations in force.
pub(super) struct Reloader {
    live: Arc<Live>,
    key_sources: Arc<KeySources>,
    observer: Arc<Observer>,
    /// The sections in force that only a restart changes.
    server: ServerConfig,
    /// The text of the configuration in force.
    applied: TextDigest,
    secrets: FileSecrets,
    api_keys: Option<ApiKeyFile>,
    redis_keys: RedisKeys,
    /// The credentials of the admin API that are in force.
    admin_credentials: InForce<AdminCredentialConfig>,
    /// The reporters of usage that are in force.
    reporters: InForce<ReporterConfig>,
    /// The error of the last reload, where it failed.
    failure: Option<String>,
}

impl Reloader {
    /// Creates a reloader for an engine that was started with the text of `applied`.
    pub(super) fn new(
        (server, applied): (ServerConfig, TextDigest),
        secrets: FileSecrets,
        (api_keys, redis_keys): (Option<ApiKeyFile>, RedisKeys),
        live: Arc<Live>,
        key_sources: Arc<KeySources>,
        observer: Arc<Observer>,
        (admin_credentials, reporters): (InForce<AdminCredentialConfig>, InForce<ReporterConfig>),
    ) -> Self {
        let failure = None;
        let reloader = Self {
            live,
            key_sources,
            observer,
            server,
            applied,
            secrets,
            api_keys,
            redis_keys,
            admin_credentials,
            reporters,
            failure,
        };
        reloader.report_secrets();
        reloader
    }

    /// Whether the configuration in force was compiled from this text, and no later one failed.
    pub(super) fn is_in_force(&self, text: TextDigest) -> bool {
        self.applied == text && self.failure.is_none()
    }

    /// Whether the configuration in force was compiled from this text.
    pub(super) fn is_applied(&self, text: TextDigest) -> bool {
        self.applied == text
    }

    /// Compiles the text of the file at `path`, on a thread that does not delay checks.
    ///
    /// # Errors
    /// Everything that is wrong with it at once, and [`ReloadError::Interrupted`].
    pub(super) async fn compile(&self, path: &Path, text: String) -> Result<Loaded, ReloadError> {
        let path = path.to_owned();
        let compiled = self.live.worker().run(move || config::compile_file(&path, &text)).await;
        Ok(compiled.ok_or(ReloadError::Interrupted)??)
    }

    /// Puts the policy of a configuration in force.
    ///
    /// # Errors
    /// [`ReloadError::NeedsRestart`] for the sections that stay as they were.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<(), ReloadError> {
        let Loaded { file, policy, digest } = loaded;
        // Before the policy, which may wait for keys: a credential that is removed ends at once.
        self.admin_credentials.store(Arc::new(file.server.listen.credentials()));
        self.reporters.store(Arc::new(file.server.listen.reporters()));
        // INVARIANT: what a check counts is in one shard, that of the store in force.
        let policy = policy.with_shards(self.server.store.shard_by());
        self.install(Arc::new(policy)).await;
        self.applied = digest;
        self.report_secrets();
        let changed = file.server.changed_sections(&self.server);
        // The sections of the policy are as large as the policy.
        self.live.worker().discard(file);
        if changed.is_empty() { Ok(()) } else { Err(ReloadError::NeedsRestart(changed)) }
    }

    /// Counts the result of a reload, and logs it where it is news: a reload that fails is tried
    /// again in each round.
    pub(super) fn report(&mut self, result: &Result<(), ReloadError>) {
        self.observer.metrics().reloaded(observe::now(), result.is_ok());
        match result {
            Ok(()) => {
                self.failure = None;
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                let failure = Some(error.to_string());
                if self.failure != failure {
                    match error {
                        ReloadError::NeedsRestart(_) => tracing::error!(
                            "configuration reloaded in part: the policy is in force, the rest is \
                             not: {error}"
                        ),
                        _ => tracing::error!(
                            "configuration reload failed, keeping the previous one:\n{error}"
                        ),
                    }
                }
                self.failure = failure;
            }
        }
    }

    /// Reads the secrets of the policy from their files, and puts those in force that have changed.
    pub(super) async fn refresh_secrets(&mut self) {
        let secrets = &mut self.secrets;
        if secrets.upstream_keys.look().await {
            let state = self.live.load();
            let keys = secrets.upstream_keys.credentials(&state.snapshot.policy.upstream_keys);
            self.live.replace_upstream_keys(keys);
        }
        if secrets.reservation_secrets.look().await {
            self.live.replace_reservation_keys(secrets.reservation_secrets.keys());
        }
        if secrets.nonce_secrets.look().await {
            self.live.replace_nonce_keys(secrets.nonce_secrets.keys());
        }
        secrets.ledger.look().await;
        if secrets.authorities.look().await {
            self.live.replace_authorities(secrets.authorities.current());
        }
        self.report_secrets();
    }

    /// Reads the file of API keys, and puts its table in force if it has changed.
    pub(super) async fn refresh_api_keys(&mut self) {
        if let Some(file) = &mut self.api_keys
            && file.look().await
        {
            self.live.replace_key_file(file.table());
        }
        self.report_api_keys();
    }

    fn report_api_keys(&self) {
        let status = self.api_keys.iter().map(ApiKeyFile::status).collect();
        self.observer.metrics().set_secrets("api_keys", status);
    }

    /// Gives metrics the states of all files with secrets.
    fn report_secrets(&self) {
        let metrics = self.observer.metrics();
        metrics.set_secrets("upstream_key", self.secrets.upstream_keys.status());
        metrics.set_secrets("metering", self.secrets.reservation_secrets.status());
        metrics.set_secrets("ledger", self.secrets.ledger.status());
        metrics.set_secrets("dpop_nonce", self.secrets.nonce_secrets.status());
        metrics.set_secrets("client_certificates", self.secrets.authorities.status());
        self.report_api_keys();
    }

    /// Starts the policy's key sources, reads its upstream keys, swaps the pointer, and gives
    /// metrics the labels of the policy.
    async fn install(&mut self, policy: Arc<Policy>) {
        let metrics = Arc::clone(self.observer.metrics());
        let (series, added) = (Arc::clone(&metrics), Arc::clone(&policy));
        let _panic = self.live.worker().run(move || series.add_policy(&added)).await;
        let sources = self.key_sources.apply(policy.issuers.list());
        // What is removed stops at once; a new issuer is not waited for. An issuer whose key source
        // has changed starts without keys.
        let before: BTreeSet<Arc<str>> = {
            let state = self.live.load();
            let issuers = state.snapshot.policy.issuers.list();
            issuers.iter().map(|issuer| Arc::clone(&issuer.name)).collect()
        };
        let changed = policy.issuers.list().iter().zip(&sources);
        let changed: Vec<&Arc<Source>> = changed
            .filter(|(issuer, _)| before.contains(&issuer.name))
            .map(|(_, source)| source)
            .collect();
        let tried = async {
            for source in changed {
                source.tried().await;
            }
        };
        let max_stale = self.server.secrets.max_stale.std();
        let mut api_keys = ApiKeyFile::for_policy(self.api_keys.take(), &policy, max_stale);
        let keys_read = async {
            if let Some(file) = api_keys.as_mut().filter(|file| !file.is_usable()) {
                let _timed_out = timeout(NEW_UPSTREAM_KEYS, file.look()).await;
            }
        };
        let secrets = &mut self.secrets;
        secrets.reservation_secrets.follow(&policy);
        secrets.nonce_secrets.follow(&policy);
        secrets.ledger.follow(&policy);
        secrets.authorities.follow(&policy);
        // An issuer that has not answered by then is logged below. An upstream key, a secret of
        // reservations, or a file of API keys, that is not read by then is read by the next look: what needs it is denied
        // meanwhile.
        let _timed_out = tokio::join!(
            timeout(FIRST_KEYS, tried),
            timeout(NEW_UPSTREAM_KEYS, secrets.upstream_keys.add(&policy.upstream_keys)),
            timeout(NEW_UPSTREAM_KEYS, secrets.reservation_secrets.look()),
            timeout(NEW_UPSTREAM_KEYS, secrets.nonce_secrets.look()),
            timeout(NEW_UPSTREAM_KEYS, secrets.ledger.look()),
            timeout(NEW_UPSTREAM_KEYS, secrets.authorities.look()),
            keys_read,
        );
        let table = api_keys.as_ref().and_then(ApiKeyFile::table);
        self.api_keys = api_keys;
        let replica = self.redis_keys.prepare(&policy);
        let keys = ApiKeySources { file: table, redis: replica.clone() };
        let secrets = &mut self.secrets;
        let upstream = secrets.upstream_keys.credentials(&policy.upstream_keys);
        let credentials = FileCredentials { upstream, authorities: secrets.authorities.current() };
        self.live.replace(Arc::clone(&policy), sources.clone(), credentials, keys);
        self.live.replace_reservation_keys(secrets.reservation_secrets.keys());
        self.live.replace_nonce_keys(secrets.nonce_secrets.keys());
        self.redis_keys.installed(&policy, replica, &self.live);
        secrets.upstream_keys.retain(&policy.upstream_keys);
        let retained = Arc::clone(&policy);
        let _panic = self.live.worker().run(move || metrics.retain_policy(&retained)).await;
        for source in sources.iter().filter(|source| !source.status().tried) {
            tracing::warn!(
                issuer = &*source.status().issuer,
                "the keys of a new or changed issuer are not there yet: until they are, its tokens \
                 are denied with 503 not_ready"
            );
        }
    }
}
