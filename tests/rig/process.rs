//! A child process with its logs.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{SOON, until, within};

/// A child process. It is ended by its process id when it is dropped, with its own children.
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command` with its standard output and error in files of `dir`.
    pub(crate) fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        let (out, err) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let file = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, out, err }
    }

    /// The part of another process that writes to files of its own: `name.out` and `name.err` of
    /// `dir`.
    pub(crate) fn within(dir: &Path, name: &str) -> Self {
        let mut process = Self::start(dir, name, &mut Command::new("true"));
        process.ended(SOON);
        process
    }

    /// Polls until `condition` returns a value; fails at once when the process has ended.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let found = within(SOON, || {
            if let Some(found) = condition(self) {
                return Some(Ok(found));
            }
            self.child.try_wait().unwrap().map(Err)
        });
        match found {
            Some(Ok(found)) => found,
            Some(Err(status)) => {
                panic!("{} ended ({status}) before {what}\n{}", self.name, self.logs())
            }
            None => panic!("{}: no {what} within {} s\n{}", self.name, SOON.as_secs(), self.logs()),
        }
    }

    /// Its standard output so far.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap()).into_owned()
    }

    /// Its standard error so far.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.err).unwrap()).into_owned()
    }

    /// A file below `/proc/<pid>`.
    pub(crate) fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// The path of a file or a directory below `/proc/<pid>`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.id()).into()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Stops it with SIGSTOP: connections stay open, nothing is answered. Returns when every thread
    /// has stopped.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        until(&format!("{} to stop", self.name), || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
            let stopped = |stat: String| {
                stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
            };
            let mut stats = threads.filter_map(|thread| {
                std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()
            });
            stats.all(stopped).then_some(())
        });
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The process ids of its own children, such as the workers of nginx.
    pub(crate) fn children(&self) -> Vec<Pid> {
        let id = self.id();
        let text = std::fs::read_to_string(self.path(&format!("task/{id}/children")));
        let ids = text.unwrap_or_default();
        ids.split_whitespace().map(|id| Pid::from_raw(id.parse().unwrap())).collect()
    }

    /// Waits for its end, for `span` at most.
    pub(crate) fn ended(&mut self, span: Duration) -> ExitStatus {
        within(span, || self.child.try_wait().unwrap())
            .unwrap_or_else(|| panic!("{} runs after {span:?}", self.name))
    }

    fn logs(&self) -> String {
        // The directory may be gone while a test fails.
        let end = |path| tail(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()));
        format!("{}\n{}", end(&self.err), end(&self.out))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Read before: they are the children of another process then.
        let children = self.children();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for child in children {
            let _ended = kill(child, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.logs());
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
