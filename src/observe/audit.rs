//! The audit log: one JSON line for each check and each admin call, written by one thread that
//! takes lines from a bounded queue.
//!
//! The queue has a fixed number of slots. A line takes a slot when it is queued, and frees it when
//! it is written. The lines in flight are thereby bounded in number and, by `line::MAX_LINE`, in
//! bytes: by default 8192 lines of at most 5 KiB.
//!
//! With `on_full: drop`, a line takes its slot when it is ready, and is counted as dropped where
//! none is free.
//!
//! With `on_full: deny`, a check takes its slot before anything is decided, and is denied where
//! none is free ([`super::CheckRecord::has_audit_slot`]). A check that was allowed therefore always
//! has a slot for its line.
//!
//! Where writing fails, `drop` discards the lines and `deny` retries, so that the queue fills and
//! no check passes unrecorded.

mod file;
mod json;
pub(crate) mod key_line;
pub(crate) mod line;
mod queue;
mod writer;

use std::{
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tollgate_core::config::{Errors, Path};

pub use self::queue::Dropped;
pub(crate) use self::queue::Slot;
use self::{file::LogFile, queue::Queue, writer::Sink};

/// The buffer for a line: more than almost all lines need.
const USUAL_LINE: usize = 768;

/// The time in which the file must be opened at the start.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// The section `audit`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// `stdout`, `file:/path`, or `none`. A file is appended to, created with mode 0640, and
    /// reopened when its path leads to another file, so a rotation that renames needs no signal.
    /// Default `stdout`, where containers' logs are collected; the program's own log goes to
    /// stderr.
    #[serde(default)]
    pub to: AuditTarget,
    /// The most lines that may wait to be written, at most 5 KiB each. Default 8192: enough for
    /// seconds of a disk's or a collector's pause under load, in at most 32 MiB.
    #[serde(default = "queue")]
    pub queue: u32,
    /// What happens when the queue is full: `drop` the line and count it in
    /// `tollgate_audit_dropped_total`, or `deny` the check with `overloaded`. Default `drop`: a
    /// stuck log collector must not stop the service. Choose `deny` where no check may pass
    /// unrecorded.
    #[serde(default)]
    pub on_full: OnFull,
}

fn queue() -> u32 {
    8192
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { to: AuditTarget::default(), queue: queue(), on_full: OnFull::default() }
    }
}

/// The section `audit.to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditTarget {
    /// The standard output.
    #[default]
    Stdout,
    /// A file, by its absolute path.
    File(String),
    /// No audit log.
    None,
}

impl<'de> Deserialize<'de> for AuditTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (text.as_str(), text.strip_prefix("file:")) {
            ("stdout", _) => Ok(Self::Stdout),
            ("none", _) => Ok(Self::None),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::File(path.to_owned())),
            _ => Err(serde::de::Error::custom(format!(
                "`{text}` is not `stdout`, `none` or `file:/path`"
            ))),
        }
    }
}

impl JsonSchema for AuditTarget {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AuditTarget".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(stdout|none|file:/.*)$" })
    }
}

/// The section `audit.on_full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Count the line as dropped.
    #[default]
    Drop,
    /// Deny the check.
    Deny,
}

impl AuditConfig {
    /// Adds the errors of the section.
    pub fn validate(&self, path: &Path, errors: &mut Errors) {
        if !(1..=1_000_000).contains(&self.queue) {
            errors
                .push(&path.key("queue"), format!("`{}` is not between 1 and 1000000", self.queue));
        }
        if self.to == AuditTarget::None && self.on_full == OnFull::Deny {
            errors.push(
                &path.key("on_full"),
                "`deny` has no meaning while nothing is written; remove it, or choose another `to`",
            );
        }
    }
}

/// The reason why the audit log does not start.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file cannot be opened for writing.
    #[error("cannot open the audit log `{path}`: {error}")]
    Open {
        /// The path of the file.
        path: String,
        /// The system's error.
        error: io::Error,
    },
    /// The system cannot start a thread.
    #[error("cannot start the thread that writes the audit log: {0}")]
    Thread(io::Error),
}

/// The audit log of one process.
#[derive(Debug)]
pub struct Audit {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    queue: Arc<Queue>,
    slots: usize,
    on_full: OnFull,
    end: Mutex<Option<Receiver<()>>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.queue.end();
    }
}

/// The fill level of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUsage {
    /// The slots that are taken.
    pub used: usize,
    /// All slots of the queue.
    pub slots: usize,
}

