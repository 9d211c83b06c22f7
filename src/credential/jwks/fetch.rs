//! Fetches one document from a key server, bounded in bytes and redirects, with the guard's rules
//! on each request.
//!
//! Every fetch has its own connection, closed at its end. Fetches are minutes apart, so a kept
//! connection would often be one that the server has closed in the meantime
//! (kgateway-dev/kgateway#4838), and a connection opened under one rule of the guard could be used
//! under another. A dropped fetch leaves nothing behind. A proxy resolves names itself, so that
//! only addresses that the operator has named are fetched through one.

use std::{
    error::Error as StdError,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header, response::Parts};
use http_body_util::Full;
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
use tollgate_core::{credential::jwt::key_set::MAX_BYTES, secret::SecretSource};

use super::{
    guard::{AddressRange, Guard, GuardError, Target},
    plan::Access,
    proxy::{Environment, Proxy, ProxyError},
    timing,
};
use crate::{
    bounded_body::{self, BodyError},
    error_text::describe,
    secrets::{self, SecretError},
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
pub(in crate::credential) enum FetchError {
    /// The guard forbids the request.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The connection to the proxy failed.
    #[error("no connection to the proxy `{0}`: {1}")]
    ProxyConnect(String, String),
    /// A proxy resolves a name that is neither configured nor allowed.
    #[error(
        "`{0}` is not the configured address, and the proxy resolves its name; add it to \
         `allowed_hosts` if it is meant"
    )]
    NotNamed(Target),
    /// A credential for the key server cannot be read.
    #[error("{0}: {1}")]
    Credential(String, SecretError),
    /// A header for the key server cannot be sent.
    #[error("`headers` has the name or the value of `{0}`, which HTTP cannot carry")]
    Header(String),
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
pub(in crate::credential) struct Client<'a> {
    guard: &'a Guard,
    ca: Option<&'a Path>,
    /// Headers for the host of the configured address.
    headers: Vec<(HeaderName, HeaderValue)>,
    proxy: ProxyChoice,
    /// The time for one connection, all addresses of the name together.
    connect_within: Duration,
    /// Created when first needed, for each attempt: the authorities may change on disk.
    tls: OnceCell<Arc<ClientConfig>>,
}

/// What is posted, with the credential for it.
struct Form {
    content: Bytes,
    authorization: HeaderValue,
}

/// The proxy of a client.
#[derive(Debug)]
enum ProxyChoice {
    /// The one that the policy names, for every address.
    Named(Proxy),
    Environment(Box<Environment>),
}

