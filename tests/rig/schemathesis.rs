//! An API against its document: every case that schemathesis derives from it.

use std::{path::Path, process::Command, time::Duration};

use super::{part, process::Process};

/// How long one run may take where all cores are busy. It takes less than 30 seconds alone.
const BOUND: Duration = Duration::from_secs(600);

/// Runs all checks of schemathesis for a document, against the API on a port of loopback, for the
/// operations and the phases that `options` select.
pub(crate) fn conforms(dir: &Path, document: &[u8], (port, token): (u16, &str), options: &[&str]) {
    std::fs::write(dir.join("openapi.json"), document).unwrap();
    let mut command = Command::new(part("schemathesis", "schemathesis"));
    let header = format!("Authorization: Bearer {token}");
    command.current_dir(dir).args(["run", "openapi.json", "--checks", "all", "--no-color"]);
    command.args(["--url", &format!("http://127.0.0.1:{port}")]);
    // The same cases in each run.
    command.args(["--seed", "1", "--max-examples", "20", "--generation-database", "none"]);
    command.args(["--workers", "1", "--header", &header]).args(options);
    let mut schemathesis = Process::start(dir, "schemathesis", &mut command);
    let status = schemathesis.ended(BOUND);
    assert!(status.success(), "{}\n{}", schemathesis.out(), schemathesis.err());
}
