//! The section `issuers` of the configuration.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::{
    credential::{
        certificate::CertificateIdentityConfig, introspection::IntrospectionConfig,
        jwt::algorithm::Algorithm,
    },
    identity::ClaimPath,
    secret::SecretSource,
    time::Span,
};

/// One entry of `issuers`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The exact `iss` of its tokens, or the word `absent` for tokens without `iss` (at most one
    /// issuer). A trust domain of SPIFFE, such as `spiffe://prod.example.com`, is the issuer of the
    /// JWT-SVIDs whose `sub` belongs to it, with or without `iss`; its key set is the bundle.
    pub issuer: String,
    /// The names of this service, one of which the tokens' audience must contain; or the word
    /// `any`, which also accepts tokens for other services: use it only for issuers that serve no
    /// other service.
    pub audiences: Audiences,
    /// The claim that contains the audience. Default `aud`; Cognito's access tokens use
    /// `client_id`.
    #[serde(default = "audience_claim")]
    pub audience_claim: String,
    /// The algorithms that its tokens may be signed with. They are never taken from the token,
    /// which would let an attacker use a public key as an HMAC secret. Left out with `introspection`
    /// alone.
    #[serde(default)]
    pub algorithms: Vec<AlgorithmName>,
    /// The source of its public keys: `{ url: … }`, `{ file: … }` or `{ discovery: true }`.
    pub jwks: Option<JwksConfig>,
    /// The shared secret, at least as long as the hash. For HS256, HS384 and HS512 only.
    pub secret: Option<SecretSource>,
    /// The endpoint that states what its opaque tokens are (RFC 7662). Default: its tokens are JWTs.
    pub introspection: Option<IntrospectionConfig>,
    /// Whether a token must name its key. Default `required`. With `optional`, a token without `kid`
    /// is verified with the keys that fit its algorithm, at most four, and a token with a `kid` that
    /// no key has with the keys that have none. Not allowed with `secret`, which has no name.
    pub kid: Option<KidRule>,
    /// The profile that its tokens have to follow. Default: none, as many issuers follow no profile.
    pub profile: Option<TokenProfile>,
    /// Claims that a token must have besides `exp`, `iss`, the subject and the audience. Default
    /// `[iat]`: without it, a revocation cannot distinguish older tokens from newer ones. Add `jti`
    /// if the issuer sets it, and `sub` if no machine may be without it.
    #[serde(default = "required_claims")]
    pub required_claims: Vec<String>,
    /// The tolerated clock skew, at most 60s. Default 30s.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// The maximum lifetime of a token, from `iat` (or from now, without `iat`) to `exp`; at most
    /// 31d. Default 24h.
    #[serde(default = "max_lifetime")]
    pub max_lifetime: Span,
    /// The claims that contain subject, tenant, client, roles and scopes. A claim with a default name
    /// and another type is ignored where no route, limit or condition uses it.
    #[serde(default)]
    pub claims: ClaimsConfig,
    /// A fixed tenant for every token of this issuer, instead of a claim.
    pub tenant: Option<String>,
    /// For a trust domain of SPIFFE: the identities of its workloads, with `spiffe` as the kind of
    /// name. The first rule that fits applies, and a workload that no rule fits is refused. Default:
    /// the subject is the SPIFFE ID, and the rest is read of claims.
    #[serde(default)]
    pub identities: Vec<CertificateIdentityConfig>,
    /// Whether OpenID Connect ID tokens are accepted. Default `refused`: they are for the client that
    /// signed a user in. A token is one where its claims tell: `typ: ID`, `token_use: id`, or
    /// `at_hash`, `c_hash` or `nonce` without a claim of access tokens. Refresh tokens are never
    /// accepted.
    #[serde(default)]
    pub id_tokens: IdTokens,
}

/// `profile`: the profile of an issuer's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenProfile {
    /// JWT access tokens (RFC 9068): the `typ` of the header is `at+jwt` or `application/at+jwt`, and
    /// `iss`, `exp`, `aud`, `sub`, `client_id`, `iat` and `jti` are required.
    Rfc9068,
}

