//! Batches: checks that arrive during a call are sent together in the next one.
//!
//! A check that arrives when no call is in progress is sent at once, so no check waits for others.
//! Redis spends most of the time of a call around the script, and so does this process; both do it
//! once for a batch (docs/benchmarks.md, "Redis").

use std::{sync::Arc, time::Instant};

use ::redis::{RedisResult, aio::MultiplexedConnection};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tollgate_core::admission::Outage;

use super::FailureTracker;
use crate::store::redis::{
    admit_call::{self, CheckReply, ScriptRequest, ScriptResponse},
    packed_list::PackedNumbers,
    script::Scripts,
};

/// The most checks in one call: a script for so many occupies Redis for a third of a millisecond.
const MOST: usize = 64;

/// The most keys in one call, unless a single check has more: Lua passes at most 8000 arguments.
const MOST_KEYS: usize = 4000;

/// The most calls in progress: one that Redis works on, and one that is on its way.
const CALLS: usize = 2;

/// The most checks in the queue; further ones wait in their own tasks, each within its deadline.
const QUEUE: usize = 1024;

/// A check that waits for its response.
struct PendingCheck {
    request: ScriptRequest,
    response: oneshot::Sender<Result<ScriptResponse, Outage>>,
}

/// The queue of a batcher, whose task ends when the queue is dropped.
pub(super) struct BatchQueue(mpsc::Sender<PendingCheck>);

impl BatchQueue {
    /// Starts the batcher of a connection.
    pub(super) fn start(
        connection: MultiplexedConnection,
        scripts: Arc<Scripts>,
        failures: Arc<FailureTracker>,
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let waiting = Vec::with_capacity(MOST);
        tokio::spawn(Batcher { connection, scripts, failures, queue, waiting }.run());
        Self(sender)
    }

    /// Sends a request. The caller bounds the wait; a request whose caller gave up is not sent.
    pub(super) async fn send(&self, request: ScriptRequest) -> Result<ScriptResponse, Outage> {
        let (response, received) = oneshot::channel();
        let check = PendingCheck { request, response };
        self.0.send(check).await.map_err(|_closed| Outage::Unreachable)?;
        received.await.unwrap_or(Err(Outage::Unreachable))
    }
}

struct Batcher {
    connection: MultiplexedConnection,
    scripts: Arc<Scripts>,
    failures: Arc<FailureTracker>,
    queue: mpsc::Receiver<PendingCheck>,
    waiting: Vec<PendingCheck>,
}

impl Batcher {
    async fn run(mut self) {
        let mut calls = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = calls.next(), if !calls.is_empty() => {}
                gathered = self.gather(), if calls.len() < CALLS => match gathered {
                    Some(batch) if batch.is_empty() => {}
                    Some(batch) => calls.push(self.call(batch)),
                    // The queue is dropped, and no check waits.
                    None => return,
                }
            }
        }
    }

    /// Returns the checks of the next call, as soon as there is one; `None` at the end. No check is
    /// lost if this future is dropped.
    async fn gather(&mut self) -> Option<Vec<PendingCheck>> {
        if self.waiting.is_empty() && self.queue.recv_many(&mut self.waiting, MOST).await == 0 {
            return None;
        }
        self.waiting.retain(|check| !check.response.is_closed());
        let mut keys = 0;
        let fitting = self.waiting.iter().take_while(|check| {
            keys += check.request.keys();
            keys <= MOST_KEYS
        });
        let fitting = fitting.count().max(1).min(self.waiting.len());
        Some(self.waiting.drain(..fitting).collect())
    }

    /// Makes one call and answers every check in it. It borrows nothing, so that other checks can
    /// be gathered meanwhile.
    fn call(&self, batch: Vec<PendingCheck>) -> impl Future<Output = ()> + Send + use<> {
        let (mut connection, scripts, failures) =
            (self.connection.clone(), Arc::clone(&self.scripts), Arc::clone(&self.failures));
        let called_at = Instant::now();
        async move {
            let keys = admit_call::keys(batch.iter().map(|check| &check.request));
            let reply: RedisResult<Vec<u8>> = scripts
                .admit
                .run(&mut connection, keys, |cmd| {
                    admit_call::write(cmd, batch.iter().map(|check| &check.request))
                })
                .await;
            match reply {
                Ok(reply) => {
                    failures.record_success();
                    let mut reply = PackedNumbers::new(&reply);
                    for check in batch {
                        let request = &check.request.request;
                        let response = match admit_call::next_reply(request, called_at, &mut reply)
                        {
                            Some(CheckReply::Response(response)) => Ok(response),
                            Some(CheckReply::Malformed) => Err(failures.record_malformed()),
                            None => Err(Outage::Refused),
                        };
                        let _gave_up = check.response.send(response);
                    }
                }
                Err(error) => {
                    let outage = failures.record_error(&error);
                    for check in batch {
                        let _gave_up = check.response.send(Err(outage));
                    }
                }
            }
        }
    }
}
