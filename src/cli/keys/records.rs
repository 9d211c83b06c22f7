//! The place of the records: a file, or the Redis of a configuration.

use std::path::{Path, PathBuf};

use clap::Args;
use tollgate_core::{
    credential::api_key::{KeyLifetimes, KeySpec},
    identity::KeyId,
    time::Timestamp,
};

use super::{file_store::FileStore, redis_store::RedisStore, show::View};
use crate::{cli::Output, observe::now};

/// The place of the records.
#[derive(Debug, Args)]
#[group(id = "place", required = true, multiple = false)]
pub(super) struct Place {
    /// The file of keys.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The configuration whose Redis has the keys (`api_keys.redis`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The place of the records, for a command that can do without one.
#[derive(Debug, Args)]
#[group(id = "place", multiple = false)]
pub(super) struct OptionalPlace {
    /// The file to add the record to. It is made if it is missing. Without --file and --config the
    /// record is printed.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The configuration to whose Redis the record is added (`api_keys.redis`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The records of a place.
pub(super) enum Records {
    File(FileStore),
    Redis(Box<RedisStore>),
}

impl Place {
    /// Opens the place. A file that is missing has no keys if it may be `created`.
    ///
    /// # Errors
    /// The file or the configuration cannot be used.
    pub(super) fn open(&self, created: bool) -> anyhow::Result<Records> {
        open(self.file.as_deref(), self.config.as_deref(), created)
    }

    /// Returns the name of the place for messages.
    pub(super) fn name(&self) -> String {
        name(self.file.as_deref(), self.config.as_deref())
    }
}

impl OptionalPlace {
    /// Opens the place to add a record, if one is given.
    ///
    /// # Errors
    /// The file or the configuration cannot be used.
    pub(super) fn open(&self) -> anyhow::Result<Option<Records>> {
        if self.file.is_none() && self.config.is_none() {
            return Ok(None);
        }
        open(self.file.as_deref(), self.config.as_deref(), true).map(Some)
    }

    /// Returns the name of the place for messages.
    pub(super) fn name(&self) -> String {
        name(self.file.as_deref(), self.config.as_deref())
    }
}

fn open(file: Option<&Path>, config: Option<&Path>, created: bool) -> anyhow::Result<Records> {
    match (file, config) {
        (None, Some(config)) => Ok(Records::Redis(Box::new(RedisStore::open(config)?))),
        // One of the two is there: the group is required.
        (file, _) => FileStore::open(file.unwrap_or(Path::new("")), created).map(Records::File),
    }
}

fn name(file: Option<&Path>, config: Option<&Path>) -> String {
    match (file, config) {
        (None, Some(config)) => format!("store.redis of {}", config.display()),
        (file, _) => file.unwrap_or(Path::new("")).display().to_string(),
    }
}

impl Records {
    /// Returns the form in which its records are printed: with their states at this moment.
    pub(super) fn view(&self, output: Output) -> View {
        let lifetimes = match self {
            // The policy that bounds the keys of a file is not known here.
            Self::File(_) => KeyLifetimes::UNBOUNDED,
            Self::Redis(redis) => redis.lifetimes(),
        };
        View { output, now: now(), lifetimes }
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
                file.write()
            }
            Self::Redis(redis) => redis.add(record),
        }
    }

    /// Replaces the record that [`Records::find`] returned.
    ///
    /// # Errors
    /// The record cannot be written, or is another one by now.
    pub(super) fn replace(&mut self, record: &KeySpec) -> anyhow::Result<()> {
        match self {
            Self::File(file) => {
                file.put(record.clone());
                file.write()
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
