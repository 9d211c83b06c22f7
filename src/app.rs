//! The sidecar: an [`Engine`] behind gRPC and HTTP servers, until a signal ends it.

mod hand_over;
mod hold;
mod operators;
mod serve;
mod servers;
mod socket_activation;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::socket_activation::sockets as passed_sockets;
pub use self::{
    hand_over::HandOverError,
    hold::hold,
    operators::{AdminSecret, OperatorServers},
    serve::serve,
    socket_activation::ActivationError,
};
use self::{
    operators::BoundOperators,
    servers::{AdminToken, Servers, StartSockets},
};
use crate::{
    adapter::{forward_auth::ForwardAuth, in_flight::InFlight},
    config::Loaded,
    engine::{Engine, check::Clock, watch::Watch},
    listener::{Address, InheritedSockets, Limits, SharedSocket, Tls},
    observe::exposition::InFlightStatus,
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
    /// The sockets of the listeners, for a process that replaces this one; empty where none may.
    shared: Vec<SharedSocket>,
    /// The sockets that no listener has taken.
    inherited: InheritedSockets,
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

impl App {
    /// Starts an engine and binds every listener. It answers checks as soon as it returns, with 503
    /// `not_ready` while keys are missing.
    ///
    /// # Errors
    /// The errors of [`Engine::start`], an admin token that is missing or too weak, and an address
    /// that cannot be bound.
    pub async fn start(loaded: Loaded, clock: Clock) -> anyhow::Result<Self> {
        Self::start_on(StartSockets::default(), loaded, clock).await
    }

    /// Starts an engine, and binds the listeners that have no socket yet.
    async fn start_on(start: StartSockets, loaded: Loaded, clock: Clock) -> anyhow::Result<Self> {
        let server = &loaded.file.server;
        let (listen, body) = (server.listen.clone(), server.body);
        let (drain, max_stale) = (server.drain_timeout.std(), server.secrets.max_stale.std());
        let engine = Arc::new(Engine::start(loaded, clock)?);
        let admin_secret = AdminSecret::read(&listen, max_stale)?;
        let (max, max_in_flight) = (body.max.0 as u64, body.max_in_flight.0 as u64);
        let in_flight = InFlight::new(max, max_in_flight)?;
        let mut servers = Servers::on(start, drain);
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
        let inherited = std::mem::take(servers.inherited());
        let Servers { tasks, stop, certificates, shared, .. } = servers;
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
            shared,
            inherited,
        })
    }

    /// The engine behind the servers.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ends the sidecar: readiness is off, load balancers get a moment to notice, no connection is
    /// accepted, checks in flight finish within `drain_timeout`, and the engine is closed.
    pub async fn stop(self) {
        self.engine.readiness().drain();
        tokio::time::sleep(NOTICE).await;
        self.end().await;
    }

    /// Ends the sidecar without notice: another process accepts connections on the same sockets, or
    /// none does any more.
    async fn end(mut self) {
        self.shared.clear();
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
