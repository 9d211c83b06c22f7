//! The command `tollgate hold`.

use std::path::PathBuf;

use clap::Args;

use super::config_file::{self, ConfigFile};
use crate::{app, observe::log};

const MORE: &str = "\
Examples:
  tollgate hold tollgate.yaml --hand-over /run/tollgate/hand-over.sock
  tollgate serve tollgate.yaml --hand-over /run/tollgate/hand-over.sock

Exit codes:
  0  ended by SIGTERM or Ctrl-C
  2  it did not start: the last line names the reason";

/// Keep the listening sockets of a configuration open, for processes of `serve --hand-over`.
///
/// Connections that arrive while `serve` is restarted wait, and are not refused: beside a container that
/// is restarted in place, for example. It reads `listen` of the file at its start, and accepts no
/// connection itself.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Hold {
    #[command(flatten)]
    config: ConfigFile,
    /// The Unix socket on which processes of `serve` get the sockets.
    #[arg(long, value_name = "SOCKET")]
    hand_over: PathBuf,
}

impl Hold {
    /// Holds the sockets until a signal.
    ///
    /// # Errors
    /// A listener cannot be opened.
    pub fn run(&self) -> anyhow::Result<()> {
        let loaded = config_file::load(self.config.path())?;
        let server = loaded.file.server;
        log::init(server.log, std::env::var(log::LEVEL_VARIABLE).ok().as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(app::hold(&server.listen, &self.hand_over))
    }
}
