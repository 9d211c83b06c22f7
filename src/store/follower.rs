//! The task that keeps a copy of a part of Redis up to date: it is read once as a whole, and then each
//! change.
//!
//! Every change is an entry of a stream in Redis. A connection of its own waits there, so that a
//! change is read as soon as it is made. The copy is confirmed when Redis has no more changes than
//! those that were read. While the entry that was read last is still in the stream, no change was
//! missed; when it is not, or Redis was emptied, everything is read again.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tollgate_core::admission::Outage;

use super::{
    Redis,
    redis::{ChangeSubscription, Cursor},
};

/// How old a copy is.
#[derive(Debug)]
pub(super) struct Freshness {
    started: Instant,
    /// The moment of the last query to which Redis had no more changes, in microseconds since
    /// `started`; 0 before the first one.
    confirmed: AtomicU64,
    /// Whether the copy was read once, or could not be read.
    is_tried: AtomicBool,
}

impl Freshness {
    /// The freshness of a copy that is not read yet.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
            is_tried: AtomicBool::new(false),
        }
    }

    /// The greatest possible age of the copy; `None` before it was first read.
    pub(super) fn age(&self) -> Option<Duration> {
        let confirmed =
            Some(self.confirmed.load(Ordering::Acquire)).filter(|confirmed| *confirmed != 0)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_micros(confirmed)))
    }

    /// Whether the copy was read once, or could not be read.
    pub(super) fn is_tried(&self) -> bool {
        self.is_tried.load(Ordering::Acquire)
    }

    /// Records that Redis had no more changes at `queried`.
    pub(super) fn confirm(&self, queried: Instant) {
        let micros = queried.saturating_duration_since(self.started).as_micros();
        self.confirmed.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }
}

/// A copy that a task keeps up to date.
pub(super) trait Copied: Send + 'static {
    /// What is copied, for the log.
    fn content(&self) -> &'static str;

    /// The age of the copy; `None` where the copy is not used any more, which ends the task.
    fn freshness(&self) -> Option<Arc<Freshness>>;

    /// The longest time between two queries.
    fn refresh(&self) -> Duration;

    /// The change that was read last; `None` where everything is to be read.
    fn cursor(&self) -> Option<&Cursor>;

    /// Reads until Redis has no more changes.
    fn read(&mut self, source: &Redis) -> impl Future<Output = Result<(), Outage>> + Send;

    /// Removes what is no longer used, after each attempt to read.
    fn clean(&mut self) -> impl Future<Output = ()> + Send;

    /// Opens a subscription to the changes; `None` when a connection cannot be made now.
    fn subscribe(source: &Redis) -> impl Future<Output = Option<ChangeSubscription>> + Send;
}

/// Starts the task that keeps a copy up to date, until the copy is not used any more, `source` is
/// dropped, or `stop`.
pub(super) fn spawn(source: Weak<Redis>, copy: impl Copied, stop: CancellationToken) {
    let follower = Follower { source, copy, subscription: Subscription::Inactive };
    tokio::spawn(async move { stop.run_until_cancelled(follower.run()).await });
}

/// Logs that the changes of a copy do not go on from the last one that was read: Redis lost its data,
/// or had more changes than it keeps. What Redis lost, the copy loses with the next read. Where there was
/// no change yet, there is none to go on from, and nothing to lose.
pub(super) fn warn_of_gap(content: &str, last: &Cursor) {
    if last.is_before_all() {
        return;
    }
    tracing::warn!(
        "store.redis: the changes of the {content} do not go on from the last one that was read; \
         everything is read again. If Redis was emptied or replaced, what it lost is lost here too: \
         compare its lists with what you expect"
    );
}

struct Follower<C> {
    source: Weak<Redis>,
    copy: C,
    subscription: Subscription,
}

enum Subscription {
    Active(ChangeSubscription),
    Inactive,
    /// The user lacks the permission to wait for changes.
    Forbidden,
}

impl<C: Copied> Follower<C> {
    async fn run(mut self) {
        let mut failing = false;
        while let Some(source) = self.source.upgrade() {
            let result = self.copy.read(&source).await;
            let Some(freshness) = self.copy.freshness() else { return };
            freshness.is_tried.store(true, Ordering::Release);
            if let Err(outage) = result
                && !failing
            {
                tracing::warn!(
                    "store.redis: the copy of the {} is not refreshed ({}): {}",
                    self.copy.content(),
                    outage.label(),
                    source.cause(outage)
                );
            }
            failing = result.is_err();
            self.copy.clean().await;
            // Random, so that replicas do not query Redis at the same moments.
            let pause = self.copy.refresh().mul_f64(rand::random_range(0.9..=1.0));
            if matches!(self.subscription, Subscription::Inactive) && !failing {
                let subscription = C::subscribe(&source).await;
                self.subscription =
                    subscription.map_or(Subscription::Inactive, Subscription::Active);
            }
            drop(source);
            if failing || !self.wait_for_change(pause).await {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Waits for a change, for `most` at most. Returns whether it could wait.
    async fn wait_for_change(&mut self, most: Duration) -> bool {
        let (Subscription::Active(subscription), Some(cursor)) =
            (&mut self.subscription, self.copy.cursor())
        else {
            return false;
        };
        match subscription.wait_for_change(cursor, most).await {
            Ok(()) => return true,
            Err(Outage::Refused) => {
                tracing::warn!(
                    "store.redis: changes of the {} are polled every {most:?} instead of pushed, \
                     because redis refuses XREAD; grant `+xread` to the ACL user",
                    self.copy.content()
                );
                self.subscription = Subscription::Forbidden;
            }
            Err(_) => self.subscription = Subscription::Inactive,
        }
        false
    }
}
