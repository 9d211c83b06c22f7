//! Settlements on their way to the store: a bounded queue, and the task that empties it in batches.
//!
//! A caller that reports usage never waits for the store. What the queue has no room for, and what the
//! store does not answer, is counted and dropped: the holds of its request expire, and the store
//! charges them then.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_core::{admission::Settlement, limit::reservation::ReservationKeys};

use super::live::Live;
use crate::{
    observe::{Observer, settlements::SettlementCounters},
    store::Store,
};

pub use crate::observe::settlements::ReportProblem;

/// The most settlements that wait. Each has some hundred bytes.
const QUEUE: usize = 8192;

/// The most settlements in one call of the store.
const BATCH: usize = 64;

/// The pauses after the first call without an answer, and at most. Each pause is twice the last one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The calls after which a batch is dropped, in about half a minute: the life of its holds.
const ATTEMPTS: u32 = 12;

/// Takes settlements, and sends them to the store.
pub struct Settler {
    queue: mpsc::Sender<Settlement>,
    live: Arc<Live>,
    observer: Arc<Observer>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Settler {
    /// Starts the task that sends settlements to `store`.
    pub(super) fn start(
        store: Arc<dyn Store>,
        live: Arc<Live>,
        observer: Arc<Observer>,
    ) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let closing = CancellationToken::new();
        let task =
            Task { waiting, store, observer: Arc::clone(&observer), closing: closing.clone() };
        let task = Mutex::new(Some(tokio::spawn(task.run())));
        Arc::new(Self { queue, live, observer, closing, task })
    }

    /// The secrets that open reservations; `None` while there is none that may be used.
    pub fn keys(&self) -> Option<Arc<ReservationKeys>> {
        self.live.load().snapshot.reservation_keys.clone()
    }

    /// Sends a settlement to the store, soon. It is dropped if too many wait.
    pub fn submit(&self, settlement: Settlement) {
        if self.queue.try_send(settlement).is_err() {
            self.counters().dropped_by_queue();
        }
    }

    /// Counts a report that is not used, or not as it is.
    pub fn count_problem(&self, problem: ReportProblem) {
        self.counters().problem(problem);
    }

    /// Counts a request that reached an upstream and whose tokens are not known.
    pub fn count_unmetered(&self, is_complete: bool) {
        self.counters().unmetered(is_complete);
    }

    fn counters(&self) -> &SettlementCounters {
        self.observer.metrics().settlements()
    }

    /// Shows the counters of settlements in the metrics.
    pub fn show_counters(&self) {
        self.counters().set_used();
    }

    /// Ends the task when the settlements that wait are sent, or after `within`. Returns whether
    /// they were.
    pub(super) async fn close(&self, within: Duration) -> bool {
        self.closing.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        match task {
            Some(mut task) => {
                let ended = timeout(within, &mut task).await.is_ok();
                task.abort();
                ended
            }
            None => true,
        }
    }
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler").field("free", &self.queue.capacity()).finish_non_exhaustive()
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

struct Task {
    waiting: mpsc::Receiver<Settlement>,
    store: Arc<dyn Store>,
    observer: Arc<Observer>,
    closing: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                received = self.waiting.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = self.closing.cancelled() => return,
            }
            self.settle(&batch).await;
            batch.clear();
        }
    }

    /// Sends a batch until the store answers. A settlement that arrives twice changes nothing.
    async fn settle(&self, batch: &[Settlement]) {
        let counters = self.observer.metrics().settlements();
        let (mut pause, longest) = PAUSES;
        for _ in 0..ATTEMPTS {
            match self.store.settle(batch).await {
                Ok(settled) => {
                    settled.into_iter().for_each(|settled| counters.settled(settled));
                    return;
                }
                Err(_) => counters.call_failed(),
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        counters.dropped_by_store(batch.len());
        tracing::warn!(
            settlements = batch.len(),
            "the store did not take settlements, their requests are charged when their holds expire"
        );
    }
}
