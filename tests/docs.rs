//! The documentation is run: every configuration goes through `check-config`, every command through the real binary (and Envoy,
//! nginx, Redis and curl where a page uses them), every link leads somewhere, and what is made from the code is what the code says.
//!
//! The info string of a fenced block names its kind; [`block::Kind`] lists the kinds, and a block of no kind fails.

mod block;
mod configuration;
mod kinds;
mod links;
mod python;
mod reasons;
mod restart;
mod session;
mod translation;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page of the documentation, by path: those in the root directory, `docs` and `deploy`, and
/// `tests/README.md`.
fn pages() -> Vec<(String, String)> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let beside = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        beside.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    assert!(paths.len() >= 6, "pages in the root directory: {paths:?}");
    for directory in ["docs", "deploy"] {
        below(&root().join(directory), &mut paths);
    }
    paths.push(root().join("tests/README.md"));
    paths.sort();
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The text of one page.
fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The shipped configuration of Envoy with the parts that a page adds to it.
pub(crate) fn envoy_of_page(name: &str) -> String {
    let blocks = block::blocks(name, &page(name));
    let parts: Vec<&block::Block> = blocks
        .iter()
        .filter(|block| matches!(block.kind(), Some(block::Kind::EnvoyPart(_))))
        .collect();
    kinds::with_parts(&parts)
}

/// Fails with everything that is wrong, one line each.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
