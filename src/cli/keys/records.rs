//! The place of the records: a file, the Redis of a configuration, or the admin API of a running
//! Tollgate.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::bail;
use clap::Args;
use tollgate_core::{
    credential::api_key::{KeyLifetimes, KeySpec},
    identity::KeyId,
    time::Timestamp,
};

use super::{admin_store::AdminStore, change, file_store::FileStore, redis_store::RedisStore};

/// The place of the records.
#[derive(Debug, Args)]
#[group(id = "place", required = true, multiple = false, args = ["file", "config", "admin"])]
pub(super) struct Place {
    #[command(flatten)]
    names: PlaceNames,
}

/// The place of the records, for a command that can do without one.
#[derive(Debug, Args)]
#[group(id = "place", multiple = false, args = ["file", "config", "admin"])]
pub(super) struct OptionalPlace {
    #[command(flatten)]
    names: PlaceNames,
}

/// The names of a place, of which one is given.
#[derive(Debug, Args)]
#[group(skip)]
struct PlaceNames {
    /// The file of keys. A key that is added makes the file if it is missing.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The configuration whose Redis has the keys (`api_keys.redis`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin API that manages the keys: `https://host:port`, `unix:/path`, or `http://` on this
    /// machine.
    #[arg(long, value_name = "URL", requires = "token_file")]
    admin: Option<String>,
    /// The file with the bearer token of the admin API; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "admin", conflicts_with_all = ["file", "config"])]
    token_file: Option<String>,
}

/// The records of a place.
pub(super) enum Records {
    /// Records that this command makes and writes.
    Own(OwnRecords),
    /// Records that the admin API makes and writes.
    Admin(AdminStore),
}

/// Records that this command makes and writes.
pub(super) enum OwnRecords {
    File(FileStore),
    Redis(Box<RedisStore>),
}

impl Place {
    /// Opens the place. A file that is missing has no keys if it may be `created`.
    ///
    /// # Errors
    /// The file, the configuration or the token cannot be used.
    pub(super) fn open(&self, created: bool) -> anyhow::Result<Records> {
        match self.names.open(created)? {
            Some(records) => Ok(records),
            // The group is required.
            None => bail!("name the place of the keys with --file, --config or --admin"),
        }
    }

    /// Returns the name of the place for messages.
    pub(super) fn name(&self) -> String {
        self.names.name()
    }
}

impl OptionalPlace {
    /// Opens the place to add a record, if one is given.
    ///
    /// # Errors
    /// The file, the configuration or the token cannot be used.
    pub(super) fn open(&self) -> anyhow::Result<Option<Records>> {
        self.names.open(true)
    }

    /// Returns the name of the place for messages.
    pub(super) fn name(&self) -> String {
        self.names.name()
    }
}

impl PlaceNames {
    fn open(&self, created: bool) -> anyhow::Result<Option<Records>> {
        let own = match self {
            Self { admin: Some(url), token_file, .. } => {
                let token_file = token_file.as_deref().unwrap_or_default();
                return AdminStore::open(url, token_file).map(|admin| Some(Records::Admin(admin)));
            }
            Self { config: Some(config), .. } => {
                OwnRecords::Redis(Box::new(RedisStore::open(config)?))
            }
            Self { file: Some(file), .. } => OwnRecords::File(FileStore::open(file, created)?),
            _ => return Ok(None),
        };
        Ok(Some(Records::Own(own)))
    }

    fn name(&self) -> String {
        let file = |path: &Path| path.display().to_string();
        match self {
            Self { admin: Some(url), .. } => format!("the admin API at {url}"),
            Self { config: Some(config), .. } => format!("store.redis of {}", file(config)),
            Self { file: path, .. } => file(path.as_deref().unwrap_or(Path::new(""))),
        }
    }
}

impl OwnRecords {
    /// Returns the lives that bound the states of its keys.
    pub(super) fn lifetimes(&self) -> KeyLifetimes {
        match self {
            // The policy that bounds the keys of a file is not known here.
            Self::File(_) => KeyLifetimes::UNBOUNDED,
            Self::Redis(redis) => redis.lifetimes(),
        }
    }

    /// Returns the record of an id.
    ///
    /// # Errors
    /// Redis does not answer, or has a record that cannot be read.
    pub(super) fn find(&mut self, id: KeyId) -> anyhow::Result<Option<KeySpec>> {
        match self {
            Self::File(file) => Ok(file.find(id).cloned()),
            Self::Redis(redis) => redis.find(id),
        }
    }

    /// Returns when a key was last used; `None` where that is not known.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) fn last_use(&self, id: KeyId) -> anyhow::Result<Option<Timestamp>> {
        match self {
            Self::File(_) => Ok(None),
            Self::Redis(redis) => Ok(redis.last_uses(&[id])?.into_iter().next().flatten()),
        }
    }

    /// Adds the record of a new key.
    ///
    /// # Errors
    /// The record cannot be written, or there is one of its id or its digest.
    pub(super) fn add(&mut self, record: &KeySpec) -> anyhow::Result<()> {
        match self {
            Self::File(file) => {
                file.put(record.clone());
                file.write()?;
                if let Some(note) = change::note_on_life(record) {
                    writeln!(io::stderr().lock(), "{note}")?;
                }
                Ok(())
            }
            Self::Redis(redis) => redis.add(record),
        }
    }

    /// Replaces the record that [`OwnRecords::find`] returned.
    ///
    /// # Errors
    /// The record cannot be written, or is another one by now.
    pub(super) fn replace(&mut self, record: &KeySpec) -> anyhow::Result<()> {
        match self {
            Self::File(file) => {
                file.put(record.clone());
                file.write()?;
                if let Some(note) = change::note_on_life(record) {
                    writeln!(io::stderr().lock(), "{note}")?;
                }
                Ok(())
            }
            Self::Redis(redis) => redis.replace(record),
        }
    }

    /// Removes the record of an id, whatever it is. Returns whether there was one.
    ///
    /// # Errors
    /// The record cannot be removed.
    pub(super) fn remove(&mut self, id: KeyId) -> anyhow::Result<bool> {
        match self {
            Self::File(file) => {
                let removed = file.remove(id);
                if removed {
                    file.write()?;
                }
                Ok(removed)
            }
            Self::Redis(redis) => redis.remove(id),
        }
    }
}
