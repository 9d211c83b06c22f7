//! A reader at a shell: a directory with what pages take for granted, and the addresses they name made those of real parts.
//!
//! The directory has `deploy/`, `token.txt` (a token of `https://auth.example.com`), `jwks.json` (its keys), `key.pem` (a key of
//! one's own) and `cases.yaml`. An inference server answers at 127.0.0.1:8000, Redis, if the page uses it, at redis://redis:6379.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tempfile::TempDir;

use super::root;
use crate::rig::{
    SCOPES, SOON,
    envoy::CURRENT,
    http::Request,
    issuer::{Issuer, Key},
    part,
    process::Process,
    upstream::Upstream,
    within,
};

/// Ports that pages name: where clients connect, the proxies' and Tollgate's own.
const PORTS: [&str; 5] = ["8080", "9000", "9001", "9002", "9003"];

/// A test of a policy that most pages' policies pass.
const CASES: &str = "\
cases:
  - name: health is open
    request: { method: GET, path: /health }
    expect: { decision: allow }
  - name: a chat needs a credential
    request: { method: POST, path: /v1/chat/completions, body: '{}' }
    expect: { decision: deny, reason: missing_credential }
";

/// The user and the group of [`Reader::Other`].
const OTHER: u32 = 65534;

/// The user that follows a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The user of the tests: root in a container, an ordinary user elsewhere.
    Own,
    /// An ordinary user, where the tests run as root.
    Other,
}

impl Reader {
    /// Root and an ordinary user, as far as the user of the tests can be both.
    pub(super) fn all() -> &'static [Self] {
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if root { &[Self::Own, Self::Other] } else { &[Self::Own] }
    }

    /// The reader in a message.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Own => "as the user of the tests",
            Self::Other => "as another user than root",
        }
    }

    /// A command that this reader runs.
    fn command(self, program: &str) -> Command {
        match self {
            Self::Own => Command::new(program),
            Self::Other => {
                let mut command = Command::new("setpriv");
                let (user, group) = (format!("--reuid={OTHER}"), format!("--regid={OTHER}"));
                command.args([&user, &group, "--clear-groups", "--"]).arg(program);
                command
            }
        }
    }

    /// Gives a file of the session to this reader.
    fn own(self, path: &Path) {
        if self == Self::Other {
            chown(path, Some(OTHER), Some(OTHER)).unwrap();
        }
    }

    /// Fails with the remedy where this reader cannot run a program.
    fn requires(self, program: &Path) {
        let output = self.command("test").arg("-x").arg(program).output();
        let output = output.unwrap_or_else(|error| {
            panic!("setpriv does not start: {error}; install it: apt-get install util-linux")
        });
        assert!(
            output.status.success(),
            "user {OTHER} cannot run `{}`: let all users enter the directories above it (chmod o+x)",
            program.display()
        );
    }
}

