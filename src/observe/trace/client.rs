//! One connection to a collector, and one export on it: OTLP over gRPC or over HTTP.
//!
//! The protocols differ in the path, a prefix of five bytes and the place of the status, so one
//! client speaks both.

use std::{collections::BTreeMap, error::Error as StdError, path::Path, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use tollgate_core::secret::{Secret, SecretSource};

use super::{
    TraceError,
    config::{OtlpProtocol, Target, TracingConfig},
};
use crate::{
    bounded_body,
    error_text::describe,
    proto::opentelemetry::proto::collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    secrets::{self, SecretError},
    tls_roots,
};

/// The path of the gRPC method.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The path that OTLP/HTTP adds to the endpoint.
const HTTP_PATH: &str = "/v1/traces";
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 << 10;
/// The length of a gRPC message's prefix: a flag for compression, and the length.
const PREFIX: usize = 5;

/// The reason why a batch was not accepted.
#[derive(Debug)]
pub(super) struct ExportError {
    /// The cause, for the operator. It holds no secret.
    pub(super) cause: String,
    /// Whether the same batch may be sent again (OTLP 1.x, "Failures"), and the earliest time, if
    /// the collector names one.
    pub(super) retry: Option<Option<Duration>>,
}

impl ExportError {
    fn retryable(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), retry: Some(None) }
    }

    fn permanent(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), retry: None }
    }
}

/// The answer to a batch that was accepted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ExportResponse {
    /// Spans that the collector rejected all the same.
    pub(super) rejected: u64,
    /// The reason of the rejection.
    pub(super) message: String,
}

/// A client of one collector.
pub(super) struct Client {
    target: Target,
    protocol: OtlpProtocol,
    headers: BTreeMap<String, SecretSource>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<Connection>,
}

struct Connection {
    sender: Sender,
    task: AbortHandle,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Client {
    /// Reads what exporting needs, so that a missing file stops the start. It does not connect yet.
    pub(super) fn new(config: &TracingConfig) -> Result<Self, TraceError> {
        let target = Target::parse(&config.endpoint, config.protocol)?;
        let tls = if target.tls {
            Some(connector(&target.host, config.tls_ca.as_deref().map(Path::new), config.protocol)?)
        } else {
            None
        };
        let client = Self {
            target,
            protocol: config.protocol,
            headers: config.headers.clone(),
            tls,
            connection: None,
        };
        let mut headers = Vec::with_capacity(client.headers.len());
        for (name, source) in &client.headers {
            headers.push((name, secrets::resolve_blocking(source)));
        }
        head(headers, config.protocol)?;
        Ok(client)
    }

    /// Sends one batch, on the open connection or on a new one. The caller bounds the time; an
    /// export that is dropped closes its connection.
    pub(super) async fn export(
        &mut self,
        batch: &ExportTraceServiceRequest,
    ) -> Result<ExportResponse, ExportError> {
        let request = self.request(batch).await?;
        let mut connection = match self.connection.take() {
            Some(connection) if connection.sender.is_open() => connection,
            _ => self.connect().await?,
        };
        let response = connection.sender.send(request).await;
        let response = response.map_err(|error| ExportError::retryable(describe(&error)))?;
        let answered = match self.protocol {
            OtlpProtocol::Grpc => grpc_answer(response).await,
            OtlpProtocol::Http => http_answer(response).await,
        };
        self.connection = Some(connection);
        answered
    }

    async fn request(
        &self,
        batch: &ExportTraceServiceRequest,
    ) -> Result<Request<Full<Bytes>>, ExportError> {
        let unsendable = |error: &(dyn StdError + 'static)| ExportError::retryable(describe(error));
        let mut body = BytesMut::new();
        if self.protocol == OtlpProtocol::Grpc {
            body.put_u8(0);
            body.put_u32(u32::try_from(batch.encoded_len()).unwrap_or(u32::MAX));
        }
        batch.encode(&mut body).map_err(|error| unsendable(&error))?;
        let host = if self.target.host.contains(':') {
            format!("[{}]", self.target.host)
        } else {
            self.target.host.clone()
        };
        let authority = format!("{host}:{}", self.target.port);
        let uri = match self.protocol {
            OtlpProtocol::Grpc => {
                let scheme = if self.target.tls { "https" } else { "http" };
                format!("{scheme}://{authority}{GRPC_PATH}")
            }
            OtlpProtocol::Http => format!("{}{HTTP_PATH}", self.target.path),
        };
        let mut request = Request::post(uri)
            .body(Full::new(body.freeze()))
            .map_err(|error| unsendable(&error))?;
        *request.headers_mut() = self.head().await.map_err(|error| unsendable(&error))?;
        if self.protocol == OtlpProtocol::Http {
            let host = HeaderValue::from_str(&authority).map_err(|error| unsendable(&error))?;
            request.headers_mut().insert(header::HOST, host);
        }
        Ok(request)
    }

    /// Returns the configured headers, read from their files now, and those of the protocol.
    async fn head(&self) -> Result<HeaderMap, TraceError> {
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, source) in &self.headers {
            headers.push((name, secrets::resolve(source).await));
        }
        head(headers, self.protocol)
    }

    async fn connect(&self) -> Result<Connection, ExportError> {
        let Target { host, port, .. } = &self.target;
        let wrong = |error: &(dyn StdError + 'static)| {
            ExportError::retryable(format!("no connection to `{host}:{port}`: {}", describe(error)))
        };
        // Resolved for each connection: a collector moves.
        let tcp =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|error| wrong(&error))?;
        tcp.set_nodelay(true).map_err(|error| wrong(&error))?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some((connector, name)) => {
                Box::new(connector.connect(name.clone(), tcp).await.map_err(|error| wrong(&error))?)
            }
            None => Box::new(tcp),
        };
        let stream = TokioIo::new(stream);
        // The end of a connection also ends the answers on it.
        let (sender, task) = match self.protocol {
            OtlpProtocol::Grpc => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .map_err(|error| wrong(&error))?;
                (Sender::Http2(sender), tokio::spawn(async move { drop(driver.await) }))
            }
            OtlpProtocol::Http => {
                let (sender, driver) =
                    http1::handshake(stream).await.map_err(|error| wrong(&error))?;
                (Sender::Http1(sender), tokio::spawn(async move { drop(driver.await) }))
            }
        };
        Ok(Connection { sender, task: task.abort_handle() })
    }
}

