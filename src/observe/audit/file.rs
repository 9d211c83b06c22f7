//! A log file that follows renames.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

/// A file that is appended to, and reopened when its path leads to another file or to none.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// The device and the inode of the open file.
    id: (u64, u64),
}

impl LogFile {
    /// Opens or creates the file with mode 0640: the lines hold who requested what, and a collector
    /// in the group may read them.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        let meta = file.metadata()?;
        Ok(Self { path, file, id: (meta.dev(), meta.ino()) })
    }

    /// As [`Self::open`], for the start: a pipe without a reader, or a file system that hangs, must not
    /// keep the process from ending.
    pub(super) fn open_within(path: PathBuf, within: Duration) -> io::Result<Self> {
        let (sender, opened) = mpsc::sync_channel(1);
        // The thread may outlive the attempt; then there is no receiver.
        thread::Builder::new()
            .name("tollgate-audit-open".into())
            .spawn(move || drop(sender.try_send(Self::open(path))))?;
        let hangs = |_| io::Error::new(io::ErrorKind::TimedOut, "it cannot be opened in time");
        opened.recv_timeout(within).map_err(hangs)?
    }

    /// Reopens the path when it leads to another file: one `stat` for each batch. While it cannot
    /// be opened, the old file stays in use.
    pub(super) fn follow(&mut self) {
        let moved =
            fs::metadata(&self.path).map_or(true, |meta| (meta.dev(), meta.ino()) != self.id);
        if moved && let Ok(file) = Self::open(self.path.clone()) {
            *self = file;
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
