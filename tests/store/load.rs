//! Checks that are sent all the time, while servers are moved, lost and replaced.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tollgate::store::{Redis, Store as _};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    limit::Charge,
};

use super::requests::{charge, charging, until};

/// Room in a bucket that no load uses up, and the time after which a unit comes back.
const BURST: u64 = 1_000_000;
const HOUR: u64 = 3_600_000;

/// Callers of a store, each of which sends one check after the other.
pub(super) struct Load {
    store: Arc<Redis>,
    seen: Arc<Seen>,
    callers: Vec<tokio::task::JoinHandle<()>>,
    charge: Charge,
}

/// What the callers saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    admitted: AtomicU64,
    outages: AtomicU64,
    /// The last answer, and the longest time without one.
    answered: Mutex<Option<(Instant, Duration)>>,
}

impl Seen {
    fn note(&self, answer: &Result<AdmitResponse, Outage>) {
        match answer {
            Ok(_) => {
                self.admitted.fetch_add(1, Ordering::Relaxed);
                let mut answered = self.answered.lock().unwrap();
                let (last, longest) = answered.unwrap_or((Instant::now(), Duration::ZERO));
                *answered = Some((Instant::now(), longest.max(last.elapsed())));
            }
            Err(_) => drop(self.outages.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl Load {
    /// Starts some callers that charge the bucket of this name.
    pub(super) async fn start(store: &Arc<Redis>, name: &str) -> Self {
        Self::start_with(store, charge(name, HOUR, BURST), |request| request).await
    }

    /// Starts some callers whose requests are completed by `complete`.
    pub(super) async fn start_with(
        store: &Arc<Redis>,
        charge: Charge,
        complete: impl Fn(AdmitRequest) -> AdmitRequest,
    ) -> Self {
        let seen = Arc::<Seen>::default();
        let request = complete(charging(std::slice::from_ref(&charge)));
        let callers = (0..4).map(|_| {
            let (store, seen, request) = (Arc::clone(store), Arc::clone(&seen), request.clone());
            tokio::spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_millis(2));
                while !seen.stop.load(Ordering::Relaxed) {
                    seen.note(&store.admit(&request).await);
                    pace.tick().await;
                }
            })
        });
        let callers = callers.collect();
        let load = Self { store: Arc::clone(store), seen, callers, charge };
        load.until_more(10).await;
        load
    }

    /// Waits for this number of answers, from now on.
    pub(super) async fn until_more(&self, answers: u64) {
        let enough = self.admitted() + answers;
        until("more answers", async || self.admitted() >= enough).await;
    }

    /// Forgets the longest time without an answer so far.
    pub(super) fn forget_gaps(&self) {
        *self.seen.answered.lock().unwrap() = Some((Instant::now(), Duration::ZERO));
    }

    /// The number of answers so far.
    pub(super) fn admitted(&self) -> u64 {
        self.seen.admitted.load(Ordering::Relaxed)
    }

    /// Ends the load. Returns what was seen.
    pub(super) async fn end(self, complete: impl Fn(AdmitRequest) -> AdmitRequest) -> Outcome {
        self.seen.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let probe = Charge { cost: BURST + 1, ..self.charge };
        let request = complete(charging(&[probe]));
        let mut remaining = 0;
        until("the count", async || match self.store.admit(&request).await {
            Ok(AdmitResponse::Counted(verdicts)) => {
                remaining = verdicts[0].remaining;
                true
            }
            _ => false,
        })
        .await;
        let longest = self.seen.answered.lock().unwrap().unwrap().1;
        Outcome {
            admitted: self.seen.admitted.load(Ordering::Relaxed),
            outages: self.seen.outages.load(Ordering::Relaxed),
            charged: BURST - remaining,
            longest,
        }
    }
}

/// What the callers saw, and what the store has counted.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) admitted: u64,
    pub(super) outages: u64,
    pub(super) charged: u64,
    /// The longest time without an answer.
    pub(super) longest: Duration,
}

impl Outcome {
    /// Checks that nothing is charged twice, and that all that was admitted is charged, except `lost`.
    pub(super) fn assert_charged_once(&self, lost: u64) {
        assert!(self.charged <= self.admitted + self.outages, "charged twice: {self:?}");
        assert!(self.charged + lost >= self.admitted, "admitted without a charge: {self:?}");
    }
}
