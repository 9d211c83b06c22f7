//! The section `listen`: the addresses, and what each listener needs.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tollgate_core::{
    config::{Errors, Path, from_text},
    network::Networks,
    policy::Policy,
    secret::SecretSource,
};

use crate::{
    adapter::{
        forward_auth::{ForwardAuthConfig, RouteNeeds},
        settle_api::config::{ReporterConfig, SettleListenConfig},
    },
    admin::caller::AdminCredentialConfig,
    listener::{Address, ListenerConfig, SocketMode, TlsConfig},
};

/// The section `listen`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// The gRPC listener: Envoy's ext_authz and gRPC health. Default `127.0.0.1:9000` where `http`
    /// is empty, else none.
    pub grpc: Option<ListenerConfig>,
    /// The listener for Envoy's access log over gRPC, by which requests with limits on tokens or on
    /// requests in flight are settled: a Unix socket, or TLS with `client_ca`, because a
    /// peer can report any usage. It needs the section `metering`. Default: none.
    pub access_log: Option<ListenerConfig>,
    /// The listener for Envoy's external processing over gRPC, by which requests are settled before
    /// their clients see the end of the response: a Unix socket, or TLS with `client_ca`. It needs
    /// `access_log`, which settles all others. Default: none.
    pub ext_proc: Option<ListenerConfig>,
    /// Listeners for proxies that call over HTTP: nginx, Traefik, Caddy, HAProxy, and Envoy's HTTP
    /// service. Default: none.
    pub http: Vec<ForwardAuthConfig>,
    /// The listener for reports of usage over HTTP, `POST /v1/settle`: those of nginx, and of servers
    /// and gateways that count for themselves. It needs the section `metering`. Default: none.
    pub settle: Option<SettleListenConfig>,
    /// The listener for `/healthz`, `/readyz` and `/metrics`, which contain no secret and change
    /// nothing. Default `127.0.0.1:9002`.
    pub ops: ListenerConfig,
    /// The listener of the administration API. Default: off.
    pub admin: Option<AdminListenConfig>,
    /// Whether the file is for the module inside of Envoy, where no listener takes checks and
    /// requests are settled without an access log. `tollgate serve` refuses such a file. Default
    /// false; the module also accepts the file of a sidecar, of which it opens `ops` and `admin` only.
    pub embedded: bool,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            grpc: None,
            access_log: None,
            ext_proc: None,
            http: Vec::new(),
            settle: None,
            ops: loopback(9002),
            admin: None,
            embedded: false,
        }
    }
}

impl ListenConfig {
    /// Adds the errors of the section. `policy` is `None` where it has errors of its own.
    pub(super) fn validate(&self, policy: Option<&Policy>, root: &Path, errors: &mut Errors) {
        let listen = root.key("listen");
        let needs = policy.map(|policy| RouteNeeds {
            body: &policy.body_routes,
            settlement: &policy.settled_routes,
        });
        for (index, listener) in self.http.iter().enumerate() {
            let path = listen.key("http").index(index);
            listener.validate(needs.unwrap_or_default(), &path, errors);
        }
        self.validate_embedded(&listen, errors);
        for (key, listener) in [("access_log", &self.access_log), ("ext_proc", &self.ext_proc)] {
            let Some(listener) = listener else { continue };
            let path = listen.key(key);
            if !listener.authenticates_peers() {
                errors.push(&path, "any peer could report the usage of requests: use a Unix socket, or `tls` with `client_ca`");
            }
            check_metering(policy, &path, errors);
        }
        if self.ext_proc.is_none()
            && let Some(place) = policy.and_then(|policy| policy.cuts_streams.as_ref())
        {
            let listener = listen.key("ext_proc");
            let message = "no listener gets the responses that are to be cut: add `listen.ext_proc`, and use Envoy with deploy/envoy/envoy-metered-cut.yaml";
            errors.push_presuming(place, &[listener], message);
        }
        if self.ext_proc.is_some() && self.access_log.is_none() {
            errors.push_presuming(
                &listen.key("ext_proc"),
                &[listen.key("access_log")],
                "Envoy sends no part of a response that was cut or that has no usage: add `listen.access_log`, which settles those",
            );
        }
        if let Some(settle) = &self.settle {
            let path = listen.key("settle");
            settle.validate(policy.map(|policy| &*policy.route_names), &path, errors);
            check_metering(policy, &path, errors);
        }
        self.validate_settlement(policy, &listen, errors);
        if let Some(admin) = &self.admin {
            let path = listen.key("admin").key("credentials");
            AdminCredentialConfig::validate(&admin.credentials, &path, errors);
        }
    }

