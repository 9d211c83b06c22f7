//! A client of the admin API: one connection per call, over https, a Unix socket, or plain http on
//! this machine. Its modules have the calls of `revoke`, `ban` and `keys`.

mod bans;
mod keys;
mod revocations;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tollgate_core::secret::Secret;

use crate::{
    admin::{WeakToken, check_token},
    bounded_body,
    cli::{printable::printable, tls},
    store::Position,
};

pub(super) use self::keys::MadeKey;

/// The time limit of one call.
const DEADLINE: Duration = Duration::from_secs(10);

/// The largest accepted response, in bytes: a full page of entries with the longest notes is well
/// below.
const MAX_ANSWER: usize = 4 << 20;

/// The reason why a call failed.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// The URL has no accepted form.
    // The URL is not quoted: people write passwords into URLs.
    #[error(
        "the URL is not one of an admin API; write `https://host:port`, `unix:/path`, or `http://127.0.0.1:port`"
    )]
    Url,
    /// The URL is plain http to another machine.
    #[error("`{0}` is not this machine, and the token would cross the network in clear; use https")]
    Clear(String),
    /// The token is not strong enough.
    #[error(transparent)]
    Token(#[from] WeakToken),
    /// The API does not answer.
    #[error("the admin API cannot be reached: {0}")]
    Unreachable(String),
    /// The API refused the call.
    #[error("the admin API refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The message of the API, with the remedy.
        message: String,
    },
    /// The response is not one of the admin API.
    #[error("the response (status {0}) is not one of the admin API of tollgate")]
    Strange(u16),
}

/// The address of the API.
#[derive(Debug, PartialEq, Eq)]
enum Endpoint {
    Unix(PathBuf),
    Tcp { tls: bool, host: String, port: u16 },
}

/// A client of the admin API.
#[derive(Debug)]
pub(super) struct AdminClient {
    endpoint: Endpoint,
    token: Secret,
}

impl AdminClient {
    pub(super) fn new(url: &str, token: Secret) -> Result<Self, ClientError> {
        check_token(&token)?;
        Ok(Self { endpoint: Endpoint::parse(url)?, token })
    }

    /// Makes one call. Returns the status and the JSON of the response.
    pub(super) async fn call(
        &self,
        method: Method,
        path: String,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), ClientError> {
        let call = async {
            match &self.endpoint {
                Endpoint::Unix(path_of_socket) => {
                    let stream = UnixStream::connect(path_of_socket).await.map_err(unreachable)?;
                    self.exchange(stream, "localhost".into(), method, path, body).await
                }
                Endpoint::Tcp { tls, host, port } => {
                    let stream =
                        TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                    let name = if host.contains(':') {
                        format!("[{host}]:{port}")
                    } else {
                        format!("{host}:{port}")
                    };
                    if !tls {
                        return self.exchange(stream, name, method, path, body).await;
                    }
                    let server = ServerName::try_from(host.clone()).map_err(unreachable)?;
                    let stream = tls::connector()
                        .map_err(unreachable)?
                        .connect(server, stream)
                        .await
                        .map_err(unreachable)?;
                    self.exchange(stream, name, method, path, body).await
                }
            }
        };
        let slow =
            |_| ClientError::Unreachable(format!("no answer within {}s", DEADLINE.as_secs()));
        tokio::time::timeout(DEADLINE, call).await.map_err(slow)?
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: String,
        method: Method,
        path: String,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), ClientError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        // The connection ends when `sender` is dropped at the end of this call; its result adds
        // nothing.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", self.token.expose()].concat())
            .map_err(unreachable)?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(unreachable)?;
        let response = sender.send_request(request).await.map_err(unreachable)?;
        let status = response.status();
        let body = bounded_body::collect(response.into_body(), MAX_ANSWER)
            .await
            .map_err(unreachable)?
            .bytes;
        let json: Value =
            serde_json::from_slice(&body).map_err(|_| ClientError::Strange(status.as_u16()))?;
        if status == StatusCode::OK {
            return Ok((status, json));
        }
        let message = json.pointer("/error/message").and_then(Value::as_str).map(str::to_owned);
        match message {
            Some(_) if status == StatusCode::NOT_FOUND => Ok((status, json)),
            Some(message) => {
                // The server may be another one: its line feeds are not ours.
                let message = printable(&message);
                Err(ClientError::Refused { status: status.as_u16(), message })
            }
            None => Err(ClientError::Strange(status.as_u16())),
        }
    }
}

/// Returns the path of a page of a list.
fn page(path: &str, after: Option<&Position>, limit: usize) -> String {
    let cursor = after.map_or(String::new(), |after| format!("&cursor={after}"));
    format!("{path}?limit={limit}{cursor}")
}

/// Reads the cursor of the next page.
fn position(next: Option<String>) -> Result<Option<Position>, ClientError> {
    let strange = |_| ClientError::Strange(StatusCode::OK.as_u16());
    next.map(|next| next.parse().map_err(strange)).transpose()
}

/// Reads the answer of a call that succeeded.
fn read<T: DeserializeOwned>((status, json): (StatusCode, Value)) -> Result<T, ClientError> {
    let strange = || ClientError::Strange(status.as_u16());
    if status != StatusCode::OK {
        return Err(strange());
    }
    serde_json::from_value(json).map_err(|_| strange())
}

/// Reads the answer of a call for one entry; `None` where the API has no such entry.
fn found((status, json): (StatusCode, Value)) -> Result<Option<Value>, ClientError> {
    match status {
        StatusCode::OK => Ok(Some(json)),
        _ if json.pointer("/error/code").is_some_and(|code| code == "not_found") => Ok(None),
        _ => Err(ClientError::Strange(status.as_u16())),
    }
}

fn unreachable(error: impl std::fmt::Display) -> ClientError {
    ClientError::Unreachable(error.to_string())
}

impl Endpoint {
    fn parse(url: &str) -> Result<Self, ClientError> {
        if let Some(path) = url.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        let bad = || ClientError::Url;
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let (host, authority) = uri.host().zip(uri.authority()).ok_or_else(bad)?;
        // The path is fixed, and a user name in a URL would be a secret.
        if !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            return Err(bad());
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !tls && !here {
            return Err(ClientError::Clear(host));
        }
        Ok(Self::Tcp { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_crosses_a_network_in_clear() {
        let tcp = |tls, host: &str, port| Some(Endpoint::Tcp { tls, host: host.into(), port });
        for (url, expected) in [
            ("http://127.0.0.1:9003", tcp(false, "127.0.0.1", 9003)),
            ("http://127.0.0.1:9003/", tcp(false, "127.0.0.1", 9003)),
            ("http://[::1]:9003", tcp(false, "::1", 9003)),
            ("http://localhost", tcp(false, "localhost", 80)),
            ("https://gate.example.com", tcp(true, "gate.example.com", 443)),
            ("https://10.0.0.1:9003", tcp(true, "10.0.0.1", 9003)),
            (
                "unix:/run/tollgate/admin.sock",
                Some(Endpoint::Unix("/run/tollgate/admin.sock".into())),
            ),
            ("http://gate.example.com", None),
            ("http://10.0.0.1:9003", None),
            ("http://localhost.example.com", None),
            ("http://127.0.0.1@gate.example.com", None),
            ("https://user:pass@gate.example.com", None),
            ("https://gate.example.com/v1/revocations", None),
            ("https://gate.example.com/?x", None),
            ("redis://127.0.0.1", None),
            ("unix:relative", None),
            ("127.0.0.1:9003", None),
            ("", None),
        ] {
            assert_eq!(Endpoint::parse(url).ok(), expected, "{url}");
        }
    }
}
