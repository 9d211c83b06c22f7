//! The unary transport against tonic's: the same requests, byte for byte, to a server that tonic
//! generates and to ours. Both have to answer alike; rows that differ contain both answers.

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::{
    self as auth,
    authorization_server::{Authorization, AuthorizationServer},
};
use envoy_types::pb::google::rpc;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tollgate::listener::Address;
use tonic::{Response, Status, transport::Server};

use super::clients::{CHECK, connect, framed};
use super::servers::{Checks, Wanted, budget};

/// Answers as [`Checks`] does, with the length of the body.
struct TonicChecks;

#[tonic::async_trait]
impl Authorization for TonicChecks {
    async fn check(
        &self,
        request: tonic::Request<auth::CheckRequest>,
    ) -> Result<Response<auth::CheckResponse>, Status> {
        let http = request.into_inner().attributes.and_then(|all| all.request?.http);
        let message = match http {
            Some(http) => http.raw_body.len().to_string(),
            None => "empty".to_owned(),
        };
        let status = rpc::Status { code: 0, message, details: Vec::new() };
        Ok(Response::new(auth::CheckResponse { status: Some(status), ..Default::default() }))
    }
}

type Client = SendRequest<BoxBody<Bytes, std::convert::Infallible>>;

async fn client(address: &Address) -> Client {
    let stream = TokioIo::new(connect(address).await.unwrap());
    let (client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The parts of an answer that a gRPC client reads: status and content type of HTTP, status of
/// gRPC, and the text of the verdict.
#[derive(Debug, PartialEq)]
struct Answer {
    http: u16,
    content_type: String,
    grpc: String,
    verdict: Option<String>,
}

/// One call whose body is sent in these frames.
async fn call(client: &mut Client, request: http::request::Builder, frames: &[&[u8]]) -> Answer {
    let frames: Vec<_> =
        frames.iter().map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame)))).collect();
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    client.ready().await.unwrap();
    let response = client.send_request(request.body(body).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let text =
        |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let trailers = body.trailers().and_then(|trailers| text(trailers, "grpc-status"));
    let grpc = trailers.or_else(|| text(&head.headers, "grpc-status")).unwrap_or_default();
    let bytes = body.to_bytes();
    let verdict = (!bytes.is_empty()).then(|| {
        assert_eq!(bytes[..5], [&[0][..], &(bytes.len() as u32 - 5).to_be_bytes()].concat());
        auth::CheckResponse::decode(&bytes[5..]).unwrap().status.unwrap().message
    });
    Answer {
        http: head.status.as_u16(),
        content_type: text(&head.headers, "content-type").unwrap_or_default(),
        grpc,
        verdict,
    }
}

fn post(uri: &str) -> http::request::Builder {
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers")
}

/// A `CheckRequest` with a body of `length` bytes.
fn check_request(length: usize) -> Vec<u8> {
    use auth::attribute_context::{HttpRequest, Request};
    let http = HttpRequest { raw_body: vec![b'x'; length], ..Default::default() };
    let request = Some(Request { http: Some(http), time: None });
    let attributes = auth::AttributeContext { request, ..Default::default() };
    auth::CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

/// Clients of both servers, ours first, and what keeps the servers alive.
async fn both() -> (Client, Client, impl Sized) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tonic.sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    let services = Server::builder().add_service(AuthorizationServer::new(TonicChecks));
    let tonic = tokio::spawn(services.serve_with_incoming(incoming));
    let ours = Wanted::default().grpc(Checks::default(), budget(16 << 20, 64 << 20)).await;
    let clients = (client(&ours.address).await, client(&Address::Unix(path)).await);
    (clients.0, clients.1, (directory, ours, tonic))
}

