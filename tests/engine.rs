//! The engine without a socket: allow, deny, reload and close, driven as a library.

use std::{net::IpAddr, path::Path, sync::Arc};

use serde_json::json;
use tollgate::{
    config::{self, Loaded},
    engine::{
        Engine, StartError,
        check::{Answer, CheckAnswer},
        reload::ReloadError,
        watch::Watch,
    },
    observe,
};
use tollgate_core::{
    credential::api_key::GeneratedKey,
    limit::shard::ShardBy,
    request::{Headers, RawBody, RawRequest},
    time::rfc3339::Rfc3339,
};
use tollgate_testkit::wait;

use crate::{
    proxies::dpop::BoundClient,
    rig::{
        POLICY, SOON,
        http::{Answer as Http, Request, Server},
        issuer::{Issuer, Key},
    },
};

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
pub(crate) async fn decide(engine: &Engine, path: &str, token: Option<&str>) -> String {
    decide_from(engine, path, token, None).await
}

/// Decides one GET request as [`decide`], of a client with this address.
pub(crate) async fn decide_from(
    engine: &Engine,
    path: &str,
    token: Option<&str>,
    address: Option<IpAddr>,
) -> String {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> =
        authorization.iter().map(|value| ("authorization", value.as_str())).collect();
    decide_with(engine, path, &headers, address).await
}

/// Decides one GET request with these headers, of a client with this address.
pub(crate) async fn decide_with(
    engine: &Engine,
    path: &str,
    sent: &[(&str, &str)],
    address: Option<IpAddr>,
) -> String {
    let read = || {
        let mut headers = Headers::default();
        for (name, value) in sent {
            headers.push(name, value.as_bytes());
        }
        Ok(RawRequest {
            method: b"GET",
            scheme: b"https",
            host: b"api.example.com",
            path: path.as_bytes(),
            headers,
            address,
            peer_certificate: b"",
            body: RawBody::None,
        })
    };
    let answer = engine.checker().check(None, read, |checked| match checked.answer {
        Answer::Allow(_) => "allow".to_owned(),
        Answer::Deny(_) | Answer::Fail(_) => {
            let mut metadata = checked.metadata.iter();
            metadata.find(|(name, _)| *name == "reason").unwrap().1.to_owned()
        }
    });
    answer.await
}

/// Decides a GET request with a proof.
async fn decide_request(engine: &Engine, request: &Request) -> String {
    let headers: Vec<_> = ["authorization", "dpop"]
        .into_iter()
        .flat_map(|name| request.all(name).into_iter().map(move |value| (name, value)))
        .collect();
    decide_with(engine, &request.path, &headers, None).await
}

/// The names of the facts that the proxy gets of an allowed request.
async fn facts(engine: &Engine) -> Vec<&'static str> {
    let read = || {
        Ok(RawRequest {
            method: b"GET",
            scheme: b"https",
            host: b"api.example.com",
            path: b"/health",
            headers: Headers::default(),
            address: None,
            peer_certificate: b"",
            body: RawBody::None,
        })
    };
    let names = |checked: CheckAnswer<'_>| checked.metadata.iter().map(|(name, _)| name).collect();
    engine.checker().check(None, read, names).await
}

#[tokio::test]
async fn the_policy_selects_the_facts_that_the_proxy_gets() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "routes: [{ match: { paths: [/health] }, public: true }]\n";
    let engine = start(load(dir.path(), policy));
    assert_eq!(facts(&engine).await, ["decision_id", "route"]);
    let less = format!("{policy}dynamic_metadata: {{ send: [route, tenant] }}\n");
    engine.reload(load(dir.path(), &less)).await.unwrap();
    assert_eq!(facts(&engine).await, ["route"]);
    engine.close().await;
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

    // What needs a restart keeps no change of the policy out.
    let moved = format!("{POLICY}drain_timeout: 1s\n");
    let refused = engine.reload(load(dir.path(), &moved)).await;
    let Err(error @ ReloadError::NeedsRestart(_)) = refused else { panic!("{refused:?}") };
    let expected = "drain_timeout changed, which needs a restart; restart, or undo the change";
    assert_eq!(error.to_string(), expected);
    assert_eq!(decide(&engine, "/elsewhere", Some(&good)).await, "no_route");
    engine.close().await;
}

