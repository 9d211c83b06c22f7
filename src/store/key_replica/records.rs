//! The records of a copy of the API keys: a table, and what was left out.

use std::collections::{BTreeSet, HashSet};

use tollgate_core::{
    credential::api_key::{KeyRecord, KeyTable},
    identity::KeyId,
};

/// The most records whose faults are logged.
const MOST_LOGGED: usize = 100;

/// The records of a copy.
#[derive(Debug)]
pub(super) struct Records {
    table: KeyTable,
    max: usize,
    /// The ids of records that cannot be read.
    broken: BTreeSet<Vec<u8>>,
    /// The ids of records beyond `max`.
    beyond: HashSet<KeyId>,
    /// Whether a record was removed since all were read, so that there is room for another.
    has_room: bool,
    /// The ids of records whose faults were logged.
    logged: HashSet<Vec<u8>>,
}

impl Records {
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: KeyTable::new(),
            max,
            broken: BTreeSet::new(),
            beyond: HashSet::new(),
            has_room: false,
            logged: HashSet::new(),
        }
    }

    /// Returns empty records with a new bound. What was logged is not logged again.
    pub(super) fn begin_again(&self, max: usize) -> Self {
        Self { logged: self.logged.clone(), ..Self::new(max) }
    }

    pub(super) const fn max(&self) -> usize {
        self.max
    }

    pub(super) const fn table(&self) -> &KeyTable {
        &self.table
    }

    pub(super) fn broken(&self) -> usize {
        self.broken.len()
    }

    pub(super) fn beyond(&self) -> usize {
        self.beyond.len()
    }

    /// Whether records were left out for which there is room now. A record that is broken or missing
    /// makes no room: to read all again would find the same.
    pub(super) fn has_room_for_more(&self) -> bool {
        self.has_room && !self.beyond.is_empty()
    }

    /// Selects the ids whose records are copied, from all ids with the moments of their creation:
    /// the oldest, so that a key that works does not stop because of another one.
    pub(super) fn select(&mut self, mut ids: Vec<(u64, Vec<u8>)>) -> Vec<Vec<u8>> {
        ids.sort_unstable();
        ids.dedup();
        let mut selected = Vec::with_capacity(ids.len().min(self.max));
        for (_, id) in ids {
            if selected.len() < self.max {
                selected.push(id);
            } else if let Some(id) = parse(&id) {
                self.beyond.insert(id);
            }
        }
        if !self.beyond.is_empty() {
            tracing::error!(
                "store.redis: there are {} API keys more than `api_keys.replicate.max` ({}), and \
                 the newest are refused; raise it, or revoke keys",
                self.beyond.len(),
                self.max
            );
        }
        selected
    }

    /// Sets the record of an id to the text that Redis has; `None` where it has none.
    pub(super) fn set(&mut self, id: &[u8], text: Option<&str>) {
        let Some(key) = parse(id) else {
            if text.is_some() {
                self.leave_out(id, &"its id is not that of a key");
            }
            return;
        };
        let Some(text) = text else {
            self.has_room |= self.table.remove(&key).is_some();
            self.beyond.remove(&key);
            self.broken.remove(id);
            return;
        };
        let record = match KeyRecord::from_stored(key, text) {
            Ok(record) => record,
            Err(error) => {
                self.table.remove(&key);
                return self.leave_out(id, &error);
            }
        };
        if self.table.get(&key).is_none() && self.table.len() >= self.max {
            self.beyond.insert(key);
            return;
        }
        if let Err(error) = self.table.insert(record) {
            self.table.remove(&key);
            return self.leave_out(id, &error);
        }
        self.beyond.remove(&key);
        self.broken.remove(id);
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

fn parse(id: &[u8]) -> Option<KeyId> {
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

    fn counts(records: &Records) -> (usize, usize, usize) {
        (records.table().len(), records.broken(), records.beyond())
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
        assert_eq!(counts(&records), (2, 5, 0));
        // A record that breaks is not used any more, and is used again when it is right.
        records.set(&id(1), Some("{"));
        assert_eq!(counts(&records), (1, 6, 0));
        records.set(&id(1), Some(&text(1)));
        records.set(&id(2), None);
        assert_eq!(counts(&records), (2, 4, 0));
        records.set(&id(1), None);
        assert_eq!(counts(&records), (1, 4, 0));
    }

    #[test]
    fn a_digest_of_two_foreign_keys_is_used_by_the_first() {
        let weak = |number| text(number).replace("\"subject\"", "\"weak\":true,\"subject\"");
        let mut records = Records::new(10);
        records.set(&id(1), Some(&weak(1)));
        let second = weak(2).replace(&format!("{:064x}", 2), &format!("{:064x}", 1));
        records.set(&id(2), Some(&second));
        assert_eq!(counts(&records), (1, 1, 0));
    }

    #[test]
    fn a_broken_record_and_a_missing_one_make_no_room() {
        let mut records = Records::new(3);
        let ids = (0..5).map(|number| (1, id(number))).collect();
        for (number, id) in records.select(ids).iter().enumerate() {
            let texts = [Some("{".to_owned()), None, Some(text(2))];
            records.set(id, texts[number].as_deref());
        }
        assert_eq!(counts(&records), (1, 1, 2));
        assert!(!records.has_room_for_more());
        records.set(&id(2), Some("{"));
        assert!(!records.has_room_for_more());
        records.set(&id(2), Some(&text(2)));
        records.set(&id(2), None);
        assert!(records.has_room_for_more());
        assert!(!records.begin_again(3).has_room_for_more());
    }

    #[test]
    fn the_oldest_are_copied_and_others_when_there_is_room() {
        let mut records = Records::new(2);
        let ids =
            vec![(NEWEST, id(1)), (1, id(2)), (5, id(3)), (1, id(2)), (NEWEST, b"no".to_vec())];
        let selected = records.select(ids);
        assert_eq!(selected, [id(2), id(3)]);
        for (number, id) in [(2, id(2)), (3, id(3))] {
            records.set(&id, Some(&text(number)));
        }
        assert_eq!(counts(&records), (2, 0, 1));
        // A new key finds no room, and a change of a known one needs none.
        records.set(&id(4), Some(&text(4)));
        records.set(&id(3), Some(&text(3)));
        assert_eq!(counts(&records), (2, 0, 2));
        assert!(!records.has_room_for_more());
        records.set(&id(4), None);
        records.set(&id(2), None);
        assert_eq!(counts(&records), (1, 0, 1));
        assert!(records.has_room_for_more());
    }
}
