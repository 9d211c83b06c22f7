//! Real Redis servers, each with a directory of its own, ended when the value is dropped.

use std::{
    ffi::OsString,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redis::Connection;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tollgate::store::{Redis, RedisConfig};
use tollgate_core::time::Span;
use tollgate_testkit::wait;

/// The program of the servers, where it is not the redis-server of this machine: Valkey.
pub(crate) const PROGRAM: &str = "TOLLGATE_TEST_REDIS_SERVER";

/// The program of the servers.
pub(crate) fn program() -> OsString {
    std::env::var_os(PROGRAM).unwrap_or_else(|| "redis-server".into())
}

/// A running redis-server, on a Unix socket and on TCP (TLS, if it has a certificate).
pub(crate) struct Server {
    child: Child,
    directory: TempDir,
    port: u16,
    options: Vec<String>,
}

/// Starts a server with these options, in which `{dir}` is replaced by its directory.
pub(crate) fn start(options: &[&str]) -> Server {
    let directory = tempfile::tempdir().unwrap();
    start_in(directory, options)
}

/// As [`start`], in a directory that already has files.
pub(crate) fn start_in(directory: TempDir, options: &[&str]) -> Server {
    let options: Vec<String> = options
        .iter()
        .map(|option| option.replace("{dir}", &directory.path().display().to_string()))
        .collect();
    // Redis cannot choose a free port itself. If the chosen one is taken meanwhile, another is
    // tried.
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if let Some(child) = spawn(directory.path(), port, &options) {
            return Server { child, directory, port, options };
        }
    }
    panic!("redis-server did not start twenty times: see its log above");
}

fn spawn(directory: &Path, port: u16, options: &[String]) -> Option<Child> {
    let port_option = if options.iter().any(|option| option == "--tls-cert-file") {
        "--tls-port"
    } else {
        "--port"
    };
    let mut command = Command::new(program());
    if port_option == "--tls-port" {
        command.args(["--port", "0"]);
    }
    command.args([
        port_option,
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    command
        .arg("--dir")
        .arg(directory)
        .arg("--unixsocket")
        .arg(directory.join("redis.sock"))
        .args(options);
    command
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(directory.join("log")).unwrap())
        .stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!(
            "redis-server cannot be run ({error}); install it with `apt-get install redis-server`"
        ),
    };
    let runs = wait::until("a ready redis-server", || {
        let log = std::fs::read_to_string(directory.join("log")).unwrap();
        if child.try_wait().unwrap().is_some() {
            eprintln!("{log}");
            return Some(false);
        }
        // The log line needs no login. The socket is named last.
        let ready = ["ready to accept connections at", "Ready to accept connections unix"];
        ready.iter().any(|words| log.contains(words)).then_some(true)
    });
    runs.then_some(child)
}

impl Server {
    /// The URL of its Unix socket.
    pub(crate) fn unix(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A connection of the test's own.
    pub(crate) fn client(&self) -> Connection {
        redis::Client::open(self.unix()).unwrap().get_connection().unwrap()
    }

    /// A connection of the test's own to a server with a password; `None` without an answer.
    pub(crate) fn client_with(&self, password: &str) -> Option<Connection> {
        let query = if password.is_empty() { String::new() } else { format!("?pass={password}") };
        redis::Client::open(format!("{}{query}", self.unix())).unwrap().get_connection().ok()
    }

    /// SIGSTOP: it keeps its sockets and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Continues the process with SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Ends the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, empty.
    pub(crate) fn restart(&mut self) {
        self.child = wait::until("a redis-server on the same port", || {
            spawn(self.directory.path(), self.port, &self.options)
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the one replica of a server has everything that was written until now.
pub(crate) fn until_copied(primary: &Server) {
    let info = || -> String {
        redis::cmd("INFO").arg("replication").query(&mut primary.client()).unwrap()
    };
    let number = |text: &str, name: &str| -> Option<u64> {
        let at = text.find(name)? + name.len();
        text[at..].split([',', '\r', '\n']).next()?.parse().ok()
    };
    let written = number(&info(), "master_repl_offset:").unwrap();
    wait::until("the copy", || {
        number(&info(), "state=online,offset=").filter(|copied| *copied >= written)
    });
}

/// The section of a Redis at `url`, with a deadline that a busy machine keeps: longer than the
/// configuration allows.
pub(crate) fn section(url: &str) -> RedisConfig {
    RedisConfig { deadline: Span::from_secs(10), ..RedisConfig::at(url.parse().unwrap()) }
}

/// A store at `url`.
pub(crate) fn open(url: &str) -> Redis {
    Redis::open(&section(url), CancellationToken::new()).unwrap()
}

/// A certificate for localhost with its key, and the path of the authority that signed it.
pub(crate) fn certificates(directory: &Path) -> String {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    // OpenSSL takes a certificate whose subject is its issuer for one that signs itself.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority of the tests");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    let path = directory.join("ca.pem");
    std::fs::write(&path, authority_certificate.pem()).unwrap();
    path.display().to_string()
}
