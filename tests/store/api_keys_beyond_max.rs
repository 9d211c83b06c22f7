//! API keys beyond `replicate.max`: their records are looked up when they are used.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::join_all};
use redis::Commands as _;
use tokio_util::sync::CancellationToken;
use tollgate::{
    config,
    engine::{
        Engine,
        check::{Answer, CheckAnswer, LargeRequest},
    },
    observe,
    store::{self, KeyLookupError, KeyReplica, KeyReplicaStatus, KeyWrite, Redis, StoreConfig},
};
use tollgate_core::{
    credential::api_key::{GeneratedKey, KeyDigest, KeyRecord, KeySecret, ReplicateKeysConfig},
    denial::Denial,
    request::{Headers, RawBody, RawRequest},
    time::{Span, Timestamp},
};

use super::{
    api_keys::{create, made, record},
    redis_server::{self, section},
    requests::until,
};
use crate::engine::{decide, decide_from};

const POLICY: &str = "
audit: { to: none }
store: { redis: { url: URL, deadline: 1s } }
api_keys: { redis: true, replicate: { max: 2, max_staleness: 1s } }
limits: [{ name: l, by: [subject], rate: 100000/1s }]
routes:
- { match: { methods: [GET], paths: [/deny] }, scopes: [] }
- { match: { methods: [GET], paths: [/allow] }, scopes: [], on_outage: allow }
- { match: { methods: [POST], paths: [/body] }, scopes: [], model: { from: body } }
";

/// The record of the key of a number; those with lower numbers are older, and copied first.
fn aged(number: u16) -> KeyRecord {
    let base = record(&made(number));
    let created = Timestamp::from_secs(base.created.secs() - 1000 + u64::from(number));
    let current = KeySecret { issued: created, ..base.current.clone() };
    KeyRecord { created, current, ..base }
}

async fn ready(text: &str) -> Engine {
    let loaded = config::compile(text, &|_| None).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    until("readiness", async || engine.readiness().missing().is_empty()).await;
    engine
}

/// An engine that copies two of the keys 0 to `keys`.
async fn engine_with(redis: &Redis, url: &str, keys: u16) -> Engine {
    for number in 0..keys {
        create(redis, &aged(number)).await;
    }
    let engine = ready(&POLICY.replace("URL", url)).await;
    let uncopied = usize::from(keys) - 2;
    until("the copy", async || {
        let status = status(&engine);
        (status.keys, status.cached, status.uncopied) == (2, 0, uncopied)
    })
    .await;
    until("the copy is in force", async || answer(&engine, &made(0)).await == "allow").await;
    let named = format!(
        "{uncopied} API keys in Redis are not copied (`api_keys.replicate.max` is 2): each is looked up when it is used"
    );
    assert_eq!(engine.readiness().unusable(), Vec::from_iter((uncopied > 0).then_some(named)));
    engine
}

fn status(engine: &Engine) -> KeyReplicaStatus {
    engine.status().api_keys.unwrap().replica
}

fn lookups(engine: &Engine, result: &str) -> u64 {
    let lookups = status(engine).lookups;
    lookups.iter().find(|(label, _)| *label == result).unwrap().1
}

async fn answer(engine: &Engine, key: &GeneratedKey) -> String {
    decide(engine, "/deny", Some(key.expose())).await
}

#[tokio::test]
async fn a_record_is_looked_up_once_however_many_forged_keys_have_its_id() {
    const KEYS: u16 = 42;
    const FORGED: u32 = 10_000;
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let engine = engine_with(&redis, &server.unix(), KEYS).await;
    // Keys with a right checksum: half of them have the id of a record, and each is from a network
    // of its own.
    let forged = |number: u32| {
        let id = match number % 2 {
            0 => made(u16::try_from(number / 2 % u32::from(KEYS)).unwrap()).id(),
            _ => made(u16::try_from(1000 + number).unwrap()).id(),
        };
        (GeneratedKey::with_id(id, &[1; 32]), Ipv4Addr::from_bits(number << 8))
    };
    for first in (0..FORGED).step_by(100) {
        let forged: Vec<_> = (first..first + 100).map(forged).collect();
        let flood = forged.iter().map(|(key, address)| {
            decide_from(&engine, "/allow", Some(key.expose()), Some(IpAddr::V4(*address)))
        });
        let real = made(2 + u16::try_from(first / 100).unwrap() % (KEYS - 2));
        let (answers, real) = tokio::join!(join_all(flood), answer(&engine, &real));
        assert_eq!(real, "allow");
        assert!(answers.iter().all(|answer| answer == "invalid_api_key"), "{answers:?}");
    }
    let expected = u64::from(KEYS) - 2;
    assert_eq!(lookups(&engine, "found"), expected);
    for result in ["missing", "failed", "no_budget", "full"] {
        assert_eq!(lookups(&engine, result), 0, "{result}");
    }
    let status = status(&engine);
    assert_eq!((status.keys, status.cached as u64, status.uncopied), (2, expected, 0));
}

