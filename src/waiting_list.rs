//! Checks that wait for the answer to one question each, such as the record of a key. The first one
//! that asks makes the call, and the others wait for the same answer.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use tokio::sync::oneshot;

/// The most checks that wait for one answer.
pub(crate) const MOST_FOR_ONE: usize = 256;

/// The checks that wait, by what they wait for.
#[derive(Debug)]
pub(crate) struct WaitingList<K, A>(HashMap<K, Waiting<A>>);

/// The checks that wait for one answer.
#[derive(Debug)]
pub(crate) struct Waiting<A>(Vec<oneshot::Sender<A>>);

/// A check that was added to the list.
#[derive(Debug)]
pub(crate) struct AddedCheck<A> {
    /// Completes with the answer.
    pub(crate) answer: oneshot::Receiver<A>,
    /// Whether no other check waited for it: a call has to be made.
    pub(crate) is_first: bool,
}

impl<K: Eq + Hash, A> WaitingList<K, A> {
    /// The number of answers that are waited for.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a check. Returns `None` where too many wait for this answer, or where it is a new one
    /// and there is no room for another (`has_room`).
    pub(crate) fn add(&mut self, key: K, has_room: bool) -> Option<AddedCheck<A>> {
        let (Waiting(checks), is_first) = match self.0.entry(key) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(place) if has_room => (place.insert(Waiting(Vec::new())), true),
            Entry::Vacant(_) => return None,
        };
        if checks.len() >= MOST_FOR_ONE {
            // Checks that were given up make room.
            checks.retain(|check| !check.is_closed());
            if checks.len() >= MOST_FOR_ONE {
                return None;
            }
        }
        let (sender, answer) = oneshot::channel();
        checks.push(sender);
        Some(AddedCheck { answer, is_first })
    }

    /// Removes the checks that wait for an answer.
    pub(crate) fn remove(&mut self, key: &K) -> Option<Waiting<A>> {
        self.0.remove(key)
    }
}

impl<K, A> Default for WaitingList<K, A> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<A: Copy> Waiting<A> {
    /// Answers the checks.
    pub(crate) fn answer(self, answer: A) {
        for check in self.0 {
            // A check that was given up does not wait any more.
            let _ = check.send(answer);
        }
    }
}
