//! Trusted issuers and the requirements on their tokens.

mod config;
mod workload;

use std::{collections::HashMap, sync::Arc};

pub use self::config::{
    AlgorithmName, Audiences, ClaimChoice, ClaimList, ClaimsConfig, IdTokens, IssuerConfig,
    JwksConfig, KidRule, TokenProfile,
};
pub(super) use self::{
    config::{CLIENT_CLAIMS, ClaimSource, ClaimSources, SubjectSource},
    workload::Workloads,
};
use super::algorithm::Algorithm;
use crate::{
    config::{Errors, Path},
    credential::{
        certificate::{is_spiffe_id, trust_domain},
        introspection::IntrospectionConfig,
    },
    identity::{ClaimPath, Generation},
    revocation,
    secret::SecretSource,
    text::{is_identifier, is_invisible},
    time::Span,
};

/// The largest `leeway` of an issuer.
pub const MAX_LEEWAY: Span = Span::from_secs(60);

/// The largest `max_lifetime` of an issuer.
pub const MAX_LIFETIME: Span = Span::from_secs(31 * 86_400);

/// A compiled issuer.
#[derive(Debug)]
pub struct Issuer {
    /// The exact `iss`; empty for `absent`.
    pub name: Arc<str>,
    /// The index of the issuer in the policy.
    pub(crate) index: usize,
    /// The [`revocation::issuer_digest`] of the name.
    pub(super) digest: Arc<revocation::IssuerDigest>,
    /// The accepted audiences.
    pub(super) audiences: Audiences,
    pub(super) audience_claim: String,
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// The source of its keys.
    pub source: KeySource,
    pub(super) kid_required: bool,
    pub(super) required_claims: Vec<String>,
    pub(super) leeway: Span,
    pub(super) max_lifetime: Span,
    pub(super) claims: ClaimSources,
    pub(super) tenant: Option<String>,
    pub(super) accepts_id_tokens: bool,
    pub(super) profile: Option<TokenProfile>,
    /// The endpoint that states what its opaque tokens are.
    pub introspection: Option<IntrospectionConfig>,
    /// The marker of what the endpoint states under this policy.
    pub(crate) statements: Generation,
    /// The rules for the workloads of a trust domain; `None` for an ordinary issuer.
    pub(super) workloads: Option<Workloads>,
}

impl Issuer {
    /// Returns the longest time for which a token that is accepted now may still be accepted, if it
    /// has an `iat`: its clock may be ahead by the leeway.
    pub fn longest_life(&self) -> Span {
        Span::from_micros(self.max_lifetime.micros().saturating_add(self.leeway.micros()))
    }
}

impl Issuer {
    /// Whether a token of the issuer may be for this audience.
    pub(crate) fn admits_audience(&self, audience: &str) -> bool {
        match &self.audiences {
            Audiences::Any => true,
            Audiences::OneOf(list) => list.iter().any(|known| known == audience),
        }
    }
}

/// The source of an issuer's keys.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each issuer")]
pub enum KeySource {
    /// A published key set.
    Jwks(JwksConfig),
    /// A shared secret.
    Secret(SecretSource),
    /// None: the issuer has opaque tokens only.
    Unsigned,
}

/// All trusted issuers. A token's `iss` selects one before any key is read.
#[derive(Debug, Default)]
pub struct Issuers {
    list: Vec<Arc<Issuer>>,
    by_name: HashMap<Arc<str>, usize>,
    retained_claims: Vec<Arc<str>>,
    audiences: Vec<Arc<str>>,
    /// The issuers with opaque tokens, by their indices.
    introspecting: Vec<usize>,
}

impl Issuers {
    /// Compiles the list `issuers` and records every error.
    pub fn compile(configs: &[IssuerConfig], list: &Path, errors: &mut Errors) -> Self {
        let mut issuers = Self::default();
        for (index, config) in configs.iter().enumerate() {
            let path = list.index(index);
            let issuer = compile(config, index, &path, errors);
            if let Some(first) = issuers.by_name.insert(Arc::clone(&issuer.name), index) {
                let first = list.index(first);
                let what = format!("the issuer `{}`", config.issuer);
                let presumes = [first.key("issuer")];
                let remedy = "remove one of the two";
                errors.push_duplicate(&path.key("issuer"), &presumes, what, &first, remedy);
            }
            if issuer.introspection.is_some() {
                issuers.introspecting.push(index);
            }
            issuers.list.push(Arc::new(issuer));
        }
        check_prefixes(configs, list, errors);
        issuers
    }

