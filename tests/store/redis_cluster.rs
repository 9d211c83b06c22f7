//! A real Redis Cluster: some primaries, each with replicas if a test needs them, ended when the value
//! is dropped.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use redis::{Connection, Value, cmd};
use tempfile::TempDir;
use tollgate_testkit::wait;

use super::redis_server::{self, Server};

/// The number of slots of a cluster.
pub(super) const SLOTS: u16 = 16384;

/// A running cluster. The slots are divided evenly between the primaries, in their order.
pub(super) struct Cluster {
    /// The primaries, and then the replicas of the first one, of the second one, and so on.
    pub(super) nodes: Vec<Server>,
    pub(super) ids: Vec<String>,
}

impl Cluster {
    /// Starts three primaries with this many replicas each.
    pub(super) fn start(replicas: usize) -> Self {
        // A node is believed lost after two seconds without an answer, where a replica can take over.
        let timeout = if replicas == 0 { "15000" } else { "2000" };
        Self::start_with(3, replicas, || {
            (tempfile::tempdir().unwrap(), vec!["--cluster-node-timeout".into(), timeout.into()])
        })
    }

    /// Starts a cluster whose nodes have a directory with files, and options.
    pub(super) fn start_with(
        primaries: usize,
        replicas: usize,
        node: impl Fn() -> (TempDir, Vec<String>),
    ) -> Self {
        let nodes: Vec<(Server, u16)> = (0..primaries * (1 + replicas))
            .map(|_| {
                let (directory, options) = node();
                let bus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                let port = bus.to_string();
                let mut all = vec![
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &port,
                    "--cluster-require-full-coverage",
                    "no",
                    "--repl-diskless-sync-delay",
                    "0",
                ];
                all.extend(options.iter().map(String::as_str));
                (redis_server::start_in(directory, &all), bus)
            })
            .collect();
        let (nodes, buses): (Vec<Server>, Vec<u16>) = nodes.into_iter().unzip();
        let ids: Vec<String> = nodes.iter().map(|node| ask(node, &["CLUSTER", "MYID"])).collect();
        let cluster = Self { nodes, ids };
        for (n, node) in cluster.nodes.iter().enumerate() {
            let epoch = (n + 1).to_string();
            ask_ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            if n < primaries {
                let count = usize::from(SLOTS);
                let (first, last) = (count * n / primaries, count * (n + 1) / primaries - 1);
                let (first, last) = (first.to_string(), last.to_string());
                ask_ok(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            }
            if n > 0 {
                let (port, bus) = (cluster.nodes[0].port().to_string(), buses[0].to_string());
                ask_ok(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let all = cluster.nodes.len();
        cluster.until_each("all nodes", |node| {
            ask(node, &["CLUSTER", "NODES"])
                .lines()
                .filter(|line| !line.contains("handshake"))
                .count()
                == all
        });
        for n in primaries..all {
            let primary = &cluster.ids[(n - primaries) / replicas.max(1)];
            ask_ok(&cluster.nodes[n], &["CLUSTER", "REPLICATE", primary]);
        }
        cluster.until_each("the cluster", |node| {
            let info = ask(node, &["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        });
        for n in primaries..all {
            wait::until("the copy", || {
                let info = ask(&cluster.nodes[n], &["INFO", "replication"]);
                info.contains("master_link_status:up").then_some(())
            });
        }
        cluster
    }

    fn until_each(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        for node in &self.nodes {
            wait::until(what, || holds(node).then_some(()));
        }
    }

    /// Returns the URL, with all nodes.
    pub(super) fn url(&self) -> String {
        self.url_with("redis", "127.0.0.1")
    }

    /// The URL, with this scheme (before `+cluster`) and host.
    pub(super) fn url_with(&self, scheme: &str, host: &str) -> String {
        let nodes: Vec<String> =
            self.nodes.iter().map(|node| format!("{host}:{}", node.port())).collect();
        format!("{scheme}+cluster://{}", nodes.join(","))
    }

    /// The number of the node with this address.
    pub(super) fn node_at(&self, address: &str) -> Option<usize> {
        let port = address.rsplit_once(':')?.1;
        self.nodes.iter().position(|node| node.port().to_string() == port)
    }

    /// The number of the node that has the slot of a key, as that node itself says.
    pub(super) fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key);
        wait::until("the owner of a slot", || {
            self.nodes.iter().position(|node| {
                let info = ask(node, &["CLUSTER", "NODES"]);
                let own = info.lines().find(|line| line.contains("myself")).unwrap_or_default();
                own.contains("master")
                    && own.split(' ').skip(8).any(|range| {
                        let (first, last) = range.split_once('-').unwrap_or((range, range));
                        let bounds = (first.parse::<u16>(), last.parse::<u16>());
                        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&slot))
                    })
            })
        })
    }

    /// The slot of a key.
    pub(super) fn slot(&self, key: &str) -> u16 {
        cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut self.nodes[0].client()).unwrap()
    }

    /// Every key of the primaries, with the number of its node.
    pub(super) fn keys(&self) -> Vec<(usize, String)> {
        let mut all = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            if ask(node, &["INFO", "replication"]).contains("role:master") {
                let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut node.client()).unwrap();
                all.extend(keys.into_iter().map(|key| (n, key)));
            }
        }
        all
    }

    /// Makes a replica the primary, while both run. Redis gives up where it takes too long.
    pub(super) fn fail_over(&self, replica: usize) {
        wait::until("the new primary", || {
            ask_ok(&self.nodes[replica], &["CLUSTER", "FAILOVER"]);
            wait::within(Duration::from_secs(6), || {
                let info = ask(&self.nodes[replica], &["INFO", "replication"]);
                info.contains("role:master").then_some(())
            })
        });
    }

    /// Begins to move the slot of a key from the node that has it to another one.
    pub(super) fn begin_move(&self, key: &str, to: usize) -> Move {
        let (slot, from) = (self.slot(key).to_string(), self.owner(key));
        ask_ok(&self.nodes[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]);
        ask_ok(&self.nodes[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]);
        Move { slot, from, to }
    }

    /// Moves the keys of a slot, and the slot.
    pub(super) fn finish_move(&self, Move { slot, from, to }: &Move) {
        let port = self.nodes[*to].port().to_string();
        let mut client = self.nodes[*from].client();
        loop {
            let keys: Vec<String> =
                cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(100).query(&mut client).unwrap();
            if keys.is_empty() {
                break;
            }
            let mut migrate = cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(&port).arg("").arg(0).arg(5000).arg("KEYS").arg(&keys);
            migrate.exec(&mut client).unwrap();
        }
        for node in [*to, *from] {
            ask_ok(&self.nodes[node], &["CLUSTER", "SETSLOT", slot, "NODE", &self.ids[*to]]);
        }
    }
}

/// A slot on its way from one node to another.
pub(super) struct Move {
    slot: String,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// The answer of a node to a command, as text.
pub(super) fn ask(node: &Server, words: &[&str]) -> String {
    let (name, arguments) = words.split_first().unwrap();
    let mut call = cmd(name);
    call.arg(arguments);
    call.query(&mut node.client()).unwrap()
}

/// Sends a command to a node.
pub(super) fn ask_ok(node: &Server, words: &[&str]) {
    let (name, arguments) = words.split_first().unwrap();
    let mut client: Connection = node.client();
    let answer: Value = cmd(name).arg(arguments).query(&mut client).unwrap();
    assert!(matches!(answer, Value::Okay | Value::SimpleString(_)), "{words:?}: {answer:?}");
}

/// Waits for an election, which Redis repeats after seconds where nodes do not agree.
pub(super) async fn until_patiently(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
