//! Updates of Envoy's listeners, and its end, with the module in it.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::{
    POLICY, SOON, chat,
    envoy::{CURRENT, EMBEDDED_CURRENT, Envoy, module_directory},
    http::{Reply, Request},
    issuer::Issuer,
    part,
    process::Process,
    redis::Redis,
    tollgate::Tollgate,
    until,
    upstream::Upstream,
};

const SHIPPED: &str = include_str!("../../../deploy/envoy/envoy-embedded.yaml");

/// An Envoy whose listeners come from a file.
struct Dynamic {
    process: Process,
    dir: TempDir,
    listener: Value,
    admin: u16,
    token: String,
    _upstream: Upstream,
}

impl Dynamic {
    fn start(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let upstream = Upstream::start();
        Tollgate::write_embedded(dir.path(), policy);
        let mut config: Value = serde_saphyr::from_str(SHIPPED).unwrap();
        let address =
            |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
        let mut listener = config["static_resources"]["listeners"][0].take();
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        listener["address"] = address(0);
        *filter(&mut listener) = json!(dir.path().join("tollgate.yaml"));
        config["static_resources"].as_object_mut().unwrap().remove("listeners");
        for cluster in config["static_resources"]["clusters"].as_array_mut().unwrap() {
            let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
            endpoint["endpoint"]["address"] = address(upstream.port);
        }
        config["admin"]["address"] = address(0);
        let lds = dir.path().join("lds.json");
        config["dynamic_resources"] =
            json!({ "lds_config": { "path_config_source": { "path": lds } } });
        let (path, report) = (dir.path().join("envoy.json"), dir.path().join("envoy.admin"));
        std::fs::write(&path, config.to_string()).unwrap();
        write(dir.path(), &[&listener]);
        let mut command = Command::new(part(&format!("envoy-{CURRENT}"), "envoy"));
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_directory()).env("DIR", dir.path());
        command.arg("-c").arg(path).arg("--admin-address-path").arg(&report).args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ]);
        let mut process = Process::start(dir.path(), "envoy", &mut command);
        let admin = process.until("readiness", |_| {
            let text = std::fs::read_to_string(&report).ok()?;
            let admin = text.rsplit_once(':')?.1.trim().parse().ok()?;
            (Request::get("/ready").try_send(admin)?.status == 200).then_some(admin)
        });
        Tollgate::inside(dir.path(), &mut process);
        let token = issuer.token(json!({ "sub": "alice" }));
        Self { process, dir, listener, admin, token, _upstream: upstream }
    }

    /// The port of the listener, if there is one.
    fn port(&self) -> Option<u16> {
        let listeners = Request::get("/listeners?format=json").try_send(self.admin)?.json();
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        u16::try_from(address["port_value"].as_u64()?).ok()
    }

    fn get(&self) -> Reply {
        let port = until("a listener", || self.port());
        Request::get("/v1/models").bearer(&self.token).send(port)
    }

    fn counter(&self, name: &str) -> u64 {
        let text = Request::get("/stats?usedonly").send(self.admin).text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    }

    /// Replaces the listeners, and waits until Envoy has read them.
    fn update(&self, listeners: &[&Value], counter: &str) {
        let before = self.counter(counter);
        write(self.dir.path(), listeners);
        until(&format!("{counter} to grow"), || (self.counter(counter) > before).then_some(()));
    }
}

/// The value of the filter's configuration: the path of the policy file.
fn filter(listener: &mut Value) -> &mut Value {
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    &mut manager["http_filters"][0]["typed_config"]["filter_config"]["value"]
}

