//! Restarts behind a real Envoy, and of a server for HTTP with connections that are kept: a new process
//! takes the listening sockets of the one that runs, or a service manager keeps them. No request fails.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use nix::sys::signal::Signal;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::json;
use tempfile::TempDir;

use super::tls::{Authority, tls};
use crate::rig::{
    POLICY, SOON, chat,
    envoy::{CURRENT, Envoy, TOLLGATE},
    free_port,
    http::Request,
    issuer::Issuer,
    part,
    process::Process,
    replace_once, until,
    upstream::Upstream,
};

/// Restarts of each test.
const RESTARTS: usize = 4;

/// Starts a program with the sockets at descriptors 3, 4 and so on, as a service manager does.
const WITH_SOCKETS: &str = "\
import os, sys
passed = sys.argv[1].split(',')
for index, descriptor in enumerate(passed):
    os.dup2(int(descriptor), 3 + index)
os.environ.update(LISTEN_FDS=str(len(passed)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

/// Envoy in front of an upstream, and the files of Tollgate.
struct Place {
    // Dropped in this order: the proxy first, the directory with the logs last.
    envoy: Envoy,
    _upstream: Upstream,
    issuer: Issuer,
    config: PathBuf,
    http: u16,
    /// The authority of the listeners' certificates; `None` without TLS.
    authority: Option<Authority>,
    dir: TempDir,
}

impl Place {
    /// Writes the configuration, and starts Envoy with `deploy/envoy/envoy.yaml`. `grpc` is the
    /// address of the checks; `port` is theirs, where it is one of TCP.
    fn new(port: Option<u16>) -> Self {
        let grpc = match port {
            Some(port) => format!("\"127.0.0.1:{port}\""),
            None => "\"unix:${DIR}/authz.sock\"".to_owned(),
        };
        Self::with(None, (&grpc, ""), |_, envoy| match port {
            Some(port) => replace_once(envoy, TOLLGATE, &at_port(port)),
            None => envoy,
        })
    }

    /// A place whose listeners have TLS, that of Envoy with certificates on both sides.
    fn with_tls() -> Self {
        let port = free_port();
        let pair = "cert: \"${DIR}/server.pem\", key: \"${DIR}/server.key\"";
        let grpc = format!(
            "{{ address: \"127.0.0.1:{port}\", tls: {{ {pair}, client_ca: \"${{DIR}}/ours.pem\" }} }}"
        );
        let http = format!(", tls: {{ {pair} }}");
        Self::with(Some(Authority::new()), (&grpc, &http), |dir, envoy| {
            tls(dir, "ours", Some("proxy"))(replace_once(envoy, TOLLGATE, &at_port(port)))
        })
    }

    /// `grpc` and `http` are texts of the configuration: a listener, and more keys of one.
    fn with(
        authority: Option<Authority>,
        (grpc, http_keys): (&str, &str),
        change: impl FnOnce(&Path, String) -> String,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        if let Some(authority) = &authority {
            authority.publish(dir.path(), "ours");
            authority.issue(dir.path(), "server", "tollgate.test");
            authority.issue(dir.path(), "proxy", "envoy.test");
        }
        let http = free_port();
        let config = write(dir.path(), "tollgate.yaml", grpc, (http, http_keys), POLICY);
        let upstream = Upstream::start();
        let envoy =
            Envoy::start(dir.path(), upstream.port, CURRENT, |envoy| change(dir.path(), envoy));
        Self { envoy, _upstream: upstream, issuer, config, http, authority, dir }
    }

    /// A client of the listener for HTTP.
    fn client(&self) -> HttpClient {
        let tls = self.authority.as_ref().map(|_| {
            let mut roots = RootCertStore::empty();
            let file = std::fs::read(self.dir.path().join("ours.pem")).unwrap();
            roots.add(CertificateDer::from_pem_slice(&file).unwrap()).unwrap();
            let config = ClientConfig::builder().with_root_certificates(roots);
            Arc::new(config.with_no_client_auth())
        });
        HttpClient { port: self.http, tls }
    }

    fn token(&self) -> String {
        self.issuer.token(json!({}))
    }

    /// Starts a process that replaces the one that runs.
    fn start(&self, name: &str) -> Process {
        let mut process = self.launch(name, &self.config);
        listening(&mut process);
        process
    }

    fn launch(&self, name: &str, config: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["serve", "--config"]).arg(config).env("DIR", self.dir.path());
        command.arg("--hand-over").arg(self.dir.path().join("hand-over.sock"));
        Process::start(self.dir.path(), name, &mut command)
    }

    /// Starts a process with sockets that the test keeps.
    fn start_with(&self, name: &str, sockets: &[OwnedFd]) -> Process {
        let mut process = self.launch_with(name, sockets);
        listening(&mut process);
        process
    }

    fn launch_with(&self, name: &str, sockets: &[OwnedFd]) -> Process {
        let passed: Vec<String> =
            sockets.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
        let mut command = Command::new(part("python", "python"));
        command.args(["-c", WITH_SOCKETS]).arg(passed.join(","));
        command.arg(env!("CARGO_BIN_EXE_tollgate")).args(["serve", "--config"]).arg(&self.config);
        command.env("DIR", self.dir.path());
        Process::start(self.dir.path(), name, &mut command)
    }

    /// Runs `restarts` while clients send requests through Envoy and on connections of their own, and
    /// returns what failed.
    fn under_load(&self, restarts: impl FnOnce(&Load)) -> Vec<String> {
        let load = Load::default();
        let token = self.token();
        // A first process without a predecessor listens before it has keys.
        until("readiness", || {
            let reply = chat(&token).try_send(self.envoy.port)?;
            (reply.status == 200).then_some(())
        });
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    load.repeat(&load.through_envoy, || {
                        match chat(&token).try_send(self.envoy.port) {
                            Some(reply) if reply.status == 200 => None,
                            Some(reply) => Some(format!("{} {}", reply.status, reply.text())),
                            None => Some("Envoy closed the connection".into()),
                        }
                    });
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut client = KeptConnection::new(self.client(), &token);
                    load.repeat(&load.on_kept_connections, || client.check().err());
                });
            }
            // The load ends with the test, also where a restart fails.
            let _end = EndOfLoad(&load);
            load.progress();
            restarts(&load);
            load.progress();
        });
        load.failed.into_inner().unwrap()
    }
}

