//! API keys in Redis: one record for each, as JSON with digests and without keys, a sorted set of
//! all ids, and a stream of changes. docs/operations.md describes them.
//!
//! Text in Redis may be anything, so ids and records are read as bytes: one that is broken never
//! stops the others.

use std::time::Duration;

use ::redis::{FromRedisValue, RedisResult, Value, pipe};
use tollgate_core::{
    admission::Outage,
    credential::api_key::{KeyDigest, KeyRecord},
    identity::KeyId,
    time::Timestamp,
};

use super::{
    CALL_DEADLINE, Redis,
    keys::{API_KEY_CHANGES, API_KEY_DIGESTS, API_KEYS, FORMAT_KEY, Key, check_format},
    pages::{Listed, MemberPage},
    replication::{BATCH, ChangeSubscription, Cursor, Rows},
};
use crate::store::Position;

/// The record of a key as Redis has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The id in the list of ids. One that is no id of a key cannot be used.
    pub id: Vec<u8>,
    /// The text of the record; `None` where there is none, or a value that is no text.
    pub text: Option<String>,
    /// When the key was created, as the list has it.
    pub created: Timestamp,
}

impl StoredKey {
    /// The position of the key in the list.
    pub fn position(&self) -> Position {
        Position::new(self.created, &self.id)
    }
}

/// Some keys of the list, by the moment of their creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys of this page.
    pub keys: Vec<StoredKey>,
    /// The number of keys in the list.
    pub total: u64,
    /// The position after which the next page begins; `None` on the last one.
    pub next: Option<Position>,
}

/// The result of writing a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWrite {
    /// The record is written, and its change is in the stream.
    Written,
    /// There is a record of this id.
    Exists,
    /// The record is another one than the one that was read.
    Changed,
    /// The key of a foreign format has this id already.
    SameDigest(Option<KeyId>),
}

/// The list of keys, by the moments of their creation in seconds.
const LISTED: Listed = Listed { key: API_KEYS, unit: 1_000_000, ends: false };

/// Some changes of keys, in order.
#[derive(Debug)]
pub(in crate::store) struct KeyChanges {
    /// The cursor after these changes.
    pub(in crate::store) cursor: Cursor,
    /// The ids of the keys that changed.
    pub(in crate::store) ids: Vec<Vec<u8>>,
    /// Whether Redis had no more changes.
    pub(in crate::store) complete: bool,
}

/// The first keys of the scripts, in their order.
fn write_keys(call: &mut ::redis::Cmd, id: &KeyId) {
    call.arg(Key::api_key(id.as_str())).arg(API_KEYS).arg(API_KEY_DIGESTS).arg(API_KEY_CHANGES);
}

impl Redis {
    /// Writes the record of a key. `replaces` is the text that was read before; without it, the
    /// record must be new.
    ///
    /// # Errors
    /// Redis does not answer. Whether the record was written is not known then.
    pub async fn write_key(
        &self,
        record: &KeyRecord,
        text: &str,
        replaces: Option<&str>,
    ) -> Result<KeyWrite, Outage> {
        let answer: Vec<String> = self
            .call(|mut connection| async move {
                let reply = self.scripts.write_key.run(&mut connection, 5, |call| {
                    write_keys(call, &record.id);
                    call.arg(FORMAT_KEY);
                    call.arg(record.id.as_str()).arg(record.created.secs());
                    call.arg(text).arg(replaces.unwrap_or_default());
                });
                reply.await
            })
            .await?;
        let mut words = answer.iter().map(String::as_str);
        Ok(match words.next() {
            Some("written") => KeyWrite::Written,
            Some("exists") => KeyWrite::Exists,
            Some("changed") => KeyWrite::Changed,
            _ => KeyWrite::SameDigest(words.next().and_then(|id| id.parse().ok())),
        })
    }

    /// Removes the record of a key, which revokes the key. Returns whether there was one.
    ///
    /// # Errors
    /// Redis does not answer. To remove it again does no harm.
    pub async fn remove_key(&self, id: &KeyId) -> Result<bool, Outage> {
        let removed: Value = self
            .call(|mut connection| async move {
                let reply = self.scripts.remove_key.run(&mut connection, 6, |call| {
                    write_keys(call, id);
                    call.arg(Key::api_key_use(id.as_str())).arg(FORMAT_KEY);
                    call.arg(id.as_str());
                });
                reply.await
            })
            .await?;
        Ok(!matches!(removed, Value::Nil))
    }

