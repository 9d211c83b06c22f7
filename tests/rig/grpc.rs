//! A client of ext_authz that can stop in the middle of a message, which Envoy does not do.

use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse,
        attribute_context::{HttpRequest, Request as AttributeRequest},
        check_response::HttpResponse,
    },
};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::http::Request;

type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, std::io::Error>>>;

/// One connection to Tollgate.
pub(crate) struct Peer {
    client: SendRequest<Body>,
}

/// A check whose last byte is not sent yet.
pub(crate) struct Half {
    rest: Bytes,
    sender: mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>,
    response: tokio::task::JoinHandle<hyper::Result<hyper::Response<Incoming>>>,
}

impl Peer {
    /// Connects to the Tollgate of `dir`.
    pub(crate) async fn connect(dir: &Path) -> Self {
        let stream = UnixStream::connect(dir.join("authz.sock")).await.unwrap();
        let (client, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { client }
    }

    /// Sends all of a check but its last byte.
    pub(crate) async fn begin(&mut self, request: &Request) -> Half {
        let mut message = framed(request);
        let rest = message.split_off(message.len() - 1);
        let (sender, receiver) = mpsc::channel(1);
        let call =
            hyper::Request::post("http://tollgate/envoy.service.auth.v3.Authorization/Check")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                // The test withholds the last byte for longer than a proxy would.
                .header("grpc-timeout", "60S")
                .body(StreamBody::new(ReceiverStream::new(receiver)))
                .unwrap();
        self.client.ready().await.unwrap();
        let response = tokio::spawn(self.client.send_request(call));
        // After a refusal the rest is not read, so that sending it may fail.
        let _ = sender.send(Ok(Frame::data(message))).await;
        Half { rest, sender, response }
    }
}

impl Half {
    /// Whether the answer has arrived.
    pub(crate) fn answered(&self) -> bool {
        self.response.is_finished()
    }

    /// Sends the last byte and waits for the verdict: HTTP status and `code`, `(200, "")` for
    /// allow.
    pub(crate) async fn finish(self) -> (u16, String) {
        let Self { rest, sender, response } = self;
        let _ = sender.send(Ok(Frame::data(rest))).await;
        drop(sender);
        let response = response.await.unwrap().unwrap();
        let message = response.into_body().collect().await.unwrap().to_bytes();
        assert!(message.len() >= 5, "a call that failed");
        let response = CheckResponse::decode(&message[5..]).unwrap();
        match (response.status.unwrap().code, response.http_response.unwrap()) {
            (0, HttpResponse::OkResponse(_)) => (200, String::new()),
            (7 | 16, HttpResponse::DeniedResponse(DeniedHttpResponse { status, body, .. })) => {
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                (
                    u16::try_from(status.unwrap().code).unwrap(),
                    body["error"]["code"].as_str().unwrap().to_owned(),
                )
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The gRPC message that Envoy would send with the shipped configuration.
fn framed(request: &Request) -> Bytes {
    let header = |(name, value): &(String, String)| HeaderValue {
        key: name.to_ascii_lowercase(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let http = HttpRequest {
        method: request.method.clone(),
        scheme: "http".to_owned(),
        host: "api.example.com".to_owned(),
        path: request.path.clone(),
        header_map: Some(HeaderMap { headers: request.headers.iter().map(header).collect() }),
        raw_body: request.body.clone(),
        ..Default::default()
    };
    let attributes = AttributeContext {
        request: Some(AttributeRequest { http: Some(http), ..Default::default() }),
        ..Default::default()
    };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put(&*message);
    framed.freeze()
}
