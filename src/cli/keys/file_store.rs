//! The file of keys, read and replaced whole.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
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

/// The longest time for which the lock of another command is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The records of a file.
#[derive(Debug)]
pub(super) struct FileStore {
    path: PathBuf,
    /// The text that was read; `None` where there was no file.
    text: Option<String>,
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
        // What a symbolic link leads to is replaced, and not the link: Tollgate may read another one.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = if created { read_if_present(path)? } else { Some(read_keys_blocking(path)?) };
        let Some(text) = text else {
            let access = Access { mode: 0o600, owner: None };
            return Ok(Self { path: target, text: None, keys: Vec::new(), access });
        };
        let invalid = |errors| LoadError::Invalid { path: path.display().to_string(), errors };
        KeyFile::compile(&text, &ANY_LIFE, None).map_err(invalid)?;
        let (file, _) = KeyFile::parse(&text).map_err(invalid)?;
        let data = fs::metadata(path)
            .with_context(|| format!("cannot read the owner of `{}`", path.display()))?;
        let mode = data.permissions().mode() & 0o7777;
        let access = Access { mode, owner: Some((data.uid(), data.gid())) };
        Ok(Self { path: target, text: Some(text), keys: file.keys, access })
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
    /// The records contradict each other, the file cannot be written, or another command changed it
    /// since it was read: a record that it removed would come back.
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
        // Held until the file is in its place, so that of two commands the second sees the first. Without
        // the lock there is the comparison alone: a revocation must not depend on the holder of a lock.
        let _lock = lock(self.path.parent());
        if read_if_present(&self.path)? != self.text {
            bail!("`{}` was changed meanwhile; repeat the command", self.path.display());
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

    fn write_beside(&self, beside: &Path, text: &str) -> io::Result<()> {
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

/// Reads the file; `None` where there is none.
fn read_if_present(path: &Path) -> Result<Option<String>, LoadError> {
    match read_keys_blocking(path) {
        Ok(text) => Ok(Some(text)),
        Err(LoadError::Read(FileError::Unreadable { error, .. }))
            if error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Locks a directory for the commands that change a file in it, until the result is dropped. Every
/// user that may read the directory can hold its lock, so that it is waited for [`LOCK_WAIT`] at most.
fn lock(directory: Option<&Path>) -> io::Result<File> {
    let named = directory.filter(|path| !path.as_os_str().is_empty());
    let directory = File::open(named.unwrap_or(Path::new(".")))?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn record(id: &str) -> KeySpec {
        serde_json::from_value(serde_json::json!({
            "id": id,
            "digest": format!("sha256:{}", "a".repeat(64)),
            "subject": "ci",
            "created": "2026-11-29T00:00:00Z",
        }))
        .unwrap()
    }

    fn ids(path: &Path) -> Vec<String> {
        let file = FileStore::open(path, false).unwrap();
        file.keys().iter().map(|key| key.id.to_string()).collect()
    }

    #[test]
    fn a_command_does_not_undo_the_change_of_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let [mut first, mut second] = [(); 2].map(|()| FileStore::open(&path, true).unwrap());
        first.put(record("7Jk2mN4pQ8rT"));
        first.write().unwrap();
        second.put(record("8Jk2mN4pQ8rT"));
        assert!(second.write().unwrap_err().to_string().contains("changed meanwhile"));
        assert_eq!(ids(&path), ["7Jk2mN4pQ8rT"]);
        // A key that was revoked meanwhile does not come back.
        let [mut revoking, mut adding] = [(); 2].map(|()| FileStore::open(&path, true).unwrap());
        assert!(revoking.remove("7Jk2mN4pQ8rT".parse().unwrap()));
        revoking.write().unwrap();
        adding.put(record("8Jk2mN4pQ8rT"));
        assert!(adding.write().unwrap_err().to_string().contains("changed meanwhile"));
        assert!(ids(&path).is_empty());
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn the_lock_of_another_user_stops_no_revocation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let held = File::open(directory.path()).unwrap();
        held.lock().unwrap();
        let mut file = FileStore::open(&path, true).unwrap();
        file.put(record("7Jk2mN4pQ8rT"));
        file.write().unwrap();
        assert_eq!(ids(&path), ["7Jk2mN4pQ8rT"]);
    }

    #[test]
    fn a_symbolic_link_is_followed_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [path, link] = ["keys.json", "link.json"].map(|name| directory.path().join(name));
        fs::write(&path, "{\"keys\": []}").unwrap();
        symlink("keys.json", &link).unwrap();
        let mut file = FileStore::open(&link, false).unwrap();
        file.put(record("7Jk2mN4pQ8rT"));
        file.write().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(ids(&path), ["7Jk2mN4pQ8rT"]);
    }
}
