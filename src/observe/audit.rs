//! The audit log: one JSON line per check and per admin call, through a bounded queue to one thread that writes.
//!
//! The queue has a fixed number of places. A line takes a place, is sent, and the place is free again when the line was
//! written, so that lines in flight are bounded in number, and with `line::MOST` in bytes: by default 8192 of at most 4 KiB.
//!
//! `on_full: drop` takes the place when the line is ready, and counts the line as dropped when there is none.
//! `on_full: deny` takes the place when the check starts, before anything is decided. A check without a place must be denied
//! ([`super::CheckRecord::has_room`]); in return a check that was allowed has a place for its line for certain. Where
//! writing fails, `drop` gives the lines up and `deny` keeps trying, so that the queue fills and nothing passes unrecorded.

mod file;
mod json;
pub(crate) mod line;
mod writer;

use std::{
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tollgate_core::config::{Errors, Path};

use self::{file::LogFile, writer::Sink};

/// The section `audit`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
            _ => Err(serde::de::Error::custom(format!("`{text}` is not `stdout`, `none` or `file:/path`"))),
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
    pub fn check(&self, path: &Path, errors: &mut Errors) {
        if !(1..=1_000_000).contains(&self.queue) {
            errors.push(&path.key("queue"), format!("`{}` is not between 1 and 1000000", self.queue));
        }
        if self.to == AuditTarget::None && self.on_full == OnFull::Deny {
            errors
                .push(&path.key("on_full"), "`deny` has no meaning while nothing is written; remove it, or choose another `to`");
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
    lines: SyncSender<Message>,
    shared: Arc<Shared>,
    places: usize,
    on_full: OnFull,
    end: Mutex<Option<Receiver<()>>>,
}

/// What the senders and the thread share.
#[derive(Debug)]
struct Shared {
    free: AtomicUsize,
    ending: AtomicBool,
    full: AtomicU64,
    write: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    End,
}

/// A place in the queue. One that is dropped unused is free again.
#[derive(Debug)]
#[must_use]
pub(crate) struct Place(Option<Arc<Shared>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.free.fetch_add(1, Release);
        }
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
pub struct Waiting {
    /// Places that are taken.
    pub lines: usize,
    /// Places there are.
    pub places: usize,
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
                let file = LogFile::open(path.into()).map_err(|error| AuditError::Open { path: path.clone(), error })?;
                Sink::File(file)
            }
        };
        Self::with_sink(sink, config)
    }

    /// A log that writes to `writer`, which should not buffer, whatever `config.to` says.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn to_writer(writer: Box<dyn Write + Send>, config: &AuditConfig) -> Result<Self, AuditError> {
        Self::with_sink(Sink::Other(writer), config)
    }

    /// A log that writes nothing.
    pub fn off() -> Self {
        Self { open: None }
    }

    fn with_sink(sink: Sink, config: &AuditConfig) -> Result<Self, AuditError> {
        let places = usize::try_from(config.queue).unwrap_or(usize::MAX);
        // One more than there are places for lines, so that the end can always be sent.
        let (lines, queue) = sync_channel(places.saturating_add(1));
        let (ended, end) = sync_channel(1);
        let shared = Arc::new(Shared {
            free: AtomicUsize::new(places),
            ending: AtomicBool::new(false),
            full: AtomicU64::new(0),
            write: AtomicU64::new(0),
        });
        let writer = writer::Writer::new(sink, queue, Arc::clone(&shared), config);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                writer.run();
                // Nobody waits for the end when the process did not ask for it.
                let _ = ended.try_send(());
            })
            .map_err(AuditError::Thread)?;
        Ok(Self { open: Some(Open { lines, shared, places, on_full: config.on_full, end: Mutex::new(Some(end)) }) })
    }

    /// Takes a place when a check starts. `Err` says that it must be denied, `Ok(None)` that its line takes a place when it is
    /// ready or is not written at all.
    pub(crate) fn reserve(&self) -> Result<Option<Place>, Full> {
        match &self.open {
            Some(open) if open.on_full == OnFull::Deny => open.shared.take().map(Some).ok_or(Full),
            _ => Ok(None),
        }
    }

    /// Whether lines are written at all.
    pub(crate) fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// Writes one line, in the place that was taken for it or in one that is free now.
    pub(crate) fn write(&self, place: Option<Place>, line: impl FnOnce(&mut Vec<u8>)) {
        let Some(open) = &self.open else { return };
        let Some(mut place) = place.or_else(|| open.shared.take()) else {
            open.shared.full.fetch_add(1, Relaxed);
            return;
        };
        let mut bytes = Vec::with_capacity(512);
        line(&mut bytes);
        bytes.push(b'\n');
        if open.lines.try_send(Message::Line(bytes)).is_ok() {
            // The thread frees the place when the line was written.
            place.0 = None;
        } else {
            open.shared.full.fetch_add(1, Relaxed);
        }
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> Dropped {
        self.open.as_ref().map_or_else(Dropped::default, |open| Dropped {
            full: open.shared.full.load(Relaxed),
            write: open.shared.write.load(Relaxed),
        })
    }

    /// Lines that wait to be written, and how many may; `None` when nothing is written.
    pub fn waiting(&self) -> Option<Waiting> {
        let open = self.open.as_ref()?;
        Some(Waiting { lines: open.places.saturating_sub(open.shared.free.load(Relaxed)), places: open.places })
    }

    /// Writes what waits and ends the thread; lines that come later are dropped. Waits no longer than `deadline` (the thread may be
    /// stuck in a write), and blocks: call it off the runtime. Says whether everything was written.
    pub fn close(&self, deadline: Duration) -> bool {
        let Some(open) = &self.open else { return true };
        let Some(end) = open.end.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
        let before = self.dropped().write;
        open.shared.ending.store(true, Release);
        // It fits: lines have one place less. If it does not, the thread has ended.
        let _ = open.lines.try_send(Message::End);
        end.recv_timeout(deadline).is_ok() && self.dropped().write == before
    }
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Shared {
    fn take(self: &Arc<Self>) -> Option<Place> {
        self.free.fetch_update(Acquire, Relaxed, |free| free.checked_sub(1)).ok().map(|_| Place(Some(Arc::clone(self))))
    }
}

#[cfg(test)]
mod tests;