/// The address of a port in Envoy's configuration.
fn at_port(port: u16) -> String {
    format!("socket_address: {{ address: 127.0.0.1, port_value: {port} }}")
}

/// Writes a configuration file. `http` is the port of the listener for HTTP, and more of its keys.
fn write(dir: &Path, name: &str, grpc: &str, http: (u16, &str), policy: &str) -> PathBuf {
    let (port, keys) = http;
    let text = format!(
        "listen: {{ grpc: {grpc}, ops: \"127.0.0.1:0\", \
         http: [{{ address: \"127.0.0.1:{port}\", dialect: traefik, body: deny{keys} }}] }}\n{policy}"
    );
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Waits until a process accepts connections.
fn listening(process: &mut Process) {
    process.until("line with its addresses", |process| {
        process.err().contains("listening").then_some(())
    });
}

/// Requests that clients send until the test ends.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    through_envoy: AtomicUsize,
    on_kept_connections: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

impl Load {
    fn repeat(&self, answered: &AtomicUsize, mut send: impl FnMut() -> Option<String>) {
        while !self.is_over.load(Relaxed) {
            match send() {
                None => _ = answered.fetch_add(1, Relaxed),
                Some(failure) => {
                    self.failed.lock().unwrap().push(failure);
                    return;
                }
            }
        }
    }

    /// Waits for some more requests, or for the first failure.
    fn progress(&self) {
        let counts = [&self.through_envoy, &self.on_kept_connections];
        let before = counts.map(|count| count.load(Relaxed));
        until("more requests", || {
            let is_more =
                counts.iter().zip(before).all(|(count, before)| count.load(Relaxed) >= before + 20);
            (is_more || !self.failed.lock().unwrap().is_empty()).then_some(())
        });
    }
}

struct EndOfLoad<'a>(&'a Load);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

/// A connection with or without TLS.
type Stream = Box<dyn ReadWrite>;

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// Opens connections to the listener for HTTP.
struct HttpClient {
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl HttpClient {
    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    fn open(&self) -> std::io::Result<Stream> {
        let stream = self.connect()?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(StreamOwned::new(session(tls), stream)),
        })
    }

    /// The certificate of the server, for a connection that is made now.
    fn certificate(&self) -> Option<Vec<u8>> {
        let (mut session, mut stream) = (session(self.tls.as_ref()?), self.connect().ok()?);
        while session.is_handshaking() {
            session.complete_io(&mut stream).ok()?;
        }
        Some(session.peer_certificates()?.first()?.to_vec())
    }
}

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), "tollgate.test".try_into().unwrap()).unwrap()
}