/// The claims that RFC 9068 section 2.2 requires.
const OF_ACCESS_TOKENS: [&str; 7] = ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"];

impl IssuerConfig {
    /// Returns the claims that a token must have: those of the list, and those of the profile.
    pub(in crate::credential::jwt) fn every_required_claim(&self) -> Vec<String> {
        let of_profile: &[&str] = match self.profile {
            Some(TokenProfile::Rfc9068) => &OF_ACCESS_TOKENS,
            None => &[],
        };
        let is_new = |name: &&&str| !self.required_claims.iter().any(|known| known == **name);
        let added = of_profile.iter().filter(is_new).map(|name| (*name).to_owned());
        self.required_claims.iter().cloned().chain(added).collect()
    }

    /// Whether a token must have a claim.
    pub(crate) fn requires(&self, claim: &str) -> bool {
        self.every_required_claim().iter().any(|name| name == claim)
    }
}

/// `id_tokens`: whether ID tokens are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdTokens {
    /// A token that is known to be an ID token is refused.
    #[default]
    Refused,
    /// ID tokens are accepted beside access tokens.
    Accepted,
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
    /// The audience is not checked.
    Any,
    /// The token must contain one of these.
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

/// The source of an issuer's public keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwksConfig {
    /// The address of the key set. Its host is trusted, even if its address is private.
    pub url: Option<String>,
    /// A file with the key set, read again when it changes.
    pub file: Option<String>,
    /// Read the address of the key set from `<issuer>/.well-known/openid-configuration`. It must be
    /// on the issuer's own host or one of `allowed_hosts`, and not private.
    #[serde(default)]
    pub discovery: bool,
    /// Hosts (`name` or `name:port`) that a discovered address or a redirect may use, private ones
    /// included.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Allow plain http. Default false: an attacker who can impersonate the key server can sign any
    /// token.
    #[serde(default)]
    pub insecure_http: bool,
    /// The interval between fetches if the server does not set one (Cache-Control: max-age, between
    /// 1m and 1h). Default 10m.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// How long keys are used after the last successful fetch. After that the issuer's tokens are
    /// refused. Default 24h.
    #[serde(default = "max_stale")]
    pub max_stale: Span,
    /// The minimum time between two fetches that tokens cause: with an unknown `kid`, or with a
    /// signature that does not verify. Default 5s.
    #[serde(default = "cool_down")]
    pub cool_down: Span,
    /// The timeout of one fetch. Default 5s.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// A PEM file with the certificate authorities for this server, in place of the system's. A
    /// self-signed certificate that is its own authority may be in it as well.
    pub ca: Option<String>,
    /// A forward proxy for the fetches, such as `http://proxy.example:3128`, with a user and a
    /// password where it needs them. Default: that of the environment, `HTTPS_PROXY` without the
    /// hosts in `NO_PROXY`, for https; none for plain http.
    pub proxy: Option<SecretSource>,
    /// A credential that the key server requires, sent as `Authorization: Bearer` to the host of the
    /// configured address only. A file is read again for each fetch: Kubernetes wants
    /// `file:/var/run/secrets/kubernetes.io/serviceaccount/token`.
    pub bearer: Option<SecretSource>,
    /// Headers that the key server requires, by name, sent to the host of the configured address
    /// only. A file is read again for each fetch.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretSource>,
    /// A file that stores the last valid key set, for a start while the server is down. Default:
    /// none.
    pub cache_file: Option<String>,
}

fn refresh() -> Span {
    Span::from_secs(600)
}

fn max_stale() -> Span {
    Span::from_secs(86_400)
}

fn cool_down() -> Span {
    Span::from_secs(5)
}

fn timeout() -> Span {
    Span::from_secs(5)
}

/// `kid`: whether a token must name its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KidRule {
    /// The token must name its key.
    Required,
    /// A token without `kid` is verified with the keys that fit, at most four.
    Optional,
}

