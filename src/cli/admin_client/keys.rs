//! The calls for API keys.

use http::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tollgate_core::identity::KeyId;

use super::{AdminClient, ClientError, found, page, position, read};
use crate::{admin::keys::PATH, store::Position};

/// A key that was just made, and its record.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct MadeKey {
    /// The key, which no later answer contains.
    pub(in crate::cli) key: String,
    /// The record without digests.
    pub(in crate::cli) record: Map<String, Value>,
}

/// A page of the list of keys.
#[derive(Debug)]
pub(in crate::cli) struct ListedKeys {
    /// The records without digests, with their states.
    pub(in crate::cli) keys: Vec<Map<String, Value>>,
    /// The position after which the next page begins; `None` on the last one.
    pub(in crate::cli) next: Option<Position>,
}

impl AdminClient {
    /// Creates a key.
    pub(in crate::cli) async fn create_key(
        &self,
        terms: Map<String, Value>,
    ) -> Result<MadeKey, ClientError> {
        read(self.call(Method::POST, PATH.to_owned(), Some(terms.into())).await?)
    }

    /// Imports the digest of a key. Returns its record.
    pub(in crate::cli) async fn import_key(
        &self,
        terms: Map<String, Value>,
    ) -> Result<Map<String, Value>, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            record: Map<String, Value>,
        }
        let call = self.call(Method::POST, format!("{PATH}/import"), Some(terms.into()));
        let Answer { record } = read(call.await?)?;
        Ok(record)
    }

    /// Returns the record of a key; `None` where there is none.
    pub(in crate::cli) async fn key(
        &self,
        id: KeyId,
    ) -> Result<Option<Map<String, Value>>, ClientError> {
        read_found(self.call(Method::GET, format!("{PATH}/{id}"), None).await?)
    }

    /// Makes another secret for a key; `None` where there is no such key.
    pub(in crate::cli) async fn rotate_key(
        &self,
        id: KeyId,
        rotation: Map<String, Value>,
    ) -> Result<Option<MadeKey>, ClientError> {
        let path = format!("{PATH}/{id}/rotate");
        read_found(self.call(Method::POST, path, Some(rotation.into())).await?)
    }

    /// Revokes a key. Returns whether there was one.
    pub(in crate::cli) async fn revoke_key(&self, id: KeyId) -> Result<bool, ClientError> {
        let call = self.call(Method::DELETE, format!("{PATH}/{id}"), None);
        found(call.await?).map(|answer| answer.is_some())
    }

    /// Lists at most `limit` keys after a position.
    pub(in crate::cli) async fn list_keys(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<ListedKeys, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            keys: Vec<Map<String, Value>>,
            next: Option<String>,
        }
        let call = self.call(Method::GET, page(PATH, after, limit), None);
        let Answer { keys, next } = read(call.await?)?;
        Ok(ListedKeys { keys, next: position(next)? })
    }
}

fn read_found<T: DeserializeOwned>(answer: (StatusCode, Value)) -> Result<Option<T>, ClientError> {
    let status = answer.0.as_u16();
    let Some(json) = found(answer)? else { return Ok(None) };
    serde_json::from_value(json).map(Some).map_err(|_| ClientError::Strange(status))
}
