//! Fetches one document from a key server, bounded in bytes and redirects, with the guard's rules
//! on each request.
//!
//! Every fetch has its own connection, closed at its end. Fetches are minutes apart, so a kept
//! connection would often be one that the server has closed in the meantime
//! (kgateway-dev/kgateway#4838), and a connection opened under one rule of the guard could be used
//! under another. A dropped fetch leaves nothing behind. No proxy is used, and none is read from
//! the environment.

use std::{
    error::Error as StdError,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header, response::Parts};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
};
use tokio_rustls::TlsConnector;
use tollgate_core::credential::jwt::key_set::MAX_BYTES;

use super::{
    guard::{AddressRange, Guard, GuardError, Target},
    timing,
};
use crate::{
    bounded_body::{self, BodyError},
    error_text::describe,
    tls_roots::{self, RootsError},
};

/// Most redirects that are followed for one document.
const MAX_REDIRECTS: usize = 3;
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Most bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// The reason why there is no document.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    /// The guard forbids the request.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// There is no certificate authority to trust.
    #[error("no certificate authority to trust: {0}")]
    Authorities(#[from] RootsError),
    /// A panic ended the reading of the authorities.
    #[error("the certificate authorities could not be read")]
    Interrupted,
    /// The name cannot be resolved.
    #[error("`{0}` cannot be resolved: {1}")]
    Resolve(Target, String),
    /// The connection or the TLS handshake failed.
    #[error("no connection to `{0}`: {1}")]
    Connect(Target, String),
    /// The connection broke, or the answer is not HTTP.
    #[error("no whole answer from `{0}`: {1}")]
    Exchange(Target, String),
    /// The status of the answer is not 200.
    #[error("`{0}` answered {1}")]
    Status(Target, StatusCode),
    /// A redirect has no readable `Location`.
    #[error("`{0}` redirects to nowhere")]
    NoLocation(Target),
    /// There were more redirects than [`MAX_REDIRECTS`].
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// The answer has more bytes than [`MAX_BYTES`].
    #[error("the answer of `{0}` is larger than {MAX_BYTES} bytes")]
    TooLarge(Target),
}

/// The entity tag that lets a server answer "not modified" (RFC 9110 section 13.1.2).
#[derive(Clone, Debug)]
pub(super) struct Validator {
    target: Target,
    etag: HeaderValue,
}

/// A successful answer.
#[derive(Debug)]
pub(super) enum Fetched {
    /// The document, with its validator and its freshness.
    Document { content: Bytes, validator: Option<Validator>, fresh_for: Option<Duration> },
    /// The document has not changed since the validator was sent.
    NotModified { fresh_for: Option<Duration> },
}

/// Fetches the documents of one attempt of one source.
#[derive(Debug)]
pub(super) struct Client<'a> {
    guard: &'a Guard,
    ca: Option<&'a Path>,
    /// The time for one connection, all addresses of the name together.
    connect_within: Duration,
    /// Created when first needed, for each attempt: the authorities may change on disk.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(guard: &'a Guard, ca: Option<&'a Path>, connect_within: Duration) -> Self {
        Self { guard, ca, connect_within, tls: OnceCell::new() }
    }

    /// Returns the document at `target`, following redirects.
    ///
    /// # Errors
    /// See [`FetchError`]. The caller bounds the time of the whole attempt.
    pub(super) async fn get(
        &self,
        target: Target,
        validator: Option<&Validator>,
    ) -> Result<Fetched, FetchError> {
        let mut target = target;
        for _ in 0..=MAX_REDIRECTS {
            let range = self.guard.admit(&target)?;
            let validator = validator.filter(|validator| validator.target == target);
            let (head, content) = self.exchange(&target, range, validator).await?;
            let fresh_for = timing::fresh_for(&head.headers);
            match head.status {
                StatusCode::OK => {
                    let etag = head.headers.get(header::ETAG).cloned();
                    let validator = etag.map(|etag| Validator { target, etag });
                    return Ok(Fetched::Document { content, validator, fresh_for });
                }
                StatusCode::NOT_MODIFIED if validator.is_some() => {
                    return Ok(Fetched::NotModified { fresh_for });
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location =
                        head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                    target = target
                        .join(location.ok_or_else(|| FetchError::NoLocation(target.clone()))?)?;
                }
                status => return Err(FetchError::Status(target, status)),
            }
        }
        Err(FetchError::TooManyRedirects)
    }

    async fn exchange(
        &self,
        target: &Target,
        range: AddressRange,
        validator: Option<&Validator>,
    ) -> Result<(Parts, Bytes), FetchError> {
        let request = request(target, validator)?;
        if !target.https {
            return send(target, self.dial(target, range).await?, request).await;
        }
        let tls = self.tls.get_or_try_init(|| tls(self.ca.map(Path::to_owned))).await?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| GuardError::NotAnAddress(target.to_string()))?;
        let stream = self.dial(target, range).await?;
        let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = connecting
            .await
            .map_err(|error| FetchError::Connect(target.clone(), describe(&error)))?;
        send(target, stream, request).await
    }

    /// Connects to an address in `range`. Names and IP literals are both resolved here, so that
    /// every spelling of an address is judged by the address itself.
    async fn dial(&self, target: &Target, range: AddressRange) -> Result<TcpStream, FetchError> {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        let found =
            found.map_err(|error| FetchError::Resolve(target.clone(), error.to_string()))?;
        let addresses: Vec<_> =
            found.filter(|address| range.covers(address.ip())).take(MAX_ADDRESSES).collect();
        let share = self.connect_within / u32::try_from(addresses.len()).unwrap_or(1).max(1);
        let mut failed = FetchError::Guard(GuardError::NotPublic(target.authority()));
        for address in addresses {
            let why = match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "timed out".to_owned(),
            };
            failed = FetchError::Connect(target.clone(), why);
        }
        Err(failed)
    }
}

