//! The last good key set on disk, for a start while the server is down.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tollgate_core::credential::jwt::issuer::Issuer;

use super::{
    rig::{Rig, always, compile, eventually, issuer, jwks, keys_become, keys_end, kids},
    server::{Answer, KeyServer},
};

const NAME: &str = "https://idp.example";

fn config(server: &KeyServer, cache: &Path, more: Value) -> Value {
    let mut jwks = jwks(&server.url(), more);
    jwks["cache_file"] = json!(cache);
    jwks
}

/// Starts a server that is down, and writes a cache file with the keys `a` that it served before.
async fn after_a_good_run(directory: &Path) -> (KeyServer, std::path::PathBuf) {
    let (server, cache) = (KeyServer::start().await, directory.join("keys.json"));
    server.answer(Answer::Keys(&["a"]));
    let (rig, source) = Rig::one(&config(&server, &cache, json!({})));
    keys_become(&source, &["a"]).await;
    eventually(|| cache.exists(), || "the cache file".into()).await;
    drop(rig);
    server.answer(Answer::Close);
    (server, cache)
}

fn age_by(cache: &Path, seconds: i64) {
    let mut entry: Value = serde_json::from_slice(&std::fs::read(cache).unwrap()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    entry["fetched_at"] = json!(now.checked_add_signed(-seconds).unwrap());
    std::fs::write(cache, entry.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_serves_from_disk_while_the_server_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let (server, cache) = after_a_good_run(directory.path()).await;
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o600);
    age_by(&cache, 3600);
    let (rig, source) = Rig::one(&config(&server, &cache, json!({})));
    rig.sources.tried().await;
    let status = source.status();
    assert_eq!(kids(&source).unwrap(), ["a"]);
    assert!(
        status.from_cache && status.last_error.is_some() && status.fetches_ok == 0,
        "{status:?}"
    );
    assert!(
        status.age.is_some_and(|age| age >= Duration::from_secs(3600)),
        "its age counts from the fetch: {status:?}"
    );
    assert_eq!(rig.changes(), 1);
    server.answer(Answer::Keys(&["b"]));
    keys_become(&source, &["b"]).await;
    let status = source.status();
    assert!(
        !status.from_cache && status.age.is_some_and(|age| age < Duration::from_secs(60)),
        "{status:?}"
    );
}

/// A server that answers decides, whatever is in the cache file.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_not_used_while_the_server_answers() {
    let directory = tempfile::tempdir().unwrap();
    let (server, cache) = after_a_good_run(directory.path()).await;
    server.answer(Answer::Keys(&["b"]));
    let (rig, source) = Rig::one(&config(&server, &cache, json!({})));
    let watch = always(
        Duration::from_millis(100),
        || kids(&source).is_none_or(|kids| kids == ["b"]),
        "a key that the server has taken away must not come back",
    );
    tokio::join!(watch, rig.sources.tried());
    assert_eq!(kids(&source).unwrap(), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_old_broken_or_not_ours_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let (server, cache) = after_a_good_run(directory.path()).await;
    let good = std::fs::read_to_string(&cache).unwrap();
    let usual = || issuer(NAME, &config(&server, &cache, json!({})));
    let other_algorithm = compile(json!({
        "issuer": NAME, "audiences": "any", "algorithms": ["RS256"], "jwks": config(&server, &cache, json!({})),
    }));
    let other_url = issuer(NAME, &{
        let mut jwks = config(&server, &cache, json!({}));
        jwks["url"] = json!(server.at("/other"));
        jwks
    });
    let nothing = || {};
    type Case<'a> = (&'a str, Arc<Issuer>, &'a dyn Fn(), bool);
    let cases: [Case<'_>; 10] = [
        ("as it was", usual(), &nothing, true),
        ("a day old", usual(), &|| age_by(&cache, 86_400), false),
        (
            "a day old, and allowed to be",
            issuer(NAME, &config(&server, &cache, json!({ "max_stale": "2d" }))),
            &|| age_by(&cache, 86_400),
            true,
        ),
        ("from tomorrow", usual(), &|| age_by(&cache, -86_400), false),
        ("half", usual(), &|| std::fs::write(&cache, &good[..good.len() / 2]).unwrap(), false),
        (
            "of another issuer",
            issuer("https://other.example", &config(&server, &cache, json!({}))),
            &nothing,
            false,
        ),
        ("of another address", other_url, &nothing, false),
        ("for other algorithms", other_algorithm, &nothing, false),
        (
            "writable by all users",
            usual(),
            &|| std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o666)).unwrap(),
            false,
        ),
        ("as it was, once more", usual(), &nothing, true),
    ];
    for (what, issuer, damage, used) in cases {
        std::fs::write(&cache, &good).unwrap();
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o600)).unwrap();
        damage();
        let rig = Rig::new();
        let source = rig.apply(&[issuer]).remove(0);
        rig.sources.tried().await;
        assert_eq!(source.current().is_some(), used, "{what}: {:?}", source.status());
    }
}

/// Keys from disk keep their age: they end `max_stale` after the fetch, not after the start.
#[tokio::test(flavor = "multi_thread")]
async fn keys_from_disk_end_when_their_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let (server, cache) = after_a_good_run(directory.path()).await;
    age_by(&cache, 3600 - 5);
    let (rig, source) = Rig::one(&config(&server, &cache, json!({ "max_stale": "1h" })));
    rig.sources.tried().await;
    assert_eq!(kids(&source).unwrap(), ["a"]);
    keys_end(&source).await;
    rig.changes_become(2).await;
}

/// A disk that cannot be written does not affect tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_file_that_cannot_be_written_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let cache = directory.path().join("no/such/directory/keys.json");
    let (_rig, source) = Rig::one(&config(&server, &cache, json!({ "refresh": "20ms" })));
    keys_become(&source, &["a"]).await;
    super::rig::successes(&source, 3).await;
}
