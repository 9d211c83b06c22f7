//! The thread that compiles policies, and frees those that are no longer in force, so that the
//! threads that answer checks do neither.
//!
//! A policy of ten thousand limits takes tens of milliseconds to compile, and milliseconds to free.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::background;

/// How often the thread looks whether the last check under a retired policy has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The thread, which starts with its first job and ends when this value is dropped.
#[derive(Debug, Default)]
pub(super) struct PolicyWorker {
    jobs: OnceLock<Sender<Job>>,
}

enum Job {
    /// Runs a function.
    Run(Box<dyn FnOnce() + Send>),
    /// Keeps a shared value until nothing else has it, and frees it then.
    Retire(Retired),
}

/// A shared value that is no longer in force, inside of a function that returns whether nothing else
/// has it.
type Retired = Box<dyn Fn() -> bool + Send>;

impl PolicyWorker {
    /// Runs a function on the thread; `None` where a panic ended it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (send, result) = oneshot::channel();
        self.send(Job::Run(Box::new(move || {
            let _unsent = send.send(function());
        })));
        result.await.ok()
    }

    /// Frees a value on the thread.
    pub(super) fn discard<T: Send + 'static>(&self, value: T) {
        self.send(Job::Run(Box::new(move || drop(value))));
    }

    /// Frees a shared value on the thread, once the checks that still use it have ended.
    pub(super) fn retire<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        self.send(Job::Retire(Box::new(move || Arc::strong_count(&value) == 1)));
    }

    fn send(&self, job: Job) {
        // A job that cannot be sent is dropped here, with what it owns.
        let _unsent = self.jobs.get_or_init(start).send(job);
    }
}

fn start() -> Sender<Job> {
    let (jobs, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("policy".into());
    if let Err(error) = thread.spawn(move || work(&receiver)) {
        tracing::error!("the thread that compiles policies cannot be started: {error}");
    }
    jobs
}

/// Runs jobs until the worker is dropped.
fn work(jobs: &Receiver<Job>) {
    background::lower_priority();
    let mut retired: Vec<Retired> = Vec::new();
    loop {
        let next = match retired.is_empty() {
            true => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => jobs.recv_timeout(LOOK_EVERY),
        };
        match next {
            Ok(Job::Run(run)) => {
                // The panic is in the log, and its sender is dropped, which the waiting task sees.
                let _panic = catch_unwind(AssertUnwindSafe(run));
            }
            Ok(Job::Retire(value)) => retired.push(value),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        retired.retain(|is_unshared| !is_unshared());
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Weak, thread::ThreadId};

    use tollgate_testkit::wait::until;

    use super::*;

    /// Reports the thread that frees it.
    struct Witness(mpsc::Sender<ThreadId>);

    impl Drop for Witness {
        fn drop(&mut self) {
            let _unread = self.0.send(thread::current().id());
        }
    }

    #[tokio::test]
    async fn a_function_runs_on_the_thread_and_a_panic_leaves_the_thread_usable() {
        let worker = PolicyWorker::default();
        let ran_on = worker.run(|| thread::current().id()).await.unwrap();
        assert_ne!(ran_on, thread::current().id());
        assert_eq!(worker.run::<()>(|| panic!("the function of a test")).await, None);
        assert_eq!(worker.run(|| thread::current().id()).await, Some(ran_on));
    }

    #[tokio::test]
    async fn a_retired_value_is_freed_on_the_thread_after_its_last_user() {
        let worker = PolicyWorker::default();
        let ran_on = worker.run(|| thread::current().id()).await.unwrap();
        let (freed, reports) = mpsc::channel();
        let value = Arc::new(Witness(freed));
        let (user, weak): (_, Weak<_>) = (Arc::clone(&value), Arc::downgrade(&value));
        worker.retire(value);
        // The next job comes after the retired value was looked at.
        worker.run(|| ()).await.unwrap();
        worker.run(|| ()).await.unwrap();
        assert!(weak.upgrade().is_some(), "a check still has it");
        drop(user);
        let freed_by = until("the value to be freed", || reports.try_recv().ok());
        assert_eq!(freed_by, ran_on);
    }

    #[tokio::test]
    async fn a_discarded_value_is_freed_on_the_thread() {
        let worker = PolicyWorker::default();
        let ran_on = worker.run(|| thread::current().id()).await.unwrap();
        let (freed, reports) = mpsc::channel();
        worker.discard(Witness(freed));
        assert_eq!(until("the value to be freed", || reports.try_recv().ok()), ran_on);
    }
}
