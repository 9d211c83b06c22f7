//! The records in the Redis of a configuration. The configuration's rules for keys are checked
//! before a record is written.

use std::{collections::HashMap, path::Path};

use anyhow::{anyhow, bail};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::Outage,
    config::{Errors, Path as Place},
    credential::api_key::{KeyLifetimes, KeyRecord, KeySpec, PolicyNames},
    identity::KeyId,
    policy::Policy,
    time::{Span, Timestamp},
};

use super::show;
use crate::{
    cli::config_file,
    store::{KeyWrite, Position, Redis, RedisConfig, StoreConfig, StoreUnavailable, StoredKey},
};

/// The deadline of a call, longer than that of a check: an operator waits.
const DEADLINE: Span = Span::from_secs(1);

/// The most keys that are read at a time.
const PAGE: usize = 500;

/// The records in a Redis.
pub(super) struct RedisStore {
    // Dropped first: its tasks run on the runtime.
    redis: Redis,
    runtime: Runtime,
    policy: Policy,
    /// The text of the record that was read last.
    read: Option<(KeyId, String)>,
}

/// Some keys of the list.
pub(super) struct KeyList {
    pub(super) keys: Vec<ListedKey>,
    /// The number of the first keys among them that replicas copy; the others are looked up.
    pub(super) copied: usize,
    /// The cursor of the next page; `None` on the last one.
    pub(super) next: Option<Position>,
    /// Whether the place knows when keys were last used.
    pub(super) has_uses: bool,
}

/// A key of the list.
pub(super) enum ListedKey {
    /// The record of the key, with its state and its last use.
    Record(Value),
    /// The id of a record that no replica uses, and the reason.
    Broken(String, String),
}

impl RedisStore {
    /// Opens the store of the configuration at `path`.
    ///
    /// # Errors
    /// The configuration has errors, or no API keys in Redis.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let loaded = config_file::load(path)?;
        let has_keys = loaded.policy.api_keys.as_ref().is_some_and(|keys| keys.redis.is_some());
        let (StoreConfig::Redis(config), true) = (&loaded.file.server.store, has_keys) else {
            bail!("`{}` has no API keys in Redis: set `api_keys.redis`", path.display());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = RedisConfig { deadline: DEADLINE, ..(**config).clone() };
        let redis = {
            let _entered = runtime.enter();
            Redis::open(&config, CancellationToken::new())?
        };
        Ok(Self { redis, runtime, policy: loaded.policy, read: None })
    }

    pub(super) fn find(&mut self, id: KeyId) -> anyhow::Result<Option<KeySpec>> {
        let text = self.runtime.block_on(self.redis.key(&id)).map_err(|error| self.down(error))?;
        let Some(text) = text else { return Ok(None) };
        let record = KeyRecord::from_stored(id, &text).map_err(|error| {
            anyhow!("the key `{id}` is refused: {error}; `tollgate keys revoke` removes it")
        })?;
        self.read = Some((id, text));
        Ok(Some(KeySpec::from(&record)))
    }

    pub(super) fn add(&self, record: &KeySpec) -> anyhow::Result<()> {
        self.write(record, None)
    }

    pub(super) fn replace(&self, record: &KeySpec) -> anyhow::Result<()> {
        let read = self.read.as_ref().filter(|(id, _)| *id == record.id);
        self.write(record, Some(read.map_or("", |(_, text)| text)))
    }

    fn write(&self, spec: &KeySpec, replaces: Option<&str>) -> anyhow::Result<()> {
        let record = self.compiled(spec)?;
        let text = record.to_stored()?;
        let written = self.runtime.block_on(self.redis.write_key(&record, &text, replaces));
        match written.map_err(|error| self.down(error))? {
            KeyWrite::Written => Ok(()),
            KeyWrite::Exists => bail!("there is a key `{}` already", spec.id),
            KeyWrite::Changed => {
                bail!("the key `{}` was changed or revoked meanwhile; repeat the command", spec.id)
            }
            KeyWrite::SameDigest(Some(other)) => bail!("the key `{other}` has this digest"),
            KeyWrite::SameDigest(None) => bail!("another key has this digest"),
        }
    }