fn request(
    target: &Target,
    validator: Option<&Validator>,
) -> Result<Request<Empty<Bytes>>, FetchError> {
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(&target.path)
        .header(header::HOST, target.authority())
        .header(header::USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json, application/jwk-set+json")
        .header(header::CONNECTION, "close");
    if let Some(validator) = validator {
        request = request.header(header::IF_NONE_MATCH, validator.etag.clone());
    }
    request.body(Empty::new()).map_err(|_| GuardError::NotAnAddress(target.to_string()).into())
}

/// Sends the request, and reads the head and, of a 200, the body. The connection is part of this
/// future and ends with it.
async fn send<S>(
    target: &Target,
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<(Parts, Bytes), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken =
        |error: &(dyn StdError + 'static)| FetchError::Exchange(target.clone(), describe(error));
    let opening =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opening.map_err(|error| broken(&error))?;
    let answer = async {
        let (head, body) =
            sender.send_request(request).await.map_err(|error| broken(&error))?.into_parts();
        if head.status != StatusCode::OK {
            return Ok((head, Bytes::new()));
        }
        match bounded_body::collect(body, MAX_BYTES).await {
            Ok(body) => Ok((head, body.bytes)),
            Err(BodyError::TooLarge(_)) => Err(FetchError::TooLarge(target.clone())),
            Err(BodyError::Broken(error)) => Err(broken(&error)),
        }
    };
    // The connection moves the bytes; its end, good or bad, also ends the answer.
    let driven = async {
        let _ended = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driven => match never {},
    }
}

/// Reads the authorities of `ca`, or the system's, on a blocking thread.
async fn tls(ca: Option<PathBuf>) -> Result<Arc<ClientConfig>, FetchError> {
    let loading = tokio::task::spawn_blocking(move || tls_roots::client_config(ca.as_deref()));
    Ok(Arc::new(loading.await.map_err(|_| FetchError::Interrupted)??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::jwks::plan::Remote;

    /// A literal is not a name, so a rule inside of the resolver would not see it. The last three
    /// are names here, and addresses to the system's resolver.
    #[tokio::test]
    async fn no_spelling_of_a_loopback_address_is_dialled_where_public_ones_are_asked_for() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in [
            "127.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "0.0.0.0",
            "localhost",
            "2130706433",
            "0x7f.1",
        ] {
            let url = format!("http://{host}:{port}/");
            let guard = Guard::new(&Remote {
                url: url.clone(),
                discovery: false,
                allowed_hosts: Vec::new(),
                insecure_http: true,
                ca: None,
            })
            .unwrap();
            let client = Client::new(&guard, None, Duration::from_secs(5));
            let target = Target::parse(&url).unwrap();
            let error = client.dial(&target, AddressRange::Public).await.unwrap_err();
            // A system without IPv6 may not know ::1.
            let refused = matches!(
                error,
                FetchError::Guard(GuardError::NotPublic(_)) | FetchError::Resolve(..)
            );
            assert!(refused, "{host}: {error}");
        }
        let accepted = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(accepted.is_err(), "no client connected");
    }
}
