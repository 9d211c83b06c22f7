use clap::Parser as _;
use serde_json::Value;
use tollgate_core::credential::api_key::KeyDigest;

use super::*;
use crate::cli::revoke::tests::Served;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    keys: KeysArgs,
}

fn run(arguments: &[&str]) -> (ExitCode, String) {
    let mut out = Vec::new();
    let line = Line::try_parse_from([&["keys"], arguments].concat()).unwrap();
    let code = line.keys.run(&mut out).unwrap();
    (code, String::from_utf8(out).unwrap())
}

fn fails(arguments: &[&str]) -> String {
    match Line::try_parse_from([&["keys"], arguments].concat()) {
        Ok(line) => line.keys.run(&mut Vec::new()).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

fn json(arguments: &[&str]) -> Value {
    let (code, text) = run(&[arguments, &["--output", "json"]].concat());
    assert_eq!(code, ExitCode::SUCCESS, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_key_is_made_rotated_listed_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let file = path.to_str().unwrap();
    let made = json(&[
        "create",
        "--file",
        file,
        "--subject",
        "ci",
        "--tenant",
        "acme",
        "--scope",
        "infer:text",
        "--scope",
        "models:read",
        "--model",
        "llama",
        "--limit",
        "per-subject=10/1m",
        "--network",
        "10.0.0.0/8",
        "--label",
        "team=search",
        "--tier",
        "gold",
        "--owner",
        "ann",
    ]);
    let (key, id) = (made["key"].as_str().unwrap(), made["record"]["id"].as_str().unwrap());
    assert!(key.starts_with(&format!("tgk_{id}_")), "{made}");
    // The file has the digest, and not the key.
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&key[17..]), "{text}");
    assert!(text.contains(&KeyDigest::of(key.as_bytes()).to_string()), "{text}");
    // The id is also read from a key, which no message shows.
    for text in [&format!("tgk_{id}"), key] {
        assert_eq!(json(&["show", text, "--file", file])["id"], id);
    }
    let shown = json(&["show", id, "--file", file]);
    for (name, value) in [
        ("subject", serde_json::json!("ci")),
        ("scopes", serde_json::json!(["infer:text", "models:read"])),
        ("models", serde_json::json!(["llama"])),
        ("limits", serde_json::json!({ "per-subject": "10/1m" })),
        ("networks", serde_json::json!(["10.0.0.0/8"])),
        ("labels", serde_json::json!({ "team": "search" })),
        ("state", serde_json::json!("active")),
    ] {
        assert_eq!(shown[name], value, "{shown}");
    }
    // A rotation keeps the id; two secrets are known then, and after a second one still two.
    let second = json(&["rotate", id, "--file", file, "--grace", "1h"]);
    assert_eq!(second["record"]["id"], id);
    assert_eq!(second["record"]["previous"]["digest"], KeyDigest::of(key.as_bytes()).to_string());
    assert_eq!(json(&["show", id, "--file", file])["state"], "rotating");
    let third = json(&["rotate", id, "--file", file, "--grace", "0s"]);
    assert!(third["record"]["previous"].is_null(), "{third}");
    let (_, listed) = run(&["list", "--file", file]);
    assert!(listed.lines().nth(1).unwrap().starts_with(id), "{listed}");
    assert_eq!(run(&["revoke", id, "--file", file]).0, ExitCode::SUCCESS);
    assert_eq!(run(&["revoke", id, "--file", file]).0, ExitCode::from(1));
    assert_eq!(run(&["show", id, "--file", file]).0, ExitCode::from(1));
    assert_eq!(run(&["rotate", id, "--file", file]).0, ExitCode::from(1));
}

#[test]
fn a_key_without_a_file_is_printed_with_its_record() {
    let (_, text) = run(&["create", "--subject", "ci"]);
    let lines: Vec<&str> = text.lines().collect();
    let record: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(record["digest"], KeyDigest::of(lines[0].as_bytes()).to_string());
    // The printed record is one that the file accepts.
    let file = format!("keys: [{record}]");
    assert!(
        tollgate_core::credential::api_key::KeyFile::compile(&file, &Default::default(), None)
            .is_ok()
    );
}

#[test]
fn a_key_of_another_system_is_stored_by_its_digest() {
    let directory = tempfile::tempdir().unwrap();
    let (file, key) = (directory.path().join("keys.json"), directory.path().join("key.txt"));
    std::fs::write(&key, "sk-foreign-123\n").unwrap();
    let (file, at) = (file.to_str().unwrap(), format!("@{}", key.display()));
    let imported = json(&["import", "--file", file, "--subject", "bot", "--key", &at]);
    let digest = KeyDigest::of(b"sk-foreign-123").to_string();
    assert_eq!((&imported["digest"], &imported["weak"]), (&digest.clone().into(), &true.into()));
    assert_eq!(run(&["hash", &at]).1.trim_end(), digest);
    // A key of Tollgate is found by its id, so that the record of its digest would never be used.
    let own = directory.path().join("own.txt");
    std::fs::write(&own, json(&["create", "--subject", "ci"])["key"].as_str().unwrap()).unwrap();
    let own = format!("@{}", own.display());
    let refused = fails(&["import", "--file", file, "--subject", "bot", "--key", &own]);
    assert!(refused.contains("a key of Tollgate"), "{refused}");
    // The same key twice would be two identities.
    let twice = fails(&["import", "--file", file, "--subject", "other", "--digest", &digest]);
    assert!(twice.contains("digest"), "{twice}");
    assert_eq!(run(&["list", "--file", file]).1.lines().count(), 2);
    // After a rotation the old key has a grace, and the new one has the format of Tollgate.
    let id = imported["id"].as_str().unwrap();
    let rotated = json(&["rotate", id, "--file", file]);
    assert_eq!(rotated["record"]["previous"]["weak"], true);
    assert!(rotated["record"]["weak"].is_null());
}

#[test]
fn arguments_that_are_wrong_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let file = path.to_str().unwrap();
    for (arguments, part) in [
        (&["create", "--file", file, "--subject", ""][..], "subject"),
        (&["create", "--file", file, "--subject", "a", "--scope", "a b"], "scope"),
        (&["create", "--file", file, "--subject", "a", "--network", "10.0.0.1/8"], "10.0.0.0/8"),
        (&["create", "--file", file, "--subject", "a", "--limit", "x"], "write a name"),
        (&["create", "--file", file, "--subject", "a", "--expires-in", "5000d"], "max_life"),
        (&["import", "--file", file, "--subject", "a", "--key", "sk-1"], "visible"),
        (&["hash", "sk-1"], "visible"),
        (&["show", "short", "--file", file], "12 letters"),
    ] {
        let error = fails(arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(!path.exists(), "{arguments:?}");
    }
    // A file with an error is not replaced.
    std::fs::write(&path, "keys: [{ id: broken }]").unwrap();
    fails(&["create", "--file", file, "--subject", "a"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "keys: [{ id: broken }]");
}

#[test]
fn the_file_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let file = path.to_str().unwrap();
    run(&["create", "--file", file, "--subject", "a"]);
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    run(&["create", "--file", file, "--subject", "b"]);
    assert_eq!(mode(), 0o640);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn the_file_keeps_its_owner_and_group() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let file = path.to_str().unwrap();
    run(&["create", "--file", file, "--subject", "a"]);
    let owner = || std::fs::metadata(&path).map(|data| (data.uid(), data.gid())).unwrap();
    // Only root can give a file to another user, as an administrator gives it to Tollgate's.
    let given = if owner().0 == 0 { (65534, 65534) } else { owner() };
    chown(&path, Some(given.0), Some(given.1)).unwrap();
    run(&["create", "--file", file, "--subject", "b"]);
    assert_eq!(owner(), given);
}

/// Runs a command through the admin API of a server.
async fn through_admin(served: &Served, arguments: &[&str]) -> (Result<ExitCode, String>, String) {
    let (url, token) = (format!("http://{}", served.address), served.file("token"));
    let line = [&["keys"], arguments, &["--admin", &url, "--token-file", &token]].concat();
    let line = Line::try_parse_from(line).unwrap();
    // The command has a runtime of its own.
    let run = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        let code = line.keys.run(&mut out).map_err(|error| error.to_string());
        (code, String::from_utf8(out).unwrap())
    });
    run.await.unwrap()
}

