//! The policy: the configuration that decisions are made from, compiled once and never changed.

mod verification;

use std::{collections::BTreeSet, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;

use self::verification::VerificationRules;
use crate::{
    ban::{AutomaticBans, AutomaticBansConfig},
    config::{Errors, Path},
    credential::{
        api_key::{ApiKeys, ApiKeysConfig, ISSUER, KeyHeader},
        certificate::{ClientCertificates, ClientCertificatesConfig},
        cookie::{Cookies, CookiesConfig},
        dpop::{self, Dpop, DpopConfig},
        jwt::issuer::{IssuerConfig, Issuers, MAX_LIFETIME},
    },
    identity::{DynamicMetadata, DynamicMetadataConfig, IdentityHeaders, IdentityHeadersConfig},
    ledger::config::LedgerConfig,
    limit::{
        self, Limit, TOKEN_BUDGET,
        config::{self as limit_config, LimitConfig},
        metering::MeteringConfig,
        price::{Prices, PricesConfig},
        shard::ShardBy,
    },
    request::HeaderNames,
    revocation::{ExternalDenylist, RevocationConfig},
    route::{self, OnOutage, RouteEntry, RouteTable, resource::ResourceMetadata},
    rule::{
        category::{Categories, CategoryConfig},
        model::{ModelConfig, Models, TierConfig},
    },
    secret::SecretSource,
    time::{Quota, Span},
};

/// The sections of the file that make the policy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Who may issue tokens. Needed as soon as one route is not public.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// Keys that clients send in place of a token. Default: none are accepted.
    pub api_keys: Option<ApiKeysConfig>,
    /// Certificates of clients: as credentials on routes that name them, and as proof for tokens that
    /// are bound to one. Default: none are read, and bound tokens are refused.
    pub client_certificates: Option<ClientCertificatesConfig>,
    /// The cookie with a token, and the pages that may use what browsers send by themselves. Needs
    /// Envoy over gRPC, or the module. Default: no cookie is read, and none is removed.
    pub cookies: Option<CookiesConfig>,
    /// Tokens that are bound to a key of the client, which sends a proof with each request (DPoP, RFC
    /// 9449). Default: no proof is read, and such tokens are refused.
    pub dpop: Option<DpopConfig>,
    /// Bans of networks that send credentials which no honest client has. Default: only operators ban.
    pub automatic_bans: Option<AutomaticBansConfig>,
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
    /// Limits, by the names that routes refer to.
    #[serde(default)]
    pub limits: Vec<LimitConfig>,
    /// What models cost. Default: nothing has a cost.
    pub prices: Option<PricesConfig>,
    /// How the usage of requests is followed to their end. Default: it is not.
    pub metering: Option<MeteringConfig>,
    /// The ledger: a record of each settled request. Needs `metering` and Redis. Default: none is kept.
    pub ledger: Option<LedgerConfig>,
    /// Blacklists of other services.
    #[serde(default)]
    pub revocation: RevocationConfig,
    /// Deny requests that the proxy does not report as https: in `X-Forwarded-Proto`, or the header
    /// of its dialect. Of a list of hops, each one counts. The client's `:scheme` is ignored. Default
    /// false: TLS often ends before the proxy.
    #[serde(default)]
    pub require_https: bool,
    /// The headers that describe the holder of a credential to upstreams.
    #[serde(default)]
    pub identity_headers: IdentityHeadersConfig,
    /// The facts of a check that Envoy gets as dynamic metadata.
    #[serde(default)]
    pub dynamic_metadata: DynamicMetadataConfig,
}

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    /// The issuers that are trusted.
    pub issuers: Issuers,
    /// The section `api_keys`.
    pub api_keys: Option<ApiKeys>,
    /// The section `client_certificates`.
    pub client_certificates: Option<ClientCertificates>,
    /// The section `cookies`.
    pub cookies: Option<Cookies>,
    /// The section `dpop`.
    pub dpop: Option<Dpop>,
    /// The section `automatic_bans`.
    pub automatic_bans: Option<AutomaticBans>,
    /// The tiers of API keys that overrides of limits select.
    pub key_tiers: Vec<String>,
    /// The models by name.
    pub models: Models,
    /// The table of routes.
    pub routes: RouteTable,
    /// The limits, ordered by name.
    pub limits: Vec<Limit>,
    /// The section `prices`.
    pub prices: Option<Prices>,
    /// The section `metering`.
    pub metering: Option<MeteringConfig>,
    /// The section `ledger`.
    pub ledger: Option<LedgerConfig>,
    /// The denylists of other services (`revocation.foreign`).
    pub denylists: Vec<ExternalDenylist>,
    /// Whether plain http is denied.
    pub require_https: bool,
    /// The identity headers that upstreams get.
    pub identity_headers: IdentityHeaders,
    /// The resources that tokens of some route have to be for.
    pub resources: Vec<ResourceMetadata>,
    /// The facts of a check that Envoy gets as dynamic metadata.
    pub dynamic_metadata: DynamicMetadata,
    /// Upstream keys, in the order in which routes refer to them.
    pub upstream_keys: Vec<SecretSource>,
    /// Names of all routes, for metrics.
    pub route_names: Vec<String>,
    /// Headers that choose a model or change how a body is read: those of the presets in use; and
    /// those that may hold an API key or a proof. They are removed from every request that passes,
    /// the latter unless the credential is forwarded. Lower case.
    pub strip_headers: HeaderNames,
    /// The entries of `routes` with a route that needs the body, and so denies every request without
    /// it: the place of the entry, and the name of its first such route.
    pub body_routes: Vec<(Path, String)>,
    /// The entries of `routes` with a route whose requests hold what a report settles: the place of
    /// the entry, and the name of its first such route.
    pub settled_routes: Vec<(Path, String)>,
    /// The `on_outage` of each route that uses the store, for metrics.
    pub on_outage: Vec<OnOutage>,
    /// Whether some route counts in memory during an outage.
    pub uses_local: bool,
    /// The place and the name of each limit, in the order of the file.
    pub limit_places: Vec<(Path, String)>,
    /// What decides the shard of a request, where the store has shards
    /// ([`with_shards`](Self::with_shards)).
    pub shard_by: Option<ShardBy>,
    /// Whether reservations have the names of their routes
    /// ([`with_route_names`](Self::with_route_names)).
    pub names_routes: bool,
    /// The place of the first limit with a lease.
    pub leased: Option<Path>,
    /// The place of the first route that ends streams.
    pub cuts_streams: Option<Path>,
    /// The place of the first limit whose holds end with a report of the proxy.
    pub settled: Option<Path>,
    /// What decides how credentials are verified.
    verification: VerificationRules,
}

