//! A reservation that the store may have made without telling: the check was cancelled, or its
//! answer was late.

use std::sync::Arc;

use tollgate_core::{
    admission::{Settlement, Usage},
    check::Pending,
    limit::reservation::Reservation,
};

use crate::store::Store;

/// The reservation of a check while the store is queried. If it is dropped before
/// [`answered`](Self::answered), the request is not forwarded with the reservation, and what the
/// store may hold is released.
pub(super) struct Unanswered {
    store: Arc<dyn Store>,
    reservation: Option<Reservation>,
}

impl Unanswered {
    /// The reservation of a check; `None` where nothing is to be settled.
    pub(super) fn of(store: &Arc<dyn Store>, pending: &Pending) -> Option<Self> {
        let reservation = pending.admit_request().reservation.as_deref()?;
        let reservation = reservation.is_settled().then(|| reservation.clone())?;
        Some(Self { store: Arc::clone(store), reservation: Some(reservation) })
    }

    /// Releases a reservation whose answer is not used.
    pub(super) fn release(store: &Arc<dyn Store>, reservation: Reservation) {
        drop(Self { store: Arc::clone(store), reservation: Some(reservation) });
    }

    /// The answer has arrived: the request is forwarded with the reservation, or nothing is held.
    pub(super) fn answered(mut self) {
        self.reservation = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let store = Arc::clone(&self.store);
        runtime.spawn(async move {
            let released = [Settlement { reservation, usage: Usage::Released, report: None }];
            // Without an answer the hold expires, and is charged.
            if let Err(outage) = store.settle(&released).await {
                tracing::debug!(outage = outage.label(), "a reservation was not released");
            }
        });
    }
}
