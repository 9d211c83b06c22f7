//! The profile for system calls: the program works under it, and what it does not list is refused.

use std::{
    collections::BTreeSet, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{at, read, succeeds};
use crate::rig::{
    SOON, chat,
    grpc::Peer,
    http::Request,
    issuer::{Issuer, Key, KeyServer, Mood, jwks},
    part,
    redis::Redis,
    tollgate::{ADMIN_TOKEN, Tollgate},
    until,
};

const PROFILE: &str = "deploy/seccomp/tollgate.json";
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// `tools/seccomp` with the profile.
fn launcher(arguments: &[&str]) -> Command {
    part("libseccomp.so.2", "seccomp");
    let mut command = Command::new(part("python", "python"));
    command.arg("-B").arg(at("tools/seccomp")).arg(at(PROFILE)).args(arguments);
    command
}

/// A program in `dir` that applies the profile to itself and becomes Tollgate.
fn confined(dir: &std::path::Path) -> PathBuf {
    let [python, tool, profile] = [part("python", "python"), at("tools/seccomp"), at(PROFILE)];
    let binary = env!("CARGO_BIN_EXE_tollgate");
    let line = format!("exec {python:?} -B {tool:?} {profile:?} -- {binary} \"$@\"");
    let path = dir.join("confined");
    std::fs::write(&path, format!("#!/bin/bash\n{line}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The listeners, files and sources that a Tollgate may have.
fn config(server: &KeyServer) -> String {
    // By name, so that a resolver is used.
    let source = server.section().replace("127.0.0.1", "localhost");
    let source = source.replace('{', "{ cache_file: \"${DIR}/cache.json\",");
    format!(
        r#"
listen:
  grpc: "unix:${{DIR}}/authz.sock"
  http:
    - {{ address: "127.0.0.1:0", dialect: traefik, body: deny }}
    - {{ address: "unix:${{DIR}}/http.sock", dialect: traefik, body: deny }}
  ops: {{ address: "127.0.0.1:0", tls: {{ cert: "${{DIR}}/cert.pem", key: "${{DIR}}/key.pem" }} }}
  admin: {{ address: "127.0.0.1:0", token: {ADMIN_TOKEN} }}
audit: {{ to: "file:${{DIR}}/audit.log" }}
issuers:
  - {{ issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256, ES256], jwks: {source} }}
models: [{{ name: qwen, serves: [qwen] }}]
routes:
  - {{ match: {{ methods: [POST], paths: [/v1/chat/completions] }}, scopes: [infer:text], model: {{ from: body }}, limits: [per-subject] }}
  - {{ match: {{ methods: [GET], paths: [/v1/models] }}, scopes: [], on_outage: local, limits: [per-subject] }}
limits: [{{ name: per-subject, by: [subject], rate: 100/1m }}]
store:
  redis:
    url: "unix:${{DIR}}/redis.sock"
    password: "file:${{DIR}}/redis.password"
    replicate_revocations: {{}}
    local: {{ replicas: 1 }}
"#
    )
}

fn check(path: &str, token: &str) -> Request {
    Request::get("/check")
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Uri", path)
        .header("X-Forwarded-Host", "api.example.com")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "192.0.2.1")
        .bearer(token)
}

/// The number of a field in `/proc/<pid>/status`.
fn status(tollgate: &Tollgate, field: &str) -> u32 {
    let status = tollgate.process.proc("status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_under_the_profile() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let mut issuer = Issuer::new("https://auth.example.com");
    let server = KeyServer::start(Mood::Serves(issuer.jwks()));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let config = config(&server);
    let program = confined(dir.path());
    let mut tollgate = Tollgate::start_unready(&program, dir.path(), &config);
    // `2` is a filter: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    assert_eq!((status(&tollgate, "Seccomp"), status(&tollgate, "NoNewPrivs")), (2, 1));

    // TLS, and the keys of the issuer.
    let certificate = dir.path().join("cert.pem");
    let ready = || {
        let url = format!("https://localhost:{}/readyz", tollgate.ops);
        let mut curl = Command::new(part("curl", "curl"));
        let done = curl.args(["-sS", "--cacert"]).arg(&certificate).arg(url).output().unwrap();
        String::from_utf8_lossy(&done.stdout).contains("\"ready\":true").then_some(())
    };
    until("readiness over TLS", ready);
    let http = tollgate.http_port();
    let token =
        |issuer: &Issuer, subject: &str| issuer.token(json!({ "sub": subject, "jti": subject }));
    let alice = token(&issuer, "alice");
    assert_eq!(check("/v1/models", &alice).send(http).status, 200);
    assert_eq!(check("/other", &alice).send(http).code(), "no_route");

    // gRPC, with a body that another thread reads.
    let mut peer = Peer::connect(dir.path()).await;
    let large = format!(r#"{{"model":"qwen","messages":["{}"]}}"#, "a".repeat(200_000));
    for request in [chat(&alice), chat(&alice).body(large)] {
        assert_eq!(peer.begin(&request).await.finish().await, (200, String::new()));
    }

    // A revocation, through Redis and its stream.
    let body = json!({ "issuer": "https://auth.example.com", "subject": "bob" }).to_string();
    let call = Request::new("POST", "/v1/revocations").header("Content-Type", "application/json");
    let bob = token(&issuer, "bob");
    assert_eq!(check("/v1/models", &bob).send(http).status, 200);
    assert_eq!(tollgate.admin(call.body(body)).status, 200);
    until("the revocation", || (check("/v1/models", &bob).send(http).status == 401).then_some(()));

    // Another key, with its file in the cache.
    issuer.key = Key::ec("next");
    server.now(Mood::Serves(jwks(&[&issuer.key])));
    let next = token(&issuer, "alice");
    until("the next key", || (check("/v1/models", &next).send(http).status == 200).then_some(()));
    until("the cache", || {
        std::fs::read_to_string(dir.path().join("cache.json")).ok()?.contains("next").then_some(())
    });

    // Reloads, by themselves and by a signal.
    for (path, signal) in [("/one", None), ("/two", Some(Signal::SIGHUP))] {
        tollgate.rewrite(dir.path(), &config.replace("/v1/models", path));
        signal.into_iter().for_each(|signal| tollgate.process.signal(signal));
        until(path, || (check(path, &next).send(http).status == 200).then_some(()));
    }

    // An outage, and the end.
    drop(redis);
    until("the local counts", || (check("/two", &next).send(http).status == 200).then_some(()));
    tollgate.process.signal(Signal::SIGTERM);
    assert!(tollgate.process.ended(SOON).success());
    let lines = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert!(lines.contains(r#""decision":"allow""#) && lines.contains(r#""reason":"revoked""#));
}

#[test]
fn a_call_that_is_not_listed_is_refused() {
    // Each fails for another reason without the profile, because its arguments are -1.
    let refused = [
        "ptrace",
        "process_vm_readv",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "init_module",
        "kexec_load",
        "setuid",
        "setgid",
        "capset",
        "keyctl",
        "kill",
        "fork",
        "vfork",
        "execveat",
        "memfd_create",
        "open_by_handle_at",
        "symlink",
        "link",
        "mknod",
        "chown",
        "sethostname",
        "settimeofday",
    ];
    // AF_NETLINK, AF_PACKET and AF_VSOCK; a process instead of a thread, and namespaces.
    let arguments = ["socket:16", "socket:17", "socket:40", "clone:17", "clone:0x10010000"];
    // Listed, so that the kernel answers: EINVAL, EBADF, success.
    let listed = ["socket:2", "read", "getpid", "setpriority"];
    let calls = [&refused[..], &arguments, &listed, &["clone3"]].concat();
    let text = succeeds(launcher(&["--try"]).args(&calls));
    let found: Vec<(&str, i32)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(call, errno)| (call, errno.parse().unwrap()))
        .collect();
    let expected = |call: &&str| match *call {
        "socket:2" | "setpriority" => 22,
        "read" => 9,
        "getpid" => 0,
        // The C library makes a thread with `clone` then.
        "clone3" => ENOSYS,
        _ => EPERM,
    };
    let expected: Vec<(&str, i32)> = calls.iter().map(|call| (*call, expected(call))).collect();
    assert_eq!(found, expected);
}

/// The names of the calls that the profile lists.
fn listed() -> BTreeSet<String> {
    let profile: Value = serde_json::from_str(&read(PROFILE)).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let names = rules.iter().flat_map(|rule| rule["names"].as_array().unwrap());
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_name_of_the_profile_is_a_system_call() {
    assert_eq!(succeeds(&mut launcher(&["--resolve"])), "");
}

#[test]
fn the_units_of_systemd_list_the_calls_of_the_profile() {
    for file in ["tollgate.service", "tollgate@.service"] {
        let unit = read(&format!("deploy/systemd/{file}"));
        let lines = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
        let names = lines.flat_map(|line| line.split(' ')).map(str::to_owned);
        assert_eq!(names.collect::<BTreeSet<_>>(), listed(), "{file}");
        for line in ["RestrictNamespaces=yes", "SystemCallErrorNumber=EPERM"] {
            assert!(unit.lines().any(|found| found == line), "{file}: {line}");
        }
        let families = "\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n";
        assert!(unit.contains(families), "{file}");
    }
}
