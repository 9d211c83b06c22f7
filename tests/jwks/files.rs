//! Keys and secrets from files, as volumes mount them.

use std::{os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tollgate::credential::jwks::Source;

use super::{
    rig::{
        FAST, Rig, compile, error_becomes, eventually, failures, keys_become, keys_end, kids,
        successes,
    },
    server::key_set,
};

fn hmac(secret: &str) -> Value {
    json!({ "issuer": "absent", "audiences": "any", "algorithms": ["HS256"], "secret": secret })
}

fn start(config: Value) -> (Rig, Arc<Source>) {
    let rig = Rig::new();
    let source = rig.apply(&[compile(config)]).remove(0);
    (rig, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_is_read_again_when_it_changes_and_kept_when_it_is_bad() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let (rig, source) = Rig::one(&json!({ "file": path }));
    rig.sources.tried().await;
    assert!(
        source.current().is_none()
            && source.status().last_error.unwrap().contains("cannot be read")
    );
    std::fs::write(&path, key_set(&["a"])).unwrap();
    keys_become(&source, &["a"]).await;
    for (bad, message) in [
        (Some("<html>".to_owned()), "not a JSON Web Key Set"),
        (Some(String::new()), "not a JSON Web Key Set"),
        (Some(" ".repeat(2 << 20)), "larger than"),
        (None, "cannot be read"),
    ] {
        match &bad {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        error_becomes(&source, message).await;
        assert_eq!(kids(&source).unwrap(), ["a"], "{message}");
    }
    std::fs::write(&path, key_set(&["b"])).unwrap();
    keys_become(&source, &["b"]).await;
    successes(&source, 3).await;
    assert_eq!(rig.changes(), 2, "a file that stays the same is no change");
}

/// The operator writes the file, so that a valid set without a usable key is no mistake of a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_file_without_a_usable_key_withdraws_the_last_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let (rig, source) = Rig::one(&json!({ "file": path }));
    let mut changes = 0;
    for (withdrawn, message) in [
        (r#"{"keys":[]}"#.to_owned(), "the set is empty"),
        (r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#.into(), "it is a shared secret"),
        (key_set(&["a"]).replace("\"kty\"", "\"d\":\"AQAB\",\"kty\""), "its private part (`d`)"),
    ] {
        std::fs::write(&path, key_set(&["a"])).unwrap();
        keys_become(&source, &["a"]).await;
        changes += 1;
        std::fs::write(&path, withdrawn).unwrap();
        keys_end(&source).await;
        changes += 1;
        error_becomes(&source, message).await;
        rig.changes_become(changes).await;
    }
}

/// The kubelet swaps a symbolic link above the file; the file itself is never written.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_swap_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let version = |name: &str, kid: &str| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("keys.json"), key_set(&[kid])).unwrap();
    };
    let swap = |from: &str, name: &str| {
        symlink(from, at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at(name)).unwrap();
    };
    version("..1", "a");
    swap("..1", "..data");
    symlink(Path::new("..data/keys.json"), at("keys.json")).unwrap();
    let (_rig, source) = Rig::one(&json!({ "file": at("keys.json") }));
    keys_become(&source, &["a"]).await;
    version("..2", "b");
    swap("..2", "..data");
    std::fs::remove_dir_all(at("..1")).unwrap();
    keys_become(&source, &["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_file_that_is_gone_end_after_max_stale() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    std::fs::write(&path, key_set(&["a"])).unwrap();
    let (_rig, source) = Rig::one(&json!({ "file": path, "max_stale": "2s" }));
    keys_become(&source, &["a"]).await;
    std::fs::remove_file(&path).unwrap();
    keys_end(&source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_configuration_is_there_and_stays() {
    let (rig, source) = start(hmac(&"s".repeat(32)));
    rig.sources.tried().await;
    let status = source.status();
    assert_eq!((status.keys, status.next_refresh, status.last_error), (1, None, None));
    source.request_refresh();
    eventually(|| source.status().fetches_ok == 2, || "a hint reads it again, to no effect".into())
        .await;
    assert_eq!(rig.changes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_too_short_is_no_key_and_is_not_printed() {
    let (rig, source) = start(hmac("hunter2hunter2"));
    rig.sources.tried().await;
    let error = source.status().last_error.unwrap();
    assert!(
        source.current().is_none() && error.contains("112 bits") && !error.contains("hunter2"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_file_is_read_again_and_one_line_break_is_not_part_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "a".repeat(31) + "\n").unwrap();
    let (rig, source) = start(hmac(&format!("file:{}", path.display())));
    rig.sources.tried().await;
    assert!(
        source.status().last_error.unwrap().contains("248 bits"),
        "the line break does not count"
    );
    std::fs::write(&path, "a".repeat(32) + "\r\n").unwrap();
    eventually(|| source.current().is_some(), || format!("{:?}", source.status())).await;
    let first = source.current().unwrap();
    for bad in ["", "short", &"x".repeat(100_000)] {
        std::fs::write(&path, bad).unwrap();
        failures(&source, 2).await;
        assert!(Arc::ptr_eq(&first, &source.current().unwrap()), "the secret in use stays");
    }
    std::fs::write(&path, "b".repeat(32)).unwrap();
    eventually(|| !Arc::ptr_eq(&first, &source.current().unwrap()), || "the new secret".into())
        .await;
    rig.changes_become(2).await;
    successes(&source, 3).await;
    assert_eq!(rig.changes(), 2, "the same content is no change");
}

/// A secret of the start is used after one look; any other one when two looks agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_being_written_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let part = |count: u32| std::fs::write(&path, format!("{count:064}")).unwrap();
    part(0);
    let (rig, started) = start(hmac(&format!("file:{}", path.display())));
    eventually(|| started.current().is_some(), || "the secret of the start".into()).await;

    let first = started.current().unwrap();
    let other = json!({ "issuer": "https://other", "audiences": "any", "algorithms": ["HS256"], "secret": format!("file:{}", path.display()) });
    let mut parts = 1;
    part(parts);
    let added = rig.apply(&[compile(hmac(&format!("file:{}", path.display()))), compile(other)]);
    let mut poll = super::rig::poll();
    let changes =
        |source: &Source| source.status().last_error.is_some_and(|it| it.contains("changes"));
    while !(changes(&added[0]) && changes(&added[1])) {
        parts += 1;
        part(parts);
        poll.tick().await;
        assert!(added[1].current().is_none(), "a new source uses no part");
        assert!(Arc::ptr_eq(&first, &added[0].current().unwrap()), "nor does the old one");
    }
    let settled =
        || added[1].current().is_some() && !Arc::ptr_eq(&first, &added[0].current().unwrap());
    eventually(settled, || format!("{:?}", added[0].status())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_whose_file_is_gone_ends_after_max_stale() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "a".repeat(32)).unwrap();
    let sources = tollgate::credential::jwks::KeySources::new(FAST, Duration::from_secs(2));
    let source = sources.apply(&[compile(hmac(&format!("file:{}", path.display())))]).remove(0);
    eventually(|| source.current().is_some(), || format!("{:?}", source.status())).await;
    std::fs::remove_file(&path).unwrap();
    keys_end(&source).await;
    assert_eq!(source.status().keys, 0);
    std::fs::write(&path, "a".repeat(32)).unwrap();
    eventually(|| source.current().is_some(), || format!("{:?}", source.status())).await;
}

/// Reading a device may never end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_regular_file_is_not_read() {
    for path in ["/dev/zero", "/"] {
        let (rig, source) = Rig::one(&json!({ "file": path }));
        tokio::time::timeout(Duration::from_secs(30), rig.sources.tried()).await.unwrap();
        assert!(source.status().last_error.unwrap().contains("is not a regular file"), "{path}");
    }
}
