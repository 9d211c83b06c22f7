//! Batches: checks that arrive during a call are sent together in the next one.
//!
//! A check that arrives when no call is in progress is sent at once, so no check waits for others.
//! Redis spends most of the time of a call around the script, and so does this process; both do it
//! once for a batch (docs/benchmarks.md, "Redis").
//!
//! The batcher also ends the wait of a check: with an outage if Redis did not answer within the
//! deadline, and with [`Outage::Starved`] if this process had no time to read the answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::{RedisResult, aio::MultiplexedConnection};
use futures_util::{
    FutureExt as _,
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::sync::{mpsc, oneshot};
use tollgate_core::admission::Outage;

use super::{FailureTracker, failures::is_elsewhere, socket::SocketProbe};
use crate::store::redis::{
    admit_call::{self, CheckReply, ScriptRequest, ScriptResponse},
    attended::{AttendedClock, Expiry, Mark},
    keys::Tag,
    packed_list::PackedNumbers,
    script::Scripts,
    settling::ReservationCounts,
};

/// The most checks in one call: a script for so many occupies Redis for a third of a millisecond.
const MOST: usize = 64;

/// The most keys in one call, unless a single check has more: Lua passes at most 8000 arguments.
const MOST_KEYS: usize = 4000;

/// The most calls in progress: one that Redis works on, and one that is on its way.
const CALLS: usize = 2;

/// The most checks in the queue; further ones wait in their own tasks for room in it.
const QUEUE: usize = 1024;

type Responder = oneshot::Sender<Result<ScriptResponse, Unanswered>>;

/// The reason why a check was not answered.
pub(in crate::store::redis) enum Unanswered {
    /// Whether something was charged is not known.
    Outage(Outage),
    /// Nothing was charged, as another server has the keys. This is the request.
    Elsewhere(Box<ScriptRequest>, Outage),
}

impl Unanswered {
    /// The outage that the check sees.
    pub(in crate::store::redis) fn outage(self) -> Outage {
        match self {
            Self::Outage(outage) | Self::Elsewhere(_, outage) => outage,
        }
    }
}

/// A check on its way to the batcher.
struct NewCheck {
    request: ScriptRequest,
    response: Responder,
}

/// A check that is not sent yet.
struct WaitingCheck {
    request: ScriptRequest,
    wait: Wait,
}

/// The wait of one check. Its end takes the responder.
struct Wait {
    since: Mark,
    response: Option<Responder>,
}

/// The checks of a call in progress.
struct OpenCall {
    id: u64,
    waits: Vec<Wait>,
}

impl Wait {
    /// Whether the caller still waits.
    fn is_open(&self) -> bool {
        self.response.as_ref().is_some_and(|response| !response.is_closed())
    }

    fn end(&mut self, response: Result<ScriptResponse, Unanswered>) {
        if let Some(waiting) = self.response.take() {
            let _gave_up = waiting.send(response);
        }
    }
}

/// The end of a call.
struct Reply {
    id: u64,
    requests: Vec<ScriptRequest>,
    called_at: Instant,
    reply: RedisResult<Vec<u8>>,
}

/// The queue of a batcher, whose task ends when the queue is dropped.
pub(super) struct BatchQueue(mpsc::Sender<NewCheck>);

impl BatchQueue {
    /// Starts the batcher of a connection, whose checks wait for up to `deadline`.
    pub(super) fn start(
        connection: MultiplexedConnection,
        tag: Tag,
        socket: SocketProbe,
        deadline: Duration,
        scripts: Arc<Scripts>,
        failures: Arc<FailureTracker>,
        reservations: Arc<ReservationCounts>,
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let batcher = Batcher {
            connection,
            tag,
            socket,
            scripts,
            failures,
            reservations,
            inbox: Inbox { queue, arrived: Vec::with_capacity(MOST), waiting: Vec::new() },
            clock: AttendedClock::new(deadline),
            open: Vec::with_capacity(CALLS),
            calls: 0,
        };
        tokio::spawn(batcher.run());
        Self(sender)
    }

    /// Sends a request. The batcher bounds the wait; a request whose caller gave up is not sent.
    ///
    /// # Errors
    /// The outage of Redis, or [`Outage::Starved`].
    pub(super) async fn send(&self, request: ScriptRequest) -> Result<ScriptResponse, Unanswered> {
        const STARVED: Unanswered = Unanswered::Outage(Outage::Starved);
        let (response, received) = oneshot::channel();
        let check = NewCheck { request, response };
        // A batcher that ended before its queue is a failure of this process, not of Redis.
        self.0.send(check).await.map_err(|_closed| STARVED)?;
        received.await.unwrap_or(Err(STARVED))
    }
}

/// The checks that are not sent yet.
struct Inbox {
    queue: mpsc::Receiver<NewCheck>,
    /// A buffer for checks that were just received.
    arrived: Vec<NewCheck>,
    waiting: Vec<WaitingCheck>,
}

impl Inbox {
    /// Waits until a check can be sent. Returns false at the end of the queue. No check is lost if
    /// this future is dropped.
    async fn ready(&mut self) -> bool {
        !self.waiting.is_empty() || self.queue.recv_many(&mut self.arrived, MOST).await > 0
    }

    /// Begins the waits of the checks that arrived.
    fn begin(&mut self, since: Mark) {
        self.waiting.extend(self.arrived.drain(..).map(|NewCheck { request, response }| {
            WaitingCheck { request, wait: Wait { since, response: Some(response) } }
        }));
    }

    /// Receives every check in the queue.
    fn receive_all(&mut self, since: Mark) {
        while let Ok(check) = self.queue.try_recv() {
            self.arrived.push(check);
        }
        self.begin(since);
    }

    /// Removes the checks of the next call.
    fn next_batch(&mut self) -> impl Iterator<Item = WaitingCheck> {
        self.waiting.retain(|check| check.wait.is_open());
        let mut keys = 0;
        let fitting = self.waiting.iter().take(MOST).take_while(|check| {
            keys += check.request.keys();
            keys <= MOST_KEYS
        });
        let fitting = fitting.count().max(1).min(self.waiting.len());
        self.waiting.drain(..fitting)
    }
}

struct Batcher {
    connection: MultiplexedConnection,
    tag: Tag,
    socket: SocketProbe,
    scripts: Arc<Scripts>,
    failures: Arc<FailureTracker>,
    reservations: Arc<ReservationCounts>,
    inbox: Inbox,
    clock: AttendedClock,
    open: Vec<OpenCall>,
    /// The number of calls since the start.
    calls: u64,
}

impl Batcher {
    async fn run(mut self) {
        let mut calls = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(reply) = calls.next(), if !calls.is_empty() => self.finish(reply),
                ready = self.inbox.ready(), if calls.len() < CALLS => match ready {
                    true => calls.extend(self.next_call()),
                    // The queue is dropped, and no check waits.
                    false => return,
                },
                now = self.clock.tick(), if !calls.is_empty() => {
                    self.inbox.receive_all(self.clock.mark(now));
                    if self.is_overdue(now) {
                        let quiet = self.socket.is_quiet();
                        // Answers that had been read by then reach their checks first.
                        while let Some(Some(reply)) = calls.next().now_or_never() {
                            self.finish(reply);
                        }
                        self.end_waits(now, quiet);
                    }
                }
            }
        }
    }

    /// Starts the next call; `None` if no check waits for one.
    fn next_call(&mut self) -> Option<impl Future<Output = Reply> + Send + use<>> {
        let called_at = Instant::now();
        self.inbox.begin(self.clock.mark(called_at.into()));
        let batch = self.inbox.next_batch().map(|check| (check.request, check.wait));
        let (requests, waits): (Vec<_>, Vec<_>) = batch.unzip();
        if requests.is_empty() {
            return None;
        }
        self.calls += 1;
        let id = self.calls;
        self.open.push(OpenCall { id, waits });
        let (mut connection, scripts) = (self.connection.clone(), Arc::clone(&self.scripts));
        let tag = self.tag.clone();
        let chain = self.reservations.ledger.get();
        Some(async move {
            let keys = admit_call::keys(requests.iter());
            let holds = requests.iter().any(ScriptRequest::holds);
            let script = if holds { &scripts.reserve } else { &scripts.admit };
            let reply = script
                .run(&mut connection, keys, |cmd| {
                    admit_call::write(cmd, &tag, chain, requests.iter());
                })
                .await;
            Reply { id, requests, called_at, reply }
        })
    }

    /// Answers the checks of a call.
    fn finish(&mut self, Reply { id, requests, called_at, reply }: Reply) {
        let Some(at) = self.open.iter().position(|call| call.id == id) else { return };
        let mut call = self.open.swap_remove(at);
        match reply {
            Ok(reply) => {
                self.failures.record_success();
                let mut reply = PackedNumbers::new(&reply);
                for (ScriptRequest { request, .. }, wait) in requests.iter().zip(&mut call.waits) {
                    wait.end(match admit_call::next_reply(request, called_at, &mut reply) {
                        Some(CheckReply::Response(response)) => Ok(response),
                        Some(CheckReply::Malformed) => {
                            Err(Unanswered::Outage(self.failures.record_malformed()))
                        }
                        None => Err(Unanswered::Outage(Outage::Refused)),
                    });
                }
                if requests.iter().any(ScriptRequest::holds) {
                    self.reservations.count_expired(reply.next());
                    self.reservations.count_expired_tokens(&mut reply);
                }
            }
            Err(error) => {
                let outage = self.failures.record_error(&error);
                let is_elsewhere = is_elsewhere(&error);
                for (request, wait) in requests.into_iter().zip(&mut call.waits) {
                    wait.end(Err(match is_elsewhere {
                        true => Unanswered::Elsewhere(Box::new(request), outage),
                        false => Unanswered::Outage(outage),
                    }));
                }
            }
        }
    }

    /// The waits of all checks: those in calls, and those that wait for Redis to answer a call.
    fn waits(&mut self) -> impl Iterator<Item = &mut Wait> {
        let sent = self.open.iter_mut().flat_map(|call| &mut call.waits);
        sent.chain(self.inbox.waiting.iter_mut().map(|check| &mut check.wait))
            .filter(|wait| wait.is_open())
    }

    /// Whether the wait of some check may be over.
    fn is_overdue(&mut self, now: tokio::time::Instant) -> bool {
        let clock = self.clock.reading();
        self.waits().any(|wait| clock.expiry(wait.since, now, true).is_some())
    }

    /// Ends the waits that are over. `is_quiet` is whether nothing that Redis sent was unread.
    fn end_waits(&mut self, now: tokio::time::Instant, is_quiet: bool) {
        let (clock, failures) = (self.clock.reading(), Arc::clone(&self.failures));
        for wait in self.waits() {
            match clock.expiry(wait.since, now, is_quiet) {
                Some(Expiry::Store) => wait.end(Err(Unanswered::Outage(failures.record_timeout()))),
                Some(Expiry::Process) => wait.end(Err(Unanswered::Outage(Outage::Starved))),
                None => {}
            }
        }
        self.inbox.waiting.retain(|check| check.wait.is_open());
    }
}
