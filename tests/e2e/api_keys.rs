//! API keys through Envoy, from the command that makes a key to its removal.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use serde_json::{Value, json};

use crate::rig::{CHAT, POLICY, Rig, SCOPES, http::Request, until};

/// Runs `tollgate keys` on a file, and returns what it prints as JSON.
fn keys(file: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("keys").args(arguments).arg("--file").arg(file).args(["--output", "json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_key_is_made_used_rotated_and_removed_while_tollgate_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let scopes: Vec<&str> = SCOPES.split(' ').flat_map(|scope| ["--scope", scope]).collect();
    let made =
        keys(&file, &[&["create", "--subject", "ci", "--tenant", "acme"], &scopes[..]].concat());
    let key = made["key"].as_str().unwrap();
    let id = made["record"]["id"].as_str().unwrap();
    let rig = Rig::start(&format!("{POLICY}api_keys: {{ file: \"{}\" }}\n", file.display()));
    let chat = |key: &str| {
        rig.envoy.send(&Request::post("/v1/chat/completions", CHAT).header("x-api-key", key))
    };

    let reply = chat(key);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = rig.upstream.only();
    for (name, value) in [
        ("x-tollgate-subject", "ci"),
        ("x-tollgate-tenant", "acme"),
        ("x-tollgate-credential", "api_key"),
        ("x-tollgate-key-id", id),
        ("x-tollgate-model", "qwen"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    assert!(seen.all("x-api-key").is_empty() && seen.all("authorization").is_empty());
    let audited =
        until("audit line", || rig.tollgate.audit().into_iter().find(|line| line["key_id"] == *id));
    assert_eq!((&audited["sub"], &audited["decision"]), (&json!("ci"), &json!("allow")));
    assert!(!audited.to_string().contains(&key[17..]), "{audited}");

    // Both secrets are accepted during the grace, and one after it.
    let rotated = keys(&file, &["rotate", id, "--grace", "1h"]);
    let second = rotated["key"].as_str().unwrap();
    until("the new secret", || (chat(second).status == 200).then_some(()));
    assert_eq!(chat(key).status, 200);
    let rotated = keys(&file, &["rotate", id, "--grace", "0s"]);
    let third = rotated["key"].as_str().unwrap();
    until("the third secret", || (chat(third).status == 200).then_some(()));
    assert_eq!((chat(key).status, chat(second).status), (401, 401));

    // A file with an error changes nothing; a key that is removed is refused.
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("\"subject\":\"ci\"", "\"subject\":\"\"")).unwrap();
    until("the error", || rig.tollgate.process.err().contains("keys[0].subject").then_some(()));
    assert_eq!(chat(third).status, 200);
    std::fs::write(&file, good).unwrap();
    keys(&file, &["revoke", id]);
    until("the removal", || (chat(third).status == 401).then_some(()));
    let text = chat(third).text();
    assert!(text.contains("invalid_api_key"), "{text}");
    assert!(!rig.tollgate.process.err().contains(&third[17..]));
}

/// The kubelet swaps a symbolic link above the file; the file itself is never written.
#[test]
fn the_keys_of_a_kubernetes_secret_follow_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let scopes: Vec<&str> = SCOPES.split(' ').flat_map(|scope| ["--scope", scope]).collect();
    let version = |name: &str| {
        std::fs::create_dir(at(name)).unwrap();
        let create = [&["create", "--subject", "ci"], &scopes[..]].concat();
        let made = keys(&at(name).join("keys.json"), &create);
        made["key"].as_str().unwrap().to_owned()
    };
    let swap = |from: &str, name: &str| {
        symlink(from, at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at(name)).unwrap();
    };
    let (first, second) = (version("..1"), version("..2"));
    swap("..1", "..data");
    swap("..data/keys.json", "keys.json");
    let file = at("keys.json");
    // Keys need no issuer.
    let routes = &POLICY[POLICY.find("models:").unwrap()..];
    let rig = Rig::start(&format!("{routes}api_keys: {{ file: \"{}\" }}\n", file.display()));
    let status = |key: &str| rig.chat(key).status;
    assert_eq!((status(&first), status(&second)), (200, 401));
    swap("..2", "..data");
    std::fs::remove_dir_all(at("..1")).unwrap();
    until("the second key", || (status(&second) == 200).then_some(()));
    assert_eq!(status(&first), 401);
}
