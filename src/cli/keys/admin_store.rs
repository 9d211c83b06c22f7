//! The records behind the admin API, which makes the keys: this side never has a digest.

use anyhow::Context as _;
use serde_json::{Map, Value};
use tokio::runtime::Runtime;
use tollgate_core::identity::KeyId;

use super::redis_store::{KeyList, ListedKey};
use crate::{
    cli::{
        admin_client::{AdminClient, MadeKey},
        argument,
        pages::Pages,
    },
    store::Position,
};

/// The most keys that are read at a time.
const PAGE: usize = 500;

/// The records of a running Tollgate.
pub(super) struct AdminStore {
    client: AdminClient,
    runtime: Runtime,
}

impl AdminStore {
    /// Prepares calls of the API at `url` with the token in a file.
    ///
    /// # Errors
    /// The URL is none of an admin API, or the token cannot be used.
    pub(super) fn open(url: &str, token_file: &str) -> anyhow::Result<Self> {
        let client = AdminClient::new(url, argument::secret_file(token_file)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { client, runtime })
    }

    /// Creates a key.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub(super) fn create(&self, terms: Map<String, Value>) -> anyhow::Result<MadeKey> {
        Ok(self.runtime.block_on(self.client.create_key(terms))?)
    }

    /// Imports the digest that the terms contain. Returns the record.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub(super) fn import(&self, terms: Map<String, Value>) -> anyhow::Result<Value> {
        Ok(self.runtime.block_on(self.client.import_key(terms))?.into())
    }

    /// Returns the record of an id.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub(super) fn find(&self, id: KeyId) -> anyhow::Result<Option<Value>> {
        Ok(self.runtime.block_on(self.client.key(id))?.map(Value::from))
    }

    /// Makes another secret for a key.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub(super) fn rotate(
        &self,
        id: KeyId,
        rotation: Map<String, Value>,
    ) -> anyhow::Result<Option<MadeKey>> {
        Ok(self.runtime.block_on(self.client.rotate_key(id, rotation))?)
    }

    /// Revokes a key. Returns whether there was one.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub(super) fn remove(&self, id: KeyId) -> anyhow::Result<bool> {
        Ok(self.runtime.block_on(self.client.revoke_key(id))?)
    }

    /// Lists at most `limit` keys after a position.
    ///
    /// # Errors
    /// The API does not answer or refuses, or its answer is none of a list.
    pub(super) fn list(&self, after: Option<Position>, limit: usize) -> anyhow::Result<KeyList> {
        let (mut keys, mut pages) = (Vec::new(), Pages::after(after));
        loop {
            let missing = PAGE.min(limit - keys.len());
            let page = self.runtime.block_on(self.client.list_keys(pages.position(), missing))?;
            let entries = page.keys.len();
            for record in page.keys {
                keys.push(listed(record)?);
            }
            let has_next = pages.turn(entries, page.next)?;
            if !has_next || keys.len() >= limit {
                let next = pages.position().filter(|_| has_next).cloned();
                return Ok(KeyList { copied: keys.len(), keys, next, has_uses: true });
            }
        }
    }
}

fn listed(record: Map<String, Value>) -> anyhow::Result<ListedKey> {
    let text = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = text("id").context("the answer of the admin API has a record without an id")?;
    if text("state").as_deref() == Some("unreadable") {
        return Ok(ListedKey::Broken(id, "the record cannot be read".to_owned()));
    }
    Ok(ListedKey::Record(record.into()))
}
