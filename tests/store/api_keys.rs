//! API keys in Redis: their records are written by comparison, and copied by every replica.

use std::{sync::Arc, time::Duration};

use redis::Commands as _;
use tokio_util::sync::CancellationToken;
use tollgate::store::{self, ACL_RULE, KeyReplica, KeyWrite, Opened, Redis, StoreConfig};
use tollgate_core::{
    admission::Outage,
    credential::api_key::{GeneratedKey, KeyDigest, KeyRecord, KeySecret, ReplicateKeysConfig},
    identity::{Holder, KeyId},
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, Server, section},
    requests::until,
};

const CHANGES: &str = "{tollgate}:keys:changes";
const HOUR: Duration = Duration::from_secs(3600);

/// The key of a number: its id and its secret are made of it.
pub(super) fn made(number: u16) -> GeneratedKey {
    let (mut id, mut secret) = ([7; 16], [9; 32]);
    id[..2].copy_from_slice(&number.to_be_bytes());
    secret[..2].copy_from_slice(&number.to_be_bytes());
    GeneratedKey::new(&id, &secret)
}

/// A record of a key that was created now and ends in an hour.
pub(super) fn record(key: &GeneratedKey) -> KeyRecord {
    let created = Timestamp::from_secs(tollgate::observe::now().secs());
    KeyRecord {
        id: key.id(),
        current: KeySecret { digest: key.digest(), issued: created, weak: false },
        previous: None,
        subject: "ci".into(),
        holder: Holder::Client,
        tenant: None,
        owner: None,
        scopes: Box::default(),
        models: None,
        tier: None,
        limits: Box::default(),
        networks: None,
        labels: std::collections::BTreeMap::default(),
        created,
        expires: Timestamp::from_secs(created.secs() + 3600),
    }
}

/// Creates the record of a key.
pub(super) async fn create(redis: &Redis, record: &KeyRecord) {
    let text = record.to_stored().unwrap();
    assert_eq!(redis.write_key(record, &text, None).await, Ok(KeyWrite::Written));
}

struct Copy {
    replica: Arc<KeyReplica>,
    _opened: Opened,
}

fn copy_of(url: &str, max: usize, max_stale: Duration) -> Copy {
    let config = StoreConfig::Redis(Box::new(section(url)));
    let opened = store::open(&config, CancellationToken::new()).unwrap();
    let bounds = ReplicateKeysConfig { max, max_staleness: Span::from_secs(1) };
    let replica = opened.copy_keys(bounds, max_stale, CancellationToken::new()).unwrap();
    Copy { replica, _opened: opened }
}

impl Copy {
    fn has(&self, id: &KeyId) -> bool {
        self.replica.table().is_some_and(|table| table.get(id).is_some())
    }

    /// The records that are copied, the broken ones, and those of which only the ids are known.
    fn counts(&self) -> (usize, usize, usize) {
        let status = self.replica.status();
        (status.keys, status.broken, status.uncopied)
    }

    async fn until_counts(&self, expected: (usize, usize, usize)) {
        until("the counts of the copy", async || self.counts() == expected).await;
    }
}

#[tokio::test]
async fn a_record_is_written_only_over_the_one_that_was_read() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let (key, next) = (made(1), made(2));
    let first = record(&key);
    let text = first.to_stored().unwrap();
    assert_eq!(redis.key(&key.id()).await, Ok(None));
    create(&redis, &first).await;
    assert_eq!(redis.write_key(&first, &text, None).await, Ok(KeyWrite::Exists));
    assert_eq!(redis.key(&key.id()).await, Ok(Some(text.clone())));
    let rotated = first.clone().rotated(next.digest(), first.created, first.expires, first.expires);
    let other = rotated.to_stored().unwrap();
    assert_eq!(redis.write_key(&rotated, &other, Some("{}")).await, Ok(KeyWrite::Changed));
    assert_eq!(redis.write_key(&rotated, &other, Some(&text)).await, Ok(KeyWrite::Written));
    assert_eq!(redis.write_key(&rotated, &other, Some(&text)).await, Ok(KeyWrite::Changed));
    let page = redis.list_keys(None, 10).await.unwrap();
    assert_eq!((page.total, page.keys.len()), (1, 1));
    assert_eq!(page.keys[0].text, Some(other.clone()));
    assert_eq!(redis.remove_key(&key.id()).await, Ok(true));
    assert_eq!(redis.remove_key(&key.id()).await, Ok(false));
    // A change that was prepared before the revocation does not bring the key back.
    assert_eq!(redis.write_key(&first, &text, Some(&other)).await, Ok(KeyWrite::Changed));
    assert_eq!(redis.list_keys(None, 10).await.unwrap().total, 0);
}

