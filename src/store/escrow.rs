//! The escrows of this replica, and the task that takes, renews and releases them.
//! [`tollgate_core::limit::escrow`] has the rules.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Settlement},
    limit::{
        Verdict,
        escrow::{EscrowTerms, Escrows},
        model_tag::ModelTag,
        reservation::{Reservation, ReservationId},
    },
    room::Group,
};

use super::{LocalFallback, Store, memory::Clock};

/// The interval at which escrows are taken, and requests reported that were admitted from them.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most calls with reports in one round, and the most escrows that are taken at once.
const CALLS: usize = 64;
const AT_ONCE: usize = 64;

/// All escrows of this replica.
pub(super) struct EscrowTable {
    escrows: Mutex<Escrows>,
    /// The number of requests that were admitted and are not reported yet.
    unreported: AtomicUsize,
    admitted: AtomicU64,
    /// Wakes the task before its interval has passed.
    wake: Arc<Notify>,
}

/// The status of the escrows of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscrowStatus {
    /// The number of counters of which this replica holds units.
    pub counters: u64,
    /// The number of requests that were admitted from them and are not reported to Redis yet.
    pub unreported: u64,
    /// The number of requests that were admitted from them since the start.
    pub admitted: u64,
}

impl EscrowTable {
    pub(super) fn new(terms: EscrowTerms) -> Self {
        Self {
            escrows: Mutex::new(Escrows::new(terms)),
            unreported: AtomicUsize::new(0),
            admitted: AtomicU64::new(0),
            wake: Arc::default(),
        }
    }

    /// Locks the escrows.
    pub(super) fn lock(&self) -> MutexGuard<'_, Escrows> {
        self.escrows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the store answered to a check that holds.
    pub(super) fn note(
        &self,
        reservation: &Reservation,
        verdicts: &[Verdict],
        group: Option<Group>,
        clock: &Clock,
    ) {
        if self.lock().note(reservation, verdicts, group, clock.now()) {
            self.wake.notify_one();
        }
    }

    /// Counts a request that was admitted.
    pub(super) fn count_admitted(&self, escrows: &Escrows) {
        self.unreported.store(escrows.unreported(), Ordering::Release);
        self.admitted.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a report of a request that Redis does not have yet. Returns the report for the
    /// replica's own counters.
    pub(super) fn settle(&self, settlement: &Settlement) -> Option<Settlement> {
        if self.unreported.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.lock().settle(settlement)
    }

    pub(super) fn status(&self) -> EscrowStatus {
        let escrows = self.lock();
        EscrowStatus {
            counters: escrows.held() as u64,
            unreported: escrows.unreported() as u64,
            admitted: self.admitted.load(Ordering::Relaxed),
        }
    }

    /// Reports what is to be reported. Returns whether the store has answered.
    async fn report(&self, store: &dyn Store, clock: &Clock) -> bool {
        for _ in 0..CALLS {
            let called = clock.now();
            let reports = self.lock().reports(called);
            if reports.settlements.is_empty() {
                return true;
            }
            if store.settle(&reports.settlements).await.is_err() {
                return false;
            }
            let mut escrows = self.lock();
            let has_more = escrows.reported(&reports, called, clock.now());
            self.unreported.store(escrows.unreported(), Ordering::Release);
            if !has_more {
                return true;
            }
        }
        true
    }

    /// Reports what is to be reported, and takes escrows where some are wanted.
    async fn exchange(&self, store: &dyn Store, clock: &Clock) {
        if !self.report(store, clock).await {
            return;
        }
        // An escrow is for requests of any model.
        let id = || ReservationId(rand::random()).with_model(ModelTag::NONE);
        let takes = self.lock().takes(clock.now(), id);
        for takes in takes.chunks(AT_ONCE) {
            join_all(takes.iter().map(|take| self.take(take, store, clock))).await;
        }
    }

    async fn take(&self, take: &Reservation, store: &dyn Store, clock: &Clock) {
        let called = clock.now();
        let reservation = Some(Box::new(take.clone()));
        let request = AdmitRequest { reservation, ..AdmitRequest::default() };
        let verdict = match store.admit(&request).await {
            Ok(AdmitResponse::Counted(verdicts)) => verdicts.first().copied(),
            _ => None,
        };
        match verdict {
            Some(verdict) => self.lock().taken(take, verdict, called),
            None => self.lock().lost(take, clock.now()),
        }
    }

    /// Releases all escrows, as far as the store answers.
    pub(super) async fn close(&self, store: &dyn Store, clock: &Clock) {
        self.lock().close();
        self.report(store, clock).await;
    }
}

/// Starts the task of the escrows, until `stop` or until the store is dropped.
pub(super) fn spawn_escrows<S: Store + 'static>(
    store: Weak<S>,
    local: &Arc<LocalFallback>,
    stop: CancellationToken,
) {
    let (wake, local) = (Arc::clone(&local.escrows().wake), Arc::downgrade(local));
    tokio::spawn(async move {
        stop.run_until_cancelled(async {
            while let (Some(store), Some(local)) = (store.upgrade(), local.upgrade()) {
                local.escrows().exchange(&*store, local.clock()).await;
                drop((store, local));
                tokio::select! {
                    () = sleep(INTERVAL) => {}
                    () = wake.notified() => {}
                }
            }
        })
        .await
    });
}
