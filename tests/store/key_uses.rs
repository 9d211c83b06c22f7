//! What operators learn of API keys: their last use, a use from a new network, and their ends.

use std::{path::Path, sync::Arc};

use redis::Commands as _;
use serde_json::Value;
use tollgate::{
    config,
    engine::Engine,
    observe,
    store::{KeyUpdate, KeyWrite, MOST_NETWORKS, Redis, SeenNetworks},
};
use tollgate_core::{
    credential::api_key::{KeyRecord, KeySecret},
    network::Network,
    time::Timestamp,
};

use super::{
    api_keys::{create, made, record},
    redis_server,
    requests::until,
};
use crate::engine::decide_from;

const POLICY: &str = "
audit: { to: 'file:AUDIT' }
STORE
api_keys: { SOURCE }
routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [] }, { match: { methods: [GET], paths: [/b] }, scopes: [s] }]
";

/// Starts an engine whose audit lines are in `audit`.
fn engine(audit: &Path, store: &str, source: &str) -> Engine {
    let text = POLICY
        .replace("AUDIT", &audit.display().to_string())
        .replace("STORE", store)
        .replace("SOURCE", source);
    Engine::start(config::compile(&text, &|_| None).unwrap(), Arc::new(observe::now)).unwrap()
}

/// The audit lines of events of keys.
fn events(audits: &[&Path]) -> Vec<Value> {
    let texts = audits.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let text: String = texts.collect();
    // The last line may be half written.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = whole.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == "key").collect()
}

fn actions(events: &[Value], action: &str) -> usize {
    events.iter().filter(|line| line["action"] == action).count()
}

async fn used(engine: &Engine, key: &str, address: &str) {
    let address = Some(address.parse().unwrap());
    until("the key is allowed", async || {
        decide_from(engine, "/a", Some(key), address).await == "allow"
    })
    .await;
}

/// A record that ends in 90 days.
fn lasting(record: KeyRecord) -> KeyRecord {
    let expires = Timestamp::from_secs(record.created.secs() + 90 * 86_400);
    KeyRecord { expires, tenant: Some("acme".into()), ..record }
}

fn update(number: u16, last: Option<u64>, networks: &[&str]) -> KeyUpdate {
    KeyUpdate {
        id: made(number).id(),
        last: last.map(Timestamp::from_secs),
        networks: networks.iter().map(|text| Network::parse(text).unwrap()).collect(),
        notices: Vec::new(),
    }
}

async fn merged(redis: &Redis, updates: &[KeyUpdate]) -> Vec<(usize, String)> {
    redis.merge_key_uses(updates).await.unwrap()
}

#[tokio::test]
async fn redis_merges_uses_by_the_rule_of_one_process() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let mut seen = SeenNetworks::default();
    let many: Vec<String> = (0..100).map(|number| format!("10.0.{number}.0/24")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (step, networks) in [
        &["192.0.2.0/24"][..],
        &["192.0.2.0/24"],
        &["198.51.100.0/24", "192.0.2.0/24", "2001:db8:1::/48"],
        &["198.51.100.0/24"],
        &many,
        &["203.0.113.0/24"],
        &[],
    ]
    .into_iter()
    .enumerate()
    {
        let update = update(1, None, networks);
        let expected: Vec<(usize, String)> = seen
            .merge(&update, observe::now())
            .iter()
            .map(|network| (0, network.to_string()))
            .collect();
        let found = merged(&redis, std::slice::from_ref(&update)).await;
        assert_eq!(found, expected, "step {step}");
        assert_eq!(expected.is_empty(), ![2, 4].contains(&step), "step {step}");
    }
    let text: String =
        server.client().get(format!("{{tollgate}}:key-use:{}", made(1).id())).unwrap();
    let stored: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stored["networks"].as_object().unwrap().len(), MOST_NETWORKS);
}

