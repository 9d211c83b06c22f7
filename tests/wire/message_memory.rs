//! The memory that a server uses for many clients with large messages, measured in a separate
//! process, without the clients.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::task::JoinSet;
use tollgate::listener::Address;
use tollgate_testkit::wait::until_async;

use super::clients::{Answer, CHECK, call, connect, http2, message};
use super::servers::{Checks, Gate, Wanted, budget};

const MIB: u64 = 1 << 20;
const CLIENTS: u64 = 40;
const BODY: u64 = 16 * MIB;
const IN_FLIGHT: u64 = 32 * MIB;

/// A copy of this test binary that runs one ignored test, a server on a Unix socket, until it is
/// dropped.
pub(crate) struct Child(std::process::Child);

impl Child {
    pub(crate) async fn spawn(mut command: Command, socket: &Path) -> Self {
        // The child ends with its standard input, so it never outlives this process.
        let mut child = Self(command.stdin(Stdio::piped()).spawn().unwrap());
        let address = Address::Unix(socket.to_owned());
        until_async("an answer of the server", async || {
            assert!(child.0.try_wait().unwrap().is_none(), "the server ended");
            connect(&address).await.ok()
        })
        .await;
        child
    }

    /// Writes one byte to its standard input.
    fn signal(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }

    /// The largest resident memory of the child, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The CPU time of the child, in hundredths of a second (`proc_pid_stat(5)`, fields 14 and 15).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let after_name = stat.rsplit_once(") ").unwrap().1;
        after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the byte that [`Child::signal`] writes.
async fn signalled() {
    let read = || std::io::stdin().read(&mut [0]);
    let _ = tokio::task::spawn_blocking(read).await;
}

/// Waits for the end of the parent.
pub(crate) async fn parent_is_gone() {
    let read = || std::io::stdin().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(read).await;
}

/// Forty clients send 16 MiB each, all at once, to a server with a budget of 32 MiB: some are
/// accepted, the others are refused, and the server's memory grows by the budget and by one HTTP/2
/// window for each connection, not by 640 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_of_many_clients_stay_within_the_stated_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authz.sock");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "wire::message_memory::bounded", "--ignored", "--nocapture"])
        .env("TOLLGATE_TEST_SOCKET", &path)
        .stdout(Stdio::null());
    let mut child = Child::spawn(command, &path).await;
    let address = Address::Unix(path);
    let before = child.peak();

    let message = message(BODY as usize);
    let mut calls = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = http2(connect(&address).await.unwrap()).await;
        let message = message.clone();
        calls.spawn(async move { call(&mut client, CHECK, message).await });
    }
    let (mut allowed, mut refused) = (0, 0);
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap().unwrap() {
            Answer::Verdict(0, text) => {
                assert!(text.ends_with("16777216"), "{text}");
                allowed += 1;
            }
            answer => {
                assert!(answer.is(7, "no room"), "{answer:?}");
                refused += 1;
                // The admitted messages are held until then, as by checks that wait for a store.
                if refused == CLIENTS / 2 {
                    child.signal();
                }
            }
        }
    }
    let grown = child.peak() - before;
    let windows = CLIENTS * (256 << 10);
    // The memory of the allocator and the runtime for these connections.
    let slack = 8 * MIB;
    assert!(allowed >= 1 && refused >= CLIENTS / 2, "{allowed} allowed, {refused} refused");
    assert!(grown <= IN_FLIGHT + windows + slack, "the server grew by {} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of large_messages_of_many_clients_stay_within_the_stated_bound"]
async fn bounded() {
    // Without the variable there is no parent: all ignored tests are run.
    let Some(path) = std::env::var_os("TOLLGATE_TEST_SOCKET") else { return };
    let gate = std::sync::Arc::new(Gate::default());
    let checks = Checks { gate: Some(gate.clone()), ..Checks::default() };
    let server = Wanted { address: Address::Unix(path.into()), ..Default::default() }
        .grpc(checks, budget(BODY, IN_FLIGHT))
        .await;
    signalled().await;
    let open = async {
        loop {
            gate.open.notify_waiters();
            gate.open.notify_one();
            gate.entered.notified().await;
        }
    };
    tokio::select! {
        () = open => {}
        () = parent_is_gone() => server.stop.cancel(),
    }
}