    /// The section without the credentials of the admin API and the reporters, which a reload changes.
    pub(super) fn without_credentials(&self) -> Self {
        let admin = self.admin.clone();
        let admin = admin.map(|admin| AdminListenConfig { credentials: Vec::new(), ..admin });
        let settle = self.settle.clone();
        let settle = settle.map(|settle| SettleListenConfig { reporters: Vec::new(), ..settle });
        Self { admin, settle, ..self.clone() }
    }

    /// The reporters of usage.
    pub fn reporters(&self) -> Vec<ReporterConfig> {
        self.settle.as_ref().map(|settle| settle.reporters.clone()).unwrap_or_default()
    }

    /// Adds an error where requests hold what no report can settle.
    fn validate_settlement(&self, policy: Option<&Policy>, listen: &Path, errors: &mut Errors) {
        let reports = self.http.iter().position(ForwardAuthConfig::reports);
        if let Some(index) = reports.filter(|_| self.settle.is_none()) {
            let place = listen.key("http").index(index).key("settlement");
            errors.push_presuming(
                &place,
                &[listen.key("settle")],
                "no listener receives the reports of this proxy; add `listen.settle`",
            );
        }
        let receives = self.access_log.is_some() || self.settle.is_some();
        if receives || self.grpc().is_none() || self.embedded {
            return;
        }
        if let Some(limit) = policy.and_then(|policy| policy.settled.as_ref()) {
            let message = "no listener receives the reports that settle this limit; add `listen.access_log` for Envoy, or `listen.settle` for servers that report their usage";
            errors.push_presuming(
                limit,
                &[listen.key("access_log"), listen.key("settle")],
                message,
            );
        }
    }

    /// The addresses of the proxies that the listeners for checks trust.
    pub fn trusted_proxies(&self) -> Networks {
        let grpc = self.grpc.iter().flat_map(|listener| &listener.trusted_proxies);
        let http = self.http.iter().flat_map(|listener| &listener.trusted_proxies);
        grpc.chain(http).fold(Networks::default(), |all, some| all.and(some))
    }

    /// The credentials of the admin API.
    pub fn credentials(&self) -> Vec<AdminCredentialConfig> {
        self.admin.as_ref().map(|admin| admin.credentials.clone()).unwrap_or_default()
    }

    /// The gRPC listener that is opened: the one of the file, or the default where no other
    /// listener takes checks.
    pub fn grpc(&self) -> Option<ListenerConfig> {
        let is_default = self.http.is_empty() && !self.embedded;
        self.grpc.clone().or_else(|| is_default.then(|| loopback(9000)))
    }

    /// Adds an error for each listener that the module inside of Envoy does not open.
    fn validate_embedded(&self, path: &Path, errors: &mut Errors) {
        let unused = [
            ("grpc", self.grpc.is_some()),
            ("access_log", self.access_log.is_some()),
            ("ext_proc", self.ext_proc.is_some()),
            ("http", !self.http.is_empty()),
            ("settle", self.settle.is_some()),
        ];
        for (key, _) in unused.into_iter().filter(|(_, is_set)| *is_set && self.embedded) {
            errors
                .push(&path.key(key), "it is not opened inside of Envoy; remove it, or `embedded`");
        }
    }
}

/// Adds an error where no reservation can be opened.
fn check_metering(policy: Option<&Policy>, path: &Path, errors: &mut Errors) {
    if policy.is_some_and(|policy| policy.metering.is_none()) {
        errors.push(
            path,
            "without the section `metering` no reservation can be opened: add `metering.secrets`",
        );
    }
}

/// A listener on a port of loopback.
fn loopback(port: u16) -> ListenerConfig {
    ListenerConfig::new(Address::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], port))))
}

/// The section `listen.admin`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminListenConfig {
    /// The address: `host:port` or `unix:/path`.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "address")]
    pub address: Address,
    /// Permissions of a Unix socket. Default `0660`.
    #[schemars(with = "Option<String>")]
    #[serde(default, deserialize_with = "mode")]
    pub mode: SocketMode,
    /// TLS, which protects the bearer token on the network.
    pub tls: Option<TlsConfig>,
    /// The bearer token of the caller that may do everything. Every call needs a token, on loopback
    /// too.
    pub token: SecretSource,
    /// Callers that may do less, each with a token of its own. A change applies with the reload.
    /// Default: none.
    #[serde(default)]
    pub credentials: Vec<AdminCredentialConfig>,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    from_text(
        deserializer,
        "an address such as `127.0.0.1:9003` or `unix:/run/tollgate/admin.sock`",
    )
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketMode, D::Error> {
    from_text(deserializer, "four octal digits in quotes, such as \"0660\"")
}

impl AdminListenConfig {
    /// Returns the listener without its token.
    pub fn listener(&self) -> ListenerConfig {
        ListenerConfig {
            address: self.address.clone(),
            mode: self.mode,
            tls: self.tls.clone(),
            max_header_bytes: None,
            trusted_proxies: None,
        }
    }
}
