//! The bodies and queries of calls about API keys, read strictly.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use tollgate_core::{
    config::{Errors, Path},
    credential::api_key::{HolderSpec, KeyDigest, KeyLifetimes, KeyRecord, KeySpec, LONGEST_LIFE},
    identity::KeyId,
    network::Networks,
    policy::Policy,
    text::is_identifier,
    time::{Quota, Span, Timestamp, rfc3339::Rfc3339},
};

use super::super::{json_body::check_text, request};
use crate::{json_api::Refusal, store::Position};

/// The longest grace of a rotation.
const LONGEST_GRACE: Span = Span::from_secs(30 * 86_400);

/// The terms of a key that is to be created or imported.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Terms {
    /// The digest of an imported key.
    pub(super) digest: Option<KeyDigest>,
    subject: String,
    #[serde(default, deserialize_with = "holder")]
    holder: HolderSpec,
    tenant: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    models: Option<Vec<String>>,
    tier: Option<String>,
    #[serde(default, deserialize_with = "unique")]
    limits: BTreeMap<String, Quota>,
    networks: Option<Networks>,
    #[serde(default, deserialize_with = "unique")]
    labels: BTreeMap<String, String>,
    expires_in: Option<Span>,
}

/// The members of a rotation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    grace: Option<Span>,
    expires_in: Option<Span>,
}

/// The query of a list.
pub(super) struct ListQuery {
    pub(super) after: Option<Position>,
    pub(super) limit: usize,
    pub(super) tenant: Option<String>,
}

impl Terms {
    /// Returns the record of a key that is issued at `now`.
    pub(super) fn record(
        self,
        id: KeyId,
        digest: KeyDigest,
        now: Timestamp,
        lifetimes: &KeyLifetimes,
    ) -> Result<KeyRecord, Refusal> {
        self.check_texts()?;
        let expires = end(now, self.expires_in, lifetimes)?;
        let spec = KeySpec {
            id,
            digest,
            weak: self.digest.is_some(),
            subject: self.subject,
            holder: self.holder,
            tenant: self.tenant,
            owner: self.owner,
            scopes: self.scopes,
            models: self.models,
            tier: self.tier,
            limits: self.limits,
            networks: self.networks,
            labels: self.labels,
            created: Rfc3339(now),
            issued: None,
            expires: Some(Rfc3339(expires)),
            previous: None,
        };
        let mut errors = Errors::default();
        spec.compile(lifetimes, &Path::root(), &mut errors).ok_or_else(|| {
            let errors = errors.without_lines();
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Refusal::invalid(texts.join("; "))
        })
    }
}

impl Terms {
    fn check_texts(&self) -> Result<(), Refusal> {
        let names = [
            ("subject", Some(&self.subject)),
            ("tenant", self.tenant.as_ref()),
            ("owner", self.owner.as_ref()),
            ("tier", self.tier.as_ref()),
        ];
        let names = names.into_iter().filter_map(|(member, text)| Some((member, text?)));
        let scopes = self.scopes.iter().map(|scope| ("scopes", scope));
        let models = self.models.iter().flatten().map(|model| ("models", model));
        let limits = self.limits.keys().map(|name| ("limits", name));
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let labels = labels.map(|text| ("labels", text));
        names
            .chain(scopes)
            .chain(models)
            .chain(limits)
            .chain(labels)
            .try_for_each(|(member, text)| check_text(member, text))
    }
}

impl Rotation {
    /// Returns the end of the grace of the secret before, and that of the new secret.
    pub(super) fn ends(
        &self,
        now: Timestamp,
        lifetimes: &KeyLifetimes,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        let grace = self.grace.unwrap_or(lifetimes.grace());
        if grace > LONGEST_GRACE {
            return Err(Refusal::invalid(format!("`grace` is at most {LONGEST_GRACE}")));
        }
        Ok((after(now, grace), end(now, self.expires_in, lifetimes)?))
    }
}

/// Returns the end of a life that begins at `now`.
fn end(now: Timestamp, life: Option<Span>, lifetimes: &KeyLifetimes) -> Result<Timestamp, Refusal> {
    let Some(life) = life else { return Ok(lifetimes.default_end(now)) };
    if life < request::MIN_TTL || life > LONGEST_LIFE {
        let message = format!("`expires_in` is between 1s and {LONGEST_LIFE}");
        return Err(Refusal::invalid(message));
    }
    let max = lifetimes.max_life();
    if life > max {
        let message = format!("`expires_in` is at most {max}, which is `api_keys.max_life`");
        return Err(Refusal::out_of_bounds(message));
    }
    Ok(after(now, life))
}

/// The whole second `span` after `now`.
fn after(now: Timestamp, span: Span) -> Timestamp {
    Timestamp::from_secs(now.secs().saturating_add(span.secs()))
}

/// Refuses a record with a limit or a tier that the policy does not have: its key would be refused.
pub(super) fn check_names(record: &KeyRecord, policy: &Policy) -> Result<(), Refusal> {
    let unknown = record.limits.iter().find(|(name, quota)| !policy.has_limit(name, *quota));
    if let Some((name, _)) = unknown {
        let message = format!("the policy has no limit `{name}`, or none of this form");
        return Err(Refusal::new(409, "unknown_limit", message));
    }
    if let Some(tier) = record.tier.as_deref().filter(|tier| !policy.has_key_tier(tier)) {
        let message = format!("no override of a limit selects the tier `{tier}`");
        return Err(Refusal::new(409, "unknown_tier", message));
    }
    Ok(())
}

/// Reads the query of a list: `limit`, `cursor` and `tenant`.
pub(super) fn list_query(query: &str) -> Result<ListQuery, Refusal> {
    let (mut tenant, mut rest) = (None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("tenant", text)) if tenant.is_none() => {
                let name = decoded(text).filter(|name| is_identifier(name));
                tenant = Some(name.ok_or_else(|| {
                    Refusal::invalid("`tenant` is no name of a tenant, percent-encoded")
                })?);
            }
            Some(("limit" | "cursor", _)) => rest.push(pair),
            _ => {
                return Err(Refusal::invalid(
                    "the query takes `limit`, `cursor` and `tenant`, once each",
                ));
            }
        }
    }
    let (after, limit) = request::page(&rest.join("&"))?;
    Ok(ListQuery { after, limit, tenant })
}

/// Decodes a value of a query. `None` for an escape that is none, and for text that is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Reads the kind of a subject, from a text only.
fn holder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HolderSpec, D::Error> {
    match &*String::deserialize(deserializer)? {
        "client" => Ok(HolderSpec::Client),
        "user" => Ok(HolderSpec::User),
        other => Err(D::Error::unknown_variant(other, &["client", "user"])),
    }
}

/// Reads a map in which no name is repeated.
fn unique<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Unique<V>(PhantomData<V>);
    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut values = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, V>()? {
                if values.contains_key(&name) {
                    return Err(A::Error::custom(format!("duplicate member `{name}`")));
                }
                values.insert(name, value);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_map(Unique(PhantomData))
}
