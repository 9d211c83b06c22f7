//! The ledger of this process: the task that makes the records of settled requests.
//!
//! ```text
//! settle, expiry -> pending records (the same script) -> writer: numbers, chains, signs -> chain
//! ```
//!
//! The script that settles a request adds its pending record, so that a record is made once for each
//! settlement, whatever is killed. The [`Writer`] takes pending records from their list with the call
//! that appends them to its chain. Checks and settlements never wait for it.

mod keys;
mod maintenance;
mod writer;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_core::ledger::{calendar::Calendar, config::LedgerConfig, keys::LedgerKeys};

pub(super) use self::keys::LedgerSecrets;
pub use self::writer::{Round, Writer};
use crate::{
    observe::{self, Observer},
    store::Redis,
};

/// The pause after a round that left no pending record, and after one that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// The ledger that the policy in force requires.
#[derive(Debug)]
pub struct LedgerInForce {
    /// The section `ledger`.
    pub config: LedgerConfig,
    /// Its keys; `None` while the first one cannot be read.
    pub keys: Option<LedgerKeys>,
    /// The calendar of its time zone.
    pub calendar: Calendar,
}

/// The ledger in force, which a reload swaps; none where the policy has none.
pub type LedgerSlot = Arc<ArcSwapOption<LedgerInForce>>;

/// The task that writes the ledger.
#[derive(Debug)]
pub(super) struct LedgerTask {
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl LedgerTask {
    /// Starts the task.
    pub(super) fn start(redis: Arc<Redis>, slot: LedgerSlot, observer: Arc<Observer>) -> Self {
        let closing = CancellationToken::new();
        if slot.load().is_some() {
            // What settles before the first round is pending for the first process with a chain.
            redis.keep_ledger(Some(0));
        }
        let writer = Writer::new(redis, slot, Arc::clone(observer.metrics()), replica());
        let task = tokio::spawn(run(writer, closing.clone()));
        Self { closing, task: Mutex::new(Some(task)) }
    }

    /// Ends the task when its chain has every pending record, or after `within`.
    pub(super) async fn close(&self, within: Duration) {
        self.closing.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task {
            // What is left is pending in Redis: another process makes its records.
            let _late = timeout(within, &mut task).await;
            task.abort();
        }
    }
}

impl Drop for LedgerTask {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The name of this process in records: that of the machine, or of the pod.
fn replica() -> String {
    let name = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    name.map_or_else(|| "tollgate".to_owned(), |name| name.chars().take(63).collect())
}

async fn run(mut writer: Writer, closing: CancellationToken) {
    let mut has_failed = false;
    while !closing.is_cancelled() {
        let pause = match writer.round(observe::now()).await {
            Ok(Round::More) => continue,
            Ok(Round::Idle) => {
                has_failed = false;
                PAUSES.0
            }
            Err(outage) => {
                writer.count_failure();
                if !has_failed {
                    tracing::warn!(
                        outage = outage.label(),
                        "the ledger cannot be written, records are pending in the store"
                    );
                }
                has_failed = true;
                PAUSES.1
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
    writer.close(observe::now()).await;
}