impl Sender {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Returns these headers and those of the protocol.
fn head(
    configured: Vec<(&String, Result<Secret, SecretError>)>,
    protocol: OtlpProtocol,
) -> Result<HeaderMap, TraceError> {
    let mut headers = HeaderMap::new();
    for (name, secret) in configured {
        let secret = secret.map_err(|error| TraceError::Header { name: name.clone(), error })?;
        let invalid = || TraceError::InvalidHeader(name.clone());
        let mut value = HeaderValue::from_bytes(secret.expose()).map_err(|_| invalid())?;
        value.set_sensitive(true);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        headers.insert(name, value);
    }
    let kind = match protocol {
        OtlpProtocol::Grpc => "application/grpc",
        OtlpProtocol::Http => "application/x-protobuf",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))),
    );
    if protocol == OtlpProtocol::Grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(headers)
}

/// Reads an OTLP/gRPC answer. The status is in the trailers, or in the headers where there is no
/// message.
async fn grpc_answer(response: Response<Incoming>) -> Result<ExportResponse, ExportError> {
    if response.status() != StatusCode::OK {
        return Err(by_status(response.status(), response.headers()));
    }
    let (head, body) = response.into_parts();
    let body = bounded_body::collect(body, MAX_ANSWER)
        .await
        .map_err(|error| ExportError::retryable(describe(&error)))?;
    let trailers = body.trailers.unwrap_or_default();
    let said = |name| {
        head.headers.get(name).or_else(|| trailers.get(name)).and_then(|value| value.to_str().ok())
    };
    match said("grpc-status").and_then(|code| code.parse::<u8>().ok()) {
        Some(0) => Ok(export_response(body.bytes.get(PREFIX..).unwrap_or_default())),
        // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss: the codes of
        // OTLP's table that permit a retry.
        Some(code @ (1 | 4 | 10 | 11 | 14 | 15)) => {
            Err(ExportError::retryable(refusal(code, said("grpc-message"))))
        }
        Some(code) => Err(ExportError::permanent(refusal(code, said("grpc-message")))),
        None => Err(ExportError::retryable("the answer has no gRPC status")),
    }
}

fn refusal(code: u8, message: Option<&str>) -> String {
    format!("the collector answered gRPC status {code} ({})", message.unwrap_or_default())
}

async fn http_answer(response: Response<Incoming>) -> Result<ExportResponse, ExportError> {
    let (head, body) = response.into_parts();
    // Read even if it is not used, so that the connection can be used again.
    let body = bounded_body::collect(body, MAX_ANSWER)
        .await
        .map_err(|error| ExportError::retryable(describe(&error)))?;
    if !head.status.is_success() {
        return Err(by_status(head.status, &head.headers));
    }
    Ok(export_response(&body.bytes))
}

fn by_status(status: StatusCode, headers: &HeaderMap) -> ExportError {
    let cause = format!("the collector answered HTTP {}", status.as_u16());
    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return ExportError::permanent(cause);
    }
    let seconds =
        headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    ExportError { cause, retry: Some(seconds.map(Duration::from_secs)) }
}

fn export_response(message: &[u8]) -> ExportResponse {
    let partial = ExportTraceServiceResponse::decode(message)
        .ok()
        .and_then(|response| response.partial_success);
    let partial = partial.unwrap_or_default();
    ExportResponse {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        message: partial.error_message,
    }
}

fn connector(
    host: &str,
    ca: Option<&Path>,
    protocol: OtlpProtocol,
) -> Result<(TlsConnector, ServerName<'static>), TraceError> {
    let mut config = tls_roots::client_config(ca)?;
    if protocol == OtlpProtocol::Grpc {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| TraceError::ServerName(host.to_owned()))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