/// What a reload adds to a policy may need another store than the one in force.
#[tokio::test]
async fn a_store_of_several_replicas_accepts_no_proof_after_a_reload() {
    const SECTIONS: &str = "dpop: { origins: [\"https://api.example.com\"] }\nstore: { memory: { single_replica: true } }\n";
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let client = BoundClient::new(&issuer);
    let unbound = issuer.token(json!({}));
    let proved = || client.proved("/v1/models", &client.proof("/v1/models", None));
    let bound = format!("{POLICY}{SECTIONS}");

    let engine = ready(dir.path()).await;
    let reloaded = engine.reload(load(dir.path(), &bound)).await;
    assert!(matches!(&reloaded, Err(ReloadError::NeedsRestart(changed)) if *changed == ["store"]));
    assert_eq!(decide_request(&engine, &proved()).await, "store_unavailable");
    assert_eq!(decide(&engine, "/v1/models", Some(&unbound)).await, "allow");
    engine.close().await;

    // The restart.
    let engine = start(load(dir.path(), &bound));
    until("readiness", || engine.readiness().missing().is_empty()).await;
    let request = proved();
    assert_eq!(decide_request(&engine, &request).await, "allow");
    assert_eq!(decide_request(&engine, &request).await, "invalid_proof");
    engine.close().await;
}

