//! Sets `cfg(loom)` for this package, and for nothing that it depends on: with it in `RUSTFLAGS`,
//! other libraries would be built for a model as well.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=loom");
}
