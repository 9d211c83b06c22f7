//! What is charged beside what the servers count, in a bounded run of `make bench-accuracy`: many
//! clients at once, two replicas with a proxy each on one Redis, of which one is killed.

use std::path::Path;

use crate::rig::{envoy::CURRENT, part, python};

#[test]
fn no_budget_is_overspent_undercounted_or_denied_falsely() {
    runs_through("envoy");
}

#[test]
#[ignore = "many clients for half a minute: make test-all"]
fn the_same_holds_where_settlements_are_acknowledged() {
    runs_through("acknowledged");
}

#[test]
#[ignore = "many clients for half a minute: make test-all"]
fn the_same_holds_behind_nginx() {
    let _nginx = part("nginx-njs", "nginx-njs");
    runs_through("nginx");
}

fn runs_through(proxy: &str) {
    let _envoy = part(&format!("envoy-{CURRENT}"), "envoy");
    let _redis = part("redis-server", "redis");
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = ["tools", "benches"].map(|path| root.join(path));
    let output = python::command("benches/accuracy/accuracy.py")
        .env("PYTHONPATH", std::env::join_paths(paths).unwrap())
        .arg("--short")
        .arg(dir.path())
        .args(["--program", env!("CARGO_BIN_EXE_tollgate"), "--through", proxy])
        .current_dir(root)
        .output()
        .unwrap();
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{out}{err}");
    assert!(out.starts_with("accuracy: "), "{out}{err}");
}
