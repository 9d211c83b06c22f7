//! Files that block: pipes without a writer, and regular files whose open does not return.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{
    POLICY,
    grpc::Peer,
    http::Request,
    issuer::{Issuer, Key},
    process::Process,
    python,
    tollgate::{ADMIN_TOKEN, Tollgate, run},
    until,
};

/// The time for whatever must not wait for a file. A busy machine needs some of it.
const AT_ONCE: Duration = Duration::from_secs(3);

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The files of [`config`], apart from the configuration itself.
const FILES: [&str; 6] = ["admin", "upstream", "secret", "jwks.json", "tls.pem", "tls.key"];

/// A configuration that names a file of each kind.
fn config() -> String {
    let listen = r#"listen:
  grpc: "unix:${DIR}/authz.sock"
  ops: "127.0.0.1:0"
  http: [{ address: "127.0.0.1:0", dialect: nginx, body: deny, tls: { cert: "${DIR}/tls.pem", key: "${DIR}/tls.key" } }]
  admin: { address: "127.0.0.1:0", token: "file:${DIR}/admin" }
"#;
    let hmac = r#"  - { issuer: https://hmac.example.com, audiences: any, algorithms: [HS256], secret: "file:${DIR}/secret" }
models:
"#;
    let policy = POLICY.replace("models:\n", hmac).replace(
        "    scopes: []\n",
        "    scopes: []\n    upstream_key: \"file:${DIR}/upstream\"\n",
    );
    format!("{listen}{policy}")
}

fn write_files(dir: &Path) {
    Issuer::new("https://auth.example.com").publish(dir);
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (file, content) in [
        ("admin", ADMIN_TOKEN),
        ("upstream", "sk-1"),
        ("secret", SECRET),
        ("tls.pem", &certificate.cert.pem()),
        ("tls.key", &certificate.signing_key.serialize_pem()),
    ] {
        std::fs::write(dir.join(file), content).unwrap();
    }
}

/// Replaces a file by a pipe that nothing writes to.
fn make_pipe(path: &Path) {
    let pipe = path.with_extension("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(pipe, path).unwrap();
}

/// Makes every open of these files wait until the process is dropped, or for 45 s.
fn hold(dir: &Path, paths: &[PathBuf]) -> Process {
    let mut command = python::command("tests/lease_holder.py");
    let mut holder = Process::start(dir, "holder", command.args(paths));
    holder.until("its leases", |holder| holder.out().contains("held").then_some(()));
    holder
}

/// The number of threads that read a file.
fn readers(tollgate: &Tollgate) -> usize {
    let tasks = tollgate.process.path("task");
    let names = std::fs::read_dir(tasks).unwrap();
    let names =
        names.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "tollgate-file").count()
}

/// Sends checks, calls of the admin API and probes, none of which may wait.
fn answers_at_once(tollgate: &Tollgate, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let hmac = Issuer::with("https://hmac.example.com", Key::secret(SECRET));
    for issuer in [&Issuer::new("https://auth.example.com"), &hmac] {
        let request = Request::get("/v1/models").bearer(&issuer.token(json!({})));
        let check = async { Peer::connect(dir).await.begin(&request).await.finish().await };
        let verdict = runtime.block_on(async { tokio::time::timeout(AT_ONCE, check).await });
        assert_eq!(verdict.unwrap(), (200, String::new()));
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let reply = Request::get(path).send(tollgate.ops);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.took < AT_ONCE, "{path}: {:?}", reply.took);
    }
    let list = Request::get("/v1/revocations");
    for (request, expected) in [(list.clone().bearer(ADMIN_TOKEN), 200), (list, 401)] {
        let reply = request.send(tollgate.admin);
        assert_eq!(reply.status, expected);
        assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    }
}

/// Waits for rounds in which every file is read.
fn rounds(tollgate: &Tollgate, count: usize) {
    for _ in 0..count {
        let tried = || tollgate.metric("tollgate_config_last_reload_timestamp_seconds", &[]);
        let before = tried();
        until("another round", || (tried() > before).then_some(()));
    }
}

