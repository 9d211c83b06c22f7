//! The records of a copy of the API keys: a table, and what was left out.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use tollgate_core::{
    credential::api_key::{KeyDigest, KeyRecord, KeyTable},
    identity::KeyId,
};

use super::cached_ids::CachedIds;

/// The most records whose faults are logged.
const MOST_LOGGED: usize = 100;

/// The records that were looked up for which there is room under every bound.
const LEAST_CACHED: usize = 4096;

/// The most ids of the list that are no ids of keys, of which the texts are read.
const MOST_INVALID: usize = 1000;

/// The records of a copy.
#[derive(Debug)]
pub(super) struct Records {
    /// The records that are copied, those that were looked up, and the ids of all others.
    table: KeyTable,
    /// The most records that are copied.
    max: usize,
    /// The ids of the records that were looked up.
    cached: CachedIds,
    /// Hashes the tenants of those.
    tenants: RandomState,
    /// The ids of records that cannot be read.
    broken: BTreeSet<Vec<u8>>,
    /// The ids of records whose faults were logged.
    logged: HashSet<Vec<u8>>,
}

/// The ids of all records in Redis.
#[derive(Debug, Default)]
pub(super) struct Listing {
    ids: Vec<(u64, KeyId)>,
    invalid: Vec<Vec<u8>>,
}

impl Listing {
    /// Adds an id that was created at a moment.
    pub(super) fn add(&mut self, created: u64, id: Vec<u8>) {
        match parse(&id) {
            Some(id) => self.ids.push((created, id)),
            None if self.invalid.len() < MOST_INVALID => self.invalid.push(id),
            None => {}
        }
    }
}

impl Records {
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: KeyTable::new(),
            max,
            cached: CachedIds::new(cache_size(max)),
            tenants: RandomState::new(),
            broken: BTreeSet::new(),
            logged: HashSet::new(),
        }
    }

    /// Returns empty records with a new bound. What was logged is not logged again.
    pub(super) fn begin_again(&self, max: usize) -> Self {
        Self { logged: self.logged.clone(), ..Self::new(max) }
    }

    pub(super) const fn table(&self) -> &KeyTable {
        &self.table
    }

    pub(super) fn broken(&self) -> usize {
        self.broken.len()
    }

    /// The number of records that were looked up.
    pub(super) fn cached(&self) -> usize {
        self.cached.len()
    }

    /// The number of records that are copied.
    pub(super) fn copied(&self) -> usize {
        self.table.len().saturating_sub(self.cached.len())
    }

    /// Selects the ids whose records are copied: the oldest, so that the same are copied after a
    /// restart. Of the others the ids are kept.
    pub(super) fn select(&mut self, listing: Listing) -> Vec<Vec<u8>> {
        let Listing { mut ids, invalid: mut selected } = listing;
        ids.sort_unstable();
        ids.dedup();
        let (copied, others) = ids.split_at(ids.len().min(self.max));
        for (_, id) in others {
            self.table.set_uncopied(*id, []);
        }
        if !others.is_empty() {
            tracing::info!(
                "store.redis: of {} API keys the {} oldest are copied \
                 (`api_keys.replicate.max`), and the records of the others are looked up when \
                 their keys are used",
                ids.len(),
                copied.len()
            );
        }
        selected.extend(copied.iter().map(|(_, id)| id.digits().to_vec()));
        selected
    }

    /// Adds a digest of a foreign format to an id that is not copied.
    pub(super) fn add_digest(&mut self, digest: &KeyDigest, id: KeyId) {
        self.table.add_uncopied_digest(id, digest);
    }

    /// Returns ids that are not copied, for which there is room.
    pub(super) fn that_have_room(&self, most: usize) -> Vec<KeyId> {
        let room = self.max.saturating_sub(self.copied());
        self.table.uncopied_ids().take(room.min(most)).copied().collect()
    }

    /// Sets the record of an id to the text that Redis has; `None` where it has none. The record is
    /// copied, if there is room.
    pub(super) fn set(&mut self, id: &[u8], text: Option<&str>) {
        let Some(record) = self.read(id, text) else { return };
        if self.table.get(&record.id).is_some() || self.copied() < self.max {
            self.insert(record);
        } else {
            self.set_uncopied(&record);
        }
    }

    /// Sets the record of an id that was looked up. Returns whether it is in the table.
    pub(super) fn set_looked_up(&mut self, id: KeyId, text: Option<&str>) -> bool {
        let Some(record) = self.read(id.digits(), text) else { return false };
        let is_new = self.table.get(&id).is_none();
        let has_room = self.copied() < self.max;
        if self.insert(record) && is_new && !has_room {
            let evicted = self.cached.add(id);
            self.evict(evicted);
        }
        self.table.get(&id).is_some()
    }

    /// Records that a key of a record that was looked up was verified.
    pub(super) fn prove(&mut self, id: KeyId) {
        let Some(record) = self.table.get(&id) else { return };
        let tenant = self.tenants.hash_one(record.tenant.as_deref());
        let evicted = self.cached.prove(id, tenant);
        self.evict(evicted);
    }

    fn evict(&mut self, id: Option<KeyId>) {
        if let Some(record) = id.and_then(|id| self.table.get(&id).cloned()) {
            self.set_uncopied(&record);
        }
    }

    fn set_uncopied(&mut self, record: &KeyRecord) {
        let weak = record.secrets().filter(|(secret, _)| secret.weak);
        self.table.set_uncopied(record.id, weak.map(|(secret, _)| &secret.digest));
        self.broken.remove(record.id.digits().as_slice());
    }

    /// Reads the text of a record. Without a record that can be read, the key is refused.
    fn read(&mut self, id: &[u8], text: Option<&str>) -> Option<KeyRecord> {
        let Some(key) = parse(id) else {
            if text.is_some() {
                self.leave_out(id, &"its id is not that of a key");
            }
            return None;
        };
        let Some(text) = text else {
            self.remove(&key);
            self.broken.remove(id);
            return None;
        };
        match KeyRecord::from_stored(key, text) {
            Ok(record) => Some(record),
            Err(error) => {
                self.remove(&key);
                self.leave_out(id, &error);
                None
            }
        }
    }

    fn insert(&mut self, record: KeyRecord) -> bool {
        let id = record.id;
        if let Err(error) = self.table.insert(record) {
            self.remove(&id);
            self.leave_out(id.digits(), &error);
            return false;
        }
        self.broken.remove(id.digits().as_slice());
        true
    }

    fn remove(&mut self, id: &KeyId) {
        self.table.remove(id);
        self.cached.remove(id);
    }

    /// Leaves out a record, and logs why: once for each.
    fn leave_out(&mut self, id: &[u8], error: &dyn std::fmt::Display) {
        self.broken.insert(id.to_vec());
        if self.logged.len() < MOST_LOGGED && self.logged.insert(id.to_vec()) {
            let id = String::from_utf8_lossy(id.get(..64).unwrap_or(id)).into_owned();
            let error = error.to_string();
            tracing::error!(
                id,
                error,
                "store.redis: the record of an API key is left out, and the key is refused"
            );
        }
    }
}