#[tokio::test]
async fn redis_has_digests_and_no_key() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let key = made(1);
    create(&redis, &record(&key)).await;
    let mut client = server.client();
    let names: Vec<String> = client.keys("*").unwrap();
    assert!(names.contains(&format!("{{tollgate}}:key:{}", key.id())), "{names:?}");
    let secret = &key.expose()[17..];
    for name in &names {
        assert!(!name.contains(secret));
        let dump: Vec<u8> = redis::cmd("DUMP").arg(name).query(&mut client).unwrap();
        assert!(!dump.windows(secret.len()).any(|part| part == secret.as_bytes()), "{name}");
    }
    let marker: String = client.get("{tollgate}:format").unwrap();
    assert_eq!(marker, "1");
}

#[tokio::test]
async fn a_foreign_key_has_one_id() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let digest = KeyDigest::of(b"sk-litellm-1");
    let weak = |number| {
        let base = record(&made(number));
        let current = KeySecret { digest, weak: true, ..base.current.clone() };
        KeyRecord { current, ..base }
    };
    let (one, two) = (weak(1), weak(2));
    create(&redis, &one).await;
    let text = two.to_stored().unwrap();
    let same = Ok(KeyWrite::SameDigest(Some(one.id)));
    assert_eq!(redis.write_key(&two, &text, None).await, same);
    redis.remove_key(&one.id).await.unwrap();
    create(&redis, &two).await;
    assert_eq!(redis.write_key(&one, &one.to_stored().unwrap(), None).await, {
        Ok(KeyWrite::SameDigest(Some(two.id)))
    });
    // The digest of a rotated key stays taken while its secret has grace, and is free after it.
    let rotated = two.clone().rotated(made(3).digest(), two.created, two.expires, two.expires);
    let rotated_text = rotated.to_stored().unwrap();
    redis.write_key(&rotated, &rotated_text, Some(&text)).await.unwrap();
    let one_text = one.to_stored().unwrap();
    assert!(matches!(
        redis.write_key(&one, &one_text, None).await,
        Ok(KeyWrite::SameDigest(Some(_)))
    ));
    let alone = KeyRecord { previous: None, ..rotated };
    let alone_text = alone.to_stored().unwrap();
    redis.write_key(&alone, &alone_text, Some(&rotated_text)).await.unwrap();
    create(&redis, &one).await;
    // A record that was deleted by other means keeps no digest.
    let _: () = server.client().del(format!("{{tollgate}}:key:{}", one.id)).unwrap();
    let three = KeyRecord { id: made(4).id(), ..one };
    create(&redis, &three).await;
}

#[tokio::test]
async fn a_copy_reads_all_keys_and_then_each_change() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    for number in 0..1100 {
        create(&redis, &record(&made(number))).await;
    }
    let copy = copy_of(&server.unix(), 10_000, HOUR);
    copy.until_counts((1100, 0, 0)).await;
    create(&redis, &record(&made(2000))).await;
    until("a new key", async || copy.has(&made(2000).id())).await;
    let changed = KeyRecord { subject: "cd".into(), ..record(&made(5)) };
    let before = redis.key(&changed.id).await.unwrap().unwrap();
    let text = changed.to_stored().unwrap();
    assert_eq!(redis.write_key(&changed, &text, Some(&before)).await, Ok(KeyWrite::Written));
    until("a changed key", async || {
        copy.replica.table().unwrap().get(&changed.id).unwrap().subject == changed.subject
    })
    .await;
    redis.remove_key(&changed.id).await.unwrap();
    until("a revoked key", async || !copy.has(&changed.id)).await;
    assert_eq!(copy.counts(), (1100, 0, 0));
}

