//! Trusted issuers: what a token must look like to be theirs.

use std::{collections::HashMap, fmt, sync::Arc};

use jsonwebtoken::Algorithm;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::{
    config::{Errors, Path},
    revocation,
    secret::SecretSource,
    time::Span,
};

/// One entry of `issuers`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The exact `iss` of its tokens, or the word `absent` for tokens without `iss` (one issuer at most).
    pub issuer: String,
    /// Names of this service in the tokens' audience, one of which must be there; or the word `any`, which accepts tokens
    /// made for other services too: only for issuers that serve nothing else.
    pub audiences: Audiences,
    /// The claim that holds the audience. Default `aud`; Cognito's access tokens have it in `client_id`.
    #[serde(default = "audience_claim")]
    pub audience_claim: String,
    /// The algorithms its tokens may be signed with. Never taken from the token: that is how a public key becomes an HMAC secret.
    pub algorithms: Vec<AlgorithmName>,
    /// Where its public keys are: `{ url: … }`, `{ file: … }` or `{ discovery: true }`.
    pub jwks: Option<JwksConfig>,
    /// For HS256, HS384 and HS512 only: the shared secret, at least as long as the hash.
    pub secret: Option<SecretSource>,
    /// Whether a token must name its key. Default `required`; `optional` takes the only key that fits. A `secret` has no name.
    pub kid: Option<KidRule>,
    /// Claims a token must have besides `exp`, `sub`, `iss` and the audience. Default `[iat]`: without it a token
    /// cannot be told from one issued before a revocation. Add `jti` where the issuer sends it.
    #[serde(default = "required_claims")]
    pub required_claims: Vec<String>,
    /// Clock difference that is forgiven, at most 60s. Default 30s.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// Longest life a token may have, from `iat` (or from now, without `iat`) to `exp`; at most 31d. Default 24h.
    #[serde(default = "max_lifetime")]
    pub max_lifetime: Span,
    /// Where the tokens say what.
    #[serde(default)]
    pub claims: ClaimsConfig,
    /// A fixed tenant for every token of this issuer, instead of a claim.
    pub tenant: Option<String>,
}

fn audience_claim() -> String {
    "aud".into()
}

fn required_claims() -> Vec<String> {
    vec!["iat".into()]
}

fn leeway() -> Span {
    Span::from_secs(30)
}

fn max_lifetime() -> Span {
    Span::from_secs(86_400)
}

/// `audiences`: a list, or the word `any`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audiences {
    /// No audience is asked for.
    Any,
    /// One of these must be in the token.
    OneOf(Vec<String>),
}

impl<'de> Deserialize<'de> for Audiences {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Audiences;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names, or the word `any`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Audiences, E> {
                if text == "any" {
                    Ok(Audiences::Any)
                } else {
                    Err(E::custom(format!(
                        "`{text}` is neither a list of names nor the word `any`; write `[{text}]`"
                    )))
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Audiences, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Audiences::OneOf)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for Audiences {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Audiences".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "type": "array", "items": { "type": "string" }, "minItems": 1 }, { "const": "any" }] })
    }
}

/// Where an issuer's public keys are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwksConfig {
    /// The address of the key set. Its host is trusted as written, private addresses included.
    pub url: Option<String>,
    /// A file with the key set; read again when it changes.
    pub file: Option<String>,
    /// Ask `<issuer>/.well-known/openid-configuration` for the address. The address it names must be on the issuer's own
    /// host or one of `allowed_hosts`, and not private.
    #[serde(default)]
    pub discovery: bool,
    /// Hosts (`name` or `name:port`) that a discovered address or a redirect may lead to, private ones included.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Allow plain http. Default false: whoever can answer for the key server can sign any token.
    #[serde(default)]
    pub insecure_http: bool,
    /// How often keys are fetched again when the server does not say (Cache-Control: max-age, within 1m and 1h). Default 10m.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// How long keys serve after the last good fetch. Then the issuer's tokens are refused. Default 24h.
    #[serde(default = "max_stale")]
    pub max_stale: Span,
    /// The least time between two fetches for an unknown `kid`. Default 30s.
    #[serde(default = "cool_down")]
    pub cool_down: Span,
    /// Time for one fetch. Default 5s.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// A PEM file with certificate authorities for this server, instead of the system's.
    pub ca: Option<String>,
    /// Keep the last good set in this file, for a start while the server is down. Default: none.
    pub cache_file: Option<String>,
}

