//! What a reload of the configuration keeps and what it stops.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    rig::{Rig, always, compile, eventually, issuer, jwks, keys_become, kids, successes},
    server::{Answer, KeyServer},
};

const NAME: &str = "https://idp.example";

/// envoyproxy/gateway#4791: loading a configuration again does not fetch again.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_did_not_change_goes_on() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let build = || issuer(NAME, &jwks(&server.url(), json!({ "refresh": "1h" })));
    let rig = Rig::new();
    let first = rig.apply(&[build()]).remove(0);
    keys_become(&first, &["a"]).await;
    for _ in 0..10 {
        assert!(Arc::ptr_eq(&first, &rig.apply(&[build()])[0]));
    }
    always(Duration::from_millis(100), || server.hits() == 1, "one fetch").await;
    assert_eq!(kids(&first).unwrap(), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_pace_keeps_the_keys() {
    let server = KeyServer::start().await;
    server.script("/keys", [Answer::Keys(&["a"]), Answer::Close]);
    let rig = Rig::new();
    let first =
        rig.apply(&[issuer(NAME, &jwks(&server.url(), json!({ "refresh": "1h" })))]).remove(0);
    keys_become(&first, &["a"]).await;
    let second =
        rig.apply(&[issuer(NAME, &jwks(&server.url(), json!({ "refresh": "20ms" })))]).remove(0);
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(kids(&second).unwrap(), ["a"], "without a fetch");
    assert!(second.status().tried);
    super::rig::failures(&second, 2).await;
    assert_eq!(kids(&second).unwrap(), ["a"], "and the server is down, too");
    let third =
        rig.apply(&[issuer(NAME, &jwks(&server.url(), json!({ "max_stale": "1ms" })))]).remove(0);
    eventually(
        || third.current().is_none(),
        || "a new max_stale holds for keys that were there before".into(),
    )
    .await;
}

/// A key is trusted for an issuer, for algorithms, and from an address.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_trust_starts_without_keys() {
    let server = KeyServer::start().await;
    for path in ["/keys", "/other"] {
        server.script(path, [Answer::Keys(&["a"])]);
    }
    let usual = issuer(NAME, &jwks(&server.url(), json!({})));
    let rs256 = json!({ "issuer": NAME, "audiences": "any", "algorithms": ["RS256"], "jwks": jwks(&server.url(), json!({})) });
    for (what, changed) in [
        ("another issuer", issuer("https://other.example", &jwks(&server.url(), json!({})))),
        ("another address", issuer(NAME, &jwks(&server.at("/other"), json!({})))),
        ("other algorithms", compile(rs256)),
        (
            "other hosts",
            issuer(NAME, &jwks(&server.url(), json!({ "allowed_hosts": ["x.example"] }))),
        ),
        ("other authorities", issuer(NAME, &jwks(&server.url(), json!({ "ca": "/ca.pem" })))),
    ] {
        let rig = Rig::new();
        let before = rig.apply(&[Arc::clone(&usual)]).remove(0);
        keys_become(&before, &["a"]).await;
        // On the same thread and without waiting: nothing can have been fetched in between.
        let after = rig.apply(&[changed]).remove(0);
        let status = after.status();
        assert!(!status.tried || status.fetches_ok + status.fetches_failed > 0, "{what}");
        assert!(status.tried || after.current().is_none(), "{what}");
        assert_eq!(kids(&before).unwrap(), ["a"], "{what}: a snapshot in use keeps what it has");
        rig.sources.tried().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_listed_any_more_stops() {
    let (gone, stays) = (KeyServer::start().await, KeyServer::start().await);
    gone.answer(Answer::Keys(&["a"]));
    stays.answer(Answer::Keys(&["b"]));
    let rig = Rig::new();
    let first = issuer("https://gone.example", &jwks(&gone.url(), json!({ "refresh": "10ms" })));
    let second = issuer("https://stays.example", &jwks(&stays.url(), json!({ "refresh": "10ms" })));
    let sources = rig.apply(&[first, Arc::clone(&second)]);
    keys_become(&sources[0], &["a"]).await;
    keys_become(&sources[1], &["b"]).await;
    let kept = rig.apply(&[second]);
    assert!(kept.len() == 1 && Arc::ptr_eq(&kept[0], &sources[1]));
    eventually(|| gone.connections() == 0, || "the last connection".into()).await;
    let hits = gone.hits();
    successes(&kept[0], 5).await;
    assert_eq!(gone.hits(), hits);
    assert!(rig.apply(&[]).is_empty());
    eventually(|| stays.connections() == 0, || "the last connection".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_come_in_the_order_of_the_issuers() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let [one, two, three] = ["https://1.example", "https://2.example", "https://3.example"]
        .map(|name| issuer(name, &jwks(&server.url(), json!({ "refresh": "1h" }))));
    let rig = Rig::new();
    rig.apply(&[Arc::clone(&one), Arc::clone(&two), Arc::clone(&three)]);
    rig.sources.tried().await;
    let names: Vec<_> = rig
        .apply(&[three, one, two])
        .iter()
        .map(|source| source.status().issuer.to_string())
        .collect();
    assert_eq!(names, ["https://3.example", "https://1.example", "https://2.example"]);
    assert_eq!(server.hits(), 3);
    let shown = format!("{:?}", rig.sources);
    assert!(shown.contains("https://2.example"), "{shown}");
}
