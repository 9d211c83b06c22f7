//! The sidecar: an [`Engine`] behind gRPC and HTTP servers, until a signal ends it.

mod servers;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tollgate_core::secret::Secret;

use self::servers::{AdminToken, Servers};
use crate::{
    adapter::{forward_auth::ForwardAuth, in_flight::InFlight},
    admin::{self, Admin, keys::KeyRecords, store::StoreRevocations},
    config::{AdminListenConfig, Loaded},
    engine::{Engine, check::Clock, watch::Watch},
    health::{self, Health, ReadinessReport},
    listener::{Address, Limits, Peer, Tls},
    log_list::LogList,
    observe::{
        self,
        exposition::{CertificateStatus, InFlightStatus, Status},
    },
    secrets::{SecretError, WatchedSecret},
};

/// How long a load balancer may take to notice that readiness is off, before connections are asked
/// to end.
const NOTICE: Duration = Duration::from_millis(500);

/// A running sidecar.
pub struct App {
    /// The address of the gRPC server, where there is one.
    pub grpc: Option<Address>,
    /// The address for Envoy's access log, where there is one.
    pub access_log: Option<Address>,
    /// The addresses of the HTTP servers for checks, in the order of `listen.http`.
    pub http: Vec<Address>,
    /// The address of health and metrics.
    pub ops: Address,
    /// The address of the admin API.
    pub admin: Option<Address>,
    engine: Arc<Engine>,
    certificates: Vec<Tls>,
    admin_token: Option<(WatchedSecret, AdminToken)>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("grpc", &self.grpc)
            .field("access_log", &self.access_log)
            .field("http", &self.http)
            .field("ops", &self.ops)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// Serves the file at `path`, which was loaded as `loaded`, until SIGTERM or Ctrl-C. SIGHUP reloads
/// the file. Without a path the configuration is not reloaded.
///
/// # Errors
/// The errors of [`App::start`], and a signal that cannot be handled.
pub async fn serve(path: Option<PathBuf>, loaded: Loaded) -> anyhow::Result<()> {
    let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
    let mut hangup = listen(SignalKind::hangup(), "SIGHUP")?;
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    let mut app = App::start(loaded, Arc::new(observe::now)).await?;
    let http = LogList::of(&app.http);
    let admin = app.admin.as_ref().map(tracing::field::display);
    let grpc = app.grpc.as_ref().map(tracing::field::display);
    let access_log = app.access_log.as_ref().map(tracing::field::display);
    tracing::info!(grpc, http = http.value(), access_log, ops = %app.ops, admin, "listening");
    let watch = app.watch(path);
    loop {
        tokio::select! {
            _ = hangup.recv() => watch.request_reload(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("shutting down");
    app.stop().await;
    Ok(())
}

impl App {
    /// Starts an engine and binds every listener. It answers checks as soon as it returns, with 503
    /// `not_ready` while keys are missing.
    ///
    /// # Errors
    /// The errors of [`Engine::start`], an admin token that is missing or too weak, and an address
    /// that cannot be bound.
    pub async fn start(loaded: Loaded, clock: Clock) -> anyhow::Result<Self> {
        let server = &loaded.file.server;
        let (listen, body) = (server.listen.clone(), server.body);
        let (drain, max_stale) = (server.drain_timeout.std(), server.secrets.max_stale.std());
        let engine = Arc::new(Engine::start(loaded, clock)?);
        let (max, max_in_flight) = (body.max.0 as u64, body.max_in_flight.0 as u64);
        let in_flight = InFlight::new(max, max_in_flight)?;
        let mut servers = Servers::new(drain);
        let grpc = match listen.grpc() {
            Some(config) => Some(servers.grpc(&config, &in_flight, &engine).await?),
            None => None,
        };
        let access_log = match &listen.access_log {
            Some(config) => Some(servers.access_log(config, &engine).await?),
            None => None,
        };
        let mut http = Vec::with_capacity(listen.http.len());
        for (index, config) in listen.http.iter().enumerate() {
            let checker = Arc::clone(engine.checker());
            let front = ForwardAuth::new(config.clone(), checker, in_flight.clone());
            let handler = move |request| {
                let front = front.clone();
                async move { front.answer(request).await }
            };
            let key = format!("listen.http[{index}]");
            http.push(servers.http(&key, &config.listener(), Limits::default(), handler).await?);
        }
        // Set below, when every listener is bound.
        let certificates: Arc<OnceLock<Vec<Tls>>> = Arc::default();
        let health = Arc::new(health_of(&engine, in_flight, Arc::clone(&certificates)));
        let handler = move |request| {
            let health = Arc::clone(&health);
            async move { health::handle(&health, request).await }
        };
        let ops = servers.http("listen.ops", &listen.ops, Limits::for_operators(), handler).await?;
        let (admin, admin_token) = match &listen.admin {
            Some(config) => {
                let secret = admin_token(config, max_stale)?;
                let token = AdminToken::new(&secret, engine.observer().metrics());
                let address = serve_admin(&mut servers, config, token.clone(), &engine).await?;
                (Some(address), Some((secret, token)))
            }
            None => (None, None),
        };
        let Servers { tasks, stop, certificates: bound, .. } = servers;
        certificates.get_or_init(|| bound.clone());
        let certificates = bound;
        Ok(Self {
            grpc,
            access_log,
            http,
            ops,
            admin,
            engine,
            certificates,
            admin_token,
            stop,
            tasks,
        })
    }

    /// The engine behind the servers.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ends the sidecar: readiness is off, load balancers get a moment to notice, no connection is
    /// accepted, checks in flight finish within `drain_timeout`, and the engine is closed.
    pub async fn stop(mut self) {
        self.engine.readiness().drain();
        tokio::time::sleep(NOTICE).await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.engine.close().await;
    }
}

impl App {
    /// Watches the configuration file at `path`, the certificate files of the listeners, and the
    /// file of the admin token.
    fn watch(&mut self, path: Option<PathBuf>) -> Watch {
        let watch = self.engine.watch(path);
        for tls in self.certificates.drain(..) {
            self.tasks.spawn(servers::reload_certificates(tls, watch.rounds(), self.stop.clone()));
        }
        if let Some((secret, token)) = self.admin_token.take() {
            let (rounds, stop) = (watch.rounds(), self.stop.clone());
            self.tasks.spawn(servers::reload_admin_token(secret, token, rounds, stop));
        }
        watch
    }
}

/// The handlers of health and metrics.
fn health_of(
    engine: &Arc<Engine>,
    in_flight: InFlight,
    certificates: Arc<OnceLock<Vec<Tls>>>,
) -> Health {
    let readiness = Arc::clone(engine.readiness());
    let for_status = Arc::clone(engine);
    let status = move || Status {
        in_flight: Some(InFlightStatus {
            bytes: in_flight.taken() as u64,
            limit: in_flight.total() as u64,
        }),
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
    Health::new(Arc::clone(engine.observer()), report, status)
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
