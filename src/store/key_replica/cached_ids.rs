//! The ids of records that were looked up, in the order in which their records are given up.
//!
//! Anyone can send a key with an id that exists, so most of the room is for ids of which a key was
//! verified: forged keys only replace the records of each other. Verified ones replace a record of
//! the tenant that has most of them, so that no tenant gives up its own for those of a larger one.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tollgate_core::identity::KeyId;

/// The part of the room for ids of which no key was verified.
const UNPROVEN: usize = 4;

/// A bounded set of ids. Each part gives up the id that it has had for longest, of one tenant where it
/// is that of ids with a verified key.
#[derive(Debug)]
pub(super) struct CachedIds {
    entries: HashMap<KeyId, Entry>,
    unproven: Part,
    proven: FairPart,
    last_serial: u64,
}

/// The place of an id.
#[derive(Clone, Copy, Debug)]
struct Entry {
    serial: u64,
    is_proven: bool,
}

/// A part of the room: ids with the serial number of their entry. Another number in the entry, or
/// none, means that the id was removed or moved to the other part.
#[derive(Debug)]
struct Part {
    ids: VecDeque<(KeyId, u64)>,
    most: usize,
}

/// A part of the room that is shared by tenants.
#[derive(Debug)]
struct FairPart {
    tenants: HashMap<u64, VecDeque<(KeyId, u64)>>,
    /// The tenants by the number of their ids.
    by_len: BTreeSet<(usize, u64)>,
    len: usize,
    most: usize,
}

impl CachedIds {
    /// An empty set of at most `most` ids.
    pub(super) fn new(most: usize) -> Self {
        let part = |most| Part { ids: VecDeque::new(), most };
        Self {
            entries: HashMap::new(),
            unproven: part(most / UNPROVEN),
            proven: FairPart::new(most - most / UNPROVEN),
            last_serial: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an id that is not in the set. Returns the id that is given up for it.
    pub(super) fn add(&mut self, id: KeyId) -> Option<KeyId> {
        self.last_serial += 1;
        self.entries.insert(id, Entry { serial: self.last_serial, is_proven: false });
        self.unproven.push(id, self.last_serial, &mut self.entries)
    }

    /// Moves an id to the part of those of which a key was verified, which is one of `tenant`. Returns
    /// the id that is given up for it: none where it is in that part, so that many checks of one key
    /// take one place.
    pub(super) fn prove(&mut self, id: KeyId, tenant: u64) -> Option<KeyId> {
        let entry = self.entries.get_mut(&id).filter(|entry| !entry.is_proven)?;
        self.last_serial += 1;
        *entry = Entry { serial: self.last_serial, is_proven: true };
        let (oldest, serial) = self.proven.push(tenant, id, self.last_serial)?;
        remove_current(&mut self.entries, oldest, serial)
    }

    pub(super) fn remove(&mut self, id: &KeyId) {
        self.entries.remove(id);
    }
}

impl Part {
    fn push(
        &mut self,
        id: KeyId,
        serial: u64,
        entries: &mut HashMap<KeyId, Entry>,
    ) -> Option<KeyId> {
        self.ids.push_back((id, serial));
        if self.ids.len() <= self.most {
            return None;
        }
        let (oldest, serial) = self.ids.pop_front()?;
        remove_current(entries, oldest, serial)
    }
}

/// Removes an id whose entry has this serial number. Returns whether there was one.
fn remove_current(entries: &mut HashMap<KeyId, Entry>, id: KeyId, serial: u64) -> Option<KeyId> {
    entries.get(&id).filter(|entry| entry.serial == serial)?;
    entries.remove(&id);
    Some(id)
}

impl FairPart {
    fn new(most: usize) -> Self {
        Self { tenants: HashMap::new(), by_len: BTreeSet::new(), len: 0, most }
    }

    /// Adds an id of a tenant. Returns the one that gives way to it.
    fn push(&mut self, tenant: u64, id: KeyId, serial: u64) -> Option<(KeyId, u64)> {
        self.change(tenant, |ids| ids.push_back((id, serial)));
        self.len += 1;
        if self.len <= self.most {
            return None;
        }
        self.len -= 1;
        let (_, largest) = self.by_len.last().copied()?;
        self.change(largest, VecDeque::pop_front)
    }

    fn change<T>(
        &mut self,
        tenant: u64,
        change: impl FnOnce(&mut VecDeque<(KeyId, u64)>) -> T,
    ) -> T {
        let ids = self.tenants.entry(tenant).or_default();
        self.by_len.remove(&(ids.len(), tenant));
        let result = change(ids);
        if ids.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.by_len.insert((ids.len(), tenant));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> KeyId {
        format!("key{number:09}").parse().unwrap()
    }

    #[test]
    fn ids_without_a_verified_key_give_up_each_other_and_no_others() {
        let mut ids = CachedIds::new(8);
        for number in 0..6 {
            assert_eq!(ids.add(id(number)), None, "{number}");
            assert_eq!(ids.prove(id(number), 1), None, "{number}");
        }
        assert_eq!([ids.add(id(10)), ids.add(id(11))], [None, None]);
        for number in 12..1000 {
            assert_eq!(ids.add(id(number)), Some(id(number - 2)));
        }
        assert_eq!(ids.len(), 8);
        // A seventh that is proven replaces the oldest of the proven, and not of the others.
        assert_eq!(ids.prove(id(999), 1), Some(id(0)));
        assert_eq!((ids.len(), ids.prove(id(0), 1)), (7, None));
    }

    #[test]
    fn an_id_that_is_proven_by_many_checks_takes_one_place() {
        let mut ids = CachedIds::new(8);
        for number in 0..6 {
            ids.add(id(number));
            for _ in 0..100 {
                assert_eq!(ids.prove(id(number), 1), None, "{number}");
            }
        }
        assert_eq!(ids.len(), 6);
    }

    #[test]
    fn a_removed_id_is_not_given_up_again() {
        let mut ids = CachedIds::new(8);
        ids.add(id(1));
        ids.remove(&id(1));
        assert_eq!((ids.add(id(1)), ids.add(id(2)), ids.len()), (None, None, 2));
        // The place of the removed one was the first to be used.
        assert_eq!(ids.add(id(3)), Some(id(1)));
        assert_eq!(ids.prove(id(9), 1), None);
    }

    #[test]
    fn a_tenant_with_many_keys_gives_up_its_own() {
        let mut ids = CachedIds::new(16);
        let prove = |ids: &mut CachedIds, number, tenant| {
            ids.add(id(number));
            ids.prove(id(number), tenant)
        };
        for number in 0..3 {
            assert_eq!(prove(&mut ids, number, 1), None);
        }
        for number in 100..109 {
            assert_eq!(prove(&mut ids, number, 2), None);
        }
        for number in 109..200 {
            assert_eq!(prove(&mut ids, number, 2), Some(id(number - 9)));
        }
        // A further tenant takes of the largest one, until they have as many.
        for (number, gone) in [(300, 191), (301, 192), (302, 193)] {
            assert_eq!(prove(&mut ids, number, 3), Some(id(gone)));
        }
        let has = |number| ids.entries.contains_key(&id(number));
        assert!((0..3).chain(300..303).all(has), "three each");
        assert_eq!((ids.len(), ids.proven.tenants.len()), (12, 3));
    }
}
