//! How often something happens by key, in a fixed amount of memory.
//!
//! A table of sets of entries, of which the hash of a key selects one. A key without an entry
//! takes the place of one whose time is over, or weakens an entry with the lowest count and takes
//! its place once that has none left, as HeavyKeeper does (Yang et al., "HeavyKeeper: An Accurate
//! Algorithm for Finding Top-k Elephant Flows", 2018). The higher the count of an entry, the less likely
//! it is weakened: any number of rare keys replace one another, and not a frequent one. An entry
//! never counts the events of another key: its count may be too low, and is never too high.

use std::{
    cmp::Reverse,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::seq::IteratorRandom as _;

/// The entries of a set.
const WAYS: usize = 8;

/// A key of 128 bits, in two halves: a `u128` would be aligned to 16 bytes.
pub(super) type EventKey = [u64; 2];

/// The events of one key in the present time. A place that is free has a count of 0.
#[derive(Debug, Default)]
struct Entry<N> {
    key: EventKey,
    /// The time of the first event, in milliseconds since a fixed moment.
    began: u64,
    /// The events since then.
    count: u32,
    /// The events of the window before.
    before: u32,
    note: N,
}

/// An entry in which an event was counted.
pub(super) struct Counted<'e, N> {
    /// The time since the first event that is counted here.
    pub(super) within: Duration,
    /// Whether the entry counts from now on: the key is a new one, or the time of the earlier events
    /// is over.
    pub(super) begins: bool,
    /// What the entry has beside its count. Of a new key the default.
    pub(super) note: &'e mut N,
}

/// The events of a key, as a list shows them.
pub(super) struct Frequent<'e, N> {
    pub(super) key: EventKey,
    /// The events within the latest window, of those before the present one a proportional part.
    pub(super) count: u32,
    pub(super) note: &'e N,
}

type Set<N> = [Entry<N>; WAYS];

/// The counts of all keys.
#[derive(Debug)]
pub(super) struct FrequencyTable<N> {
    sets: Box<[Mutex<Set<N>>]>,
    /// A random seed, so that no client chooses the set of its key.
    hasher: RandomState,
    /// The time in which events are counted, in milliseconds.
    window: u64,
}

