//! The times at which keys are fetched and removed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tollgate::credential::jwks::{Source, Timing};

use super::{
    rig::{
        FAST, Rig, always, eventually, failures, issuer, jwks, keys_become, keys_end, kids, poll,
        successes,
    },
    server::{Answer, KeyServer, key_set},
};

fn with_cache_control(value: &str) -> Answer {
    Answer::Whole(200, vec![("cache-control", value.into())], key_set(&["a"]))
}

/// Waits for the keys `a` and for the end of their fetch, so that a request leads to a second one.
async fn ready_for_requests(source: &Source) {
    keys_become(source, &["a"]).await;
    source.tried().await;
}

/// K02, go-oidc#482, lua-resty-openidc#468: a million bad tokens are one fetch.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_unknown_keys_is_one_fetch_per_cool_down() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let (_rig, source) = Rig::one(&jwks(&server.url(), json!({ "cool_down": "1h" })));
    ready_for_requests(&source).await;
    let storm = |source: Arc<Source>| {
        std::thread::spawn(move || {
            for _ in 0..100_000 {
                source.request_refresh();
            }
        })
    };
    let threads: Vec<_> = (0..4).map(|_| storm(Arc::clone(&source))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    eventually(|| source.status().fetches_ok == 2, || format!("{:?}", source.status())).await;
    storm(Arc::clone(&source)).join().unwrap();
    always(
        Duration::from_millis(200),
        || server.hits() == 2,
        "the first fetch and one for the storm",
    )
    .await;
    assert_eq!(source.status().refresh_requests, 500_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_cool_down_there_is_a_next_fetch_and_never_before() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let (_rig, source) = Rig::one(&jwks(&server.url(), json!({ "cool_down": "100ms" })));
    keys_become(&source, &["a"]).await;
    let start = Instant::now();
    let mut poll = poll();
    while server.hits() < 6 {
        source.request_refresh();
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", source.status());
        poll.tick().await;
    }
    // Five requested fetches have four cool-downs between them.
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

/// envoyproxy/gateway#4180: a new key is found by the first token that names it.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_finds_a_rotation_at_once() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let (rig, source) =
        Rig::one(&jwks(&server.url(), json!({ "refresh": "1h", "cool_down": "1h" })));
    ready_for_requests(&source).await;
    server.answer(Answer::Keys(&["a", "b"]));
    source.request_refresh();
    keys_become(&source, &["a", "b"]).await;
    rig.changes_become(2).await;
    assert_eq!(server.hits(), 2);
}

/// A token whose key is not found is taken for a forged one only after a fetch for such a token has
/// brought the same keys: a rotation has no clients banned.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_the_present_ones_after_a_refresh_in_vain() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let (_rig, source) =
        Rig::one(&jwks(&server.url(), json!({ "refresh": "1h", "cool_down": "50ms" })));
    ready_for_requests(&source).await;
    assert!(!source.has_confirmed_keys(), "no token requested the first fetch");
    server.answer(Answer::Keys(&["a", "b"]));
    source.request_refresh();
    keys_become(&source, &["a", "b"]).await;
    assert!(!source.has_confirmed_keys(), "the token was signed with the new key");
    source.request_refresh();
    eventually(|| source.has_confirmed_keys(), || format!("{:?}", source.status())).await;
    server.answer(Answer::Keys(&["b"]));
    source.request_refresh();
    keys_become(&source, &["b"]).await;
    eventually(|| !source.has_confirmed_keys(), || format!("{:?}", source.status())).await;
}

/// kubernetes/kubernetes#139769: a failed fetch does not spend the budget.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fetch_does_not_cost_the_cool_down() {
    let server = KeyServer::start().await;
    server.script(
        "/keys",
        [Answer::Keys(&["a"]), Answer::Close, Answer::Close, Answer::Keys(&["b"])],
    );
    let (_rig, source) =
        Rig::one(&jwks(&server.url(), json!({ "refresh": "1h", "cool_down": "1h" })));
    ready_for_requests(&source).await;
    source.request_refresh();
    keys_become(&source, &["b"]).await;
    assert_eq!(server.hits(), 4);
}

