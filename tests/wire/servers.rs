//! The servers under test.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tollgate::adapter::ext_authz::{CHECK_PATH, read_check_request};
use tollgate::adapter::grpc_health;
use tollgate::adapter::in_flight::{InFlight, MessageError, Refusal};
use tollgate::listener::{
    Address, Limits, Listener, ListenerConfig, Peer, Protocol, Tls, TlsConfig, serve, serve_grpc,
};
use tollgate::proto::envoy::service::auth::v3::CheckResponse;
use tollgate::proto::google::rpc;
use tollgate_core::request::RawBody;
use tollgate_grpc_unary::{FramedMessage, RequestBody, Services, Status, UnaryMethod};

/// A deadline for all waits, long enough for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server that runs until it is stopped.
pub(crate) struct Running {
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

/// The settings of a test's listener.
pub(crate) struct Wanted {
    pub(crate) address: Address,
    pub(crate) limits: Limits,
    /// `trusted_proxies`, as JSON.
    pub(crate) trusted: Option<&'static str>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) drain: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".parse().unwrap(),
            limits: Limits::default(),
            trusted: None,
            tls: None,
            drain: SOON,
        }
    }
}

impl Wanted {
    async fn bind(&self, protocol: Protocol) -> Listener {
        let mut config = ListenerConfig::new(self.address.clone());
        config.tls = self.tls.clone();
        config.trusted_proxies = self.trusted.map(|list| serde_json::from_str(list).unwrap());
        Listener::bind_with("listen.test", &config, protocol, self.limits.clone()).await.unwrap()
    }

    /// Starts the gRPC services.
    pub(crate) async fn grpc(self, checks: Checks, budget: InFlight) -> Running {
        let listener = self.bind(Protocol::Grpc).await;
        let services =
            Services::new().unary(CHECK_PATH, ChargedChecks { checks, budget: budget.clone() });
        let (_, services) = grpc_health::add(services, &budget);
        run(listener, |listener, stop| serve_grpc(listener, services, stop, self.drain))
    }

    /// Starts an HTTP service that answers with its peer.
    pub(crate) async fn http(self) -> Running {
        async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
            let peer = request.extensions().get::<Peer>();
            Ok(Response::new(format!("{:?} {peer:?}", request.version()).into()))
        }
        let listener = self.bind(Protocol::Http).await;
        let service = hyper::service::service_fn(answer);
        run(listener, |listener, stop| serve(listener, service, stop, self.drain))
    }
}

fn run<F>(listener: Listener, serve: impl FnOnce(Listener, CancellationToken) -> F) -> Running
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = CancellationToken::new();
    Running {
        address: listener.address().clone(),
        tls: listener.tls().cloned(),
        task: tokio::spawn(serve(listener, stop.clone())),
        stop,
    }
}

/// Checks that end when their gate opens, or at once. The answer is the length of the body.
#[derive(Clone, Default)]
pub(crate) struct Checks {
    pub(crate) gate: Option<Arc<Gate>>,
    /// The length of a body at which the check panics.
    pub(crate) panics_at: Option<usize>,
}

#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) entered: Notify,
    pub(crate) open: Notify,
}

impl Checks {
    async fn answer(&self, message: &Bytes) -> FramedMessage {
        let body = read_check_request(message).ok().map(|raw| match raw.body {
            RawBody::Whole(bytes) => bytes.len(),
            _ => 0,
        });
        assert!(body.is_none() || body != self.panics_at, "a panic that this test causes");
        if let Some(gate) = &self.gate {
            gate.entered.notify_one();
            gate.open.notified().await;
        }
        match body {
            Some(length) => verdict(0, &length.to_string()),
            None => verdict(0, "empty"),
        }
    }
}

/// Checks whose messages are charged to a budget, and whose refusals name their reason.
struct ChargedChecks {
    checks: Checks,
    budget: InFlight,
}

impl UnaryMethod for ChargedChecks {
    async fn call(
        &self,
        headers: &HeaderMap,
        body: &mut RequestBody,
    ) -> Result<FramedMessage, Status> {
        match self.budget.read_message(headers, body).await {
            Ok(message) => Ok(self.checks.answer(message.bytes()).await),
            Err(MessageError::Refused(Refusal::TooLarge)) => Ok(verdict(7, "too large")),
            Err(MessageError::Refused(Refusal::NoRoom)) => Ok(verdict(7, "no room")),
            Err(MessageError::Refused(Refusal::Late)) => Ok(verdict(7, "late")),
            Err(MessageError::Failed(status)) => Err(status),
        }
    }
}

fn verdict(code: i32, message: &str) -> FramedMessage {
    let response = CheckResponse {
        status: Some(rpc::Status { code, message: message.into() }),
        ..Default::default()
    };
    response.encode_to_vec()[..].into()
}

pub(crate) fn budget(max_body: u64, max_in_flight: u64) -> InFlight {
    InFlight::new(max_body, max_in_flight).unwrap()
}
