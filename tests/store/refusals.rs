//! A Redis that answers with errors: read-only, out of memory, wrong login, not a Redis.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tollgate::store::{Redis, RedisConfig, Store};
use tollgate_core::{
    admission::Outage,
    limit::Charge,
    secret::{Secret, SecretSource},
};

use super::{
    redis_server::{self, section},
    requests::{NOW, about, charge, charging, principal, until, verdicts},
};

fn limit() -> [Charge; 1] {
    [charge("k", 3_600_000, 1_000)]
}

async fn outage(store: &Redis) -> Option<Outage> {
    store.admit(&charging(&limit())).await.err()
}

/// Waits for an answer.
async fn back(store: &Redis) {
    until("Redis answers", async || outage(store).await.is_none()).await;
}

#[tokio::test]
async fn scripts_are_sent_again_to_a_server_that_lost_them() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    assert_eq!(verdicts(&store, &limit()).await[0].remaining, 999);
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.client()).unwrap();
    assert_eq!(verdicts(&store, &limit()).await[0].remaining, 998, "charged once");
    assert_eq!(verdicts(&store, &limit()).await[0].remaining, 997);
    assert_eq!(store.status().connections, 1);
}

#[tokio::test]
async fn a_replica_refuses_and_a_promoted_one_serves() {
    let primary = redis_server::start(&[]);
    let replica = redis_server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let store = redis_server::open(&replica.unix());
    assert_eq!(outage(&store).await, Some(Outage::Refused));
    until("the replica is in step", async || {
        let _ = outage(&store).await;
        store.status().last_error.is_some_and(|error| error.contains("read-only replica"))
    })
    .await;
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec(&mut replica.client()).unwrap();
    back(&store).await;

    // A failover: the connected server is a replica now. One answer shows it, and a new connection
    // is made, because the name may mean another server now.
    let connections = store.status().connections;
    redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(primary.port())
        .exec(&mut replica.client())
        .unwrap();
    assert_eq!(outage(&store).await, Some(Outage::Refused));
    until("the connection is given up", async || !store.status().up).await;
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec(&mut replica.client()).unwrap();
    back(&store).await;
    assert_eq!(store.status().connections, connections + 1);
}

#[tokio::test]
async fn out_of_memory_charges_nothing() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    assert_eq!(verdicts(&store, &limit()).await[0].remaining, 999);
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).exec(&mut server.client()).unwrap();
    for _ in 0..5 {
        assert_eq!(outage(&store).await, Some(Outage::Refused));
    }
    until("the circuit opens", async || outage(&store).await == Some(Outage::CircuitOpen)).await;
    assert!(store.status().last_error.unwrap().contains("OOM"));
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).exec(&mut server.client()).unwrap();
    back(&store).await;
    assert_eq!(verdicts(&store, &limit()).await[0].remaining, 997, "the two that were answered");
}

#[tokio::test]
async fn a_wrong_login_is_reported_without_the_password() {
    let server =
        redis_server::start(&["--user", "tollgate", "on", ">right-password", "~*", "+@all"]);
    let url = format!("redis://127.0.0.1:{}", server.port());
    let refused = async |config: RedisConfig, part: &str| {
        let store = Redis::open(&config, CancellationToken::new()).unwrap();
        assert_eq!(outage(&store).await, Some(Outage::Refused), "{part}");
        let error = store.status().last_error.unwrap();
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        assert!(error.contains(&format!("127.0.0.1:{}", server.port())), "{error}");
    };
    let password = Some(SecretSource::Inline(Secret::new("hunter2")));
    refused(
        RedisConfig { username: Some("tollgate".into()), password, ..section(&url) },
        "WRONGPASS",
    )
    .await;
    refused(section(&url.replace("redis://", "redis://tollgate:hunter2@")), "WRONGPASS").await;

    // A user that may log in, and may not do what a check does.
    let client = &mut server.client();
    redis::cmd("ACL").arg(&["SETUSER", "reader", "on", ">p", "~*", "+@read"]).exec(client).unwrap();
    refused(
        section(&url.replace("redis://", "redis://reader:p@")),
        "the ACL user lacks a permission",
    )
    .await;
    redis::cmd("ACL")
        .arg(&["SETUSER", "narrow", "on", ">p", "~other:*", "+@all"])
        .exec(client)
        .unwrap();
    refused(
        section(&url.replace("redis://", "redis://narrow:p@")),
        "the ACL user lacks a permission",
    )
    .await;
    redis::cmd("ACL").arg(&["SETUSER", "default", ">other"]).exec(client).unwrap();
    redis::cmd("ACL").arg(&["SETUSER", "default", "resetpass", ">other"]).exec(client).unwrap();
    refused(section(&url), "NOAUTH").await;
}