#[tokio::test]
async fn the_newest_use_wins_and_a_notice_is_given_once() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let end = |seconds: u64| Timestamp::from_secs(seconds);
    let notice =
        |kind, ends| KeyUpdate { notices: vec![(kind, end(ends))], ..update(2, None, &[]) };
    let both = [update(1, Some(200), &[]), update(2, Some(300), &["192.0.2.0/24"])];
    assert_eq!(merged(&redis, &both).await, []);
    assert_eq!(merged(&redis, &[update(1, Some(100), &[])]).await, []);
    let ids = [made(1).id(), made(3).id(), made(2).id()];
    let uses = redis.last_uses(&ids).await.unwrap();
    assert_eq!(uses, [Some(end(200)), None, Some(end(300))]);
    for (update, expected) in [
        (notice("expiring", 900), vec![(0, "expiring".to_owned())]),
        (notice("expiring", 900), vec![]),
        (notice("expired", 900), vec![(0, "expired".to_owned())]),
        // A rotation gives the key another end.
        (notice("expiring", 1900), vec![(0, "expiring".to_owned())]),
    ] {
        assert_eq!(merged(&redis, &[update]).await, expected);
    }
    // A value of another program is replaced, and stops no other key.
    let mut client = server.client();
    let key = format!("{{tollgate}}:key-use:{}", made(1).id());
    for text in
        ["no JSON", "[1]", r#"{"last":"x","networks":7,"noticed":"y"}"#, r#"{"other":1e999}"#]
    {
        client.set::<_, _, ()>(&key, text).unwrap();
        assert_eq!(redis.last_uses(&ids[..1]).await.unwrap(), [None], "{text}");
        let updates = [update(1, Some(50), &["192.0.2.0/24"]), update(2, Some(400), &[])];
        assert_eq!(merged(&redis, &updates).await, [], "{text}");
        assert_eq!(redis.last_uses(&ids[..1]).await.unwrap(), [Some(end(50))], "{text}");
    }
    // A value that is no text.
    let _: () = client.del(&key).unwrap();
    let _: () = client.lpush(&key, "a").unwrap();
    assert_eq!(merged(&redis, &[update(1, Some(50), &["192.0.2.0/24"])]).await, []);
    assert_eq!(redis.last_uses(&ids[..1]).await.unwrap(), [Some(end(50))]);
    let life: i64 = client.ttl(&key).unwrap();
    assert!((399 * 86_400..=400 * 86_400).contains(&life), "{life}");
}

#[tokio::test]
async fn replicas_that_share_a_redis_report_a_new_network_once_also_after_a_restart() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let key = made(1);
    create(&redis, &lasting(record(&key))).await;
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    let store = format!("store: {{ redis: {{ url: '{}', deadline: 1s }} }}", server.unix());
    let engines = [engine(&a, &store, "redis: true"), engine(&b, &store, "redis: true")];
    let known = async |network: &'static str| {
        let mut client = server.client();
        let key = format!("{{tollgate}}:key-use:{}", made(1).id());
        until("the network is known", async || {
            client
                .get::<_, Option<String>>(&key)
                .unwrap()
                .is_some_and(|text| text.contains(network))
        })
        .await;
    };
    let before = observe::now().secs();
    used(&engines[0], key.expose(), "192.0.2.1").await;
    known("192.0.2.0").await;
    used(&engines[1], key.expose(), "192.0.2.200").await;
    used(&engines[1], key.expose(), "2001:db8:1::1").await;
    known("2001:db8:1::").await;
    used(&engines[0], key.expose(), "2001:db8:1:2::9").await;
    until("the event", async || events(&[&a, &b]).len() == 1).await;
    let event = &events(&[&a, &b])[0];
    for (name, expected) in [
        ("action", "new_network"),
        ("key_id", key.id().as_str()),
        ("sub", "ci"),
        ("tenant", "acme"),
        ("network", "2001:db8:1::/48"),
    ] {
        assert_eq!(event[name], expected, "{name}");
    }
    let last = redis.last_uses(&[key.id()]).await.unwrap()[0].unwrap();
    assert!((before..=observe::now().secs()).contains(&last.secs()), "{last:?}");

    // A replica that starts knows both networks; a third one is new.
    for engine in engines {
        engine.close().await;
    }
    let c = dir.path().join("c");
    let engine = engine(&c, &store, "redis: true");
    used(&engine, key.expose(), "192.0.2.7").await;
    used(&engine, key.expose(), "2001:db8:1::7").await;
    used(&engine, key.expose(), "198.51.100.7").await;
    until("the third network", async || !events(&[&c]).is_empty()).await;
    let networks: Vec<_> =
        events(&[&a, &b, &c]).iter().map(|line| line["network"].clone()).collect();
    assert_eq!(networks, ["2001:db8:1::/48", "198.51.100.0/24"]);

    // A revocation forgets the uses.
    assert_eq!(redis.remove_key(&key.id()).await, Ok(true));
    assert_eq!(redis.last_uses(&[key.id()]).await.unwrap(), [None]);
    engine.close().await;
}

