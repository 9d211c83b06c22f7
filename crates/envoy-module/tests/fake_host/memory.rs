//! The hooks under valgrind: memory that the host has freed is not read.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tollgate_testkit::wait::within;

/// Of the corpus every so many rows, because each instruction takes thirty times as long.
const STEP: &str = "12";

#[test]
#[ignore = "minutes under valgrind: make test-all"]
fn no_hook_reads_memory_that_the_host_has_freed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let valgrind = root.join(".parts/bin/valgrind");
    assert!(valgrind.exists(), "valgrind is missing: run `tools/parts valgrind`");
    let mut command = Command::new(valgrind);
    command.args(["-q", "--error-exitcode=9", "--leak-check=no"]).arg(env::current_exe().unwrap());
    command.args(["lifecycle::", "corpus::", "--test-threads=1"]);
    command.env(crate::corpus::STEP, STEP).env("RUST_BACKTRACE", "0");
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let ended = within(Duration::from_secs(1200), || child.try_wait().unwrap());
    let status = ended.unwrap_or_else(|| {
        child.kill().unwrap();
        panic!("it did not end in twenty minutes")
    });
    assert!(status.success(), "{status}");
}
