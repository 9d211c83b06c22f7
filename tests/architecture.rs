//! Which module may import which, held against the `use` lines and paths of the sources.

mod core;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    iter::Peekable,
    path::Path,
    str::Chars,
};

/// For each module of the root package, the modules it may import. A file belongs to the longest
/// name here that its module path begins with. Each permission is used, and there is no cycle. The
/// core may be imported by all.
const MAY: [(&str, &[&str]); 39] = [
    ("lib", &[]),
    ("main", &["cli"]),
    (
        "cli",
        &[
            "adapter",
            "admin",
            "app",
            "bounded_body",
            "bounded_file",
            "config",
            "credential",
            "error_text",
            "observe",
            "policy_test",
            "secrets",
            "store",
            "tls_roots",
        ],
    ),
    (
        "app",
        &[
            "adapter",
            "admin",
            "config",
            "engine",
            "engine::check",
            "health",
            "listener",
            "log_list",
            "observe",
            "secrets",
        ],
    ),
    ("health", &["background", "observe"]),
    (
        "engine",
        &[
            "background",
            "bounded_file",
            "config",
            "credential",
            "engine::check",
            "engine::live",
            "engine::network_bans",
            "engine::settler",
            "observe",
            "secrets",
            "store",
        ],
    ),
    (
        "config",
        &[
            "adapter",
            "admin",
            "bounded_file",
            "byte_size",
            "credential",
            "listener",
            "observe",
            "secrets",
            "store",
        ],
    ),
    (
        "adapter",
        &["byte_size", "engine::check", "engine::settler", "json_api", "listener", "proto"],
    ),
    ("listener", &["bounded_file", "byte_size", "error_text", "tls_roots"]),
    (
        "engine::check",
        &[
            "credential",
            "engine::body_pool",
            "engine::deadline",
            "engine::live",
            "engine::shares",
            "observe",
            "store",
        ],
    ),
    ("engine::settler", &["engine::live", "engine::usage_histories", "observe", "store"]),
    ("engine::body_pool", &["background"]),
    ("engine::deadline", &[]),
    ("engine::shares", &[]),
    (
        "engine::live",
        &[
            "credential",
            "engine::denied_subjects",
            "engine::network_bans",
            "engine::policy_worker",
            "engine::refusals",
            "engine::usage_histories",
            "store",
        ],
    ),
    ("engine::policy_worker", &["background"]),
    ("engine::network_bans", &["engine::frequency", "network_budget", "observe"]),
    ("engine::denied_subjects", &["engine::frequency", "observe"]),
    ("engine::frequency", &[]),
    ("engine::refusals", &[]),
    ("engine::usage_histories", &[]),
    (
        "credential",
        &[
            "background",
            "bounded_body",
            "bounded_file",
            "byte_size",
            "error_text",
            "log_list",
            "network_budget",
            "secrets",
            "sync",
            "tls_roots",
            "waiting_list",
        ],
    ),
    ("admin", &["error_text", "json_api", "observe", "store"]),
    ("json_api", &["bounded_body"]),
    (
        "observe",
        &[
            "bounded_body",
            "error_text",
            "log_list",
            "proto",
            "secrets",
            "store",
            "sync",
            "tls_roots",
        ],
    ),
    (
        "store",
        &[
            "bounded_file",
            "error_text",
            "network_budget",
            "secrets",
            "sync",
            "tls_roots",
            "waiting_list",
        ],
    ),
    ("network_budget", &[]),
    ("waiting_list", &[]),
    ("tls_roots", &["bounded_file", "error_text"]),
    ("secrets", &["bounded_file"]),
    ("background", &[]),
    ("bounded_body", &[]),
    ("bounded_file", &[]),
    ("error_text", &[]),
    ("log_list", &[]),
    ("policy_test", &[]),
    ("byte_size", &[]),
    ("sync", &[]),
    ("proto", &[]),
];

/// Libraries that are used by these modules only.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("redis::", &["store"]),
    ("tonic::", &["adapter"]),
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