    /// Whether some issuer has opaque tokens.
    pub(crate) fn introspects(&self) -> bool {
        !self.introspecting.is_empty()
    }

    /// Returns the only issuer whose opaque tokens begin like this one.
    pub(crate) fn of_opaque(&self, token: &[u8]) -> Option<&Arc<Issuer>> {
        let mut issuers = self.introspecting.iter().filter_map(|index| self.list.get(*index));
        issuers.find(|issuer| {
            let section = issuer.introspection.as_ref();
            let prefix = section.and_then(|section| section.prefix.as_deref()).unwrap_or_default();
            token.starts_with(prefix.as_bytes())
        })
    }

    /// Returns the issuer of a token with this `iss`; `None` is a token without `iss`.
    pub(crate) fn find(&self, iss: Option<&str>) -> Option<&Arc<Issuer>> {
        if iss == Some("") {
            return None;
        }
        self.list.get(*self.by_name.get(iss.unwrap_or_default())?)
    }

    /// Returns the issuer of a token with these claims `iss` and `sub`. A JWT-SVID needs no `iss`: its
    /// issuer is the trust domain of its `sub` (JWT-SVID section 3).
    pub fn select(&self, iss: Option<&str>, sub: Option<&str>) -> Option<&Arc<Issuer>> {
        let of_domain = || {
            let id = sub.filter(|sub| is_spiffe_id(sub))?;
            self.list.get(*self.by_name.get(trust_domain(id))?)
        };
        match iss {
            // Before the issuer of tokens without `iss`, which has keys of its own.
            None => of_domain().or_else(|| self.find(None)),
            Some(iss) => self.find(Some(iss)).or_else(of_domain),
        }
    }

    /// Sets what is retained of every token, besides the claims with a meaning of their own: claims,
    /// and the audiences of these that it has.
    pub(crate) fn retain(
        &mut self,
        claims: impl IntoIterator<Item = String>,
        audiences: Vec<Arc<str>>,
    ) {
        self.retained_claims = claims.into_iter().map(Arc::from).collect();
        self.audiences = audiences;
    }

    /// Returns the audiences that routes require.
    pub(crate) fn audiences(&self) -> &[Arc<str>] {
        &self.audiences
    }

    /// Returns the claims that are retained of every token.
    pub(crate) fn retained_claims(&self) -> &[Arc<str>] {
        &self.retained_claims
    }

    /// Returns all issuers in the order of the file.
    pub fn list(&self) -> &[Arc<Issuer>] {
        &self.list
    }
}

/// Checks that each opaque token has one issuer: it is sent to no other.
fn check_prefixes(configs: &[IssuerConfig], list: &Path, errors: &mut Errors) {
    let prefixes: Vec<(usize, &str)> = configs
        .iter()
        .enumerate()
        .filter_map(|(index, config)| {
            let section = config.introspection.as_ref()?;
            Some((index, section.prefix.as_deref().unwrap_or_default()))
        })
        .collect();
    for (at, (index, prefix)) in prefixes.iter().enumerate() {
        let clash = prefixes
            .iter()
            .take(at)
            .find(|(_, other)| prefix.starts_with(other) || other.starts_with(prefix));
        if let Some((other, _)) = clash {
            let path = list.index(*index).key("introspection").key("prefix");
            let other = configs.get(*other).map_or("", |config| config.issuer.as_str());
            let message = format!(
                "a token may begin like those of this issuer and of `{other}`, and is sent to one endpoint only: give both a `prefix`, of which neither begins the other"
            );
            errors.push(&path, message);
        }
    }
}

