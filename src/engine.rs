//! The sidecar without its sockets: configuration in, decisions out.
//!
//! [`Engine`] owns everything a check needs: the policy in force and its reload, the key sources,
//! the store, the token cache, metrics, audit log and spans. It opens no listener, handles no
//! signal and installs no global hook: the gRPC and HTTP servers of [`crate::app`] are shells
//! around it, and a program that has no socket can use it the same way.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use std::sync::Arc;
//!
//! use tollgate::{
//!     config,
//!     engine::{Engine, check::Answer},
//!     observe,
//! };
//! use tollgate_core::request::{Headers, RawBody, RawRequest};
//!
//! let text = "
//! audit: { to: none }
//! routes: [{ match: { methods: [GET], paths: [/health] }, public: true }]
//! ";
//! let loaded = config::compile(text, &|_| None).expect("a valid configuration");
//! let engine = Engine::start(loaded, Arc::new(observe::now))?;
//!
//! let allows = async |path: &'static str| {
//!     let read = || {
//!         Ok(RawRequest {
//!             method: b"GET",
//!             scheme: b"https",
//!             host: b"api.example.com",
//!             path: path.as_bytes(),
//!             headers: Headers::default(),
//!             address: None,
//!             peer_certificate: b"",
//!             body: RawBody::None,
//!         })
//!     };
//!     let answer = engine.checker().check(None, read, |checked| {
//!         matches!(checked.answer, Answer::Allow(_))
//!     });
//!     answer.await
//! };
//! assert!(allows("/health").await);
//! assert!(!allows("/v1/models").await);
//!
//! engine.close().await;
//! # Ok(())
//! # })
//! # }
//! ```