    /// Returns the text of the record of a key.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn key(&self, id: &KeyId) -> Result<Option<String>, Outage> {
        let texts = self.key_texts(&[id.as_str()]).await?;
        Ok(texts.into_iter().flatten().next())
    }

    /// Lists keys by the moment of their creation and then by their ids: `limit` of them after a
    /// position. A key that is created or removed between two pages shifts no other.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn list_keys(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<KeyPage, Outage> {
        let MemberPage { rows, total, next } =
            self.members(LISTED, after, limit.min(BATCH)).await?;
        let ids: Vec<&Vec<u8>> = rows.iter().map(|(id, _)| id).collect();
        let texts = self.key_texts(&ids).await?;
        let keys = rows.into_iter().zip(texts).map(|((id, created), text)| StoredKey {
            id,
            text,
            created: Timestamp::from_secs(created),
        });
        Ok(KeyPage { keys: keys.collect(), total, next })
    }

    /// Opens a subscription to the changes of keys; `None` when a connection cannot be made now.
    pub(in crate::store) async fn subscribe_to_keys(&self) -> Option<ChangeSubscription> {
        self.subscribe_to(API_KEY_CHANGES).await
    }

    /// The cursor of the newest change of the keys.
    pub(in crate::store) async fn newest_key_change(&self) -> Result<Cursor, Outage> {
        self.newest_entry(API_KEY_CHANGES).await
    }

    /// Reads the ids of all keys with the moments of their creation, each once or more often. A
    /// change meanwhile is read or not.
    pub(in crate::store) async fn key_ids(
        &self,
        mut add: impl FnMut(u64, Vec<u8>),
    ) -> Result<(), Outage> {
        let mut from = 0_u64;
        loop {
            let page = self.scan_page("ZSCAN", API_KEYS, from);
            let (next, page): (_, Vec<(Vec<u8>, f64)>) = page.await?;
            page.into_iter().for_each(|(id, created)| add(seconds(created), id));
            match next {
                0 => return Ok(()),
                next => from = next,
            }
        }
    }

    /// Reads the digests of all keys of foreign formats with their ids, as [`Redis::key_ids`].
    pub(in crate::store) async fn key_digests(
        &self,
        mut add: impl FnMut(KeyDigest, KeyId),
    ) -> Result<(), Outage> {
        let mut from = 0_u64;
        loop {
            let page = self.scan_page("HSCAN", API_KEY_DIGESTS, from);
            let (next, page): (_, Vec<(Vec<u8>, Vec<u8>)>) = page.await?;
            for (digest, id) in page {
                let digest = String::from_utf8_lossy(&digest).parse();
                let id = String::from_utf8_lossy(&id).parse();
                // A pair that is none was not written by `write_key.lua`, and finds no key.
                if let (Ok(digest), Ok(id)) = (digest, id) {
                    add(digest, id);
                }
            }
            match next {
                0 => return Ok(()),
                next => from = next,
            }
        }
    }

    /// Reads a page of a sorted set or of a hash: the next cursor, and pairs.
    async fn scan_page<T: FromRedisValue>(
        &self,
        scan: &'static str,
        key: &'static str,
        from: u64,
    ) -> Result<(u64, Vec<T>), Outage> {
        self.call(|mut connection| async move {
            let mut pages = pipe();
            pages.cmd("GET").arg(FORMAT_KEY);
            pages.cmd(scan).arg(key).arg(from).arg("COUNT").arg(BATCH);
            let (format, page): (Option<String>, (u64, Vec<T>)) =
                pages.query_async(&mut connection).await?;
            check_format(format)?;
            Ok(page)
        })
        .await
    }

    /// Reads the texts of records, in the order of their ids: at most [`BATCH`] of them.
    pub(in crate::store) async fn key_texts(
        &self,
        ids: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Vec<Option<String>>, Outage> {
        self.key_texts_within(CALL_DEADLINE, ids).await
    }

    /// Reads the texts of records as [`Redis::key_texts`], for checks that wait for them: within
    /// the deadline of checks.
    pub(in crate::store) async fn key_texts_for_checks(
        &self,
        ids: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Vec<Option<String>>, Outage> {
        self.key_texts_within(self.deadline, ids).await
    }

    async fn key_texts_within(
        &self,
        deadline: Duration,
        ids: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Vec<Option<String>>, Outage> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<Option<Vec<u8>>> = self
            .call_within(deadline, |mut connection| async move {
                let mut read = pipe();
                read.cmd("GET").arg(FORMAT_KEY).cmd("MGET");
                for id in ids {
                    read.arg(Key::api_key(id));
                }
                let answer: RedisResult<(Option<String>, _)> =
                    read.query_async(&mut connection).await;
                let (format, texts) = answer?;
                check_format(format)?;
                Ok(texts)
            })
            .await?;
        // A text that is not UTF-8 is none that this version wrote, and fails to parse.
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        Ok(texts.into_iter().map(|bytes| bytes.map(text)).collect())
    }

    /// Reads the changes of keys after `cursor`, one batch; `None` if the stream no longer has all
    /// of them.
    pub(in crate::store) async fn key_changes(
        &self,
        cursor: &Cursor,
    ) -> Result<Option<KeyChanges>, Outage> {
        let Some(Rows { rows, complete }) = self.rows_after(API_KEY_CHANGES, cursor).await? else {
            return Ok(None);
        };
        let mut changes = KeyChanges { cursor: cursor.clone(), ids: Vec::new(), complete };
        for (entry, fields) in rows {
            let fields: Vec<Vec<u8>> = fields;
            let Some(id) = fields.into_iter().nth(1) else { return Ok(None) };
            changes.ids.push(id);
            changes.cursor = Cursor(Some(entry));
        }
        changes.ids.sort_unstable();
        changes.ids.dedup();
        Ok(Some(changes))
    }

    /// The cause of an outage, in words for the operator.
    pub fn cause(&self, outage: Outage) -> String {
        self.home.cause(outage)
    }
}

/// A moment in seconds, which an f64 holds exactly. What is no moment comes last.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an f64 below 2^53; the cast saturates"
)]
fn seconds(created: f64) -> u64 {
    if created.is_finite() { created as u64 } else { u64::MAX }
}
