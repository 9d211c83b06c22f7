//! A copy of the API keys in Redis: read once as a whole, and then kept up to date, as the copy of
//! the revocations is ([`super::replica`]).
//!
//! A change names a key, and its record is read then: the newest one, however many changes there
//! were. A record that cannot be read is left out, and its key is refused; it stops no other.

mod records;

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::Outage,
    credential::api_key::{KeyTable, ReplicateKeysConfig},
};

use self::records::Records;
use super::{
    Redis,
    redis::{ChangeSubscription, Cursor},
};

/// A copy of the API keys in Redis. The copy is followed until the value is dropped.
#[derive(Debug)]
pub struct KeyReplica {
    content: Mutex<Content>,
    /// Counts the tables that were put in [`Content`].
    changes: watch::Sender<u64>,
    started: Instant,
    /// The moment of the last query to which Redis had no more changes, in microseconds since
    /// `started`; 0 before the first one.
    confirmed: AtomicU64,
    /// Whether the keys were read once, or could not be read.
    is_tried: AtomicBool,
    /// The age at which the copy is no longer used at all.
    max_stale: Duration,
}

#[derive(Debug)]
struct Content {
    bounds: ReplicateKeysConfig,
    table: Option<Arc<KeyTable>>,
    broken: usize,
    beyond: usize,
}

/// The state of a copy of the API keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReplicaStatus {
    /// The records in the copy.
    pub keys: usize,
    /// The records that were left out because they cannot be read.
    pub broken: usize,
    /// The records that were left out because of `replicate.max`.
    pub beyond: usize,
    /// The age of the copy; `None` before it was first read.
    pub age: Option<Duration>,
    /// The age beyond which the route's `on_outage` decides.
    pub max_staleness: Duration,
}

impl KeyReplica {
    /// Starts to copy the keys of a Redis, until the copy is dropped or `stop`. Without a
    /// confirmation for `max_stale` the copy is emptied.
    pub(super) fn start(
        source: &Arc<Redis>,
        bounds: ReplicateKeysConfig,
        max_stale: Duration,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let replica = Arc::new(Self {
            content: Mutex::new(Content { bounds, table: None, broken: 0, beyond: 0 }),
            changes: watch::Sender::new(0),
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
            is_tried: AtomicBool::new(false),
            max_stale,
        });
        let follower = Follower {
            source: Arc::downgrade(source),
            replica: Arc::downgrade(&replica),
            cursor: None,
            records: Records::new(bounds.max),
            subscription: Subscription::Inactive,
        };
        tokio::spawn(async move { stop.run_until_cancelled(follower.run()).await });
        replica
    }

    /// Returns the table; `None` before the keys were read, and when they are too old.
    pub fn table(&self) -> Option<Arc<KeyTable>> {
        self.content().table.clone()
    }

    /// Observes the tables: the number changes with each one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether the keys were read once, or could not be read.
    pub fn is_tried(&self) -> bool {
        self.is_tried.load(Ordering::Acquire)
    }

    /// Sets other bounds of the copy.
    pub fn set_bounds(&self, bounds: ReplicateKeysConfig) {
        self.content().bounds = bounds;
    }

    /// Whether Redis has not confirmed the copy within `max_staleness`.
    pub fn is_stale(&self, max_staleness: Duration) -> bool {
        self.age().is_none_or(|age| age > max_staleness)
    }

    /// Returns the state of the copy.
    pub fn status(&self) -> KeyReplicaStatus {
        let age = self.age();
        let content = self.content();
        KeyReplicaStatus {
            keys: content.table.as_ref().map_or(0, |table| table.len()),
            broken: content.broken,
            beyond: content.beyond,
            age,
            max_staleness: content.bounds.max_staleness.std(),
        }
    }

