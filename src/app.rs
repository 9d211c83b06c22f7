//! The composition root: builds the rooms, binds the listeners, gets ready, drains.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    credential::jwt::{issuer::KeySource, key_set::KeySet},
    policy::Policy,
    secret::Secret,
};
use tollgate_grpc_unary::Services;

use crate::{
    adapter::{
        ext_authz::{CHECK_PATH, EnvoyAuthorization},
        forward_auth::ForwardAuth,
        grpc_health,
        in_flight::InFlight,
    },
    admin::{self, Admin, store::StoreRevocations},
    check::{Checker, Clock},
    config::{AdminListenConfig, File, Loaded},
    credential::jwks::Engine,
    engine::{live::Live, readiness::Readiness, reload::Reloader},
    health::{self, Ops},
    listener::{self, Address, Listener, ListenerConfig, Peer, Protocol, Tls},
    observe::{
        self, Observer,
        audit::Audit,
        exposition::{InFlightStatus, JwksStatus, Status, TokenStatus},
        metrics::Metrics,
        trace::Tracer,
    },
    secrets,
    store::{self, Opened},
};

/// How long a load balancer gets to notice that readiness is off before connections are asked to end.
const NOTICE: Duration = Duration::from_millis(500);

/// How long the audit log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How long the store may take to give back what it holds ahead of need; what it cannot give back comes back with time.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// How long the last spans may take to reach the collector.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// How often gRPC health is brought in step with readiness.
const HEALTH_EVERY: Duration = Duration::from_millis(100);

/// A gate that answers, until it is stopped.
pub struct App {
    /// Where gRPC is served.
    pub grpc: Address,
    /// Where proxies ask over HTTP, in the order of `listen.http`.
    pub http: Vec<Address>,
    /// Where health and metrics are served.
    pub ops: Address,
    /// Where the admin API is served.
    pub admin: Option<Address>,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    live: Arc<Live>,
    engine: Arc<Engine>,
    observer: Arc<Observer>,
    store: Arc<dyn store::Store>,
    looked: Arc<Notify>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("grpc", &self.grpc)
            .field("http", &self.http)
            .field("ops", &self.ops)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// Serves the file at `path` until a signal ends it.
///
/// # Errors
/// Whatever stops the start: see [`App::start`].
pub async fn serve(path: PathBuf, loaded: Loaded) -> anyhow::Result<()> {
    let file = loaded.file.clone();
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut app = App::start(loaded, Arc::new(observe::now)).await?;
    let http: Vec<String> = app.http.iter().map(ToString::to_string).collect();
    tracing::info!(grpc = %app.grpc, ?http, ops = %app.ops, admin = app.admin.as_ref().map(tracing::field::display), "listening");
    app.watch(path, &file, hangup);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("shutting down");
    app.stop().await;
    Ok(())
}

impl App {
    /// Builds every room and binds every listener. Answers checks as soon as it returns, with 503 `not_ready` where keys are
    /// still missing.
    ///
    /// # Errors
    /// A secret that cannot be read or is too short, an address that cannot be bound, a store that is not well configured.
    pub async fn start(loaded: Loaded, clock: Clock) -> anyhow::Result<Self> {
        let Loaded { file, policy } = loaded;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();

        check_secrets(&policy)?;
        let upstream_keys = secrets::upstream_credentials(&policy.upstream_keys)?;
        let tracer = file.observe.tracing.as_ref().map(Tracer::start).transpose()?;
        let observer = Observer::new(
            Arc::new(Metrics::new(&file.observe)),
            Arc::new(Audit::start(&file.audit)?),
        );
        let observer = Arc::new(observer.traced(tracer));
        observer.metrics().add_policy(&policy);
        observer.metrics().reloaded(observe::now(), true);
        let store = store::open(&file.store, stop.clone())?;

        // The engine speaks up before the live state exists, so it finds it through a cell that is filled right after.
        let cell: Arc<OnceLock<Arc<Live>>> = Arc::default();
        let engine = Arc::new(Engine::new({
            let cell = Arc::clone(&cell);
            Arc::new(move || {
                if let Some(live) = cell.get() {
                    live.refresh_keys();
                }
            })
        }));
        let sources = engine.apply(policy.issuers.list());
        let live = Arc::new(Live::new(Arc::new(policy), sources, upstream_keys, file.token_cache));
        let live = Arc::clone(cell.get_or_init(|| live));
        // What arrived between `apply` and now.
        live.refresh_keys();

        let readiness = Arc::new(Readiness::new(Arc::clone(&live)));
        let checker = Arc::new(Checker::new(
            Arc::clone(&live),
            Arc::clone(&store.store),
            store.local.clone(),
            Arc::clone(&observer),
            clock,
            file.body.max.0,
        ));
        let looked = Arc::new(Notify::new());
        let drain = file.drain_timeout.std();
        let mut servers = Servers { tasks: &mut tasks, stop: &stop, looked: &looked, drain };
        let in_flight = InFlight::new(file.body.max.0 as u64, file.body.max_in_flight.0 as u64)?;
        let grpc =
            servers.grpc(&file.listen.grpc, &in_flight, Arc::clone(&checker), &readiness).await?;
        let mut http = Vec::with_capacity(file.listen.http.len());
        for config in &file.listen.http {
            let front = ForwardAuth::new(config.clone(), Arc::clone(&checker), in_flight.clone());
            let handler = move |request| {
                let front = front.clone();
                async move { front.answer(request).await }
            };
            http.push(servers.http(&config.listener(), handler).await?);
        }
        let handlers = Arc::new(Ops::new(
            Arc::clone(&observer),
            missing(&readiness),
            status(
                Arc::clone(&live),
                Opened { store: Arc::clone(&store.store), local: store.local.clone() },
                Arc::clone(&readiness),
                in_flight,
            ),
        ));
        let ops = servers.http(&file.listen.ops, move |request| {
            let handlers = Arc::clone(&handlers);
            async move { health::handle(&handlers, request).await }
        });
        let ops = ops.await?;
        let admin = match &file.listen.admin {
            None => None,
            Some(config) => {
                let revocations = StoreRevocations(Arc::clone(&store.store));
                let handlers = Arc::new(Admin::new(
                    revocations,
                    admin_token(config)?,
                    Arc::clone(observer.audit()),
                ));
                let handler = move |request: http::Request<_>| {
                    let handlers = Arc::clone(&handlers);
                    let peer = request.extensions().get::<Peer>().and_then(Peer::ip);
                    async move { admin::handle(&handlers, peer, request).await }
                };
                Some(servers.http(&config.listener(), handler).await?)
            }
        };
        Ok(Self {
            grpc,
            http,
            ops,
            admin,
            readiness,
            live,
            engine,
            observer,
            store: store.store,
            looked,
            stop,
            tasks,
        })
    }

