//! Checks that come while a call is under way go together in the next: one script call for all that wait.
//!
//! A check that finds nothing under way goes at once, so nobody waits to be gathered. Redis spends most of a call on what
//! surrounds the script, and so does this process; both do it once for a batch (docs/benchmarks.md, "Redis").

use std::sync::Arc;

use ::redis::{RedisResult, aio::MultiplexedConnection};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tollgate_core::admission::Outage;

use super::{
    link::Pulse,
    packed::Numbers,
    question::{self, Answered, Asked, Said},
    script::Scripts,
};

/// Checks in one call: a script of so many holds Redis for a third of a millisecond, in which nobody else is answered.
const MOST: usize = 64;
/// Keys in one call, but for a single check that has more: Lua passes no more than 8000 arguments.
const MOST_KEYS: usize = 4000;
/// Calls under way at once: one that Redis works on, and one that is on its way meanwhile.
const CALLS: usize = 2;
/// Checks that wait to be gathered; more wait in their own tasks, each within its deadline.
const QUEUE: usize = 1024;

/// A check, and who waits for its answer.
pub(super) struct Question {
    asked: Asked,
    answer: oneshot::Sender<Result<Answered, Outage>>,
}

/// Where checks are gathered. What gathers them ends with the last of these.
pub(super) struct Queue(mpsc::Sender<Question>);

impl Queue {
    /// Begins to gather for a connection.
    pub(super) fn start(
        connection: MultiplexedConnection,
        scripts: Arc<Scripts>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let batcher =
            Batcher { connection, scripts, pulse, queue, waiting: Vec::with_capacity(MOST) };
        tokio::spawn(batcher.run());
        Self(sender)
    }

    /// Asks. The caller bounds the wait; a question nobody waits for any more is not sent.
    pub(super) async fn ask(&self, asked: Asked) -> Result<Answered, Outage> {
        let (answer, answered) = oneshot::channel();
        let question = Question { asked, answer };
        self.0.send(question).await.map_err(|_closed| Outage::Unreachable)?;
        answered.await.unwrap_or(Err(Outage::Unreachable))
    }
}

struct Batcher {
    connection: MultiplexedConnection,
    scripts: Arc<Scripts>,
    pulse: Arc<Pulse>,
    queue: mpsc::Receiver<Question>,
    waiting: Vec<Question>,
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
                    // Nobody asks any more, and nobody waits.
                    None => return,
                }
            }
        }
    }

    /// The checks of the next call, as soon as there is one; `None` at the end. Dropped, it loses none.
    async fn gather(&mut self) -> Option<Vec<Question>> {
        if self.waiting.is_empty() && self.queue.recv_many(&mut self.waiting, MOST).await == 0 {
            return None;
        }
        self.waiting.retain(|question| !question.answer.is_closed());
        let mut keys = 0;
        let fitting = self.waiting.iter().take_while(|question| {
            keys += question.asked.keys();
            keys <= MOST_KEYS
        });
        let fitting = fitting.count().max(1).min(self.waiting.len());
        Some(self.waiting.drain(..fitting).collect())
    }

    /// One call, and its answer to everybody in it. It borrows nothing, so that others can be gathered meanwhile.
    fn call(&self, batch: Vec<Question>) -> impl Future<Output = ()> + Send + use<> {
        let (mut connection, scripts, pulse) =
            (self.connection.clone(), Arc::clone(&self.scripts), Arc::clone(&self.pulse));
        async move {
            let keys = batch.iter().map(|question| question.asked.keys()).sum();
            let reply: RedisResult<Vec<u8>> = scripts
                .admit
                .run(&mut connection, keys, |cmd| {
                    question::write(cmd, batch.iter().map(|question| &question.asked))
                })
                .await;
            match reply {
                Ok(reply) => {
                    pulse.worked();
                    let mut reply = Numbers::of(&reply);
                    for question in batch {
                        let answer =
                            match question::next_answer(&question.asked.demands, &mut reply) {
                                Some(Said::Answers(answers)) => Ok(answers),
                                Some(Said::Unreadable) => Err(pulse.unreadable()),
                                None => Err(Outage::Refused),
                            };
                        let _gave_up = question.answer.send(answer);
                    }
                }
                Err(error) => {
                    let outage = pulse.failed(&error);
                    for question in batch {
                        let _gave_up = question.answer.send(Err(outage));
                    }
                }
            }
        }
    }
}
