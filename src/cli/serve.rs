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
        let runtime = runtime()?;
        runtime.block_on(app::serve(self.config, loaded))
    }
}

/// With one core to run on, as a sidecar usually has, one thread does everything: answers then leave in batches, where a pool of
/// one would write each by itself. What takes long runs on threads of its own in both.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 1 => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().thread_name("tollgate").build()
}