    /// Looks at the file and at secrets from now on.
    fn watch(&mut self, path: PathBuf, file: &File, hangup: tokio::signal::unix::Signal) {
        let (live, engine, observer) =
            (Arc::clone(&self.live), Arc::clone(&self.engine), Arc::clone(&self.observer));
        let reloader = Reloader::new(path, file, live, engine, observer, Arc::clone(&self.looked));
        self.tasks.spawn(reloader.run(hangup, self.stop.clone()));
    }

    /// Readiness off, a moment for load balancers, no new connections, checks in flight finish within `drain_timeout`.
    pub async fn stop(mut self) {
        self.readiness.drain();
        tokio::time::sleep(NOTICE).await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let _not_all = tokio::time::timeout(GIVE_BACK, self.store.close()).await;
        if let Some(tracer) = self.observer.tracer()
            && !tracer.close(LAST_SPANS).await
        {
            tracing::warn!("some spans were not exported");
        }
        let observer = Arc::clone(&self.observer);
        // Off the runtime: it waits for a thread.
        if !tokio::task::spawn_blocking(move || observer.audit().close(LAST_LINES))
            .await
            .unwrap_or(false)
        {
            tracing::warn!("some audit lines were not written");
        }
    }
}

/// Shared secrets are read at the start, so that a missing or short one is an error and not an issuer nobody can use.
fn check_secrets(policy: &Policy) -> anyhow::Result<()> {
    for issuer in policy.issuers.list() {
        if let KeySource::Secret(source) = &issuer.source {
            let set = secrets::resolve(source).map_err(anyhow::Error::from).and_then(|secret| {
                KeySet::from_secret(&secret, &issuer.algorithms).map_err(anyhow::Error::msg)
            });
            if let Err(error) = set {
                bail!(
                    "issuer `{}`: {error}",
                    if issuer.name.is_empty() { "absent" } else { &*issuer.name }
                );
            }
        }
    }
    Ok(())
}

/// What `/readyz` asks.
fn missing(readiness: &Arc<Readiness>) -> impl Fn() -> health::Readiness + Send + Sync + 'static {
    let readiness = Arc::clone(readiness);
    move || health::Readiness { missing: readiness.missing() }
}

