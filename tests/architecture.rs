//! Who may import whom (ARCHITECTURE.md, "Who may import whom"), held against the `use` lines and paths of the sources.

use std::{collections::BTreeMap, fs, path::Path};

/// For each room of the root package: the rooms it may name. `adapter` and `store` never see each other, the core's
/// rooms are free to all.
const MAY: [(&str, &[&str]); 15] = [
    ("main", &["cli"]),
    ("cli", &["admin", "app", "check", "config", "observe", "policy_test", "secrets", "store"]),
    (
        "app",
        &[
            "adapter",
            "admin",
            "check",
            "config",
            "credential",
            "engine",
            "health",
            "listener",
            "observe",
            "proto",
            "secrets",
            "store",
        ],
    ),
    ("policy_test", &["check"]),
    ("config", &["adapter", "byte_size", "credential", "listener", "observe", "store"]),
    ("engine", &["config", "credential", "observe", "secrets"]),
    ("check", &["engine", "observe", "store"]),
    ("adapter", &["check", "listener", "proto"]),
    ("store", &["secrets"]),
    ("credential", &["byte_size", "secrets"]),
    ("observe", &["proto", "secrets", "store"]),
    ("admin", &["observe", "secrets", "store"]),
    ("health", &["engine", "observe", "store"]),
    ("listener", &[]),
    ("secrets", &[]),
];

/// Crates that stay inside one room.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("redis::", &["store"]),
    ("tonic::", &["adapter", "app"]),
    ("prost_types::", &["adapter"]),
    ("prometheus_client::", &["observe"]),
];

fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

fn all(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    sources(&root, &mut found);
    let prefix = format!("{}/", root.display());
    found
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(&prefix).unwrap().to_owned(), text))
        .collect()
}

/// The room a file of `src` belongs to: its first path component.
fn room(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The part of a source before its unit tests, without comments.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap();
    before_tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Rooms named by `crate::room` or `crate::{room::..., room::...}`.
fn named(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => rooms.push(word(rest)),
            Some(list) => {
                let mut depth = 0usize;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => rooms.push(word(std::mem::take(&mut item).trim())),
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                rooms.push(word(item.trim()));
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn rooms_import_only_what_they_may() {
    let may: BTreeMap<_, _> = MAY.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, text) in all("src") {
        let from = room(&path);
        if matches!(from, "lib" | "proto" | "byte_size") || path.ends_with("/tests.rs") {
            continue;
        }
        let Some(allowed) = may.get(from) else {
            wrong.push(format!(
                "src/{path}: the room `{from}` is not in the table of tests/architecture.rs"
            ));
            continue;
        };
        for to in named(&code(&text)) {
            if to != from && !allowed.contains(&to.as_str()) {
                wrong.push(format!("src/{path}: `{from}` may not import `{to}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn libraries_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (path, text) in all("src") {
        let code = code(&text);
        for (library, rooms) in ONLY_IN {
            let named = code.match_indices(library).any(|(at, _)| {
                !code[..at].ends_with("::") && !code[..at].ends_with(char::is_alphanumeric)
            });
            if named && !rooms.contains(&room(&path)) && room(&path) != "proto" {
                wrong.push(format!("src/{path}: `{library}` belongs into {rooms:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/core/Cargo.toml"))
            .unwrap();
    for library in ["tokio", "tonic", "hyper", "redis", "tracing", "prost"] {
        assert!(
            !manifest.lines().any(|line| line.starts_with(library)),
            "crates/core/Cargo.toml: {library}"
        );
    }
    let mut wrong = Vec::new();
    for (path, text) in all("crates/core/src") {
        let code = code(&text);
        for impure in [
            "SystemTime::now",
            "Instant::now",
            "std::env",
            "std::fs",
            "std::process",
            "std::thread",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "println!",
            "eprintln!",
        ] {
            if code.contains(impure) {
                wrong.push(format!("crates/core/src/{path}: {impure}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_transport_contains_no_policy() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/grpc-unary/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let dependencies = manifest.split_once("[dependencies]").unwrap().1;
    assert!(!dependencies.contains("tollgate"), "crates/grpc-unary depends on a crate of Tollgate");
}

#[test]
fn allow_is_made_in_one_place() {
    let made = |below: &str, needle: &str| -> Vec<String> {
        all(below)
            .into_iter()
            .filter(|(_, text)| code(text).contains(needle))
            .map(|(path, text)| format!("{path} x{}", code(&text).matches(needle).count()))
            .collect()
    };
    assert_eq!(made("crates/core/src", "Decision::Allow(Grant"), ["check.rs x1"]);
    assert_eq!(made("crates/core/src", "Grant::new("), ["check.rs x1"]);
    assert_eq!(made("src", "Decision::Allow(Grant"), [""; 0]);
}

#[test]
fn decisions_have_no_default() {
    for (path, text) in all("crates/core/src") {
        for name in [
            "Decision",
            "Outcome",
            "Denial",
            "Grant",
            "Permit",
            "Principal",
            "AdmitResponse",
            "Prepared",
            "Pending",
        ] {
            assert!(
                !text.contains(&format!("impl Default for {name}")),
                "crates/core/src/{path}: {name}"
            );
            for keyword in ["struct", "enum"] {
                if let Some(at) = text.find(&format!("pub {keyword} {name} ")) {
                    let attributes: String = text[..at]
                        .lines()
                        .rev()
                        .take_while(|line| line.starts_with("#[") || line.starts_with("///"))
                        .collect();
                    assert!(
                        !attributes.contains("Default"),
                        "crates/core/src/{path}: {name} derives Default"
                    );
                }
            }
        }
    }
}
