//! The uses of API keys in Redis: when a key was last used, and from which networks, as all replicas
//! have seen it. One value for each key, written in batches.

use std::collections::BTreeMap;

use ::redis::{RedisResult, pipe};
use serde::Serialize;
use tollgate_core::{admission::Outage, identity::KeyId, time::Timestamp};

use super::{
    Redis,
    keys::{FORMAT_KEY, Key, check_format},
    replication::BATCH,
};
use crate::store::key_use::{KEY_LIFE, KeyUpdate, MOST_NETWORKS, MOST_UPDATES, NETWORK_LIFE};

/// An update as the script reads it.
#[derive(Serialize)]
struct Update<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    notices: BTreeMap<&'a str, u64>,
}

impl Redis {
    /// Merges uses of keys, at most [`MOST_UPDATES`] of them. Returns what is new: the index of an update,
    /// and its network or kind of notice.
    ///
    /// # Errors
    /// Redis does not answer. To merge the same uses again does no harm.
    pub async fn merge_key_uses(
        &self,
        updates: &[KeyUpdate],
    ) -> Result<Vec<(usize, String)>, Outage> {
        let updates = updates.get(..MOST_UPDATES).unwrap_or(updates);
        let read = updates.iter().map(|update| Update {
            last: update.last.map(Timestamp::secs),
            networks: update.networks.iter().map(ToString::to_string).collect(),
            notices: update.notices.iter().map(|(kind, end)| (*kind, end.secs())).collect(),
        });
        // Neither numbers nor texts fail to be written.
        let text = serde_json::to_string(&read.collect::<Vec<_>>()).unwrap_or_default();
        let text = text.as_str();
        let found: Vec<(usize, String)> = self
            .call(|mut connection| async move {
                let reply = self.scripts.use_keys.run(&mut connection, updates.len() + 1, |call| {
                    for update in updates {
                        call.arg(Key::api_key_use(update.id.as_str()));
                    }
                    call.arg(FORMAT_KEY).arg(text).arg(MOST_NETWORKS);
                    call.arg(NETWORK_LIFE.secs()).arg(KEY_LIFE.secs());
                });
                reply.await
            })
            .await?;
        // Lua counts from 1.
        Ok(found.into_iter().map(|(index, what)| (index.saturating_sub(1), what)).collect())
    }

    /// Returns when each key was last used, at most a minute late; `None` where that is not known.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn last_uses(&self, ids: &[KeyId]) -> Result<Vec<Option<Timestamp>>, Outage> {
        let mut uses = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let texts: Vec<Option<Vec<u8>>> = self
                .call(|mut connection| async move {
                    let mut read = pipe();
                    read.cmd("GET").arg(FORMAT_KEY).cmd("MGET");
                    for id in ids {
                        read.arg(Key::api_key_use(id.as_str()));
                    }
                    let answer: RedisResult<(Option<String>, _)> =
                        read.query_async(&mut connection).await;
                    let (format, texts) = answer?;
                    check_format(format)?;
                    Ok(texts)
                })
                .await?;
            uses.extend(texts.into_iter().map(|text| last(&text?)));
        }
        Ok(uses)
    }
}

/// Returns the last use in a value. One that another program wrote has none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds, which an f64 holds exactly; the cast saturates"
)]
fn last(text: &[u8]) -> Option<Timestamp> {
    let stored: serde_json::Value = serde_json::from_slice(text).ok()?;
    Some(Timestamp::from_secs(stored.get("last")?.as_f64()? as u64))
}