impl Policy {
    /// The policy for a store with shards, if `by` is one.
    #[must_use]
    pub fn with_shards(self, by: Option<ShardBy>) -> Self {
        Self { shard_by: by, ..self }
    }

    /// The policy whose reservations have the names of their routes, if `names_routes`: those that
    /// report usage are bound to routes.
    #[must_use]
    pub fn with_route_names(self, names_routes: bool) -> Self {
        Self { names_routes, ..self }
    }

    /// Returns the longest time for which a credential that is accepted now may still be accepted:
    /// the largest of all issuers and of API keys, or of any policy where there are none.
    pub fn longest_life(&self) -> Span {
        let issuers = self.issuers.list().iter();
        let keys = self.api_keys.iter().map(|keys| keys.lifetimes.max_life());
        let certificates = self.client_certificates.iter();
        let certificates = certificates.filter(|section| section.accepts_certificates());
        let certificates = certificates.map(|section| section.max_life);
        let lives = issuers.map(|issuer| issuer.longest_life()).chain(keys).chain(certificates);
        lives.max().unwrap_or(MAX_LIFETIME)
    }

    /// Returns the issuers of credentials: those of tokens, of API keys and of certificates.
    pub fn issuer_names(&self) -> impl Iterator<Item = Arc<str>> {
        let of_tokens = self.issuers.list().iter().map(|issuer| Arc::clone(&issuer.name));
        let of_keys = self.api_keys.as_ref().map(|_| Arc::from(ISSUER));
        let sections = self.client_certificates.iter();
        let sections = sections.filter(|section| section.accepts_certificates());
        of_tokens.chain(of_keys).chain(sections.flat_map(ClientCertificates::issuers))
    }

