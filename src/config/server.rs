//! The sections of the file that belong to the sidecar. They change only with a restart, but for
//! the credentials of the admin API.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tollgate_core::{
    config::{Errors, Path, from_text},
    network::Networks,
    policy::Policy,
    secret::SecretSource,
    time::Span,
};

use super::ledger_needs;
pub use crate::admin::caller::AdminCredentialConfig;
use crate::{
    adapter::{
        forward_auth::{ForwardAuthConfig, RouteNeeds},
        in_flight::InFlight,
        settle_api::config::{ReporterConfig, SettleListenConfig},
    },
    byte_size::ByteSize,
    credential::token_cache::TokenCacheConfig,
    listener::{Address, ListenerConfig, SocketMode, TlsConfig},
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
        let needs = policy.map(|policy| RouteNeeds {
            body: &policy.body_routes,
            settlement: &policy.settled_routes,
        });
        for (index, listener) in self.listen.http.iter().enumerate() {
            let path = root.key("listen").key("http").index(index);
            listener.validate(needs.unwrap_or_default(), &path, errors);
        }
        self.listen.validate_embedded(&root.key("listen"), errors);
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
        for (key, listener) in
            [("access_log", &self.listen.access_log), ("ext_proc", &self.listen.ext_proc)]
        {
            let Some(listener) = listener else { continue };
            let path = root.key("listen").key(key);
            if !listener.authenticates_peers() {
                errors.push(&path, "any peer could report the usage of requests: use a Unix socket, or `tls` with `client_ca`");
            }
            check_metering(policy, &path, errors);
        }
        if self.listen.ext_proc.is_none()
            && let Some(place) = policy.and_then(|policy| policy.cuts_streams.as_ref())
        {
            let listener = root.key("listen").key("ext_proc");
            let message = "no listener gets the responses that are to be cut: add `listen.ext_proc`, and use Envoy with deploy/envoy/envoy-metered-cut.yaml";
            errors.push_presuming(place, &[listener], message);
        }
        if self.listen.ext_proc.is_some() && self.listen.access_log.is_none() {
            let listen = root.key("listen");
            errors.push_presuming(
                &listen.key("ext_proc"),
                &[listen.key("access_log")],
                "Envoy sends no part of a response that was cut or that has no usage: add `listen.access_log`, which settles those",
            );
        }
        if let Some(settle) = &self.listen.settle {
            let path = root.key("listen").key("settle");
            settle.validate(policy.map(|policy| &*policy.route_names), &path, errors);
            check_metering(policy, &path, errors);
        }
        self.listen.validate_settlement(policy, &root, errors);
        if let Some(admin) = &self.listen.admin {
            let path = root.key("listen").key("admin").key("credentials");
            AdminCredentialConfig::validate(&admin.credentials, &path, errors);
        }
        self.store.validate(policy, &root.key("store"), errors);
        if policy.is_some_and(|policy| policy.ledger.is_some()) {
            ledger_needs::validate(&self.store, errors);
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
    /// The section without the credentials of the admin API and the reporters, which a reload changes.
    fn without_credentials(&self) -> Self {
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
    fn validate_settlement(&self, policy: Option<&Policy>, root: &Path, errors: &mut Errors) {
        let listen = root.key("listen");
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
mod tests {
    use tollgate_core::config::keys_of;

    use super::*;
    use crate::config::compile;

    fn server(sections: &str) -> ServerConfig {
        let text = format!("routes: [{{ match: {{ paths: [/a] }}, public: true }}]\n{sections}");
        compile(&text, &|_| None).unwrap().file.server
    }

    #[test]
    fn every_section_is_compared_under_its_name() {
        let (one, other) = (server(""), server(""));
        let names: Vec<&str> = one.compared(&other).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, keys_of::<ServerConfig>());
    }

    #[test]
    fn the_listener_of_the_access_log_admits_no_stranger() {
        const METERING: &str = "metering: { secrets: ['file:/run/metering'] }";
        let errors = |listener: &str, metering: &str| {
            let text = format!(
                "routes: [{{ match: {{ paths: [/a] }}, public: true }}]\nlisten: {{ access_log: {listener} }}\n{metering}"
            );
            let errors = compile(&text, &|_| None).err().unwrap_or_default();
            errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(errors("'unix:/run/log.sock'", METERING), "");
        let tls = |authority| {
            format!("{{ address: '10.0.0.1:9004', tls: {{ cert: c, key: k{authority} }} }}")
        };
        assert_eq!(errors(&tls(", client_ca: ca"), METERING), "");
        for listener in ["'127.0.0.1:9004'".to_owned(), tls("")] {
            let found = errors(&listener, METERING);
            assert!(found.contains("use a Unix socket, or `tls` with `client_ca`"), "{found}");
        }
        let found = errors("'unix:/run/log.sock'", "");
        assert!(found.contains("add `metering.secrets`"), "{found}");
    }

    #[test]
    fn a_limit_that_is_settled_needs_what_settles_it() {
        const METERING: &str = "metering: { secrets: ['file:/run/metering'] }\n";
        const LISTEN: &str = "listen: { access_log: 'unix:/run/log.sock' }\n";
        const MODELS: &str = "models: [{ name: m, context: 4096 }]\n";
        let errors = |limit: &str, sections: &[&str]| {
            let text = format!(
                "issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
routes: [{{ match: {{ methods: [POST], paths: [/v1/chat/completions] }}, scopes: [], model: {{ from: body }}, limits: [l] }}]
limits: [{{ name: l, by: [subject], {limit} }}]
{}",
                sections.concat()
            );
            let errors = compile(&text, &|_| None).err().unwrap_or_default();
            errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
        };
        for limit in ["tokens: 1000/1m", "tokens: 1000/day", "concurrent: 2"] {
            assert_eq!(errors(limit, &[METERING, LISTEN, MODELS]), "", "{limit}");
            let found = errors(limit, &[METERING, MODELS]);
            assert!(found.contains("add `listen.access_log`"), "{limit}: {found}");
            let embedded = "listen: { embedded: true }\n";
            assert_eq!(errors(limit, &[METERING, embedded, MODELS]), "", "{limit}");
            let found = errors(limit, &[MODELS]);
            assert!(found.contains("add `metering.secrets`"), "{limit}: {found}");
        }
        let found = errors("tokens: 1000/day", &[METERING, LISTEN]);
        assert!(found.contains("list the `models` with their `context`"), "{found}");
        let found = errors("tokens: 1000/day", &[METERING, LISTEN, "models: [{ name: m }]\n"]);
        assert!(found.contains("the model `m` has no `context`"), "{found}");
        for limit in ["requests: 5/day", "rate: 5/1m"] {
            assert_eq!(errors(limit, &[]), "", "{limit}");
        }
        for (limit, error) in [
            ("tokens: 8", "write tokens per time"),
            ("tokens: 8/day, burst: 4", "a window of the calendar has no burst"),
            ("tokens: 8/1m, time_zone: UTC", "tokens per time have no windows"),
            ("tokens: 8/day, rate: 5/1m", "a limit has one size"),
            ("concurrent: 8, burst: 4", "remove this"),
            (
                "tokens: 8/day, overrides: [{ role: a, tokens: 9/hour }]",
                "in the form of the limit's",
            ),
            ("tokens: 8/day, overrides: [{ role: a, rate: 9/1m }]", "the limit has `tokens`"),
            ("tokens: 8/day, may_raise_to: 9", "does not have the form"),
            ("tokens: 8/day, lease: { slice: 2 }", "only a `rate` can be leased"),
            ("tokens: 8/day, max_debt_percent: 5", "only a limit with `hold: estimate`"),
            (
                "tokens: 8/day, hold: bound, max_debt_percent: 5",
                "only a limit with `hold: estimate`",
            ),
            ("tokens: 8/day, hold: estimate, max_debt_percent: 1001", "it is from 0 to 1000"),
            ("requests: 8/day, hold: estimate", "only a limit with `tokens` has `hold`"),
        ] {
            let found = errors(limit, &[METERING, LISTEN, MODELS]);
            assert!(found.contains(error), "{limit}: {found}");
        }
    }

    #[test]
    fn what_reports_and_what_is_cut_needs_its_listener() {
        let errors = |listen: &str, route: &str| {
            let text = format!(
                "listen: {{ {listen} }}
metering: {{ secrets: ['file:/run/metering'] }}
issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
routes: [{{ match: {{ methods: [GET], paths: [/a] }}, name: a, scopes: [], limits: [l]{route} }}]
limits: [{{ name: l, by: [subject], concurrent: 2 }}]"
            );
            let errors = compile(&text, &|_| None).err().unwrap_or_default();
            errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
        };
        let http = |settlement: &str| {
            format!(
                "http: [{{ address: '127.0.0.1:9001', dialect: nginx, body: sent{settlement} }}]"
            )
        };
        let (reported, settle) =
            (http(", settlement: reported"), "settle: { address: 'unix:/run/settle.sock' }");
        let (log, ext_proc) =
            ("access_log: 'unix:/run/log.sock'", "ext_proc: 'unix:/run/ext-proc.sock'");
        let cut = ", cut_streams: true";
        for (listen, route, expected) in [
            (format!("{reported}, {settle}"), "", ""),
            (reported, "", "add `listen.settle`"),
            (http(""), "", "are settled by reports of usage"),
            (http(", settlement: expiry"), "", ""),
            (format!("grpc: '127.0.0.1:9000', {settle}"), "", ""),
            (log.to_owned(), "", ""),
            (format!("{log}, {ext_proc}"), cut, ""),
            (log.to_owned(), cut, "add `listen.ext_proc`"),
            (format!("{settle}, {ext_proc}"), "", "add `listen.access_log`"),
            (format!("{log}, ext_proc: '127.0.0.1:9005'"), "", "use a Unix socket"),
            (format!("{log}, settle: {{ address: '127.0.0.1:9004' }}"), "", "list `reporters`"),
        ] {
            let found = errors(&listen, route);
            assert_eq!(found.is_empty(), expected.is_empty(), "{listen}: {found}");
            assert!(found.contains(expected), "{listen}: {found}");
        }
    }

    #[test]
    fn inside_of_envoy_no_listener_takes_checks() {
        let listen = server("listen: { embedded: true, ops: '127.0.0.1:9003' }").listen;
        assert_eq!(listen.grpc(), None);
        for (listener, key) in [
            ("grpc: '127.0.0.1:9000'", "listen.grpc"),
            ("http: [{ address: '127.0.0.1:9001', dialect: nginx }]", "listen.http"),
        ] {
            let text = format!(
                "routes: [{{ match: {{ paths: [/a] }}, public: true }}]\nlisten: {{ embedded: true, {listener} }}"
            );
            let errors = compile(&text, &|_| None).unwrap_err();
            let found: Vec<String> = errors.iter().map(|error| error.path.clone()).collect();
            assert_eq!(found, [key], "{errors:?}");
        }
    }

    #[test]
    fn cookies_need_a_proxy_that_takes_them_out() {
        for (listen, expected) in [
            ("grpc: '127.0.0.1:9000'", &[][..]),
            ("embedded: true", &[]),
            ("http: [{ address: '127.0.0.1:9001', dialect: nginx }]", &["cookies"]),
            (
                "grpc: '127.0.0.1:9000', http: [{ address: '127.0.0.1:9001', dialect: traefik }]",
                &["cookies"],
            ),
        ] {
            let text = format!(
                "listen: {{ {listen} }}\ncookies: {{ origins: ['https://a.example'] }}\nroutes: [{{ match: {{ paths: [/a] }}, public: true }}]"
            );
            let errors = compile(&text, &|_| None).err().unwrap_or_default();
            let found: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(found, expected, "{listen}");
        }
    }

    #[test]
    fn a_certificate_is_in_a_header_where_no_check_comes_over_grpc() {
        let found = |listen: &str, header: &str| {
            let text = format!(
                "listen: {{ {listen} }}
client_certificates: {{ {header} }}
routes: [{{ match: {{ paths: [/a] }}, public: true }}]"
            );
            let errors = compile(&text, &|_| None).err().unwrap_or_default();
            errors.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        let http = "http: [{ address: '127.0.0.1:9001', dialect: nginx }]";
        let both = format!("grpc: '127.0.0.1:9000', {http}");
        let header = "header: { name: x-client-cert, format: pem }";
        for listen in ["embedded: true", http] {
            assert_eq!(found(listen, ""), ["client_certificates.header"], "{listen}");
            assert!(found(listen, header).is_empty(), "{listen}");
        }
        for listen in ["grpc: '127.0.0.1:9000'", &*both] {
            assert!(found(listen, "").is_empty(), "{listen}");
        }
    }

    #[test]
    fn work_whose_usage_is_in_no_response_needs_a_fixed_charge() {
        let errors = |route: &str| {
            let text = format!(
                "listen: {{ access_log: 'unix:/run/log.sock' }}
metering: {{ secrets: ['file:/run/metering'] }}
issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
models: [{{ name: m, context: 4096 }}]
routes: [{{ {route} }}]
limits: [{{ name: l, by: [subject], tokens: 8/day }}, {{ name: r, by: [subject], rate: 5/1m }}]"
            );
            let errors = compile(&text, &|_| None).err().unwrap_or_default();
            errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
        };
        let posts = |path: &str, more: &str| {
            format!("match: {{ methods: [POST], paths: ['{path}'] }}, scopes: [], {more}")
        };
        let realtime =
            "match: { methods: [GET], paths: [/ws] }, scopes: [], websocket: {}, limits: [l]";
        let metered = posts("/v1/responses", "model: { from: body }, limits: [l]");
        for route in [
            posts("/v1/batches", "limits: [l], fixed_tokens: 7"),
            posts("/v1/batches/*", "limits: [r, l], fixed_tokens: 7"),
            posts("/v1/videos", "limits: [l], fixed_tokens: 7"),
            format!("{realtime}, fixed_tokens: 7"),
            format!("{metered}, background_tokens: 7"),
            posts("/v1/*", "model: { from: body }, limits: [l], background_tokens: 7"),
            "preset: vllm, open: [realtime, batch], limits: [l], fixed_tokens: 7".to_owned(),
            "preset: vllm, limits: [l], background_tokens: 7".to_owned(),
            "preset: vllm, open: [realtime], limits: [l], fixed_tokens: 7, background_tokens: 8"
                .to_owned(),
        ] {
            assert_eq!(errors(&route), "", "{route}");
        }
        let both = format!("{metered}, fixed_tokens: 7, background_tokens: 7");
        for (route, error) in [
            (posts("/v1/batches", "model: { from: body }, limits: [l]"), "set `fixed_tokens`"),
            (format!("{realtime}, model: {{ from: 'fixed:m' }}"), "set `fixed_tokens`"),
            (posts("/v1/batches", "limits: [r], fixed_tokens: 7"), "no limit in `limits` has"),
            (posts("/v1/batches", "fixed_tokens: 7"), "no limit in `limits` has `tokens`"),
            (posts("/a", "limits: [r], background_tokens: 7"), "no limit in `limits` has"),
            (posts("/a", "limits: [l], fixed_tokens: 0"), "nonzero"),
            (posts("/a", "limits: [l], fixed_tokens: 9007199254740993"), "larger than 2^53"),
            (both, "remove one of the two"),
            (
                posts(
                    "/v1/chat/completions",
                    "model: { from: body }, limits: [l], background_tokens: 7",
                ),
                "only requests of the Responses API",
            ),
            ("preset: tgi, limits: [l], background_tokens: 7".to_owned(), "no route of the preset"),
            (
                posts("/v1/batches", "limits: [l], fixed_tokens: 7, on_outage: local"),
                "`local` cannot count a fixed charge",
            ),
            (
                "match: { paths: [/a] }, public: true, limits: [l], fixed_tokens: 7".to_owned(),
                "the route is public",
            ),
            ("preset: vllm, limits: [l], fixed_tokens: 7".to_owned(), "no batch of the preset"),
            ("preset: vllm, limits: [r], background_tokens: 7".to_owned(), "no limit in `limits`"),
        ] {
            let found = errors(&route);
            assert!(found.contains(error), "{route}: {found}");
        }
    }

    #[test]
    fn a_changed_section_is_found_by_value() {
        for (before, after, section) in [
            ("", "", None),
            ("", "listen: { ops: '127.0.0.1:9003' }", Some("listen")),
            ("", "body: { max: 1MiB }", Some("body")),
            ("", "drain_timeout: 1s", Some("drain_timeout")),
            ("", "store: { memory: { max_buckets: 5 } }", Some("store")),
            ("", "audit: { to: none }", Some("audit")),
            ("", "observe: { tracing: { endpoint: 'http://c:4317' } }", Some("observe")),
            ("", "log: { level: debug }", Some("log")),
            ("", "token_cache: { max: 1MiB }", Some("token_cache")),
            ("", "secrets: { max_stale: 1h }", Some("secrets")),
            // The same value in other words.
            ("", "drain_timeout: 20000ms", None),
            // A secret is compared and not printed.
            (
                "store: { redis: { url: 'redis://r', password: hunter2 } }",
                "store: { redis: { url: 'redis://r', password: hunter3 } }",
                Some("store"),
            ),
            (
                "store: { redis: { url: 'redis://:hunter2@r' } }",
                "store: { redis: { url: 'redis://:hunter3@r' } }",
                Some("store"),
            ),
        ] {
            let changed = server(after).changed_sections(&server(before));
            assert_eq!(changed, Vec::from_iter(section), "{before} -> {after}");
        }
    }
}
