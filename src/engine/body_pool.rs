//! Threads that read large bodies, so that the tasks that answer other checks do not wait for them.
//!
//! All checks of a connection are answered by one task. A body of some MiB takes tens of
//! milliseconds to read, and would delay the checks of every other client on the connection.

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::background;

/// A message of this size is read by the task that answers it; a larger one by a thread of the pool.
///
/// The slowest bodies are read at 0.18 GB/s (`cargo bench -p tollgate-core --bench body`), so that a
/// check delays another by a third of a millisecond at most. Chats are shorter, and would take
/// longer to be handed over than to be read.
pub const INLINE: usize = 64 << 10;

/// Bodies up to this size do not wait behind larger ones.
const MIDDLE: usize = 1 << 20;

/// The most bodies that wait, or are read, in each lane.
const PLACES: usize = 64;

/// The threads for large bodies, in two lanes.
#[derive(Debug)]
pub(super) struct BodyPool {
    middle: Lane,
    large: Lane,
}

/// Bodies of similar size, which are read in the order of their arrival.
#[derive(Debug)]
struct Lane {
    places: Arc<Semaphore>,
    /// The number of threads, which start with the first body.
    threads: usize,
    /// Ends the threads when it is dropped.
    jobs: OnceLock<Sender<Job>>,
}

/// The reading of one body, which sends its result.
type Job = Box<dyn FnOnce() + Send>;

/// The longest time that a check waits for the reading of its body. It leaves time for the store,
/// before the proxy stops waiting.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(1);

/// The most bodies that one client may have in a lane.
pub(super) const CLIENT_PLACES: u32 = 16;

/// The reason why a body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum BodyPoolError {
    /// Too many bodies wait.
    #[error("too many large bodies wait to be read")]
    Full,
    /// Its turn, or the end of the reading, did not come in time.
    #[error("the body was not read in time")]
    Late,
    /// A panic ended the reading.
    #[error("a panic inside the reading of a body")]
    Panic,
}

impl BodyPool {
    /// Creates a pool that uses at most half of the cores for each lane.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self { middle: Lane::new(cores.div_ceil(2)), large: Lane::new(cores.div_ceil(4)) }
    }

    /// Runs `read` for a body of `bytes` on a thread of the pool. If the future is dropped before
    /// its turn, `read` does not run.
    ///
    /// # Errors
    /// Too many bodies wait already, `read` did not end `within` a time, or a panic ended it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        within: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BodyPoolError> {
        let lane = if bytes <= MIDDLE { &self.middle } else { &self.large };
        let place = Arc::clone(&lane.places).try_acquire_owned();
        let place = place.map_err(|_| BodyPoolError::Full)?;
        let (send, result) = oneshot::channel();
        let job = move || {
            if !send.is_closed() {
                let result = catch_unwind(AssertUnwindSafe(read));
                drop(place);
                // A result that nothing waits for any more is dropped.
                let _unsent = send.send(result);
            }
        };
        let jobs = lane.jobs.get_or_init(|| start(lane.threads));
        jobs.send(Box::new(job)).map_err(|_| BodyPoolError::Panic)?;
        match timeout(within, result).await {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(_)) | Err(_)) => Err(BodyPoolError::Panic),
            Err(_) => Err(BodyPoolError::Late),
        }
    }
}

impl Lane {
    fn new(threads: usize) -> Self {
        let places = Arc::new(Semaphore::new(PLACES));
        Self { places, threads, jobs: OnceLock::new() }
    }
}

/// Starts the threads of a lane.
fn start(threads: usize) -> Sender<Job> {
    let (jobs, receiver) = mpsc::channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let receiver = Arc::clone(&receiver);
        let thread = thread::Builder::new().name("body".into());
        if let Err(error) = thread.spawn(move || read_bodies(&receiver)) {
            tracing::error!("a thread for large bodies cannot be started: {error}");
        }
    }
    jobs
}

/// Reads bodies until the lane is dropped.
fn read_bodies(jobs: &Mutex<Receiver<Job>>) {
    background::lower_priority();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    const LARGE: usize = 8 << 20;
    const SOON: Duration = Duration::from_secs(20);

    fn pool() -> BodyPool {
        BodyPool { middle: Lane::new(1), large: Lane::new(1) }
    }

    /// A reading that waits until `end` is used or dropped.
    fn held() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (end, ended) = mpsc::channel();
        (end, move || {
            let _ended = ended.recv_timeout(SOON);
        })
    }

    #[tokio::test]
    async fn middle_bodies_do_not_wait_for_large_ones() {
        let pool = pool();
        let (end, read) = held();
        let mut large = Box::pin(pool.run(LARGE, SOON, read));
        assert!(large.as_mut().now_or_never().is_none());
        assert_eq!(pool.run(MIDDLE, SOON, || 1).await, Ok(1));
        drop(end);
        assert_eq!(large.await, Ok(()));
    }

    #[tokio::test]
    async fn what_finds_no_place_is_refused_at_once() {
        let pool = pool();
        let (end, read) = held();
        let mut first = Box::pin(pool.run(LARGE, SOON, read));
        assert!(first.as_mut().now_or_never().is_none());
        let mut waiting: Vec<_> =
            (1..PLACES).map(|_| Box::pin(pool.run(LARGE, SOON, || ()))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert_eq!(pool.run(LARGE, SOON, || ()).await, Err(BodyPoolError::Full));
        drop(end);
        assert_eq!(first.await, Ok(()));
        assert!(join_all(waiting).await.into_iter().all(|result| result.is_ok()));
        assert_eq!(pool.run(LARGE, SOON, || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_check_that_is_cancelled_before_its_turn_is_not_read() {
        let pool = pool();
        let (end, read) = held();
        let mut first = Box::pin(pool.run(LARGE, SOON, read));
        assert!(first.as_mut().now_or_never().is_none());
        let was_read = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&was_read);
        let mut second =
            Box::pin(pool.run(LARGE, SOON, move || seen.store(true, Ordering::Relaxed)));
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        drop(end);
        assert_eq!(first.await, Ok(()));
        assert_eq!(pool.run(LARGE, SOON, || ()).await, Ok(()));
        assert!(!was_read.load(Ordering::Relaxed));
        assert_eq!(pool.large.places.available_permits(), PLACES);
    }

    /// A proxy treats a check without an answer as failed.
    #[tokio::test]
    async fn a_reading_that_is_late_is_refused() {
        let (_end, read) = held();
        assert_eq!(pool().run(LARGE, Duration::ZERO, read).await, Err(BodyPoolError::Late));
        // Of which the future is kept: without it, the reading would be skipped.
        let pool = pool();
        let (end, read) = held();
        let mut first = Box::pin(pool.run(LARGE, SOON, read));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(
            pool.run(LARGE, Duration::ZERO, || ()).await,
            Err(BodyPoolError::Late),
            "it waits its turn"
        );
        drop(end);
        assert_eq!(first.await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_ends_one_reading_only() {
        let pool = pool();
        assert_eq!(
            pool.run(LARGE, SOON, || panic!("a test")).await,
            Err::<(), _>(BodyPoolError::Panic)
        );
        assert_eq!(pool.run(LARGE, SOON, || ()).await, Ok(()));
    }
}