/// A long back-off delays the schedule, not a requested refresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_requested_refresh_does_not_wait_for_a_long_back_off() {
    let server = KeyServer::start().await;
    server.script("/keys", [Answer::Keys(&["a"]), Answer::Close, Answer::Keys(&["b"])]);
    let hour = Duration::from_secs(3600);
    let rig = Rig::with(Timing { first_retry: hour, last_retry: hour, ..FAST });
    let jwks = jwks(&server.url(), json!({ "refresh": "2h", "cool_down": "50ms" }));
    let source = rig.apply(&[issuer("https://idp.example", &jwks)]).remove(0);
    ready_for_requests(&source).await;
    source.request_refresh();
    eventually(|| source.status().fetches_failed == 1, || format!("{:?}", source.status())).await;
    assert!(source.status().next_refresh.is_none_or(|next| next > hour / 2));
    let requests = async {
        let mut poll = poll();
        loop {
            source.request_refresh();
            poll.tick().await;
        }
    };
    tokio::select! {
        () = keys_become(&source, &["b"]) => {}
        () = requests => {}
    }
}

/// K03: a removed key stops verifying within the refresh interval.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_ends_with_the_next_fetch() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a", "b"]));
    let (rig, source) = Rig::one(&jwks(&server.url(), json!({ "refresh": "50ms" })));
    keys_become(&source, &["a", "b"]).await;
    server.answer(Answer::Keys(&["b"]));
    keys_become(&source, &["b"]).await;
    rig.changes_become(2).await;
}

/// istio#10547: the server may demand more or fewer fetches, but not too many, and not so few that
/// keys lapse.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_decides_within_bounds() {
    let server = KeyServer::start().await;
    server.answer(with_cache_control("max-age=0"));
    let often = jwks(&server.url(), json!({ "refresh": "1h" }));
    let (_rig, source) = Rig::one(&often);
    let start = Instant::now();
    successes(&source, 6).await;
    assert!(
        start.elapsed() >= FAST.shortest * 4,
        "not more often than the bound: {:?}",
        start.elapsed()
    );

    let rare = Timing { longest: Duration::from_millis(60), ..FAST };
    server.answer(with_cache_control("max-age=31536000"));
    let rig = Rig::with(rare);
    let source = rig
        .apply(&[issuer("https://idp.example", &jwks(&server.url(), json!({ "refresh": "1h" })))])
        .remove(0);
    successes(&source, 3).await;

    server.answer(with_cache_control("max-age=300"));
    let (_rig, source) = Rig::one(&often);
    source.tried().await;
    let next = source.status().next_refresh.unwrap();
    assert!(
        next <= Duration::from_secs(300) && next > Duration::from_secs(200),
        "a tenth earlier at most: {next:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cache_control_the_configured_interval_applies() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let (_rig, source) = Rig::one(&jwks(&server.url(), json!({ "refresh": "2h" })));
    source.tried().await;
    let next = source.status().next_refresh.unwrap();
    assert!(next <= Duration::from_secs(7200) && next > Duration::from_secs(6000), "{next:?}");
}

/// K01: stale keys are used for a limited time, and removed then.
#[tokio::test(flavor = "multi_thread")]
async fn keys_end_when_max_stale_has_passed() {
    let server = KeyServer::start().await;
    server.script("/keys", [Answer::Keys(&["a"]), Answer::Close]);
    let (rig, source) =
        Rig::one(&jwks(&server.url(), json!({ "refresh": "100ms", "max_stale": "3s" })));
    keys_become(&source, &["a"]).await;
    failures(&source, 1).await;
    assert_eq!(kids(&source).unwrap(), ["a"], "an error takes nothing");
    keys_end(&source).await;
    rig.changes_become(2).await;
    let status = source.status();
    assert!(status.keys == 0 && status.kids.is_empty() && status.age.is_none(), "{status:?}");
    server.answer(Answer::Keys(&["a"]));
    keys_become(&source, &["a"]).await;
    rig.changes_become(3).await;
}