#[tokio::test]
async fn a_key_is_managed_through_the_admin_api() {
    let served = Served::new().await;
    let good = async |arguments: &[&str]| {
        let (code, text) = through_admin(&served, arguments).await;
        assert_eq!(code, Ok(ExitCode::SUCCESS), "{arguments:?}: {text}");
        text
    };
    let json = async |arguments: &[&str]| -> Value {
        let text = good(&[arguments, &["--output", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    };
    let terms = [
        "create",
        "--subject",
        "ci",
        "--user",
        "--tenant",
        "acme",
        "--owner",
        "ann",
        "--scope",
        "a",
        "--model",
        "qwen",
        "--tier",
        "gold",
        "--limit",
        "per-key=5/1m",
        "--network",
        "10.0.0.0/8",
        "--label",
        "team=search",
        "--expires-in",
        "30d",
    ];
    let made = json(&terms).await;
    let (key, id) = (made["key"].as_str().unwrap(), made["record"]["id"].as_str().unwrap());
    assert!(key.starts_with(&format!("tgk_{id}_")), "{made}");
    let shown = json(&["show", id]).await;
    assert_eq!(shown, made["record"]);
    for (name, value) in [
        ("subject", serde_json::json!("ci")),
        ("holder", serde_json::json!("user")),
        ("scopes", serde_json::json!(["a"])),
        ("models", serde_json::json!(["qwen"])),
        ("limits", serde_json::json!({ "per-key": "5/1m" })),
        ("networks", serde_json::json!(["10.0.0.0/8"])),
        ("labels", serde_json::json!({ "team": "search" })),
        ("state", serde_json::json!("active")),
    ] {
        assert_eq!(shown[name], value, "{shown}");
    }
    // The key alone; the notes are on standard error.
    let text = good(&["rotate", id, "--grace", "1h"]).await;
    assert!(text.starts_with(&format!("tgk_{id}_")) && text.lines().count() == 1, "{text}");
    assert_ne!(text.trim_end(), key);
    assert_eq!(json(&["show", id]).await["state"], "rotating");
    let digest = KeyDigest::of(b"sk-old").to_string();
    let imported = json(&["import", "--subject", "bot", "--digest", &digest]).await;
    assert_eq!((&imported["state"], imported.get("digest")), (&"weak".into(), None));
    let listed = good(&["list"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].starts_with(id) && lines[1].contains("acme"), "{listed}");
    let page = good(&["list", "--limit", "1"]).await;
    let (_, cursor) = page.split_once("There are more: --cursor ").unwrap();
    let rest = good(&["list", "--cursor", cursor.trim()]).await;
    assert!(rest.lines().count() == 2 && rest.contains("bot"), "{rest}");
    good(&["revoke", id]).await;
    for action in ["revoke", "show", "rotate"] {
        let (code, text) = through_admin(&served, &[action, id]).await;
        assert_eq!(code, Ok(ExitCode::from(1)), "{action}: {text}");
        assert!(text.contains(&format!("has no key `{id}`")), "{text}");
    }
    let (code, _) =
        through_admin(&served, &["import", "--subject", "b", "--digest", &digest]).await;
    assert!(code.unwrap_err().contains("there is a key with this digest"));
    let (code, _) = through_admin(&served, &["create", "--subject", "b", "--tier", "x"]).await;
    assert!(code.unwrap_err().contains("no override of a limit selects the tier `x`"));
}

#[test]
fn the_command_line_names_one_place_of_keys() {
    let admin = ["--admin", "http://127.0.0.1:1"];
    for (line, good) in [
        (&["list", "--file", "f"][..], true),
        (&["list", "--config", "c"], true),
        (&[&["list"][..], &admin, &["--token-file", "t"]].concat(), true),
        (&["create", "--subject", "a"], true),
        (&["list"], false),
        (&["list", "--file", "f", "--config", "c"], false),
        (&[&["list"][..], &admin].concat(), false),
        (&[&["create", "--subject", "a"][..], &admin].concat(), false),
        (&[&["list", "--file", "f"][..], &admin, &["--token-file", "t"]].concat(), false),
        (&["list", "--file", "f", "--token-file", "t"], false),
        (&["list", "--file", "f", "--cursor", "1."], false),
        (&["list", "--config", "c", "--cursor", "7"], false),
    ] {
        assert_eq!(Line::try_parse_from([&["keys"], line].concat()).is_ok(), good, "{line:?}");
    }
}