pub(super) struct Session {
    reader: Reader,
    /// Whether only ports are replaced in what the page writes and runs.
    literal: bool,
    /// Ended first, the last one first.
    services: Vec<Process>,
    ports: Vec<(&'static str, u16)>,
    upstream: Upstream,
    dir: TempDir,
}

impl Session {
    pub(super) fn start(reader: Reader, redis: bool, literal: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Workers of nginx are another user than root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        reader.own(dir.path());
        // All at once, so that they differ.
        let listeners = PORTS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = PORTS
            .into_iter()
            .zip(listeners.iter().map(|listener| listener.local_addr().unwrap().port()))
            .collect();
        let upstream = Upstream::start();
        let mut session = Self { reader, literal, services: Vec::new(), ports, upstream, dir };
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(session.dir.path());
        reader.own(&session.path("jwks.json"));
        let scopes = format!("{SCOPES} models:read infer:multimodal ocr_api_access");
        let claims = json!({ "scope": scopes, "jti": "7f3c9e", "tenant_id": "acme" });
        session.write(Path::new("token.txt"), &issuer.token(claims));
        session.write(Path::new("key.pem"), &Key::ec("mine").pem());
        session.write(Path::new("cases.yaml"), CASES);
        if !literal {
            fs::create_dir(session.path("run")).unwrap();
            reader.own(&session.path("run"));
        }
        fs::create_dir(session.path("bin")).unwrap();
        for (name, program) in [
            ("tollgate", PathBuf::from(env!("CARGO_BIN_EXE_tollgate"))),
            ("envoy", part(&format!("envoy-{CURRENT}"), "envoy")),
            ("nginx", part("nginx-njs", "nginx-njs")),
            ("curl", part("curl", "curl")),
        ] {
            reader.requires(&program);
            symlink(program, session.path("bin").join(name)).unwrap();
        }
        session.copy(&root().join("deploy"), &PathBuf::from("deploy"));
        if redis {
            session.redis();
        }
        session
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn copy(&self, from: &Path, to: &Path) {
        fs::create_dir_all(self.dir.path().join(to)).unwrap();
        self.reader.own(&self.dir.path().join(to));
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            match (path.is_dir(), fs::read_to_string(&path)) {
                (true, _) => self.copy(&path, &to),
                (false, Ok(text)) => self.write(&to, &text),
                (false, Err(_)) => {}
            }
        }
    }

    /// Writes a file of the reader's.
    pub(super) fn write(&self, name: &Path, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, self.here(text)).unwrap();
        self.reader.own(&path);
    }

    /// The same text with the addresses of this session.
    fn here(&self, text: &str) -> String {
        let ports = self.ports.iter().copied().chain([("8000", self.upstream.port)]);
        let with_ports = |text: String| {
            ports.fold(text, |text, (named, real)| numbers(&text, named, &real.to_string()))
        };
        if self.literal {
            return with_ports(text.replace("0.0.0.0", "127.0.0.1"));
        }
        let dir = self.dir.path().display();
        let mut text = text
            .replace("redis://redis:6379", &format!("unix://{dir}/redis.sock"))
            .replace("/run/nginx-tollgate.pid", &format!("{dir}/nginx.pid"))
            .replace("/run/tollgate/", &format!("{dir}/run/"))
            .replace("/etc/nginx/tollgate", &format!("{dir}/deploy/nginx"))
            .replace("worker_processes auto", "worker_processes 1")
            .replace("0.0.0.0", "127.0.0.1");
        if text.contains("\nhttp {") {
            // Where nginx keeps files of its own, which is not the tests' to write to.
            let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|of| format!("{of}_temp_path {dir}/{of};"));
            text = text.replace("\nhttp {", &format!("\nhttp {{ {}", own.join(" ")));
            text = text.replace("/var/log/nginx/access.log", &format!("{dir}/access.log"));
        }
        with_ports(text)
    }

    fn port(&self, named: &str) -> u16 {
        self.ports.iter().find(|(known, _)| *known == named).unwrap().1
    }

    fn redis(&mut self) {
        let mut redis = Command::new(part("redis-server", "redis"));
        redis
            .args(["--port", "0", "--save", "", "--unixsocketperm", "777", "--unixsocket"])
            .arg(self.path("redis.sock"))
            .arg("--dir")
            .arg(self.dir.path());
        let mut redis = Process::start(self.dir.path(), "redis", &mut redis);
        let socket = self.path("redis.sock");
        redis.until("its socket", |_| std::os::unix::net::UnixStream::connect(&socket).ok());
        self.services.push(redis);
    }

    /// Runs a command as it is printed. Where nothing is printed after it, it only has to succeed.
    pub(super) fn run(&mut self, command: &str, printed: &[String]) -> Result<(), String> {
        let bare = command.trim_end_matches('&').trim();
        if let Some(program) =
            ["tollgate serve", "envoy -c", "nginx -"].iter().find(|start| bare.starts_with(*start))
        {
            self.serve(program, bare);
            return Ok(());
        }
        let printed: Vec<String> = printed.iter().map(|line| self.here(line)).collect();
        // Something may have to be fetched, reloaded or connected behind what was started.
        let patience = if self.services.is_empty() || !bare.starts_with("curl") {
            Default::default()
        } else {
            SOON
        };
        let mut last = String::new();
        let done = within(patience, || {
            let (good, seen) = self.once(bare);
            let same = printed.is_empty() || matches(&printed, &seen.lines().collect::<Vec<_>>());
            last = format!("{seen}{}", if good { "" } else { "(it failed)\n" });
            (good && same).then_some(())
        });
        done.ok_or_else(|| {
            format!("printed:\n{last}--- where the page has:\n{}", printed.join("\n"))
        })
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = self.reader.command("bash");
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        shell
            .args(["-euo", "pipefail", "-c", &self.here(command)])
            .current_dir(self.dir.path())
            .env("PATH", path);
        shell.env("PWD", self.dir.path()).env("HOME", self.dir.path());
        shell.env_remove("NO_COLOR").env("NO_PROXY", "*").env("no_proxy", "*");
        shell
    }

    fn once(&self, command: &str) -> (bool, String) {
        let output = self.shell(&format!("exec 2>&1; {command}")).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts what runs until it is ended, and waits until it answers.
    fn serve(&mut self, program: &str, command: &str) {
        let (name, more, port, path) = match program {
            "tollgate serve" => ("tollgate", String::new(), self.port("9002"), "/healthz"),
            "envoy -c" => (
                "envoy",
                " --disable-hot-restart --concurrency 1 --log-level warning".into(),
                self.port("8080"),
                "/health",
            ),
            _ => ("nginx", String::new(), self.port("8080"), "/health"),
        };
        let mut process = Process::start(
            self.dir.path(),
            name,
            &mut self.shell(&format!("exec {command}{more}")),
        );
        process.until("an answer", |_| {
            Request::get(path).try_send(port).filter(|reply| reply.status == 200)
        });
        self.services.push(process);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        while self.services.pop().is_some() {}
    }
}

