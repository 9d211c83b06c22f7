//! The servers of the sidecar: listeners, the tasks that serve them, and what follows from their
//! files and from readiness.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tollgate_grpc_unary::Services;

use crate::{
    adapter::{
        ext_authz::{CHECK_PATH, EnvoyAuthorization},
        grpc_health,
        in_flight::InFlight,
    },
    engine::{Engine, readiness::Readiness},
    listener::{self, Address, Listener, ListenerConfig, Protocol, Tls},
};

/// How often gRPC health follows readiness.
const HEALTH_EVERY: Duration = Duration::from_millis(100);

/// Servers that run until `stop` is cancelled, and then for `drain` at most.
pub(super) struct Servers {
    pub(super) tasks: JoinSet<()>,
    pub(super) stop: CancellationToken,
    /// The certificates of the listeners with TLS.
    pub(super) certificates: Vec<Tls>,
    drain: Duration,
}

impl Servers {
    /// Creates an empty set of servers.
    pub(super) fn new(drain: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            certificates: Vec::new(),
            drain,
        }
    }

    /// Serves Envoy's ext_authz and gRPC health.
    pub(super) async fn grpc(
        &mut self,
        config: &ListenerConfig,
        in_flight: &InFlight,
        engine: &Engine,
    ) -> anyhow::Result<Address> {
        let (health, health_server) = grpc_health::health();
        let readiness = Arc::clone(engine.readiness());
        self.tasks.spawn(follow_readiness(health, readiness, self.stop.clone()));
        let listener = Listener::bind("listen.grpc", config, Protocol::Grpc).await?;
        let address = self.keep_certificates(&listener);
        let checker = Arc::clone(engine.checker());
        let services = Services::new()
            .unary(CHECK_PATH, EnvoyAuthorization::new(checker, in_flight.clone()))
            .generated(health_server);
        let serving = listener::serve_grpc(listener, services, self.stop.clone(), self.drain);
        self.tasks.spawn(serving);
        Ok(address)
    }

    /// Serves HTTP with `handler`. `key` is the listener's place in the file.
    pub(super) async fn http<H, F, B>(
        &mut self,
        key: &str,
        config: &ListenerConfig,
        handler: H,
    ) -> anyhow::Result<Address>
    where
        H: Fn(http::Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = http::Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<listener::BoxError>,
    {
        let listener = Listener::bind(key, config, Protocol::Http).await?;
        let address = self.keep_certificates(&listener);
        let service = tower::service_fn(move |request| {
            let response = handler(request);
            async move { Ok::<_, std::convert::Infallible>(response.await) }
        });
        let service = hyper_util::service::TowerToHyperService::new(service);
        self.tasks.spawn(listener::serve(listener, service, self.stop.clone(), self.drain));
        Ok(address)
    }

    fn keep_certificates(&mut self, listener: &Listener) -> Address {
        self.certificates.extend(listener.tls().cloned());
        listener.address().clone()
    }
}

/// Reads a listener's certificates again after each round of the watched files.
pub(super) async fn reload_certificates(
    tls: Tls,
    mut rounds: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(rounds.changed()).await {
        let certificates = tls.clone();
        // On a blocking thread: a slow disk must not delay checks.
        let reloaded = tokio::task::spawn_blocking(move || certificates.reload()).await;
        if let Ok(Err(error)) = reloaded {
            tracing::warn!("certificate reload failed, keeping the previous one: {error}");
        }
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
