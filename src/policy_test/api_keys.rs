//! The API keys of a case file. Their secrets follow from their names, and are never stored.

use std::collections::BTreeMap;

use tollgate_core::{
    config::{Errors, Path},
    credential::api_key::{GeneratedKey, KeyDigest, KeyLifetimes, KeySpec, KeyTable, PreviousSpec},
    policy::Policy,
    revocation::sha256,
    time::{Timestamp, rfc3339::Rfc3339},
};

use super::{CaseError, spec::ApiKeySpec};

/// The keys of one file: the text of each by its name, and the table of their records.
#[derive(Debug, Default)]
pub(super) struct ApiKeys {
    texts: BTreeMap<String, String>,
    pub(super) table: KeyTable,
}

impl ApiKeys {
    /// Makes the keys for a file whose time is `now`, and adds every error.
    pub(super) fn make(
        specs: &BTreeMap<String, ApiKeySpec>,
        policy: Option<&Policy>,
        now: Timestamp,
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let policy = policy.and_then(|policy| policy.api_keys.as_ref());
        let lifetimes = policy.map(|keys| keys.lifetimes).unwrap_or_default();
        let mut keys = Self::default();
        for (name, spec) in specs {
            let path = path.key(name);
            let made = keys.add(name, spec, specs, (&lifetimes, now), &path, errors);
            errors.take(&path, made);
        }
        keys
    }

    fn add(
        &mut self,
        name: &str,
        spec: &ApiKeySpec,
        all: &BTreeMap<String, ApiKeySpec>,
        (lifetimes, now): (&KeyLifetimes, Timestamp),
        path: &Path,
        errors: &mut Errors,
    ) -> Result<(), CaseError> {
        // A key of the id of another one: its previous secret, or one that was never issued.
        if let Some(other) = &spec.of {
            if !all.contains_key(other) {
                return Err(CaseError::UnknownApiKey(other.clone()));
            }
            let key = GeneratedKey::with_id(made(other).id(), &secret(name));
            self.texts.insert(name.to_owned(), key.expose().to_owned());
            return Ok(());
        }
        let key = made(name);
        let text = spec.raw.clone().unwrap_or_else(|| key.expose().to_owned());
        let created = spec.created.from(now);
        let previous = spec.previous.as_ref().map(|previous| PreviousSpec {
            digest: GeneratedKey::with_id(key.id(), &secret(&previous.key)).digest(),
            weak: false,
            issued: None,
            until: Rfc3339(previous.until.from(now)),
        });
        let record = KeySpec {
            id: key.id(),
            digest: KeyDigest::of(text.as_bytes()),
            weak: spec.raw.is_some(),
            subject: spec.subject.clone().unwrap_or_else(|| name.to_owned()),
            holder: spec.holder,
            tenant: spec.tenant.clone(),
            owner: spec.owner.clone(),
            scopes: spec.scopes.clone(),
            models: spec.models.clone(),
            tier: spec.tier.clone(),
            limits: spec.limits.clone(),
            networks: spec.networks.clone(),
            labels: BTreeMap::new(),
            created: Rfc3339(created),
            issued: None,
            expires: spec.expires.map(|end| Rfc3339(end.from(now))),
            previous,
        };
        self.texts.insert(name.to_owned(), text);
        if spec.issue == Some(false) {
            return Ok(());
        }
        if let Some(record) = record.compile(lifetimes, path, errors) {
            self.table.insert(record)?;
        }
        Ok(())
    }

    /// Returns the text of the key of a name.
    pub(super) fn text(&self, name: &str) -> Result<&str, CaseError> {
        let text = self.texts.get(name).map(String::as_str);
        text.ok_or_else(|| CaseError::UnknownApiKey(name.to_owned()))
    }

    /// Replaces `{id:NAME}` by the id of the key of a name.
    pub(super) fn with_ids(&self, text: &str) -> String {
        self.texts.keys().fold(text.to_owned(), |text, name| {
            text.replace(&format!("{{id:{name}}}"), made(name).id().as_str())
        })
    }
}

fn made(name: &str) -> GeneratedKey {
    let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        sha256(format!("id of {name}").as_bytes());
    GeneratedKey::new(&id, &secret(name))
}

fn secret(name: &str) -> [u8; 32] {
    sha256(format!("secret of {name}").as_bytes())
}
