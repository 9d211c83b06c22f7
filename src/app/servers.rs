//! The servers of the sidecar: listeners, the tasks that serve them, and what follows from their
//! files and from readiness.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tollgate_core::secret::Secret;
use tollgate_grpc_unary::Services;

use crate::{
    adapter::{
        access_log,
        ext_authz::{CHECK_PATH, EnvoyAuthorization},
        ext_proc, grpc_health,
        in_flight::InFlight,
        settle_api::SettleApi,
    },
    config::SettleListenConfig,
    engine::{Engine, readiness::Readiness},
    listener::{
        self, Address, InheritedSockets, Limits, Listener, ListenerConfig, Protocol, SharedSocket,
        Tls,
    },
    observe::metrics::Metrics,
    secrets::{Look, WatchedSecret},
};

/// How often gRPC health follows readiness.
const HEALTH_EVERY: Duration = Duration::from_millis(100);

/// Servers that run until `stop` is cancelled, and then for `drain` at most.
pub(super) struct Servers {
    pub(super) tasks: JoinSet<()>,
    pub(super) stop: CancellationToken,
    /// The certificates of the listeners with TLS.
    pub(super) certificates: Vec<Tls>,
    /// The sockets of the listeners, where another process may take them over.
    pub(super) shared: Vec<SharedSocket>,
    start: StartSockets,
    drain: Duration,
}

/// The sockets that a process starts with.
#[derive(Debug, Default)]
pub(super) struct StartSockets {
    /// Those that another process opened.
    pub(super) inherited: InheritedSockets,
    /// Whether another process may take the sockets over.
    pub(super) are_shared: bool,
    /// No listener accepts connections before this is cancelled; `None` where each does at once.
    pub(super) begin: Option<CancellationToken>,
}

impl Servers {
    /// Creates an empty set of servers.
    pub(super) fn new(drain: Duration) -> Self {
        Self::on(StartSockets::default(), drain)
    }

    /// Creates an empty set of servers, which use the sockets of `start`.
    pub(super) fn on(start: StartSockets, drain: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            certificates: Vec::new(),
            shared: Vec::new(),
            start,
            drain,
        }
    }

    /// The sockets that no listener has taken.
    pub(super) fn inherited(&mut self) -> &mut InheritedSockets {
        &mut self.start.inherited
    }

    /// Serves Envoy's ext_authz and gRPC health.
    pub(super) async fn grpc(
        &mut self,
        config: &ListenerConfig,
        in_flight: &InFlight,
        engine: &Engine,
    ) -> anyhow::Result<Address> {
        let limits = Limits::default();
        let listener = self.open("listen.grpc", config, Protocol::Grpc, limits).await?;
        let address = listener.address().clone();
        let checker = Arc::clone(engine.checker());
        let checks = EnvoyAuthorization::new(checker, in_flight.clone());
        let (health, services) =
            grpc_health::add(Services::new().unary(CHECK_PATH, checks), in_flight);
        let readiness = Arc::clone(engine.readiness());
        self.tasks.spawn(follow_readiness(health, readiness, self.stop.clone()));
        let serving = listener::serve_grpc(listener, services, self.stop.clone(), self.drain);
        self.spawn(serving);
        Ok(address)
    }

    /// Serves Envoy's access log, which settles requests.
    pub(super) async fn access_log(
        &mut self,
        config: &ListenerConfig,
        engine: &Engine,
    ) -> anyhow::Result<Address> {
        let (key, limits) = ("listen.access_log", Limits::for_long_streams());
        let listener = self.open(key, config, Protocol::Grpc, limits).await?;
        let address = listener.address().clone();
        let settler = Arc::clone(engine.settler());
        settler.show_counters();
        let services = access_log::add(Services::new(), settler, self.stop.clone());
        let serving = listener::serve_grpc(listener, services, self.stop.clone(), self.drain);
        self.spawn(serving);
        Ok(address)
    }

    /// Serves Envoy's external processing, which settles requests.
    pub(super) async fn ext_proc(
        &mut self,
        config: &ListenerConfig,
        engine: &Engine,
    ) -> anyhow::Result<Address> {
        let (key, limits) = ("listen.ext_proc", Limits::for_responses());
        let listener = self.open(key, config, Protocol::Grpc, limits).await?;
        let address = listener.address().clone();
        let services = ext_proc::add(
            Services::new(),
            Arc::clone(engine.settler()),
            Arc::clone(engine.checker()),
        );
        let serving = listener::serve_grpc(listener, services, self.stop.clone(), self.drain);
        self.spawn(serving);
        Ok(address)
    }

    /// Serves reports of usage over HTTP, which settle requests.
    pub(super) async fn settle(
        &mut self,
        config: &SettleListenConfig,
        engine: &Engine,
    ) -> anyhow::Result<Address> {
        let settler = Arc::clone(engine.settler());
        settler.show_counters();
        let listener = config.listener();
        let api = SettleApi::new(settler, engine.reporters(), listener.authenticates_peers());
        let handler = move |request| {
            let api = api.clone();
            async move { api.answer(request).await }
        };
        self.http("listen.settle", &listener, Limits::for_operators(), handler).await
    }

    /// Serves HTTP with `handler`. `key` is the listener's place in the file.
    pub(super) async fn http<H, F, B>(
        &mut self,
        key: &str,
        config: &ListenerConfig,
        limits: Limits,
        handler: H,
    ) -> anyhow::Result<Address>
    where
        H: Fn(http::Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = http::Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<listener::BoxError>,
    {
        let listener = self.open(key, config, Protocol::Http, limits).await?;
        let address = listener.address().clone();
        let service = tower::service_fn(move |request| {
            let response = handler(request);
            async move { Ok::<_, std::convert::Infallible>(response.await) }
        });
        let service = hyper_util::service::TowerToHyperService::new(service);
        let serving = listener::serve(listener, service, self.stop.clone(), self.drain);
        self.spawn(serving);
        Ok(address)
    }

    /// Opens a listener, on the socket that another process opened for it if there is one.
    async fn open(
        &mut self,
        key: &str,
        config: &ListenerConfig,
        protocol: Protocol,
        limits: Limits,
    ) -> anyhow::Result<Listener> {
        let inherited = self.start.inherited.take(key, &config.address);
        let listener = Listener::bind_on(key, config, protocol, limits, inherited).await?;
        if self.start.are_shared {
            self.shared.push(listener.share(key, &config.address)?);
        }
        self.certificates.extend(listener.tls().cloned());
        Ok(listener)
    }

    /// Runs a server, from the moment on at which listeners accept connections.
    fn spawn(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        let (begin, stop) = (self.start.begin.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Some(begin) = begin {
                tokio::select! {
                    () = begin.cancelled() => {}
                    // The server stops at once then.
                    () = stop.cancelled() => {}
                }
            }
            serving.await;
        });
    }
}