mod api_keys;
mod authorities;
mod ban_writer;
mod body_pool;
pub mod check;
mod deadline;
mod denied_subjects;
mod frequency;
mod key_watch;
pub mod ledger;
pub mod live;
mod network_bans;
mod policy_worker;
pub mod readiness;
mod redis_keys;
mod refusals;
pub mod reload;
mod secret_list;
mod section_secrets;
pub mod settler;
mod shares;
mod status;
mod upstream_keys;
pub mod usage_histories;
pub mod watch;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{
    sync::{Mutex as AsyncMutex, watch as channel},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_core::{
    credential::jwt::{issuer::KeySource, key_set::KeySet},
    policy::Policy,
    time::Span,
};

use self::{
    api_keys::ApiKeyFile,
    authorities::ClientAuthorities,
    ban_writer::BanWriter,
    check::{CheckBounds, Checker, Clock},
    key_watch::KeyWatch,
    ledger::{LedgerSecrets, LedgerTask},
    live::{ApiKeySources, FileCredentials, Live},
    readiness::Readiness,
    redis_keys::RedisKeys,
    reload::{FileSecrets, ReloadError, Reloader},
    section_secrets::{NONCES, RESERVATIONS, SectionSecrets},
    settler::Settler,
    status::Misfits,
    upstream_keys::UpstreamKeys,
    watch::Watch,
};
use crate::{
    config::{AdminCredentialConfig, File, LoadError, Loaded, ReporterConfig},
    credential::jwks::{KeySources, Timing},
    observe::{
        self, Observer,
        audit::{Audit, AuditError},
        metrics::Metrics,
        trace::{TraceError, Tracer},
    },
    secrets::{self, SecretError},
    store::{self, Opened, StoreError},
};

/// How long the store may take to return leased units, and those in escrow. Units that are not
/// returned expire.
const RETURN_LEASES: Duration = Duration::from_secs(2);

/// How long the last settlements may take to reach the store. The holds of the others expire.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(2);

/// How long the records of the last settlements may take. The others are made by another process.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// How long the last spans may take to reach the collector.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// How long the audit log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Decides checks under a configuration that can be reloaded, until it is closed.
///
/// An engine that is dropped without [`Engine::close`] stops its background tasks at once, and
/// loses audit lines and spans that are not written yet.
pub struct Engine {
    checker: Arc<Checker>,
    readiness: Arc<Readiness>,
    live: Arc<Live>,
    observer: Arc<Observer>,
    settler: Arc<Settler>,
    /// The writer of the ledger; `None` where the store is in memory.
    ledger: Option<LedgerTask>,
    store: Arc<Opened>,
    reloader: Arc<AsyncMutex<Reloader>>,
    admin_credentials: Arc<ArcSwap<Vec<AdminCredentialConfig>>>,
    reporters: Arc<ArcSwap<Vec<ReporterConfig>>>,
    /// The records of API keys that do not fit the policy, as they were last counted.
    misfits: Mutex<Misfits>,
    tasks: Mutex<JoinSet<()>>,
    /// Stops the background work of the store.
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// The reason why an engine does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An issuer's shared secret is missing or cannot be used.
    #[error("issuer `{issuer}`: {cause}")]
    IssuerSecret {
        /// The issuer's name in the configuration.
        issuer: String,
        /// What is wrong with the secret.
        cause: String,
    },
    /// An upstream key is missing or cannot be used.
    #[error("upstream_key: {0}")]
    UpstreamKey(SecretError),
    /// A secret of the section `metering` is missing or cannot be used.
    #[error("metering.secrets: {0}")]
    Metering(SecretError),
    /// A secret of the nonces of DPoP is missing or cannot be used.
    #[error("dpop.nonce.secrets: {0}")]
    Nonce(SecretError),
    /// A key of the ledger is missing or cannot be used.
    #[error("ledger.keys: {0}")]
    Ledger(SecretError),
    /// The authorities of client certificates are missing or cannot be used.
    #[error("client_certificates.authorities: {0}")]
    Authorities(SecretError),
    /// The file of API keys is missing or has errors.
    #[error("api_keys.file: {0}")]
    ApiKeys(LoadError),
    /// A file that `observe.tracing` names is missing or cannot be used.
    #[error(transparent)]
    Tracing(#[from] TraceError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A file that `store` names is missing or cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Starts an engine for a compiled configuration; `clock` is the time that checks are decided
    /// at. Call it inside a Tokio runtime.
    ///
    /// It waits for neither key servers nor the store: until the first keys are there, checks that
    /// need them are denied with 503 `not_ready`. [`Engine::readiness`] lists what is missing.
    ///
    /// # Errors
    /// Returns [`StartError`] for a secret, a certificate or an audit file that cannot be used.
    pub fn start(loaded: Loaded, clock: Clock) -> Result<Self, StartError> {
        let Loaded { file: File { server, .. }, policy, digest } = loaded;
        let max_stale = server.secrets.max_stale.std();
        check_issuer_secrets(&policy)?;
        let upstream_keys = UpstreamKeys::start(&policy.upstream_keys, max_stale)
            .map_err(StartError::UpstreamKey)?;
        let reservation_secrets = SectionSecrets::start(RESERVATIONS, &policy, max_stale)
            .map_err(StartError::Metering)?;
        let authorities =
            ClientAuthorities::start(&policy, max_stale).map_err(StartError::Authorities)?;
        let nonce_secrets =
            SectionSecrets::start(NONCES, &policy, max_stale).map_err(StartError::Nonce)?;
        let ledger = LedgerSecrets::start(&policy, max_stale).map_err(StartError::Ledger)?;
        let policy = Arc::new(policy);
        let api_keys = ApiKeyFile::start(&policy, max_stale).map_err(StartError::ApiKeys)?;
        let tracer = server.observe.tracing.as_ref().map(Tracer::start).transpose()?;
        let metrics = Arc::new(Metrics::new(&server.observe));
        let audit = Arc::new(Audit::start(&server.audit)?);
        let observer = Arc::new(Observer::new(metrics, audit).traced(tracer));
        observer.metrics().add_policy(&policy);
        observer.metrics().reloaded(observe::now(), true);
        let stop = CancellationToken::new();
        let store = Arc::new(store::open(&server.store, stop.clone())?);

        let key_sources = Arc::new(KeySources::new(Timing::default(), max_stale));
        // Subscribed before the first fetch starts, so that no change is missed.
        let key_changes = key_sources.changes();
        let sources = key_sources.apply(policy.issuers.list());
        let credentials = upstream_keys.credentials(&policy.upstream_keys);
        let mut redis_keys = RedisKeys::new(Arc::clone(&store), max_stale, stop.clone());
        let replica = redis_keys.prepare(&policy);
        let table = api_keys.as_ref().and_then(ApiKeyFile::table);
        let keys = ApiKeySources { file: table, redis: replica.clone() };
        let credentials =
            FileCredentials { upstream: credentials, authorities: authorities.current() };
        let live = Live::new(Arc::clone(&policy), sources, credentials, keys, server.token_cache);
        let live = Arc::new(live);
        live.replace_reservation_keys(reservation_secrets.keys());
        live.replace_nonce_keys(nonce_secrets.keys());
        redis_keys.installed(&policy, replica, &live);
        let settler = Settler::start(
            (Arc::clone(&store.store), store.local.clone()),
            Arc::clone(&live),
            Arc::clone(&observer),
        );
        let ledger_task = store.redis().map(|redis| {
            LedgerTask::start(Arc::clone(redis), ledger.slot(), Arc::clone(&observer))
        });
        let checker = Arc::new(Checker::new(
            Arc::clone(&live),
            Arc::clone(&store.store),
            store.local.clone(),
            Arc::clone(&observer),
            clock,
            CheckBounds { max_body: server.body.max.0, max_in_flight: server.body.max_in_flight.0 },
        ));
        let proxies = server.listen.trusted_proxies();
        let admin_credentials = Arc::new(ArcSwap::from_pointee(server.listen.credentials()));
        let reporters = Arc::new(ArcSwap::from_pointee(server.listen.reporters()));
        let reloader = Reloader::new(
            (server, digest),
            FileSecrets { upstream_keys, reservation_secrets, nonce_secrets, authorities, ledger },
            (api_keys, redis_keys),
            Arc::clone(&live),
            key_sources,
            Arc::clone(&observer),
            (Arc::clone(&admin_credentials), Arc::clone(&reporters)),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(take_over_keys(Arc::clone(&live), key_changes));
        let redis = store.redis().map(Arc::clone);
        let watch = KeyWatch::new(Arc::clone(&live), Arc::clone(&observer), redis);
        tasks.spawn(watch.run());
        let writer = BanWriter::new(Arc::clone(&live), Arc::clone(&store.store), proxies);
        tasks.spawn(writer.run());
        Ok(Self {
            checker,
            readiness: Arc::new(Readiness::new(Arc::clone(&live), Arc::clone(&store))),
            live,
            observer,
            settler,
            ledger: ledger_task,
            store,
            reloader: Arc::new(AsyncMutex::new(reloader)),
            admin_credentials,
            reporters,
            misfits: Mutex::default(),
            tasks: Mutex::new(tasks),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// The checker, which decides requests.
    pub fn checker(&self) -> &Arc<Checker> {
        &self.checker
    }

    /// Whether requests may be sent here, and what is missing otherwise.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// Metrics, audit log and spans.
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Takes reports of the usage of requests.
    pub fn settler(&self) -> &Arc<Settler> {
        &self.settler
    }

    /// Returns a function that returns the longest remaining life of a token that the policy in
    /// force accepts.
    pub fn longest_life(&self) -> impl Fn() -> Span + Send + Sync + 'static {
        let live = Arc::clone(&self.live);
        move || live.load().snapshot.policy.longest_life()
    }

    /// Returns a function that returns the names of the issuers of the policy in force.
    pub fn issuers(&self) -> impl Fn() -> Vec<Arc<str>> + Send + Sync + 'static {
        let live = Arc::clone(&self.live);
        move || {
            let state = live.load();
            state.snapshot.policy.issuer_names().collect()
        }
    }

    /// Returns a function that returns the policy in force.
    pub fn policy(&self) -> impl Fn() -> Arc<Policy> + Send + Sync + 'static {
        let live = Arc::clone(&self.live);
        move || Arc::clone(&live.load().snapshot.policy)
    }

    /// Returns a function that returns the credentials of the admin API that are in force.
    pub fn admin_credentials(
        &self,
    ) -> impl Fn() -> Arc<Vec<AdminCredentialConfig>> + Send + Sync + 'static {
        let credentials = Arc::clone(&self.admin_credentials);
        move || credentials.load_full()
    }

    /// Returns a function that returns the reporters of usage that are in force.
    pub fn reporters(&self) -> impl Fn() -> Arc<Vec<ReporterConfig>> + Send + Sync + 'static {
        let reporters = Arc::clone(&self.reporters);
        move || reporters.load_full()
    }

