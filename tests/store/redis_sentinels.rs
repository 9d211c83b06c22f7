//! A real primary with a replica and three Sentinels, ended when the value is dropped.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use redis::cmd;
use tempfile::TempDir;
use tollgate_testkit::wait;

use super::redis_server::{self, Server};

/// The name of the primary.
pub(super) const NAME: &str = "tollgate-1";

/// Two servers, the first of which is the primary at first, and the Sentinels.
pub(super) struct Sentinels {
    pub(super) servers: [Server; 2],
    sentinels: Vec<Sentinel>,
    /// The password of the user `default` of the servers.
    password: String,
}

struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts the servers with these options.
    pub(super) fn start(options: &[&str]) -> Self {
        Self::start_with(options, "", "")
    }

    /// Starts the servers with these options, of whom the user `default` has a password. The Sentinels
    /// have more lines of configuration.
    pub(super) fn start_with(options: &[&str], lines: &str, password: &str) -> Self {
        let login = lines;
        let primary = redis_server::start(options);
        let port = primary.port().to_string();
        let mut of_replica =
            vec!["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
        of_replica.extend(options);
        let replica = redis_server::start(&of_replica);
        let servers = [primary, replica];
        let sentinels: Vec<Sentinel> =
            (0..3).map(|_| Sentinel::start(servers[0].port(), login)).collect();
        let all = Self { servers, sentinels, password: password.to_owned() };
        for sentinel in &all.sentinels {
            wait::until("the other sentinels and the replica", || {
                let text = sentinel.ask(&["SENTINEL", "MASTER", NAME])?;
                let field = |name: &str| text.iter().skip_while(|one| *one != name).nth(1).cloned();
                let known = (field("num-other-sentinels")?, field("num-slaves")?);
                (known == ("2".into(), "1".into())).then_some(())
            });
        }
        all.until_copying(0);
        all
    }

    /// Waits until a server has a replica, which has copied everything.
    pub(super) fn until_copying(&self, primary: usize) {
        wait::until("the copy", || {
            let mut client = self.servers[primary].client_with(&self.password)?;
            let info: String = cmd("INFO").arg("replication").query(&mut client).ok()?;
            (info.contains("role:master") && info.contains("state=online")).then_some(())
        });
    }

    /// Waits until the replica of a server has everything that was written until now.
    pub(super) fn until_copied(&self, primary: usize) {
        redis_server::until_copied(&self.servers[primary]);
    }

    /// Returns the URL of the Sentinels.
    pub(super) fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// Returns the URL with another name of the primary.
    pub(super) fn url_of(&self, name: &str) -> String {
        let sentinels: Vec<String> =
            self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{}/{name}", sentinels.join(","))
    }

    /// Makes the replica the primary, while both run.
    pub(super) fn fail_over(&self) {
        wait::until("a failover that a sentinel accepts", || {
            self.sentinels.iter().find_map(|one| one.try_ask(&["SENTINEL", "FAILOVER", NAME]))
        });
    }

    /// Waits until most Sentinels name the server as the primary.
    pub(super) fn until_primary(&self, server: usize) {
        let port = self.servers[server].port().to_string();
        wait::until("the new primary", || {
            let named = self.sentinels.iter().filter(|one| {
                let address = one.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
                address.is_some_and(|address| address.get(1) == Some(&port))
            });
            (named.count() > self.sentinels.len() / 2).then_some(())
        });
    }
}

impl Sentinel {
    /// Starts a Sentinel. It cannot choose a free port itself. If the chosen one is taken meanwhile,
    /// another is tried.
    fn start(primary: u16, login: &str) -> Self {
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(sentinel) = Self::start_at(port, primary, login) {
                return sentinel;
            }
        }
        panic!("no sentinel started twenty times");
    }

    fn start_at(port: u16, primary: u16, login: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n\
             {login}",
            directory.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(redis_server::program());
        command.arg(&file).arg("--sentinel");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap();
        let mut sentinel = Self { child, port, _directory: directory };
        let runs = wait::until("a sentinel", || {
            if sentinel.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            sentinel.client().map(|_| true)
        });
        runs.then_some(sentinel)
    }

    fn client(&self) -> Option<redis::Connection> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        redis::Client::open(url).unwrap().get_connection().ok()
    }

    fn ask(&self, words: &[&str]) -> Option<Vec<String>> {
        cmd(words[0]).arg(&words[1..]).query(&mut self.client()?).ok()
    }

    fn try_ask(&self, words: &[&str]) -> Option<()> {
        cmd(words[0]).arg(&words[1..]).exec(&mut self.client()?).ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
