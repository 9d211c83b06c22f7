//! The section `issuers` of the configuration.

use std::fmt;

use jsonwebtoken::Algorithm;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::{secret::SecretSource, time::Span};

/// One entry of `issuers`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The exact `iss` of its tokens, or the word `absent` for tokens without `iss` (at most one
    /// issuer).
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
    /// which would let an attacker use a public key as an HMAC secret.
    pub algorithms: Vec<AlgorithmName>,
    /// The source of its public keys: `{ url: … }`, `{ file: … }` or `{ discovery: true }`.
    pub jwks: Option<JwksConfig>,
    /// The shared secret, at least as long as the hash. For HS256, HS384 and HS512 only.
    pub secret: Option<SecretSource>,
    /// Whether a token must name its key. Default `required`; `optional` uses the only key that
    /// fits. Not allowed with `secret`, which has no name.
    pub kid: Option<KidRule>,
    /// Claims that a token must have besides `exp`, `sub`, `iss` and the audience. Default `[iat]`:
    /// without it, a revocation cannot distinguish older tokens from newer ones. Add `jti` if the
    /// issuer sets it.
    #[serde(default = "required_claims")]
    pub required_claims: Vec<String>,
    /// The tolerated clock skew, at most 60s. Default 30s.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// The maximum lifetime of a token, from `iat` (or from now, without `iat`) to `exp`; at most
    /// 31d. Default 24h.
    #[serde(default = "max_lifetime")]
    pub max_lifetime: Span,
    /// The claims that contain subject, tenant, client, roles and scopes.
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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
    /// The minimum time between two fetches for an unknown `kid`. Default 30s.
    #[serde(default = "cool_down")]
    pub cool_down: Span,
    /// The timeout of one fetch. Default 5s.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// A PEM file with the certificate authorities for this server, in place of the system's.
    pub ca: Option<String>,
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
    Span::from_secs(30)
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
    /// A token without `kid` is verified with the key that fits, if there is exactly one.
    Optional,
}

/// The names of claims. A text is one top-level claim, used literally; a list is a path into nested
/// objects.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimsConfig {
    /// The claim with the subject, a string. Default `sub`.
    pub subject: ClaimPath,
    /// The claim with the tenant, a string. Default `tenant_id`; a token without it has no tenant.
    pub tenant: ClaimPath,
    /// The claim with the client id, a string. Default `client_id`; Keycloak and Auth0 use `azp`,
    /// Okta `cid`, Entra `appid`.
    pub client: ClaimPath,
    /// The claim with the roles, a list of strings or one string. Default `roles`; Keycloak uses
    /// `[realm_access, roles]`.
    pub roles: ClaimPath,
    /// The claims with the scopes. All of them are read, and strings are split at spaces. Default
    /// `[scope, scopes, scp]`.
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

/// The path to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(pub(in crate::credential::jwt) Vec<String>);

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
    /// Every algorithm that can be configured, with its name.
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

    /// Returns the algorithm with exactly this name.
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