    /// The Redis of the store, which has records of API keys; `None` where the store is in memory.
    pub fn redis(&self) -> Option<&Arc<store::Redis>> {
        self.store.redis()
    }

    /// The store of limits and revocations.
    pub fn store(&self) -> &Arc<dyn store::Store> {
        &self.store.store
    }

    /// Puts another configuration in force. Checks go on meanwhile, under the previous one. The keys
    /// of new issuers are not waited for: until they are there, their tokens are denied with 503
    /// `not_ready`. Those of issuers whose key source has changed are, for less than a second. A
    /// route whose upstream key is missing is denied in the same way.
    ///
    /// # Errors
    /// [`ReloadError::NeedsRestart`] where the policy is in force, and other sections have changed
    /// as well. With every other error the previous configuration stays in force.
    pub async fn reload(&self, loaded: Loaded) -> Result<(), ReloadError> {
        let mut reloader = self.reloader.lock().await;
        let result = reloader.apply(loaded).await;
        reloader.report(&result);
        result
    }

    /// Reloads the file at `path` while its text differs from the configuration in force, until the
    /// engine is closed. The file must be the one that the engine was started with. Without a path
    /// only the files that the configuration names are read.
    pub fn watch(&self, path: impl Into<Option<PathBuf>>) -> Watch {
        let (watch, task) = watch::start(path.into(), Arc::clone(&self.reloader));
        self.tasks().spawn(task);
        watch
    }

