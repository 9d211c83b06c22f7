//! A log file that may be renamed under us.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

/// A file that is appended to, and opened anew when its path leads to another file or to none.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode.
    id: (u64, u64),
}

impl LogFile {
    /// Opens or makes the file. Its mode is 0640: who asked for what is nobody else's business, and a collector in the group may read.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        let meta = file.metadata()?;
        Ok(Self { path, file, id: (meta.dev(), meta.ino()) })
    }

    /// Opens the path anew when it leads elsewhere: one `stat`, asked once per batch. While it cannot be opened, the old file goes on.
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