#[tokio::test]
async fn a_changed_password_is_read_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "old").unwrap();
    let server = redis_server::start(&["--requirepass", "old"]);
    let config = RedisConfig {
        password: Some(SecretSource::File(file.display().to_string())),
        ..section(&server.unix())
    };
    let store = Redis::open(&config, CancellationToken::new()).unwrap();
    back(&store).await;

    let mut client = redis::Client::open(format!("{}?pass=old", server.unix()))
        .unwrap()
        .get_connection()
        .unwrap();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "new"]).exec(&mut client).unwrap();
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .exec(&mut client)
        .unwrap();
    until("the old password is refused", async || {
        let _ = outage(&store).await;
        store.status().last_error.is_some_and(|error| error.contains("WRONGPASS"))
    })
    .await;
    std::fs::write(&file, "new\n").unwrap();
    back(&store).await;
}

#[tokio::test]
async fn a_bucket_that_is_not_a_number_is_refused_and_others_are_not() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    redis::cmd("SET")
        .arg(format!("{{tollgate}}:{}", charge("k", 1, 1).key()))
        .arg("not a number")
        .exec(&mut server.client())
        .unwrap();
    assert_eq!(outage(&store).await, Some(Outage::Refused));
    assert_eq!(verdicts(&store, &[charge("other", 1000, 5)]).await[0].remaining, 4);

    let ada = principal(json!({ "jti": "j", "sub": "ada", "iat": NOW }), &[]);
    let key = format!("{{tollgate}}:revoked:{}", ada.revocation().before().next().unwrap().1);
    redis::cmd("SET").arg(key).arg("yesterday").exec(&mut server.client()).unwrap();
    assert_eq!(
        store.admit(&about(&ada)).await,
        Err(Outage::Refused),
        "a revocation that cannot be read is not none"
    );
}

#[tokio::test]
async fn a_server_that_is_not_redis_is_refused_in_time() {
    for answer in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "*1\r\n$-5\r\n",
        "+OK\r\n",
        "*99999999999\r\n",
        ":0\r\n",
        "*2\r\n:0\r\n:0\r\n",
        "",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut question = [0; 4096];
                let _ = client.read(&mut question).await;
                let _ = client.write_all(answer.as_bytes()).await;
            }
        });
        let store = redis_server::open(&format!("redis://127.0.0.1:{port}"));
        let started = std::time::Instant::now();
        for _ in 0..3 {
            let outage = outage(&store).await;
            assert!(outage.is_some(), "{answer:?} is no answer to a check");
        }
        assert!(
            started.elapsed() < std::time::Duration::from_secs(4),
            "{answer:?}: {:?}",
            started.elapsed()
        );
        server.abort();
    }
}

#[tokio::test]
async fn a_missing_file_stops_the_start() {
    let url = "rediss://127.0.0.1:1";
    let opened = |config: RedisConfig| {
        Redis::open(&config, CancellationToken::new()).map(drop).unwrap_err().to_string()
    };
    let missing = SecretSource::File("/nowhere/password".into());
    let error = opened(RedisConfig { password: Some(missing), ..section(url) });
    assert!(
        error.starts_with("store.redis.password: ") && error.contains("/nowhere/password"),
        "{error}"
    );
    let error = opened(RedisConfig { tls_ca: Some("/nowhere/ca.pem".into()), ..section(url) });
    assert!(
        error.starts_with("store.redis.tls_ca: ") && error.contains("/nowhere/ca.pem"),
        "{error}"
    );
    let empty = tempfile::NamedTempFile::new().unwrap();
    let error =
        opened(RedisConfig { tls_ca: Some(empty.path().display().to_string()), ..section(url) });
    assert!(error.contains("holds no certificate"), "{error}");
}