#[tokio::test]
async fn a_reload_keeps_the_shards_of_the_store_in_force() {
    let file = |by: &str| {
        format!(
            "store: {{ redis: {{ url: 'redis+cluster://127.0.0.1:1', shard: {by}, replicate_revocations: {{}} }} }}\nroutes: [{{ match: {{ paths: [/a] }}, public: true }}]\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let engine = start(load(dir.path(), &file("tenant")));
    let shard_by = || engine.policy()().shard_by;
    assert_eq!(shard_by(), Some(ShardBy::Tenant));
    let reloaded = engine.reload(load(dir.path(), &file("subject"))).await;
    assert!(matches!(&reloaded, Err(ReloadError::NeedsRestart(changed)) if *changed == ["store"]));
    assert_eq!(shard_by(), Some(ShardBy::Tenant), "the shards of the store that counts");
    engine.close().await;
}

#[tokio::test]
async fn what_a_limit_in_shadow_would_deny_is_counted() {
    const SHADOW: &str = r#"
issuers:
  - { issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256, ES256, EdDSA], jwks: { file: "${DIR}/jwks.json" } }
routes:
  - { match: { methods: [GET], paths: [/v1/models] }, scopes: [], limits: [each] }
limits: [{ name: each, mode: shadow, by: [subject], rate: 1/1h }]
"#;
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let engine = start(load(dir.path(), SHADOW));
    until("readiness", || engine.readiness().missing().is_empty()).await;
    let token = issuer.token(json!({}));
    for _ in 0..3 {
        assert_eq!(decide(&engine, "/v1/models", Some(&token)).await, "allow");
    }
    let text = engine.observer().exposition(engine.status()).unwrap();
    let name = r#"tollgate_would_deny_total{route="/v1/models",rule="limits.each",reason="rate_limited"} 2"#;
    assert!(text.lines().any(|line| line == name), "{text}");
    for line in ["tollgate_remembered_refusals 0", r#"tollgate_limit_denied_total{limit="each"} 0"#]
    {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_refusal_is_remembered_until_the_policy_is_replaced() {
    const LIMITED: &str = r#"
issuers:
  - { issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256, ES256, EdDSA], jwks: { file: "${DIR}/jwks.json" } }
routes:
  - { match: { methods: [GET], paths: [/v1/models] }, scopes: [], limits: [each] }
limits: [{ name: each, by: [subject], rate: 1/1h }]
"#;
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let engine = start(load(dir.path(), LIMITED));
    until("readiness", || engine.readiness().missing().is_empty()).await;
    let token = issuer.token(json!({}));
    let counted = || {
        let text = engine.observer().exposition(engine.status()).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        (
            value("tollgate_remembered_denials_total"),
            value("tollgate_limit_denied_total{limit=\"each\"}"),
            value("tollgate_remembered_refusals"),
        )
    };
    for (expected, counts) in [
        ("allow", (0, 0, 0)),
        ("rate_limited", (0, 1, 1)),
        ("rate_limited", (1, 2, 1)),
        ("rate_limited", (2, 3, 1)),
    ] {
        assert_eq!(decide(&engine, "/v1/models", Some(&token)).await, expected);
        assert_eq!(counted(), counts);
    }
    let other = issuer.token(json!({ "sub": "another" }));
    assert_eq!(decide(&engine, "/v1/models", Some(&other)).await, "allow");

    // The store has the bucket still: what is forgotten is the refusal.
    engine.reload(load(dir.path(), LIMITED)).await.unwrap();
    assert_eq!(counted(), (2, 3, 0));
    assert_eq!(decide(&engine, "/v1/models", Some(&token)).await, "rate_limited");
    assert_eq!(counted(), (2, 4, 1));
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

/// A directory with a configuration file, and an engine that watches it.
struct Watched {
    engine: Engine,
    watch: Watch,
    dir: tempfile::TempDir,
}

impl Watched {
    /// Starts with the issuer of [`POLICY`]. `${DIR}` is the directory.
    async fn start(config: &str) -> (Self, Issuer) {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        write(dir.path(), config);
        let path = dir.path().join("tollgate.yaml");
        let engine = start(config::load(&path).unwrap());
        until("readiness", || engine.readiness().missing().is_empty()).await;
        let watch = engine.watch(path);
        (Self { engine, watch, dir }, issuer)
    }

    fn write(&self, config: &str) {
        write(self.dir.path(), config);
    }

    /// Waits until a request is decided in this way.
    async fn becomes(&self, path: &str, token: Option<&str>, expected: &str) {
        wait::until_async(&format!("{path} -> {expected}"), async || {
            (decide(&self.engine, path, token).await == expected).then_some(())
        })
        .await;
    }

    fn metrics(&self) -> String {
        self.engine.observer().exposition(self.engine.status()).unwrap()
    }

    async fn metric(&self, line: &str) {
        until(line, || self.metrics().lines().any(|found| found == line)).await;
    }
}

/// Replaces the file at once, as a ConfigMap does.
fn write(dir: &Path, config: &str) {
    let text = format!("audit: {{ to: none }}\n{config}");
    std::fs::write(dir.join("new"), text.replace("${DIR}", &dir.display().to_string())).unwrap();
    std::fs::rename(dir.join("new"), dir.join("tollgate.yaml")).unwrap();
}

/// [`POLICY`] with an upstream key for `/v1/models`.
fn with_upstream_key() -> String {
    let key = "    scopes: []\n    upstream_key: \"file:${DIR}/upstream\"\n";
    POLICY.replace("    scopes: []\n", key)
}

#[tokio::test]
async fn what_a_reload_removes_stops_while_an_upstream_key_is_missing() {
    let (watched, issuer) = Watched::start(POLICY).await;
    let token = issuer.token(json!({}));
    assert_eq!(decide(&watched.engine, "/v1/models", Some(&token)).await, "allow");

    // The new policy trusts another issuer, and its upstream key arrives after the file.
    let other = with_upstream_key().replace("https://auth.example.com", "https://new.example.com");
    watched.write(&other);
    watched.watch.request_reload();
    watched.becomes("/v1/models", Some(&token), "unknown_issuer").await;
    watched.metric("tollgate_config_reload_failed 0").await;
    let new = Issuer::new("https://new.example.com").token(json!({}));
    watched.becomes("/v1/models", Some(&new), "not_ready").await;
    std::fs::write(watched.dir.path().join("upstream"), "sk-1").unwrap();
    watched.becomes("/v1/models", Some(&new), "allow").await;
    watched.engine.close().await;
}

/// Every other file that a policy names may be missing as well.
#[tokio::test]
async fn what_a_reload_removes_stops_while_files_of_issuers_are_missing() {
    let file = "jwks: { file: \"${DIR}/jwks.json\" }";
    let gone = "  - issuer: https://gone.example.com\n    audiences: any\n    algorithms: [RS256]\n    jwks: { file: \"${DIR}/jwks.json\" }\n";
    let before = POLICY.replace("models:\n", &format!("{gone}models:\n"));
    for (source, algorithm) in [
        ("jwks: { file: \"${DIR}/none\" }", "RS256"),
        ("secret: \"file:${DIR}/none\"", "HS256"),
        ("jwks: { url: \"https://127.0.0.1:1/\", ca: \"${DIR}/none\" }", "RS256"),
        ("jwks: { url: \"https://127.0.0.1:1/\", bearer: \"file:${DIR}/none\" }", "RS256"),
    ] {
        let new = gone.replace("gone", "new").replace(file, source).replace("RS256", algorithm);
        let (watched, issuer) = Watched::start(&before).await;
        let (stays, goes) =
            (issuer.token(json!({})), Issuer::new("https://gone.example.com").token(json!({})));
        assert_eq!(decide(&watched.engine, "/v1/models", Some(&goes)).await, "allow");
        let after = POLICY.replace("models:\n", &format!("{new}models:\n"));
        watched.engine.reload(load(watched.dir.path(), &after)).await.unwrap();
        let decided = async |token| decide(&watched.engine, "/v1/models", Some(token)).await;
        assert_eq!(decided(&goes).await, "unknown_issuer", "{source}");
        assert_eq!(decided(&stays).await, "allow", "{source}");
        watched.engine.close().await;
    }
}

/// Keys are denied, and named, while the file of a new policy is missing or wrong; a file that was in
/// force before is kept.
#[tokio::test]
async fn a_file_of_api_keys_that_a_reload_names_is_named_until_it_can_be_used() {
    let key = GeneratedKey::new(&[7; 16], &[9; 32]);
    let digest = key.digest();
    let record = format!(
        "keys: [{{ id: {}, subject: ci, created: '{}', digest: '{digest}' }}]",
        key.id(),
        Rfc3339(observe::now())
    );
    let with_keys = |file| format!("{POLICY}api_keys: {{ file: \"${{DIR}}/{file}\" }}\n");
    for (what, content) in [("missing", None), ("broken", Some("keys: [{ id: 1 }]"))] {
        let (watched, issuer) = Watched::start(POLICY).await;
        let file = watched.dir.path().join("keys");
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let (engine, token) = (&watched.engine, issuer.token(json!({})));
        watched.write(&with_keys("keys"));
        watched.watch.request_reload();
        watched.becomes("/v1/models", Some(key.expose()), "not_ready").await;
        assert_eq!(decide(engine, "/v1/models", Some(&token)).await, "allow", "{what}");
        let named = format!("the API keys in `{}` cannot be used", file.display());
        assert_eq!(engine.readiness().unusable(), [named], "{what}");
        assert!(engine.readiness().missing().is_empty(), "{what}: tokens are accepted");
        let labels = format!("{{secret=\"api_keys\",file=\"{}\"}}", file.display());
        watched.metric(&format!("tollgate_secret_usable{labels} 0")).await;

        std::fs::write(&file, &record).unwrap();
        watched.becomes("/v1/models", Some(key.expose()), "allow").await;
        assert!(engine.readiness().unusable().is_empty(), "{what}");
        watched.metric(&format!("tollgate_secret_usable{labels} 1")).await;
        // The file of the policy before stays in force, whatever it has become.
        std::fs::write(&file, "keys: [{ id: 1 }]").unwrap();
        let paths = "paths: [/v1/models, /v1/others]";
        watched.write(&with_keys("keys").replace("paths: [/v1/models]", paths));
        watched.watch.request_reload();
        watched.becomes("/v1/others", Some(key.expose()), "allow").await;
        watched.engine.close().await;
    }
}

/// The policy is applied under the sections in force, where it may need what only the restart
/// brings: it is denied meanwhile.
#[tokio::test]
async fn what_a_reload_removes_stops_while_other_sections_need_a_restart() {
    const REDIS: &str =
        "store: { redis: { url: \"redis://127.0.0.1:1\", local: { replicas: 1 } } }\n";
    let gone = "  - issuer: https://gone.example.com\n    audiences: any\n    algorithms: [RS256]\n    jwks: { file: \"${DIR}/jwks.json\" }\n";
    let before = POLICY.replace("models:\n", &format!("{gone}models:\n"));
    let local = POLICY.replace("    scopes: []\n", "    scopes: []\n    on_outage: local\n");
    let foreign = format!("{POLICY}revocation: {{ foreign: [\"b:{{sub}}\"] }}\n");
    for (sections, policy, stays_decided) in [
        ("body: { max: 1MiB }\n", POLICY, "allow"),
        (REDIS, POLICY, "allow"),
        (REDIS, local.as_str(), "allow"),
        ("store: { redis: { url: \"redis://127.0.0.1:1\" } }\n", &foreign, "store_unavailable"),
        ("listen: { ops: \"127.0.0.1:0\" }\nsecrets: { max_stale: 1h }\n", POLICY, "allow"),
    ] {
        let (watched, issuer) = Watched::start(&before).await;
        let stays = issuer.token(json!({}));
        let goes = Issuer::new("https://gone.example.com").token(json!({}));
        assert_eq!(decide(&watched.engine, "/v1/models", Some(&goes)).await, "allow");
        watched.write(&format!("{sections}{policy}"));
        watched.becomes("/v1/models", Some(&goes), "unknown_issuer").await;
        watched.metric("tollgate_config_reload_failed 1").await;
        let decided = decide(&watched.engine, "/v1/models", Some(&stays)).await;
        assert_eq!(decided, stays_decided, "{sections}{policy}");

        // A further change of the policy applies as well, and so does what is undone.
        watched.write(&format!("{sections}{}", POLICY.replace("/v1/models", "/elsewhere")));
        watched.becomes("/v1/models", Some(&stays), "no_route").await;
        watched.metric("tollgate_config_reload_failed 1").await;
        watched.write(&before);
        watched.becomes("/v1/models", Some(&goes), "allow").await;
        watched.metric("tollgate_config_reload_failed 0").await;
        watched.engine.close().await;
    }
}

#[tokio::test]
async fn a_file_that_changes_between_load_and_watch_is_reloaded() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    write(dir.path(), POLICY);
    let path = dir.path().join("tollgate.yaml");
    let loaded = config::load(&path).unwrap();
    write(dir.path(), &POLICY.replace("/public/*", "/elsewhere"));
    let engine = start(loaded);
    let _watch = engine.watch(path);
    wait::until_async("the second text", async || {
        (decide(&engine, "/elsewhere", None).await == "allow").then_some(())
    })
    .await;
    engine.close().await;
}

/// What is restored after a failed reload is in force already, and the failure is over.
#[tokio::test]
async fn the_text_in_force_ends_a_failed_reload() {
    let (watched, _) = Watched::start(POLICY).await;
    watched.write("routes: 7\n");
    watched.metric("tollgate_config_reload_failed 1").await;
    watched.write(POLICY);
    watched.metric("tollgate_config_reload_failed 0").await;
    watched.engine.close().await;
}

#[tokio::test]
async fn what_a_reload_removes_stops_while_a_new_issuer_is_waited_for() {
    let silent = Server::start(|_| Http::Silence);
    let slow = format!(
        "  - issuer: https://slow.example.com\n    audiences: any\n    algorithms: [RS256]\n    jwks: {{ url: \"http://127.0.0.1:{}/\", insecure_http: true, timeout: 60s }}\n",
        silent.port
    );
    let gone = "  - issuer: https://gone.example.com\n    audiences: any\n    algorithms: [RS256]\n    jwks: { file: \"${DIR}/jwks.json\" }\n";
    let limited = "limits: [{ name: none, by: [subject], rate: 1/1d, burst: 1 }]\n";
    let before = format!("{POLICY}{limited}").replace("models:\n", &format!("{gone}models:\n"));
    let after = |policy: &str| policy.replace("models:\n", &format!("{slow}models:\n"));
    let narrower = POLICY.replace("    scopes: []\n", "    scopes: [admin]\n");
    let route = POLICY.replace("paths: [/v1/models]", "paths: [/v1/others]");
    // An issuer whose keys come from elsewhere, without an answer yet.
    let file = "jwks: { file: \"${DIR}/jwks.json\" }";
    let url =
        format!("jwks: {{ url: \"http://127.0.0.1:{}/\", insecure_http: true }}", silent.port);
    let source = before.replacen(file, &url, 1);
    for (what, policy, expected) in [
        ("a key source", source.as_str(), "not_ready"),
        ("an issuer", POLICY, "unknown_issuer"),
        ("a route", route.as_str(), "no_route"),
        ("a scope", narrower.as_str(), "insufficient_scope"),
    ] {
        let (watched, issuer) = Watched::start(&before).await;
        let stays = issuer.token(json!({}));
        let goes = Issuer::new("https://gone.example.com").token(json!({}));
        let token = if what == "an issuer" { &goes } else { &stays };
        assert_eq!(decide(&watched.engine, "/v1/models", Some(token)).await, "allow");
        let reloaded = watched.engine.reload(load(watched.dir.path(), &after(policy)));
        // Far less than the time that the silent server may take.
        tokio::time::timeout(SOON / 2, reloaded).await.unwrap().unwrap();
        let decided = decide(&watched.engine, "/v1/models", Some(token)).await;
        assert_eq!(decided, expected, "{what}");
        let new = Issuer::new("https://slow.example.com").token(json!({}));
        assert_eq!(
            decide(&watched.engine, "/v1/models", Some(&new)).await,
            match what {
                "a route" => "no_route",
                _ => "not_ready",
            }
        );
        // All replicas reload at the same time: a new issuer must not make them all unready.
        assert!(watched.engine.readiness().missing().is_empty(), "{what}");
        watched.engine.close().await;
    }
}

#[tokio::test]
async fn an_upstream_key_whose_file_is_gone_lapses_after_max_stale() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("upstream"), "sk-1").unwrap();
    let file = dir.path().join("upstream").display().to_string();
    let config = format!("secrets: {{ max_stale: 1s }}\n{}", with_upstream_key());
    let (watched, issuer) = Watched::start(&config.replace("${DIR}/upstream", &file)).await;
    let token = issuer.token(json!({}));
    assert_eq!(decide(&watched.engine, "/v1/models", Some(&token)).await, "allow");
    let labels = format!("{{secret=\"upstream_key\",file=\"{file}\"}}");
    watched.metric(&format!("tollgate_secret_usable{labels} 1")).await;

    std::fs::remove_file(&file).unwrap();
    watched.becomes("/v1/models", Some(&token), "not_ready").await;
    watched.metric(&format!("tollgate_secret_usable{labels} 0")).await;
    let missing = watched.engine.readiness().missing();
    assert_eq!(missing, [format!("no upstream key can be used: `{file}`")]);
    assert_eq!(decide(&watched.engine, "/health", None).await, "allow", "other routes go on");

    std::fs::write(&file, "sk-2").unwrap();
    watched.becomes("/v1/models", Some(&token), "allow").await;
    assert!(watched.engine.readiness().missing().is_empty());
    watched.engine.close().await;
}

#[tokio::test]
async fn a_shared_secret_whose_file_is_gone_lapses_after_max_stale() {
    let dir = tempfile::tempdir().unwrap();
    let (file, secret) = (dir.path().join("secret"), "s".repeat(32));
    std::fs::write(&file, &secret).unwrap();
    let issuer = Issuer::with("https://hmac.example.com", Key::secret(&secret));
    let section = format!(
        "  - issuer: https://hmac.example.com\n    audiences: any\n    algorithms: [HS256]\n    secret: \"file:{}\"\nmodels:\n",
        file.display()
    );
    let config = POLICY.replace("models:\n", &section);
    let (watched, _) = Watched::start(&format!("secrets: {{ max_stale: 2s }}\n{config}")).await;
    let token = issuer.token(json!({}));
    assert_eq!(decide(&watched.engine, "/v1/models", Some(&token)).await, "allow");
    std::fs::remove_file(&file).unwrap();
    watched.becomes("/v1/models", Some(&token), "not_ready").await;
    watched.metric("tollgate_jwks_keys{issuer=\"https://hmac.example.com\"} 0").await;
    std::fs::write(&file, &secret).unwrap();
    watched.becomes("/v1/models", Some(&token), "allow").await;
    watched.engine.close().await;
}

#[tokio::test]
async fn metrics_have_the_series_of_the_policy_in_force_only() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let engine = ready(dir.path()).await;
    let series = || {
        let text = engine.observer().exposition(engine.status()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    assert_eq!(decide(&engine, "/health", None).await, "allow");
    let before = series();
    for round in 0..200 {
        let named = POLICY
            .replace("name: models", &format!("name: models-{round}"))
            .replace("name: big,", &format!("name: big-{round},"));
        let limit = format!("limits: [{{ name: limit-{round}, by: [subject], rate: 1/1m }}]\n");
        engine.reload(load(dir.path(), &format!("{named}{limit}"))).await.unwrap();
        assert_eq!(decide(&engine, "/health", None).await, "allow");
    }
    assert_eq!(series(), before + 1, "the limit is new");
    let text = engine.observer().exposition(engine.status()).unwrap();
    let count = "tollgate_checks_total{decision=\"allow\",reason=\"public\",route=\"public\"} 201";
    assert!(text.lines().any(|line| line == count), "{text}");
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
