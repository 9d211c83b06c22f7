//! A record as text: an entry of the file of keys, and the value of a key in a store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    config::LONGEST_GRACE,
    digest::KeyDigest,
    lifetimes::KeyLifetimes,
    record::{KeyRecord, KeySecret, PreviousSecret},
};
use crate::{
    config::{Errors, Path},
    identity::{Holder, KeyId},
    network::Networks,
    text::{is_identifier, is_scope},
    time::{Quota, Timestamp, rfc3339::Rfc3339},
};

/// The most labels of a key.
const MAX_LABELS: usize = 32;
/// The longest scope of a key, in bytes: the header with the scopes reaches the upstream.
const MAX_SCOPE: usize = 256;
/// The most elements of each list of a key.
const MAX_ELEMENTS: usize = 256;

/// A record of a key as it is written.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// The id of the key: 12 letters and digits.
    pub id: KeyId,
    /// SHA-256 of the whole key, as `sha256:<hex>`.
    pub digest: KeyDigest,
    /// Whether the key has a foreign format. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub weak: bool,
    /// The subject that requests with the key have.
    pub subject: String,
    /// The kind of the subject. Default `client`.
    #[serde(default, skip_serializing_if = "is_client")]
    pub holder: HolderSpec,
    /// The tenant of the subject. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The person or team that is responsible for the key. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The scopes that are granted. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The models that the key may be used for. Default: those that the policy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// The tier, which overrides of limits select by. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Sizes for limits of the policy, by their names, each in the form of the limit: `5/1m`,
    /// `1000/day`. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quota>,
    /// The networks from which the key may be used. Default: every network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Networks>,
    /// Labels for people and tools. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the key was created.
    pub created: Rfc3339,
    /// When the secret was issued. Default: when the key was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Rfc3339>,
    /// When the key ends. Default: 90 days after the secret was issued, or `max_life` after it if
    /// that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Rfc3339>,
    /// The secret before the last rotation. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousSpec>,
}

/// The secret before the last rotation.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousSpec {
    /// SHA-256 of the whole key.
    pub digest: KeyDigest,
    /// Whether the key has a foreign format. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub weak: bool,
    /// When the secret was issued. Default: when the key was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Rfc3339>,
    /// The end of its grace.
    pub until: Rfc3339,
}

/// The kind of a subject, as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderSpec {
    /// A program that acts for itself.
    #[default]
    Client,
    /// A person, who uses a program.
    User,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_client(value: &HolderSpec) -> bool {
    matches!(value, HolderSpec::Client)
}

impl KeySpec {
    /// Checks the record and records every error; `None` where there are any.
    pub fn compile(
        &self,
        lifetimes: &KeyLifetimes,
        path: &Path,
        errors: &mut Errors,
    ) -> Option<KeyRecord> {
        let before = errors.len();
        self.check_names(path, errors);
        self.check_lists(path, errors);
        let issued = self.issued.unwrap_or(self.created).0;
        let latest = lifetimes.latest(issued);
        let expires = self.expires.map_or_else(|| lifetimes.default_end(issued), |end| end.0);
        if expires > latest {
            let message = format!(
                "the key lives longer than `api_keys.max_life` ({}); set `expires` to {} or earlier, or rotate it",
                lifetimes.max_life(),
                Rfc3339(latest)
            );
            errors.push(&path.key("expires"), message);
        }
        if expires <= issued {
            errors.push(&path.key("expires"), "the key ends before it is issued");
        }
        let current = KeySecret { digest: self.digest, issued, weak: self.weak };
        let previous = self.previous.as_ref().map(|old| PreviousSecret {
            secret: KeySecret {
                digest: old.digest,
                issued: old.issued.unwrap_or(self.created).0,
                weak: old.weak,
            },
            until: old.until.0,
        });
        if previous.as_ref().is_some_and(|old| old.secret.digest == current.digest) {
            errors.push(
                &path.key("previous").key("digest"),
                "the previous secret has the digest of the current one; remove `previous`",
            );
        }
        let longest = issued.micros().saturating_add(LONGEST_GRACE.micros());
        if previous.as_ref().is_some_and(|old| old.until.micros() > longest) {
            errors.push(
                &path.key("previous").key("until"),
                format!("the grace ends more than {LONGEST_GRACE} after the rotation (`issued`)"),
            );
        }
        let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
        let record = KeyRecord {
            id: self.id,
            current,
            previous,
            subject: self.subject.as_str().into(),
            holder: match self.holder {
                HolderSpec::Client => Holder::Client,
                HolderSpec::User => Holder::User,
            },
            tenant: boxed(&self.tenant),
            owner: boxed(&self.owner),
            scopes: self.scopes.clone().into_boxed_slice(),
            models: self
                .models
                .as_ref()
                .map(|models| models.iter().map(|name| name.as_str().into()).collect()),
            tier: boxed(&self.tier),
            limits: self.limits.iter().map(|(name, rate)| (name.as_str().into(), *rate)).collect(),
            networks: self.networks.clone(),
            labels: self.labels.clone(),
            created: self.created.0,
            expires,
        };
        (errors.len() == before).then_some(record)
    }

