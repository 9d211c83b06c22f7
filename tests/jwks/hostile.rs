//! Key servers that misbehave.

use std::time::Duration;

use serde_json::json;
use tollgate_core::credential::jwt::key_set::{MAX_BYTES, MAX_KEYS};

use super::{
    rig::{
        Rig, always, error_becomes, eventually, failures, issuer, jwks, keys_become, keys_end,
        kids, poll, successes,
    },
    server::{Answer, KeyServer, jwk, key_set, redirect},
};

/// The faults of a server, with its answer and a part of the error.
fn misdeeds() -> Vec<(&'static str, Answer, &'static str)> {
    let status = |status| Answer::Whole(status, Vec::new(), key_set(&["x"]));
    let body = |text: &str| Answer::Body(text.to_owned());
    let oct =
        r#"{"keys":[{"kty":"oct","kid":"x","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
    let many: Vec<String> = (0..=MAX_KEYS).map(|n| jwk(&format!("x{n}"))).collect();
    vec![
        ("500", status(500), "answered 500"),
        ("404 (oathkeeper: a fast 404 made good keys unusable)", status(404), "answered 404"),
        ("401", status(401), "answered 401"),
        ("204", Answer::Whole(204, Vec::new(), String::new()), "answered 204"),
        ("206, a part of a document", status(206), "answered 206"),
        (
            "304 without a condition in the request",
            Answer::Whole(304, Vec::new(), String::new()),
            "answered 304",
        ),
        (
            "a page of HTML with 200 (istio#58101)",
            body("<html><body>Sign in</body></html>"),
            "not a JSON Web Key Set",
        ),
        ("nothing with 200", body(""), "not a JSON Web Key Set"),
        ("an empty set (istio#58101)", body(r#"{"keys":[]}"#), "no key that this issuer may use"),
        ("an object without keys", body("{}"), "not a JSON Web Key Set"),
        ("keys that are no list", body(r#"{"keys":{}}"#), "not a JSON Web Key Set"),
        ("JSON of another shape", body("[1,2,3]"), "not a JSON Web Key Set"),
        ("half a document", body(&key_set(&["x"])[..40]), "not a JSON Web Key Set"),
        ("deep nesting", body(&"[".repeat(100_000)), "not a JSON Web Key Set"),
        (
            "one bad key and nothing else",
            body(r#"{"keys":[{"kty":"RSA","kid":"x"}]}"#),
            "no key that this issuer may use",
        ),
        ("only a shared secret", body(oct), "no key that this issuer may use"),
        (
            "too many keys",
            body(&format!(r#"{{"keys":[{}]}}"#, many.join(","))),
            "more than 256 keys",
        ),
        ("a megabyte too much", body(&" ".repeat(MAX_BYTES + 1)), "larger than"),
        ("a body without end", Answer::Endless, "larger than"),
        ("no answer at all", Answer::Hang, "no whole answer within"),
        ("a byte now and then", Answer::Trickle, "no whole answer within"),
        ("the end of the connection (kgateway#4838)", Answer::Close, "no whole answer"),
        (
            "something that is not HTTP",
            Answer::Raw(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
            "no whole answer",
        ),
        (
            "a head without end",
            Answer::Raw([b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 200_000]].concat()),
            "no whole answer",
        ),
        (
            "less than it promised",
            Answer::Raw(
                [
                    b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n".to_vec(),
                    key_set(&["x"]).into_bytes(),
                ]
                .concat(),
            ),
            "no whole answer",
        ),
        ("a redirect to nowhere", status(302), "redirects to nowhere"),
        ("a redirect in a circle", redirect("/keys"), "more than 3 redirects"),
        (
            "a redirect to the metadata service",
            redirect("http://169.254.169.254/latest/meta-data"),
            "nor in `allowed_hosts`",
        ),
        ("a redirect to a file", redirect("file:///etc/passwd"), "is not an http or https address"),
    ]
}

/// K01, K04, K05: whatever the server does, good keys stay, nothing hangs, and the next good answer
/// is used.
#[tokio::test(flavor = "multi_thread")]
async fn good_keys_survive_everything() {
    let mut runs = tokio::task::JoinSet::new();
    for (what, misdeed, told) in misdeeds() {
        runs.spawn(async move {
            let server = KeyServer::start().await;
            server.answer(Answer::Keys(&["a"]));
            let (rig, source) =
                Rig::one(&jwks(&server.url(), json!({ "refresh": "30ms", "timeout": "500ms" })));
            keys_become(&source, &["a"]).await;
            server.answer(misdeed);
            error_becomes(&source, told).await;
            assert_eq!(kids(&source).unwrap(), ["a"], "{what}");
            assert_eq!(rig.changes(), 1, "{what}");
            server.answer(Answer::Keys(&["b"]));
            keys_become(&source, &["b"]).await;
            assert_eq!(source.status().last_error, None, "{what}");
            // The failed attempts have left no connection open.
            server.answer(Answer::Hang);
            eventually(
                || server.connections() <= 1,
                || format!("{what}: {} connections", server.connections()),
            )
            .await;
            drop(rig);
            eventually(
                || server.connections() == 0,
                || format!("{what}: {} connections", server.connections()),
            )
            .await;
        });
    }
    while let Some(run) = runs.join_next().await {
        run.unwrap();
    }
}

/// The previous key is the one whose private part is published now, so that it must end at once,
/// whichever entry publishes it, and the cache file must not bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_published_private_part_ends_the_key_at_once() {
    let server = KeyServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("keys.cache");
    let config = jwks(&server.url(), json!({ "cache_file": cache, "refresh": "50ms" }));
    let (rig, source) = Rig::one(&config);
    server.answer(Answer::Keys(&["a"]));
    keys_become(&source, &["a"]).await;
    eventually(|| cache.exists(), || "the cache file".into()).await;
    let private = key_set(&["a"]).replacen("\"kty\"", "\"d\":\"AQAB\",\"kty\"", 1);
    server.answer(Answer::Body(private));
    keys_end(&source).await;
    rig.changes_become(2).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("`a`: its private part (`d`) is published"), "{error}");
    drop(rig);
    let (rig, source) = Rig::one(&config);
    rig.sources.tried().await;
    assert!(source.current().is_none(), "the cache file is not used");
}

/// CVE-2026-31837: there is no built-in key. istio#37456: a bad first answer is not cached.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_first_good_answer_there_are_no_keys() {
    let mut runs = tokio::task::JoinSet::new();
    for (what, misdeed, _) in misdeeds() {
        runs.spawn(async move {
            let server = KeyServer::start().await;
            server.answer(misdeed);
            let (rig, source) = Rig::one(&jwks(&server.url(), json!({ "timeout": "300ms" })));
            assert!(!source.status().tried || source.status().fetches_failed > 0, "{what}");
            rig.sources.tried().await;
            let status = source.status();
            assert!(
                source.current().is_none()
                    && status.tried
                    && status.keys == 0
                    && status.age.is_none(),
                "{what}: {status:?}"
            );
            assert_eq!(rig.changes(), 0, "{what}");
            failures(&source, 1).await;
            server.answer(Answer::Keys(&["a"]));
            keys_become(&source, &["a"]).await;
            rig.changes_become(1).await;
        });
    }
    while let Some(run) = runs.join_next().await {
        run.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_retried_with_growing_waits() {
    let server = KeyServer::start().await;
    let url = server.url();
    drop(server);
    let (_rig, source) = Rig::one(&jwks(&url, json!({})));
    failures(&source, 4).await;
    let status = source.status();
    assert!(status.last_error.is_some_and(|error| error.contains("no connection to")));
}

/// K05, K06: one bad key costs one key, and is reported; two keys of one name are none.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_key_does_not_discard_the_set() {
    let server = KeyServer::start().await;
    let other = r#"{"kty":"OKP","crv":"Ed25519","x":"AAAYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"twice"}"#;
    let oct = r#"{"kty":"oct","kid":"secret","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
    let short = r#"{"kty":"RSA","kid":"short","n":"AQAB","e":"AQAB"}"#;
    let keys = [&jwk("good"), "{}", oct, short, &jwk("twice"), other, "17"].join(",");
    server.answer(Answer::Body(format!(r#"{{"keys":[{keys}],"more":"is ignored"}}"#)));
    let (_rig, source) = Rig::one(&jwks(&server.url(), json!({})));
    keys_become(&source, &["good"]).await;
    let mut skipped: Vec<_> = source
        .status()
        .skipped
        .into_iter()
        .map(|skip| (skip.kid.unwrap_or_default(), skip.reason.into_owned()))
        .collect();
    skipped.sort();
    assert_eq!(
        skipped,
        [
            (String::new(), "it is not a JWK: not one JSON object without repeated members".into()),
            (String::new(), "its type or curve is not supported".into()),
            ("secret".into(), "it is a shared secret, which no key set may publish".into()),
            ("short".into(), "its modulus has fewer than 2048 or more than 8192 bits".into()),
            ("twice".into(), "its kid is used twice, for two different keys".into()),
        ]
    );
}

/// istio#51636, Authorino's lock around the discovery call: one dead server must not block the
/// others, nor readers of keys.
#[tokio::test(flavor = "multi_thread")]
async fn one_issuer_that_hangs_stops_no_other() {
    let (dead, alive) = (KeyServer::start().await, KeyServer::start().await);
    dead.answer(Answer::Hang);
    alive.answer(Answer::Keys(&["a"]));
    let rig = Rig::new();
    let sources = rig.apply(&[
        issuer("https://dead.example", &jwks(&dead.url(), json!({ "timeout": "1h" }))),
        issuer("https://alive.example", &jwks(&alive.url(), json!({ "refresh": "20ms" }))),
    ]);
    keys_become(&sources[1], &["a"]).await;
    successes(&sources[1], 5).await;
    alive.answer(Answer::Keys(&["b"]));
    keys_become(&sources[1], &["b"]).await;
    for _ in 0..1000 {
        sources[0].request_refresh();
    }
    let status = sources[0].status();
    assert!(!status.tried && sources[0].current().is_none(), "{status:?}");
    eventually(|| dead.hits() == 1, || "the one fetch".into()).await;
    always(Duration::from_millis(50), || dead.hits() == 1, "the fetch under way is the only one")
        .await;
}

/// A request for one issuer refreshes no other issuer.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_unknown_keys_asks_only_the_issuer_it_names() {
    let (stormy, calm) = (KeyServer::start().await, KeyServer::start().await);
    stormy.answer(Answer::Keys(&["a"]));
    calm.answer(Answer::Keys(&["a"]));
    let rig = Rig::new();
    let sources = rig.apply(&[
        issuer("https://stormy.example", &jwks(&stormy.url(), json!({ "cool_down": "20ms" }))),
        issuer("https://calm.example", &jwks(&calm.url(), json!({}))),
    ]);
    rig.sources.tried().await;
    let storm = async {
        let mut poll = poll();
        while stormy.hits() < 5 {
            sources[0].request_refresh();
            poll.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), storm).await.unwrap();
    assert_eq!(calm.hits(), 1);
    always(Duration::from_millis(50), || calm.hits() == 1, "the calm one is not fetched").await;
}

/// The path and the query of an address may be secret, and a server may send anything.
#[tokio::test(flavor = "multi_thread")]
async fn errors_hold_no_secrets_and_are_short() {
    let server = KeyServer::start().await;
    for answer in [
        Answer::Whole(500, Vec::new(), "hunter2".into()),
        Answer::Body("hunter2".repeat(1000)),
        redirect(format!("http://bob:hunter2@evil.example/{}", "x".repeat(5000))),
        redirect("http://evil.example/?key=hunter2"),
        redirect(format!("{}/keys?apikey=hunter2", "x".repeat(5000))),
    ] {
        server.answer(answer.clone());
        let (rig, source) = Rig::one(&jwks(&format!("{}?apikey=hunter2", server.url()), json!({})));
        rig.sources.tried().await;
        let error = source.status().last_error.unwrap();
        assert!(!error.contains("hunter2") && error.len() < 400, "{answer:?}: {error}");
        assert!(!format!("{:?}", rig.sources).contains("hunter2"));
    }
}

/// The everyday case: keys for RS256, and `algorithms` from an example with ES256.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_key_is_usable_every_reason_is_told() {
    let server = KeyServer::start().await;
    let modulus = "x".repeat(341) + "w";
    let rsa = format!(r#"{{"kty":"RSA","kid":"r1","alg":"RS256","n":"{modulus}","e":"AQAB"}}"#);
    let encryption = jwk("e1").replacen('{', r#"{"use":"enc","#, 1);
    server.answer(Answer::Body(format!(r#"{{"keys":[{rsa},{encryption}]}}"#)));
    let (_rig, source) = Rig::one(&jwks(&server.url(), json!({})));
    super::rig::error_becomes(
        &source,
        "no key that this issuer may use: `r1`: its alg is RS256, and the issuer's `algorithms` are \
         EdDSA; `e1`: its use is not sig",
    )
    .await;
}
