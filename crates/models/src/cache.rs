//! A cache with the documented contract of `quick_cache::sync::Cache`, as far as the sidecar uses it:
//! of the callers that find no value, one gets a guard, and the others wait for its value or, where
//! it is dropped without one, for the next guard. It never evicts.

use std::{marker::PhantomData, sync::PoisonError, time::Duration};

use loom::sync::{Condvar, Mutex, MutexGuard};
use quick_cache::Weighter;

/// A cache in which checks of one key meet.
pub struct Cache<K, V, W> {
    entries: Mutex<Vec<(K, Entry<V>)>>,
    changed: Condvar,
    weighter: PhantomData<fn() -> W>,
}

enum Entry<V> {
    /// A guard is out.
    Reserved,
    Present(V),
}

/// The result of [`Cache::get_value_or_guard`].
pub enum GuardResult<'a, K: Clone + Eq, V: Clone, W> {
    /// The value of the key.
    Value(V),
    /// There is no value, and others wait for that of this guard.
    Guard(PlaceGuard<'a, K, V, W>),
    /// The time is over. No caller of the sidecar sets one.
    Timeout,
}

/// The right to insert the value of a key.
pub struct PlaceGuard<'a, K: Clone + Eq, V: Clone, W> {
    cache: &'a Cache<K, V, W>,
    key: K,
}

/// The place of a guard was taken by another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceIsGone;

impl<K: Clone + Eq, V: Clone, W: Weighter<K, V>> Cache<K, V, W> {
    /// Creates an empty cache.
    pub fn with_weighter(_: usize, _: u64, _: W) -> Self {
        Self { entries: Mutex::new(Vec::new()), changed: Condvar::new(), weighter: PhantomData }
    }
}

impl<K: Clone + Eq, V: Clone, W> Cache<K, V, W> {
    /// Returns the value of a key.
    pub fn get(&self, key: &K) -> Option<V> {
        self.entries().iter().find_map(|(known, entry)| match entry {
            Entry::Present(value) if known == key => Some(value.clone()),
            _ => None,
        })
    }

    /// Inserts a value, or replaces the one of its key.
    pub fn insert(&self, key: K, value: V) {
        let mut entries = self.entries();
        entries.retain(|(known, _)| *known != key);
        entries.push((key, Entry::Present(value)));
        drop(entries);
        self.changed.notify_all();
    }

    /// Removes the value of a key if it fits a condition.
    pub fn remove_if(&self, key: &K, fits: impl FnOnce(&V) -> bool) -> Option<(K, V)> {
        let mut entries = self.entries();
        let at = entries.iter().position(|(known, _)| known == key)?;
        match entries.get(at) {
            Some((_, Entry::Present(value))) if fits(value) => {}
            _ => return None,
        }
        match entries.swap_remove(at) {
            (key, Entry::Present(value)) => Some((key, value)),
            (_, Entry::Reserved) => None,
        }
    }

    /// Returns the value of a key, or the guard for it. Waits while another caller has the guard.
    pub fn get_value_or_guard(&self, key: &K, _: Option<Duration>) -> GuardResult<'_, K, V, W> {
        let mut entries = self.entries();
        loop {
            match entries.iter().find(|(known, _)| known == key) {
                Some((_, Entry::Present(value))) => return GuardResult::Value(value.clone()),
                Some((_, Entry::Reserved)) => {
                    entries = self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    entries.push((key.clone(), Entry::Reserved));
                    return GuardResult::Guard(PlaceGuard { cache: self, key: key.clone() });
                }
            }
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        let is_present = |(_, entry): &&(K, Entry<V>)| matches!(entry, Entry::Present(_));
        self.entries().iter().filter(is_present).count()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of the values, which a model has no use for.
    pub fn weight(&self) -> u64 {
        0
    }

    fn entries(&self) -> MutexGuard<'_, Vec<(K, Entry<V>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq, V: Clone, W> PlaceGuard<'_, K, V, W> {
    /// Inserts the value, which all that wait for it get.
    ///
    /// # Errors
    /// The place was taken by another value.
    pub fn insert(self, value: V) -> Result<(), PlaceIsGone> {
        let mut entries = self.cache.entries();
        let place = entries.iter_mut().find(|(known, _)| *known == self.key);
        match place {
            Some((_, entry @ Entry::Reserved)) => {
                *entry = Entry::Present(value);
                Ok(())
            }
            _ => Err(PlaceIsGone),
        }
        // Dropping the guard wakes those that wait.
    }
}

impl<K: Clone + Eq, V: Clone, W> Drop for PlaceGuard<'_, K, V, W> {
    fn drop(&mut self) {
        let is_own =
            |(known, entry): &(K, Entry<V>)| *known == self.key && matches!(entry, Entry::Reserved);
        self.cache.entries().retain(|entry| !is_own(entry));
        self.cache.changed.notify_all();
    }
}