#[tokio::test]
async fn a_change_of_a_record_that_was_looked_up_applies() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let engine = engine_with(&redis, &server.unix(), 6).await;
    let (used, unused) = (made(3), made(4));
    assert_eq!(answer(&engine, &used).await, "allow");
    assert_eq!((status(&engine).cached, status(&engine).uncopied), (1, 3));
    for key in [&used, &unused] {
        redis.remove_key(&key.id()).await.unwrap();
        until("the key is revoked", async || answer(&engine, key).await == "invalid_api_key").await;
    }
    assert_eq!((status(&engine).cached, status(&engine).uncopied), (0, 2));
    assert_eq!(lookups(&engine, "found"), 1);
    // A rotation, with grace and without.
    let (rotated, next) = (made(5), GeneratedKey::with_id(made(5).id(), &[3; 32]));
    assert_eq!(answer(&engine, &rotated).await, "allow");
    let mut text = redis.key(&rotated.id()).await.unwrap().unwrap();
    let before = KeyRecord::from_stored(rotated.id(), &text).unwrap();
    let now = Timestamp::from_secs(observe::now().secs());
    let with_grace = before.clone().rotated(next.digest(), now, before.expires, before.expires);
    let without = KeyRecord { previous: None, ..with_grace.clone() };
    for (record, old) in [(with_grace, "allow"), (without, "invalid_api_key")] {
        let changed = record.to_stored().unwrap();
        let written = redis.write_key(&record, &changed, Some(&text)).await;
        assert_eq!(written, Ok(KeyWrite::Written));
        text = changed;
        until("the rotation", async || {
            answer(&engine, &next).await == "allow" && answer(&engine, &rotated).await == old
        })
        .await;
    }
    // A record that Redis has lost is looked up once.
    let missing = lookups(&engine, "missing");
    let mut client = server.client();
    let _: () = client.del(format!("{{tollgate}}:key:{}", made(2).id())).unwrap();
    assert_eq!(answer(&engine, &made(2)).await, "invalid_api_key");
    assert_eq!(answer(&engine, &made(2)).await, "invalid_api_key");
    assert_eq!((lookups(&engine, "found"), lookups(&engine, "missing")), (2, missing + 1));
}

#[tokio::test]
async fn a_revocation_of_a_looked_up_key_is_effective_within_a_second() {
    const KEYS: u16 = 102;
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let one = engine_with(&redis, &server.unix(), KEYS).await;
    let engines = [one, ready(&POLICY.replace("URL", &server.unix())).await];
    let mut times = Vec::new();
    for number in 2..KEYS {
        let key = made(number);
        for engine in &engines {
            until("the key is allowed", async || answer(engine, &key).await == "allow").await;
        }
        let began = Instant::now();
        assert_eq!(redis.remove_key(&key.id()).await, Ok(true));
        for engine in &engines {
            while answer(engine, &key).await != "invalid_api_key" {
                assert!(began.elapsed() < Duration::from_secs(20), "still allowed");
                tokio::task::yield_now().await;
            }
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let p99 = times[(times.len() - 1) * 99 / 100];
    println!("revocation of a key that was looked up, on two replicas: p99 {p99:?}");
    assert!(p99 < Duration::from_millis(900), "p99 {p99:?}");
}

#[tokio::test]
async fn without_redis_only_known_records_follow_on_outage() {
    let mut server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let url = format!("redis://127.0.0.1:{}", server.port());
    let engine = engine_with(&redis, &url, 5).await;
    assert_eq!(answer(&engine, &made(3)).await, "allow");
    server.kill();
    until("the outage is noticed", async || answer(&engine, &made(0)).await == "store_unavailable")
        .await;
    let on_allow = async |number| decide(&engine, "/allow", Some(made(number).expose())).await;
    // Copied, looked up, neither, and unknown.
    for (number, expected) in
        [(0, "allow"), (3, "allow"), (4, "store_unavailable"), (9, "invalid_api_key")]
    {
        until("the answer in an outage", async || on_allow(number).await == expected).await;
    }
    assert!(lookups(&engine, "failed") > 0);
}

#[tokio::test]
async fn a_reload_changes_how_many_are_copied() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let engine = engine_with(&redis, &server.unix(), 5).await;
    let text = POLICY.replace("URL", &server.unix());
    for (max, copied) in [(1, 1), (4, 4), (9, 5), (2, 2)] {
        let other = text.replace("max: 2,", &format!("max: {max},"));
        engine.reload(config::compile(&other, &|_| None).unwrap()).await.unwrap();
        until("the copy has another size", async || {
            let status = status(&engine);
            (status.keys, status.cached, status.uncopied) == (copied, 0, 5 - copied)
        })
        .await;
        for number in 0..5 {
            assert_eq!(answer(&engine, &made(number)).await, "allow", "{number} of {max}");
        }
    }
}

/// The record of an imported key.
fn imported(number: u16, text: &str) -> KeyRecord {
    let base = aged(number);
    let digest = KeyDigest::of(text.as_bytes());
    KeyRecord { current: KeySecret { digest, weak: true, ..base.current.clone() }, ..base }
}

#[tokio::test]
async fn an_imported_key_is_looked_up_by_its_digest() {
    let options = format!("--user tollgate on >s3cret {}", store::ACL_RULE);
    for (options, expected) in [
        (options.clone(), "allow"),
        // Without the permission to read digests, they are not known.
        (options.replace("+hscan ", ""), "invalid_api_key"),
    ] {
        let server = redis_server::start(&options.split_whitespace().collect::<Vec<_>>());
        let redis = redis_server::open(&server.unix());
        create(&redis, &imported(4, "sk-one")).await;
        let url = format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port());
        for number in 0..4 {
            create(&redis, &aged(number)).await;
        }
        let engine = ready(&POLICY.replace("URL", &url)).await;
        let of = async |key: &str| decide(&engine, "/deny", Some(key)).await;
        until("the imported key", async || of("sk-one").await == expected).await;
        assert_eq!(of("sk-unknown").await, "invalid_api_key");
        // One that is created while the copy is followed.
        create(&redis, &imported(5, "sk-two")).await;
        until("the new key", async || of("sk-two").await == "allow").await;
        redis.remove_key(&made(5).id()).await.unwrap();
        until("it is revoked", async || of("sk-two").await == "invalid_api_key").await;
    }
}

