//! A client that sends gRPC as bytes, valid or not.

use std::pin::Pin;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::service::auth::v3 as auth;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tollgate::listener::Address;
use tonic::transport::{Channel, Endpoint};

pub(crate) const CHECK: &str = "http://tollgate/envoy.service.auth.v3.Authorization/Check";

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

pub(crate) async fn connect(address: &Address) -> std::io::Result<Pin<Box<dyn Stream>>> {
    Ok(match address {
        Address::Tcp(address) => Box::pin(TcpStream::connect(address).await?),
        Address::Unix(path) => Box::pin(UnixStream::connect(path).await?),
    })
}

/// A channel to the server at `address`, for generated clients.
pub(crate) async fn channel(address: &Address) -> Channel {
    let address = address.clone();
    let connector = tower::service_fn(move |_| {
        let address = address.clone();
        async move { connect(&address).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://tollgate").connect_with_connector(connector).await.unwrap()
}

pub(crate) type Http2 = SendRequest<Full<Bytes>>;

/// One HTTP/2 connection on `stream`.
pub(crate) async fn http2(stream: impl Stream + Unpin + 'static) -> Http2 {
    let (client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A framed request with a body of `length` bytes in `raw_body`.
pub(crate) fn message(length: usize) -> Bytes {
    use auth::attribute_context::{HttpRequest, Request};
    let http = HttpRequest { raw_body: vec![b'x'; length], ..Default::default() };
    let request = auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            request: Some(Request { http: Some(http), time: None }),
            ..Default::default()
        }),
    };
    framed(0, &request.encode_to_vec())
}

pub(crate) fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(flag);
    bytes.put_u32(message.len() as u32);
    bytes.put(message);
    bytes.freeze()
}

/// The answer to a call: the verdict, or the gRPC status of a failed call.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Verdict(i32, String),
    Failed(String),
}

impl Answer {
    pub(crate) fn is(&self, code: i32, message: &str) -> bool {
        *self == Self::Verdict(code, message.to_owned())
    }
}

/// One call with these bytes as its body.
pub(crate) async fn call(
    client: &mut Http2,
    uri: &str,
    body: Bytes,
) -> Result<Answer, hyper::Error> {
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .unwrap();
    client.ready().await?;
    let response = client.send_request(request).await?;
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    let body = response.into_body().collect().await?;
    let status =
        |headers: &HeaderMap| Some(headers.get("grpc-status")?.to_str().unwrap().to_owned());
    let status = body.trailers().and_then(status).or_else(|| status(&headers)).unwrap();
    if status != "0" {
        return Ok(Answer::Failed(status));
    }
    let mut bytes = body.to_bytes();
    assert_eq!((bytes.get_u8(), bytes.get_u32() as usize), (0, bytes.len()));
    let response = auth::CheckResponse::decode(bytes).unwrap();
    let status = response.status.unwrap();
    Ok(Answer::Verdict(status.code, status.message))
}
