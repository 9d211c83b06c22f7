//! Waits for a condition with a deadline. Tests use it instead of fixed pauses.

use std::time::{Duration, Instant};

/// The longest wait of [`until`]: enough for a machine whose cores are all busy.
pub const SOON: Duration = Duration::from_secs(20);

/// The pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Polls `condition` until it returns a value.
///
/// # Panics
/// There is no value within [`SOON`]; the message names `what` was awaited.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let Some(found) = within(SOON, condition) else { missed(what) };
    found
}

/// Polls `condition` until it returns a value, for `span` at most.
pub fn within<T>(span: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + span;
    loop {
        // The condition is read once more after the deadline, in case this thread was suspended.
        let last = Instant::now() >= deadline;
        if let Some(found) = condition() {
            return Some(found);
        }
        if last {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Polls `condition` until it returns a value, without blocking the runtime's thread.
///
/// # Panics
/// There is no value within [`SOON`]; the message names `what` was awaited.
#[cfg(feature = "tokio")]
pub async fn until_async<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        let last = Instant::now() >= deadline;
        if let Some(found) = condition().await {
            return found;
        }
        if last {
            missed(what);
        }
        tokio::time::sleep(POLL).await;
    }
}

#[expect(clippy::panic, reason = "a missed condition fails the test")]
#[track_caller]
fn missed(what: &str) -> ! {
    panic!("not within {} s: {what}", SOON.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let found = within(SOON, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, Some(3));
    }

    #[test]
    fn the_deadline_ends_the_wait_after_one_more_look() {
        let mut looks = 0;
        let found: Option<()> = within(Duration::ZERO, || {
            looks += 1;
            None
        });
        assert_eq!((found, looks), (None, 1));
    }
}
