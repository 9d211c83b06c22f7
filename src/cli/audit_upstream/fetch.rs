//! Fetches one document from the audited server: one connection, one GET, bounded in bytes and in
//! time, without redirects.

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header::HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    bounded_body::{self, BodyError},
    cli::tls,
    error_text::describe,
};

/// The time for the whole exchange.
const DEADLINE: Duration = Duration::from_secs(10);

/// Most bytes of a document. Those of real servers are smaller than one MiB.
const MAX_BYTES: usize = 8 << 20;

/// The path of the document, where the URL has none.
const DOCUMENT: &str = "/openapi.json";

/// The reason why there is no document.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    /// The URL is not that of a server.
    #[error(
        "the URL is none of a server; write `http://host:port` or `https://host:port`, without user and password"
    )]
    Url,
    /// The server cannot be reached, or does not speak HTTP.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The exchange took longer than its deadline.
    #[error("the server did not answer in full within {} s", DEADLINE.as_secs())]
    TooSlow,
    /// The answer is larger than a document may be.
    #[error("the answer is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// The status of the answer is not 200.
    #[error(
        "the server answered {0}; a server that is not FastAPI, or hides its document, has none: see `tollgate presets show NAME`"
    )]
    Status(u16),
    /// The answer is a redirect.
    #[error(
        "the server answered {0}, a redirect, and none is followed; name the document's own URL"
    )]
    Redirect(u16),
}

/// The URL of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Url {
    /// Reads a URL; without a path, it is that of the document.
    pub(super) fn parse(url: &str) -> Result<Self, FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let (host, authority) = uri.host().zip(uri.authority()).ok_or(FetchError::Url)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(FetchError::Url),
        };
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(FetchError::Url);
        }
        Ok(Self {
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_string(),
            path: if uri.path() == "/" { DOCUMENT.to_owned() } else { uri.path().to_owned() },
        })
    }

    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }
}

/// Fetches the document at `url`.
pub(super) async fn get(url: &Url) -> Result<Bytes, FetchError> {
    tokio::time::timeout(DEADLINE, connect(url)).await.map_err(|_| FetchError::TooSlow)?
}

async fn connect(url: &Url) -> Result<Bytes, FetchError> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(unreachable)?;
    if !url.tls {
        return exchange(stream, url).await;
    }
    let connector = tls::connector().map_err(unreachable)?;
    let name = ServerName::try_from(url.host.clone()).map_err(unreachable)?;
    exchange(connector.connect(name, stream).await.map_err(unreachable)?, url).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &Url,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    // It ends when `sender` is dropped at the end of this call, with an error of no interest.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::builder()
        .method(Method::GET)
        .uri(&url.path)
        .header(HOST, &url.authority)
        .body(Empty::<Bytes>::new())
        .map_err(unreachable)?;
    let response = sender.send_request(request).await.map_err(unreachable)?;
    match response.status().as_u16() {
        200 => {}
        status @ 300..=399 => return Err(FetchError::Redirect(status)),
        status => return Err(FetchError::Status(status)),
    }
    match bounded_body::collect(response.into_body(), MAX_BYTES).await {
        Ok(body) => Ok(body.bytes),
        Err(BodyError::TooLarge(_)) => Err(FetchError::TooLarge),
        Err(BodyError::Broken(error)) => Err(unreachable(error)),
    }
}

fn unreachable(error: impl Error + 'static) -> FetchError {
    FetchError::Unreachable(describe(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_servers() {
        for (url, expected) in [
            ("http://127.0.0.1:8000", Some("http://127.0.0.1:8000/openapi.json")),
            ("http://127.0.0.1:8000/", Some("http://127.0.0.1:8000/openapi.json")),
            ("http://[::1]:8000/", Some("http://[::1]:8000/openapi.json")),
            ("https://pod.example/api/openapi.json", Some("https://pod.example/api/openapi.json")),
            ("https://user:pass@pod.example", None),
            ("https://pod.example/?key=secret", None),
            ("ftp://pod.example", None),
            ("pod.example:8000", None),
            ("", None),
        ] {
            assert_eq!(
                Url::parse(url).ok().map(|url| url.to_string()).as_deref(),
                expected,
                "{url}"
            );
        }
    }
}
