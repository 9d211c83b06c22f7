//! Failures of calls: those in a row on one connection, and the last one of all.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use ::redis::RedisError;
use tokio::sync::Notify;
use tollgate_core::admission::Outage;

use crate::store::redis::error::{ConnectionError, is_read_only, outage};

/// Failures in a row that open the circuit.
const TRIP_AFTER: u32 = 5;

/// The number of connections and the last error, for the status of the store.
pub(super) struct ErrorLog {
    connections: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl ErrorLog {
    pub(super) fn new() -> Self {
        Self { connections: AtomicU64::new(0), last_error: Mutex::default() }
    }

    /// Counts a new connection.
    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of connections since the start.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The last error.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps an error as the last one. Returns whether it differs from the one before.
    pub(super) fn record(&self, error: &ConnectionError) -> bool {
        let text = error.to_string();
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_deref() != Some(&text);
        if is_new {
            *last = Some(text);
        }
        is_new
    }
}

/// Whether only a new connection helps: another server has the keys, or the server forgot the login and
/// does not request it again.
fn is_final(error: &RedisError) -> bool {
    is_elsewhere(error) || matches!(error.code(), Some("NOAUTH" | "CLUSTERDOWN"))
}

/// Whether another server has the keys: after a failover the old primary stays read-only, and the node
/// of a cluster names the one that has the slot. The call was not applied.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    is_read_only(error) || error.code() == Some("MOVED")
}

/// Counts the failures in a row on one connection, and reports when there are too many.
pub(in crate::store::redis) struct FailureTracker {
    failures: AtomicU32,
    tripped: Notify,
    last: Mutex<Option<ConnectionError>>,
    log: Arc<ErrorLog>,
    /// The host and port, or the socket, of the server.
    address: Arc<str>,
}

impl FailureTracker {
    pub(super) fn new(log: Arc<ErrorLog>, address: Arc<str>) -> Self {
        let (failures, tripped) = (AtomicU32::new(0), Notify::new());
        Self { failures, tripped, last: Mutex::default(), log, address }
    }

    /// Records that a check was answered.
    pub(super) fn record_success(&self) {
        // Read first: without failures no thread writes to a cache line that all threads share.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Records that a call was not answered in time.
    pub(in crate::store::redis) fn record_timeout(&self) -> Outage {
        self.count(ConnectionError::Timeout { address: Arc::clone(&self.address) }, 1)
    }

    /// Records that a check was answered with an error.
    pub(super) fn record_error(&self, error: &RedisError) -> Outage {
        let is_final = is_final(error);
        let error = ConnectionError::call(&self.address, error);
        self.count(error, if is_final { TRIP_AFTER } else { 1 })
    }

    /// Records that a call that is not a check was answered with an error. Checks are not affected, as
    /// a user may be allowed only those; unless another server has the keys now.
    pub(in crate::store::redis) fn record_other_error(&self, error: &RedisError) -> Outage {
        if is_elsewhere(error) {
            return self.count(ConnectionError::call(&self.address, error), TRIP_AFTER);
        }
        self.log.record(&ConnectionError::call(&self.address, error));
        outage(error)
    }

    /// Records that a stored value, which one check needs, is not a number. Other checks are not
    /// affected.
    pub(super) fn record_malformed(&self) -> Outage {
        self.log.record(&ConnectionError::Malformed { address: Arc::clone(&self.address) });
        Outage::Refused
    }

    fn count(&self, error: ConnectionError, weight: u32) -> Outage {
        self.log.record(&error);
        let outage = error.outage();
        let before = self.failures.fetch_add(weight, Ordering::Relaxed);
        if before < TRIP_AFTER && before.saturating_add(weight) >= TRIP_AFTER {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.tripped.notify_one();
        }
        outage
    }

    /// Waits until [`TRIP_AFTER`] calls in a row have failed. Returns the last error.
    pub(super) async fn tripped(&self) -> ConnectionError {
        self.tripped.notified().await;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.unwrap_or_else(|| ConnectionError::Closed { address: Arc::clone(&self.address) })
    }
}
