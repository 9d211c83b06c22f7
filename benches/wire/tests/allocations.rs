//! The heap allocations of a hot check: the server runs in this process with an allocator that
//! counts, the load in another process. Prints the counts as one line of JSON, which `make bench`
//! reads.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{alloc::System, path::Path, process::Command, sync::Arc};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tollgate::{app::App, config, observe};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The limit, from the first byte of a check to the last byte of its answer, h2 included.
const MOST: f64 = 20.0;

fn taken() -> usize {
    let counted = ALLOCATOR.stats();
    counted.allocations + counted.reallocations
}

fn tool(arguments: &[&str]) {
    let done = Command::new(env!("CARGO_BIN_EXE_tollgate-bench")).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Returns the allocations of one check: the difference of two loads of different length, so that
/// those of a connection are not counted.
fn each(directory: &Path, name: &str, policy: &str) -> f64 {
    let path = |name: &str| directory.join(name).display().to_string();
    let socket = path(&format!("{name}.sock"));
    let listen = format!(
        "listen: {{ grpc: 'unix:{socket}', ops: '127.0.0.1:0' }}\naudit: {{ to: 'file:/dev/null' }}\n"
    );
    let loaded = config::compile(&format!("{listen}{policy}"), &|_| None).expect("a configuration");
    // One thread serves, as with one core, until `over` is dropped.
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (over, is_over) = tokio::sync::oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = App::start(loaded, Arc::new(observe::now)).await.unwrap();
            while !app.engine().readiness().missing().is_empty() {
                tokio::task::yield_now().await;
            }
            ready.send(()).unwrap();
            drop(is_over.await);
            app.stop().await;
        });
    });
    is_ready.recv().unwrap();
    let asked = |count: u32| {
        let before = taken();
        let (target, tokens, count) = (format!("unix:{socket}"), path("tokens"), count.to_string());
        tool(&[
            "check",
            "--target",
            &target,
            "--tokens",
            &tokens,
            "--in-flight",
            "16",
            "--requests",
            &count,
        ]);
        taken() - before
    };
    asked(200);
    let (few, many) = (asked(500), asked(2500));
    drop(over);
    serving.join().unwrap();
    (f64::from(u32::try_from(many).unwrap()) - f64::from(u32::try_from(few).unwrap())) / 2000.0
}

#[test]
fn a_hot_check_allocates_a_few_times_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    tool(&["keys", &path("keys")]);
    tool(&[
        "tokens",
        "--keys",
        &path("keys"),
        "--algorithm",
        "ES256",
        "--count",
        "50",
        "--to",
        &path("tokens"),
    ]);
    let route = "routes:\n  - match: { methods: [POST], paths: [/v1/chat/completions] }\n";
    let hot = format!(
        "issuers: [{{ issuer: 'https://auth.example.com', audiences: [inference-api], algorithms: [ES256], jwks: {{ file: '{}' }} }}]
limits: [{{ name: a, by: [subject], rate: 1000000/1s }}, {{ name: b, by: [subject, route], rate: 1000000/1s }}]
{route}    scopes: ['infer:text']\n    model: {{ from: 'fixed:qwen', scope: 'model:{{model}}:inference' }}\n    limits: [a, b]\n",
        path("keys/jwks.json")
    );
    let public = each(directory.path(), "public", &format!("{route}    public: true\n"));
    let hot = each(directory.path(), "hot", &hot);
    println!("{{\"public\":{public:.1},\"hot\":{hot:.1}}}");
    assert!(hot <= MOST, "a hot check allocates {hot} times");
}
