//! Work that must not delay checks, on threads of lower priority.

use std::thread;

use tokio::sync::oneshot;

/// The niceness of such a thread. A thread that answers checks preempts it at once, and does not
/// wait for the end of its time slice. Where checks use a whole core, it still gets a tenth of it.
const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread, for as long as it runs.
pub(crate) fn lower_priority() {
    // It fails where the process is nicer already.
    let _unchanged = rustix::process::setpriority_process(None, NICENESS);
}

/// Runs a function on a thread of its own, of lower priority; `None` where a panic ended it, or
/// where no thread can be started.
///
/// It is for work of milliseconds that comes seldom, such as a scrape of the metrics. A thread
/// cannot have its priority back, so that those of the runtime cannot be lent for it.
pub(crate) async fn run<T: Send + 'static>(
    function: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (send, result) = oneshot::channel();
    let work = move || {
        lower_priority();
        let _unsent = send.send(function());
    };
    if let Err(error) = thread::Builder::new().name("background".into()).spawn(work) {
        tracing::error!("a thread for work in the background cannot be started: {error}");
        return None;
    }
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the niceness of the calling thread, which counts from 20 down in Linux' own terms.
    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn a_function_runs_with_lower_priority_than_its_caller() {
        let before = niceness();
        assert_eq!(run(niceness).await, Some(NICENESS.max(before)));
        assert_eq!(niceness(), before);
    }

    #[tokio::test]
    async fn a_panic_is_no_result() {
        assert_eq!(run::<()>(|| panic!("the function of a test")).await, None);
    }
}