    /// Ends the engine: it is not ready any more, settlements are sent, leased units are returned, waiting spans and
    /// audit lines are written. A shell ends its servers first. Each step has a bound in time;
    /// what is not done by then is logged.
    pub async fn close(&self) {
        self.readiness.drain();
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        if !self.settler.close(LAST_SETTLEMENTS).await {
            tracing::warn!("some settlements did not reach the store; their holds expire");
        }
        if let Some(ledger) = &self.ledger {
            ledger.close(LAST_RECORDS).await;
        }
        if timeout(RETURN_LEASES, self.store.close()).await.is_err() {
            tracing::warn!(
                "some units that this replica holds were not returned to the store; they expire"
            );
        }
        self.stop.cancel();
        if let Some(tracer) = self.observer.tracer()
            && !tracer.close(LAST_SPANS).await
        {
            tracing::warn!("some spans were not exported");
        }
        let observer = Arc::clone(&self.observer);
        // On a blocking thread: closing waits for the thread that writes.
        let closing = tokio::task::spawn_blocking(move || observer.audit().close(LAST_LINES));
        if !closing.await.unwrap_or(false) {
            tracing::warn!("some audit lines were not written");
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("missing", &self.readiness.missing()).finish_non_exhaustive()
    }
}

/// Puts the keys of the sources in force whenever they change.
async fn take_over_keys(live: Arc<Live>, mut changes: channel::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        live.refresh_keys();
    }
}

/// Reads the shared secrets at the start: a missing or short one is an error, not an issuer whose
/// tokens are all denied.
fn check_issuer_secrets(policy: &Policy) -> Result<(), StartError> {
    for issuer in policy.issuers.list() {
        let KeySource::Secret(source) = &issuer.source else { continue };
        let wrong = |cause: &dyn std::fmt::Display| StartError::IssuerSecret {
            issuer: if issuer.name.is_empty() { "absent".into() } else { issuer.name.to_string() },
            cause: cause.to_string(),
        };
        let secret = secrets::resolve_blocking(source).map_err(|error| wrong(&error))?;
        KeySet::from_secret(&secret, &issuer.algorithms).map_err(|error| wrong(&error))?;
    }
    Ok(())
}