/// What `/metrics` asks the other rooms.
fn status(
    live: Arc<Live>,
    opened: Opened,
    readiness: Arc<Readiness>,
    in_flight: InFlight,
) -> impl Fn() -> Status + Send + Sync + 'static {
    move || {
        let state = live.load();
        let jwks = state.sources.iter().map(|source| {
            let status = source.status();
            JwksStatus {
                issuer: status.issuer.to_string(),
                keys: status.keys as u64,
                age_seconds: status.age.map(|age| age.as_secs_f64()),
                ok: status.fetches_ok,
                failed: status.fetches_failed,
            }
        });
        let (entries, bytes) = state.tokens.held();
        Status {
            ready: readiness.missing().is_empty(),
            jwks: jwks.collect(),
            store: Some(opened.store.status()),
            local: opened.local.as_ref().map(|local| local.status()),
            tokens: TokenStatus { lookups: live.lookups().by_result(), entries, bytes },
            in_flight: InFlightStatus {
                bytes: in_flight.taken() as u64,
                limit: in_flight.total() as u64,
            },
        }
    }
}

/// The admin token as it is at each call. One that cannot be read, or is too weak, stops the start.
fn admin_token(
    config: &AdminListenConfig,
) -> anyhow::Result<impl Fn() -> Option<Secret> + Send + Sync + 'static> {
    let token = secrets::resolve(&config.token).context("listen.admin.token")?;
    admin::check_token(&token).context("listen.admin.token")?;
    let source = config.token.clone();
    Ok(move || secrets::resolve(&source).ok())
}

struct Servers<'a> {
    tasks: &'a mut JoinSet<()>,
    stop: &'a CancellationToken,
    looked: &'a Arc<Notify>,
    drain: Duration,
}

impl Servers<'_> {
    async fn grpc(
        &mut self,
        config: &ListenerConfig,
        in_flight: &InFlight,
        checker: Arc<Checker>,
        readiness: &Arc<Readiness>,
    ) -> anyhow::Result<Address> {
        let (health, health_server) = grpc_health::health();
        self.tasks.spawn(keep_health(health, Arc::clone(readiness), self.stop.clone()));
        let listener = Listener::bind(config, Protocol::Grpc).await?;
        let address = self.watch_certificates(&listener);
        let services = Services::new()
            .unary(CHECK_PATH, EnvoyAuthorization::new(checker, in_flight.clone()))
            .generated(health_server);
        let serving = listener::serve_grpc(listener, services, self.stop.clone(), self.drain);
        self.tasks.spawn(serving);
        Ok(address)
    }

    async fn http<H, F, B>(
        &mut self,
        config: &ListenerConfig,
        handler: H,
    ) -> anyhow::Result<Address>
    where
        H: Fn(http::Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = http::Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<listener::BoxError>,
    {
        let listener = Listener::bind(config, Protocol::Http).await?;
        let address = self.watch_certificates(&listener);
        let service = tower::service_fn(move |request| {
            let response = handler(request);
            async move { Ok::<_, std::convert::Infallible>(response.await) }
        });
        let service = hyper_util::service::TowerToHyperService::new(service);
        self.tasks.spawn(listener::serve(listener, service, self.stop.clone(), self.drain));
        Ok(address)
    }

    /// Certificates are read again whenever files are looked at.
    fn watch_certificates(&mut self, listener: &Listener) -> Address {
        if let Some(tls) = listener.tls().cloned() {
            self.tasks.spawn(keep_certificates(tls, Arc::clone(self.looked), self.stop.clone()));
        }
        listener.address().clone()
    }
}

async fn keep_certificates(tls: Tls, looked: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = looked.notified() => {}
        }
        if let Err(error) = tls.reload() {
            tracing::warn!(
                "the certificates were not read again, the last good ones stay: {error}"
            );
        }
    }
}

async fn keep_health(
    health: tonic_health::server::HealthReporter,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(HEALTH_EVERY);
    loop {
        if readiness.missing().is_empty() {
            health.set_serving::<EnvoyAuthorization>().await;
            health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        } else {
            health.set_not_serving::<EnvoyAuthorization>().await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
    }
}
