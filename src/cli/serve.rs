//! `tollgate serve`.

use std::path::PathBuf;

use clap::Args;

use crate::{app, config, observe::log};

/// Answers checks until SIGTERM or Ctrl-C. SIGHUP, or a change of the file, reloads policy and secrets.
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Serve {
    /// Runs until a signal.
    ///
    /// # Errors
    /// Whatever stops the start.
    pub fn run(self) -> anyhow::Result<()> {
        let loaded = config::load(&self.config)?;
        log::init(loaded.file.log, std::env::var(log::LEVEL_VARIABLE).ok().as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("tollgate").build()?;
        runtime.block_on(app::serve(self.config, loaded))
    }
}