fn compile(config: &IssuerConfig, index: usize, path: &Path, errors: &mut Errors) -> Issuer {
    if config.issuer.is_empty() {
        errors.push(
            &path.key("issuer"),
            "the issuer must not be empty; write `absent` for tokens without `iss`",
        );
    }
    let name = if config.issuer == "absent" { "" } else { config.issuer.as_str() };
    match &config.audiences {
        Audiences::OneOf(names) if names.is_empty() => {
            errors.push(&path.key("audiences"), "list at least one audience, or write `any`")
        }
        Audiences::OneOf(names) if names.iter().any(String::is_empty) => {
            errors.push(&path.key("audiences"), "an audience must not be empty")
        }
        _ => {}
    }
    check_visible(config, path, errors);
    if config.profile == Some(TokenProfile::Rfc9068) {
        check_rfc9068(config, path, errors);
    }
    let algorithms: Vec<Algorithm> =
        config.algorithms.iter().map(|AlgorithmName(algorithm)| *algorithm).collect();
    let is_unsigned =
        config.introspection.is_some() && config.jwks.is_none() && config.secret.is_none();
    if let Some(section) = &config.introspection {
        let at = path.key("introspection");
        section.check(&at, errors);
        check_url(&section.url, section.insecure_http, &at.key("url"), &at, errors);
    }
    if is_unsigned && !algorithms.is_empty() {
        errors.push(
            &path.key("algorithms"),
            "an issuer with `introspection` alone has no signed tokens; add `jwks`, or remove this",
        );
    }
    if algorithms.is_empty() && !is_unsigned {
        errors.push(&path.key("algorithms"), "list at least one algorithm, such as `[RS256]`");
    }
    let source = source(config, &algorithms, name, path, errors);
    let workloads = Workloads::compile(config, &algorithms, path, errors);
    if config.leeway > MAX_LEEWAY {
        errors.push(
            &path.key("leeway"),
            format!("`{}` is more than 60s; fix the clock skew instead", config.leeway),
        );
    }
    if config.max_lifetime > MAX_LIFETIME || config.max_lifetime.micros() == 0 {
        errors.push(
            &path.key("max_lifetime"),
            format!("`{}` is not between 1ms and 31d", config.max_lifetime),
        );
    }
    for (index, claim) in config.required_claims.iter().enumerate() {
        if claim.is_empty() {
            errors.push(
                &path.key("required_claims").index(index),
                "a claim's name must not be empty",
            );
        }
    }
    if config.claims.scopes.as_ref().is_some_and(Vec::is_empty) {
        errors.push(&path.key("claims").key("scopes"), "list at least one claim that holds scopes");
    }
    check_claims(&config.claims, &path.key("claims"), errors);
    if let Some(tenant) = &config.tenant
        && !is_identifier(tenant)
    {
        errors.push(&path.key("tenant"), "a tenant is 1 to 256 printable characters");
    }
    Issuer {
        name: name.into(),
        index,
        digest: revocation::issuer_digest(name),
        audiences: config.audiences.clone(),
        audience_claim: config.audience_claim.clone(),
        algorithms,
        source,
        kid_required: config.secret.is_none() && config.kid != Some(KidRule::Optional),
        required_claims: config.every_required_claim(),
        leeway: config.leeway,
        max_lifetime: config.max_lifetime,
        claims: ClaimSources::of(&config.claims, workloads.is_some()),
        tenant: config.tenant.clone(),
        accepts_id_tokens: config.id_tokens == IdTokens::Accepted,
        profile: config.profile,
        introspection: config.introspection.clone(),
        statements: Generation::new(),
        workloads,
    }
}

/// Checks that no other key contradicts the profile of access tokens (RFC 9068 section 4).
fn check_rfc9068(config: &IssuerConfig, path: &Path, errors: &mut Errors) {
    for (key, is_contrary, what) in [
        ("issuer", config.issuer == "absent", "its tokens have an `iss`"),
        ("audiences", config.audiences == Audiences::Any, "its tokens are for one of a list"),
        ("audience_claim", config.audience_claim != "aud", "its audience is in `aud`"),
        ("id_tokens", config.id_tokens == IdTokens::Accepted, "an ID token is none of it"),
    ] {
        if is_contrary {
            let message =
                format!("it contradicts `profile: rfc9068`: {what}; change one of the two");
            errors.push_presuming(&path.key(key), &[path.key("profile")], message);
        }
    }
}

/// Checks that the names that are compared with a token's have no character that cannot be seen.
fn check_visible(config: &IssuerConfig, path: &Path, errors: &mut Errors) {
    let mut check = |path: Path, text: &str| {
        if let Some(character) = text.chars().find(|character| is_invisible(*character)) {
            let code = u32::from(character);
            let message =
                format!("the text has U+{code:04X}, which cannot be seen; write the text again");
            errors.push(&path, message);
        }
    };
    check(path.key("issuer"), &config.issuer);
    check(path.key("audience_claim"), &config.audience_claim);
    if let Audiences::OneOf(names) = &config.audiences {
        for (index, name) in names.iter().enumerate() {
            check(path.key("audiences").index(index), name);
        }
    }
    for (index, name) in config.required_claims.iter().enumerate() {
        check(path.key("required_claims").index(index), name);
    }
}