#[tokio::test]
async fn changes_that_were_trimmed_are_read_with_all_others() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let (one, two) = (made(1), made(2));
    create(&redis, &record(&one)).await;
    let copy = copy_of(&server.unix(), 10, HOUR);
    copy.until_counts((1, 0, 0)).await;
    // In one step: all connections end, one key is replaced by another, and the stream has lost it.
    let mut step = redis::pipe();
    step.atomic().cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
    step.del(format!("{{tollgate}}:key:{}", one.id()));
    step.zrem("{tollgate}:keys", one.id().as_str());
    step.set(format!("{{tollgate}}:key:{}", two.id()), record(&two).to_stored().unwrap());
    step.zadd("{tollgate}:keys", two.id().as_str(), 1);
    step.del(CHANGES).cmd("XADD").arg(CHANGES).arg("*").arg(&["+", "another"]);
    step.exec(&mut server.client()).unwrap();
    until("the copy is read again", async || copy.has(&two.id()) && !copy.has(&one.id())).await;
}

#[tokio::test]
async fn what_is_no_record_is_removed_too() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let (value, listed) = (made(1).id(), made(2).id());
    let mut client = server.client();
    let _: () = client.lpush(format!("{{tollgate}}:key:{value}"), "a").unwrap();
    for id in [value, listed] {
        let _: () = client.zadd("{tollgate}:keys", id.as_str(), 1).unwrap();
        assert_eq!(redis.remove_key(&id).await, Ok(true), "{id}");
        assert_eq!(redis.remove_key(&id).await, Ok(false), "{id}");
    }
    assert_eq!(redis.list_keys(None, 10).await.unwrap().total, 0);
}

#[tokio::test]
async fn broken_records_stop_no_other() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let good = made(1);
    create(&redis, &record(&good)).await;
    let mut client = server.client();
    let newer = record(&made(3)).to_stored().unwrap().replace("\"subject\"", "\"x\":1,\"subject\"");
    let texts: [(KeyId, &[u8]); 4] = [
        (made(2).id(), b"{"),
        (made(3).id(), newer.as_bytes()),
        (made(4).id(), b"\xff\x00"),
        (made(5).id(), record(&made(6)).to_stored().unwrap().leak().as_bytes()),
    ];
    for (id, text) in texts {
        let _: () = client.set(format!("{{tollgate}}:key:{id}"), text).unwrap();
        let _: () = client.zadd("{tollgate}:keys", id.as_str(), 1).unwrap();
    }
    // A value that is no text, an id without a record, and an id that is none.
    let _: () = client.rpush(format!("{{tollgate}}:key:{}", made(7).id()), 1).unwrap();
    for id in [made(7).id().as_str(), made(8).id().as_str(), "\u{1b}[31m", ""] {
        let _: () = client.zadd("{tollgate}:keys", id, 1).unwrap();
    }
    let copy = copy_of(&server.unix(), 100, HOUR);
    copy.until_counts((1, 4, 0)).await;
    assert!(copy.has(&good.id()));
    // The list shows them, and each can be revoked.
    let page = redis.list_keys(None, 100).await.unwrap();
    assert_eq!((page.total, page.keys.iter().filter(|key| key.text.is_some()).count()), (9, 5));
    for number in [2, 3, 4, 5] {
        assert_eq!(redis.remove_key(&made(number).id()).await, Ok(true));
    }
    copy.until_counts((1, 0, 0)).await;
    // A record that breaks is refused from then on.
    let _: () = client.set(format!("{{tollgate}}:key:{}", good.id()), "[]").unwrap();
    let _: String = redis::cmd("XADD")
        .arg(CHANGES)
        .arg("*")
        .arg("+")
        .arg(good.id().as_str())
        .query(&mut client)
        .unwrap();
    copy.until_counts((0, 1, 0)).await;
}

#[tokio::test]
async fn of_too_many_keys_the_oldest_are_copied() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let aged = |number: u16| {
        let base = record(&made(number));
        let created = Timestamp::from_secs(base.created.secs() - 1000 + u64::from(number));
        KeyRecord { created, ..base }
    };
    for number in [3, 1, 4, 2] {
        create(&redis, &aged(number)).await;
    }
    let copy = copy_of(&server.unix(), 2, HOUR);
    copy.until_counts((2, 0, 2)).await;
    assert!(copy.has(&made(1).id()) && copy.has(&made(2).id()));
    // There is room for one of the others.
    redis.remove_key(&made(1).id()).await.unwrap();
    copy.until_counts((2, 0, 1)).await;
    assert!(!copy.has(&made(1).id()) && copy.has(&made(3).id()) != copy.has(&made(4).id()));
    let bounds = ReplicateKeysConfig { max: 9, max_staleness: Span::from_secs(1) };
    copy.replica.set_bounds(bounds);
    copy.until_counts((3, 0, 0)).await;
}