    /// The names of all limits, and of the one that tokens have in a claim.
    pub fn limit_names(&self) -> impl Iterator<Item = &str> {
        let has_budgets =
            self.limits.iter().any(|limit| limit.counts_tokens() && limit.is_settled());
        self.limits.iter().map(Limit::name).chain(has_budgets.then_some(TOKEN_BUDGET))
    }

    /// Whether a limit has this name, and a quota the form of its kind.
    pub fn has_limit(&self, name: &str, quota: Quota) -> bool {
        self.limits.iter().any(|limit| limit.name() == name && limit.fits(quota))
    }

    /// Whether an override of a limit selects this tier of API keys.
    pub fn has_key_tier(&self, tier: &str) -> bool {
        self.key_tiers.iter().any(|known| known == tier)
    }

    /// Whether a credential that was accepted under `earlier` is accepted under this policy with the
    /// same result, and a token or a certificate that was refused for good is refused, as long as
    /// the keys are the same.
    pub fn verifies_as(&self, earlier: &Self) -> bool {
        self.verification == earlier.verification
            && (self.api_keys.is_none() || self.has_names_of(earlier))
    }

    /// Whether the policy has every limit and every tier of `earlier` that a record of an API key may
    /// name.
    fn has_names_of(&self, earlier: &Self) -> bool {
        // Both lists are ordered by name.
        let mut limits = self.limits.iter();
        let mut has = |wanted: &Limit| {
            let found = limits.find(|limit| limit.name() >= wanted.name());
            found.is_some_and(|limit| limit.name() == wanted.name() && limit.fits_as(wanted))
        };
        earlier.limits.iter().all(&mut has)
            && earlier.key_tiers.iter().all(|tier| self.has_key_tier(tier))
    }