impl<'a> Client<'a> {
    /// Creates the client of one attempt. Credentials in files are read now.
    ///
    /// # Errors
    /// [`FetchError::Credential`], [`FetchError::Header`], [`FetchError::Proxy`].
    pub(in crate::credential) async fn new(
        guard: &'a Guard,
        ca: Option<&'a Path>,
        access: &Access,
        connect_within: Duration,
    ) -> Result<Self, FetchError> {
        let read = async |key: &str, source: &SecretSource| {
            let secret = secrets::resolve(source).await;
            secret.map_err(|error| FetchError::Credential(format!("`jwks.{key}`"), error))
        };
        let proxy = match &access.proxy {
            Some(source) => ProxyChoice::Named(Proxy::parse(&read("proxy", source).await?)?),
            None => {
                let environment = Environment::read(|name| std::env::var(name).ok());
                ProxyChoice::Environment(Box::new(environment))
            }
        };
        let mut headers = Vec::new();
        for (name, source) in &access.headers {
            let value = read("headers", source).await?;
            headers.push(header(name, value.expose())?);
        }
        if let Some(source) = &access.bearer {
            let token = read("bearer", source).await?;
            headers.push(header("authorization", &[b"Bearer ", token.expose()].concat())?);
        }
        Ok(Self { guard, ca, headers, proxy, connect_within, tls: OnceCell::new() })
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
            let (head, content) = self.exchange(&target, range, validator, None).await?;
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

    /// Posts a form to the configured address and returns the answer. A redirect is none.
    ///
    /// # Errors
    /// See [`FetchError`]. The caller bounds the time.
    pub(in crate::credential) async fn post(
        &self,
        form: String,
        authorization: HeaderValue,
    ) -> Result<Bytes, FetchError> {
        let target = self.guard.configured();
        let range = self.guard.admit(target)?;
        let form = Form { content: form.into(), authorization };
        let (head, content) = self.exchange(target, range, None, Some(form)).await?;
        match head.status {
            StatusCode::OK => Ok(content),
            status => Err(FetchError::Status(target.clone(), status)),
        }
    }

    /// Uses this configuration of TLS, in place of one that is made for the attempt.
    #[must_use]
    pub(in crate::credential) fn with_tls(self, tls: Arc<ClientConfig>) -> Self {
        Self { tls: OnceCell::new_with(Some(tls)), ..self }
    }

    async fn exchange(
        &self,
        target: &Target,
        range: AddressRange,
        validator: Option<&Validator>,
        form: Option<Form>,
    ) -> Result<(Parts, Bytes), FetchError> {
        let proxy = match &self.proxy {
            ProxyChoice::Named(proxy) => Some(proxy.clone()),
            ProxyChoice::Environment(environment) => environment.proxy(target)?,
        };
        let request = self.request(target, validator, form, proxy.as_ref())?;
        let Some(proxy) = proxy else {
            let stream = self.dial(target, range).await?;
            return self.exchange_over(target, stream, request).await;
        };
        if range != AddressRange::Any {
            return Err(FetchError::NotNamed(target.clone()));
        }
        let stream = self.dial_proxy(&proxy).await?;
        if target.https {
            let stream = proxy.tunnel(stream, target).await?;
            self.exchange_over(target, stream, request).await
        } else {
            send(target, stream, request).await
        }
    }

    /// Sends the request over a connection to the target, with TLS for https.
    async fn exchange_over<S>(
        &self,
        target: &Target,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Bytes), FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !target.https {
            return send(target, stream, request).await;
        }
        let tls = self.tls.get_or_try_init(|| tls(self.ca.map(Path::to_owned))).await?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| GuardError::NotAnAddress(target.to_string()))?;
        let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = connecting
            .await
            .map_err(|error| FetchError::Connect(target.clone(), describe(&error)))?;
        send(target, stream, request).await
    }

    fn request(
        &self,
        target: &Target,
        validator: Option<&Validator>,
        form: Option<Form>,
        proxy: Option<&Proxy>,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        // A proxy that forwards plain http needs the whole address (RFC 9112 section 3.2.2).
        let forwarder = proxy.filter(|_| !target.https);
        let uri = match forwarder {
            Some(_) => format!("{target}{}", target.path),
            None => target.path.clone(),
        };
        let mut request = Request::builder()
            .method(if form.is_some() { Method::POST } else { Method::GET })
            .uri(uri)
            .header(header::HOST, target.authority())
            .header(header::USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .header(header::CONNECTION, "close");
        if let Some(validator) = validator {
            request = request.header(header::IF_NONE_MATCH, validator.etag.clone());
        }
        if let Some(authorization) = forwarder.and_then(Proxy::authorization) {
            request = request.header(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        // A redirect or a discovery document must not send the credentials elsewhere.
        let home = self.guard.configured();
        if target.https == home.https && target.host == home.host && target.port == home.port {
            for (name, value) in &self.headers {
                request = request.header(name, value.clone());
            }
        }
        let mut body = Bytes::new();
        if let Some(form) = form {
            request = request
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::AUTHORIZATION, form.authorization);
            body = form.content;
        }
        let request = request.body(Full::new(body));
        request.map_err(|_| GuardError::NotAnAddress(target.to_string()).into())
    }

    async fn dial_proxy(&self, proxy: &Proxy) -> Result<TcpStream, FetchError> {
        let connecting = TcpStream::connect((proxy.host.as_str(), proxy.port));
        let failed = |why: String| FetchError::ProxyConnect(proxy.authority(), why);
        match tokio::time::timeout(self.connect_within, connecting).await {
            Ok(stream) => stream.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed("timed out".to_owned())),
        }
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

/// A header for the key server, whose value does not print.
fn header(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), FetchError> {
    let wrong =
        || FetchError::Header(name.chars().take(100).flat_map(char::escape_debug).collect());
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    let mut value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Sends the request, and reads the head and, of a 200, the body. The connection is part of this
/// future and ends with it.
async fn send<S>(
    target: &Target,
    stream: S,
    request: Request<Full<Bytes>>,
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
pub(in crate::credential) async fn tls(
    ca: Option<PathBuf>,
) -> Result<Arc<ClientConfig>, FetchError> {
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
                access: Access::default(),
            })
            .unwrap();
            let access = Access::default();
            let client = Client::new(&guard, None, &access, Duration::from_secs(5)).await.unwrap();
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
