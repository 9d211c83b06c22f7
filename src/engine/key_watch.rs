//! The watch over API keys, away from checks: it collects their uses, and finds the keys that expire.
//!
//! Uses and notices are merged into Redis where the store is one, so that all replicas together
//! report an event once, also after a restart. In memory, each process knows what it has seen.

mod scan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tollgate_core::{
    credential::api_key::{KeyLifetimes, KeyRecord, KeyTable},
    identity::KeyId,
    network::Network,
    policy::Policy,
    snapshot::Snapshot,
    time::Timestamp,
};

use self::scan::{Notice, Scan};
use super::live::Live;
use crate::{
    background,
    observe::{
        self, Observer,
        key_events::{KeyEvent, KeyEventKind},
        key_uses::NotedUse,
    },
    store::{KeyUpdate, MOST_NETWORKS, MOST_UPDATES, Redis, SeenNetworks},
};

/// How often uses are collected.
const EVERY: Duration = Duration::from_secs(2);

/// How often the keys are looked through, where no key ends before.
const SCAN_EVERY: u64 = 60;

/// The part of the time that looking through the keys may take: one of so many.
const SHARE_OF_TIME: u32 = 20;

/// The most keys whose uses wait for Redis, and whose last uses are known.
const MOST_KEYS: usize = 100_000;

/// The time in which a key counts as used.
const USED_WITHIN: u64 = 86_400;

/// The watch over the keys of the policy in force.
pub(super) struct KeyWatch {
    live: Arc<Live>,
    observer: Arc<Observer>,
    /// Where uses are kept; without it they are known to this process only.
    redis: Option<Arc<Redis>>,
    /// The uses that are not merged yet.
    waiting: BTreeMap<KeyId, KeyUpdate>,
    seen: SeenNetworks,
    /// The last uses that this process has seen, in seconds.
    last: HashMap<KeyId, u64>,
    /// The notices that were given, or that another replica has given.
    given: BTreeSet<Notice>,
    scanned: Option<Scanned>,
}

/// The data that were looked through last.
struct Scanned {
    policy: Weak<Policy>,
    tables: Vec<Option<Weak<KeyTable>>>,
    /// The moment, in seconds, at which the result is another one.
    until: u64,
    /// The moment before which the keys are not looked through again, whatever changes.
    rest_until: Instant,
}

impl KeyWatch {
    pub(super) fn new(live: Arc<Live>, observer: Arc<Observer>, redis: Option<Arc<Redis>>) -> Self {
        Self {
            live,
            observer,
            redis,
            waiting: BTreeMap::new(),
            seen: SeenNetworks::default(),
            last: HashMap::new(),
            given: BTreeSet::new(),
            scanned: None,
        }
    }