/// Replaces a number where it is a word of its own.
fn numbers(text: &str, old: &str, new: &str) -> String {
    let mut parts = text.split(old);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let inside = result.ends_with(|c: char| c.is_ascii_digit())
            || part.starts_with(|c: char| c.is_ascii_digit());
        result.push_str(if inside { old } else { new });
        result.push_str(part);
    }
    result
}

/// Whether lines are as a page has them: `...` means any number of lines, `…` for anything within one.
fn matches(page: &[String], seen: &[&str]) -> bool {
    match (page.split_first(), seen.split_first()) {
        (None, None) => true,
        (Some((line, rest)), _) if line.trim() == "..." => {
            (0..=seen.len()).any(|skipped| matches(rest, &seen[skipped..]))
        }
        (Some((line, rest)), Some((other, others))) => {
            is_like(line.trim_end(), other.trim_end()) && matches(rest, others)
        }
        _ => false,
    }
}

fn is_like(page: &str, seen: &str) -> bool {
    let mut parts = page.split('…');
    let Some(mut rest) = seen.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        let found = if at + 1 == parts.len() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    !parts.is_empty() || rest.is_empty()
}

#[test]
fn what_is_printed_is_compared() {
    let seen = ["a", "took 5 ms at 10:00", "c"];
    for (page, same) in [
        (&["a", "took … ms at …", "c"][..], true),
        (&["a", "...", "c"], true),
        (&["...", "c"], true),
        (&["a"], false),
        (&["a", "took … s at …", "c"], false),
        (&["a", "...", "d"], false),
    ] {
        let page: Vec<String> = page.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(matches(&page, &seen), same, "{page:?}");
    }
    assert_eq!(numbers("a:8000 18000 8000", "8000", "1"), "a:1 18000 1");
}
