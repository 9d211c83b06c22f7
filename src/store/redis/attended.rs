//! Deadlines that run only while this process could have noticed the answer.
//!
//! A call to Redis may be unanswered because Redis is slow, or because this process is: its threads
//! are busy with large bodies, or the system gives it no processor. Only the former is an outage.
//! An [`AttendedClock`] divides time into slices and wakes up after each. A slice after which it
//! woke up in time is attended: every task of the store was polled in it as well, so that the
//! request was written and an answer would have been read. The others do not count.

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep, sleep};
use tollgate_core::admission::Outage;

/// The number of slices in a deadline, and the bounds of a slice. An answer passes five tasks, each
/// of which may wait for as long as a wake-up may be late (a quarter of a slice): fewer than eight
/// slices.
const SLICES: u32 = 8;
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_micros(12_500);

/// The accuracy of Tokio's timers, and some time for the thread to wake up.
const TIMER: Duration = Duration::from_micros(1500);

/// The time beyond a deadline after which a call ends whose deadline was not attended.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// The party that a call waited for until its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The store did not answer within the deadline.
    Store,
    /// This process had no time for the call.
    Process,
}

impl Expiry {
    /// The outage that a check sees.
    pub(super) fn outage(self) -> Outage {
        match self {
            Self::Store => Outage::Deadline,
            Self::Process => Outage::Starved,
        }
    }
}

/// The beginning of a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    at: Instant,
    attended: Duration,
    ticks: u64,
}

/// A clock of the time that this process attended to the store.
pub(super) struct AttendedClock {
    reading: Reading,
    slice: Duration,
    tolerance: Duration,
    timer: Pin<Box<Sleep>>,
}

/// The state of a clock after a tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    deadline: Duration,
    attended: Duration,
    ticks: u64,
}

impl AttendedClock {
    /// Creates a clock for waits of up to `deadline`.
    pub(super) fn new(deadline: Duration) -> Self {
        let slice = (deadline / SLICES).clamp(SHORTEST, LONGEST);
        Self {
            reading: Reading { deadline, attended: Duration::ZERO, ticks: 0 },
            slice,
            tolerance: (slice / 4).max(TIMER),
            timer: Box::pin(sleep(slice)),
        }
    }

    /// The beginning of a wait at `now`.
    pub(super) fn mark(&self, now: Instant) -> Mark {
        let Reading { attended, ticks, .. } = self.reading;
        Mark { at: now, attended, ticks }
    }

    /// Waits for the end of the slice. Dropping this future loses nothing. A slice that ended while
    /// the clock was not polled is not attended.
    pub(super) async fn tick(&mut self) -> Instant {
        self.timer.as_mut().await;
        let now = Instant::now();
        self.count(now.saturating_duration_since(self.timer.deadline()));
        self.timer.as_mut().reset(now + self.slice);
        now
    }

    /// Counts a slice after which the clock woke up `late`.
    fn count(&mut self, late: Duration) {
        self.reading.ticks += 1;
        if late <= self.tolerance {
            self.reading.attended += self.slice;
        }
    }

    /// The state after the last tick.
    pub(super) fn reading(&self) -> Reading {
        self.reading
    }
}

impl Reading {
    /// Whether a wait that began at `since` is over at `now`. `is_quiet` is whether nothing that
    /// Redis sent is unread.
    pub(super) fn expiry(self, since: Mark, now: Instant, is_quiet: bool) -> Option<Expiry> {
        let waited = now.saturating_duration_since(since.at);
        if waited < self.deadline {
            None
        } else if is_quiet && self.attended - since.attended >= self.deadline {
            Some(Expiry::Store)
        } else if waited >= self.deadline + GRACE && self.ticks >= since.ticks + 2 {
            // Two ticks: what arrived during a long pause is read before it counts as missing.
            Some(Expiry::Process)
        } else {
            None
        }
    }
}

/// Returns the output of `work`, unless it takes longer than `deadline`.
///
/// # Errors
/// The party that `work` waited for.
pub(super) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Expiry> {
    let mut work = std::pin::pin!(work);
    let mut clock = AttendedClock::new(deadline);
    let since = clock.mark(Instant::now());
    loop {
        tokio::select! {
            biased;
            output = work.as_mut() => return Ok(output),
            now = clock.tick() => {
                if let Some(expiry) = clock.reading().expiry(since, now, true) {
                    return Err(expiry);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const DEADLINE: Duration = Duration::from_millis(80);

    /// Returns the end of a wait of a process that wakes up late after the first slices, and then in
    /// time; `is_quiet` is as for [`Reading::expiry`].
    fn end(late: &[Duration], is_quiet: bool) -> (Expiry, Duration) {
        let mut clock = AttendedClock::new(DEADLINE);
        let begin = Instant::now();
        let since = clock.mark(begin);
        let mut now = begin;
        for late in late.iter().copied().chain(std::iter::repeat(Duration::ZERO)) {
            now += clock.slice + late;
            clock.count(late);
            if let Some(expiry) = clock.reading().expiry(since, now, is_quiet) {
                return (expiry, now - begin);
            }
        }
        unreachable!("every wait ends")
    }

    #[tokio::test]
    async fn a_wait_of_an_idle_process_ends_at_the_deadline() {
        assert_eq!(end(&[], true), (Expiry::Store, DEADLINE));
    }

    #[tokio::test]
    async fn a_wait_ends_at_the_deadline_or_later() {
        let started = Instant::now();
        assert!(within(DEADLINE, pending::<()>()).await.is_err());
        assert!(started.elapsed() >= DEADLINE);
    }

    #[tokio::test]
    async fn output_within_the_deadline_is_returned() {
        assert_eq!(within(DEADLINE, async { 5 }).await, Ok(5));
    }

    #[tokio::test]
    async fn output_that_is_late_because_the_thread_was_busy_is_returned() {
        let work = async {
            sleep(DEADLINE / 2).await;
            5
        };
        let busy = tokio::spawn(async { std::thread::sleep(3 * DEADLINE) });
        assert_eq!(within(DEADLINE, work).await, Ok(5));
        busy.await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_of_a_busy_process_is_not_one_for_the_store() {
        // One thread is busy for most of the time, as with the bodies of many clients.
        let busy = tokio::spawn(async {
            loop {
                std::thread::sleep(2 * DEADLINE);
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(within(DEADLINE, pending::<()>()).await, Err(Expiry::Process));
        busy.abort();
    }

    #[tokio::test]
    async fn one_long_pause_delays_the_end_and_does_not_change_it() {
        assert_eq!(end(&[2 * DEADLINE], true).0, Expiry::Store);
        assert!(end(&[2 * DEADLINE], true).1 > 3 * DEADLINE);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_yet_is_not_missing() {
        let (expiry, waited) = end(&[], false);
        assert_eq!(expiry, Expiry::Process);
        assert!(waited >= DEADLINE + GRACE, "{waited:?}");
    }

    #[tokio::test]
    async fn a_process_that_is_always_late_waits_for_itself() {
        assert_eq!(end(&[DEADLINE; 100], true).0, Expiry::Process);
    }
}