/// Reads a listener's certificates again after each round of the watched files.
pub(super) async fn reload_certificates(
    tls: Tls,
    mut rounds: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let mut failure = None;
    while let Some(Ok(())) = stop.run_until_cancelled(rounds.changed()).await {
        let certificates = tls.clone();
        // On a blocking thread: reading and parsing must not delay checks.
        let reloading = tokio::task::spawn_blocking(move || certificates.reload_if_settled());
        let Some(Ok(reloaded)) = stop.run_until_cancelled(reloading).await else { continue };
        let error = reloaded.err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|_| error != failure) {
            tracing::warn!("certificate reload failed, keeping the previous one: {error}");
        }
        failure = error;
    }
}

/// The admin token in memory: a call of the admin API opens no file.
#[derive(Clone)]
pub(super) struct AdminToken {
    in_force: Arc<ArcSwapOption<Secret>>,
    metrics: Arc<Metrics>,
}

impl AdminToken {
    /// Starts with the token of the start.
    pub(super) fn new(secret: &WatchedSecret, metrics: &Arc<Metrics>) -> Self {
        let token = Self { in_force: Arc::default(), metrics: Arc::clone(metrics) };
        token.set(secret);
        token
    }

    /// Returns the token in force.
    pub(super) fn get(&self) -> Option<Secret> {
        self.in_force.load().as_deref().cloned()
    }

    fn set(&self, secret: &WatchedSecret) {
        self.in_force.store(secret.current().cloned().map(Arc::new));
        self.metrics.set_secrets("admin_token", secret.status().into_iter().collect());
    }
}

/// Reads the admin token again after each round of the watched files.
pub(super) async fn reload_admin_token(
    mut secret: WatchedSecret,
    token: AdminToken,
    mut rounds: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(rounds.changed()).await {
        let Some(look) = stop.run_until_cancelled(secret.look()).await else { return };
        match look {
            Look::Unchanged | Look::Failed { is_new: false, .. } => {}
            Look::Changed => tracing::info!("admin token reloaded"),
            Look::Failed { error, is_new: true } => {
                tracing::warn!(
                    "admin token reload failed, keeping the previous one for \
                     `secrets.max_stale`: {error}"
                );
            }
            Look::Lapsed(error) => {
                tracing::error!(
                    "the admin token is older than `secrets.max_stale` and no longer used, the \
                     admin API is closed: {error}"
                );
            }
        }
        token.set(&secret);
    }
}

/// Reports readiness as gRPC health.
async fn follow_readiness(
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
