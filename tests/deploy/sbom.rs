//! The bills of materials: the crates that are compiled into what is shipped, as Cargo.lock has them.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

use super::{at, read, succeeds};
use crate::rig::part;

/// The bill of a package.
fn bill(dir: &Path, package: &str) -> Value {
    let text = std::fs::read_to_string(dir.join(format!("{package}.cdx.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn write(dir: &Path) {
    let mut command = Command::new(part("python", "python"));
    succeeds(command.arg("-B").arg(at("tools/sbom")).arg(dir).env("CARGO", env!("CARGO")));
}

/// The checksums of Cargo.lock by name and version; `None` for the crates of the workspace.
fn locked() -> BTreeMap<(String, String), Option<String>> {
    let lock = read("Cargo.lock");
    let packages = lock.split("[[package]]").skip(1);
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")))?;
        line.strip_suffix('"').map(str::to_owned)
    };
    packages
        .map(|package| {
            let key = (value(package, "name").unwrap(), value(package, "version").unwrap());
            (key, value(package, "checksum"))
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn the_bills_list_what_is_compiled_in_with_the_locked_versions_and_their_checksums() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let locked = locked();
    for (package, kind) in [("tollgate", "application"), ("tollgate-envoy", "library")] {
        let bill = bill(dir.path(), package);
        assert_eq!(
            (&bill["bomFormat"], &bill["specVersion"]),
            (&"CycloneDX".into(), &"1.5".into())
        );
        let root = &bill["metadata"]["component"];
        assert_eq!((text(&root["name"]), text(&root["type"])), (package.into(), kind.into()));
        assert_eq!(root["version"], env!("CARGO_PKG_VERSION"));
        let components = bill["components"].as_array().unwrap();
        let names: Vec<String> = components.iter().map(|one| text(&one["name"])).collect();
        for one in components {
            let key = (text(&one["name"]), text(&one["version"]));
            let checksum = locked.get(&key).unwrap_or_else(|| panic!("not locked: {key:?}"));
            let listed = one["hashes"][0]["content"].as_str().map(str::to_owned);
            assert_eq!(&listed, checksum, "{key:?}");
            assert!(one["licenses"][0]["expression"].is_string(), "{key:?}");
        }
        for name in ["rustls", "aws-lc-rs", "tollgate-core", "serde"] {
            assert!(names.contains(&name.to_owned()), "{package} uses {name}");
        }
        for name in ["proptest", "envoy-types", "tempfile", "prost-build", "serde_derive"] {
            assert!(!names.contains(&name.to_owned()), "{package} does not contain {name}");
        }
        // Whatever is used is listed.
        let references: Vec<&Value> =
            components.iter().chain([root]).map(|one| &one["bom-ref"]).collect();
        for edge in bill["dependencies"].as_array().unwrap() {
            assert!(references.contains(&&edge["ref"]), "{edge}");
            for used in edge["dependsOn"].as_array().unwrap() {
                assert!(references.contains(&used), "{used}");
            }
        }
    }
}

#[test]
fn the_same_sources_have_the_same_bill() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        write(dir.path());
    }
    let [one, other] = dirs
        .each_ref()
        .map(|dir| std::fs::read_to_string(dir.path().join("tollgate.cdx.json")).unwrap());
    assert_eq!(one, other);
}
