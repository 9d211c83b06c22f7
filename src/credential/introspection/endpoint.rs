//! Calls of one introspection endpoint.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::{sync::Semaphore, time::timeout};
use tollgate_core::{
    credential::{
        introspection::{IntrospectionConfig, MAX_RESPONSE},
        jwt::issuer::Issuer,
    },
    secret::Secret,
    time::Span,
};

use crate::{
    credential::jwks::{
        fetch::{self, Client, FetchError},
        guard::{Guard, GuardError},
        plan::{Access, Remote},
    },
    network_budget::network,
    secrets::{self, SecretError},
};

/// How long authorities are used before they are read again.
const TLS_FOR: Duration = Duration::from_secs(300);

/// The number of parts that client networks are divided into.
const PARTS: usize = 64;

/// The reason why an endpoint has not answered.
#[derive(Debug, Error)]
pub(super) enum EndpointError {
    /// The call took too long, with the wait for its turn.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The address cannot be used.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The call failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The credential for the endpoint cannot be read.
    #[error("`introspection`: {0}")]
    Credential(#[from] SecretError),
    /// A header cannot carry the credential for the endpoint.
    #[error("`introspection`: a header cannot carry the credential")]
    Unprintable,
    /// The answer is too large.
    #[error("the answer is larger than {MAX_RESPONSE} bytes")]
    TooLarge,
}

/// One introspection endpoint.
pub(super) struct Endpoint {
    config: IntrospectionConfig,
    remote: Remote,
    access: Access,
    /// The places of calls.
    calls: Semaphore,
    /// The places for the client networks of each part, half of all: tokens that take long leave
    /// places to the tokens of other networks.
    parts: Vec<Semaphore>,
    /// Selects the part of a network: no client can choose whose places it uses.
    seed: RandomState,
    /// The configuration of TLS, and when it was made.
    tls: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
    /// How long an answer is used.
    pub(super) cache: Span,
}

impl Endpoint {
    /// Returns the endpoint of an issuer; `None` for one without.
    pub(super) fn of(issuer: &Issuer) -> Option<Self> {
        let config = issuer.introspection.clone()?;
        let access = Access { proxy: config.proxy.clone(), ..Access::default() };
        let most = usize::try_from(config.max_calls).unwrap_or(1);
        Some(Self {
            remote: Remote {
                url: config.url.clone(),
                discovery: false,
                allowed_hosts: Vec::new(),
                insecure_http: config.insecure_http,
                ca: config.ca.as_ref().map(PathBuf::from),
                access: access.clone(),
            },
            access,
            calls: Semaphore::new(most),
            parts: (0..PARTS).map(|_| Semaphore::new(most.div_ceil(2))).collect(),
            seed: RandomState::new(),
            tls: Mutex::default(),
            cache: config.cache,
            config,
        })
    }

    /// Sends a token of a client to the endpoint and returns the body of its answer.
    pub(super) async fn call(
        &self,
        token: &Secret,
        client: Option<IpAddr>,
    ) -> Result<Bytes, EndpointError> {
        let within = self.config.timeout.std();
        let called = timeout(within, async {
            // The semaphores are never closed.
            let _part = match self.part(client) {
                Some(part) => part.acquire().await.ok(),
                None => None,
            };
            let _place = self.calls.acquire().await;
            self.post(token, within).await
        });
        called.await.map_err(|_elapsed| EndpointError::Timeout(within))?
    }

    /// The places for the network of a client. Clients whose address is not known are one network.
    fn part(&self, client: Option<IpAddr>) -> Option<&Semaphore> {
        let hash = self.seed.hash_one(client.map(network));
        self.parts.get(usize::try_from(hash).unwrap_or(usize::MAX) % PARTS)
    }

    async fn post(&self, token: &Secret, within: Duration) -> Result<Bytes, EndpointError> {
        let guard = Guard::new(&self.remote)?;
        let ca = self.remote.ca.as_deref();
        let mut client = Client::new(&guard, ca, &self.access, within).await?;
        if self.config.url.starts_with("https:") {
            client = client.with_tls(self.tls().await?);
        }
        let mut form = "token_type_hint=access_token&token=".to_owned();
        encode(token.expose(), &mut form);
        let content = client.post(form, self.authorization().await?).await?;
        if content.len() > MAX_RESPONSE {
            return Err(EndpointError::TooLarge);
        }
        Ok(content)
    }

    /// The credential of Tollgate at the endpoint (RFC 6749 section 2.3.1).
    async fn authorization(&self) -> Result<HeaderValue, EndpointError> {
        let text = match (&self.config.bearer, &self.config.client_id, &self.config.client_secret) {
            (Some(source), _, _) => {
                let token = secrets::resolve(source).await?;
                Secret::new([b"Bearer ", token.expose()].concat())
            }
            (None, Some(id), Some(source)) => {
                let secret = secrets::resolve(source).await?;
                let mut pair = String::new();
                encode(id.as_bytes(), &mut pair);
                pair.push(':');
                encode(secret.expose(), &mut pair);
                Secret::new(format!("Basic {}", STANDARD.encode(pair)))
            }
            _ => return Err(EndpointError::Unprintable),
        };
        let mut value =
            HeaderValue::from_bytes(text.expose()).map_err(|_| EndpointError::Unprintable)?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, FetchError> {
        let known = self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, tls)) = known.filter(|(made, _)| made.elapsed() < TLS_FOR) {
            return Ok(tls);
        }
        let tls = fetch::tls(self.remote.ca.clone()).await?;
        let made = Some((Instant::now(), Arc::clone(&tls)));
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(tls)
    }
}

/// Appends bytes in the encoding of forms.
fn encode(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
}