    /// Watches until the task ends.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.round(observe::now()).await;
        }
    }

    /// Collects what was noted since the last round, and looks through the keys where it is time.
    async fn round(&mut self, now: Timestamp) {
        let snapshot = self.live.load().snapshot.clone();
        self.collect();
        if snapshot.policy.api_keys.is_none() {
            self.waiting.clear();
            self.scanned = None;
            self.observer.metrics().set_api_keys(Vec::new());
            return;
        }
        self.merge_uses(&snapshot, now).await;
        if self.is_due(&snapshot, now) {
            self.scan(&snapshot, now).await;
        }
    }

    fn collect(&mut self) {
        let mut noted = self.observer.key_uses().collect();
        // In the order of the uses: the first network of a key is not new.
        noted.sort_unstable_by_key(|one| (one.at, one.id));
        for NotedUse { id, network, at } in noted {
            if self.last.len() < MOST_KEYS || self.last.contains_key(&id) {
                let last = self.last.entry(id).or_default();
                *last = at.secs().max(*last);
            }
            if self.waiting.len() >= MOST_KEYS && !self.waiting.contains_key(&id) {
                continue;
            }
            let update = self.waiting.entry(id).or_insert_with(|| empty(id));
            update.last = update.last.max(Some(at));
            if let Some(network) = network.filter(|network| !update.networks.contains(network))
                && update.networks.len() < MOST_NETWORKS
            {
                update.networks.push(network);
            }
        }
    }

    /// Merges the waiting uses, and reports the networks that are new. Those of a revoked key are
    /// dropped: what Redis had of it was removed with its record, and is not to be written again.
    async fn merge_uses(&mut self, snapshot: &Snapshot, now: Timestamp) {
        self.waiting.retain(|id, _| may_exist(snapshot, id));
        while !self.waiting.is_empty() {
            let batch: Vec<KeyUpdate> = self.waiting.values().take(MOST_UPDATES).cloned().collect();
            let new: Vec<(KeyId, Network)> = match &self.redis {
                // What is not merged stays, and is merged by a later round.
                Some(redis) => match redis.merge_key_uses(&batch).await {
                    Ok(found) => found
                        .iter()
                        .filter_map(|(index, network)| {
                            Some((batch.get(*index)?.id, Network::parse(network).ok()?))
                        })
                        .collect(),
                    Err(_outage) => return,
                },
                None => {
                    let new = batch.iter().flat_map(|update| {
                        let new = self.seen.merge(update, now);
                        new.into_iter().map(|network| (update.id, network))
                    });
                    new.collect()
                }
            };
            for update in &batch {
                self.waiting.remove(&update.id);
            }
            for (id, network) in new {
                let record = record(snapshot, &id);
                let end = record.map(|record| record.end(&lifetimes(&snapshot.policy)));
                self.observer.key_event(&KeyEvent {
                    kind: KeyEventKind::NewNetwork,
                    time: now,
                    id,
                    record: record.map(|record| &**record),
                    end,
                    network: Some(network),
                });
            }
        }
    }

    /// Whether the keys are others than those that were looked through last, or one has ended since.
    fn is_due(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        let Some(Scanned { policy, tables, until, rest_until }) = &self.scanned else {
            return true;
        };
        if Instant::now() < *rest_until {
            return false;
        }
        let is_same = |(table, scanned): (&Option<Arc<KeyTable>>, &Option<Weak<KeyTable>>)| match (
            table, scanned,
        ) {
            (Some(table), Some(scanned)) => std::ptr::eq(Arc::as_ptr(table), scanned.as_ptr()),
            (None, None) => true,
            _ => false,
        };
        now.secs() >= *until
            || !std::ptr::eq(Arc::as_ptr(&snapshot.policy), policy.as_ptr())
            || tables.len() != snapshot.api_keys.len()
            || !snapshot.api_keys.iter().zip(tables).all(is_same)
    }

    /// Counts the keys by state, and gives notice of those that expire.
    async fn scan(&mut self, snapshot: &Snapshot, now: Timestamp) {
        let began = Instant::now();
        let used_since = now.secs().saturating_sub(USED_WITHIN);
        self.last.retain(|_, last| *last > used_since);
        self.seen.retain(|id| record(snapshot, id).is_some());
        let given = std::mem::take(&mut self.given);
        let scanned = snapshot.clone();
        // In the background: many records must not delay checks.
        let scanning = background::run(move || Scan::of(&scanned, now, given));
        let Some(Scan { mut counts, notices, given, next }) = scanning.await else { return };
        self.given = given;
        for (count, table) in counts.iter_mut().zip(&snapshot.api_keys) {
            let in_table =
                |id: &&KeyId| table.as_ref().is_some_and(|table| table.get(id).is_some());
            count.used = self.last.keys().filter(in_table).count() as u64;
        }
        self.observer.metrics().set_api_keys(counts);
        let is_complete = self.notify(snapshot, &notices, now).await;
        let soon = now.secs() + if is_complete { SCAN_EVERY } else { EVERY.as_secs() };
        self.scanned = Some(Scanned {
            policy: Arc::downgrade(&snapshot.policy),
            tables: snapshot
                .api_keys
                .iter()
                .map(|table| table.as_ref().map(Arc::downgrade))
                .collect(),
            rest_until: Instant::now() + began.elapsed() * SHARE_OF_TIME,
            until: soon.min(next.map_or(u64::MAX, Timestamp::secs).max(now.secs() + 1)),
        });
    }

    /// Gives notices. Returns whether there may be no more of them.
    async fn notify(&mut self, snapshot: &Snapshot, notices: &[Notice], now: Timestamp) -> bool {
        let mut new: Vec<&Notice> = notices.iter().collect();
        if let (Some(redis), false) = (&self.redis, notices.is_empty()) {
            let updates = notices.iter().map(|notice| KeyUpdate {
                notices: vec![(notice.kind.label(), notice.end)],
                ..empty(notice.id)
            });
            let updates: Vec<KeyUpdate> = updates.collect();
            // Without an answer the notices are given by a later round.
            let Ok(found) = redis.merge_key_uses(&updates).await else { return true };
            new = found.iter().filter_map(|(index, _)| notices.get(*index)).collect();
        }
        for Notice { id, end, kind } in new {
            self.observer.key_event(&KeyEvent {
                kind: *kind,
                time: now,
                id: *id,
                record: record(snapshot, id).map(|record| &**record),
                end: Some(*end),
                network: None,
            });
        }
        self.given.extend(notices.iter().copied());
        notices.len() < MOST_UPDATES
    }
}