/// A fetch that hangs does not keep old keys in use.
#[tokio::test(flavor = "multi_thread")]
async fn keys_end_even_while_a_fetch_hangs() {
    let server = KeyServer::start().await;
    server.script("/keys", [Answer::Keys(&["a"]), Answer::Hang]);
    let (rig, source) = Rig::one(&jwks(
        &server.url(),
        json!({ "refresh": "50ms", "timeout": "1h", "max_stale": "2s" }),
    ));
    keys_become(&source, &["a"]).await;
    eventually(|| server.hits() == 2, || "the second fetch".into()).await;
    keys_end(&source).await;
    rig.changes_become(2).await;
    assert_eq!((server.hits(), source.status().fetches_failed), (2, 0), "it still hangs");
}

/// "Not modified" refreshes the keys: they stay the same, and their age starts again.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_did_not_change_is_not_sent_again() {
    let server = KeyServer::start().await;
    server.answer(Answer::Tagged("\"one\"", &["a"]));
    let (rig, source) = Rig::one(&jwks(&server.url(), json!({ "refresh": "30ms" })));
    keys_become(&source, &["a"]).await;
    let (keys, start) = (source.current().unwrap(), Instant::now());
    successes(&source, 5).await;
    assert!(Arc::ptr_eq(&keys, &source.current().unwrap()));
    eventually(
        || source.status().age.is_some_and(|age| age < start.elapsed() / 2),
        || "young keys".into(),
    )
    .await;
    assert_eq!(rig.changes(), 1);
    let asked = server.requests();
    assert!(!asked[0].head.contains("if-none-match"), "{asked:?}");
    assert!(
        asked[1..].iter().all(|request| request.head.contains("if-none-match: \"one\"\r\n")),
        "{asked:?}"
    );

    server.answer(Answer::Tagged("\"two\"", &["b"]));
    keys_become(&source, &["b"]).await;
    rig.changes_become(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_ended_come_back_with_not_modified() {
    let server = KeyServer::start().await;
    server.script("/keys", [Answer::Tagged("\"one\"", &["a"]), Answer::Close]);
    let (rig, source) =
        Rig::one(&jwks(&server.url(), json!({ "refresh": "50ms", "max_stale": "2s" })));
    keys_become(&source, &["a"]).await;
    keys_end(&source).await;
    server.answer(Answer::Tagged("\"one\"", &["b"]));
    keys_become(&source, &["a"]).await;
    // Keys, none, keys.
    rig.changes_become(3).await;
}

/// A document that does not change leaves the key set as it is, for caches by key set.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_document_is_the_same_key_set() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["a"]));
    let (rig, source) = Rig::one(&jwks(&server.url(), json!({ "refresh": "20ms" })));
    keys_become(&source, &["a"]).await;
    let keys = source.current().unwrap();
    successes(&source, 5).await;
    assert!(Arc::ptr_eq(&keys, &source.current().unwrap()));
    assert_eq!(rig.changes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_describes_the_source() {
    let server = KeyServer::start().await;
    server.answer(Answer::Keys(&["b", "a"]));
    let rig = Rig::new();
    let mut absent = json!({ "issuer": "absent", "audiences": "any", "algorithms": ["EdDSA"] });
    absent["jwks"] = jwks(&server.url(), json!({}));
    let source = rig.apply(&[super::rig::compile(absent)]).remove(0);
    rig.sources.tried().await;
    let status = source.status();
    assert_eq!(&*status.issuer, "absent");
    assert_eq!(
        (status.keys, status.kids.as_slice()),
        (2, ["a".to_owned(), "b".to_owned()].as_slice())
    );
    assert_eq!((status.fetches_ok, status.fetches_failed, status.refresh_requests), (1, 0, 0));
    assert!(
        status.tried
            && !status.from_cache
            && status.last_error.is_none()
            && status.skipped.is_empty(),
        "{status:?}"
    );
    assert!(status.age.is_some_and(|age| age < Duration::from_secs(30)), "{status:?}");
}