/// Checks that no list is read as a path where a list of claims is meant.
fn check_claims(claims: &ClaimsConfig, path: &Path, errors: &mut Errors) {
    let path_of = |misread: &ClaimPath| {
        format!(
            "a list of names is a path here: `{misread}`, a member of `{}`, which is no object",
            misread.top()
        )
    };
    let choices = [("tenant", &claims.tenant), ("client", &claims.client)];
    for (key, choice) in choices {
        if let Some(misread) = choice.as_ref().and_then(ClaimChoice::misread) {
            let names: Vec<String> = misread.names().map(|name| format!("[{name}]")).collect();
            let message = format!(
                "{}; for the first of several claims, as in `claims.subject`, write `[{}]`",
                path_of(misread),
                names.join(", ")
            );
            errors.push(&path.key(key), message);
        }
    }
    if let Some(misread) = claims.roles.as_ref().filter(|roles| roles.looks_like_alternatives()) {
        let message = format!("{}; the roles are read from one claim", path_of(misread));
        errors.push(&path.key("roles"), message);
    }
}

fn source(
    config: &IssuerConfig,
    algorithms: &[Algorithm],
    name: &str,
    path: &Path,
    errors: &mut Errors,
) -> KeySource {
    let symmetric = algorithms.iter().filter(|algorithm| algorithm.is_symmetric()).count();
    match (&config.secret, &config.jwks) {
        (Some(secret), None) => {
            if symmetric != algorithms.len() {
                errors.push(&path.key("algorithms"), "with `secret`, only HS256, HS384 and HS512 make sense");
            }
            if config.kid == Some(KidRule::Required) {
                errors.push(&path.key("kid"), "a `secret` has no name; leave `kid` out");
            }
            return KeySource::Secret(secret.clone());
        }
        (Some(_), Some(_)) => errors.push(path, "write either `jwks` or `secret`, not both"),
        (None, None) if config.introspection.is_some() => return KeySource::Unsigned,
        (None, None) => {
            errors.push(path, "the issuer has no keys; add `jwks: { url: … }`, `{ file: … }` or `{ discovery: true }`")
        }
        (None, Some(_)) if symmetric > 0 => errors
            .push(&path.key("algorithms"), "HS256, HS384 and HS512 need `secret`; a published key must never be a shared secret"),
        (None, Some(_)) => {}
    }
    let Some(jwks) = &config.jwks else {
        return KeySource::Secret(SecretSource::File(String::new()));
    };
    let at = path.key("jwks");
    let ways = usize::from(jwks.url.is_some())
        + usize::from(jwks.file.is_some())
        + usize::from(jwks.discovery);
    if ways != 1 {
        errors.push(&at, "write exactly one of `url`, `file` and `discovery: true`");
    }
    if jwks.discovery {
        check_url(name, jwks.insecure_http, &path.key("issuer"), &at, errors);
    }
    if let Some(url) = &jwks.url {
        check_url(url, jwks.insecure_http, &at.key("url"), &at, errors);
    }
    if jwks.file.is_some() {
        let fetched = [
            ("proxy", jwks.proxy.is_some()),
            ("bearer", jwks.bearer.is_some()),
            ("headers", !jwks.headers.is_empty()),
        ];
        for (key, _) in fetched.into_iter().filter(|(_, is_set)| *is_set) {
            errors.push(&at.key(key), "a key file is not fetched; remove this key");
        }
    }
    if jwks.bearer.is_some()
        && let Some(name) =
            jwks.headers.keys().find(|name| name.eq_ignore_ascii_case("authorization"))
    {
        errors
            .push(&at.key("headers").key(name), "`bearer` sets this header; remove one of the two");
    }
    for (key, span) in [
        ("refresh", jwks.refresh),
        ("max_stale", jwks.max_stale),
        ("cool_down", jwks.cool_down),
        ("timeout", jwks.timeout),
    ] {
        if span.micros() == 0 {
            errors.push(&at.key(key), "must be more than 0");
        }
    }
    KeySource::Jwks(jwks.clone())
}

/// Checks an address. The messages do not quote it, because it may contain a password. `jwks` is
/// the path of the map with `insecure_http`.
fn check_url(url: &str, insecure: bool, path: &Path, jwks: &Path, errors: &mut Errors) {
    let rest = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (None, Some(rest)) if insecure => rest,
        (None, Some(_)) => {
            let message = "this is plain http; use https, or write `insecure_http: true` if the network is trusted";
            errors.push_presuming(path, &[jwks.key("insecure_http")], message);
            return;
        }
        (None, None) => {
            errors.push(path, "this is not an https address");
            return;
        }
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.contains('@') {
        errors.push(path, "the address needs a host, and must not hold a user or a password");
    }
}
