//! Hash tables for the keys of objects with many of them, one for each such object that is open.
//!
//! A table is kept when its object is closed, and used again: a slot of an earlier object has an
//! earlier round, and counts as empty (`cargo bench --bench body`, "nine keys each").

use std::hash::{BuildHasher as _, RandomState};

use foldhash::fast::FixedState;

use super::super::{
    json_error::KEYS,
    print::{Print, TextPlace},
    steps,
};

/// The slots of a table. At most half of them are used.
const SLOTS: usize = 512;
const _: () = assert!(KEYS * 2 <= SLOTS && SLOTS.is_power_of_two());

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The round in which it was used.
    round: u32,
    /// The index of its key among those of the object.
    index: u32,
}

#[derive(Debug)]
struct Table {
    slots: Box<[Slot; SLOTS]>,
    round: u32,
}

/// The tables of the open objects, the innermost last, and those that are free after them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    list: Vec<Table>,
    open: usize,
    hash: Option<FixedState>,
}

impl Tables {
    /// Opens an empty table.
    pub(super) fn open(&mut self) {
        match self.list.get_mut(self.open) {
            Some(table) => {
                table.round = table.round.wrapping_add(1);
                if table.round == 0 {
                    table.slots.fill(Slot::default());
                    table.round = 1;
                }
            }
            None => self.list.push(Table { slots: Box::new([Slot::default(); SLOTS]), round: 1 }),
        }
        self.open += 1;
    }

    /// Closes the innermost table.
    pub(super) fn close(&mut self) {
        self.open -= 1;
    }

    /// The hash of a key, with a seed that differs for each body.
    #[inline]
    pub(super) fn hash<'k>(&mut self, key: Print, text: impl FnOnce(TextPlace) -> &'k str) -> u64 {
        let hash = self
            .hash
            .get_or_insert_with(|| FixedState::with_seed(RandomState::new().hash_one(SLOTS)));
        if key.is_short() {
            return hash.hash_one(key.words());
        }
        let text = text(key.place());
        steps::count(text.len() / 16);
        hash.hash_one(text.as_bytes())
    }

    /// Adds the key of an index to the innermost table. Returns false if `is_same` for one that the
    /// table has.
    #[inline]
    pub(super) fn insert(
        &mut self,
        hash: u64,
        index: usize,
        mut is_same: impl FnMut(usize) -> bool,
    ) -> bool {
        let Some(table) = self.open.checked_sub(1).and_then(|last| self.list.get_mut(last)) else {
            return true;
        };
        #[expect(clippy::cast_possible_truncation, reason = "a part of the hash suffices")]
        let mut at = hash as usize % SLOTS;
        while let Some(slot) = table.slots.get_mut(at) {
            if slot.round != table.round {
                *slot =
                    Slot { round: table.round, index: u32::try_from(index).unwrap_or(u32::MAX) };
                return true;
            }
            if is_same(slot.index as usize) {
                return false;
            }
            steps::count(1);
            at = (at + 1) % SLOTS;
        }
        true
    }
}