/// A client like nginx: it keeps its connection until the server announces its end.
struct KeptConnection {
    client: HttpClient,
    request: Vec<u8>,
    stream: Option<BufReader<Stream>>,
}

impl KeptConnection {
    fn new(client: HttpClient, token: &str) -> Self {
        let request = Request::get("/")
            .header("X-Forwarded-Method", "GET")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "api.example.com")
            .header("X-Forwarded-Uri", "/v1/models")
            .header("X-Forwarded-For", "192.0.2.1")
            .bearer(token);
        let text = String::from_utf8(request.bytes()).unwrap();
        let request = text.replace("Connection: close\r\n", "").into_bytes();
        Self { client, request, stream: None }
    }

    /// Sends one check; an error where it is not answered with 200.
    fn check(&mut self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("a kept connection: {error}");
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(self.client.open().map_err(failed)?),
        };
        stream.get_mut().write_all(&self.request).map_err(failed)?;
        stream.get_mut().flush().map_err(failed)?;
        let (mut head, mut length, mut is_last) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).map_err(failed)? == 0 {
                return Err("a kept connection: closed before the answer".into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            is_last |= line == "connection: close";
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).map_err(failed)?;
        if !head.starts_with("http/1.1 200") {
            return Err(format!("{head} {}", String::from_utf8_lossy(&body)));
        }
        self.stream = Some(stream).filter(|_| !is_last);
        Ok(())
    }
}

/// Replaces a process several times, without a request that fails.
fn handed_over(port: Option<u16>) {
    let place = Place::new(port);
    let mut running = place.start("tollgate-0");
    let failed = place.under_load(|load| {
        for number in 1..=RESTARTS {
            let new = place.start(&format!("tollgate-{number}"));
            let mut old = std::mem::replace(&mut running, new);
            assert!(old.ended(SOON).success());
            assert!(old.err().contains("another process serves now"), "{}", old.err());
            load.progress();
        }
    });
    assert_eq!(failed, [""; 0]);
    running.signal(Signal::SIGTERM);
    assert!(running.ended(SOON).success());
    for file in ["authz.sock", "hand-over.sock"] {
        assert!(!place.dir.path().join(file).exists(), "{file} is the last process's to remove");
    }
}

#[test]
fn a_new_process_takes_over_a_unix_socket_without_a_failed_request() {
    handed_over(None);
}

#[test]
fn a_new_process_takes_over_a_tcp_port_without_a_failed_request() {
    handed_over(Some(free_port()));
}

/// Envoy over gRPC with certificates on both sides, and a client over HTTPS. The process that took over
/// reloads the certificate as the one before it did, and passes the listeners on again.
#[test]
fn a_new_process_takes_over_listeners_with_tls_and_reloads_their_certificate() {
    let place = Place::with_tls();
    let client = place.client();
    let mut running = place.start("tollgate-0");
    let mut replace = |number: usize, load: &Load| {
        let new = place.start(&format!("tollgate-{number}"));
        let mut old = std::mem::replace(&mut running, new);
        assert!(old.ended(SOON).success());
        load.progress();
    };
    let failed = place.under_load(|load| {
        let first = client.certificate().unwrap();
        replace(1, load);
        assert_eq!(client.certificate().unwrap(), first, "the same file");
        place.authority.as_ref().unwrap().issue(place.dir.path(), "server", "tollgate.test");
        let second = until("the new certificate", || {
            client.certificate().filter(|certificate| *certificate != first)
        });
        load.progress();
        for number in 2..=RESTARTS {
            replace(number, load);
            assert_eq!(client.certificate().unwrap(), second);
        }
    });
    assert_eq!(failed, [""; 0]);
    running.signal(Signal::SIGTERM);
    assert!(running.ended(SOON).success());
}

