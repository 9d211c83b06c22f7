//! The sections of the file that belong to the sidecar. They change only with a restart, but for
//! the credentials of the admin API.

mod listen;

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::{
    config::{Errors, Path},
    policy::Policy,
    time::Span,
};

pub use self::listen::{AdminListenConfig, ListenConfig};
use super::ledger_needs;
pub use crate::admin::caller::AdminCredentialConfig;
use crate::{
    adapter::in_flight::InFlight,
    byte_size::ByteSize,
    credential::token_cache::TokenCacheConfig,
    observe::{audit::AuditConfig, log::LogConfig, metrics::ObserveConfig},
    secrets::SecretsConfig,
    store::StoreConfig,
};

/// The sections of the sidecar: addresses, store, observation.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// The addresses that Tollgate listens on.
    #[serde(default)]
    pub listen: ListenConfig,
    /// Limits on the size of request bodies.
    #[serde(default)]
    pub body: BodyConfig,
    /// The time that open checks have to finish at shutdown. Default 20s: below the 30s that
    /// Kubernetes gives by default.
    #[serde(default = "drain_timeout")]
    pub drain_timeout: Span,
    /// The store of counters and revocations. Default: in memory, which is right for one replica.
    #[serde(default)]
    pub store: StoreConfig,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Metrics and traces.
    #[serde(default)]
    pub observe: ObserveConfig,
    /// The log of the process itself.
    #[serde(default)]
    pub log: LogConfig,
    /// The cache of verified tokens.
    #[serde(default)]
    pub token_cache: TokenCacheConfig,
    /// Secrets that are read from files.
    #[serde(default)]
    pub secrets: SecretsConfig,
}

fn drain_timeout() -> Span {
    Span::from_secs(20)
}

impl ServerConfig {
    /// Adds the errors of every section. `policy` is `None` where it has errors of its own.
    pub(super) fn validate(&self, policy: Option<&Policy>, errors: &mut Errors) {
        let root = Path::root();
        self.body.validate(&root.key("body"), errors);
        self.audit.validate(&root.key("audit"), errors);
        self.observe.validate(&root.key("observe"), errors);
        self.token_cache.validate(&root.key("token_cache"), errors);
        self.secrets.validate(&root.key("secrets"), errors);
        self.listen.validate(policy, &root, errors);
        let certificates = policy.and_then(|policy| policy.client_certificates.as_ref());
        if self.listen.grpc().is_none()
            && certificates.is_some_and(|section| section.header.is_none())
        {
            errors.push(
                &root.key("client_certificates").key("header"),
                "only a check over `listen.grpc` has a certificate beside the headers: name the header in which the proxy reports it, such as `x-forwarded-client-cert`",
            );
        }
        if !self.listen.http.is_empty() && policy.is_some_and(|policy| policy.cookies.is_some()) {
            errors.push(
                &root.key("cookies"),
                "a proxy that checks over `listen.http` cannot take a cookie out of `Cookie`, so that tokens would reach the upstream: use Envoy over `listen.grpc` or the module",
            );
        }
        let automatic_bans = policy.and_then(|policy| policy.automatic_bans.as_ref());
        if self.token_cache.max.0 == 0 && automatic_bans.is_some_and(|bans| !bans.is_shadow()) {
            errors.push(
                &root.key("automatic_bans"),
                "with `token_cache.max: 0B` no token is known, so that a ban would refuse every client of the network: leave the cache on, or write `mode: shadow`",
            );
        }
        self.store.validate(policy, &root.key("store"), errors);
        if policy.is_some_and(|policy| policy.ledger.is_some()) {
            ledger_needs::validate(&self.store, errors);
        }
        if let Some(policy) = policy {
            ledger_needs::check_keys(policy, errors);
            let admin = self.listen.admin.iter();
            let path = root.key("listen").key("admin").key("credentials");
            for (index, credential) in admin.flat_map(|admin| &admin.credentials).enumerate() {
                credential.check_limits(policy, &path.index(index), errors);
            }
        }
    }

    /// The names of the sections that differ from `other`.
    pub fn changed_sections(&self, other: &Self) -> Vec<&'static str> {
        let changed = self.compared(other).into_iter().filter(|(_, equal)| !equal);
        changed.map(|(name, _)| name).collect()
    }

    /// Each section's name, and whether it equals that of `other`.
    fn compared(&self, other: &Self) -> [(&'static str, bool); 9] {
        // Every field by name: a new section does not compile until it is compared.
        let Self { listen, body, drain_timeout, store, audit, observe, log, token_cache, secrets } =
            self;
        [
            ("listen", listen.without_credentials() == other.listen.without_credentials()),
            ("body", *body == other.body),
            ("drain_timeout", *drain_timeout == other.drain_timeout),
            ("store", *store == other.store),
            ("audit", *audit == other.audit),
            ("observe", *observe == other.observe),
            ("log", *log == other.log),
            ("token_cache", *token_cache == other.token_cache),
            ("secrets", *secrets == other.secrets),
        ]
    }
}

/// The section `body`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BodyConfig {
    /// The size of the largest request body; a larger one is denied with 413 `body_too_large`.
    /// Default 16MiB, because bodies may contain images. It must not exceed what the proxy sends.
    pub max: ByteSize,
    /// The size of all bodies of checks in flight; above it a check is denied with 503
    /// `overloaded`, before its body is read. Default 128MiB.
    pub max_in_flight: ByteSize,
}

impl Default for BodyConfig {
    fn default() -> Self {
        Self { max: ByteSize(16 << 20), max_in_flight: ByteSize(128 << 20) }
    }
}

impl BodyConfig {
    fn validate(self, path: &Path, errors: &mut Errors) {
        let (max, max_in_flight) = (self.max.0 as u64, self.max_in_flight.0 as u64);
        if let Err(error) = InFlight::new(max, max_in_flight) {
            errors.push(path, error.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
