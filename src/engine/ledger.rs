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
use thiserror::Error;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::Outage,
    ledger::{calendar::Calendar, config::LedgerConfig, keys::LedgerKeys},
};

pub(super) use self::keys::LedgerSecrets;
pub use self::writer::{Round, Writer};
use crate::{
    observe::{self, Observer},
    store::Redis,
};

/// The reason why a round of the ledger failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The store does not answer, or refuses a command.
    #[error("the store is not available ({})", .0.label())]
    Store(Outage),
    /// The days of the ledger are those of another time zone.
    #[error(
        "the ledger has the time zone `{noted}`, and `ledger.time_zone` is `{configured}`: set it to that of \
         the ledger on every replica"
    )]
    TimeZone {
        /// The time zone of the ledger.
        noted: String,
        /// That of the configuration.
        configured: String,
    },
    /// Every chain is written by another process, or takes no more entries.
    #[error("no chain is free: each one is written by another process, or takes no more entries")]
    NoChain,
}

impl From<Outage> for LedgerError {
    fn from(outage: Outage) -> Self {
        Self::Store(outage)
    }
}

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
        observer.metrics().ledger().keep(slot.load().is_some());
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
    let mut last_cause = None;
    while !closing.is_cancelled() {
        let pause = match writer.round(observe::now()).await {
            Ok(Round::More) => continue,
            Ok(Round::Idle) => {
                if last_cause.take().is_some() {
                    tracing::info!("the ledger is written again");
                }
                PAUSES.0
            }
            Err(error) => {
                let cause = writer.cause(&error);
                if last_cause.as_ref() != Some(&cause) {
                    tracing::error!(
                        "the ledger cannot be written, records are pending in the store: {cause}"
                    );
                }
                last_cause = Some(cause);
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