fn write(dir: &Path, listeners: &[&Value]) {
    let (path, new): (PathBuf, PathBuf) = (dir.join("lds.json"), dir.join("lds.json.new"));
    std::fs::write(&new, json!({ "resources": listeners }).to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn counts_go_on_over_updates_and_over_a_listener_that_comes_back() {
    const UPDATED: &str = "listener_manager.lds.update_success";
    const REJECTED: &str = "listener_manager.lds.update_rejected";
    let policy = POLICY.replace(
        "    name: models\n    scopes: []\n",
        "    name: models\n    scopes: []\n    limits: [five]\n",
    ) + "limits: [{ name: five, by: [subject], rate: 1/1h, burst: 5 }]\nlisten: { ops: '127.0.0.1:0' }\n";
    let mut envoy = Dynamic::start(&policy);
    for _ in 0..2 {
        assert_eq!(envoy.get().status, 200);
    }
    // Another configuration of the filter chain: a new filter, before the old one is gone.
    let mut changed = envoy.listener.clone();
    changed["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"] = json!("changed");
    envoy.update(&[&changed], UPDATED);
    assert_eq!(envoy.get().status, 200, "the third");

    // A policy file that is missing: the update is rejected, and the listener goes on.
    let mut wrong = changed.clone();
    *filter(&mut wrong) = json!("/nonexistent/tollgate.yaml");
    envoy.update(&[&wrong], REJECTED);
    assert_eq!(envoy.get().status, 200, "the fourth");
    assert!(envoy.process.err().contains("/nonexistent/tollgate.yaml"), "Envoy logs the cause");

    envoy.update(&[], UPDATED);
    until("no listener", || envoy.port().is_none().then_some(()));
    envoy.update(&[&changed], UPDATED);
    assert_eq!(envoy.get().status, 200, "the fifth");
    assert_eq!(envoy.get().verdict(), (429, "rate_limited".to_owned()), "the sixth");

    envoy.process.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(envoy.process.ended(SOON).success());
    let audit = std::fs::read_to_string(envoy.dir.path().join("tollgate.out")).unwrap();
    assert_eq!(audit.lines().filter(|line| line.contains("/v1/models")).count(), 6);
}

#[test]
fn envoy_ends_while_checks_wait_and_no_audit_line_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let upstream = Upstream::start();
    // A route whose body is not read waits at its head, while the body arrives.
    let uploads = "routes:\n  - match: { methods: [POST], paths: [/v1/uploads] }\n    scopes: []\n    limits: [many]\n";
    let policy = POLICY.replace("routes:\n", uploads);
    let policy = policy.replace("    model: {", "    limits: [many]\n    model: {")
        + "limits: [{ name: many, by: [subject], rate: 1000/1s }]\n"
        + redis.store();
    Tollgate::write_embedded(dir.path(), &policy);
    let mut envoy = Envoy::start(dir.path(), upstream.port, EMBEDDED_CURRENT, |config| config);
    let tollgate = Tollgate::inside(dir.path(), &mut envoy.process);
    let token = issuer.token(json!({ "sub": "alice" }));
    const ANSWERED: usize = 20;
    for _ in 0..ANSWERED {
        assert_eq!(envoy.send(&chat(&token)).status, 200);
    }
    upstream.taken();
    let body = vec![b'x'; 300_000];
    let upload = Request::post("/v1/uploads", body.clone()).bearer(&token);
    assert_eq!(envoy.send(&upload).status, 200);
    assert!(upstream.only().body == body, "the whole body is forwarded");
    // From now on checks wait in Redis, and their clients leave at random, or stay.
    redis.pause();
    let allowed = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (port, token, allowed) = (envoy.port, token.clone(), Arc::clone(&allowed));
            std::thread::spawn(move || {
                let reply = chat(&token).try_send(port);
                if reply.is_some_and(|reply| reply.status == 200) {
                    allowed.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    until("checks under way", || {
        let stats = Request::get("/metrics").send(tollgate.ops).text();
        stats.contains("tollgate_checks").then_some(())
    });
    envoy.process.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(envoy.process.ended(SOON).success(), "{}", envoy.process.err());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    redis.resume();
    assert_eq!(allowed.load(Ordering::Relaxed), 0, "no check that waits is an allowed one");
    let lines = tollgate.audit();
    let with = |decision: &str| lines.iter().filter(|line| line["decision"] == decision).count();
    assert_eq!(with("allow"), ANSWERED + 1, "{lines:#?}");
    let log = envoy.process.err();
    assert!(!log.contains("panic") && !log.contains("were not written"), "{log}");
}

/// As at a hot restart, where the process before still has the ports.
#[test]
fn a_port_that_is_taken_is_bound_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let upstream = Upstream::start();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let listen = format!("listen: {{ embedded: true, ops: \"127.0.0.1:{port}\" }}\n");
    Tollgate::write_embedded(dir.path(), &(listen + POLICY));
    let mut envoy = Envoy::start(dir.path(), upstream.port, EMBEDDED_CURRENT, |config| config);
    envoy.process.until("the refusal of the port", |envoy| {
        envoy.err().contains("not listening yet, trying again").then_some(())
    });
    assert_eq!(envoy.send(&Request::get("/health")).status, 200, "checks are answered meanwhile");
    drop(taken);
    let tollgate = Tollgate::inside(dir.path(), &mut envoy.process);
    assert_eq!(tollgate.ops, port);
}