struct Copy {
    replica: Arc<KeyReplica>,
    _opened: store::Opened,
}

/// A copy of one key.
async fn copy_of_one(url: &str) -> Copy {
    let opened = store::open(&StoreConfig::Redis(Box::new(section(url))), CancellationToken::new());
    let opened = opened.unwrap();
    let bounds = ReplicateKeysConfig { max: 1, max_staleness: Span::from_secs(1) };
    let hour = Duration::from_secs(3600);
    let replica = opened.copy_keys(bounds, hour, CancellationToken::new()).unwrap();
    until("the copy", async || replica.status().keys == 1).await;
    Copy { replica, _opened: opened }
}

#[tokio::test]
async fn a_network_has_a_budget_for_lookups() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    for number in 0..3 {
        create(&redis, &aged(number)).await;
    }
    let Copy { replica, _opened } = copy_of_one(&server.unix()).await;
    server.freeze();
    let id = made(1).id();
    let look_up = |client: [u8; 4]| replica.look_up(id, Some(client.into())).now_or_never();
    let began = Instant::now();
    while look_up([192, 0, 2, 1]) != Some(Err(KeyLookupError::NoBudget)) {
        assert!(began.elapsed() < Duration::from_secs(20), "it has a budget without end");
    }
    // Another network has its own.
    assert_eq!(look_up([198, 51, 100, 1]), None);
    server.thaw();
    assert_eq!(replica.look_up(made(2).id(), None).await, Ok(()));
    let lookups = replica.status().lookups;
    assert!(lookups.iter().any(|(result, number)| *result == "no_budget" && *number > 0));
}

/// A request with a large body.
struct Large(String);

impl LargeRequest for Large {
    fn read(&self) -> Result<RawRequest<'_>, Denial> {
        let mut headers = Headers::default();
        headers.push("x-api-key", self.0.as_bytes());
        headers.push("content-type", b"application/json");
        Ok(RawRequest {
            method: b"POST",
            scheme: b"https",
            host: b"api.example.com",
            path: b"/body",
            headers,
            address: None,
            peer_certificate: b"",
            body: RawBody::Whole(br#"{"model":"m"}"#),
        })
    }
}

#[tokio::test]
async fn a_key_of_a_request_with_a_body_is_looked_up_too() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let engine = engine_with(&redis, &server.unix(), 4).await;
    let encode = |checked: CheckAnswer<'_>| match checked.answer {
        Answer::Allow(_) => "allow".to_owned(),
        Answer::Deny(_) | Answer::Fail(_) => {
            let mut metadata = checked.metadata.iter();
            metadata.find(|(name, _)| *name == "reason").unwrap().1.to_owned()
        }
    };
    let checker = engine.checker();
    let head = |key: &GeneratedKey| {
        let request = Large(key.expose().to_owned());
        let head = || request.read();
        checker.check_head(None, head, encode, |_| "pass".to_owned())
    };
    let large = async |key: &GeneratedKey| {
        checker.check_large(None, &Arc::new(Large(key.expose().to_owned())), encode).await
    };
    // The head of a request looks up nothing: the request comes again with its body.
    assert_eq!(head(&made(3)), "pass");
    assert_eq!(head(&made(9)), "invalid_api_key");
    assert_eq!(status(&engine).cached, 0);
    assert_eq!(large(&GeneratedKey::with_id(made(2).id(), &[1; 32])).await, "invalid_api_key");
    assert_eq!(large(&made(3)).await, "allow");
    assert_eq!((status(&engine).cached, status(&engine).uncopied), (2, 0));
}