    /// Compiles the sections and collects every error; `None` where there are any.
    ///
    /// # Examples
    /// ```
    /// use tollgate_core::{
    ///     config::{Document, Errors},
    ///     policy::{Policy, PolicyConfig},
    /// };
    ///
    /// let file = "
    /// routes:
    ///   - { match: { paths: [/health] }, public: true }
    ///   - { match: { methods: [POST], paths: [/v1/chat/completions] }, scopes: [infer:text] }
    /// ";
    /// let document = Document::parse(file, &|_| None).unwrap();
    /// let config: PolicyConfig = document.read().unwrap();
    /// let mut errors = Errors::default();
    /// // The second route needs a credential, and no issuer can verify one.
    /// assert!(Policy::compile(&config, &mut errors).is_none());
    /// assert!(!errors.is_empty());
    /// ```
    pub fn compile(config: &PolicyConfig, errors: &mut Errors) -> Option<Self> {
        let root = Path::root();
        let mut issuers = Issuers::compile(&config.issuers, &root.key("issuers"), errors);
        let api_keys = config.api_keys.as_ref();
        let api_keys = api_keys.map(|keys| keys.compile(&root.key("api_keys"), errors));
        let client_certificates = config.client_certificates.as_ref();
        let client_certificates = client_certificates
            .map(|section| section.compile(&root.key("client_certificates"), errors));
        let cookies = config.cookies.as_ref();
        let cookies = cookies.map(|section| section.compile(&root.key("cookies"), errors));
        let dpop = config.dpop.as_ref();
        let dpop = dpop.map(|section| section.compile(&root.key("dpop"), errors));
        let automatic_bans = config.automatic_bans.as_ref();
        let automatic_bans =
            automatic_bans.map(|section| section.compile(&root.key("automatic_bans"), errors));
        let models = Models::compile(&config.models, &config.tiers, &root, errors);
        let prices = config.prices.as_ref().map(|prices| {
            let names: Vec<&str> = models.names().collect();
            Prices::compile(prices, &names, &root.key("prices"), errors)
        });
        let limits = limit::compile(&config.limits, &root.key("limits"), errors);
        if let Some(metering) = &config.metering {
            metering.validate(&root.key("metering"), errors);
        }
        if let Some(ledger) = &config.ledger {
            ledger.validate(config.metering.is_some(), &root.key("ledger"), errors);
        }
        let categories =
            Arc::new(Categories::compile(&config.categories, &root.key("categories"), errors));
        let mut parts = route::CompileContext {
            categories: &categories,
            models: &models,
            limits: &limits,
            prices: prices.as_ref(),
            upstream_keys: Vec::new(),
            resources: Vec::new(),
            issuers: &issuers,
            claims: BTreeSet::new(),
            has_metering: config.metering.is_some(),
            api_keys: api_keys.as_ref(),
            algs: dpop.as_ref().map(|section| &section.algs),
            accepts_certificates: client_certificates
                .as_ref()
                .is_some_and(ClientCertificates::accepts_certificates),
            cookies: cookies.as_ref(),
        };
        let compiled = route::compile(&config.routes, &mut parts, &root.key("routes"), errors);
        let (upstream_keys, resources) = (parts.upstream_keys, parts.resources);
        let mut claims = parts.claims;
        claims.extend(limit_config::claims(&config.limits));
        if limits.values().any(|limit| limit.counts_tokens() && limit.is_settled()) {
            claims.insert(TOKEN_BUDGET.to_owned());
        }
        let audiences = resources.iter().map(|resource| Arc::from(resource.resource.as_str()));
        issuers.retain(claims, audiences.collect());
        let verification = verification_rules(config, &issuers);
        let denylists =
            ExternalDenylist::compile(&config.revocation, &root.key("revocation"), errors);
        let identity_headers = IdentityHeaders::compile(
            &config.identity_headers,
            &root.key("identity_headers"),
            errors,
        );
        let dynamic_metadata = DynamicMetadata::compile(
            &config.dynamic_metadata,
            &root.key("dynamic_metadata"),
            errors,
        );
        check_across(config, &denylists, &root, errors);
        let uses_local = config.routes.iter().any(|route| route.on_outage() == OnOutage::Local);
        let on_outage = compiled.on_outage();
        let mut strip_headers = compiled.strip_headers;
        // Also the headers that are not read: a client may send its key in one of them.
        let key_headers = api_keys.iter().flat_map(|_| KeyHeader::ALL);
        let key_headers = key_headers.filter(|header| *header != KeyHeader::Authorization);
        strip_headers.extend(key_headers.map(|header| header.name().to_owned()));
        strip_headers.extend(dpop.iter().map(|_| dpop::HEADER.to_owned()));
        let is_settled =
            |limit: &LimitConfig| limits.get(&limit.name).is_some_and(Limit::is_settled);
        let settled = config.limits.iter().position(is_settled);
        let settled = settled.map(|index| root.key("limits").index(index));
        errors.is_empty().then(|| Self {
            issuers,
            api_keys,
            client_certificates,
            cookies,
            dpop,
            automatic_bans,
            key_tiers: limit_config::key_tiers(&config.limits),
            models,
            routes: compiled.table,
            limits: limits.into_values().collect(),
            prices,
            metering: config.metering.clone(),
            ledger: config.ledger.clone(),
            denylists,
            require_https: config.require_https,
            identity_headers,
            resources,
            dynamic_metadata,
            upstream_keys,
            on_outage,
            route_names: compiled.names,
            strip_headers: strip_headers.into_iter().collect(),
            body_routes: compiled.body_routes,
            settled_routes: compiled.settled_routes,
            uses_local,
            settled,
            cuts_streams: config
                .routes
                .iter()
                .position(RouteEntry::cuts_streams)
                .map(|index| root.key("routes").index(index).key("cut_streams")),
            verification,
            shard_by: None,
            names_routes: false,
            limit_places: config
                .limits
                .iter()
                .enumerate()
                .map(|(index, limit)| (root.key("limits").index(index), limit.name.clone()))
                .collect(),
            leased: config
                .limits
                .iter()
                .position(|limit| limit.lease.is_some())
                .map(|index| root.key("limits").index(index)),
        })
    }
}

/// Returns the sections that a verification reads, and what is retained of tokens for routes and limits.
fn verification_rules(config: &PolicyConfig, compiled: &Issuers) -> VerificationRules {
    // INVARIANT: every section by name. A new one does not compile before it is decided here whether a
    // verification reads it.
    let PolicyConfig {
        issuers,
        api_keys,
        client_certificates,
        revocation,
        cookies: _,
        dpop: _,
        models: _,
        tiers: _,
        categories: _,
        routes: _,
        limits: _,
        prices: _,
        metering: _,
        ledger: _,
        require_https: _,
        identity_headers: _,
        dynamic_metadata: _,
        automatic_bans: _,
    } = config;
    VerificationRules {
        issuers: issuers.clone(),
        api_keys: api_keys.clone(),
        client_certificates: client_certificates.clone(),
        revocation: revocation.clone(),
        retained_claims: compiled.retained_claims().to_vec(),
        audiences: compiled.audiences().to_vec(),
    }
}

