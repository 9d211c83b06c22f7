//! The engine without a socket: allow, deny, reload and close, driven as a library.

use std::{path::Path, sync::Arc};

use serde_json::json;
use tollgate::{
    config::{self, Loaded},
    engine::{Engine, StartError, check::Answer, reload::ReloadError},
    observe,
};
use tollgate_core::request::{Headers, RawBody, RawRequest};
use tollgate_testkit::wait;

use crate::rig::{POLICY, SOON, issuer::Issuer};

/// Compiles a configuration whose `${DIR}` is `dir`. It writes audit lines only if it has the
/// section.
fn load(dir: &Path, config: &str) -> Loaded {
    let audit = if config.contains("audit:") { "" } else { "audit: { to: none }\n" };
    let dir = dir.display().to_string();
    let env = |name: &str| (name == "DIR").then(|| dir.clone());
    config::compile(&format!("{audit}{config}"), &env).unwrap()
}

fn start(loaded: Loaded) -> Engine {
    Engine::start(loaded, Arc::new(observe::now)).unwrap()
}

/// Starts an engine on [`POLICY`] and waits until its keys are in force.
async fn ready(dir: &Path) -> Engine {
    let engine = start(load(dir, POLICY));
    until("readiness", || engine.readiness().missing().is_empty()).await;
    engine
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait::until_async(what, async || condition().then_some(())).await;
}

/// Decides one GET request: `allow`, or the code of the reason.
async fn decide(engine: &Engine, path: &str, token: Option<&str>) -> String {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut headers = Headers::default();
    if let Some(value) = &authorization {
        headers.push("authorization", value.as_bytes());
    }
    let request = RawRequest {
        method: b"GET",
        scheme: b"https",
        host: b"api.example.com",
        path: path.as_bytes(),
        headers,
        address: None,
        body: RawBody::None,
    };
    let answer = engine.checker().check(
        None,
        || Ok(request),
        |checked| match checked.answer {
            Answer::Allow(_) => "allow".to_owned(),
            Answer::Deny(_) | Answer::Fail(_) => {
                let mut metadata = checked.metadata.iter();
                metadata.find(|(name, _)| *name == "reason").unwrap().1.to_owned()
            }
        },
    );
    answer.await
}

#[tokio::test]
async fn it_allows_denies_and_reloads_without_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let engine = ready(dir.path()).await;
    let (good, expired) = (issuer.token(json!({})), issuer.token(json!({ "exp": 1 })));

    for (path, token, expected) in [
        ("/v1/models", Some(&good), "allow"),
        ("/v1/models", Some(&expired), "expired"),
        ("/v1/models", None, "missing_credential"),
        ("/health", None, "allow"),
        ("/elsewhere", Some(&good), "no_route"),
    ] {
        let decided = decide(&engine, path, token.map(String::as_str)).await;
        assert_eq!(decided, expected, "{path}");
    }
    assert!(engine.status().ready && engine.status().jwks[0].keys > 0);

    let wider = POLICY.replace("paths: [/v1/models]", "paths: [/v1/models, /elsewhere]");
    engine.reload(load(dir.path(), &wider)).await.unwrap();
    assert_eq!(decide(&engine, "/elsewhere", Some(&good)).await, "allow");

    // A change that needs a restart is refused whole.
    let moved = format!("{POLICY}drain_timeout: 1s\n");
    let refused = engine.reload(load(dir.path(), &moved)).await;
    let Err(error @ ReloadError::NeedsRestart(_)) = refused else { panic!("{refused:?}") };
    let expected = "drain_timeout changed, which needs a restart; restart, or undo the change";
    assert_eq!(error.to_string(), expected);
    assert_eq!(decide(&engine, "/elsewhere", Some(&good)).await, "allow");
    engine.close().await;
}

#[tokio::test]
async fn it_reloads_a_watched_file_and_keeps_the_last_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let (path, keys) = (dir.path().join("tollgate.yaml"), dir.path().display().to_string());
    let write = |policy: &str| {
        let text = format!("audit: {{ to: none }}\n{}", policy.replace("${DIR}", &keys));
        std::fs::write(&path, text).unwrap();
    };
    write(POLICY);
    let engine = start(config::load(&path).unwrap());
    until("readiness", || engine.readiness().missing().is_empty()).await;
    let watch = engine.watch(path.clone());
    let mut rounds = watch.rounds();
    let token = issuer.token(json!({}));
    assert_eq!(decide(&engine, "/new", Some(&token)).await, "no_route");

    let wider = POLICY.replace("paths: [/v1/models]", "paths: [/v1/models, /new]");
    write(&wider);
    watch.request_reload();
    let mut decided = decide(&engine, "/new", Some(&token)).await;
    while decided != "allow" {
        tokio::time::timeout(SOON, rounds.changed()).await.unwrap().unwrap();
        decided = decide(&engine, "/new", Some(&token)).await;
    }

    write("routes: 7\n");
    watch.request_reload();
    let failed = || {
        let text = engine.observer().exposition(engine.status()).unwrap();
        text.contains("tollgate_config_reload_failed 1")
    };
    until("the reload that fails", failed).await;
    assert_eq!(decide(&engine, "/new", Some(&token)).await, "allow");
    engine.close().await;
}

#[tokio::test]
async fn what_is_missing_at_the_start_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let public = "routes: [{ match: { paths: [/health] }, public: true }]\n";
    let secret = "issuers: [{ issuer: absent, audiences: any, algorithms: [HS256], secret: 'file:/nowhere/s' }]\n";
    let error =
        Engine::start(load(dir.path(), &format!("{secret}{public}")), Arc::new(observe::now));
    let error = error.unwrap_err();
    assert!(matches!(error, StartError::IssuerSecret { .. }), "{error:?}");
    assert_eq!(
        error.to_string().split(':').next(),
        Some("issuer `absent`"),
        "the issuer comes first: {error}"
    );
    let audit = format!("audit: {{ to: 'file:/nowhere/audit.log' }}\n{public}");
    let error = Engine::start(load(dir.path(), &audit), Arc::new(observe::now)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/audit.log"), "{error}");
}

#[tokio::test]
async fn what_was_decided_is_written_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let config = format!("audit: {{ to: 'file:${{DIR}}/audit.log' }}\n{POLICY}");
    let engine = start(load(dir.path(), &config));
    for _ in 0..100 {
        assert_eq!(decide(&engine, "/health", None).await, "allow");
    }
    engine.close().await;
    assert_eq!(engine.readiness().missing(), ["shutting down"]);
    let lines = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert_eq!(lines.lines().count(), 100);
}
