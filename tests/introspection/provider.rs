//! A real OpenID Connect server: signed tokens of three algorithms, new keys, opaque tokens and their revocation.

use std::sync::Arc;

use tollgate::{config, engine::Engine, observe};
use tollgate_testkit::{KeyPair, KeyType, proof, wait::until_async};

use crate::{
    engine::{decide, decide_with},
    rig::oidc::{Provider, SECRET},
};

const CONFIG: &str = r#"
audit: { to: none }
issuers:
  - issuer: "ISSUER"
    audiences: ["https://api.example.com/rs256", "https://api.example.com/es256", "https://api.example.com/eddsa", "https://opaque.example.com"]
    algorithms: [RS256, ES256, EdDSA]
    jwks: { discovery: true, insecure_http: true, cool_down: 10ms }
    introspection: { url: "ISSUER/token/introspection", insecure_http: true, client_id: gate, client_secret: SECRET, cache: 1s }
routes:
  - { match: { methods: [GET], paths: [/any] }, scopes: ["infer:text"], credentials: [jwt, opaque_token] }
  - { match: { methods: [GET], paths: [/es256] }, scopes: [], credentials: [jwt, opaque_token], audience: "https://api.example.com/es256" }
  - { match: { methods: [GET], paths: [/opaque] }, scopes: ["infer:text"], credentials: [opaque_token], audience: "https://opaque.example.com" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_real_provider_are_verified_or_introspected() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start(dir.path(), None);
    let text = CONFIG.replace("ISSUER", &provider.issuer()).replace("SECRET", SECRET);
    let loaded = config::compile(&text, &|_| None).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    until_async("readiness", async || engine.readiness().missing().is_empty().then_some(())).await;

    for algorithm in ["rs256", "es256", "eddsa"] {
        let (token, answer) = provider.token(&format!("https://api.example.com/{algorithm}"));
        assert!(token.starts_with("eyJ") && answer["token_type"] == "Bearer", "{answer}");
        assert_eq!(decide(&engine, "/any", Some(&token)).await, "allow", "{algorithm}");
        let expected = if algorithm == "es256" { "allow" } else { "wrong_audience" };
        assert_eq!(decide(&engine, "/es256", Some(&token)).await, expected, "{algorithm}");
    }

    // A key that is new is fetched when its first token comes.
    let (old, _) = provider.token("https://api.example.com/es256");
    provider.rotate();
    let (new, _) = provider.token("https://api.example.com/es256");
    until_async("the new keys", async || {
        (decide(&engine, "/any", Some(&new)).await == "allow").then_some(())
    })
    .await;
    assert_eq!(decide(&engine, "/any", Some(&old)).await, "unknown_key");

    let (token, _) = provider.token("https://opaque.example.com");
    assert!(!token.contains('.'), "{token}");
    assert_eq!(decide(&engine, "/opaque", Some(&token)).await, "allow");
    assert_eq!(decide(&engine, "/es256", Some(&token)).await, "wrong_audience");
    assert_eq!(decide(&engine, "/any", Some("not-a-token-of-it")).await, "inactive_token");
    // A revocation at the provider takes effect when the answer is no longer used.
    let form = format!("token={token}&token_type_hint=access_token");
    assert_eq!(provider.post("/token/revocation", "machine", &form).status, 200);
    until_async("the revocation", async || {
        let decision = decide(&engine, "/opaque", Some(&token)).await;
        (decision == "inactive_token").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_real_provider_binds_to_a_key_need_its_proofs() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start(dir.path(), None);
    let text = CONFIG.replace("ISSUER", &provider.issuer()).replace("SECRET", SECRET)
        + "dpop: { origins: [\"https://api.example.com\"] }\n\
           store: { memory: { single_replica: true } }\n";
    let loaded = config::compile(&text, &|_| None).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    until_async("readiness", async || engine.readiness().missing().is_empty().then_some(())).await;
    let (key, other) = (KeyPair::generate(KeyType::P256), KeyPair::generate(KeyType::P256));
    let (key, other) = (key.unwrap(), other.unwrap());
    // A signed token, and one that the provider describes when it is asked.
    for resource in ["https://api.example.com/es256", "https://opaque.example.com"] {
        let token = provider.bound_token(resource, &key);
        let bound = format!("DPoP {token}");
        let proved = |key: &KeyPair, jti: &str| {
            let uri = "https://api.example.com/any";
            let moment = observe::now().secs();
            proof(key, ("GET", uri), &token, moment, jti).unwrap().sign(key).unwrap()
        };
        let decided = async |authorization: &str, proof: Option<&str>| {
            let mut headers = vec![("authorization", authorization)];
            headers.extend(proof.map(|proof| ("dpop", proof)));
            decide_with(&engine, "/any", &headers, None).await
        };
        let first = proved(&key, "first-of-the-proofs");
        assert_eq!(decided(&bound, Some(&first)).await, "allow", "{resource}");
        assert_eq!(decided(&bound, Some(&first)).await, "invalid_proof", "{resource}, again");
        let foreign = proved(&other, "second-of-the-proofs");
        assert_eq!(decided(&bound, Some(&foreign)).await, "invalid_proof", "{resource}");
        assert_eq!(decided(&bound, None).await, "proof_required", "{resource}");
        assert_eq!(decided(&format!("Bearer {token}"), None).await, "proof_required", "{resource}");
    }
}
