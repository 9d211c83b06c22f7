//! A hot restart of Envoy with the module in both processes.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::rig::{
    CHAT, POLICY, SCOPES, SOON, chat,
    envoy::{CURRENT, module_directory},
    free_port,
    http::Request,
    issuer::Issuer,
    part,
    process::Process,
    redis::Redis,
    tollgate::Tollgate,
    upstream::Upstream,
};

const SHIPPED: &str = include_str!("../../../deploy/envoy/envoy-embedded.yaml");

/// Writes the shipped configuration with addresses of this test.
fn write(dir: &Path, port: u16, upstream: u16) {
    let mut config: Value = serde_saphyr::from_str(SHIPPED).unwrap();
    let address =
        |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let resources = &mut config["static_resources"];
    for cluster in resources["clusters"].as_array_mut().unwrap() {
        let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
        endpoint["endpoint"]["address"] = address(upstream);
    }
    let listener = &mut resources["listeners"][0];
    listener["address"] = address(port);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["http_filters"][0]["typed_config"]["filter_config"]["value"] =
        json!(dir.join("tollgate.yaml"));
    config["admin"]["address"] = address(0);
    std::fs::write(dir.join("envoy.json"), config.to_string()).unwrap();
}

/// Starts the Envoy of an epoch; the first chooses the base id.
fn start(dir: &Path, epoch: usize) -> Process {
    let mut command = Command::new(part(&format!("envoy-{CURRENT}"), "envoy"));
    command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_directory()).env("DIR", dir);
    command.arg("-c").arg(dir.join("envoy.json")).args(["--concurrency", "1"]);
    command.args([
        "--log-level",
        "warning",
        "--drain-time-s",
        "1",
        "--parent-shutdown-time-s",
        "2",
    ]);
    let base_id = dir.join("base-id");
    match epoch {
        0 => command.arg("--use-dynamic-base-id").arg("--base-id-path").arg(base_id),
        _ => {
            let base_id = std::fs::read_to_string(base_id).unwrap();
            command.args(["--base-id", base_id.trim(), "--restart-epoch", &epoch.to_string()])
        }
    };
    Process::start(dir, &format!("envoy-{epoch}"), &mut command)
}

#[test]
fn a_hot_restart_neither_fails_a_check_nor_forgets_a_limit() {
    const BURST: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let upstream = Upstream::start();
    let (port, ops) = (free_port(), free_port());
    let policy = POLICY.replace(
        "    name: models\n    scopes: []\n",
        "    name: models\n    scopes: []\n    limits: [few]\n",
    ) + &format!(
        "limits: [{{ name: few, by: [subject], rate: 1/1h, burst: {BURST} }}]\n\
         listen: {{ ops: '127.0.0.1:{ops}' }}\n{}",
        redis.store()
    );
    Tollgate::write_embedded(dir.path(), &policy);
    write(dir.path(), port, upstream.port);
    let mut parent = start(dir.path(), 0);
    Tollgate::inside(dir.path(), &mut parent);

    // Clients without an end: one that may pass, one that may not, and one without a token.
    let ended = Arc::new(AtomicBool::new(false));
    let clients = [
        (chat(&issuer.token(json!({ "sub": "alice", "scope": SCOPES }))), 200),
        (chat(&issuer.token(json!({ "sub": "mallory", "scope": "" }))), 403),
        (Request::post("/v1/chat/completions", CHAT), 401),
    ]
    .map(|(request, expected)| {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut answered = 0;
            while !ended.load(Ordering::Relaxed) {
                let status = request.try_send(port).map(|reply| reply.status);
                assert_eq!(status, Some(expected), "after {answered} answers");
                answered += 1;
            }
            answered
        })
    });
    let models = Request::get("/v1/models").bearer(&issuer.token(json!({ "sub": "bob" })));
    for _ in 0..BURST / 2 {
        assert_eq!(models.send(port).status, 200);
    }
    let mut child = start(dir.path(), 1);
    assert!(parent.ended(3 * SOON).success(), "{}", parent.err());
    child.until("readiness of the second module", |_| {
        (Request::get("/readyz").try_send(ops)?.status == 200).then_some(())
    });
    for _ in 0..BURST / 2 {
        assert_eq!(models.send(port).status, 200, "the limit goes on where it was");
    }
    assert_eq!(models.send(port).verdict(), (429, "rate_limited".to_owned()));
    ended.store(true, Ordering::Relaxed);
    let answered = clients.map(|thread| thread.join().unwrap());
    child.signal(Signal::SIGTERM);
    assert!(child.ended(SOON).success(), "{}", child.err());
    let audit = std::fs::read_to_string(dir.path().join("tollgate.out")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |key: &str, value: &str| lines.iter().filter(|line| line[key] == value).count();
    let found = [with("sub", "alice"), with("sub", "mallory")];
    assert_eq!(found, [answered[0], answered[1]], "no audit line is lost");
    assert_eq!(with("reason", "missing_credential"), answered[2]);
}