    /// Returns the lives of keys under the configuration.
    pub(super) fn lifetimes(&self) -> KeyLifetimes {
        let keys = self.policy.api_keys.as_ref();
        keys.map(|keys| keys.lifetimes).unwrap_or_default()
    }

    /// Checks a record against the configuration.
    fn compiled(&self, spec: &KeySpec) -> anyhow::Result<KeyRecord> {
        let mut errors = Errors::default();
        let record = spec.compile(&self.lifetimes(), &Place::root(), &mut errors);
        let Some(record) = record else {
            let errors = errors.without_lines();
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            bail!("{}", errors.join("; "));
        };
        let names = PolicyNames {
            has_limit: &|name, quota| self.policy.has_limit(name, quota),
            has_tier: &|tier| self.policy.has_key_tier(tier),
        };
        if let Some(limit) = names.unknown_limit(&record) {
            bail!("the configuration has no limit `{limit}`, and the key would be refused");
        }
        if let Some(tier) = names.unknown_tier(&record) {
            bail!("no limit has an override for the tier `{tier}`, and the key would be refused");
        }
        Ok(record)
    }

    pub(super) fn remove(&self, id: KeyId) -> anyhow::Result<bool> {
        self.runtime.block_on(self.redis.remove_key(&id)).map_err(|error| self.down(error))
    }

    /// Lists at most `limit` keys after a position, by the moment of their creation.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) fn list(
        &self,
        mut after: Option<Position>,
        limit: usize,
        now: Timestamp,
    ) -> anyhow::Result<KeyList> {
        let (mut keys, is_first) = (Vec::new(), after.is_none());
        loop {
            let page = self.redis.list_keys(after.as_ref(), PAGE.min(limit - keys.len()));
            let page = self.runtime.block_on(page).map_err(|error| self.down(error))?;
            let ids: Vec<KeyId> = page.keys.iter().filter_map(id).collect();
            let mut uses: HashMap<_, _> = ids.iter().zip(self.last_uses(&ids)?).collect();
            for key in page.keys {
                let used = id(&key).and_then(|id| uses.remove(&id)).flatten();
                let mut shown = listed(key, now, &self.lifetimes())?;
                if let ListedKey::Record(record) = &mut shown {
                    show::add_last_use(record, used);
                }
                keys.push(shown);
            }
            if page.next.is_none() || keys.len() >= limit {
                let total = usize::try_from(page.total).unwrap_or(usize::MAX);
                // The number of the first key, as far as it follows from the page.
                let first = match (&page.next, is_first) {
                    (_, true) => Some(0),
                    (None, false) => Some(total.saturating_sub(keys.len())),
                    (Some(_), false) => None,
                };
                let max = self.policy.api_keys.as_ref().and_then(|keys| keys.redis);
                let max = max.map_or(0, |keys| keys.max);
                let copied = first.map_or(keys.len(), |first| max.saturating_sub(first));
                let copied = copied.min(keys.len());
                return Ok(KeyList { keys, copied, next: page.next, has_uses: true });
            }
            after = page.next;
        }
    }

    /// Returns when each key was last used; `None` where that is not known.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) fn last_uses(&self, ids: &[KeyId]) -> anyhow::Result<Vec<Option<Timestamp>>> {
        self.runtime.block_on(self.redis.last_uses(ids)).map_err(|error| self.down(error))
    }

    fn down(&self, outage: Outage) -> anyhow::Error {
        StoreUnavailable::of(&self.redis, outage).into()
    }
}

fn id(key: &StoredKey) -> Option<KeyId> {
    std::str::from_utf8(&key.id).ok()?.parse().ok()
}

fn listed(key: StoredKey, now: Timestamp, lifetimes: &KeyLifetimes) -> anyhow::Result<ListedKey> {
    let id = String::from_utf8_lossy(&key.id).into_owned();
    let read = || {
        let parsed: KeyId = id.parse().map_err(|error| format!("{error}"))?;
        let text = key.text.as_deref().ok_or("there is no record, or it is no text")?;
        KeyRecord::from_stored(parsed, text).map_err(|error| error.to_string())
    };
    Ok(match read() {
        Ok(record) => ListedKey::Record(show::with_state(&KeySpec::from(&record), now, lifetimes)?),
        Err(error) => ListedKey::Broken(id, error),
    })
}