#[tokio::test]
async fn without_redis_one_process_knows_the_networks_that_it_has_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, audit) = (dir.path().join("keys.yaml"), dir.path().join("audit"));
    let key = made(1);
    let stored = lasting(record(&key)).to_stored().unwrap();
    std::fs::write(&keys, format!("keys: [{stored}]")).unwrap();
    let engine = engine(&audit, "", &format!("file: '{}'", keys.display()));
    used(&engine, key.expose(), "192.0.2.1").await;
    // A request that is denied is a use of the key, too: the key was proven.
    let denied = decide_from(&engine, "/b", Some(key.expose()), "198.51.100.1".parse().ok()).await;
    assert_eq!(denied, "insufficient_scope");
    until("the event", async || actions(&events(&[&audit]), "new_network") == 1).await;
    let events = events(&[&audit]);
    assert_eq!((&events[0]["network"], events.len()), (&Value::from("198.51.100.0/24"), 1));
    let counted = || engine.observer().exposition(engine.status()).unwrap();
    assert!(counted().contains("tollgate_api_key_events_total{event=\"new_network\"} 1\n"));
    assert!(counted().contains("tollgate_api_keys{source=\"file\",state=\"usable\"} 1\n"));
    // Without a proof there is no use.
    let wrong = format!("{}x", key.expose());
    let denied = decide_from(&engine, "/a", Some(&wrong), "203.0.113.1".parse().ok()).await;
    assert_eq!(denied, "invalid_api_key");
    assert!(engine.observer().key_uses().collect().is_empty());
    engine.close().await;
}

#[tokio::test]
async fn the_end_of_a_key_is_reported_before_and_when_it_comes_once_for_all_replicas() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    // One that ends in an hour, and one that lasts.
    let key = made(1);
    let soon = record(&key);
    create(&redis, &soon).await;
    create(&redis, &lasting(record(&made(2)))).await;
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    let store = format!("store: {{ redis: {{ url: '{}', deadline: 1s }} }}", server.unix());
    let engines = [engine(&a, &store, "redis: true"), engine(&b, &store, "redis: true")];
    // The numbers of keys that are usable, expiring and expired.
    let counted = async |expected: [u64; 3]| {
        for engine in &engines {
            until("the keys are counted", async || {
                let text = engine.observer().exposition(engine.status()).unwrap();
                let states = ["usable", "expiring", "expired"].iter().zip(expected);
                let mut series = states.map(|(state, count)| {
                    format!("tollgate_api_keys{{source=\"redis\",state=\"{state}\"}} {count}\n")
                });
                series.all(|series| text.contains(&series))
            })
            .await;
        }
    };
    counted([2, 1, 0]).await;
    until("the warning", async || !events(&[&a, &b]).is_empty()).await;
    let warned = events(&[&a, &b]);
    assert_eq!((warned.len(), &warned[0]["action"]), (1, &"expiring".into()), "{warned:?}");
    assert_eq!(warned[0]["key_id"], key.id().as_str());
    assert_eq!(warned[0]["exp"], soon.expires.secs());

    // The key has ended a moment ago.
    let ended = KeyRecord {
        created: Timestamp::from_secs(soon.created.secs() - 60),
        current: KeySecret {
            issued: Timestamp::from_secs(soon.created.secs() - 60),
            ..soon.current.clone()
        },
        expires: soon.created,
        ..soon.clone()
    };
    let texts = [&ended, &soon].map(|record| record.to_stored().unwrap());
    let written = redis.write_key(&ended, &texts[0], Some(&texts[1])).await;
    assert_eq!(written, Ok(KeyWrite::Written));
    counted([1, 0, 1]).await;
    until("the end", async || actions(&events(&[&a, &b]), "expired") == 1).await;
    for engine in engines {
        engine.close().await;
    }
    let all = events(&[&a, &b]);
    let end = all.iter().find(|line| line["action"] == "expired").unwrap();
    assert_eq!((all.len(), &end["exp"]), (2, &ended.expires.secs().into()), "{all:?}");
}
