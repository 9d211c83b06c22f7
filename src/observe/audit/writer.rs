//! The thread that writes audit lines: all waiting lines in one write.

use std::{
    io::{self, Write},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    AuditConfig, OnFull,
    file::LogFile,
    queue::{Lines, Queue},
};

/// How long lines are gathered after the first one. Waking a thread for each line costs a check
/// more than its line does, where both share a core; a line in a batch waits this much longer.
const GATHER: Duration = Duration::from_millis(5);

/// The smallest queue whose lines are gathered: a smaller one would fill in the meantime.
const MIN_GATHERED_QUEUE: u32 = 1024;

/// The pause before a failed write is retried (`on_full: deny`).
const PAUSE: Duration = Duration::from_millis(100);

/// The destination of lines.
pub(super) enum Sink {
    /// A log file.
    File(LogFile),
    /// Standard output, or a test's writer.
    Other(Box<dyn Write + Send>),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let to: &mut dyn Write = match self {
            Self::File(file) => file,
            Self::Other(writer) => writer,
        };
        match to.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    }

    fn follow(&mut self) {
        if let Self::File(file) = self {
            file.follow();
        }
    }
}

/// The state of the thread.
pub(super) struct Writer {
    sink: Sink,
    queue: Arc<Queue>,
    on_full: OnFull,
    gather: Option<Duration>,
    /// Whether the last write failed, so that a failure is logged once.
    failing: bool,
    /// Whether the rest of a started line was dropped: the next line must start with a line break.
    partial_line: bool,
}

impl Writer {
    pub(super) fn new(sink: Sink, queue: Arc<Queue>, config: &AuditConfig) -> Self {
        let gather = (config.queue >= MIN_GATHERED_QUEUE).then_some(GATHER);
        Self { sink, queue, on_full: config.on_full, gather, failing: false, partial_line: false }
    }

    /// Writes lines until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut lines = Lines::default();
        while self.queue.next(&mut lines, self.gather) {
            self.write_batch(&lines.text);
        }
    }

    /// Writes a batch: all of it, or as far as `on_full` demands.
    fn write_batch(&mut self, batch: &[u8]) {
        self.sink.follow();
        let mut rest = batch;
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !self.failing {
                        self.failing = true;
                        tracing::error!(%error, "audit log write failed");
                    }
                    if self.on_full == OnFull::Drop || self.queue.is_closing() {
                        self.give_up(batch, rest);
                        return;
                    }
                    thread::sleep(PAUSE);
                    self.sink.follow();
                }
            }
        }
        if self.failing && !batch.is_empty() {
            self.failing = false;
            tracing::info!("audit log write works again");
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.partial_line {
            self.sink.write(b"\n")?;
            self.partial_line = false;
        }
        self.sink.write(bytes)
    }

    /// Counts the lines of `rest`, the end of `batch`, as dropped. A line that is written in part
    /// counts as dropped.
    fn give_up(&mut self, batch: &[u8], rest: &[u8]) {
        let lost = rest.iter().filter(|byte| **byte == b'\n').count();
        self.queue.count_lost(lost);
        let written = batch.len().saturating_sub(rest.len());
        self.partial_line |=
            batch.get(..written).and_then(<[u8]>::last).is_some_and(|last| *last != b'\n');
    }
}
