//! Reading the API keys in Redis: all of them once, and then each change.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::future::join;
use tokio::task::spawn_blocking;
use tollgate_core::admission::Outage;

use super::{
    KeyReplica,
    records::{Listing, Records},
};
use crate::store::{
    Redis,
    follower::{self, Copied, Freshness},
    redis::{BATCH, ChangeSubscription, Cursor},
};

/// The copy as its follower keeps it up to date.
pub(super) struct KeyCopy {
    replica: Weak<KeyReplica>,
    cursor: Option<Cursor>,
    /// The bound of the records that were read.
    max: usize,
    /// Whether it was logged that digests cannot be read.
    has_warned: bool,
}

impl KeyCopy {
    pub(super) const fn new(replica: Weak<KeyReplica>) -> Self {
        Self { replica, cursor: None, max: 0, has_warned: false }
    }

    /// Reads all records. Returns the cursor after which changes may be missing.
    async fn read_all(
        &mut self,
        source: &Redis,
        mut records: Records,
    ) -> Result<(Cursor, Records), Outage> {
        let cursor = source.newest_key_change().await?;
        let mut listing = Listing::default();
        source.key_ids(|created, id| listing.add(created, id)).await?;
        // Not on this thread: a million ids take a while.
        let (mut records, selected) = blocking(move || {
            let selected = records.select(listing);
            (records, selected)
        })
        .await?;
        if records.table().uncopied() > 0 {
            match source.key_digests(|digest, id| records.add_digest(&digest, id)).await {
                Ok(()) => {}
                Err(Outage::Refused) => self.warn_of_digests(source),
                Err(outage) => return Err(outage),
            }
        }
        // The next texts are read while those before are parsed.
        let mut batch: Vec<(Vec<u8>, Option<String>)> = Vec::new();
        let mut ids = selected.chunks(BATCH);
        loop {
            let next = ids.next();
            let applied = blocking(move || {
                for (id, text) in batch {
                    records.set(&id, text.as_deref());
                }
                records
            });
            let Some(next) = next else {
                return Ok((cursor, applied.await?));
            };
            let (texts, applied) = join(source.key_texts(next), applied).await;
            records = applied?;
            batch = next.iter().cloned().zip(texts?).collect();
        }
    }

    fn warn_of_digests(&mut self, source: &Redis) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "store.redis: imported API keys beyond `api_keys.replicate.max` are refused, \
                 because their digests cannot be read: {}; grant `+hscan` to the ACL user",
                source.cause(Outage::Refused)
            );
        }
    }
}

/// Runs work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Outage> {
    // It fails with a panic, or when the process ends.
    spawn_blocking(work).await.map_err(|_| Outage::Starved)
}

impl Copied for KeyCopy {
    fn content(&self) -> &'static str {
        "API keys"
    }

    fn freshness(&self) -> Option<Arc<Freshness>> {
        Some(Arc::clone(&self.replica.upgrade()?.freshness))
    }

    fn refresh(&self) -> Duration {
        // Three of four confirmations may be lost.
        self.replica
            .upgrade()
            .map_or(Duration::ZERO, |replica| replica.bounds().max_staleness.std() / 4)
    }

    fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    async fn read(&mut self, source: &Redis) -> Result<(), Outage> {
        let Some(replica) = self.replica.upgrade() else { return Ok(()) };
        if self.max != replica.bounds().max {
            self.cursor = None;
        }
        loop {
            let Some(cursor) = &self.cursor else {
                let max = replica.bounds().max;
                let before = replica.content().records.begin_again(max);
                let (cursor, records) = self.read_all(source, before).await?;
                self.max = max;
                self.cursor = Some(cursor);
                replica.replace(records);
                continue;
            };
            // Taken before the query: a change may be made while the answer is on its way.
            let queried = Instant::now();
            let Some(changes) = source.key_changes(cursor).await? else {
                follower::warn_of_gap(self.content(), cursor);
                self.cursor = None;
                continue;
            };
            if !changes.ids.is_empty() {
                let texts = source.key_texts(&changes.ids).await?;
                replica.apply(changes.ids.iter().zip(texts));
            }
            self.cursor = Some(changes.cursor);
            if !changes.complete {
                continue;
            }
            // Where there is room again, it is filled with records that were not copied.
            let others = replica.content().records.that_have_room(BATCH);
            if others.is_empty() {
                replica.freshness.confirm(queried);
                return Ok(());
            }
            let texts = source.key_texts(&others).await?;
            replica.apply(others.iter().zip(texts));
        }
    }

    async fn clean(&mut self) {
        if self.replica.upgrade().is_some_and(|replica| replica.lapse()) {
            tracing::error!(
                "store.redis: the copy of the API keys is older than `secrets.max_stale` and no \
                 longer used, its keys are denied"
            );
            self.cursor = None;
        }
    }

    async fn subscribe(source: &Redis) -> Option<ChangeSubscription> {
        source.subscribe_to_keys().await
    }
}