/// The top-level module that a file of `src` belongs to.
fn top_level(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The part of a source before its unit tests, without comments.
fn code(text: &str) -> String {
    let tests = text.match_indices("#[cfg(test)]\n").find(|(at, attribute)| {
        let item = text[at + attribute.len()..].lines().next().unwrap_or_default();
        item.contains("mod tests")
    });
    let before_tests = tests.map_or(text, |(at, _)| &text[..at]);
    before_tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The module path of a source: `engine/check.rs` is `engine::check`.
fn module(path: &str) -> String {
    path.trim_end_matches(".rs").replace('/', "::")
}

/// The row of [`MAY`] that a module path belongs to.
fn row(path: &str) -> Option<&'static str> {
    let is_below = |name: &str| {
        path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    MAY.iter().map(|(name, _)| *name).filter(|name| is_below(name)).max_by_key(|name| name.len())
}

/// Every path that a source names by `crate::`, `super::` or `self::`, from the root of the crate.
fn named(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        tree(&mut code[at + "crate::".len()..].chars().peekable(), "", &mut found);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") || code[..at].ends_with(char::is_alphanumeric) {
            continue;
        }
        let rest = code[at..].trim_start_matches("super::");
        let ups = (code.len() - at - rest.len()) / "super::".len();
        let parts: Vec<&str> = module.split("::").collect();
        let above = parts[..parts.len().saturating_sub(ups)].join("::");
        tree(&mut rest.chars().peekable(), &above, &mut found);
    }
    for (at, _) in code.match_indices("self::") {
        tree(&mut code[at + "self::".len()..].chars().peekable(), module, &mut found);
    }
    if module == "main" {
        for (at, _) in code.match_indices("tollgate::") {
            tree(&mut code[at + "tollgate::".len()..].chars().peekable(), "", &mut found);
        }
    }
    found
}

/// Reads one `use` tree (`a::{b, c::D as E}`) and notes every path in it.
fn tree(text: &mut Peekable<Chars<'_>>, above: &str, found: &mut Vec<String>) {
    let space =
        |text: &mut Peekable<Chars<'_>>| while text.next_if(|c| c.is_whitespace()).is_some() {};
    let mut path = above.to_owned();
    loop {
        space(text);
        if text.next_if_eq(&'{').is_some() {
            loop {
                space(text);
                match text.peek() {
                    Some('}') => {
                        text.next();
                        break;
                    }
                    Some(',') => {
                        text.next();
                    }
                    Some(_) => tree(text, &path, found),
                    None => break,
                }
            }
            return;
        }
        let mut word = String::new();
        while let Some(c) = text.next_if(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
        }
        if word.is_empty() {
            // A macro's `$name` or a glob: it belongs to what is above it.
            text.next();
            return found.push(path);
        }
        if word == "self" {
            return found.push(path);
        }
        path = if path.is_empty() { word } else { format!("{path}::{word}") };
        if text.next_if_eq(&':').is_none() {
            found.push(path);
            // `as Name`
            while text.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == ' ').is_some() {}
            return;
        }
        text.next_if_eq(&':');
    }
}

