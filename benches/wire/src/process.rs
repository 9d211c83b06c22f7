//! The CPU time of a process.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

/// Returns the nanoseconds for which the threads of a process have run, by the first number of
/// `/proc/PID/task/*/schedstat`.
pub(crate) fn on_core(process: u32) -> anyhow::Result<u64> {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let mut total = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("process {process} has ended"))? {
        // A thread may end before its file is read. Its time is lost, which is little.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            total += text
                .split(' ')
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .context("schedstat")?;
        }
    }
    Ok(total)
}

/// Returns the nanoseconds for which this thread has run.
pub(crate) fn of_this_thread() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    text.split(' ').next().and_then(|number| number.parse().ok()).context("schedstat")
}
