//! The calls of one connection, counted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use crate::withheld::Withheld;

/// One answered call in `Activity::answers`, above the calls that wait: one addition changes both.
const ANSWERED: u64 = 1 << 32;

/// Counts the calls of one connection, for its owner, who may close it between two answers.
#[derive(Debug, Default)]
pub struct Activity {
    calls: AtomicU64,
    /// The calls that wait for their answers, and in units of [`ANSWERED`] those that were answered.
    answers: AtomicU64,
    generated: AtomicUsize,
    withheld: Arc<Withheld>,
    closing: AtomicBool,
    closed: Notify,
}

impl Activity {
    /// Creates the counters of a connection, whose peer withholds what `withheld` counts.
    #[must_use]
    pub fn of_peer(withheld: Arc<Withheld>) -> Self {
        Self { withheld, ..Self::default() }
    }

    /// What the peer of the connection withholds, on this one and others.
    #[must_use]
    pub fn withheld(&self) -> &Arc<Withheld> {
        &self.withheld
    }

    /// Counts a call.
    pub fn record_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of calls since the start.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether a call has arrived as a whole and waits for its answer. A call whose message is
    /// withheld, and a stream that stays open, do not count.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.answers.load(Ordering::Acquire) & (ANSWERED - 1) > 0
    }

    /// The number of calls that arrived as a whole and were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answers.load(Ordering::Acquire) / ANSWERED
    }

    /// Begins the answer to a call, until the returned value is dropped.
    #[must_use]
    pub fn begin_answer(self: &Arc<Self>) -> Answering {
        self.answers.fetch_add(1, Ordering::AcqRel);
        Answering(Arc::clone(self))
    }

    /// Opens a call of a generated service, unless `most` are open.
    pub(crate) fn open_generated(self: &Arc<Self>, most: usize) -> Option<OpenGenerated> {
        let open = OpenGenerated(Arc::clone(self));
        (self.generated.fetch_add(1, Ordering::AcqRel) < most).then_some(open)
    }

    /// Ends the streams of the connection.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.closed.notify_waiters();
    }

    /// Waits until [`close`](Self::close) is called.
    pub(crate) async fn closed(&self) {
        let closed = self.closed.notified();
        if !self.closing.load(Ordering::Acquire) {
            closed.await;
        }
    }
}

/// A call that is being answered.
#[derive(Debug)]
pub struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.fetch_add(ANSWERED - 1, Ordering::AcqRel);
    }
}

/// An open call of a generated service.
#[derive(Debug)]
pub(crate) struct OpenGenerated(Arc<Activity>);

impl Drop for OpenGenerated {
    fn drop(&mut self) {
        self.0.generated.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_calls_are_bounded_and_their_places_come_back() {
        let activity = Arc::new(Activity::default());
        let first = activity.open_generated(2);
        let second = activity.open_generated(2);
        assert!(first.is_some() && second.is_some());
        assert!(activity.open_generated(2).is_none());
        drop(first);
        assert!(activity.open_generated(2).is_some());
    }

    #[test]
    fn a_connection_answers_until_its_last_answer() {
        let activity = Arc::new(Activity::default());
        let (first, second) = (activity.begin_answer(), activity.begin_answer());
        drop(first);
        assert!(activity.is_answering());
        drop(second);
        assert!(!activity.is_answering());
        assert_eq!(activity.answered(), 2);
    }
}