#[test]
fn modules_import_only_what_they_may_and_may_only_what_they_import() {
    let may: BTreeMap<_, BTreeSet<_>> =
        MAY.into_iter().map(|(name, allowed)| (name, allowed.iter().copied().collect())).collect();
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, text) in all("src") {
        if path.ends_with("tests.rs") {
            continue;
        }
        let module = module(&path);
        let Some(from) = row(&module) else {
            wrong.push(format!(
                "src/{path} belongs to no row of the table in tests/architecture.rs"
            ));
            continue;
        };
        for name in named(&module, &code(&text)) {
            let Some(to) = row(&name).filter(|to| *to != from) else { continue };
            used.entry(from).or_default().insert(to);
            if !may[from].contains(to) {
                wrong.push(format!("src/{path}: `{from}` may not import `{to}` (`{name}`)"));
            }
        }
    }
    for (from, allowed) in &may {
        let used = used.remove(from).unwrap_or_default();
        for unused in allowed.difference(&used) {
            wrong.push(format!("`{from}` does not import `{unused}`: remove it from the table"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Every row only imports rows that come after it, so there is no cycle.
#[test]
fn the_table_is_a_list_of_layers() {
    for (at, (from, allowed)) in MAY.iter().enumerate() {
        for to in *allowed {
            let below = MAY.iter().position(|(name, _)| name == to);
            assert!(below.is_some_and(|below| below > at), "`{from}` imports `{to}`");
        }
    }
}

#[test]
fn libraries_stay_in_their_modules() {
    let mut wrong = Vec::new();
    for (path, text) in all("src") {
        let code = code(&text);
        for (library, modules) in ONLY_IN {
            let named = code.match_indices(library).any(|(at, _)| {
                !code[..at].ends_with("::") && !code[..at].ends_with(char::is_alphanumeric)
            });
            let module = top_level(&path);
            if named && module != "proto" && !modules.contains(&module) {
                wrong.push(format!("src/{path}: `{library}` belongs into {modules:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A read that hangs must hold no thread of the runtime, so that every file is read by one reader.
#[test]
fn files_are_read_by_one_reader() {
    const READS: [&str; 7] = [
        "fs::read",
        "tokio::fs",
        "File::open(",
        "OpenOptions::new().read(",
        "pem_file_iter",
        "from_pem_file",
        "load_native_certs",
    ];
    // The audit log is written by a type of that name, and the system's authorities are loaded by a
    // library, on a thread of the reader. The kernel answers reads below `/proc/self` from memory. A
    // command opens a directory to lock it, and reads exports of any size line by line.
    const EXCEPTIONS: [(&str, &str); 7] = [
        ("bounded_file.rs", "File::open("),
        ("cli/keys/file_store.rs", "File::open("),
        ("cli/usage/export.rs", "OpenOptions::new().read("),
        ("cli/usage/export_lines.rs", "File::open("),
        ("observe/audit.rs", "File::open("),
        ("observe/process.rs", "fs::read"),
        ("tls_roots.rs", "load_native_certs"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in all("src") {
        let code = code(&text);
        for read in READS {
            let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
            if code.contains(read) && !is_test && !EXCEPTIONS.contains(&(path.as_str(), read)) {
                wrong.push(format!("src/{path}: `{read}`; use `bounded_file`"));
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

/// Code that can break the memory of a process is in the module for Envoy only, and there in the
/// files that speak its interface.
#[test]
fn unsafe_code_is_in_the_interface_of_the_envoy_module() {
    const UNSAFE: [&str; 3] = ["abi.rs", "abi/hooks.rs", "host.rs"];
    let mut wrong = Vec::new();
    for below in ["src", "crates/core/src", "crates/grpc-unary/src", "crates/testkit/src"] {
        let found = all(below).into_iter().filter(|(_, text)| has_unsafe(&code(text)));
        wrong.extend(found.map(|(path, _)| format!("{below}/{path}: `unsafe`")));
    }
    for (path, text) in all("crates/envoy-module/src") {
        let is_listed = UNSAFE.contains(&path.as_str());
        if has_unsafe(&code(&text)) != is_listed {
            wrong.push(format!("crates/envoy-module/src/{path}: listed: {is_listed}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn has_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("]
        .iter()
        .any(|form| code.contains(form))
}

/// Hooks of Envoy read requests and carry out answers; what decides is the engine's.
#[test]
fn the_envoy_module_contains_no_policy() {
    for (path, text) in all("crates/envoy-module/src") {
        for policy in ["Decision::", "prepare(", "Store>", "redis::", "Policy"] {
            let is_used = code(&text).contains(policy);
            assert!(!is_used, "crates/envoy-module/src/{path}: `{policy}`");
        }
    }
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
    assert_eq!(made("crates/core/src", "Decision::Allow(Grant"), ["check/pending.rs x1"]);
    assert_eq!(made("crates/core/src", "Grant::new("), ["check/pending.rs x1"]);
    assert_eq!(made("src", "Decision::Allow(Grant"), [""; 0]);
    assert_eq!(made("crates/envoy-module/src", "Decision::Allow("), [""; 0]);
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
