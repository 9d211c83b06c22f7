//! The sidecar: an [`Engine`] behind gRPC and HTTP servers, until a signal ends it.

mod operators;
mod servers;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use self::operators::{AdminSecret, OperatorServers};
use self::{
    operators::BoundOperators,
    servers::{AdminToken, Servers},
};
use crate::{
    adapter::{forward_auth::ForwardAuth, in_flight::InFlight},
    config::Loaded,
    engine::{Engine, check::Clock, watch::Watch},
    listener::{Address, Limits, Tls},
    log_list::LogList,
    observe::{self, exposition::InFlightStatus},
    secrets::WatchedSecret,
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
    /// The address for Envoy's external processing, where there is one.
    pub ext_proc: Option<Address>,
    /// The address for reports of usage over HTTP, where there is one.
    pub settle: Option<Address>,
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
            .field("ext_proc", &self.ext_proc)
            .field("settle", &self.settle)
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
    let ext_proc = app.ext_proc.as_ref().map(tracing::field::display);
    let settle = app.settle.as_ref().map(tracing::field::display);
    let http = http.value();
    tracing::info!(grpc, http, access_log, ext_proc, settle, ops = %app.ops, admin, "listening");
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
        let admin_secret = AdminSecret::read(&listen, max_stale)?;
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
        let ext_proc = match &listen.ext_proc {
            Some(config) => Some(servers.ext_proc(config, &engine).await?),
            None => None,
        };
        let settle = match &listen.settle {
            Some(config) => Some(servers.settle(config, &engine).await?),
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
        let in_flight = move || InFlightStatus {
            bytes: in_flight.taken() as u64,
            limit: in_flight.total() as u64,
        };
        let operators =
            operators::bind(&mut servers, &engine, &listen, admin_secret, in_flight).await?;
        operators.show_certificates(&servers);
        let BoundOperators { ops, admin, token: admin_token, .. } = operators;
        let Servers { tasks, stop, certificates, .. } = servers;
        Ok(Self {
            grpc,
            access_log,
            ext_proc,
            settle,
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
