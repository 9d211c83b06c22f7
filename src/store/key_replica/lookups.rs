//! Lookups of records that are not copied, for checks that wait for them.
//!
//! One call is in flight at a time. Ids that are asked for meanwhile are gathered, each once, and read
//! with the next call: a flood of keys costs a call for [`BATCH`] ids. Each client network has a
//! budget, and the ids that wait are bounded.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use tollgate_core::{admission::Outage, identity::KeyId};

use super::{FinishedLookups, KeyReplica};
use crate::{network_budget::NetworkBudget, store::Redis, waiting_list::WaitingList};

/// The most ids in one call.
const BATCH: usize = 256;
/// The most ids that wait.
const MOST_WAITING: usize = 4096;
/// The lookups of a network in a second.
const PER_SECOND: u64 = 500;
/// The lookups that a network may make at once.
const BURST: u64 = 1000;

/// The reason why a record was not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyLookupError {
    /// The client's network has used up its budget.
    #[error("the network of the client has used up its budget for lookups of API keys")]
    NoBudget,
    /// Too many lookups wait.
    #[error("too many lookups of API keys wait")]
    Full,
    /// Redis did not answer.
    #[error("the record of the API key cannot be looked up in Redis ({})", .0.label())]
    Outage(Outage),
}

/// The result of a lookup, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupResult {
    Found,
    Missing,
    Failed,
    NoBudget,
    Full,
}

impl LookupResult {
    /// Every result with its label, in the order of declaration.
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::Found, "found"),
        (Self::Missing, "missing"),
        (Self::Failed, "failed"),
        (Self::NoBudget, "no_budget"),
        (Self::Full, "full"),
    ];
}

/// The ids that wait, each once, and their checks.
#[derive(Debug, Default)]
struct Queue {
    ids: VecDeque<KeyId>,
    checks: WaitingList<KeyId, Result<(), Outage>>,
}

/// The lookups of a copy.
#[derive(Debug)]
pub(super) struct RecordLookups {
    queue: Mutex<Queue>,
    wake: Notify,
    budget: NetworkBudget,
    started: Instant,
    counts: [AtomicU64; LookupResult::ALL.len()],
}

impl RecordLookups {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            budget: NetworkBudget::new(PER_SECOND, BURST),
            started: Instant::now(),
            counts: Default::default(),
        }
    }

    /// Waits until the record of an id was looked up for a client.
    pub(super) async fn look_up(
        &self,
        id: KeyId,
        client: Option<IpAddr>,
    ) -> Result<(), KeyLookupError> {
        if !self.budget.take(client, self.started.elapsed()) {
            self.count(LookupResult::NoBudget, 1);
            return Err(KeyLookupError::NoBudget);
        }
        let Some(answer) = self.enqueue(id) else {
            self.count(LookupResult::Full, 1);
            return Err(KeyLookupError::Full);
        };
        self.wake.notify_one();
        let answer = answer.await.unwrap_or(Err(Outage::Unreachable));
        answer.map_err(KeyLookupError::Outage)
    }

    fn enqueue(&self, id: KeyId) -> Option<oneshot::Receiver<Result<(), Outage>>> {
        let mut queue = self.queue();
        let Queue { ids, checks } = &mut *queue;
        let check = checks.add(id, ids.len() < MOST_WAITING)?;
        if check.is_first {
            ids.push_back(id);
        }
        Some(check.answer)
    }

    /// Takes the ids that have waited for longest; empty where none waits. Checks that ask for one of
    /// them before it is looked up wait for the same call.
    fn take(&self) -> Vec<KeyId> {
        let mut queue = self.queue();
        let most = queue.ids.len().min(BATCH);
        queue.ids.drain(..most).collect()
    }

    /// Puts ids that were taken before all others, to be looked up again.
    fn put_back(&self, ids: &[KeyId]) {
        let mut queue = self.queue();
        for id in ids.iter().rev() {
            queue.ids.push_front(*id);
        }
    }

    /// Answers the checks that wait for ids.
    fn answer(&self, ids: &[KeyId], result: Result<(), Outage>) {
        let mut queue = self.queue();
        let checks: Vec<_> = ids.iter().filter_map(|id| queue.checks.remove(id)).collect();
        drop(queue);
        checks.into_iter().for_each(|checks| checks.answer(result));
    }

    pub(super) fn count(&self, result: LookupResult, number: u64) {
        if let Some(count) = self.counts.get(result as usize) {
            count.fetch_add(number, Relaxed);
        }
    }

    /// Returns the number of lookups by result.
    pub(super) fn counts(&self) -> [u64; LookupResult::ALL.len()] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the lookups of a copy, until the copy or its source is dropped.