fn empty(id: KeyId) -> KeyUpdate {
    KeyUpdate { id, last: None, networks: Vec::new(), notices: Vec::new() }
}

/// Returns the record of an id that applies: that of the first source that has one.
fn record<'s>(snapshot: &'s Snapshot, id: &KeyId) -> Option<&'s Arc<KeyRecord>> {
    snapshot.api_keys.iter().flatten().find_map(|table| table.get(id))
}

/// Whether a source has the record of an id, or may have it: one that is not read is not known.
fn may_exist(snapshot: &Snapshot, id: &KeyId) -> bool {
    snapshot.api_keys.iter().any(|table| {
        table.as_ref().is_none_or(|table| table.get(id).is_some() || table.is_uncopied(id))
    })
}

fn lifetimes(policy: &Policy) -> KeyLifetimes {
    policy.api_keys.as_ref().map(|keys| keys.lifetimes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tollgate_core::{
        config::{Document, Errors},
        policy::PolicyConfig,
    };

    use super::*;

    #[test]
    fn the_uses_of_a_revoked_key_are_not_merged() {
        let id = |text: &str| text.parse::<KeyId>().unwrap();
        let text = "api_keys: { file: /keys.json, redis: true }\n\
                    routes: [{ match: { paths: [/health] }, public: true }]";
        let document = Document::parse(text, &|_| None).unwrap();
        let config: PolicyConfig = document.read().unwrap();
        let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
        let mut snapshot = Snapshot::without_keys(Arc::new(policy));
        let stored = r#"{"id":"7Jk2mN4pQ8rT","digest":"sha256:DIGEST","subject":"ci",
                         "created":"2026-11-29T00:00:00Z"}"#;
        let stored = stored.replace("DIGEST", &"a".repeat(64));
        let record = KeyRecord::from_stored(id("7Jk2mN4pQ8rT"), &stored).unwrap();
        let mut table = KeyTable::new();
        table.insert(record).unwrap();
        table.set_uncopied(id("8Jk2mN4pQ8rT"), []);
        snapshot.api_keys = vec![Some(Arc::new(KeyTable::new())), Some(Arc::new(table))];
        for (text, expected) in
            [("7Jk2mN4pQ8rT", true), ("8Jk2mN4pQ8rT", true), ("9Jk2mN4pQ8rT", false)]
        {
            assert_eq!(may_exist(&snapshot, &id(text)), expected, "{text}");
        }
        // A source that is not read yet may have any key.
        snapshot.api_keys = vec![Some(Arc::new(KeyTable::new())), None];
        assert!(may_exist(&snapshot, &id("9Jk2mN4pQ8rT")));
    }
}