fn refresh() -> Span {
    Span::from_secs(600)
}

fn max_stale() -> Span {
    Span::from_secs(86_400)
}

fn cool_down() -> Span {
    Span::from_secs(30)
}

fn timeout() -> Span {
    Span::from_secs(5)
}

/// `kid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KidRule {
    /// The token must name its key.
    Required,
    /// A token without `kid` is verified with the only key that fits, if there is exactly one.
    Optional,
}

/// Where the tokens say what: a word is one top-level claim taken whole, a list is a path into nested objects.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimsConfig {
    /// The subject, a string. Default `sub`.
    pub subject: ClaimPath,
    /// The tenant, a string. Default `tenant_id`; a token without it has no tenant.
    pub tenant: ClaimPath,
    /// The client id, a string. Default `client_id`; Keycloak and Auth0 say `azp`, Okta `cid`, Entra `appid`.
    pub client: ClaimPath,
    /// The roles, a list of strings or one string. Default `roles`; Keycloak: `[realm_access, roles]`.
    pub roles: ClaimPath,
    /// The scopes: every one of these claims is read, strings are split at spaces. Default `[scope, scopes, scp]`.
    pub scopes: Vec<ClaimPath>,
}

impl Default for ClaimsConfig {
    fn default() -> Self {
        let claim = |name: &str| ClaimPath(vec![name.to_owned()]);
        Self {
            subject: claim("sub"),
            tenant: claim("tenant_id"),
            client: claim("client_id"),
            roles: claim("roles"),
            scopes: vec![claim("scope"), claim("scopes"), claim("scp")],
        }
    }
}

/// The way to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for ClaimPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = ClaimPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim's name, or a list of names as a path")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClaimPath, E> {
                self.checked(vec![text.to_owned()])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ClaimPath, A::Error> {
                self.checked(Vec::deserialize(SeqAccessDeserializer::new(items))?)
            }
        }
        impl Words {
            fn checked<E: serde::de::Error>(self, names: Vec<String>) -> Result<ClaimPath, E> {
                if names.is_empty() || names.iter().any(String::is_empty) {
                    return Err(E::custom("a claim's name must not be empty"));
                }
                Ok(ClaimPath(names))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for ClaimPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Claim".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 }] })
    }
}

/// An algorithm by its JOSE name (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgorithmName(pub(super) Algorithm);

impl AlgorithmName {
    /// Every algorithm that can be configured.
    pub const ALL: [(&'static str, Algorithm); 12] = [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
        ("ES256", Algorithm::ES256),
        ("ES384", Algorithm::ES384),
        ("EdDSA", Algorithm::EdDSA),
        ("HS256", Algorithm::HS256),
        ("HS384", Algorithm::HS384),
        ("HS512", Algorithm::HS512),
    ];

    /// The algorithm of exactly this name.
    pub fn parse(name: &str) -> Option<Algorithm> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

impl<'de> Deserialize<'de> for AlgorithmName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).map(Self).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            serde::de::Error::custom(format!(
                "unknown algorithm `{name}`; known: {}",
                known.join(", ")
            ))
        })
    }
}

impl JsonSchema for AlgorithmName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let known: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
        json_schema!({ "enum": known })
    }
}

