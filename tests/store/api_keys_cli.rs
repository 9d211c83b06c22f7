//! `tollgate keys` on a Redis, as an operator runs it, with an engine that shares the Redis.

use std::{path::Path, process::Output, sync::Arc};

use redis::Commands as _;
use serde_json::Value;
use tempfile::TempDir;
use tollgate::{config, engine::Engine, observe};

use super::{
    redis_server::{self, Server},
    requests::until,
};
use crate::{engine::decide, rig::tollgate::run};

const CONFIG: &str = "
audit: { to: none }
store: { redis: { url: URL, deadline: 1s } }
api_keys: { redis: true, max_life: 30d, replicate: { max: 5 } }
limits: [{ name: l, by: [subject], rate: 1000/1s, overrides: [{ tier: gold, rate: 2000/1s }] }]
routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [read], limits: [l] }]
";

struct Place {
    server: Server,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let (server, dir) = (redis_server::start(&[]), tempfile::tempdir().unwrap());
        let config = CONFIG.replace("URL", &server.unix());
        std::fs::write(dir.path().join("tollgate.yaml"), config).unwrap();
        Self { server, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `tollgate keys` on the Redis of the configuration.
    fn keys(&self, arguments: &[&str]) -> Output {
        let place = ["--config", "tollgate.yaml"];
        run(self.path(), &[&["keys"], arguments, &place].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.keys(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Creates a key that lives for an hour, and returns its text and its id.
    fn create(&self, arguments: &[&str]) -> (String, String) {
        let base = ["create", "--subject", "ci", "--scope", "read", "--expires-in", "1h"];
        let made = self.json(&[&base, arguments].concat());
        let (key, id) = (made["key"].as_str().unwrap(), made["record"]["id"].as_str().unwrap());
        (key.to_owned(), id.to_owned())
    }

    /// The exit code and the texts of a command.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.keys(arguments);
        (output.status.code(), text(&output))
    }
}

fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{error}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_created_rotated_and_revoked_on_every_replica() {
    let place = Place::new();
    let loaded = config::load(&place.path().join("tollgate.yaml")).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    let becomes = async |key: &str, expected: &str| {
        until("the answer to the key", async || decide(&engine, "/a", Some(key)).await == expected)
            .await;
    };
    let (first, id) = place.create(&["--tier", "gold"]);
    assert!(place.json(&["show", &id]).get("last_used").is_none());
    becomes(&first, "allow").await;
    until("the last use", async || place.json(&["show", &id])["last_used"].is_string()).await;
    let rotated = place.json(&["rotate", &id, "--grace", "1h", "--expires-in", "1h"]);
    let second = rotated["key"].as_str().unwrap();
    assert_eq!(rotated["record"]["id"], *id);
    becomes(second, "allow").await;
    becomes(&first, "allow").await;
    assert_eq!(place.json(&["show", &id])["state"], "rotating");
    let third = place.json(&["rotate", &id, "--grace", "0s", "--expires-in", "1h"]);
    becomes(third["key"].as_str().unwrap(), "allow").await;
    becomes(second, "invalid_api_key").await;
    becomes(&first, "invalid_api_key").await;
    let list = text(&place.keys(&["list"]));
    assert!(list.contains(&id) && list.contains("active") && !list.contains("--cursor"), "{list}");
    let used = place.json(&["list"])["last_used"].as_str().unwrap().to_owned();
    assert!(list.contains("last used") && list.contains(&used), "{list}");
    assert!(place.keys(&["revoke", &id]).status.success());
    becomes(third["key"].as_str().unwrap(), "invalid_api_key").await;
    for action in ["revoke", "show", "rotate"] {
        let (code, shown) = place.fails(&[action, &id]);
        assert_eq!(code, Some(1), "{action}: {shown}");
        assert!(shown.contains(&format!("`store.redis of tollgate.yaml` has no key `{id}`")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_key_is_known_by_its_digest_once() {
    let place = Place::new();
    std::fs::write(place.path().join("old.txt"), "sk-of-another-gateway-1\n").unwrap();
    let import = ["import", "--subject", "bot", "--expires-in", "1h", "--key", "@old.txt"];
    let record = place.json(&import);
    assert_eq!((&record["weak"], &record["state"]), (&Value::Bool(true), &"weak".into()));
    let (code, shown) = place.fails(&import);
    assert_eq!(code, Some(2));
    let expected = format!("the key `{}` has this digest", record["id"].as_str().unwrap());
    assert!(shown.contains(&expected), "{shown}");
}

#[test]
fn a_record_that_the_configuration_would_refuse_is_not_written() {
    let place = Place::new();
    let create = ["create", "--subject", "ci"];
    for (arguments, part) in [
        (&["--expires-in", "31d"][..], "longer than `api_keys.max_life` (30d)"),
        (&["--expires-in", "1h", "--limit", "x=1/1s"], "has no limit `x`"),
        (&["--expires-in", "1h", "--tier", "x"], "for the tier `x`"),
        (&["--expires-in", "1h", "--scope", "a b"], "is not a scope"),
    ] {
        let (code, shown) = place.fails(&[&create, arguments].concat());
        assert_eq!(code, Some(2), "{shown}");
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // Five keys are copied, and those after them are looked up.
    for (count, beyond) in [(5, None), (1, Some("The last 1 of them are beyond"))] {
        for _ in 0..count {
            place.create(&[]);
        }
        let shown = text(&place.keys(&["list"]));
        assert_eq!(shown.contains("are beyond"), beyond.is_some(), "{shown}");
        assert!(beyond.is_none_or(|line| shown.contains(line)), "{shown}");
    }
    let config = std::fs::read_to_string(place.path().join("tollgate.yaml")).unwrap();
    let without =
        config.replace("redis: true", "file: keys.json").replace(", replicate: { max: 5 }", "");
    std::fs::write(place.path().join("tollgate.yaml"), without).unwrap();
    let (code, shown) = place.fails(&["list"]);
    assert_eq!(code, Some(2));
    assert!(shown.contains("has no API keys in Redis: set `api_keys.redis`"), "{shown}");
}

#[test]
fn a_list_has_pages_and_shows_broken_records_with_their_cause() {
    let place = Place::new();
    let ids = [0; 3].map(|_| place.create(&[]).1);
    let mut client = place.server.client();
    let broken = "brokenbroken";
    let _: () = client.set(format!("{{tollgate}}:key:{broken}"), r#"{"colour":"red"}"#).unwrap();
    let _: () = client.zadd("{tollgate}:keys", broken, 1).unwrap();
    let page = |cursor: &str| {
        let arguments = ["list", "--limit", "2", "--cursor", cursor, "--output", "json"];
        let output = text(&place.keys(&arguments));
        let lines = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.collect::<Vec<_>>()
    };
    let first = page("0.");
    let last = page(first[2]["next"].as_str().unwrap());
    assert_eq!(first[0]["state"], "broken");
    assert!(first[0]["error"].as_str().unwrap().contains("unknown field `colour`"), "{first:?}");
    assert_eq!(last.len(), 2, "{last:?}");
    let mut listed: Vec<&str> =
        [&first[1], &last[0], &last[1]].map(|record| record["id"].as_str().unwrap()).to_vec();
    listed.sort_unstable();
    let mut created: Vec<&str> = ids.iter().map(String::as_str).collect();
    created.sort_unstable();
    assert_eq!(listed, created);
    let shown = text(&place.keys(&["list", "--limit", "1"]));
    assert!(
        shown.contains("broken") && shown.contains("There are more: --cursor 1000000."),
        "{shown}"
    );
    let (code, shown) = place.fails(&["show", broken]);
    assert_eq!(code, Some(2));
    assert!(shown.contains("unknown field") && shown.contains("keys revoke"), "{shown}");
    assert!(place.keys(&["revoke", broken]).status.success());
    assert!(!text(&place.keys(&["list"])).contains("broken"));
}
