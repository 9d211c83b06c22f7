//! The file: every section, and where each is compiled. The sections belong to their rooms; this only puts them side by side.

use std::{fmt, path::Path as FilePath};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tollgate_core::{
    config::{ConfigError, Document, Errors, Partial, Path},
    credential::jwt::issuer::IssuerConfig,
    limit::rate::LimitConfig,
    policy::{Policy, PolicyConfig},
    revocation::RevocationConfig,
    route::RouteEntry,
    rule::{
        category::CategoryConfig,
        model::{ModelConfig, TierConfig},
    },
    secret::SecretSource,
    time::Span,
};

use crate::{
    adapter::{forward_auth::ForwardAuthConfig, in_flight::InFlight},
    credential::{jwks, token_cache::TokenCacheConfig},
    listener::{Address, ListenerConfig, SocketMode, TlsConfig},
    observe::{audit::AuditConfig, log::LogConfig, metrics::ObserveConfig},
    store::StoreConfig,
};

pub use crate::byte_size::ByteSize;

/// A whole configuration file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tollgate configuration")]
pub struct File {
    /// Where Tollgate listens.
    #[serde(default)]
    pub listen: ListenConfig,
    /// How much of request bodies is held at once.
    #[serde(default)]
    pub body: BodyConfig,
    /// How long open checks may take to finish at shutdown. Default 20s: below the 30s Kubernetes gives by default.
    #[serde(default = "drain_timeout")]
    pub drain_timeout: Span,
    /// Where limits are counted and revocations kept. Default: in memory, which is right for one replica.
    #[serde(default)]
    pub store: StoreConfig,
    /// The audit lines.
    #[serde(default)]
    pub audit: AuditConfig,
    /// What the metrics tell apart.
    #[serde(default)]
    pub observe: ObserveConfig,
    /// The log of the process itself.
    #[serde(default)]
    pub log: LogConfig,
    /// Tokens that were verified before.
    #[serde(default)]
    pub token_cache: TokenCacheConfig,
    /// Who may issue tokens. Needed as soon as one route is not public.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// Names for models. With none, a model's name is what clients send.
    #[serde(default)]
    pub models: Vec<ModelConfig>,
    /// Sets of models that need one scope more. A model in none needs none.
    #[serde(default)]
    pub tiers: Vec<TierConfig>,
    /// Prompts that need scopes of their own, by what a request declares or by patterns over its text. They hold on routes with
    /// `categories`. A control of intent, not a firewall.
    #[serde(default)]
    pub categories: Vec<CategoryConfig>,
    /// What is open, and to whom. What no route covers is denied.
    pub routes: Vec<RouteEntry>,
    /// How much.
    #[serde(default)]
    pub limits: Vec<LimitConfig>,
    /// Blacklists of other services.
    #[serde(default)]
    pub revocation: RevocationConfig,
    /// Deny requests whose scheme, as the proxy reports it, is not https. Default false: TLS often ends before the proxy.
    #[serde(default)]
    pub require_https: bool,
}

fn drain_timeout() -> Span {
    Span::from_secs(20)
}

/// `listen`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Envoy's ext_authz and gRPC health. Default `127.0.0.1:9000`.
    pub grpc: ListenerConfig,
    /// Proxies that ask over HTTP: nginx, Traefik, Caddy, HAProxy, and Envoy's HTTP service. Default: none.
    pub http: Vec<ForwardAuthConfig>,
    /// `/healthz`, `/readyz` and `/metrics`: nothing secret, nothing mutable. Default `127.0.0.1:9002`.
    pub ops: ListenerConfig,
    /// The API that changes things. Default: off.
    pub admin: Option<AdminListenConfig>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        let loopback = |port: u16| {
            ListenerConfig::new(Address::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], port))))
        };
        Self { grpc: loopback(9000), http: Vec::new(), ops: loopback(9002), admin: None }
    }
}

/// `listen.admin`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminListenConfig {
    /// `host:port` or `unix:/path`.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "address")]
    pub address: Address,
    /// Permissions of a Unix socket. Default `0660`.
    #[schemars(with = "Option<String>")]
    #[serde(default, deserialize_with = "mode")]
    pub mode: SocketMode,
    /// TLS; the bearer token is a secret on the wire.
    pub tls: Option<TlsConfig>,
    /// The bearer token every call needs, on loopback too.
    pub token: SecretSource,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketMode, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl AdminListenConfig {
    /// The listener without its token.
    pub fn listener(&self) -> ListenerConfig {
        ListenerConfig { address: self.address.clone(), mode: self.mode, tls: self.tls.clone() }
    }
}

