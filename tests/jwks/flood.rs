//! A key that replaces another under a flood of forged tokens: the engine against a key server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tollgate::{config, engine::Engine, observe};
use tollgate_testkit::{Algorithm, KeyPair, KeyType, Token, jwk_set, wait::until_async};

use super::server::{Answer, KeyServer};
use crate::engine::decide;

const COOL_DOWN: Duration = Duration::from_millis(250);
/// Room for a busy machine.
const ROOM: Duration = Duration::from_secs(5);

/// An issuer whose keys are replaced.
struct Rotation {
    server: KeyServer,
    /// The `kid` of every key and token.
    kid: Option<&'static str>,
}

impl Rotation {
    fn publish(&self, key: &KeyPair) {
        let mut jwk = key.jwk(self.kid.unwrap_or("none"), Algorithm::EdDsa).unwrap();
        if self.kid.is_none() {
            jwk.as_object_mut().unwrap().remove("kid");
        }
        self.server.answer(Answer::Body(jwk_set([jwk]).to_string()));
    }

    fn token(&self, key: &KeyPair, subject: &str) -> String {
        token(self.kid, key, subject)
    }

    fn engine(&self) -> Engine {
        let text = format!(
            "
audit: {{ to: none }}
issuers:
  - issuer: https://idp.example
    audiences: any
    algorithms: [EdDSA]
    kid: {}
    jwks: {{ url: '{}', insecure_http: true, refresh: 1h, cool_down: {}ms }}
routes:
  - {{ match: {{ methods: [GET], paths: [/v1/models] }}, scopes: [] }}
",
            if self.kid.is_some() { "required" } else { "optional" },
            self.server.url(),
            COOL_DOWN.as_millis(),
        );
        let loaded = config::compile(&text, &|_| None).unwrap();
        Engine::start(loaded, Arc::new(observe::now)).unwrap()
    }
}

/// Returns a token of ten minutes.
fn token(kid: Option<&str>, key: &KeyPair, subject: &str) -> String {
    let now = observe::now().secs();
    let claims =
        json!({ "iss": "https://idp.example", "sub": subject, "iat": now, "exp": now + 600 });
    let token = Token::new(Algorithm::EdDsa).claims(claims);
    kid.map_or(token.clone(), |kid| token.kid(kid)).sign(key).unwrap()
}