pub(super) async fn run(
    lookups: Arc<RecordLookups>,
    source: Weak<Redis>,
    replica: Weak<KeyReplica>,
) {
    loop {
        lookups.wake.notified().await;
        loop {
            let mut ids = lookups.take();
            if ids.is_empty() {
                break;
            }
            let (Some(source), Some(replica)) = (source.upgrade(), replica.upgrade()) else {
                return;
            };
            replica.begin_lookups(&ids);
            let texts = source.key_texts_for_checks(&ids).await;
            let result = texts.as_ref().map(|_| ()).map_err(|outage| *outage);
            match texts {
                Ok(texts) => {
                    let FinishedLookups { found, unused } =
                        replica.finish_lookups(ids.iter().zip(texts));
                    if !unused.is_empty() {
                        ids.retain(|id| !unused.contains(id));
                        lookups.put_back(&unused);
                    }
                    lookups.count(LookupResult::Found, found as u64);
                    lookups.count(LookupResult::Missing, ids.len().saturating_sub(found) as u64);
                }
                Err(_) => lookups.count(LookupResult::Failed, ids.len() as u64),
            }
            lookups.answer(&ids, result);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::waiting_list::MOST_FOR_ONE;

    fn id(number: usize) -> KeyId {
        format!("key{number:09}").parse().unwrap()
    }

    #[test]
    fn an_id_waits_once_and_the_ids_that_wait_are_bounded() {
        let lookups = RecordLookups::new();
        let mut answers: Vec<_> = (0..MOST_WAITING).map(|n| lookups.enqueue(id(n))).collect();
        assert!(answers.iter().all(Option::is_some));
        assert!(lookups.enqueue(id(MOST_WAITING)).is_none());
        answers.extend((1..MOST_FOR_ONE).map(|_| lookups.enqueue(id(0))));
        assert!(answers.iter().all(Option::is_some));
        assert!(lookups.enqueue(id(0)).is_none(), "too many checks for one id");
        answers.clear();
        assert!(lookups.enqueue(id(0)).is_some(), "the others were given up");
        let mut taken = Vec::new();
        loop {
            let ids = lookups.take();
            assert!(ids.len() <= BATCH);
            if ids.is_empty() {
                break;
            }
            taken.extend(ids);
        }
        // A check that comes while its id is looked up waits for the same call.
        let late = lookups.enqueue(id(1)).unwrap();
        assert!(lookups.take().is_empty());
        // What was taken is looked up again before the others.
        lookups.put_back(&[id(0), id(1)]);
        assert_eq!(lookups.take(), [id(0), id(1)]);
        lookups.answer(&[id(0), id(1)], Err(Outage::Deadline));
        assert_eq!(late.now_or_never(), Some(Ok(Err(Outage::Deadline))));
        assert!(lookups.enqueue(id(1)).is_some() && lookups.take() == [id(1)]);
        let expected: Vec<_> = (0..MOST_WAITING).map(id).collect();
        assert_eq!(taken, expected, "in the order in which they were asked for");
    }

    #[test]
    fn every_result_is_listed_at_its_own_place() {
        for (at, (result, label)) in LookupResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at, "{label}");
        }
    }
}