/// The most records that were looked up, beside those that are copied. A quarter of them may be of
/// keys that were not verified: several batches of lookups, so that none of a batch is given up
/// before the checks that wait for it are prepared again.
const fn cache_size(max: usize) -> usize {
    if max / 4 > LEAST_CACHED { max / 4 } else { LEAST_CACHED }
}

/// Returns the id of a key, where a text is one.
pub(super) fn parse(id: &[u8]) -> Option<KeyId> {
    KeyId::new(id.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: u64 = 9;

    fn id(number: usize) -> Vec<u8> {
        format!("key{number:09}").into_bytes()
    }

    fn text(number: usize) -> String {
        let digest = format!("{number:064x}");
        format!(
            r#"{{"id":"key{number:09}","digest":"sha256:{digest}","subject":"ci","created":"2026-11-29T00:00:00Z","expires":"2027-02-27T00:00:00Z"}}"#
        )
    }

    /// The records that are copied, those that were looked up, the others, and the broken ones.
    fn counts(records: &Records) -> [usize; 4] {
        [records.copied(), records.cached(), records.table().uncopied(), records.broken()]
    }

    fn listing(ids: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Listing {
        let mut listing = Listing::default();
        ids.into_iter().for_each(|(created, id)| listing.add(created, id));
        listing
    }

    #[test]
    fn a_broken_record_is_left_out_and_stops_no_other() {
        let mut records = Records::new(10);
        records.set(&id(1), Some(&text(1)));
        for (number, broken) in [(2, "{"), (3, ""), (4, &*text(5)), (6, "\u{fffd}")] {
            records.set(&id(number), Some(broken));
        }
        records.set(b"no id", Some(&text(7)));
        records.set(&id(8), Some(&text(8)));
        assert_eq!(counts(&records), [2, 0, 0, 5]);
        // A record that breaks is not used any more, and is used again when it is right.
        records.set(&id(1), Some("{"));
        assert_eq!(counts(&records), [1, 0, 0, 6]);
        records.set(&id(1), Some(&text(1)));
        records.set(&id(2), None);
        assert_eq!(counts(&records), [2, 0, 0, 4]);
        records.set(&id(1), None);
        assert_eq!(counts(&records), [1, 0, 0, 4]);
    }

    #[test]
    fn a_digest_of_two_foreign_keys_is_used_by_the_first() {
        let weak = |number| text(number).replace("\"subject\"", "\"weak\":true,\"subject\"");
        let mut records = Records::new(10);
        records.set(&id(1), Some(&weak(1)));
        let second = weak(2).replace(&format!("{:064x}", 2), &format!("{:064x}", 1));
        records.set(&id(2), Some(&second));
        assert_eq!(counts(&records), [1, 0, 0, 1]);
    }

    #[test]
    fn the_oldest_are_copied_and_of_the_others_the_ids() {
        let mut records = Records::new(2);
        let ids =
            vec![(NEWEST, id(1)), (1, id(2)), (5, id(3)), (1, id(2)), (NEWEST, b"no".to_vec())];
        let selected = records.select(listing(ids));
        assert_eq!(selected, [b"no".to_vec(), id(2), id(3)]);
        for (number, id) in [(2, id(2)), (3, id(3))] {
            records.set(&id, Some(&text(number)));
        }
        assert_eq!(counts(&records), [2, 0, 1, 0]);
        // A new key finds no room, and a change of a known one needs none.
        records.set(&id(4), Some(&text(4)));
        records.set(&id(3), Some(&text(3)));
        assert_eq!(counts(&records), [2, 0, 2, 0]);
        assert!(records.that_have_room(9).is_empty());
        records.set(&id(4), None);
        records.set(&id(2), None);
        assert_eq!(counts(&records), [1, 0, 1, 0]);
        assert_eq!(records.that_have_room(9), [parse(&id(1)).unwrap()]);
        // One that cannot be read makes room for no other.
        records.set(&id(1), Some("{"));
        assert_eq!((counts(&records), records.that_have_room(9)), ([1, 0, 0, 1], Vec::new()));
    }

    #[test]
    fn a_record_that_is_looked_up_replaces_one_that_was_looked_up_before() {
        let key = |number| parse(&id(number)).unwrap();
        let mut records = Records::new(1);
        let selected = records.select(listing((0..3000).map(|number| (number as u64, id(number)))));
        assert_eq!(selected, [id(0)]);
        records.set(&id(0), Some(&text(0)));
        assert_eq!(counts(&records), [1, 0, 2999, 0]);
        assert!(records.set_looked_up(key(1), Some(&text(1))));
        records.prove(key(1));
        for number in 2..3000 {
            assert!(records.set_looked_up(key(number), Some(&text(number))), "{number}");
        }
        assert_eq!(counts(&records), [1, 1025, 1974, 0]);
        // Neither a copied record nor one of a verified key was given up for them.
        for (number, is_known) in [(0, true), (1, true), (2, false), (2999, true)] {
            assert_eq!(records.table().get(&key(number)).is_some(), is_known, "{number}");
            assert_eq!(records.table().is_uncopied(&key(number)), !is_known, "{number}");
        }
        // What Redis does not have, or cannot be read, is not looked up again.
        assert!(!records.set_looked_up(key(2), None));
        assert!(!records.set_looked_up(key(3), Some("{")));
        assert_eq!(counts(&records), [1, 1025, 1972, 1]);
        // A change or a revocation of a record that was looked up.
        records.set(&id(1), Some(&text(1).replace("\"ci\"", "\"cd\"")));
        assert_eq!(&*records.table().get(&key(1)).unwrap().subject, "cd");
        records.set(&id(1), None);
        assert_eq!(counts(&records), [1, 1024, 1972, 1]);
    }

    #[test]
    fn a_foreign_key_is_found_by_its_digest_whether_it_is_copied_or_not() {
        let weak = |number| text(number).replace("\"subject\"", "\"weak\":true,\"subject\"");
        let mut records = Records::new(1);
        let selected = records.select(listing([(1, id(1)), (2, id(2))]));
        records.set(&selected[0], Some(&weak(1)));
        for number in [1, 2] {
            let digest = format!("sha256:{number:064x}").parse().unwrap();
            records.add_digest(&digest, parse(&id(number)).unwrap());
        }
        assert_eq!(counts(&records), [1, 0, 1, 0]);
        let key = parse(&id(2)).unwrap();
        assert!(records.set_looked_up(key, Some(&weak(2))));
        // A record with the digest of another one is refused, as in the copy.
        let same = weak(2).replace(&format!("{:064x}", 2), &format!("{:064x}", 1));
        records.set(&id(2), None);
        records.set(&id(2), Some(&same));
        assert!(!records.set_looked_up(key, Some(&same)));
        assert_eq!(counts(&records), [1, 0, 0, 1]);
    }
}
