//! The servers for operators: health and metrics, and the administration API.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tollgate_core::secret::Secret;

use super::servers::{self, AdminToken, Servers};
use crate::{
    admin::{self, Admin, keys::KeyRecords, store::StoreRevocations, usage::UsageSums},
    config::{AdminListenConfig, ListenConfig},
    engine::{Engine, watch::Watch},
    health::{self, Health, ReadinessReport},
    listener::{Address, Limits, Peer, Tls},
    observe::exposition::{CertificateStatus, InFlightStatus, Status},
    secrets::{SecretError, WatchedSecret},
};

/// The admin token of the start, for [`OperatorServers::start`].
#[derive(Debug)]
pub struct AdminSecret(Option<WatchedSecret>);

impl AdminSecret {
    /// Reads the admin token of a configuration, where there is one.
    ///
    /// # Errors
    /// A token that cannot be read or is too weak.
    pub fn read(listen: &ListenConfig, max_stale: Duration) -> anyhow::Result<Self> {
        let config = listen.admin.as_ref();
        Ok(Self(config.map(|config| admin_token(config, max_stale)).transpose()?))
    }
}

/// The servers for operators, beside those of a sidecar or inside of a proxy.
pub struct OperatorServers {
    /// The address of health and metrics.
    pub ops: Address,
    /// The address of the admin API.
    pub admin: Option<Address>,
    servers: Servers,
    bound: BoundOperators,
}

impl std::fmt::Debug for OperatorServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ops, admin, .. } = self;
        f.debug_struct("OperatorServers").field("ops", ops).field("admin", admin).finish()
    }
}

impl OperatorServers {
    /// Binds the listeners `ops` and `admin` of `listen`, for a shell without other listeners.
    /// `in_flight` is the state of the bodies that the shell holds.
    ///
    /// # Errors
    /// An address that cannot be bound, and a certificate that cannot be used.
    pub async fn start(
        engine: &Arc<Engine>,
        listen: &ListenConfig,
        token: AdminSecret,
        drain: Duration,
        in_flight: impl Fn() -> InFlightStatus + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let mut servers = Servers::new(drain);
        let bound = bind(&mut servers, engine, listen, token, in_flight).await?;
        bound.show_certificates(&servers);
        let (ops, admin) = (bound.ops.clone(), bound.admin.clone());
        Ok(Self { ops, admin, servers, bound })
    }

    /// Serves until the runtime ends; the files of certificates and of the admin token are read
    /// again in the rounds of `watch`.
    pub async fn serve(mut self, watch: &Watch) {
        for tls in self.servers.certificates.drain(..) {
            let reloading =
                servers::reload_certificates(tls, watch.rounds(), self.servers.stop.clone());
            self.servers.tasks.spawn(reloading);
        }
        if let Some((secret, token)) = self.bound.token.take() {
            let (rounds, stop) = (watch.rounds(), self.servers.stop.clone());
            self.servers.tasks.spawn(servers::reload_admin_token(secret, token, rounds, stop));
        }
        while self.servers.tasks.join_next().await.is_some() {}
    }
}

/// The servers for operators that were bound.
pub(super) struct BoundOperators {
    pub(super) ops: Address,
    pub(super) admin: Option<Address>,
    pub(super) token: Option<(WatchedSecret, AdminToken)>,
    certificates: Arc<OnceLock<Vec<Tls>>>,
}

impl BoundOperators {
    /// Shows the certificates of all listeners, when every listener is bound.
    pub(super) fn show_certificates(&self, servers: &Servers) {
        self.certificates.get_or_init(|| servers.certificates.clone());
    }
}

