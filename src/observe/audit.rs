//! The audit log: one JSON line per check and per admin call, through a bounded queue to one thread that writes.
//!
//! The queue has a fixed number of slots. A line takes a slot, is sent, and the slot is free again when the line was
//! written, so that lines in flight are bounded in number, and with `line::MOST` in bytes: by default 8192 of at most 4 KiB.
//!
//! `on_full: drop` takes the slot when the line is ready, and counts the line as dropped when there is none.
//! `on_full: deny` takes the slot when the check starts, before anything is decided. A check without a slot must be denied
//! ([`super::CheckRecord::has_audit_slot`]); in return a check that was allowed has a slot for its line for certain. Where
//! writing fails, `drop` gives the lines up and `deny` keeps trying, so that the queue fills and nothing passes unrecorded.

mod file;
mod json;
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

pub(crate) use self::queue::Slot;
use self::{file::LogFile, queue::Queue, writer::Sink};

/// Room for nearly every line.
const USUAL_LINE: usize = 768;

/// The section `audit`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// `stdout`, `file:/path`, or `none`. A file is appended to, made with mode 0640, and opened anew when its path leads to another file,
    /// so a rotation that renames needs no signal. Default `stdout`, where a container's log is collected; logs of the program
    /// itself go to stderr.
    #[serde(default)]
    pub to: AuditTarget,
    /// Lines that may wait to be written, at most 4 KiB each. Default 8192: seconds of a disk's or a collector's pause under load, in at
    /// most 32 MiB.
    #[serde(default = "queue")]
    pub queue: u32,
    /// What happens when the queue is full: `drop` the line and count it in `tollgate_audit_dropped_total`, or `deny` the check with
    /// `overloaded`. Default `drop`: a stuck log collector must not stop the service. Choose `deny` where nothing may pass unrecorded.
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

/// `audit.to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output.
    #[default]
    Stdout,
    /// A file.
    File(String),
    /// Nowhere.
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

/// `audit.on_full`.
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
    /// Notes what is wrong with the section.
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

/// The audit log could not be started.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file cannot be written.
    #[error("cannot open the audit log `{path}`: {error}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// There is no thread to be had.
    #[error("cannot start the thread that writes the audit log: {0}")]
    Thread(io::Error),
}

/// The log.
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

/// Lines that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The queue was full, or closed already.
    pub full: u64,
    /// Writing failed.
    pub write: u64,
}

/// How full the queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUsage {
    /// Places that are taken.
    pub used: usize,
    /// Places there are.
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
    /// The file cannot be opened, or no thread started.
    pub fn start(config: &AuditConfig) -> Result<Self, AuditError> {
        let sink = match &config.to {
            AuditTarget::None => return Ok(Self::off()),
            // The descriptor itself: a buffer of the library's would tell us that a line was written before it was.
            AuditTarget::Stdout => {
                let fd = io::stdout().as_fd().try_clone_to_owned();
                let fd = fd.map_err(|error| AuditError::Open { path: "stdout".into(), error })?;
                Sink::Other(Box::new(std::fs::File::from(fd)))
            }
            AuditTarget::File(path) => {
                let file = LogFile::open(path.into())
                    .map_err(|error| AuditError::Open { path: path.clone(), error })?;
                Sink::File(file)
            }
        };
        Self::with_sink(sink, config)
    }

    /// A log that writes to `writer`, which should not buffer, whatever `config.to` says.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn to_writer(
        writer: Box<dyn Write + Send>,
        config: &AuditConfig,
    ) -> Result<Self, AuditError> {
        Self::with_sink(Sink::Other(writer), config)
    }

    /// A log that writes nothing.
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
                // Nobody waits for the end when the process did not ask for it.
                let _ = ended.try_send(());
            })
            .map_err(AuditError::Thread)?;
        Ok(Self {
            open: Some(Open { queue, slots, on_full: config.on_full, end: Mutex::new(Some(end)) }),
        })
    }

    /// Takes a slot when a check starts. `Err` says that it must be denied, `Ok(None)` that its line takes a slot when it is
    /// ready or is not written at all.
    pub(crate) fn reserve(&self) -> Result<Option<Slot<'_>>, QueueFull> {
        match &self.open {
            Some(open) if open.on_full == OnFull::Deny => {
                open.queue.reserve().map(Some).ok_or(QueueFull)
            }
            _ => Ok(None),
        }
    }

    /// Whether lines are written at all.
    pub(crate) fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// Writes one line, in the slot that was taken for it or in one that is free now.
    pub(crate) fn write<'q>(&'q self, slot: Option<Slot<'q>>, line: impl FnOnce(&mut Vec<u8>)) {
        let Some(open) = &self.open else { return };
        let Some(slot) = slot.or_else(|| open.queue.reserve()) else {
            return open.queue.count_full();
        };
        // Not in the queue itself, which is nobody else's meanwhile.
        let mut bytes = Vec::with_capacity(USUAL_LINE);
        line(&mut bytes);
        bytes.push(b'\n');
        open.queue.push(slot, &bytes);
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> Dropped {
        self.open.as_ref().map_or_else(Dropped::default, |open| open.queue.dropped())
    }

    /// Lines that wait to be written, and how many may; `None` when nothing is written.
    pub fn usage(&self) -> Option<QueueUsage> {
        let open = self.open.as_ref()?;
        Some(QueueUsage {
            used: open.slots.saturating_sub(open.queue.free_slots()),
            slots: open.slots,
        })
    }

    /// Writes what waits and ends the thread; lines that come later are dropped. Waits no longer than `deadline` (the thread may be
    /// stuck in a write), and blocks: call it off the runtime. Says whether everything was written.
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
