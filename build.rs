//! Compiles `proto/` in Rust: building needs no `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    // Neither protox nor compile_fds() says this.
    println!("cargo::rerun-if-changed={}", root.display());

    let files = protox::compile(
        [
            "envoy/service/auth/v3/external_auth.proto",
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