/// Checks that the process goes on while no file can be read, and ends in time.
fn goes_on(tollgate: &mut Tollgate, dir: &Path, cause: &str, most_readers: usize) {
    answers_at_once(tollgate, dir);
    let failures = [
        "configuration reload failed",
        "upstream key reload failed",
        "admin token reload failed",
        "certificate reload failed",
    ];
    until("the failed reloads", || {
        let log = tollgate.process.err();
        (failures.iter().all(|line| log.contains(line)) && log.contains(cause)).then_some(())
    });
    for _ in 0..3 {
        rounds(tollgate, 1);
        answers_at_once(tollgate, dir);
        assert!(readers(tollgate) <= most_readers, "{}", readers(tollgate));
    }
    let log = tollgate.process.err();
    for line in failures {
        assert_eq!(log.matches(line).count(), 1, "`{line}` once, not in each round:\n{log}");
    }
    tollgate.process.signal(Signal::SIGTERM);
    assert!(tollgate.process.ended(AT_ONCE).success());
}

#[test]
fn pipes_in_place_of_files_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    let mut tollgate = Tollgate::start(dir, &config());
    answers_at_once(&tollgate, dir);
    for file in FILES {
        make_pipe(&dir.join(file));
    }
    make_pipe(&tollgate.config);
    goes_on(&mut tollgate, dir, "is not a regular file but a pipe", 0);
}

#[test]
fn files_that_hang_stop_nothing_and_have_one_thread_each() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    let mut tollgate = Tollgate::start(dir, &config());
    answers_at_once(&tollgate, dir);
    let mut paths: Vec<PathBuf> = FILES.iter().map(|file| dir.join(file)).collect();
    paths.push(tollgate.config.clone());
    let _holder = hold(dir, &paths);
    goes_on(&mut tollgate, dir, "the read has not ended within 5 s", paths.len());
}

#[test]
fn a_start_with_a_file_that_blocks_ends_with_its_name() {
    for file in FILES.iter().filter(|file| **file != "jwks.json").chain(&["tollgate.yaml"]) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write_files(dir);
        std::fs::write(dir.join("tollgate.yaml"), config()).unwrap();
        make_pipe(&dir.join(file));
        let output = run(dir, &["serve", "--config", "tollgate.yaml"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{file}: {error}");
        let names = error.contains(file) && error.contains("is not a regular file but a pipe");
        assert!(names, "{file}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    std::fs::write(dir.join("tollgate.yaml"), config()).unwrap();
    let _holder = hold(dir, &[dir.join("secret")]);
    let output = run(dir, &["serve", "--config", "tollgate.yaml"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("secret") && error.contains("has not ended within 5 s"), "{error}");
}

/// Rotating the admin token needs no restart, and a file that is half-written is not used.
#[test]
fn the_admin_token_follows_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    let tollgate = Tollgate::start(dir, &config());
    let list =
        |token: &str| Request::get("/v1/revocations").bearer(token).send(tollgate.admin).status;
    let next = "the-next-admin-token-0123456789-0123456789";
    assert_eq!((list(ADMIN_TOKEN), list(next)), (200, 401));
    std::fs::write(dir.join("admin"), "too-short").unwrap();
    until("the refusal of a weak token", || {
        tollgate.process.err().contains("the admin token has 9 bytes").then_some(())
    });
    assert_eq!(list(ADMIN_TOKEN), 200);
    std::fs::write(dir.join("admin"), next).unwrap();
    until("the next token", || (list(next) == 200).then_some(()));
    assert_eq!(list(ADMIN_TOKEN), 401);
}

#[test]
fn the_command_line_reads_a_pipe_as_standard_input_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = dir.join("key.pem");
    std::fs::write(&key, Key::ec("main").pem()).unwrap();
    let mint = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["token", "mint", "--key", key, "--sub", "alice"]).current_dir(dir);
        command
    };
    let input = std::fs::File::open(&key).unwrap();
    let output = mint("-").stdin(input).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches('.').count(), 2, "a token");
    make_pipe(&key);
    let output = mint("key.pem").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("`key.pem` is not a regular file but a pipe"), "{error}");
}
