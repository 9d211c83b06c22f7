//! Work that may block without end: on a thread of its own, once at a time for each key.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// The work that has not ended, by key.
///
/// INVARIANT: there is one thread at most for each key, however often its result is requested, and
/// a thread that hangs is waited for by nothing, not even by the end of the process.
pub(crate) struct Outstanding<K, T> {
    work: Mutex<BTreeMap<K, Running<T>>>,
}

struct Running<T> {
    since: Instant,
    waiting: Vec<Deliver<T>>,
}

type Deliver<T> = Box<dyn FnOnce(T) + Send>;

/// The reason why there is no result.
#[derive(Debug)]
pub(crate) enum Stalled {
    /// The work has not ended in time, or work that was begun before has not.
    Hangs,
    /// There is no thread for it.
    NoThread(io::Error),
}

impl<K, T> Outstanding<K, T>
where
    K: Ord + Clone + Send + 'static,
    T: Clone + Send + 'static,
{
    /// Creates a table without work.
    pub(crate) const fn new() -> Self {
        Self { work: Mutex::new(BTreeMap::new()) }
    }

    /// Returns the result of `work`, or of the work for this key that is under way.
    ///
    /// # Errors
    /// See [`Stalled`]. Work that takes longer than `within` continues; until it ends, every
    /// request for its key fails at once.
    pub(crate) async fn run(
        &'static self,
        key: K,
        within: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stalled> {
        let (sender, receiver) = oneshot::channel();
        // A caller that is gone needs no result.
        let deliver = Box::new(move |result| drop(sender.send(result)));
        let left = self.begin(key, within, deliver, work)?;
        match tokio::time::timeout(left, receiver).await {
            Ok(Ok(result)) => Ok(result),
            _ => Err(Stalled::Hangs),
        }
    }

    /// As [`Self::run`], on a thread that may block.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn run_blocking(
        &'static self,
        key: K,
        within: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stalled> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let deliver = Box::new(move |result| drop(sender.try_send(result)));
        let left = self.begin(key, within, deliver, work)?;
        receiver.recv_timeout(left).map_err(|_| Stalled::Hangs)
    }

    /// Starts the work, or joins that under way. Returns the time that is left for it.
    fn begin(
        &'static self,
        key: K,
        within: Duration,
        deliver: Deliver<T>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Duration, Stalled> {
        let mut table = self.table();
        if let Some(running) = table.get_mut(&key) {
            let left = within.saturating_sub(running.since.elapsed());
            if left.is_zero() {
                return Err(Stalled::Hangs);
            }
            running.waiting.push(deliver);
            return Ok(left);
        }
        table.insert(key.clone(), Running { since: Instant::now(), waiting: vec![deliver] });
        // The thread needs the table to deliver.
        drop(table);
        let end = End { table: self, key, delivered: false };
        let thread = thread::Builder::new().name("tollgate-file".into());
        // The entry is removed with `end`, also where the thread does not start.
        let started = thread.spawn(move || {
            let end = end;
            let result = work();
            end.deliver(result);
        });
        started.map(|_detached| within).map_err(Stalled::NoThread)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<K, Running<T>>> {
        // Nothing is half-written: an entry is inserted or removed whole.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the entry of the work at its end, which may be a panic.
struct End<K: Ord + 'static, T: 'static> {
    table: &'static Outstanding<K, T>,
    key: K,
    delivered: bool,
}

impl<K: Ord, T: Clone> End<K, T> {
    fn deliver(mut self, result: T) {
        self.delivered = true;
        let mut waiting = self.remove();
        let last = waiting.pop();
        for deliver in waiting {
            deliver(result.clone());
        }
        if let Some(deliver) = last {
            deliver(result);
        }
    }
}

impl<K: Ord, T> End<K, T> {
    fn remove(&self) -> Vec<Deliver<T>> {
        let mut table = self.table.work.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(&self.key).map(|running| running.waiting).unwrap_or_default()
    }
}

impl<K: Ord, T> Drop for End<K, T> {
    fn drop(&mut self) {
        // After a delivery the key may be in use again.
        if !self.delivered {
            drop(self.remove());
        }
    }
}