impl<N: Default> FrequencyTable<N> {
    /// Creates an empty table of `sets` sets of eight entries, which counts the events of a `window`.
    pub(super) fn new(sets: usize, window: Duration) -> Self {
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            window: millis(window).max(1),
        }
    }

    /// Counts an event of a key at `now` since a fixed moment, and calls `with` with its entry;
    /// `None` where the key gets none.
    pub(super) fn count<R>(
        &self,
        key: EventKey,
        now: Duration,
        with: impl FnOnce(Counted<'_, N>) -> R,
    ) -> Option<R> {
        let now = millis(now);
        let mut set = self.set(key)?;
        let known = set.iter().position(|entry| entry.count > 0 && entry.key == key);
        let entry = match known {
            Some(place) => set.get_mut(place)?,
            None => self.place_for(&mut set, now)?,
        };
        let is_new = known.is_none();
        let begins = is_new || !self.is_current(entry, now);
        if is_new {
            *entry = Entry { key, began: now, ..Entry::default() };
        } else if begins {
            let is_next = now.saturating_sub(entry.began) < 2 * self.window;
            entry.before = if is_next { entry.count } else { 0 };
            (entry.began, entry.count) = (now, 0);
        }
        entry.count = entry.count.saturating_add(1);
        let within = Duration::from_millis(now.saturating_sub(entry.began));
        Some(with(Counted { within, begins, note: &mut entry.note }))
    }

    /// Returns the place for a key without an entry: one that is free, or that of one of the weakest
    /// entries, once it has no event left. `None` where the entry keeps it.
    ///
    /// Any of the weakest may be chosen, and most attempts fail: a key with another event soon has then
    /// kept its place, however many others had one in between.
    fn place_for<'s>(&self, set: &'s mut Set<N>, now: u64) -> Option<&'s mut Entry<N>> {
        let weight = |entry: &Entry<N>| if self.is_current(entry, now) { entry.count } else { 0 };
        let count = set.iter().map(weight).min()?;
        let mut weakest = set.iter_mut().filter(|entry| weight(entry) == count);
        if count == 0 {
            return weakest.next();
        }
        let entry = weakest.choose(&mut rand::rng())?;
        // One attempt in four, and one in eight for each eight events: an entry of 80 is weakened by
        // one key in four thousand.
        let chance = u32::MAX.checked_shr(2 + count / 8).unwrap_or(0);
        if rand::random::<u32>() > chance {
            return None;
        }
        if count > 1 {
            entry.count -= 1;
            return None;
        }
        Some(entry)
    }

    fn is_current(&self, entry: &Entry<N>, now: u64) -> bool {
        now.saturating_sub(entry.began) < self.window
    }

    /// The events of an entry within the latest window: a sliding window, of which the part before the
    /// present one is taken to be even.
    fn latest(&self, entry: &Entry<N>, now: u64) -> u32 {
        let elapsed = now.saturating_sub(entry.began);
        let of = |count: u32, left: u64| {
            u32::try_from(u64::from(count) * left / self.window).unwrap_or(u32::MAX)
        };
        match self.window.checked_sub(elapsed) {
            Some(left) if left > 0 => entry.count.saturating_add(of(entry.before, left)),
            _ => of(entry.count, (2 * self.window).saturating_sub(elapsed)),
        }
    }

    /// The number of keys with events in the latest window, and the most events of one.
    pub(super) fn busiest(&self, now: Duration) -> (u64, u64) {
        let now = millis(now);
        self.sets.iter().fold((0, 0), |found, set| {
            let set = lock(set);
            let counts = set.iter().map(|entry| self.latest(entry, now)).filter(|count| *count > 0);
            counts.fold(found, |(keys, most), count| (keys + 1, most.max(u64::from(count))))
        })
    }

    /// Returns what `read` makes of the keys that `read` wants, those with the most events first, `most` at most.
    pub(super) fn top<R>(
        &self,
        most: usize,
        now: Duration,
        read: impl Fn(Frequent<'_, N>) -> Option<R>,
    ) -> Vec<R> {
        let now = millis(now);
        let mut found: Vec<(u32, R)> = Vec::new();
        for set in &self.sets {
            // A set at a time, so that no check waits for the whole list.
            let set = lock(set);
            found.extend(set.iter().filter_map(|entry| {
                let count = self.latest(entry, now);
                let frequent = Frequent { key: entry.key, count, note: &entry.note };
                if count > 0 { Some((count, read(frequent)?)) } else { None }
            }));
        }
        found.sort_by_key(|(count, _)| Reverse(*count));
        found.truncate(most);
        found.into_iter().map(|(_, one)| one).collect()
    }

    fn set(&self, key: EventKey) -> Option<MutexGuard<'_, Set<N>>> {
        let place = self.hasher.hash_one(key).checked_rem(self.sets.len() as u64)?;
        self.sets.get(usize::try_from(place).ok()?).map(lock)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<N>(set: &Mutex<Set<N>>) -> MutexGuard<'_, Set<N>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> FrequencyTable<u32> {
        FrequencyTable::new(1024, Duration::from_secs(60))
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn count(table: &FrequencyTable<u32>, key: u64, now: Duration) {
        table.count([key, 0], now, |counted| *counted.note += 1);
    }

    fn top(table: &FrequencyTable<u32>, now: Duration) -> Vec<(u64, u32, u32)> {
        table.top(3, now, |found| Some((found.key[0], found.count, *found.note)))
    }

    #[test]
    fn the_most_frequent_keys_of_the_latest_window_come_first() {
        let table = table();
        for (key, events) in [(1, 2), (2, 30), (3, 7), (4, 1)] {
            for _ in 0..events {
                count(&table, key, at(0));
            }
        }
        assert_eq!(top(&table, at(0)), [(2, 30, 30), (3, 7, 7), (1, 2, 2)]);
        assert_eq!(table.busiest(at(0)), (4, 30));
        // A window later half of the earlier events count, and two windows later none.
        assert_eq!(top(&table, at(90_000))[0], (2, 15, 30));
        count(&table, 2, at(90_000));
        assert_eq!(top(&table, at(90_000))[0], (2, 31, 31), "those before, and the new one");
        assert_eq!(top(&table, at(120_000))[0], (2, 16, 31));
        assert_eq!(table.busiest(at(210_000)), (0, 0));
    }

    #[test]
    fn an_entry_that_begins_says_so() {
        let table = table();
        let begins = |now: u64| {
            table.count([1, 0], at(now), |counted| (counted.begins, counted.within)).unwrap()
        };
        assert_eq!(begins(1000), (true, Duration::ZERO));
        assert_eq!(begins(60_999), (false, at(59_999)));
        assert_eq!(begins(61_000), (true, Duration::ZERO));
        // A clock that goes back loses nothing.
        assert_eq!(begins(0), (false, Duration::ZERO));
    }

    #[test]
    fn a_key_that_is_replaced_leaves_nothing() {
        let table: FrequencyTable<u32> = FrequencyTable::new(1, Duration::from_secs(60));
        for key in 0..8 {
            count(&table, key, at(0));
        }
        for key in 8..100_000 {
            table.count([key, 0], at(1), |counted| {
                assert_eq!((counted.begins, *counted.note), (true, 0));
                *counted.note = 1;
            });
        }
    }

    #[test]
    fn one_with_many_events_keeps_its_place() {
        let table = table();
        for _ in 0..100 {
            count(&table, 1, at(0));
        }
        // Others have ten events each: some entry of the set is always weaker.
        for key in 2..40_000 {
            for _ in 0..10 {
                count(&table, key, at(1));
            }
        }
        assert_eq!(table.busiest(at(2)).1, 100);
    }
}