/// Checks what takes more than one section.
fn check_across(
    config: &PolicyConfig,
    denylists: &[ExternalDenylist],
    root: &Path,
    errors: &mut Errors,
) {
    if config.issuers.is_empty()
        && config.api_keys.is_none()
        && config.client_certificates.is_none()
        && let Some(index) = config.routes.iter().position(RouteEntry::needs_credential)
    {
        let message = "the route needs a credential, and there are no `issuers`, `api_keys` or `client_certificates` to verify one";
        errors.push_presuming(&root.key("routes").index(index), &[root.key("issuers")], message);
    }
    for (index, issuer) in config.issuers.iter().enumerate() {
        if config.api_keys.is_some() && issuer.issuer == ISSUER {
            let path = root.key("issuers").index(index).key("issuer");
            errors.push(&path, format!("`{ISSUER}` is the issuer of API keys"));
        }
    }
    for (limit, entry, issuer) in limit_config::override_issuers(&config.limits) {
        let is_of_keys = config.api_keys.is_some() && issuer == ISSUER;
        if !is_of_keys && !config.issuers.iter().any(|known| known.issuer == *issuer) {
            let path = root.key("limits").index(limit).key("overrides").index(entry);
            let issuers = [root.key("issuers")];
            let message = format!("no entry of `issuers` is `{issuer}`");
            errors.push_presuming(&path.key("issuer"), &issuers, message);
        }
    }
    if denylists.iter().any(ExternalDenylist::needs_jti) {
        for (index, issuer) in config.issuers.iter().enumerate() {
            if !issuer.requires("jti") {
                let path = root.key("issuers").index(index);
                errors.push(&path, "`revocation.foreign` finds tokens by `jti`; add `jti` to `required_claims`, or tokens without it could not be revoked");
            }
        }
    }
    if !denylists.is_empty()
        && let Some(index) =
            config.routes.iter().position(|route| route.on_outage() == OnOutage::Local)
    {
        let path = root.key("routes").index(index).key("on_outage");
        errors.push(&path, "`local` cannot know the blacklist of another service; use `deny`, or remove `revocation.foreign`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    #[test]
    fn a_denylist_by_jti_needs_tokens_with_one() {
        for (denylist, issuer, is_accepted) in [
            ("blacklist:{jti}", "", false),
            ("blacklist:{jti}", ", required_claims: [sub]", false),
            ("blacklist:{jti}", ", required_claims: [jti]", true),
            ("blacklist:{jti}", ", profile: rfc9068", true),
            ("banned/{sub}", "", true),
        ] {
            let text = format!(
                "issuers: [{{ issuer: i, audiences: [a], algorithms: [RS256], jwks: {{ file: /k }}{issuer} }}]
revocation: {{ foreign: ['{denylist}'] }}
routes: [{{ match: {{ methods: [GET], paths: [/a] }}, scopes: [] }}]"
            );
            let document = Document::parse(&text, &|_| None).unwrap();
            let config: PolicyConfig = document.read().unwrap();
            let mut errors = Errors::default();
            let policy = Policy::compile(&config, &mut errors);
            let errors = errors.without_lines();
            assert_eq!(policy.is_some(), is_accepted, "{denylist}{issuer}: {errors:?}");
        }
    }

    #[test]
    fn every_header_that_may_hold_a_key_is_removed() {
        for header in ["authorization", "x-api-key", "api-key"] {
            let text = format!(
                "api_keys: {{ file: /k, header: [{header}] }}\nroutes: [{{ match: {{ paths: [/a] }}, public: true }}]"
            );
            let document = Document::parse(&text, &|_| None).unwrap();
            let config: PolicyConfig = document.read().unwrap();
            let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
            let removed: Vec<&String> = policy.strip_headers.iter().collect();
            assert_eq!(removed, ["api-key", "x-api-key"], "{header}");
        }
    }
}