/// Binds the listeners `ops` and `admin`.
///
/// # Errors
/// An address that cannot be bound, and a certificate that cannot be used.
pub(super) async fn bind(
    servers: &mut Servers,
    engine: &Arc<Engine>,
    listen: &ListenConfig,
    AdminSecret(secret): AdminSecret,
    in_flight: impl Fn() -> InFlightStatus + Send + Sync + 'static,
) -> anyhow::Result<BoundOperators> {
    let certificates: Arc<OnceLock<Vec<Tls>>> = Arc::default();
    let health = Arc::new(health_of(engine, in_flight, Arc::clone(&certificates)));
    let handler = move |request| {
        let health = Arc::clone(&health);
        async move { health::handle(&health, request).await }
    };
    let ops = servers.http("listen.ops", &listen.ops, Limits::for_operators(), handler).await?;
    let (admin, token) = match (&listen.admin, secret) {
        (Some(config), Some(secret)) => {
            let token = AdminToken::new(&secret, engine.observer().metrics());
            let address = serve_admin(servers, config, token.clone(), engine).await?;
            (Some(address), Some((secret, token)))
        }
        _ => (None, None),
    };
    Ok(BoundOperators { ops, admin, token, certificates })
}

/// The handlers of health and metrics.
fn health_of(
    engine: &Arc<Engine>,
    in_flight: impl Fn() -> InFlightStatus + Send + Sync + 'static,
    certificates: Arc<OnceLock<Vec<Tls>>>,
) -> Health {
    let readiness = Arc::clone(engine.readiness());
    let for_status = Arc::clone(engine);
    let status = move || Status {
        in_flight: Some(in_flight()),
        certificates: certificates.get().into_iter().flatten().filter_map(certificate).collect(),
        ..for_status.status()
    };
    let report = move || {
        let mut missing = readiness.missing();
        let ready = missing.is_empty();
        if ready {
            missing = readiness.unusable();
        }
        ReadinessReport { ready, missing }
    };
    let policy = engine.policy();
    Health::new(Arc::clone(engine.observer()), report, status, move || Some(policy()))
}

/// The state of the certificates of a listener.
fn certificate(tls: &Tls) -> Option<CertificateStatus> {
    let validity = tls.validity()?;
    Some(CertificateStatus {
        listener: tls.key().to_owned(),
        not_before: validity.not_before.as_secs(),
        not_after: validity.not_after.as_secs(),
    })
}

async fn serve_admin(
    servers: &mut Servers,
    config: &AdminListenConfig,
    token: AdminToken,
    engine: &Engine,
) -> anyhow::Result<Address> {
    let revocations = StoreRevocations(Arc::clone(engine.store()));
    let audit = Arc::clone(engine.observer().audit());
    let admin = Admin::new(revocations, move || token.get(), engine.longest_life(), audit);
    let records = engine.redis().map(|redis| Arc::clone(redis) as Arc<dyn KeyRecords>);
    let admin = admin.with_issuers(engine.issuers()).with_keys(records, engine.policy());
    let sums = engine.redis().map(|redis| Arc::clone(redis) as Arc<dyn UsageSums>);
    let admin = admin.with_usage(sums, engine.policy()).with_offenders(engine.offenders());
    let admin = admin.with_credentials(engine.admin_credentials());
    let handlers = Arc::new(admin);
    let handler = move |request: http::Request<_>| {
        let handlers = Arc::clone(&handlers);
        let peer = request.extensions().get::<Peer>().and_then(Peer::ip);
        async move { admin::handle(&handlers, peer, request).await }
    };
    servers.http("listen.admin", &config.listener(), Limits::for_operators(), handler).await
}

/// Reads the admin token for the start.
///
/// # Errors
/// A token that cannot be read or is too weak.
fn admin_token(config: &AdminListenConfig, max_stale: Duration) -> anyhow::Result<WatchedSecret> {
    let check = |token: &Secret| {
        admin::check_token(token).map_err(|weak| SecretError::Unusable(Box::new(weak)))
    };
    WatchedSecret::start(&config.token, max_stale, check)
        .map_err(|error| anyhow::anyhow!("listen.admin.token: {error}"))
}