#[test]
fn the_old_process_goes_on_where_the_new_one_does_not_start_or_is_not_ready() {
    let place = Place::new(None);
    let dir = place.dir.path();
    let mut old = place.start("tollgate-old");
    let unix = "\"unix:${DIR}/authz.sock\"";
    let wrong = POLICY.replace("public: true", "publik: true");
    let wrong = write(dir, "wrong.yaml", unix, (place.http, ""), &wrong);
    let without_keys = POLICY.replace("jwks.json", "missing.json");
    let without_keys = write(dir, "without-keys.yaml", unix, (place.http, ""), &without_keys);
    // Its TCP port is another process's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let elsewhere = write(dir, "elsewhere.yaml", unix, (taken_port, ""), POLICY);
    let failed = place.under_load(|load| {
        for (name, config, error) in [
            ("tollgate-wrong", &wrong, "publik"),
            ("tollgate-elsewhere", &elsewhere, "already in use by another process"),
        ] {
            let mut new = place.launch(name, config);
            assert!(!new.ended(SOON).success(), "{name}");
            assert!(new.err().contains(error), "{}", new.err());
            load.progress();
        }
        let mut new = place.launch("tollgate-without-keys", &without_keys);
        until("the hand-over", || {
            let lines = old.err();
            (lines.matches("a new process starts with the sockets").count() == 2).then_some(())
        });
        load.progress();
        assert!(!new.err().contains("listening"), "it accepts nothing before it is ready");
        new.kill();
        until("the end of the hand-over", || {
            let lines = old.err();
            (lines.matches("this process goes on").count() == 2).then_some(())
        });
        load.progress();
        // The next one replaces it.
        let new = place.start("tollgate-new");
        let mut replaced = std::mem::replace(&mut old, new);
        assert!(replaced.ended(SOON).success());
    });
    assert_eq!(failed, [""; 0]);
}

/// A copy of a socket's descriptor that a child process inherits, with a high number.
fn inheritable(socket: impl AsFd) -> OwnedFd {
    let copy = fcntl_dupfd_cloexec(socket, 100).unwrap();
    fcntl_setfd(&copy, FdFlags::empty()).unwrap();
    copy
}

/// Restarts a process whose sockets the test keeps, as `systemctl restart` does: the new process starts
/// when the old one has ended.
fn restarted_with_kept_sockets(port: Option<u16>) {
    let place = Place::new(port);
    let unix = place.dir.path().join("authz.sock");
    let grpc = match port {
        Some(port) => inheritable(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()),
        None => inheritable(UnixListener::bind(&unix).unwrap()),
    };
    let http = inheritable(TcpListener::bind((Ipv4Addr::LOCALHOST, place.http)).unwrap());
    let sockets = [grpc, http];
    let mut running = place.start_with("tollgate-0", &sockets);
    let failed = place.under_load(|load| {
        for number in 1..=RESTARTS {
            running.signal(Signal::SIGTERM);
            assert!(running.ended(SOON).success());
            running = place.start_with(&format!("tollgate-{number}"), &sockets);
            load.progress();
        }
        // A second process that starts before the first one ends serves beside it.
        let second = place.start_with("tollgate-beside", &sockets);
        load.progress();
        let mut first = std::mem::replace(&mut running, second);
        first.signal(Signal::SIGTERM);
        assert!(first.ended(SOON).success());
    });
    assert_eq!(failed, [""; 0]);
    drop(running);
    assert_eq!(unix.exists(), port.is_none(), "the file is not this process's to remove");
}

#[test]
fn a_restart_with_a_unix_socket_of_the_service_manager_fails_no_request() {
    restarted_with_kept_sockets(None);
}

#[test]
fn a_restart_with_a_tcp_port_of_the_service_manager_fails_no_request() {
    restarted_with_kept_sockets(Some(free_port()));
}

/// `tollgate hold` keeps the sockets, as beside a container that is restarted in place.
#[test]
fn a_restart_with_held_sockets_fails_no_request() {
    let place = Place::new(None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["hold", "--config"]).arg(&place.config).env("DIR", place.dir.path());
    command.arg("--hand-over").arg(place.dir.path().join("hand-over.sock"));
    let mut holder = Process::start(place.dir.path(), "holder", &mut command);
    holder.until("its sockets", |holder| holder.err().contains("holding").then_some(()));
    let mut running = place.start("tollgate-0");
    let failed = place.under_load(|load| {
        for number in 1..=RESTARTS {
            running.signal(Signal::SIGTERM);
            assert!(running.ended(SOON).success());
            running = place.start(&format!("tollgate-{number}"));
            load.progress();
        }
    });
    assert_eq!(failed, [""; 0]);
    drop(running);
    let socket = place.dir.path().join("authz.sock");
    assert!(socket.exists(), "the file is the holder's to remove");
    holder.signal(Signal::SIGTERM);
    assert!(holder.ended(SOON).success());
    assert!(!socket.exists());
}

#[test]
fn a_socket_of_the_service_manager_without_a_listener_ends_the_start() {
    let place = Place::new(None);
    let socket = inheritable(TcpListener::bind("127.0.0.1:0").unwrap());
    let mut process = place.launch_with("tollgate", &[socket]);
    assert!(!process.ended(SOON).success());
    let log = process.err();
    assert!(
        log.contains("LISTEN_FDS: no listener of the file has the address 127.0.0.1:"),
        "{log}"
    );
}