#[tokio::test]
async fn too_many_keys_of_which_the_oldest_are_broken_are_confirmed() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let mut client = server.client();
    for number in [1, 2] {
        let id = made(number).id();
        let _: () = client.set(format!("{{tollgate}}:key:{id}"), "{").unwrap();
        let _: () = client.zadd("{tollgate}:keys", id.as_str(), 1).unwrap();
    }
    for number in [3, 4] {
        create(&redis, &record(&made(number))).await;
    }
    let copy = copy_of(&server.unix(), 3, HOUR);
    copy.until_counts((2, 2, 0)).await;
    until("it is confirmed", async || !copy.replica.is_stale(Duration::from_secs(1))).await;
}

#[tokio::test]
async fn a_copy_ages_while_redis_is_gone_and_forgets_what_redis_lost() {
    let mut server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    create(&redis, &record(&made(1))).await;
    let url = format!("redis://127.0.0.1:{}", server.port());
    let (copy, brief) = (copy_of(&url, 10, HOUR), copy_of(&url, 10, Duration::from_secs(2)));
    let bound = Duration::from_secs(1);
    until("the copies are confirmed", async || {
        [&copy, &brief].iter().all(|copy| copy.has(&made(1).id()) && !copy.replica.is_stale(bound))
    })
    .await;
    server.kill();
    until("the copy is stale", async || copy.replica.is_stale(bound)).await;
    until("a copy beyond its last age is empty", async || brief.replica.table().is_none()).await;
    assert!(copy.has(&made(1).id()), "a copy is used until its last age");
    server.restart();
    until("both are as empty as Redis", async || {
        [&copy, &brief].iter().all(|copy| {
            copy.counts() == (0, 0, 0)
                && copy.replica.table().is_some()
                && !copy.replica.is_stale(bound)
        })
    })
    .await;
}

#[tokio::test]
async fn every_call_refuses_a_newer_format() {
    let server = redis_server::start(&[]);
    let redis = redis_server::open(&server.unix());
    let first = record(&made(1));
    create(&redis, &first).await;
    let copy = copy_of(&server.unix(), 10, HOUR);
    copy.until_counts((1, 0, 0)).await;
    let _: () = server.client().set("{tollgate}:format", "2").unwrap();
    let text = first.to_stored().unwrap();
    assert_eq!(redis.write_key(&first, &text, None).await, Err(Outage::Refused));
    assert_eq!(redis.remove_key(&first.id).await, Err(Outage::Refused));
    assert_eq!(redis.key(&first.id).await, Err(Outage::Refused));
    assert!(redis.list_keys(None, 10).await.is_err());
    until("the copy is not confirmed", async || copy.replica.is_stale(Duration::from_secs(1)))
        .await;
    let _: () = server.client().set("{tollgate}:format", "1").unwrap();
    until("it is confirmed", async || !copy.replica.is_stale(Duration::from_secs(1))).await;
}

/// A URL of a server whose user has these permissions.
fn user(server: &Server) -> String {
    format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port())
}

#[tokio::test]
async fn the_documented_permissions_are_enough_and_without_xread_changes_are_polled() {
    for rule in [ACL_RULE.to_owned(), ACL_RULE.replace("+xread ", "")] {
        let options = format!("--user tollgate on >s3cret {rule}");
        let server = redis_server::start(&options.split_whitespace().collect::<Vec<_>>());
        let redis = redis_server::open(&user(&server));
        create(&redis, &record(&made(1))).await;
        let copy = copy_of(&user(&server), 10, HOUR);
        copy.until_counts((1, 0, 0)).await;
        create(&redis, &record(&made(2))).await;
        copy.until_counts((2, 0, 0)).await;
        assert_eq!(redis.list_keys(None, 10).await.unwrap().total, 2);
        assert_eq!(redis.remove_key(&made(1).id()).await, Ok(true));
        copy.until_counts((1, 0, 0)).await;
    }
}