impl Dropped {
    pub(super) fn by_cause(self) -> [(&'static str, u64); 2] {
        [("full", self.full), ("write", self.write)]
    }
}

impl Audit {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// Returns [`AuditError`] where the file cannot be opened or the thread cannot be started.
    pub fn start(config: &AuditConfig) -> Result<Self, AuditError> {
        let sink = match &config.to {
            AuditTarget::None => return Ok(Self::off()),
            // The descriptor itself: the library's buffer would report a line as written before it
            // was.
            AuditTarget::Stdout => {
                let fd = io::stdout().as_fd().try_clone_to_owned();
                let fd = fd.map_err(|error| AuditError::Open { path: "stdout".into(), error })?;
                Sink::Other(Box::new(std::fs::File::from(fd)))
            }
            AuditTarget::File(path) => {
                let file = LogFile::open_within(path.into(), OPENED_WITHIN)
                    .map_err(|error| AuditError::Open { path: path.clone(), error })?;
                Sink::File(file)
            }
        };
        Self::with_sink(sink, config)
    }

    /// Creates a log that writes to `writer`, whatever `config.to` contains. The writer should not
    /// buffer.
    ///
    /// # Errors
    /// Returns [`AuditError::Thread`] where the thread cannot be started.
    pub fn to_writer(
        writer: Box<dyn Write + Send>,
        config: &AuditConfig,
    ) -> Result<Self, AuditError> {
        Self::with_sink(Sink::Other(writer), config)
    }

    /// Creates a log that writes nothing.
    pub fn off() -> Self {
        Self { open: None }
    }

    fn with_sink(sink: Sink, config: &AuditConfig) -> Result<Self, AuditError> {
        let slots = usize::try_from(config.queue).unwrap_or(usize::MAX);
        let queue = Arc::new(Queue::new(slots));
        let (ended, end) = sync_channel(1);
        let writer = writer::Writer::new(sink, Arc::clone(&queue), config);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                writer.run();
                // Without a receiver the end is of no interest.
                let _ = ended.try_send(());
            })
            .map_err(AuditError::Thread)?;
        Ok(Self {
            open: Some(Open { queue, slots, on_full: config.on_full, end: Mutex::new(Some(end)) }),
        })
    }

    /// Takes a slot at the start of a check. `Err` means that the check must be denied; `Ok(None)`
    /// means that its line takes a slot when it is ready, or is not written at all.
    pub(crate) fn reserve(&self) -> Result<Option<Slot<'_>>, QueueFull> {
        match &self.open {
            Some(open) if open.on_full == OnFull::Deny => {
                let slot = open.queue.reserve().map(Some);
                slot.ok_or(QueueFull).inspect_err(|_| open.queue.count_refused())
            }
            _ => Ok(None),
        }
    }

    /// Whether lines are written at all.
    pub(crate) fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// Writes one line, in the slot that was reserved for it or in one that is free now.
    pub(crate) fn write<'q>(&'q self, slot: Option<Slot<'q>>, line: impl FnOnce(&mut Vec<u8>)) {
        let Some(open) = &self.open else { return };
        let Some(slot) = slot.or_else(|| open.queue.reserve()) else {
            return open.queue.count_full();
        };
        // Formatted outside of the queue's lock.
        let mut bytes = Vec::with_capacity(USUAL_LINE);
        line(&mut bytes);
        bytes.push(b'\n');
        open.queue.push(slot, &bytes);
    }

    /// The number of lines dropped so far.
    pub fn dropped(&self) -> Dropped {
        self.open.as_ref().map_or_else(Dropped::default, |open| open.queue.dropped())
    }

    /// The fill level of the queue; `None` when no lines are written.
    pub fn usage(&self) -> Option<QueueUsage> {
        let open = self.open.as_ref()?;
        Some(QueueUsage {
            used: open.slots.saturating_sub(open.queue.free_slots()),
            slots: open.slots,
        })
    }

    /// Writes the waiting lines and ends the thread; later lines are dropped. Returns whether
    /// everything was written within `deadline`. It blocks, because the thread may be stuck in a
    /// write: call it on a blocking thread.
    pub fn close(&self, deadline: Duration) -> bool {
        let Some(open) = &self.open else { return true };
        let Some(end) = open.end.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return true;
        };
        let before = self.dropped().write;
        open.queue.close();
        end.recv_timeout(deadline).is_ok() && self.dropped().write == before
    }
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

#[cfg(test)]
mod tests;