    /// Records an error for each time of issue after `latest`.
    pub(super) fn check_issue(&self, latest: Timestamp, path: &Path, errors: &mut Errors) {
        let previous = self.previous.as_ref().and_then(|old| old.issued);
        for (path, time) in [
            (path.key("created"), Some(self.created)),
            (path.key("issued"), self.issued),
            (path.key("previous").key("issued"), previous),
        ] {
            if time.is_some_and(|time| time.0 > latest) {
                errors.push(&path, "the time is in the future; correct it, or the clock");
            }
        }
    }

    fn check_names(&self, path: &Path, errors: &mut Errors) {
        let names = [
            ("subject", Some(&self.subject)),
            ("tenant", self.tenant.as_ref()),
            ("owner", self.owner.as_ref()),
            ("tier", self.tier.as_ref()),
        ];
        for (key, name) in names {
            if name.is_some_and(|name| !is_identifier(name)) {
                errors.push(
                    &path.key(key),
                    format!("a {key} is 1 to 256 characters without control characters"),
                );
            }
        }
        if self.labels.len() > MAX_LABELS {
            errors.push(&path.key("labels"), format!("a key has at most {MAX_LABELS} labels"));
        }
        for (name, value) in &self.labels {
            if !is_identifier(name) || !(value.is_empty() || is_identifier(value)) {
                errors.push(
                    &path.key("labels").key(name),
                    "the name and the value of a label are at most 256 characters without control \
                     characters",
                );
            }
        }
    }

    fn check_lists(&self, path: &Path, errors: &mut Errors) {
        for (index, scope) in self.scopes.iter().enumerate() {
            if scope.len() > MAX_SCOPE {
                let message = format!("a scope of a key has at most {MAX_SCOPE} bytes");
                errors.push(&path.key("scopes").index(index), message);
            } else if !is_scope(scope) {
                let message = format!(
                    "`{scope}` is not a scope; scopes have no spaces, quotes or backslashes"
                );
                errors.push(&path.key("scopes").index(index), message);
            }
        }
        for (index, model) in self.models.iter().flatten().enumerate() {
            if !is_identifier(model) {
                errors.push(
                    &path.key("models").index(index),
                    "the name of a model is 1 to 256 characters without control characters",
                );
            }
        }
        if self.networks.as_ref().is_some_and(Networks::is_empty) {
            errors.push(
                &path.key("networks"),
                "the list is empty, so the key could not be used; list the networks, or remove it",
            );
        }
        let lengths = [
            ("scopes", self.scopes.len()),
            ("models", self.models.as_ref().map_or(0, Vec::len)),
            ("limits", self.limits.len()),
            ("networks", self.networks.iter().flat_map(Networks::iter).count()),
        ];
        for (key, length) in lengths {
            if length > MAX_ELEMENTS {
                errors.push(&path.key(key), format!("a key has at most {MAX_ELEMENTS} of them"));
            }
        }
    }
}

impl From<&KeyRecord> for KeySpec {
    fn from(record: &KeyRecord) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let issued = |issued| (issued != record.created).then_some(Rfc3339(issued));
        Self {
            id: record.id,
            digest: record.current.digest,
            weak: record.current.weak,
            subject: record.subject.to_string(),
            holder: match record.holder {
                Holder::User => HolderSpec::User,
                Holder::Client | Holder::Unknown => HolderSpec::Client,
            },
            tenant: text(&record.tenant),
            owner: text(&record.owner),
            scopes: record.scopes.to_vec(),
            models: record
                .models
                .as_ref()
                .map(|models| models.iter().map(ToString::to_string).collect()),
            tier: text(&record.tier),
            limits: record.limits.iter().map(|(name, rate)| (name.to_string(), *rate)).collect(),
            networks: record.networks.clone(),
            labels: record.labels.clone(),
            created: Rfc3339(record.created),
            issued: issued(record.current.issued),
            expires: Some(Rfc3339(record.expires)),
            previous: record.previous.as_ref().map(|old| PreviousSpec {
                digest: old.secret.digest,
                weak: old.secret.weak,
                issued: issued(old.secret.issued),
                until: Rfc3339(old.until),
            }),
        }
    }
}