    /// The greatest possible age of the copy; `None` before it was first read.
    fn age(&self) -> Option<Duration> {
        let confirmed =
            Some(self.confirmed.load(Ordering::Acquire)).filter(|confirmed| *confirmed != 0)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_micros(confirmed)))
    }

    fn confirm(&self, queried: Instant) {
        let micros = queried.saturating_duration_since(self.started).as_micros();
        self.confirmed.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }

    fn bounds(&self) -> ReplicateKeysConfig {
        self.content().bounds
    }

    fn publish(&self, records: &Records) {
        {
            let mut content = self.content();
            content.table = Some(Arc::new(records.table().clone()));
            content.broken = records.broken();
            content.beyond = records.beyond();
        }
        self.changes.send_modify(|number| *number += 1);
    }

    /// Empties a copy that is too old. Returns whether it was in force.
    fn lapse(&self) -> bool {
        if self.age().is_none_or(|age| age <= self.max_stale) {
            return false;
        }
        let lapsed = self.content().table.take().is_some();
        if lapsed {
            self.changes.send_modify(|number| *number += 1);
        }
        lapsed
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Follower {
    source: Weak<Redis>,
    replica: Weak<KeyReplica>,
    cursor: Option<Cursor>,
    records: Records,
    subscription: Subscription,
}

enum Subscription {
    Active(ChangeSubscription),
    Inactive,
    /// The user lacks the permission to wait for changes.
    Forbidden,
}

impl Follower {
    async fn run(mut self) {
        let mut failing = false;
        while let (Some(source), Some(replica)) = (self.source.upgrade(), self.replica.upgrade()) {
            let result = self.read(&source, &replica).await;
            replica.is_tried.store(true, Ordering::Release);
            if let Err(outage) = result
                && !failing
            {
                tracing::warn!(
                    "store.redis: the copy of the API keys is not refreshed ({}): {}",
                    outage.label(),
                    source.last_error()
                );
            }
            failing = result.is_err();
            if replica.lapse() {
                tracing::error!(
                    "store.redis: the copy of the API keys is older than `secrets.max_stale` and \
                     no longer used, its keys are denied"
                );
                self.cursor = None;
            }
            // Three of four confirmations may be lost. Random, so that replicas do not query Redis
            // at the same moments.
            let refresh = replica.bounds().max_staleness.std() / 4;
            let pause = refresh.mul_f64(rand::random_range(0.9..=1.0));
            if matches!(self.subscription, Subscription::Inactive) && !failing {
                let subscription = source.subscribe_to_keys().await;
                self.subscription =
                    subscription.map_or(Subscription::Inactive, Subscription::Active);
            }
            drop((source, replica));
            if failing || !self.wait_for_change(pause).await {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Reads until Redis has no more changes.
    async fn read(&mut self, source: &Redis, replica: &KeyReplica) -> Result<(), Outage> {
        if self.records.max() != replica.bounds().max {
            self.cursor = None;
        }
        loop {
            let Some(cursor) = &self.cursor else {
                let max = replica.bounds().max;
                let (cursor, records) = read_all(source, max, &self.records).await?;
                self.records = records;
                self.cursor = Some(cursor);
                replica.publish(&self.records);
                continue;
            };
            // Taken before the query: a change may be made while the answer is on its way.
            let queried = Instant::now();
            let Some(changes) = source.key_changes(cursor).await? else {
                self.cursor = None;
                continue;
            };
            if !changes.ids.is_empty() {
                let texts = source.key_texts(&changes.ids).await?;
                for (id, text) in changes.ids.iter().zip(texts) {
                    self.records.set(id, text.as_deref());
                }
                replica.publish(&self.records);
            }
            // Where there is room again, the records that were left out are read.
            self.cursor = Some(changes.cursor).filter(|_| !self.records.has_room_for_more());
            if changes.complete && self.cursor.is_some() {
                replica.confirm(queried);
                return Ok(());
            }
        }
    }

    /// Waits for a change, for `most` at most. Returns whether it could wait.
    async fn wait_for_change(&mut self, most: Duration) -> bool {
        let (Subscription::Active(subscription), Some(cursor)) =
            (&mut self.subscription, &self.cursor)
        else {
            return false;
        };
        match subscription.wait_for_change(cursor, most).await {
            Ok(()) => return true,
            Err(Outage::Refused) => {
                tracing::warn!(
                    "store.redis: changes of the API keys are polled every {most:?} instead of \
                     pushed, because redis refuses XREAD; grant `+xread` to the ACL user"
                );
                self.subscription = Subscription::Forbidden;
            }
            Err(_) => self.subscription = Subscription::Inactive,
        }
        false
    }
}

/// Reads all records. Returns the cursor after which changes may be missing.
async fn read_all(
    source: &Redis,
    max: usize,
    before: &Records,
) -> Result<(Cursor, Records), Outage> {
    let cursor = source.newest_key_change().await?;
    let mut records = before.begin_again(max);
    let ids = records.select(source.key_ids().await?);
    for ids in ids.chunks(super::redis::BATCH) {
        let texts = source.key_texts(ids).await?;
        for (id, text) in ids.iter().zip(texts) {
            records.set(id, text.as_deref());
        }
    }
    Ok((cursor, records))
}
