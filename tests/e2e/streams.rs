//! Requests that stay open: WebSockets, and gRPC streams whose clients wait for an answer before
//! they end the request, through the shipped Envoy configuration.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::rig::{
    Rig,
    http::Request,
    replace_once,
    websocket::{EchoServer, Upgraded},
};

const POLICY: &str = r#"
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: "${DIR}/jwks.json" }
routes:
  - preset: vllm
    open: [realtime]
  - match:
      methods: [POST]
      paths: ["/inference.GRPCInferenceService/{method}", "/grpc.reflection.v1.ServerReflection/{method}"]
    name: grpc
    scopes: []
"#;

/// A gRPC server that returns each message as it arrives.
async fn grpc_echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: hyper::Request<Incoming>| async move {
                let response = Response::builder()
                    .status(StatusCode::OK)
                    .header("content-type", "application/grpc")
                    .body(request.into_body());
                Ok::<_, Infallible>(response.unwrap())
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    port
}

type Messages = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// Sends a message and returns the answer to it while the request stays open: status, `grpc-status`
/// and the message that returned.
async fn ask(port: u16, path: &str, token: Option<&str>) -> (u16, Option<String>, Option<Bytes>) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (messages, receiver) = mpsc::channel(1);
    let body: Messages = StreamBody::new(ReceiverStream::new(receiver));
    let mut request = hyper::Request::post(format!("http://api.example.com{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    messages.send(Ok(Frame::data(Bytes::from_static(b"hello")))).await.unwrap();
    let answered =
        timeout(Duration::from_secs(10), client.send_request(request.body(body).unwrap()));
    let response = answered.await.expect("an answer while the request is open").unwrap();
    let status = response.status().as_u16();
    let grpc = response.headers().get("grpc-status").map(|v| v.to_str().unwrap().to_owned());
    if grpc.is_some() {
        return (status, grpc, None);
    }
    let mut body = response.into_body();
    let frame = timeout(Duration::from_secs(10), body.frame()).await.expect("a message");
    (status, grpc, frame.and_then(|frame| frame.unwrap().into_data().ok()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_is_answered_before_its_client_ends_it() {
    let grpc = grpc_echo().await;
    let rig = tokio::task::block_in_place(|| {
        Rig::with(POLICY, |envoy| {
            replace_once(envoy, "port_value: 8001", &format!("port_value: {grpc}"))
        })
    });
    let token = rig.token(json!({}));
    for path in [
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let (status, grpc, message) = ask(rig.envoy.port, path, Some(&token)).await;
        assert_eq!((status, grpc), (200, None), "{path}");
        assert_eq!(message.as_deref(), Some(&b"hello"[..]), "{path}");
        // 16 is UNAUTHENTICATED.
        let (_, grpc, _) = ask(rig.envoy.port, path, None).await;
        assert_eq!(grpc.as_deref(), Some("16"), "{path}");
    }
}

fn realtime(token: &str) -> Request {
    Request::get("/v1/realtime").bearer(token)
}

/// The shipped configuration in front of a server for WebSockets.
fn websockets(policy: &str, edit: impl FnOnce(String) -> String) -> (Rig, EchoServer) {
    let server = EchoServer::start();
    let rig = Rig::with(policy, |envoy| {
        let upstream = "address: 127.0.0.1, port_value: 8000";
        let own = format!("address: \"127.0.0.1\", port_value: {}", server.port);
        // Envoy of the rig replaces the shipped address by one that no request reaches.
        let cluster = "    - name: inference\n      type: STATIC\n";
        let edited = replace_once(edit(envoy), upstream, &own);
        let spare = format!(
            "    - name: spare\n      type: STATIC\n      load_assignment: {{ cluster_name: spare, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ {upstream} }} }} }} }}] }}] }}\n\n"
        );
        replace_once(edited, cluster, &format!("{spare}{cluster}"))
    });
    (rig, server)
}

#[test]
fn a_websocket_passes_and_ends_in_time() {
    let (rig, server) = websockets(POLICY, |envoy| {
        replace_once(envoy, "max_stream_duration: 3600s", "max_stream_duration: 2s")
    });
    let token = rig.token(json!({ "scope": "infer:audio" }));
    let mut socket = Upgraded::open(rig.envoy.port, &realtime(&token));
    assert_eq!(socket.status(), 101, "{}", socket.head);
    assert!(socket.echoes());
    assert!(socket.lasts() < Duration::from_secs(20));
    assert_eq!(server.taken().len(), 1);

    // Without a token, without the scope, on another path.
    let other = rig.token(json!({ "scope": "infer:text" }));
    for (request, status) in [
        (Request::get("/v1/realtime"), 401),
        (realtime(&other), 403),
        (Request::get("/v1/models").bearer(&token), 403),
    ] {
        assert_eq!(Upgraded::open(rig.envoy.port, &request).status(), status, "{request:?}");
    }
    assert!(server.taken().is_empty());
}

const BROWSERS: &str = r#"
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    leeway: 0s
    jwks: { file: "${DIR}/jwks.json" }
routes:
  - preset: vllm
    open: [realtime]
    websocket: { token_prefix: "openai-insecure-api-key.", origins: ["https://app.example.com"] }
"#;

/// A handshake as a browser's SDK sends it.
fn handshake(token: &str) -> Request {
    Request::get("/v1/realtime").header("Origin", "https://app.example.com").header(
        "Sec-WebSocket-Protocol",
        &format!("realtime, openai-insecure-api-key.{token}, openai-beta.realtime-v1"),
    )
}

#[test]
fn a_token_among_the_protocols_of_a_websocket_does_not_reach_the_upstream() {
    let (rig, server) = websockets(BROWSERS, |envoy| envoy);
    let token = rig.token(json!({ "scope": "infer:audio" }));
    let mut socket = Upgraded::open(rig.envoy.port, &handshake(&token));
    assert_eq!(socket.status(), 101, "{}", socket.head);
    assert!(socket.echoes());
    assert_eq!(socket.header("sec-websocket-protocol").as_deref(), Some("realtime"));
    let seen = server.taken().concat();
    assert!(seen.contains("realtime, openai-beta.realtime-v1"), "{seen}");
    let page = handshake(&token).without("origin").header("Origin", "https://evil.example");
    assert_eq!(Upgraded::open(rig.envoy.port, &page).status(), 403);
    let twice = handshake(&token).bearer(&token);
    assert_eq!(Upgraded::open(rig.envoy.port, &twice).status(), 401);
    let log = format!("{}{}", rig.envoy.process.out(), rig.envoy.process.err());
    let tollgate = format!("{}{}", rig.tollgate.process.out(), rig.tollgate.process.err());
    for (place, text) in [
        ("the answer", &socket.head),
        ("the upstream", &seen),
        ("Envoy's log", &log),
        ("Tollgate's log", &tollgate),
    ] {
        assert!(!text.contains(&token), "the token is in {place}");
    }
}

#[test]
fn a_websocket_ends_with_its_credential() {
    let (rig, _server) = websockets(BROWSERS, |envoy| envoy);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let token = rig.token(json!({ "scope": "infer:audio", "exp": now.as_secs() + 4 }));
    let socket = Upgraded::open(rig.envoy.port, &handshake(&token));
    assert_eq!(socket.status(), 101, "{}", socket.head);
    assert!(socket.lasts() < Duration::from_secs(20));
}
