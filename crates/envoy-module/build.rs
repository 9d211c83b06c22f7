//! Links the unwinder into the module: the images of Envoy need not have `libgcc_s.so.1`.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let Ok(directory) = env::var("OUT_DIR") else { return };
    // The standard library names `gcc_s`. The linker finds this file first, which names the archives
    // with the same symbols.
    let script = Path::new(&directory).join("libgcc_s.so");
    if fs::write(script, "INPUT(-lgcc_eh -lgcc)\n").is_ok() {
        println!("cargo::rustc-link-search=native={directory}");
    }
}
