//! Servers under test.

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
use tollgate::adapter::ext_authz::Question;
use tollgate::adapter::grpc::{self, Framed, Unary};
use tollgate::adapter::in_flight::{InFlight, Refusal};
use tollgate::listener::{
    Address, Limits, Listener, ListenerConfig, Peer, Protocol, Tls, TlsConfig, serve,
};
use tollgate::proto::envoy::service::auth::v3::CheckResponse;
use tollgate::proto::google::rpc;
use tollgate_core::request::RawBody;

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server that runs until it is told to stop.
pub(crate) struct Running {
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

/// What a test wants of its listener.
pub(crate) struct Wanted {
    pub(crate) address: Address,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) drain: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".parse().unwrap(),
            limits: Limits::default(),
            tls: None,
            drain: SOON,
        }
    }
}

impl Wanted {
    async fn bind(&self, protocol: Protocol) -> Listener {
        let mut config = ListenerConfig::new(self.address.clone());
        config.tls = self.tls.clone();
        Listener::bind_with(&config, protocol, self.limits.clone()).await.unwrap()
    }

    /// The gRPC services.
    pub(crate) async fn grpc(self, checks: Checks, budget: InFlight) -> Running {
        let listener = self.bind(Protocol::Grpc).await;
        let (_, health) = grpc::health();
        let services = grpc::Services::new(checks, budget, health);
        run(listener, |listener, stop| grpc::serve(listener, services, stop, self.drain))
    }

    /// An HTTP service that says who asked.
    pub(crate) async fn http(self) -> Running {
        async fn who(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
            let peer = request.extensions().get::<Peer>();
            Ok(Response::new(format!("{:?} {peer:?}", request.version()).into()))
        }
        let listener = self.bind(Protocol::Http).await;
        let service = hyper::service::service_fn(who);
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

/// Checks that end when they are told to, or at once; the answer tells what arrived.
#[derive(Clone, Default)]
pub(crate) struct Checks {
    pub(crate) gate: Option<Arc<Gate>>,
    /// A body of so many bytes is too much for this one.
    pub(crate) panics_at: Option<usize>,
}

#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) entered: Notify,
    pub(crate) open: Notify,
}

impl Unary for Checks {
    const PATH: &'static str = "/envoy.service.auth.v3.Authorization/Check";

    async fn answer(&self, _: &HeaderMap, message: &Bytes) -> Result<Framed, tonic::Status> {
        let question = Question(message.clone());
        let body = question.read().ok().map(|raw| match raw.body {
            RawBody::Whole(bytes) => bytes.len(),
            _ => 0,
        });
        assert!(
            body.is_none() || body != self.panics_at,
            "a call that panics, as this test wants it"
        );
        if let Some(gate) = &self.gate {
            gate.entered.notify_one();
            gate.open.notified().await;
        }
        let message = match body {
            Some(length) => length.to_string(),
            None => "empty".to_owned(),
        };
        Ok(verdict(0, &message).encode_to_vec()[..].into())
    }
}

pub(crate) fn verdict(code: i32, message: &str) -> CheckResponse {
    CheckResponse {
        status: Some(rpc::Status { code, message: message.into() }),
        ..Default::default()
    }
}

/// A budget whose refusals say what they are.
pub(crate) fn budget(max_body: u64, max_in_flight: u64) -> InFlight {
    InFlight::new(max_body, max_in_flight, |refusal| {
        let text = match refusal {
            Refusal::TooLarge => "too large",
            Refusal::NoRoom => "no room",
        };
        verdict(7, text).encode_to_vec()[..].into()
    })
    .unwrap()
}
