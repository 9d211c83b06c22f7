//! The place of the revocations and bans that a command changes: a Redis, or the admin API.

use anyhow::bail;
use clap::Args;
use tollgate_core::secret::Secret;

use super::{Output, admin_client::AdminClient, argument};

/// The place of the revocations and bans, and the output format.
#[derive(Debug, Args)]
pub(super) struct Access {
    #[command(flatten)]
    store: StoreArgs,
    /// The file with the admin API's bearer token; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "redis")]
    token_file: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// The place that [`Access`] names.
pub(super) enum Place {
    /// The Redis at this URL.
    Redis(Secret),
    /// The admin API.
    Admin(AdminClient),
}

impl Access {
    /// Reads the files that the options name.
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        if let Some(url) = &self.store.redis {
            return Ok(Place::Redis(match url.strip_prefix('@') {
                Some(path) => argument::secret_file(path)?,
                None => Secret::new(url.as_str()),
            }));
        }
        let (Some(url), Some(path)) = (&self.store.admin, &self.token_file) else {
            bail!("name the store with --redis, or the admin API with --admin and --token-file");
        };
        Ok(Place::Admin(AdminClient::new(url, argument::secret_file(path)?)?))
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct StoreArgs {
    /// The Redis that Tollgate uses: `redis://`, `rediss://` or `redis+unix://`. `@FILE` reads the
    /// URL from a file, which keeps a password out of the list of processes.
    #[arg(long, value_name = "URL|@FILE")]
    redis: Option<String>,
    /// The admin API: `https://host:port`, `unix:/path`, or `http://` on this machine.
    #[arg(long, value_name = "URL", requires = "token_file")]
    admin: Option<String>,
}
