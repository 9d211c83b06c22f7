//! Threads that read large bodies, so that the tasks that answer other checks do not wait for them.
//!
//! All checks of a connection are answered by one task. A body of some MiB takes tens of
//! milliseconds to read, and would delay the checks of every other client on the connection.

use std::{num::NonZero, sync::Arc, thread};

use thiserror::Error;
use tokio::sync::Semaphore;

/// A message of this size is read by the task that answers it; a larger one by a thread of the pool.
///
/// The slowest bodies are read at some 0.3 GB/s (`cargo bench -p tollgate-core --bench body`), so
/// that a check delays another by less than a quarter of a millisecond. Chats are shorter, and
/// would take longer to be handed over than to be read.
pub(crate) const INLINE: usize = 64 << 10;

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
    turns: Arc<Semaphore>,
}

/// The reason why a body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum BodyPoolError {
    /// Too many bodies wait.
    #[error("too many large bodies wait to be read")]
    Full,
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
    /// Too many bodies wait already, or a panic ended `read`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BodyPoolError> {
        let lane = if bytes <= MIDDLE { &self.middle } else { &self.large };
        let place = Arc::clone(&lane.places).try_acquire_owned();
        let place = place.map_err(|_| BodyPoolError::Full)?;
        let turn = Arc::clone(&lane.turns).acquire_owned().await;
        let turn = turn.map_err(|_| BodyPoolError::Full)?;
        // The thread ends its work even if nothing waits for it, and holds its turn until then.
        let reading = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            read()
        });
        reading.await.map_err(|_| BodyPoolError::Panic)
    }
}

impl Lane {
    fn new(turns: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), turns: Arc::new(Semaphore::new(turns)) }
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
        let mut large = Box::pin(pool.run(LARGE, read));
        assert!(large.as_mut().now_or_never().is_none());
        assert_eq!(pool.run(MIDDLE, || 1).await, Ok(1));
        drop(end);
        assert_eq!(large.await, Ok(()));
    }

    #[tokio::test]
    async fn what_finds_no_place_is_refused_at_once() {
        let pool = pool();
        let (end, read) = held();
        let mut first = Box::pin(pool.run(LARGE, read));
        assert!(first.as_mut().now_or_never().is_none());
        let mut waiting: Vec<_> = (1..PLACES).map(|_| Box::pin(pool.run(LARGE, || ()))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert_eq!(pool.run(LARGE, || ()).await, Err(BodyPoolError::Full));
        drop(end);
        assert_eq!(first.await, Ok(()));
        assert!(join_all(waiting).await.into_iter().all(|result| result.is_ok()));
        assert_eq!(pool.run(LARGE, || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_check_that_is_cancelled_before_its_turn_is_not_read() {
        let pool = pool();
        let (end, read) = held();
        let mut first = Box::pin(pool.run(LARGE, read));
        assert!(first.as_mut().now_or_never().is_none());
        let was_read = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&was_read);
        let mut second = Box::pin(pool.run(LARGE, move || seen.store(true, Ordering::Relaxed)));
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        drop(end);
        assert_eq!(first.await, Ok(()));
        assert_eq!(pool.run(LARGE, || ()).await, Ok(()));
        assert!(!was_read.load(Ordering::Relaxed));
        assert_eq!(pool.large.places.available_permits(), PLACES);
    }

    #[tokio::test]
    async fn a_panic_ends_one_reading_only() {
        let pool = pool();
        assert_eq!(pool.run(LARGE, || panic!("a test")).await, Err::<(), _>(BodyPoolError::Panic));
        assert_eq!(pool.run(LARGE, || ()).await, Ok(()));
    }
}
