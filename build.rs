//! Compiles `proto/` in Rust, so that building needs no `protoc`, and names the commit for `tollgate
//! version`.

use std::{path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rustc-env=TOLLGATE_COMMIT={}", commit());
    compile_protocols()
}

/// Returns the commit that is built: `TOLLGATE_COMMIT` where it is set, as for an image, which has
/// no repository; else what git says; else `unknown`.
///
/// A development build is `unknown`: it would have to be built again after each commit.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=TOLLGATE_COMMIT");
    let given = std::env::var("TOLLGATE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    given.or_else(|| is_release.then(git_commit)?).unwrap_or_else(|| "unknown".to_owned())
}

/// Asks git, and has this script run again when `HEAD` or what it points to changes.
fn git_commit() -> Option<String> {
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn compile_protocols() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    // Neither protox nor compile_fds() does this.
    println!("cargo::rerun-if-changed={}", root.display());

    let files = protox::compile(
        [
            "envoy/data/ai/v3/token_usage.proto",
            "envoy/service/accesslog/v3/als.proto",
            "envoy/service/auth/v3/external_auth.proto",
            "envoy/service/ext_proc/v3/external_processor.proto",
            "opentelemetry/proto/collector/trace/v1/trace_service.proto",
        ],
        [&root],
    )?;
    const HTTP: &str = ".envoy.service.auth.v3.AttributeContext.HttpRequest";
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        // A decoded body is a slice of the message it came in, not a copy.
        .bytes(format!("{HTTP}.body"))
        .bytes(format!("{HTTP}.raw_body"))
        // Ordered, and cheaper to fill than a hash map that defends itself.
        .btree_map(format!("{HTTP}.headers"))
        .include_file("protos.rs")
        .compile_fds(files)?;
    Ok(())
}
