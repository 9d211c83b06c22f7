//! The files of deploy/ for Kubernetes, Compose, systemd and images: rendered, validated and run
//! with the real programs.

mod browsers;
mod chart;
mod chart_settlement;
mod embedded;
mod gateways;
mod image;
mod ingress;
mod kustomize;
mod login;
mod lua;
mod manifests;
mod metered;
mod metered_nginx;
mod monitoring;
mod pod;
mod sbom;
mod seccomp;
mod strangers;
mod values;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::rig::part;

/// A file of the project.
fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file that are not empty.
fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The one object of a kind.
fn only<'d>(documents: &'d [Value], kind: &str) -> &'d Value {
    let found: Vec<&Value> = documents.iter().filter(|document| document["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "objects of kind {kind}");
    found[0]
}

/// The strings of a list.
fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// Runs a command that must succeed and returns its standard output.
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let out = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{command:?}: {status}\n{out}{}", String::from_utf8_lossy(&stderr));
    out
}

/// The versions of Helm that are tested with the same chart.
const HELMS: [&str; 2] = ["helm-3", "helm-4"];

/// A Helm whose files are in `home`.
fn helm(version: &str, home: &Path) -> Command {
    let mut command = Command::new(part(version, "helm"));
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home);
    }
    command.env_remove("KUBECONFIG").env("HOME", home).current_dir(at("deploy/helm"));
    command
}

/// The chart, rendered with these values files.
fn template(version: &str, arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    succeeds(helm(version, home.path()).args(["template", "gate", "tollgate"]).args(arguments))
}

/// The message of the chart that refuses these values.
fn refused(version: &str, arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = helm(version, home.path());
    let output = command.args(["template", "gate", "tollgate"]).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{command:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The names of the example values in the chart.
fn examples() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(at("deploy/helm/tollgate/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 7, "{names:?}");
    names
}

/// The path of an example, relative to Helm's working directory.
fn example(name: &str) -> String {
    format!("tollgate/examples/{name}")
}

/// Runs `tollgate check-config` on a file with this text.
fn check_config(what: &str, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollgate.yaml");
    std::fs::write(&path, text).unwrap();
    let output = crate::rig::tollgate::run(dir.path(), &["check-config", path.to_str().unwrap()]);
    assert!(output.status.success(), "{what}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `envoy --mode validate` on a configuration.
fn validate_envoy(what: &str, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(part("envoy-1.40.0", "envoy"));
    command
        .args(["--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c"])
        .arg(path);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Validates files strictly with `tools/manifests.py`.
fn validate_manifests(arguments: &[&str], files: &[PathBuf]) -> String {
    let schemas = at(".parts/manifests");
    assert!(schemas.exists(), "the schemas are missing: run `tools/parts manifests`");
    let mut command = Command::new(part("python", "python"));
    command
        .env("PYTHONPATH", schemas)
        .arg("-B")
        .arg(at("tools/manifests.py"))
        .args(arguments)
        .args(files);
    succeeds(&mut command)
}

/// A file with this text in a temporary directory.
fn written(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifests.yaml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// Compares a generated file with its source; `TOLLGATE_WRITE_DOCS=1` writes it instead.
fn is_generated(path: &str, wanted: &str, how: &str) {
    if std::env::var_os("TOLLGATE_WRITE_DOCS").is_some() {
        std::fs::write(at(path), wanted).unwrap();
    }
    assert!(
        read(path) == wanted,
        "{path} differs from its source; run `TOLLGATE_WRITE_DOCS=1 {how}`"
    );
}
