//! The section `api_keys`.

use std::{path::PathBuf, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lifetimes::{DEFAULT_LIFE, KeyLifetimes};
use crate::{
    config::{Errors, Path},
    revocation::{IssuerDigest, issuer_digest},
    time::Span,
};

/// The issuer of every API key, in revocations, limits, audit lines and identity headers.
pub const ISSUER: &str = "tollgate:api-keys";

/// The longest `max_life`.
const LONGEST_LIFE: Span = Span::from_secs(3653 * 86_400);
/// The longest `grace`.
const LONGEST_GRACE: Span = Span::from_secs(30 * 86_400);

/// The section `api_keys`: keys that clients send in place of a token.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeysConfig {
    /// The file with the records of the keys, in YAML or JSON. It has digests of keys and no key.
    /// Read at the start, and again when it changes.
    pub file: Option<PathBuf>,
    /// The headers that may hold a key: `authorization` (as `Bearer`), `x-api-key`, `api-key`.
    /// Default: all three. They do not reach the upstream, unless the route has
    /// `forward_credential`.
    #[serde(default = "every_header")]
    pub header: Vec<KeyHeader>,
    /// The longest life of a key, from its creation or its last rotation. Default 90d.
    pub max_life: Option<Span>,
    /// For how long the secret before a rotation is accepted, where the rotation names no other
    /// time. Default 24h.
    pub grace: Option<Span>,
}

/// A header that may hold a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyHeader {
    /// `Authorization: Bearer <key>`.
    Authorization,
    /// `X-API-Key: <key>`, as the SDK of Anthropic sends it.
    XApiKey,
    /// `api-key: <key>`, as the SDK of Azure OpenAI sends it.
    ApiKey,
}

impl KeyHeader {
    /// Every header, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Authorization, Self::XApiKey, Self::ApiKey];

    /// Returns the name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::XApiKey => "x-api-key",
            Self::ApiKey => "api-key",
        }
    }
}

fn every_header() -> Vec<KeyHeader> {
    KeyHeader::ALL.to_vec()
}

/// The compiled section.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    /// The file with the records.
    pub file: Option<PathBuf>,
    /// Whether a key may be sent as `Authorization: Bearer`.
    pub is_bearer: bool,
    /// The names of the other headers that may hold a key, in lower case.
    pub headers: Vec<&'static str>,
    /// How long keys live.
    pub lifetimes: KeyLifetimes,
    /// [`ISSUER`], shared by all principals.
    pub(super) issuer: Arc<str>,
    /// The digest of [`ISSUER`].
    pub(super) issuer_digest: Arc<IssuerDigest>,
}

impl ApiKeysConfig {
    /// Compiles the section and records every error.
    pub fn compile(&self, path: &Path, errors: &mut Errors) -> ApiKeys {
        if self.file.is_none() {
            errors.push(path, "no source of keys; set `file`");
        }
        let header = path.key("header");
        if self.header.is_empty() {
            errors.push(&header, "list at least one of authorization, x-api-key, api-key");
        }
        for (index, name) in self.header.iter().enumerate() {
            if self.header.iter().take(index).any(|earlier| earlier == name) {
                errors.push(&header.index(index), format!("`{}` is listed twice", name.name()));
            }
        }
        let max_life = self.max_life.unwrap_or(DEFAULT_LIFE);
        if max_life.micros() == 0 || max_life > LONGEST_LIFE {
            errors.push(
                &path.key("max_life"),
                format!("a key lives more than 0s and at most {LONGEST_LIFE}"),
            );
        }
        let grace = self.grace.unwrap_or(KeyLifetimes::default().grace());
        if grace > LONGEST_GRACE {
            errors.push(&path.key("grace"), format!("the grace is at most {LONGEST_GRACE}"));
        }
        let others = self.header.iter().filter(|name| **name != KeyHeader::Authorization);
        ApiKeys {
            file: self.file.clone(),
            is_bearer: self.header.contains(&KeyHeader::Authorization),
            headers: others.map(|name| name.name()).collect(),
            lifetimes: KeyLifetimes::new(max_life, grace),
            issuer: ISSUER.into(),
            issuer_digest: issuer_digest(ISSUER),
        }
    }
}
