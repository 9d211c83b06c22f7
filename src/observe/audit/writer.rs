//! The thread that writes: whatever waits goes out in one write.

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

/// How long lines are gathered after the first one. A thread that is woken for each line costs the checks more than the lines
/// do, where both share a core; a line in a batch waits this much longer.
const GATHER: Duration = Duration::from_millis(5);

/// The least slots of a queue whose lines are gathered: a small one would fill meanwhile.
const MIN_GATHERED_QUEUE: u32 = 1024;

/// How long to wait before a failed write is tried again (`on_full: deny`).
const PAUSE: Duration = Duration::from_millis(100);

/// Where lines go.
pub(super) enum Sink {
    /// A file of ours.
    File(LogFile),
    /// Standard output, or what a test reads.
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

/// The thread's state.
pub(super) struct Writer {
    sink: Sink,
    queue: Arc<Queue>,
    on_full: OnFull,
    gather: Option<Duration>,
    /// The last write failed: said once, not with every batch.
    failing: bool,
    /// The rest of a line that had begun was given up: the next one must start with a line break.
    partial_line: bool,
}

impl Writer {
    pub(super) fn new(sink: Sink, queue: Arc<Queue>, config: &AuditConfig) -> Self {
        let gather = (config.queue >= MIN_GATHERED_QUEUE).then_some(GATHER);
        Self { sink, queue, on_full: config.on_full, gather, failing: false, partial_line: false }
    }

    /// Writes until there will be no more lines.
    pub(super) fn run(mut self) {
        let mut lines = Lines::default();
        while self.queue.next(&mut lines, self.gather) {
            self.write_batch(&lines.text);
        }
    }

    /// Writes a batch whole, or as far as `on_full` says.
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
                        tracing::error!(%error, "the audit log cannot be written");
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
            tracing::info!("the audit log is written again");
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.partial_line {
            self.sink.write(b"\n")?;
            self.partial_line = false;
        }
        self.sink.write(bytes)
    }

    /// Counts the lines of `rest`, the end of `batch`, as dropped; one that is written in part is dropped too.
    fn give_up(&mut self, batch: &[u8], rest: &[u8]) {
        let lost = rest.iter().filter(|byte| **byte == b'\n').count();
        self.queue.count_lost(lost);
        let written = batch.len().saturating_sub(rest.len());
        self.partial_line |=
            batch.get(..written).and_then(<[u8]>::last).is_some_and(|last| *last != b'\n');
    }
}