#[tokio::test]
async fn answers_are_those_of_tonic() {
    let (mut ours, mut tonic, _servers) = both().await;
    let message = check_request(10);
    let good = framed(0, &message);
    let long = framed(0, &check_request(200_000));
    let half = &good[..good.len() / 2];
    let compressed = framed(1, &message);
    let put = Request::put(CHECK).header("content-type", "application/grpc");
    let text = Request::post(CHECK).header("content-type", "text/plain");
    let rows: [(&str, http::request::Builder, Vec<&[u8]>); 18] = [
        ("a check", post(CHECK), vec![&good]),
        ("a check of many frames", post(CHECK), long.chunks(1000).collect()),
        ("a message of no bytes", post(CHECK), vec![&[0; 5]]),
        ("empty frames", post(CHECK), vec![b"", &good[..3], b"", &good[3..], b""]),
        ("another method", post("http://t/envoy.service.auth.v3.Authorization/Other"), vec![&good]),
        ("another service", post("http://t/x.Y/Check"), vec![&good]),
        ("a path behind the method", post(&format!("{CHECK}/more")), vec![&good]),
        ("no path", post("http://t/"), vec![&good]),
        ("a compressed message", post(CHECK), vec![&compressed]),
        ("another HTTP method", put, vec![&good]),
        ("another content type", text, vec![&good]),
        ("a flag of no meaning", post(CHECK), vec![b"\x07\0\0\0\0"]),
        ("no message", post(CHECK), vec![]),
        ("a part of the prefix", post(CHECK), vec![&good[..3]]),
        ("a part of the message", post(CHECK), vec![half]),
        ("a query behind the method", post(&format!("{CHECK}?a=b")), vec![&good]),
        ("a timeout", post(CHECK).header("grpc-timeout", "10S"), vec![&good]),
        (
            "no header te",
            Request::post(CHECK).header("content-type", "application/grpc"),
            vec![&good],
        ),
    ];
    for (name, request, frames) in rows {
        let again = post_again(&request);
        let ours = call(&mut ours, request, &frames).await;
        assert_eq!(ours, call(&mut tonic, again, &frames).await, "{name}");
    }
}

/// A copy of a request.
fn post_again(request: &http::request::Builder) -> http::request::Builder {
    let mut copy = Request::builder()
        .method(request.method_ref().unwrap().clone())
        .uri(request.uri_ref().unwrap().clone());
    *copy.headers_mut().unwrap() = request.headers_ref().unwrap().clone();
    copy
}

#[tokio::test]
async fn a_message_split_at_any_byte_is_answered_like_by_tonic() {
    let (mut ours, mut tonic, _servers) = both().await;
    let good = framed(0, &check_request(3));
    let expected = call(&mut tonic, post(CHECK), &[&good]).await;
    assert_eq!(expected.verdict.as_deref(), Some("3"));
    for at in 0..=good.len() {
        let frames = [&good[..at], &good[at..]];
        assert_eq!(call(&mut ours, post(CHECK), &frames).await, expected, "at {at}");
        assert_eq!(call(&mut tonic, post(CHECK), &frames).await, expected, "tonic, at {at}");
    }
    let each: Vec<&[u8]> = good.chunks(1).collect();
    assert_eq!(call(&mut ours, post(CHECK), &each).await, expected, "each byte");
}

/// The rows in which the servers differ on purpose, with the gRPC statuses of our answer and of
/// tonic's. A second message is refused instead of ignored; a message that cannot be decoded is
/// denied instead of failing the check, so that no client can cause a failed check.
#[tokio::test]
async fn the_answers_that_differ_are_these() {
    let (mut ours, mut tonic, _servers) = both().await;
    let good = framed(0, &check_request(10));
    let two = [&good[..], &good[..]].concat();
    let surplus = [&good[..], b"x"].concat();
    type Row<'a> = (&'a str, http::request::Builder, &'a [u8], (&'a str, &'a str));
    let rows: [Row<'_>; 3] = [
        ("two messages", post(CHECK), &two, ("3", "0")),
        ("a byte behind the message", post(CHECK), &surplus, ("3", "13")),
        ("a message that cannot be decoded", post(CHECK), b"\0\0\0\0\x01\xff", ("0", "13")),
    ];
    let mut differences = Vec::new();
    for (name, request, body, expected) in rows {
        let again = post_again(&request);
        let found =
            (call(&mut ours, request, &[body]).await, call(&mut tonic, again, &[body]).await);
        if (found.0.grpc.as_str(), found.1.grpc.as_str()) != expected {
            differences.push(format!("{name}: ours {:?}, tonic's {:?}", found.0, found.1));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