/// The names of claims. A text is one top-level claim, used literally; a list is a path into nested
/// objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimsConfig {
    /// The claim with the subject, or a list of claims, of which the first that the token has is
    /// used: `[sub, client_id]`. A path is a list within the list: `[[user, id]]`. The subject is
    /// text, or a whole number of a claim that is named here. Default `[sub, client_id]`: a person has `sub`, and a machine without `sub` has
    /// `client_id`, and counts as that client.
    pub subject: Option<ClaimList>,
    /// The claim with the tenant: text, or a whole number, which is taken as its decimal text. A list
    /// of names is a path; `[[tid], [org, id]]` is a list of claims, of which the first that the
    /// token has is used. Default `tenant_id`, where the tenant is text; a token without it has no
    /// tenant.
    pub tenant: Option<ClaimChoice>,
    /// The claim with the client id: text, or a whole number, which is taken as its decimal text. A
    /// list of names is a path, and `[[azp], [client_id]]` a list of claims, as in `tenant`. Default
    /// `client_id`, where the id is text; Keycloak and Auth0 use `azp`, Okta `cid`, Entra `azp` or
    /// `appid`.
    pub client: Option<ClaimChoice>,
    /// The claim with the roles: a list of strings, one string, or an object whose members are
    /// objects and whose names are the roles. Default `roles`; Keycloak uses `[realm_access, roles]`.
    pub roles: Option<ClaimPath>,
    /// The claims with the scopes. All of them are read, strings are split at spaces, and an element
    /// of a list that cannot be a scope is omitted. Default `[scope, scopes, scp]`.
    pub scopes: Option<Vec<ClaimPath>>,
}

/// The claims that an issuer's tokens are read by.
#[derive(Clone, Debug)]
pub(in crate::credential::jwt) struct ClaimSources {
    /// In order of preference.
    pub(in crate::credential::jwt) subject: Vec<SubjectSource>,
    pub(in crate::credential::jwt) is_subject_named: bool,
    pub(in crate::credential::jwt) tenant: ClaimSource,
    pub(in crate::credential::jwt) client: ClaimSource,
    pub(in crate::credential::jwt) roles: ClaimSource,
    pub(in crate::credential::jwt) scopes: Vec<ClaimPath>,
    pub(in crate::credential::jwt) are_scopes_named: bool,
}

/// One of the claims that the subject may be taken from.
#[derive(Clone, Debug)]
pub(in crate::credential::jwt) struct SubjectSource {
    pub(in crate::credential::jwt) path: ClaimPath,
    /// Whether the claim has the id of a client, and others of the list have users.
    pub(in crate::credential::jwt) is_client: bool,
}

/// The names that issuers use for the claim with the id of a client.
pub(in crate::credential::jwt) const CLIENT_CLAIMS: [&str; 4] =
    ["client_id", "azp", "cid", "appid"];

/// The claim of an optional part of an identity.
#[derive(Clone, Debug)]
pub(in crate::credential::jwt) struct ClaimSource {
    /// In order of preference.
    pub(in crate::credential::jwt) paths: Vec<ClaimPath>,
    /// Whether the policy names the claim. The type of a claim with a default name matters only
    /// where the policy uses the part.
    pub(in crate::credential::jwt) is_named: bool,
}

impl ClaimSources {
    /// The claims of an issuer. The subject of a workload is `sub` and nothing else.
    pub(super) fn of(config: &ClaimsConfig, of_workloads: bool) -> Self {
        let top = |name: &str| ClaimPath::top_level(name);
        let source = |named: Option<Vec<ClaimPath>>, default: &str| ClaimSource {
            is_named: named.is_some(),
            paths: named.unwrap_or_else(|| vec![top(default)]),
        };
        let choice = |named: &Option<ClaimChoice>| named.clone().map(|ClaimChoice(paths)| paths);
        let client = source(choice(&config.client), "client_id");
        let subject = match &config.subject {
            Some(ClaimList(paths)) => paths.clone(),
            None if of_workloads => vec![top("sub")],
            None => vec![top("sub"), top("client_id")],
        };
        let is_client = |path: &ClaimPath| {
            client.paths.contains(path) || CLIENT_CLAIMS.iter().any(|name| *path == top(name))
        };
        let has_users = subject.iter().any(|path| !is_client(path));
        let subject = subject
            .into_iter()
            .map(|path| SubjectSource { is_client: has_users && is_client(&path), path });
        let default_scopes = || vec![top("scope"), top("scopes"), top("scp")];
        Self {
            subject: subject.collect(),
            is_subject_named: config.subject.is_some(),
            tenant: source(choice(&config.tenant), "tenant_id"),
            client,
            roles: source(config.roles.clone().map(|path| vec![path]), "roles"),
            scopes: config.scopes.clone().unwrap_or_else(default_scopes),
            are_scopes_named: config.scopes.is_some(),
        }
    }
}

