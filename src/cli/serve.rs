//! The command `tollgate serve`.

use std::path::PathBuf;

use clap::Args;

use super::config_file::{self, ConfigFile};
use crate::{app, observe::log};

const MORE: &str = "\
Examples:
  tollgate serve tollgate.yaml
  TOLLGATE_LOG=debug tollgate serve --config /etc/tollgate/tollgate.yaml
  tollgate serve - < tollgate.yaml
  tollgate serve tollgate.yaml --hand-over /run/tollgate/hand-over.sock

Exit codes:
  0  ended by SIGTERM or Ctrl-C
  2  it did not start: the last line names the reason";

/// Answer checks until SIGTERM or Ctrl-C.
///
/// SIGHUP, or a change of the file, reloads policy and secrets; a wrong file changes nothing. A
/// configuration from standard input is not reloaded, only its secrets and certificates are. Audit
/// lines go to standard output, the log to standard error. `listen.ops` serves `/healthz` and
/// `/readyz` for probes and `/metrics` for Prometheus. Sockets that systemd passes (LISTEN_FDS) are
/// used for the listeners with their addresses.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Serve {
    #[command(flatten)]
    config: ConfigFile,
    /// Replace the process that listens on this Unix socket, without losing a request: take its
    /// listeners over, and end it as soon as this process is ready. Where none listens, just start. The
    /// next process that is started with the same path replaces this one.
    #[arg(long, value_name = "SOCKET")]
    hand_over: Option<PathBuf>,
}

impl Serve {
    /// Serves until a signal.
    ///
    /// # Errors
    /// The engine or a listener does not start.
    pub fn run(self) -> anyhow::Result<()> {
        let path = self.config.path();
        let loaded = config_file::load(path)?;
        anyhow::ensure!(
            !loaded.file.server.listen.embedded,
            "{}: the file is for the module inside of Envoy; remove `listen.embedded` to serve it",
            path.display()
        );
        let watched = (!config_file::is_stdin(path)).then(|| path.to_owned());
        // Before any other thread.
        let sockets = app::passed_sockets()?;
        log::init(loaded.file.server.log, std::env::var(log::LEVEL_VARIABLE).ok().as_deref())?;
        let runtime = runtime()?;
        let served = runtime.block_on(app::serve(watched, loaded, sockets, self.hand_over));
        // Blocking threads are not waited for: a call that hangs, such as the resolution of a name,
        // must not delay the end of the process.
        runtime.shutdown_background();
        served
    }
}

/// Creates the runtime. With one core, as a sidecar usually has, one thread runs everything:
/// answers then leave in batches, where a pool of one thread would write each by itself. Slow work
/// runs on blocking threads in both.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 1 => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().thread_name("tollgate").build()
}
