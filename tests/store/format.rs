//! The format marker in Redis: data of a newer format are refused, never misread.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{self, RedisConfig, ReplicateConfig, Revocation, Store, StoreConfig};
use tollgate_core::{
    admission::{AdmitResponse, Outage},
    revocation::Target,
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, Server, section},
    requests::{ISSUER, NOW, charge, charging, principal, revoked_by, until},
};

const MARKER: &str = "{tollgate}:format";

fn set(server: &Server, format: &str) {
    redis::cmd("SET").arg(MARKER).arg(format).exec(&mut server.client()).unwrap();
}

fn marker(server: &Server) -> Option<String> {
    redis::cmd("GET").arg(MARKER).query(&mut server.client()).unwrap()
}

fn ada() -> Revocation {
    let target = Target::Subject { issuer: ISSUER.into(), subject: "ada".into() };
    Revocation::new(target, Timestamp::from_secs(NOW), Span::from_secs(3600), None).unwrap()
}

async fn admit(store: &dyn Store) -> Result<AdmitResponse, Outage> {
    store.admit(&charging(&[charge("k", 3_600_000, 1000)])).await
}

#[tokio::test]
async fn the_marker_is_written_on_connecting_and_with_a_revocation() {
    let server = redis_server::start(&[]);
    assert_eq!(marker(&server), None);
    let store = redis_server::open(&server.unix());
    admit(&store).await.unwrap();
    assert_eq!(marker(&server).as_deref(), Some("1"));
    // Redis lost its data. A missing marker means format 1, which the previous version writes.
    redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
    admit(&store).await.unwrap();
    store.revoke(&ada()).await.unwrap();
    assert_eq!(marker(&server).as_deref(), Some("1"));
}

#[tokio::test]
async fn every_call_refuses_a_newer_format() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let revocation = ada();
    store.revoke(&revocation).await.unwrap();
    for format in ["2", "10", "x", ""] {
        set(&server, format);
        let before: usize = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
        // The connection is open, and the next call sees the marker.
        assert_eq!(admit(&store).await, Err(Outage::Refused), "{format}");
        assert_eq!(store.revoke(&revocation).await, Err(Outage::Refused), "{format}");
        assert_eq!(store.reinstate(revocation.target()).await, Err(Outage::Refused), "{format}");
        assert_eq!(store.list(None, 10).await, Err(Outage::Refused), "{format}");
        let error = store.status().last_error.unwrap();
        let expected = format!("its data have format {format}");
        assert!(error.contains(&expected) || error.contains("TOLLGATEFORMAT"), "{error}");
        let after: usize = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
        assert_eq!(after, before, "nothing is written");
        set(&server, "1");
        until("it answers again", async || admit(&store).await.is_ok()).await;
    }
    // A new connection is refused as well, and the message names both formats and the remedy.
    set(&server, "2");
    let late = redis_server::open(&server.unix());
    assert_eq!(admit(&late).await, Err(Outage::Refused));
    let error = late.status().last_error.unwrap();
    for part in ["format 2", "format 1", "newer version", "docs/operations.md"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    redis::cmd("DEL").arg(MARKER).exec(&mut server.client()).unwrap();
    until("it connects", async || admit(&late).await.is_ok()).await;
}

#[tokio::test]
async fn a_copy_of_the_revocations_is_not_confirmed_by_data_of_a_newer_format() {
    let server = redis_server::start(&[]);
    let replicate = ReplicateConfig { max_staleness: Span::from_secs(1) };
    let config = RedisConfig { replicate_revocations: Some(replicate), ..section(&server.unix()) };
    let opened = store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new());
    let store: Arc<dyn Store> = opened.unwrap().store;
    let bob = principal(json!({ "jti": "b", "sub": "bob", "iat": NOW }), &[]);
    until("the copy is used", async || {
        store.status().replica.unwrap().age.is_some() && revoked_by(&*store, &bob).await == Ok(None)
    })
    .await;
    set(&server, "2");
    until("the copy is too old, and Redis is refused", async || {
        revoked_by(&*store, &bob).await.is_err()
    })
    .await;
    set(&server, "1");
    until("the copy is confirmed", async || revoked_by(&*store, &bob).await == Ok(None)).await;
}