/// Replaces the key five times under a flood, and returns how long the first token of each new key
/// was refused.
async fn rotate_under_a_flood(kid: Option<&'static str>) -> Vec<Duration> {
    let rotation = Rotation { server: KeyServer::start().await, kid };
    let mut current = KeyPair::generate(KeyType::Ed25519).unwrap();
    rotation.publish(&current);
    let engine = Arc::new(rotation.engine());
    until_async("readiness", async || engine.readiness().missing().is_empty().then_some(())).await;
    assert_eq!(
        decide(&engine, "/v1/models", Some(&rotation.token(&current, "ann"))).await,
        "allow"
    );

    let attacker = KeyPair::generate(KeyType::Ed25519).unwrap();
    let forged: Vec<String> =
        (0..200).map(|number| rotation.token(&attacker, &format!("s{number}"))).collect();
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flood = tokio::spawn({
        let (engine, stop, sent) = (Arc::clone(&engine), Arc::clone(&stop), Arc::clone(&sent));
        async move {
            for token in forged.iter().cycle() {
                assert_eq!(decide(&engine, "/v1/models", Some(token)).await, "bad_signature");
                sent.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    });

    let began = Instant::now();
    let mut waits = Vec::new();
    for round in 0..5 {
        // The rotation comes just after a fetch began: the longest wait there is.
        let hits = rotation.server.hits();
        until_async("a fetch that the flood causes", async || {
            (rotation.server.hits() > hits).then_some(())
        })
        .await;
        current = KeyPair::generate(KeyType::Ed25519).unwrap();
        rotation.publish(&current);
        let good = rotation.token(&current, &format!("ann{round}"));
        let start = Instant::now();
        until_async("the new key", async || {
            (decide(&engine, "/v1/models", Some(&good)).await == "allow").then_some(())
        })
        .await;
        waits.push(start.elapsed());
    }
    let (fetches, elapsed) = (rotation.server.hits(), began.elapsed());
    stop.store(true, Ordering::Relaxed);
    flood.await.unwrap();
    let most = 3 + elapsed.as_millis() / COOL_DOWN.as_millis();
    assert!(fetches as u128 <= most, "{fetches} fetches in {elapsed:?}");
    println!(
        "kid {kid:?}: {} forged tokens and {fetches} fetches in {elapsed:?}; a good token of a new \
         key waited {waits:?} (cool-down {COOL_DOWN:?})",
        sent.load(Ordering::Relaxed)
    );
    engine.close().await;
    waits
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_under_the_same_kid_waits_one_cool_down_and_one_fetch_at_most() {
    for waited in rotate_under_a_flood(Some("main")).await {
        assert!(waited < COOL_DOWN + ROOM, "{waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_without_kid_waits_one_cool_down_and_one_fetch_at_most() {
    for waited in rotate_under_a_flood(None).await {
        assert!(waited < COOL_DOWN + ROOM, "{waited:?}");
    }
}

/// One forged token must not keep a good one out: the refresh that it caused is not the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_the_cool_down_is_served_at_its_end() {
    let rotation = Rotation { server: KeyServer::start().await, kid: Some("main") };
    let (old, new) = (KeyType::Ed25519, KeyType::Ed25519);
    let (old, new) = (KeyPair::generate(old).unwrap(), KeyPair::generate(new).unwrap());
    rotation.publish(&old);
    let engine = rotation.engine();
    until_async("readiness", async || engine.readiness().missing().is_empty().then_some(())).await;
    assert_eq!(
        decide(&engine, "/v1/models", Some(&rotation.token(&new, "mallory"))).await,
        "bad_signature"
    );
    until_async("the fetch that it causes", async || (rotation.server.hits() == 2).then_some(()))
        .await;
    rotation.publish(&new);
    // Sent once, and not again before the keys have changed.
    let good = rotation.token(&new, "ann");
    assert_eq!(decide(&engine, "/v1/models", Some(&good)).await, "bad_signature");
    until_async("the fetch at the end of the cool-down", async || {
        (rotation.server.hits() == 3).then_some(())
    })
    .await;
    until_async("the new key", async || {
        (decide(&engine, "/v1/models", Some(&good)).await == "allow").then_some(())
    })
    .await;
    engine.close().await;
}

/// A new key beside the one in use makes no client's token new, and a key that is gone ends its own.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_stay_verified_when_their_issuer_adds_a_key() {
    let rotation = Rotation { server: KeyServer::start().await, kid: Some("main") };
    let pairs = [(); 3].map(|()| KeyPair::generate(KeyType::Ed25519).unwrap());
    let names = ["main", "next", "last"];
    let publish = |published: &[usize]| {
        let keys = published.iter().map(|at| pairs[*at].jwk(names[*at], Algorithm::EdDsa).unwrap());
        rotation.server.answer(Answer::Body(jwk_set(keys).to_string()));
    };
    let token_of = |at: usize| token(Some(names[at]), &pairs[at], "ann");
    publish(&[0]);
    let engine = rotation.engine();
    let lookups = || engine.status().tokens.lookups.map(|(_, count)| count);
    // The first token of a new key has the key set fetched.
    let becomes_known = async |token: &str| {
        until_async("the new key", async || {
            (decide(&engine, "/v1/models", Some(token)).await == "allow").then_some(())
        })
        .await;
    };
    let first = token_of(0);
    becomes_known(&first).await;
    publish(&[1, 0]);
    becomes_known(&token_of(1)).await;
    let [hits, rejected, misses] = lookups();
    assert_eq!(decide(&engine, "/v1/models", Some(&first)).await, "allow");
    assert_eq!(lookups(), [hits + 1, rejected, misses]);
    publish(&[2, 1]);
    becomes_known(&token_of(2)).await;
    assert_eq!(decide(&engine, "/v1/models", Some(&first)).await, "unknown_key");
}
