//! A copy of the API keys in Redis ([`super::follower`]).
//!
//! A change names a key, and its record is read then: the newest one, however many changes there
//! were. A record that cannot be read is left out, and its key is refused; it stops no other.
//!
//! With more keys than `replicate.max`, the copy has the ids of the others. Their records are looked
//! up when a check needs them ([`KeyReplica::look_up`]), and kept in a bounded part of the table,
//! where changes and revocations reach them as they reach every other record.

mod cached_ids;
mod lookups;
mod reading;
mod records;

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_core::{
    credential::api_key::{KeyTable, ReplicateKeysConfig},
    identity::KeyId,
};

pub use self::lookups::KeyLookupError;
use self::{
    lookups::{LookupResult, RecordLookups},
    reading::KeyCopy,
    records::Records,
};
use super::{
    Redis,
    follower::{self, Freshness},
};

/// A copy of the API keys in Redis. The copy is followed until the value is dropped.
#[derive(Debug)]
pub struct KeyReplica {
    content: Mutex<Content>,
    /// Counts the tables that were put in [`Content`].
    changes: watch::Sender<u64>,
    freshness: Arc<Freshness>,
    lookups: Arc<RecordLookups>,
    /// The age at which the copy is no longer used at all.
    max_stale: Duration,
    /// Ends the lookups when it is dropped.
    _alive: DropGuard,
}

#[derive(Debug)]
struct Content {
    bounds: ReplicateKeysConfig,
    records: Records,
    /// The table in force, which shares all records with `records`.
    table: Option<Arc<KeyTable>>,
    /// The ids that are looked up, of which no other text was read since the call began.
    looked_up: HashSet<KeyId>,
}

/// The result of lookups of records.
#[derive(Debug, Default, PartialEq, Eq)]
struct FinishedLookups {
    /// The number of records that were found.
    found: usize,
    /// The ids whose texts were not used, and whose records are looked up again.
    unused: Vec<KeyId>,
}