/// `body`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BodyConfig {
    /// The largest request body; above it 413 `body_too_large`. Default 16MiB: images come in bodies. Not above what the proxy sends.
    pub max: ByteSize,
    /// The most that all checks in flight may hold; above it 503 `overloaded`, before a message is read. Default 128MiB.
    pub max_in_flight: ByteSize,
}

impl Default for BodyConfig {
    fn default() -> Self {
        Self { max: ByteSize(16 << 20), max_in_flight: ByteSize(128 << 20) }
    }
}

/// A file that was read and compiled.
#[derive(Debug)]
pub struct Loaded {
    /// Its sections.
    pub file: File,
    /// Its policy.
    pub policy: Policy,
}

/// Why a file is not used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("`{path}` cannot be read: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It was read, and this is wrong with it.
    #[error("{}", shown(path, errors))]
    Wrong {
        /// The file.
        path: String,
        /// All of it.
        errors: Vec<ConfigError>,
    },
}

fn shown(path: &str, errors: &[ConfigError]) -> String {
    let lines: Vec<String> =
        errors.iter().map(|error| Located { path, error }.to_string()).collect();
    lines.join("\n")
}

/// `file:line: place: message`, as compilers write it.
struct Located<'a> {
    path: &'a str,
    error: &'a ConfigError,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, error } = self;
        match error.line {
            Some(line) => write!(f, "{path}:{line}: ")?,
            None => write!(f, "{path}: ")?,
        }
        if !error.path.is_empty() {
            write!(f, "{}: ", error.path)?;
        }
        f.write_str(&error.message())
    }
}

/// Reads and compiles a file.
///
/// # Errors
/// Everything that is wrong with it at once.
pub fn load(path: &FilePath) -> Result<Loaded, LoadError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| LoadError::Read { path: shown.clone(), error })?;
    compile(&text, &|name| std::env::var(name).ok())
        .map_err(|errors| LoadError::Wrong { path: shown, errors })
}

/// Compiles the text of a file.
///
/// # Errors
/// Everything that is wrong with it at once.
pub fn compile(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<ConfigError>> {
    let document = Document::parse(text, env)?;
    let Partial { value, errors: mut unread, omitted } = document.read_part::<File>(&[]);
    let Some(file) = value else { return Err(document.locate(unread)) };
    let mut errors = Errors::default();
    let root = Path::root();
    if let Err(error) = InFlight::new(file.body.max.0 as u64, file.body.max_in_flight.0 as u64) {
        errors.push(&root.key("body"), error.to_string());
    }
    file.audit.check(&root.key("audit"), &mut errors);
    file.observe.check(&root.key("observe"), &mut errors);
    file.token_cache.check(&root.key("token_cache"), &mut errors);
    let policy = Policy::compile(&file.policy(), &mut errors);
    if let Some(policy) = &policy {
        jwks::check(policy.issuers.list(), &root.key("issuers"), &mut errors);
    }
    let body_routes =
        policy.as_ref().map(|policy| policy.body_routes.as_slice()).unwrap_or_default();
    for (index, listener) in file.listen.http.iter().enumerate() {
        listener.validate(body_routes, &root.key("listen").key("http").index(index), &mut errors);
    }
    file.store.validate(policy.as_ref(), &root.key("store"), &mut errors);
    match policy {
        Some(policy) if errors.is_empty() && unread.is_empty() => Ok(Loaded { file, policy }),
        _ => {
            unread.extend(omitted.without_consequences(errors));
            Err(document.locate(unread))
        }
    }
}

impl File {
    /// The sections the core compiles.
    pub fn policy(&self) -> PolicyConfig {
        PolicyConfig {
            issuers: self.issuers.clone(),
            models: self.models.clone(),
            tiers: self.tiers.clone(),
            categories: self.categories.clone(),
            routes: self.routes.clone(),
            limits: self.limits.clone(),
            revocation: self.revocation.clone(),
            require_https: self.require_https,
        }
    }
}

#[cfg(test)]
mod tests;
