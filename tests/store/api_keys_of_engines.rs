//! API keys in Redis as clients see them: two engines that share one Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate::{config, engine::Engine, observe};
use tollgate_core::credential::api_key::KeyRecord;

use super::{
    api_keys::{create, made, record},
    redis_server,
    requests::until,
};
use crate::engine::decide;

const POLICY: &str = "
audit: { to: none }
store: { redis: { url: URL, deadline: 1s } }
api_keys: { redis: true, replicate: { max_staleness: 1s } }
limits: [{ name: l, by: [subject], rate: 100000/1s }]
routes:
- { match: { methods: [GET], paths: [/deny] }, scopes: [] }
- { match: { methods: [GET], paths: [/allow] }, scopes: [], on_outage: allow }
";

fn engine(url: &str) -> Engine {
    let text = POLICY.replace("URL", url);
    Engine::start(config::compile(&text, &|_| None).unwrap(), Arc::new(observe::now)).unwrap()
}

async fn ready(url: &str) -> Engine {
    let engine = engine(url);
    until("readiness", async || engine.readiness().missing().is_empty()).await;
    engine
}

#[tokio::test]
async fn a_revocation_is_effective_everywhere_within_a_second() {
    const KEYS: u16 = 200;
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    for number in 0..KEYS {
        create(&redis, &record(&made(number))).await;
    }
    let engines = [ready(&server.unix()).await, ready(&server.unix()).await];
    let mut times = Vec::new();
    for number in 0..KEYS {
        let key = made(number);
        for engine in &engines {
            until("the key is allowed", async || {
                decide(engine, "/deny", Some(key.expose())).await == "allow"
            })
            .await;
        }
        let began = Instant::now();
        assert_eq!(redis.remove_key(&key.id()).await, Ok(true));
        for engine in &engines {
            while decide(engine, "/deny", Some(key.expose())).await != "invalid_api_key" {
                assert!(began.elapsed() < Duration::from_secs(20), "still allowed");
                tokio::task::yield_now().await;
            }
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "revocation of a key on two replicas: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
    assert!(at(99) < Duration::from_millis(900), "p99 {:?}", at(99));
}

#[tokio::test]
async fn in_an_outage_known_keys_follow_on_outage_and_revoked_ones_stay_revoked() {
    let mut server = redis_server::start(&[]);
    let url = format!("redis://127.0.0.1:{}", server.port());
    let redis = redis_server::open(&server.unix());
    let (good, revoked) = (made(1), made(2));
    create(&redis, &record(&good)).await;
    create(&redis, &record(&revoked)).await;
    let engine = ready(&url).await;
    let allowed = async |key: &str, path| decide(&engine, path, Some(key)).await;
    until("both are allowed", async || {
        allowed(good.expose(), "/deny").await == "allow"
            && allowed(revoked.expose(), "/deny").await == "allow"
    })
    .await;
    redis.remove_key(&revoked.id()).await.unwrap();
    until("one is revoked", async || allowed(revoked.expose(), "/deny").await == "invalid_api_key")
        .await;
    server.kill();
    until("the outage is noticed", async || {
        allowed(good.expose(), "/deny").await == "store_unavailable"
    })
    .await;
    assert_eq!(allowed(good.expose(), "/allow").await, "allow");
    assert_eq!(allowed(revoked.expose(), "/allow").await, "invalid_api_key");
    assert_eq!(allowed(made(3).expose(), "/allow").await, "invalid_api_key");
}

#[tokio::test]
async fn a_copy_that_is_not_confirmed_is_an_outage_although_redis_answers_checks() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let key = made(1);
    create(&redis, &record(&key)).await;
    let engine = ready(&server.unix()).await;
    let allowed = async |path| decide(&engine, path, Some(key.expose())).await;
    until("it is allowed", async || allowed("/deny").await == "allow").await;
    // The changes cannot be read: Redis answers the copy with an error, and checks as before.
    let mut client = server.client();
    redis::pipe()
        .atomic()
        .cmd("DEL")
        .arg("{tollgate}:keys:changes")
        .cmd("SET")
        .arg("{tollgate}:keys:changes")
        .arg("no stream")
        .exec(&mut client)
        .unwrap();
    until("the copy is stale", async || allowed("/deny").await == "store_unavailable").await;
    assert_eq!(allowed("/allow").await, "allow");
    redis::cmd("DEL").arg("{tollgate}:keys:changes").exec(&mut client).unwrap();
    until("the copy is confirmed", async || allowed("/deny").await == "allow").await;
}

#[tokio::test]
async fn keys_of_redis_are_not_known_before_they_are_read_and_the_file_wins() {
    let mut server = redis_server::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let (file_key, redis_key) = (made(1), made(2));
    let in_file = record(&file_key);
    let path = directory.path().join("keys.yaml");
    std::fs::write(&path, format!("keys: [{}]", in_file.to_stored().unwrap())).unwrap();
    let redis = redis_server::open(&server.unix());
    // The same id with another secret is in Redis: it is not used.
    let other = KeyRecord { current: record(&made(3)).current, ..in_file };
    create(&redis, &other).await;
    create(&redis, &record(&redis_key)).await;
    let keys = format!("api_keys: {{ file: '{}', redis: true }}", path.display());
    let text = POLICY
        .replace("URL", &format!("redis://127.0.0.1:{}", server.port()))
        .replace("api_keys: { redis: true, replicate: { max_staleness: 1s } }", &keys);
    let start = || {
        let loaded = config::compile(&text, &|_| None).unwrap();
        Engine::start(loaded, Arc::new(observe::now)).unwrap()
    };
    let engine = start();
    until("the key of Redis is allowed", async || {
        decide(&engine, "/deny", Some(redis_key.expose())).await == "allow"
    })
    .await;
    assert_eq!(decide(&engine, "/deny", Some(file_key.expose())).await, "allow");
    let status = engine.status().api_keys.unwrap();
    assert_eq!((status.replica.keys, status.misfits), (2, 0));
    server.kill();
    let late = start();
    let missing = late.readiness().missing();
    for what in ["the API keys in Redis are not read yet", "the bans in Redis are not read yet"] {
        assert!(missing.iter().any(|phrase| phrase == what), "{missing:?}");
    }
    until("the first attempt to read has ended", async || late.readiness().missing().is_empty())
        .await;
    assert_eq!(late.readiness().unusable(), ["the API keys in Redis cannot be used"]);
    assert_eq!(decide(&late, "/allow", Some(redis_key.expose())).await, "not_ready");
    assert_eq!(decide(&late, "/allow", Some(file_key.expose())).await, "allow");
}

#[tokio::test]
async fn a_reload_adds_and_removes_the_keys_of_redis() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let (one, two) = (made(1), made(2));
    create(&redis, &record(&one)).await;
    let with = POLICY.replace("URL", &server.unix());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    std::fs::write(&path, "keys: []").unwrap();
    let file = format!("api_keys: {{ file: '{}' }}", path.display());
    let without =
        with.replace("api_keys: { redis: true, replicate: { max_staleness: 1s } }", &file);
    let load = |text: &str| config::compile(text, &|_| None).unwrap();
    let engine = Engine::start(load(&without), Arc::new(observe::now)).unwrap();
    let answer = async |key: &str| decide(&engine, "/deny", Some(key)).await;
    assert_eq!(answer(one.expose()).await, "invalid_api_key");
    for _ in 0..2 {
        engine.reload(load(&with)).await.unwrap();
        until("the keys of Redis are there", async || answer(one.expose()).await == "allow").await;
        create(&redis, &record(&two)).await;
        until("the copy is followed", async || answer(two.expose()).await == "allow").await;
        redis.remove_key(&two.id()).await.unwrap();
        until("the copy is followed", async || answer(two.expose()).await == "invalid_api_key")
            .await;
        // Another policy with the same source keeps the copy, and goes on following it.
        let changed = with.replace("100000/1s", "200000/1s");
        engine.reload(load(&changed)).await.unwrap();
        assert_eq!(answer(one.expose()).await, "allow");
        create(&redis, &record(&two)).await;
        until("the copy is followed", async || answer(two.expose()).await == "allow").await;
        redis.remove_key(&two.id()).await.unwrap();
        engine.reload(load(&without)).await.unwrap();
        assert_eq!(answer(one.expose()).await, "invalid_api_key");
        assert!(engine.status().api_keys.is_none());
    }
}