/// The state of a copy of the API keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReplicaStatus {
    /// The records that are copied.
    pub keys: usize,
    /// The records beyond `replicate.max` that were looked up, and are kept.
    pub cached: usize,
    /// The records beyond `replicate.max` of which only the ids are known: they are looked up when
    /// they are needed.
    pub uncopied: usize,
    /// The records that were left out because they cannot be read.
    pub broken: usize,
    /// The age of the copy; `None` before it was first read.
    pub age: Option<Duration>,
    /// The age beyond which the route's `on_outage` decides.
    pub max_staleness: Duration,
    /// The number of lookups by result.
    pub lookups: [(&'static str, u64); LookupResult::ALL.len()],
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
        let alive = stop.child_token();
        let records = Records::new(bounds.max);
        let replica = Arc::new(Self {
            content: Mutex::new(Content {
                bounds,
                records,
                table: None,
                looked_up: HashSet::new(),
            }),
            changes: watch::Sender::new(0),
            freshness: Arc::new(Freshness::new()),
            lookups: Arc::new(RecordLookups::new()),
            max_stale,
            _alive: alive.clone().drop_guard(),
        });
        let copy = KeyCopy::new(Arc::downgrade(&replica));
        follower::spawn(Arc::downgrade(source), copy, stop);
        let lookups = lookups::run(
            Arc::clone(&replica.lookups),
            Arc::downgrade(source),
            Arc::downgrade(&replica),
        );
        tokio::spawn(async move { alive.run_until_cancelled(lookups).await });
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
        self.freshness.is_tried()
    }

    /// Sets other bounds of the copy.
    pub fn set_bounds(&self, bounds: ReplicateKeysConfig) {
        self.content().bounds = bounds;
    }

    /// Whether Redis has not confirmed the copy within `max_staleness`.
    pub fn is_stale(&self, max_staleness: Duration) -> bool {
        self.freshness.age().is_none_or(|age| age > max_staleness)
    }

    /// Looks up the record of an id that the table has not copied, for a client with an address. The
    /// table has it afterwards, unless Redis has no record that can be read.
    ///
    /// # Errors
    /// The client's network or the process makes too many lookups, or Redis does not answer.
    pub async fn look_up(&self, id: KeyId, client: Option<IpAddr>) -> Result<(), KeyLookupError> {
        // Another check may have looked it up.
        if self.table().is_some_and(|table| !table.is_uncopied(&id)) {
            return Ok(());
        }
        self.lookups.look_up(id, client).await
    }

    /// Records that a key was verified with a record that was looked up: it is kept for longer.
    pub fn keep(&self, id: KeyId) {
        self.content().records.prove(id);
    }

    /// Returns the state of the copy.
    pub fn status(&self) -> KeyReplicaStatus {
        let age = self.freshness.age();
        let counts = self.lookups.counts();
        let mut lookups = LookupResult::ALL.map(|(_, label)| (label, 0));
        for ((_, number), count) in lookups.iter_mut().zip(counts) {
            *number = count;
        }
        let content = self.content();
        // A copy that was emptied has none of its records.
        let in_force = |number: usize| if content.table.is_some() { number } else { 0 };
        KeyReplicaStatus {
            keys: in_force(content.records.copied()),
            cached: in_force(content.records.cached()),
            uncopied: in_force(content.records.table().uncopied()),
            broken: content.records.broken(),
            age,
            max_staleness: content.bounds.max_staleness.std(),
            lookups,
        }
    }

    fn bounds(&self) -> ReplicateKeysConfig {
        self.content().bounds
    }

    /// Records that the texts of ids are read from now on, for checks that wait for them.
    fn begin_lookups(&self, ids: &[KeyId]) {
        self.content().looked_up = ids.iter().copied().collect();
    }

    /// Takes over the texts of records that were looked up.
    ///
    /// INVARIANT: a text is not used where the record was read again meanwhile because of a change,
    /// or all records were: which of the two is the newer one is not known, and the one of the change
    /// always is.
    fn finish_lookups<'i>(
        &self,
        texts: impl Iterator<Item = (&'i KeyId, Option<String>)>,
    ) -> FinishedLookups {
        let mut finished = FinishedLookups::default();
        let mut content = self.content();
        // The copy was emptied meanwhile.
        if content.table.is_none() {
            return finished;
        }
        for (id, text) in texts {
            if content.looked_up.remove(id) {
                finished.found += usize::from(content.records.set_looked_up(*id, text.as_deref()));
            } else if content.records.table().is_uncopied(id) {
                finished.unused.push(*id);
            }
        }
        self.publish(content);
        finished
    }

    /// Takes over the texts of records that changed.
    fn apply(&self, texts: impl Iterator<Item = (impl AsRef<[u8]>, Option<String>)>) {
        let mut content = self.content();
        for (id, text) in texts {
            let id = id.as_ref();
            // A check waits for this record, of which this is the newest text.
            if let Some(key) = records::parse(id).filter(|key| content.looked_up.remove(key)) {
                content.records.set_looked_up(key, text.as_deref());
            } else {
                content.records.set(id, text.as_deref());
            }
        }
        self.publish(content);
    }

    /// Takes over records that were read as a whole.
    fn replace(&self, records: Records) {
        let mut content = self.content();
        content.looked_up.clear();
        content.records = records;
        self.publish(content);
    }

    /// Puts the table of the records in force.
    fn publish(&self, mut content: std::sync::MutexGuard<'_, Content>) {
        content.table = Some(Arc::new(content.records.table().clone()));
        drop(content);
        self.changes.send_modify(|number| *number += 1);
    }

    /// Empties a copy that is too old. Returns whether it was in force.
    fn lapse(&self) -> bool {
        if self.freshness.age().is_none_or(|age| age <= self.max_stale) {
            return false;
        }
        let mut content = self.content();
        content.looked_up.clear();
        let lapsed = content.table.take().is_some();
        drop(content);
        if lapsed {
            self.changes.send_modify(|number| *number += 1);
        }
        lapsed
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tollgate_core::credential::api_key::KeyDigest;

    use super::{records::Listing, *};

    fn id(number: u32) -> KeyId {
        format!("key{number:09}").parse().unwrap()
    }

    /// Records of which none is copied.
    fn uncopied(numbers: &[u32]) -> Records {
        let mut listing = Listing::default();
        // The oldest is selected to be copied.
        for number in [0].iter().chain(numbers) {
            listing.add(u64::from(*number), id(*number).digits().to_vec());
        }
        let mut records = Records::new(1);
        records.select(listing);
        records
    }

    fn replica(records: Records) -> KeyReplica {
        let replica = KeyReplica {
            content: Mutex::new(Content {
                bounds: ReplicateKeysConfig::default(),
                records: Records::new(1),
                table: None,
                looked_up: HashSet::new(),
            }),
            changes: watch::Sender::new(0),
            freshness: Arc::new(Freshness::new()),
            lookups: Arc::new(RecordLookups::new()),
            max_stale: Duration::from_secs(1),
            _alive: CancellationToken::new().drop_guard(),
        };
        replica.replace(records);
        replica
    }

    #[test]
    fn a_lookup_during_a_reading_of_all_records_is_made_again() {
        let text = |number: u32| {
            let digest = KeyDigest::of(b"key");
            let id = id(number);
            Some(format!(
                r#"{{"id":"{id}","digest":"{digest}","subject":"ci","created":"2026-11-29T00:00:00Z"}}"#
            ))
        };
        let replica = replica(uncopied(&[1, 2, 3]));
        let ids = [id(1), id(2), id(3)];
        replica.begin_lookups(&ids);
        // All records are read meanwhile, and the third was revoked.
        replica.replace(uncopied(&[1, 2]));
        let texts = || ids.iter().zip([1, 2, 3].map(text));
        let unused = vec![id(1), id(2)];
        assert_eq!(replica.finish_lookups(texts()), FinishedLookups { found: 0, unused });
        assert!(replica.table().unwrap().is_uncopied(&id(1)));
        replica.begin_lookups(&ids[..2]);
        let finished = replica.finish_lookups(texts().take(2));
        assert_eq!(finished, FinishedLookups { found: 2, unused: Vec::new() });
        let table = replica.table().unwrap();
        assert!(ids[..2].iter().all(|id| table.get(id).is_some()) && table.get(&id(3)).is_none());
    }
}