/// Whether an algorithm needs a shared secret.
pub fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// A compiled issuer.
#[derive(Debug)]
pub struct Issuer {
    /// The exact `iss`; empty for `absent`.
    pub name: Arc<str>,
    /// Its index in the policy.
    pub(crate) index: usize,
    /// [`revocation::issuer_digest`] of the name.
    pub(super) digest: Arc<revocation::IssuerDigest>,
    /// Its audiences.
    pub(super) audiences: Audiences,
    pub(super) audience_claim: String,
    /// Its algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub source: KeySource,
    pub(super) kid_required: bool,
    pub(super) required_claims: Vec<String>,
    pub(super) leeway: Span,
    pub(super) max_lifetime: Span,
    pub(super) claims: ClaimsConfig,
    pub(super) tenant: Option<String>,
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A key set.
    Jwks(JwksConfig),
    /// A shared secret.
    Secret(SecretSource),
}

/// Every trusted issuer. A token's `iss` chooses one, before any key is looked at.
#[derive(Debug, Default)]
pub struct Issuers {
    list: Vec<Arc<Issuer>>,
    by_name: HashMap<Arc<str>, usize>,
    kept: Vec<Arc<str>>,
}

impl Issuers {
    /// Compiles the list `issuers`, noting every error.
    pub fn compile(configs: &[IssuerConfig], path: &Path, errors: &mut Errors) -> Self {
        let mut issuers = Self::default();
        for (index, config) in configs.iter().enumerate() {
            let path = path.index(index);
            let issuer = compile(config, index, &path, errors);
            if issuers.by_name.insert(Arc::clone(&issuer.name), index).is_some() {
                errors.push(&path.key("issuer"), format!("two issuers are `{}`", config.issuer));
            }
            issuers.list.push(Arc::new(issuer));
        }
        issuers
    }

    /// The issuer of a token with this `iss` (`None`: without one).
    pub(crate) fn find(&self, iss: Option<&str>) -> Option<&Arc<Issuer>> {
        if iss == Some("") {
            return None;
        }
        self.list.get(*self.by_name.get(iss.unwrap_or_default())?)
    }

    /// Keeps these claims of every token, besides those that have a meaning of their own.
    pub(crate) fn keep(&mut self, claims: impl IntoIterator<Item = String>) {
        self.kept = claims.into_iter().map(Arc::from).collect();
    }

    /// The claims that are kept of every token.
    pub(super) fn kept(&self) -> &[Arc<str>] {
        &self.kept
    }

    /// All of them, in the order of the file.
    pub fn list(&self) -> &[Arc<Issuer>] {
        &self.list
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
    let algorithms: Vec<Algorithm> =
        config.algorithms.iter().map(|AlgorithmName(algorithm)| *algorithm).collect();
    if algorithms.is_empty() {
        errors.push(&path.key("algorithms"), "list at least one algorithm, such as `[RS256]`");
    }
    let source = source(config, &algorithms, name, path, errors);
    if config.leeway > Span::from_secs(60) {
        errors.push(
            &path.key("leeway"),
            format!("`{}` is more than 60s; mend the clock instead", config.leeway),
        );
    }
    if config.max_lifetime > Span::from_secs(31 * 86_400) || config.max_lifetime.micros() == 0 {
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
    if config.claims.scopes.is_empty() {
        errors.push(&path.key("claims").key("scopes"), "list at least one claim that holds scopes");
    }
    if let Some(tenant) = &config.tenant
        && super::identifier(tenant).is_err()
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
        required_claims: config.required_claims.clone(),
        leeway: config.leeway,
        max_lifetime: config.max_lifetime,
        claims: config.claims.clone(),
        tenant: config.tenant.clone(),
    }
}

fn source(
    config: &IssuerConfig,
    algorithms: &[Algorithm],
    name: &str,
    path: &Path,
    errors: &mut Errors,
) -> KeySource {
    let symmetric = algorithms.iter().filter(|algorithm| is_symmetric(**algorithm)).count();
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

/// The messages do not quote the address: some people write a password into one. `jwks` is where `insecure_http` stands.
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
