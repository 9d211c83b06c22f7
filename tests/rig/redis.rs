//! A real redis-server on a Unix socket.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{part, process::Process};

/// The password of every Redis of the tests.
pub(crate) const PASSWORD: &str = "redis-password-of-the-end-to-end-tests-9876543210";

/// A running Redis.
pub(crate) struct Redis {
    process: Process,
    dir: PathBuf,
    socket: PathBuf,
}

impl Redis {
    /// Starts one whose socket is `redis.sock` in `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let mut redis = Self { process: launch(dir, &socket), dir: dir.to_owned(), socket };
        redis.wait();
        redis
    }

    /// Starts it again after it was killed, with its data.
    pub(crate) fn restart(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.process = launch(&self.dir, &self.socket);
        self.wait();
    }

    fn wait(&mut self) {
        let socket = self.socket.clone();
        self.process.until("answer", |_| (command(&socket, &["PING"])? == "+PONG").then_some(()));
    }

    /// Stops it with SIGSTOP: connections stay open, nothing is answered.
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// The first line of the reply to a command, or the text of a bulk reply.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        command(&self.socket, words).unwrap()
    }

    /// The number of calls of a command.
    pub(crate) fn calls(&self, name: &str) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]);
        let calls = |line: &str| {
            line.strip_prefix(&format!("cmdstat_{name}:calls="))?.split(',').next()?.parse().ok()
        };
        stats.lines().find_map(calls).unwrap_or_default()
    }

    /// The section `store` with this Redis.
    pub(crate) fn store(&self) -> &'static str {
        "store: { redis: { url: \"unix:${DIR}/redis.sock\", password: \"file:${DIR}/redis.password\" } }\n"
    }
}

fn launch(dir: &Path, socket: &Path) -> Process {
    std::fs::write(dir.join("redis.password"), PASSWORD).unwrap();
    let mut command = Command::new(part("redis-server", "redis"));
    command.args([
        "--port",
        "0",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--requirepass",
        PASSWORD,
    ]);
    command.arg("--unixsocket").arg(socket).arg("--dir").arg(dir);
    Process::start(dir, "redis", &mut command)
}

fn command(socket: &Path, words: &[&str]) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut answer = String::new();
    for words in [&["AUTH", PASSWORD][..], words] {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(text.as_bytes()).ok()?;
        answer.clear();
        reader.read_line(&mut answer).ok()?;
    }
    let line = answer.trim_end().to_owned();
    match line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => {
            let mut bulk = vec![0; length];
            reader.read_exact(&mut bulk).ok()?;
            String::from_utf8(bulk).ok()
        }
        None => Some(line),
    }
}
