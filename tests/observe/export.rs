//! Exports over OTLP to servers with scripted answers.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tollgate::proto::opentelemetry::proto::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};

use crate::rig::{
    POLICY, Rig,
    http::{Answer, Reply, Request, Server},
    until,
};

/// Starts a server with these answers, whose last one repeats, and returns the exports that it
/// received.
fn collector(answers: Vec<Reply>) -> (u16, Arc<Mutex<Vec<Request>>>) {
    let exports = Arc::<Mutex<Vec<Request>>>::default();
    let kept = Arc::clone(&exports);
    let server = Server::start(move |request| {
        let mut exports = kept.lock().unwrap();
        let answer = answers.get(exports.len()).or(answers.last()).unwrap().clone();
        exports.push(request);
        Answer::Whole(answer)
    });
    (server.port, exports)
}

/// Starts a Tollgate that traces to `port`, and makes one check. The directory holds its secrets.
fn rig(port: u16, more: &str) -> (Rig, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "Bearer of-the-collector-0123456789\n").unwrap();
    let section = format!(
        "observe: {{ tracing: {{ endpoint: 'http://127.0.0.1:{port}/otlp/', protocol: http, headers: {{ authorization: 'file:{}' }} {more} }} }}\n",
        token.display()
    );
    let rig = Rig::start(&format!("{POLICY}{section}"));
    assert_eq!(rig.envoy.send(&Request::get("/health")).status, 200);
    (rig, dir)
}

#[test]
fn what_may_be_sent_again_is() {
    let (port, exports) =
        collector(vec![Reply::new(503, "").header("Retry-After", "1"), Reply::new(200, "")]);
    let (rig, _secrets) = rig(port, "");
    rig.tollgate.until_metric("tollgate_trace_spans_exported_total", &[], 1.0);
    let exports = exports.lock().unwrap();
    let [first, second] = exports.as_slice() else { panic!("{exports:?}") };
    assert_eq!((first.path.as_str(), &first.body), ("/otlp/v1/traces", &second.body));
    assert_eq!(first.all("content-type"), ["application/x-protobuf"]);
    assert_eq!(first.all("authorization"), ["Bearer of-the-collector-0123456789"]);
    let request = ExportTraceServiceRequest::decode(first.body.as_slice()).unwrap();
    assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 1);
    assert!(!rig.tollgate.process.err().contains("of-the-collector"), "a secret in the log");
}

#[test]
fn what_may_not_is_given_up() {
    let (port, exports) = collector(vec![Reply::new(400, "no")]);
    let (rig, _secrets) = rig(port, "");
    rig.tollgate.until_metric("tollgate_trace_spans_dropped_total", &["cause=\"export\""], 1.0);
    assert_eq!(exports.lock().unwrap().len(), 1);
    until("a line in the log", || {
        rig.tollgate.process.err().contains("the collector answered HTTP 400").then_some(())
    });
}

#[test]
fn what_was_left_out_is_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".into() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (port, _exports) = collector(vec![Reply::new(200, answer)]);
    let (rig, _secrets) = rig(port, "");
    rig.tollgate.until_metric("tollgate_trace_spans_dropped_total", &["cause=\"rejected\""], 1.0);
    assert_eq!(rig.tollgate.metric("tollgate_trace_spans_exported_total", &[]), 0.0);
    until("a line in the log", || {
        rig.tollgate.process.err().contains("left out 1 of 1: too old").then_some(())
    });
}

#[test]
fn a_collector_that_never_answers_delays_no_check() {
    let server = Server::start(|_| Answer::Silence);
    let (rig, _secrets) = rig(server.port, ", timeout: 100ms");
    until("a failure", || {
        rig.tollgate.process.err().contains("did not answer in time").then_some(())
    });
    assert_eq!(rig.envoy.send(&Request::get("/health")).status, 200);
}

/// Starts a gRPC collector behind TLS for `localhost`, which answers the first call with status 14
/// (unavailable) and then with 0. Returns its port, its certificate and the exports.
async fn grpc_collector() -> (u16, String, Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![cert.der().clone()],
        PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()),
    )
    .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::<Mutex<Vec<ExportTraceServiceRequest>>>::default();
    let kept = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, kept) = (acceptor.clone(), Arc::clone(&kept));
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    let kept = Arc::clone(&kept);
                    async move {
                        assert_eq!(
                            request.uri().path(),
                            "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
                        );
                        assert_eq!(request.headers()["te"], "trailers");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let mut kept = kept.lock().unwrap();
                        kept.push(ExportTraceServiceRequest::decode(&body[5..]).unwrap());
                        let status = if kept.len() == 1 { "14" } else { "0" };
                        let trailers = HeaderMap::from_iter([(
                            "grpc-status".parse().unwrap(),
                            status.parse().unwrap(),
                        )]);
                        let body = Full::new(Bytes::from_static(&[0; 5]))
                            .with_trailers(std::future::ready(Some(Ok(trailers))));
                        let response =
                            hyper::Response::builder().header("content-type", "application/grpc");
                        Ok::<_, Infallible>(response.body(body).unwrap())
                    }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    (port, cert.pem(), taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_goes_over_tls_and_is_tried_again() {
    let (port, certificate, taken) = grpc_collector().await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    let section = format!(
        "observe: {{ tracing: {{ endpoint: 'https://localhost:{port}', tls_ca: '{}' }} }}\n",
        ca.display()
    );
    let rig = tokio::task::spawn_blocking(move || {
        let rig = Rig::start(&format!("{POLICY}{section}"));
        assert_eq!(rig.envoy.send(&Request::get("/health")).status, 200);
        rig.tollgate.until_metric("tollgate_trace_spans_exported_total", &[], 1.0);
        rig
    });
    let rig = rig.await.unwrap();
    let taken = taken.lock().unwrap();
    assert_eq!((taken.len(), &taken[0]), (2, &taken[1]), "the same batch twice");
    assert!(rig.tollgate.process.err().contains("gRPC status 14"));
}
