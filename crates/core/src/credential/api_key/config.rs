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

/// The longest `max_life`: no key lives longer under any policy.
pub const LONGEST_LIFE: Span = Span::from_secs(3653 * 86_400);
/// The most records that `replicate.max` allows.
const MOST_RECORDS: usize = 10_000_000;
/// The longest `grace`.
pub const LONGEST_GRACE: Span = Span::from_secs(30 * 86_400);

/// The section `api_keys`: keys that clients send in place of a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeysConfig {
    /// The file with the records of the keys, in YAML or JSON. It has digests of keys and no key.
    /// Read at the start, and again when it changes.
    pub file: Option<PathBuf>,
    /// Whether the Redis of `store.redis` has keys as well. Every replica copies their records, up to
    /// `replicate.max`, and changes are pushed to it, so that a check makes no round trip for its
    /// key. Where the file has a record of the same id, that one applies. Default false.
    #[serde(default)]
    pub redis: bool,
    /// The bounds of the copy of the keys in Redis.
    pub replicate: Option<ReplicateKeysConfig>,
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

/// The section `api_keys.replicate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicateKeysConfig {
    /// The most records in the copy, 1 to 10000000. With more in Redis, the oldest are copied, and of
    /// the others the ids: the record of such a key is looked up when the key is used, and kept
    /// beside the copy. At most a quarter of `max` is kept, and 4096 at least. Default 100000.
    pub max: usize,
    /// How long after a revocation or a change a key may still be used as before, 1s to 1h. Changes
    /// are pushed and usually apply within milliseconds. When Redis has not confirmed the copy for
    /// this time, the route's `on_outage` decides requests with a key of the copy. Default 5s.
    pub max_staleness: Span,
}

impl Default for ReplicateKeysConfig {
    fn default() -> Self {
        Self { max: 100_000, max_staleness: Span::from_secs(5) }
    }
}

impl ReplicateKeysConfig {
    fn check(self, path: &Path, errors: &mut Errors) {
        if !(1..=MOST_RECORDS).contains(&self.max) {
            errors.push(&path.key("max"), format!("must be 1 to {MOST_RECORDS}"));
        }
        if self.max_staleness < Span::from_secs(1) || self.max_staleness > Span::from_secs(3600) {
            errors.push(&path.key("max_staleness"), "must be 1s to 1h");
        }
    }
}

/// A header that may hold a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyHeader {
    /// `Authorization: Bearer <key>`.
    Authorization,
    /// `X-API-Key: <key>`, as the SDK of Anthropic sends it before its version 2.
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
    /// The bounds of the copy of the keys in Redis; `None` where Redis is no source.
    pub redis: Option<ReplicateKeysConfig>,
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
        if self.file.is_none() && !self.redis {
            errors.push(path, "no source of keys; set `file`, or `redis: true`");
        }
        if let Some(replicate) = self.replicate {
            let path = path.key("replicate");
            if !self.redis {
                errors.push(&path, "it bounds the copy of the keys in Redis; set `redis: true`");
            }
            replicate.check(&path, errors);
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
            redis: self.redis.then(|| self.replicate.unwrap_or_default()),
            is_bearer: self.header.contains(&KeyHeader::Authorization),
            headers: others.map(|name| name.name()).collect(),
            lifetimes: KeyLifetimes::new(max_life, grace),
            issuer: ISSUER.into(),
            issuer_digest: issuer_digest(ISSUER),
        }
    }
}

impl ApiKeys {
    /// The number of sources. The file comes first, and its records apply before those of others.
    pub fn sources(&self) -> usize {
        usize::from(self.file.is_some()) + usize::from(self.redis.is_some())
    }

    /// The index of Redis in the sources.
    pub fn redis_source(&self) -> Option<usize> {
        self.redis.map(|_| usize::from(self.file.is_some()))
    }
}
