//! The file of keys, read and replaced whole.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tollgate_core::{
    credential::api_key::{KeyFile, KeyLifetimes, KeySpec, LONGEST_LIFE},
    identity::KeyId,
    time::Span,
};

use crate::{
    bounded_file::FileError,
    config::{LoadError, read_keys_blocking},
};

/// The lives that any policy accepts: the policy's own are checked when it reads the file.
const ANY_LIFE: KeyLifetimes = KeyLifetimes::new(LONGEST_LIFE, Span::from_secs(0));

/// The records of a file.
#[derive(Debug)]
pub(super) struct FileStore {
    path: PathBuf,
    keys: Vec<KeySpec>,
    access: Access,
}

/// Who may read the file: what a new one in its place has as well.
#[derive(Debug)]
struct Access {
    mode: u32,
    /// The user and the group of a file that was there before.
    owner: Option<(u32, u32)>,
}

impl FileStore {
    /// Reads the file. One that is missing has no keys if it may be `created`.
    ///
    /// # Errors
    /// The file cannot be read, or has errors: a command never drops a record that it cannot read.
    pub(super) fn open(path: &Path, created: bool) -> anyhow::Result<Self> {
        let text = match read_keys_blocking(path) {
            Ok(text) => text,
            Err(LoadError::Read(FileError::Unreadable { error, .. }))
                if created && error.kind() == std::io::ErrorKind::NotFound =>
            {
                let access = Access { mode: 0o600, owner: None };
                return Ok(Self { path: path.to_owned(), keys: Vec::new(), access });
            }
            Err(error) => return Err(error.into()),
        };
        let invalid = |errors| LoadError::Invalid { path: path.display().to_string(), errors };
        KeyFile::compile(&text, &ANY_LIFE, None).map_err(invalid)?;
        let (file, _) = KeyFile::parse(&text).map_err(invalid)?;
        let data = fs::metadata(path)
            .with_context(|| format!("cannot read the owner of `{}`", path.display()))?;
        let mode = data.permissions().mode() & 0o7777;
        let access = Access { mode, owner: Some((data.uid(), data.gid())) };
        Ok(Self { path: path.to_owned(), keys: file.keys, access })
    }

    /// Returns the records in the order of the file.
    pub(super) fn keys(&self) -> &[KeySpec] {
        &self.keys
    }

    /// Returns the record of an id.
    pub(super) fn find(&self, id: KeyId) -> Option<&KeySpec> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Sets the record of an id.
    pub(super) fn put(&mut self, record: KeySpec) {
        match self.keys.iter_mut().find(|key| key.id == record.id) {
            Some(place) => *place = record,
            None => self.keys.push(record),
        }
    }

    /// Removes the record of an id. Returns whether there was one.
    pub(super) fn remove(&mut self, id: KeyId) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id != id);
        self.keys.len() < before
    }

    /// Writes the file beside itself, and puts it in the place of the one before.
    ///
    /// # Errors
    /// The records contradict each other, or the file cannot be written.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let mut text = String::from("{\"keys\": [");
        for (index, key) in self.keys.iter().enumerate() {
            text.push_str(if index == 0 { "\n  " } else { ",\n  " });
            text.push_str(&serde_json::to_string(key)?);
        }
        text.push_str("\n]}\n");
        if let Err(errors) = KeyFile::compile(&text, &ANY_LIFE, None) {
            let errors: Vec<String> = errors.iter().map(|error| error.message()).collect();
            bail!("{}", errors.join("; "));
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let beside = self.path.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = self.write_beside(&beside, &text);
        let placed = written.and_then(|()| fs::rename(&beside, &self.path));
        if placed.is_err() {
            // The file of the same name is this command's own.
            let _ = fs::remove_file(&beside);
        }
        placed.with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    fn write_beside(&self, beside: &Path, text: &str) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(beside)?;
        file.write_all(text.as_bytes())?;
        if let Some((user, group)) = self.access.owner {
            // Tollgate's user reads the file through its owner or its group. An ordinary user can set
            // a group of its own, but no other owner.
            fchown(&file, Some(user), Some(group)).or_else(|_| fchown(&file, None, Some(group)))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.access.mode))?;
        file.sync_all()
    }
}
