//! The table of keys: records by id, and by digest for keys of foreign formats.
//!
//! # For those who fill it
//! A table is a value. A clone takes a few pointers and shares all records, and a change of a clone
//! copies a few kilobytes, also in a table of a million records. So a source keeps the table in
//! force, and for each change, or each batch of changes, clones it, calls [`KeyTable::insert`] and
//! [`KeyTable::remove`], and puts the clone in force with the snapshot
//! ([`Snapshot::api_keys`](crate::snapshot::Snapshot::api_keys)). Checks read the one before
//! meanwhile, and never wait. A full replacement is a new table.
//!
//! Results of verifications may be cached ([`KeyTable::is_current`]): a record that was changed or
//! removed ends them at once, and the other records of the table keep theirs.
//!
//! A source with more records than it copies adds the ids of the others
//! ([`KeyTable::set_uncopied`]): a key with such an id is rejected with the id of the record that is
//! missing ([`Rejection::record`](crate::credential::Rejection::record)), and every other key that
//! the table does not know is unknown.

use std::sync::Arc;

use foldhash::fast::FixedState;
use thiserror::Error;

use super::{
    digest::KeyDigest,
    record::KeyRecord,
    shared_map::{SharedMap, Spread},
    uncopied::UncopiedKeys,
};
use crate::identity::{Generation, KeyId};

/// Records of keys.
#[derive(Clone, Debug)]
pub struct KeyTable {
    by_id: SharedMap<KeyId, Entry>,
    /// The ids of keys of foreign formats.
    by_digest: SharedMap<DigestBytes, KeyId>,
    /// The ids of the records that the source has and the table does not. No id is in both.
    uncopied: UncopiedKeys,
    /// Shared by the table and its clones, so that serial numbers of two tables never mix.
    generation: Generation,
    last_serial: u64,
}

/// A record in its table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) serial: u64,
    pub(super) record: Arc<KeyRecord>,
}

/// A digest as the key of a map. Order reveals nothing: a client chooses no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DigestBytes([u8; 32]);

impl Spread for KeyId {
    fn spread(&self) -> u64 {
        use std::hash::BuildHasher as _;
        FixedState::default().hash_one(self.digits())
    }
}

impl Spread for DigestBytes {
    fn spread(&self) -> u64 {
        let [.., a, b] = self.0;
        u64::from(u16::from_le_bytes([a, b]))
    }
}

/// A record that does not fit into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyTableError {
    /// Two keys of foreign formats have one digest, so that it is not known which one is meant.
    #[error("the keys `{0}` and `{1}` have the same digest")]
    SameDigest(KeyId, KeyId),
}

impl Default for KeyTable {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyTable {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self {
            by_id: SharedMap::new(),
            by_digest: SharedMap::new(),
            uncopied: UncopiedKeys::new(),
            generation: Generation::new(),
            last_serial: 0,
        }
    }

    /// Sets the record of an id, and returns the one before.
    ///
    /// # Errors
    /// A record with the digest of another one. The table is unchanged then.
    pub fn insert(
        &mut self,
        record: impl Into<Arc<KeyRecord>>,
    ) -> Result<Option<Arc<KeyRecord>>, KeyTableError> {
        let record = record.into();
        for digest in foreign_digests(&record) {
            let other = self.by_digest.get(&DigestBytes(*digest.bytes()));
            if let Some(other) = other.filter(|other| **other != record.id) {
                return Err(KeyTableError::SameDigest(*other, record.id));
            }
        }
        let before = self.remove(&record.id);
        for digest in foreign_digests(&record) {
            self.by_digest.insert(DigestBytes(*digest.bytes()), record.id);
        }
        self.last_serial += 1;
        self.by_id.insert(record.id, Entry { serial: self.last_serial, record });
        Ok(before)
    }

    /// Removes an id, and returns its record.
    pub fn remove(&mut self, id: &KeyId) -> Option<Arc<KeyRecord>> {
        self.uncopied.remove(id);
        let Entry { record, .. } = self.by_id.remove(id)?;
        for digest in foreign_digests(&record) {
            self.by_digest.remove(&DigestBytes(*digest.bytes()));
        }
        Some(record)
    }

    /// Makes an id one of which the source has the record and the table has not: `foreign` are its
    /// digests, under which a key of a foreign format is found.
    pub fn set_uncopied<'d>(
        &mut self,
        id: KeyId,
        foreign: impl IntoIterator<Item = &'d KeyDigest>,
    ) {
        self.remove(&id);
        self.uncopied.add(id);
        for digest in foreign {
            self.uncopied.add_digest(id, digest);
        }
    }

    /// Adds a digest of an id that is not copied; of other ids nothing.
    pub fn add_uncopied_digest(&mut self, id: KeyId, digest: &KeyDigest) {
        if self.uncopied.contains(&id) {
            self.uncopied.add_digest(id, digest);
        }
    }

    /// Returns the number of ids that are not copied.
    pub const fn uncopied(&self) -> usize {
        self.uncopied.len()
    }

    /// Whether the source has the record of an id, and the table has not.
    pub fn is_uncopied(&self, id: &KeyId) -> bool {
        self.uncopied.contains(id)
    }

    /// Returns the ids that are not copied, in no order that is stated.
    pub fn uncopied_ids(&self) -> impl Iterator<Item = &KeyId> {
        self.uncopied.ids()
    }

    /// Returns the record of an id.
    pub fn get(&self, id: &KeyId) -> Option<&Arc<KeyRecord>> {
        self.entry(id).map(|entry| &entry.record)
    }

    /// Returns the number of records.
    pub const fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether the table has no record.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all records, in no order that is stated.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<KeyRecord>> {
        self.by_id.iter().map(|(_, entry)| &entry.record)
    }

    /// Whether the record of an id is the one with this serial number, in this table or the one
    /// that it was cloned from.
    pub fn is_current(&self, id: &KeyId, serial: u64, generation: &Generation) -> bool {
        self.generation == *generation && self.entry(id).is_some_and(|entry| entry.serial == serial)
    }

    /// Returns the marker of the table and of its clones.
    pub(super) const fn generation(&self) -> &Generation {
        &self.generation
    }

    pub(super) fn entry(&self, id: &KeyId) -> Option<&Entry> {
        self.by_id.get(id)
    }

    /// Returns the entry of a key of a foreign format.
    pub(super) fn foreign_entry(&self, digest: &KeyDigest) -> Option<&Entry> {
        self.entry(self.by_digest.get(&DigestBytes(*digest.bytes()))?)
    }

    /// Returns the id of the record that is not copied, of a key with this id or this digest.
    pub(super) fn uncopied_id(&self, id: Option<KeyId>, digest: &KeyDigest) -> Option<KeyId> {
        let id = id.or_else(|| self.uncopied.id_of(digest));
        id.filter(|id| self.uncopied.contains(id))
    }
}

/// Returns the digests of a record under which it is found.
fn foreign_digests(record: &KeyRecord) -> impl Iterator<Item = &KeyDigest> {
    let weak = record.secrets().filter(|(secret, _)| secret.weak);
    weak.map(|(secret, _)| &secret.digest)
}