/// One claim, as a name or a path, or a list of claims in order of preference, each of which is a
/// list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimChoice(Vec<ClaimPath>);

impl ClaimChoice {
    /// Returns the path that is probably meant as a list of claims.
    pub(super) fn misread(&self) -> Option<&ClaimPath> {
        self.0.iter().find(|path| path.looks_like_alternatives())
    }
}

impl<'de> Deserialize<'de> for ClaimChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Claims;
        impl<'de> Visitor<'de> for Claims {
            type Value = ClaimChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim's name, a list of names as a path, or a list of such lists")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClaimChoice, E> {
                ClaimPath::checked(vec![text.to_owned()])
                    .map(|path| ClaimChoice(vec![path]))
                    .map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ClaimChoice, A::Error> {
                let items: Vec<Names> = Vec::deserialize(SeqAccessDeserializer::new(items))?;
                let is_path = items.iter().all(|item| matches!(item, Names::One(_)));
                let names = items.into_iter().map(|item| match item {
                    Names::One(name) => vec![name],
                    Names::Path(names) => names,
                });
                let paths: Vec<Vec<String>> =
                    if is_path { vec![names.flatten().collect()] } else { names.collect() };
                let paths: Result<Vec<_>, _> = paths.into_iter().map(ClaimPath::checked).collect();
                paths.map(ClaimChoice).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_any(Claims)
    }
}

/// An element of a [`ClaimChoice`].
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Path(Vec<String>),
}

impl JsonSchema for ClaimChoice {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimChoice".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let claim = generator.subschema_for::<ClaimPath>();
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": claim, "minItems": 1 }] })
    }
}

/// One claim, or a list of claims in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimList(Vec<ClaimPath>);

impl<'de> Deserialize<'de> for ClaimList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Claims;
        impl<'de> Visitor<'de> for Claims {
            type Value = ClaimList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim's name, or a list of claims")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClaimList, E> {
                ClaimPath::checked(vec![text.to_owned()])
                    .map(|path| ClaimList(vec![path]))
                    .map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ClaimList, A::Error> {
                let paths: Vec<ClaimPath> = Vec::deserialize(SeqAccessDeserializer::new(items))?;
                if paths.is_empty() {
                    return Err(serde::de::Error::custom("list at least one claim"));
                }
                Ok(ClaimList(paths))
            }
        }
        deserializer.deserialize_any(Claims)
    }
}

impl JsonSchema for ClaimList {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimList".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let claim = generator.subschema_for::<ClaimPath>();
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": claim, "minItems": 1 }] })
    }
}

/// An algorithm by its JOSE name (RFC 7518 section 3.1, RFC 8037, RFC 9864).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgorithmName(pub(in crate::credential) Algorithm);

impl<'de> Deserialize<'de> for AlgorithmName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Algorithm::parse(&name).map(Self).ok_or_else(|| {
            let known = known_names().join(", ");
            serde::de::Error::custom(format!("unknown algorithm `{name}`; known: {known}"))
        })
    }
}

impl JsonSchema for AlgorithmName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": known_names() })
    }
}

fn known_names() -> Vec<&'static str> {
    Algorithm::NAMES.iter().map(|(name, _)| *name).collect()
}
