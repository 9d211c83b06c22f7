//! What requests used, by subject, model and route: what limits with `hold: estimate` hold.
//!
//! Reports of usage are recorded here, and checks read a quantile. The histories are those of this
//! process: each replica learns from the responses that its proxy reports.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tollgate_core::limit::{
    BucketId,
    usage_history::{HistoryIds, LearntUsage, ObservedUsage, UsageHistory},
};

/// The most histories of each of the two tables, which take 5 MB together if both are full.
const MOST: usize = 8192;

/// Histories of usage, within a bound: those that were not used for the longest time are dropped.
#[derive(Debug)]
pub struct UsageHistories {
    tables: Mutex<Tables>,
    most: usize,
}

/// The histories in use, and those before them, each of which moves back when it is used. A full
/// table takes the place of the other one.
#[derive(Debug, Default)]
struct Tables {
    recent: HashMap<BucketId, UsageHistory>,
    before: HashMap<BucketId, UsageHistory>,
}

impl Default for UsageHistories {
    fn default() -> Self {
        Self { tables: Mutex::default(), most: MOST }
    }
}

impl UsageHistories {
    /// Records the usage of one response.
    pub fn record(&self, HistoryIds { own, shared }: HistoryIds, usage: ObservedUsage) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for id in [own, shared] {
            tables.take(id, self.most).record(usage);
        }
    }

    /// Returns what a history predicts; `None` where there is none with enough reports.
    pub fn learnt(&self, id: BucketId) -> Option<LearntUsage> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.recent.get(&id).or_else(|| tables.before.get(&id))?.learnt()
    }
}

impl Tables {
    fn take(&mut self, id: BucketId, most: usize) -> &mut UsageHistory {
        if self.recent.len() >= most && !self.recent.contains_key(&id) {
            self.before = std::mem::take(&mut self.recent);
        }
        let known = self.before.remove(&id);
        self.recent.entry(id).or_insert_with(|| known.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(number: usize) -> HistoryIds {
        HistoryIds { own: BucketId::of(format!("own {number}")), shared: "all".into() }
    }

    fn used(tokens: u64) -> ObservedUsage {
        ObservedUsage { tokens, answer: None }
    }

    #[test]
    fn a_subject_has_a_history_and_all_of_them_have_one() {
        let histories = UsageHistories::default();
        (0..8).for_each(|_| histories.record(ids(1), used(7)));
        (0..8).for_each(|_| histories.record(ids(2), used(1000)));
        let tokens = |id| histories.learnt(id).map(|learnt| learnt.tokens);
        assert_eq!(tokens(ids(1).own), Some(7));
        assert_eq!(tokens(ids(2).own), Some(1023));
        assert_eq!(tokens(ids(1).shared), Some(1023));
        assert_eq!(tokens(ids(3).own), None);
    }

    #[test]
    fn a_history_that_is_used_outlives_many_others() {
        let histories = UsageHistories { most: 64, ..UsageHistories::default() };
        for number in 0..1000 {
            histories.record(ids(0), used(7));
            histories.record(ids(number + 1), used(7));
        }
        assert!(histories.learnt(ids(0).own).is_some());
        let tables = histories.tables.lock().unwrap();
        assert!(tables.recent.len() <= 65 && tables.before.len() <= 65);
        assert!(!tables.before.contains_key(&ids(1).own));
    }
}
