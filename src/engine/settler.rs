//! Settlements on their way to the store: a bounded queue, and the task that empties it in batches.
//!
//! A caller that reports usage never waits for the store. What the queue has no room for, and what the
//! store does not answer, is counted and dropped: the holds of its request expire, and the store
//! charges them then. Each shard of a store has a queue and a task of its own, so that one that is lost
//! does not delay the others.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{Outage, Settled, Settlement},
    limit::reservation::ReservationKeys,
};

use super::{live::Live, usage_histories::UsageHistories};
use crate::{
    observe::{Observer, settlements::SettlementCounters},
    store::{LocalFallback, Store},
};

pub use crate::observe::settlements::ReportProblem;

/// The most settlements that wait. Each has some hundred bytes. Where there are shards, each has an equal part,
/// and not less than that.
const QUEUE: usize = 8192;
const LEAST_QUEUE: usize = 1024;

/// The most settlements in one call of the store.
const BATCH: usize = 64;

/// The pauses after the first call without an answer, and at most. Each pause is twice the last one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The calls after which a batch is dropped, in about half a minute: the life of its holds.
const ATTEMPTS: u32 = 12;

/// Takes settlements, and sends them to the store.
pub struct Settler {
    /// The queue of each place in which the store settles.
    queues: Vec<mpsc::Sender<Settlement>>,
    store: Arc<dyn Store>,
    /// The requests that were admitted in an outage, and that the store does not have yet.
    local: Option<Arc<LocalFallback>>,
    live: Arc<Live>,
    observer: Arc<Observer>,
    closing: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Settler {
    /// Starts the tasks that send settlements to `store`.
    pub(super) fn start(
        (store, local): (Arc<dyn Store>, Option<Arc<LocalFallback>>),
        live: Arc<Live>,
        observer: Arc<Observer>,
    ) -> Arc<Self> {
        let places = store.settling_places().max(1);
        let room = (QUEUE / places).max(LEAST_QUEUE);
        let closing = CancellationToken::new();
        let start = |_| {
            let (queue, waiting) = mpsc::channel(room);
            let (store, observer) = (Arc::clone(&store), Arc::clone(&observer));
            let task = Task { waiting, store, observer, closing: closing.clone() };
            (queue, tokio::spawn(task.run()))
        };
        let (queues, tasks) = (0..places).map(start).unzip();
        let tasks = Mutex::new(tasks);
        Arc::new(Self { queues, store, local, live, observer, closing, tasks })
    }

    /// The secrets that open reservations; `None` while there is none that may be used.
    pub fn keys(&self) -> Option<Arc<ReservationKeys>> {
        self.live.load().snapshot.reservation_keys.clone()
    }

    /// Sends a settlement to the store, soon. It is dropped if too many wait.
    pub fn submit(&self, settlement: Settlement) {
        if let Some(settled) = self.local.as_ref().and_then(|local| local.settle(&settlement)) {
            return self.observer.metrics().count_settled(&settlement, settled);
        }
        let queue = self.queues.get(self.store.settling_place(&settlement.reservation));
        if queue.is_none_or(|queue| queue.try_send(settlement).is_err()) {
            self.counters().dropped_by_queue();
        }
    }

    /// Sends settlements to the store in one call, and returns what each of them changed; `None` for
    /// a request that was admitted in an outage, whose settlement the store gets when it is over.
    ///
    /// # Errors
    /// The store does not answer. A settlement that is sent again is applied once.
    pub async fn settle(
        &self,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Option<Settled>>, Outage> {
        let is_local = |settlement: &Settlement| {
            let settled = self.local.as_ref().and_then(|local| local.settle(settlement));
            if let Some(settled) = settled {
                self.observer.metrics().count_settled(settlement, settled);
            }
            settled.is_some()
        };
        let are_local: Vec<bool> = settlements.iter().map(is_local).collect();
        let mut are_kept = are_local.iter();
        let sent: Vec<Settlement> =
            settlements.into_iter().filter(|_| are_kept.next() == Some(&false)).collect();
        let settled = if sent.is_empty() {
            Vec::new()
        } else {
            let settled = self.store.settle(&sent).await;
            settled.inspect_err(|_| self.counters().call_failed())?
        };
        count(&self.observer, &sent, &settled);
        let mut settled = settled.into_iter();
        let result = |is_local| if is_local { None } else { settled.next() };
        Ok(are_local.into_iter().map(result).collect())
    }

    /// Counts a report that is not used, or not as it is.
    pub fn count_problem(&self, problem: ReportProblem) {
        self.counters().problem(problem);
    }

    /// Counts a request that reached an upstream and whose tokens are not known.
    pub fn count_unmetered(&self, is_complete: bool) {
        self.counters().unmetered(is_complete);
    }

    /// Counts the tokens that a request used above its estimate, and above the bound that it held.
    pub fn count_debt(&self, of_estimate: u64, of_bound: u64) {
        self.counters().debt(of_estimate, of_bound);
    }

    /// What requests used before, which reports of complete responses add to.
    pub fn histories(&self) -> &UsageHistories {
        self.live.histories()
    }

    fn counters(&self) -> &SettlementCounters {
        self.observer.metrics().settlements()
    }

    /// Shows the counters of settlements in the metrics.
    pub fn show_counters(&self) {
        self.counters().set_used();
    }

    /// Ends the tasks when the settlements that wait are sent, or after `within`. Returns whether
    /// they were.
    pub(super) async fn close(&self, within: Duration) -> bool {
        self.closing.cancel();
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = timeout(within, join_all(&mut tasks)).await.is_ok();
        tasks.iter().for_each(JoinHandle::abort);
        ended
    }
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let free: usize = self.queues.iter().map(mpsc::Sender::capacity).sum();
        f.debug_struct("Settler").field("free", &free).finish_non_exhaustive()
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Counts what the store answered to settlements.
fn count(observer: &Observer, settlements: &[Settlement], settled: &[Settled]) {
    for (settlement, settled) in settlements.iter().zip(settled) {
        observer.metrics().settlements().settled(*settled);
        observer.metrics().count_settled(settlement, *settled);
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
                Ok(settled) => return count(&self.observer, batch, &settled),
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

#[cfg(test)]
mod tests {
    use tollgate_core::{
        admission::{AdmitRequest, Usage},
        limit::{
            Counter, Hold,
            reservation::{Reservation, ReservationId},
        },
        time::{Span, Timestamp},
    };
    use tollgate_testkit::wait::until_async;

    use super::*;
    use crate::{config, engine::Engine, observe};

    fn engine(store: &str) -> Engine {
        let text = format!(
            "audit: {{ to: none }}\nroutes: [{{ match: {{ paths: [/a] }}, public: true }}]\n{store}"
        );
        let engine =
            Engine::start(config::compile(&text, &|_| None).unwrap(), Arc::new(observe::now));
        let engine = engine.unwrap();
        engine.settler().show_counters();
        engine
    }

    fn reservation(number: usize) -> Reservation {
        let now = observe::now();
        Reservation {
            id: ReservationId((number as u128).to_be_bytes()),
            issued: now,
            life: Span::from_secs(60),
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
            holds: vec![Hold {
                limit: "day".into(),
                counter_id: "alice".into(),
                counter: Counter::Budget {
                    limit: 1_000_000,
                    ends: Timestamp::from_secs(now.secs() + 3600),
                },
                amount: 10,
                unreported: 10,
                by_principal: true,
                is_shadow: false,
            }],
        }
    }

    fn settlement(number: usize) -> Settlement {
        Settlement { reservation: reservation(number), usage: Usage::Final(1), report: None }
    }

    fn counted(engine: &Engine, series: &str) -> u64 {
        let text = engine.observer().exposition(engine.status()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap();
        line.trim().parse().unwrap()
    }

    #[tokio::test]
    async fn what_waits_is_settled_before_the_engine_is_closed() {
        let engine = engine("");
        for number in 0..3 * BATCH {
            let reservation = Some(Box::new(reservation(number)));
            let request = AdmitRequest { reservation, ..AdmitRequest::default() };
            engine.store().admit(&request).await.unwrap();
            engine.settler().submit(settlement(number));
        }
        engine.settler().submit(settlement(0));
        engine.close().await;
        let charged = "tollgate_settlements_total{result=\"charged\"}";
        assert_eq!(counted(&engine, charged), 3 * BATCH as u64);
        assert_eq!(counted(&engine, "tollgate_settlements_total{result=\"repeated\"}"), 1);
    }

    #[tokio::test]
    async fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
        let engine = engine("");
        // Nothing is sent meanwhile: the task runs on this thread.
        (0..QUEUE + 5).for_each(|number| engine.settler().submit(settlement(number)));
        assert_eq!(counted(&engine, "tollgate_settlements_dropped_total{cause=\"queue\"}"), 5);
        engine.close().await;
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_called_again_and_holds_up_no_caller() {
        let engine = engine("store: { redis: { url: 'unix:/nonexistent/redis.sock' } }");
        engine.settler().submit(settlement(0));
        let failures = || counted(&engine, "tollgate_settlement_failures_total");
        until_async("two calls", async || (failures() >= 2).then_some(())).await;
        engine.settler().submit(settlement(1));
        assert!(!engine.settler().close(Duration::from_millis(1)).await, "they still wait");
    }
}
