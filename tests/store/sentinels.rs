//! A real primary with Sentinels: a replica that takes its place is followed.

use std::{sync::Arc, time::Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, ACL_RULE, Redis, RedisConfig, Revocation, SentinelConfig, Store, StoreConfig,
};
use tollgate_core::{
    revocation::Target,
    secret::{Secret, SecretSource},
    time::{Span, Timestamp},
};

use super::{
    contract,
    load::Load,
    redis_cluster::until_patiently,
    redis_sentinels::Sentinels,
    redis_server::section,
    requests::{ISSUER, NOW, principal, revoked_by, until},
};

/// The number of the server that the store uses now.
fn server(store: &Redis, sentinels: &Sentinels) -> Option<usize> {
    let node = store.status().nodes[0].node.clone()?;
    sentinels.servers.iter().position(|one| node == format!("127.0.0.1:{}", one.port()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primaries_that_are_demoted_frozen_and_killed_are_replaced() {
    let mut sentinels = Sentinels::start(&[]);
    let opened = store::open(
        &StoreConfig::Redis(Box::new(RedisConfig {
            deadline: Span::from_millis(100),
            ..section(&sentinels.url())
        })),
        CancellationToken::new(),
    )
    .unwrap();
    let store = Arc::clone(opened.redis().unwrap());
    let revoked = principal(json!({ "jti": "r", "sub": "revoked", "iat": NOW }), &[]);
    let target = Target::Subject { issuer: ISSUER.into(), subject: "revoked".into() };
    let revocation =
        Revocation::new(target, Timestamp::from_secs(NOW), Span::from_secs(3600), None).unwrap();
    until("a revocation", async || store.revoke(&revocation).await.is_ok()).await;
    let load = Load::start(&store, "failover").await;
    assert_eq!(server(&store, &sentinels), Some(0));

    // The operator demotes the primary, which goes on as a replica.
    sentinels.until_copied(0);
    let (begun, admitted) = (Instant::now(), load.admitted());
    sentinels.fail_over();
    until_patiently("the replica", async || server(&store, &sentinels) == Some(1)).await;
    // Replication is asynchronous: an old primary loses what was written to it since.
    let mut lost = load.admitted() - admitted;
    load.until_more(10).await;
    eprintln!("sentinel, demoted: answered again after {:?}", begun.elapsed());
    assert_ne!(revoked_by(&*store, &revoked).await, Ok(None));
    sentinels.until_primary(1);
    sentinels.until_copying(1);

    // A partition: the primary keeps its connections, and answers nothing.
    let connections = store.status().connections;
    sentinels.until_copied(1);
    let (begun, admitted) = (Instant::now(), load.admitted());
    sentinels.servers[1].freeze();
    until_patiently("the first server again", async || server(&store, &sentinels) == Some(0)).await;
    lost += load.admitted() - admitted;
    load.until_more(10).await;
    let (took, made) = (begun.elapsed(), store.status().connections - connections);
    eprintln!("sentinel, frozen: answered again after {took:?}, {made} connections");
    assert!(made <= 6 + took.as_secs(), "{made} connections in {took:?}");
    sentinels.servers[1].thaw();
    sentinels.until_copying(0);
    load.until_more(10).await;
    assert_eq!(server(&store, &sentinels), Some(0), "the old primary is not used again");
    assert_ne!(revoked_by(&*store, &revoked).await, Ok(None));

    // The primary is lost.
    let connections = store.status().connections;
    sentinels.until_copied(0);
    let (begun, admitted) = (Instant::now(), load.admitted());
    sentinels.servers[0].kill();
    until_patiently("the replica", async || server(&store, &sentinels) == Some(1)).await;
    lost += load.admitted() - admitted;
    load.until_more(10).await;
    let (took, made) = (begun.elapsed(), store.status().connections - connections);
    eprintln!("sentinel, killed: answered again after {took:?}, {made} connections");
    assert!(made <= 6 + took.as_secs(), "{made} connections in {took:?}");
    until("the revocation", async || revoked_by(&*store, &revoked).await == Ok(Some("subject")))
        .await;
    let outcome = load.end(|request| request).await;
    eprintln!("sentinel, failover: {outcome:?}, {lost} at most were lost");
    outcome.assert_charged_once(lost);
}

#[tokio::test]
async fn sentinels_and_servers_have_logins_of_their_own_and_a_wrong_name_lists_the_right_ones() {
    let user = format!(
        "--masterauth all --user default on >all ~* &* +@all --user tollgate on >s3cret {ACL_RULE}"
    );
    let sentinels = Sentinels::start_with(
        &user.split_whitespace().collect::<Vec<_>>(),
        "sentinel auth-pass tollgate-1 all\nuser default on nopass ~* &* +@all\n\
         user watcher on >watch -@all +auth +sentinel|get-master-addr-by-name +sentinel|master +sentinel|masters\n",
        "all",
    );
    let secret = |text: &str| Some(SecretSource::Inline(Secret::new(text)));
    let config = RedisConfig {
        username: Some("tollgate".into()),
        password: secret("s3cret"),
        sentinel: Some(SentinelConfig {
            username: Some("watcher".into()),
            password: secret("watch"),
        }),
        ..section(&sentinels.url())
    };
    let store = Redis::open(&config, CancellationToken::new()).unwrap();
    contract::holds(&store).await;

    let asked = principal(json!({ "jti": "j", "sub": "s" }), &[]);
    let url = sentinels.url_of("other").parse().unwrap();
    let other =
        Redis::open(&RedisConfig { url, ..config.clone() }, CancellationToken::new()).unwrap();
    assert!(revoked_by(&other, &asked).await.is_err());
    let error = other.status().last_error.unwrap();
    assert!(error.contains("the sentinels know `tollgate-1`, and no such name"), "{error}");
    let wrong = Some(SentinelConfig { username: Some("watcher".into()), password: secret("x") });
    let refused =
        Redis::open(&RedisConfig { sentinel: wrong, ..config }, CancellationToken::new()).unwrap();
    assert!(revoked_by(&refused, &asked).await.is_err());
    let error = refused.status().last_error.unwrap();
    assert!(error.contains("no sentinel answers") && error.contains("WRONGPASS"), "{error}");
}
