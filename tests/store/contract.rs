//! The contract of every store: one suite for all of them.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate::store::{ACL_RULE, Memory, MemoryConfig, Redis, RedisConfig, Revocation, Store};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    limit::Charge,
    revocation::{Keys, Names, Target, issuer_digest, token_digest},
    secret::{Secret, SecretSource},
    time::{Span, Timestamp},
};

use super::{
    proofs,
    redis_server::{self, section},
    requests::{
        ISSUER, NOW, charge, charging, principal, revoked_by, token, until, verdicts, verified,
    },
};

fn revocation(target: Target, at: u64, ttl: Span, note: Option<&str>) -> Revocation {
    Revocation::new(target, Timestamp::from_secs(at), ttl, note.map(str::to_owned)).unwrap()
}

pub(super) fn hour(target: Target, at: u64) -> Revocation {
    revocation(target, at, Span::from_secs(3600), None)
}

/// The suite. `store` is empty before and after.
pub(super) async fn holds(store: &dyn Store) {
    assert_eq!(
        store.admit(&charging(&[])).await,
        Ok(AdmitResponse::Counted(Vec::new())),
        "an empty request has an empty response"
    );
    bursts_and_refills(store).await;
    all_or_nothing(store).await;
    limits_in_shadow(store).await;
    each_kind_revokes_what_it_names(store).await;
    a_signing_key_is_revoked_for_good(store).await;
    moments(store).await;
    a_revoked_request_is_not_counted(store).await;
    revocations_end(store).await;
    lists(store).await;
    proofs::are_used_once(store).await;
    assert!(store.status().up, "{:?}", store.status());
}

async fn bursts_and_refills(store: &dyn Store) {
    const HOUR: u64 = 3_600_000;
    let hourly = [charge("burst", HOUR, 3)];
    for left in [2, 1, 0] {
        let verdict = verdicts(store, &hourly).await[0];
        assert_eq!((verdict.admitted, verdict.remaining, verdict.retry_after), (true, left, 0));
        let reset = (3 - left) * HOUR * 1000;
        assert!(verdict.reset <= reset && verdict.reset > reset - 10_000_000, "{verdict:?}");
    }
    let verdict = verdicts(store, &hourly).await[0];
    assert_eq!((verdict.admitted, verdict.remaining), (false, 0));
    let hour = HOUR * 1000;
    assert!(verdict.retry_after <= hour && verdict.retry_after > hour - 10_000_000, "{verdict:?}");
    assert!(verdict.reset <= 3 * hour && verdict.reset > 3 * hour - 10_000_000, "{verdict:?}");

    // A refused client is admitted again, and soon.
    let quick = [charge("quick", 30, 1)];
    assert!(verdicts(store, &quick).await[0].admitted);
    for _ in 0..3 {
        until("there is room again", async || {
            let verdict = verdicts(store, &quick).await[0];
            assert!(verdict.retry_after <= 30_000, "{verdict:?}");
            verdict.admitted
        })
        .await;
    }

    let none = verdicts(store, &[charge("none", 1000, 0)]).await[0];
    assert_eq!(
        (none.admitted, none.remaining, none.retry_after, none.reset),
        (false, 0, u64::MAX, 0)
    );

    let many = Charge { cost: 4, ..charge("many", HOUR, 10) };
    assert_eq!(verdicts(store, std::slice::from_ref(&many)).await[0].remaining, 6);
    assert_eq!(verdicts(store, std::slice::from_ref(&many)).await[0].remaining, 2);
    let refused = verdicts(store, std::slice::from_ref(&many)).await[0];
    assert_eq!((refused.admitted, refused.remaining), (false, 2));
    let too_many = verdicts(store, &[Charge { cost: 11, ..many }]).await[0];
    assert_eq!((too_many.admitted, too_many.retry_after), (false, u64::MAX));
}

/// A limit in shadow takes what it has room for, and refuses nothing.
async fn limits_in_shadow(store: &dyn Store) {
    let shadow = |name: &str, burst| Charge { is_shadow: true, ..charge(name, 3_600_000, burst) };
    let enforced = charge("shadow-enforced", 3_600_000, 3);
    let charges = [shadow("shadow-one", 1), enforced.clone(), shadow("shadow-five", 5)];
    let mut found = Vec::new();
    for _ in 0..4 {
        let verdicts = verdicts(store, &charges).await;
        found.push(verdicts.iter().map(|v| (v.admitted, v.remaining)).collect::<Vec<_>>());
    }
    assert_eq!(
        found,
        [
            [(true, 0), (true, 2), (true, 4)],
            [(false, 0), (true, 1), (true, 3)],
            [(false, 0), (true, 0), (true, 2)],
            // The enforced one refuses, so that nothing is taken.
            [(false, 0), (false, 0), (true, 2)],
        ]
    );
    let alone = verdicts(store, &[shadow("shadow-none", 0)]).await[0];
    assert_eq!((alone.admitted, alone.retry_after), (false, u64::MAX));
}

async fn all_or_nothing(store: &dyn Store) {
    let both = [
        charge("wide", 3_600_000, 5),
        charge("narrow", 3_600_000, 1),
        charge("wider", 3_600_000, 9),
    ];
    let admitted: Vec<_> = verdicts(store, &both)
        .await
        .iter()
        .map(|verdict| (verdict.admitted, verdict.remaining))
        .collect();
    assert_eq!(admitted, [(true, 4), (true, 0), (true, 8)]);
    for _ in 0..3 {
        let refused: Vec<_> = verdicts(store, &both)
            .await
            .iter()
            .map(|verdict| (verdict.admitted, verdict.remaining))
            .collect();
        assert_eq!(
            refused,
            [(true, 4), (false, 0), (true, 8)],
            "the others had room, and were not charged"
        );
    }
    assert_eq!(verdicts(store, &both[..1]).await[0].remaining, 3);
}

fn full(claims: &Value) -> Value {
    let mut all =
        json!({ "jti": "j1", "sub": "ada", "tenant_id": "acme", "client_id": "app", "iat": NOW });
    all["act"] = json!({
        "sub": "planner",
        "act": { "sub": "fetcher", "iss": "https://agents.example.com" }
    });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    all
}

async fn each_kind_revokes_what_it_names(store: &dyn Store) {
    let (mine, _) = token(full(&json!({})));
    let me = verified(&mine, &[]);
    let issuer = || ISSUER.to_owned();
    for (target, spared) in [
        (Target::Jti { issuer: issuer(), jti: "j1".into() }, json!({ "jti": "j2" })),
        (Target::Token { sha256: token_digest(&mine) }, json!({ "extra": 1 })),
        (Target::Subject { issuer: issuer(), subject: "ada".into() }, json!({ "sub": "bob" })),
        (
            Target::Client { issuer: issuer(), client: "app".into() },
            json!({ "client_id": "other" }),
        ),
        (Target::Tenant { tenant: "acme".into() }, json!({ "tenant_id": "other" })),
        // An agent acts in the token, at any place of the chain, or holds it.
        (actor(ISSUER, "planner"), json!({ "act": { "sub": "other" } })),
        (actor("https://agents.example.com", "fetcher"), json!({ "act": { "sub": "fetcher" } })),
        (actor(ISSUER, "ada"), json!({ "sub": "bob" })),
        (actor(ISSUER, "app"), json!({ "client_id": "other" })),
    ] {
        let kind = target.kind();
        let spared = principal(full(&spared), &[]);
        assert_eq!(revoked_by(store, &me).await, Ok(None), "{kind}");
        store.revoke(&hour(target.clone(), NOW)).await.unwrap();
        assert_eq!(revoked_by(store, &me).await, Ok(Some(kind)));
        assert_eq!(revoked_by(store, &spared).await, Ok(None), "{kind}");
        assert_eq!(store.reinstate(&target).await, Ok(true));
        assert_eq!(revoked_by(store, &me).await, Ok(None), "{kind}");
        assert_eq!(store.reinstate(&target).await, Ok(false));
    }
    let elsewhere =
        Target::Subject { issuer: "https://other.example.com".into(), subject: "ada".into() };
    store.revoke(&hour(elsewhere.clone(), NOW)).await.unwrap();
    assert_eq!(
        revoked_by(store, &me).await,
        Ok(None),
        "a subject of another issuer is another subject"
    );
    store.reinstate(&elsewhere).await.unwrap();
}

fn actor(issuer: &str, name: &str) -> Target {
    Target::Actor { issuer: issuer.into(), actor: name.into() }
}

/// A signing key that is revoked stops what it signed before and after.
async fn a_signing_key_is_revoked_for_good(store: &dyn Store) {
    let request = |issuer: &str, kid: Option<&str>, issued_at: u64| {
        let names = Names {
            issuer: &issuer_digest(issuer),
            token: [7; 32],
            jti: None,
            subject: "ada",
            subject_is_client: false,
            client: None,
            tenant: None,
        };
        let keys = Keys::new(names, issued_at, Vec::new());
        let keys = match kid {
            Some(kid) => keys.with_kid(kid),
            None => keys,
        };
        AdmitRequest { revocation: Some(Arc::new(keys)), ..AdmitRequest::default() }
    };
    let kid = Target::Kid { issuer: ISSUER.into(), kid: "2026-10".into() };
    store.revoke(&hour(kid.clone(), NOW)).await.unwrap();
    for (issuer, kid, issued_at, revoked) in [
        (ISSUER, Some("2026-10"), NOW - 100, true),
        (ISSUER, Some("2026-10"), NOW + 100, true),
        (ISSUER, Some("2026-11"), NOW - 100, false),
        ("https://other.example.com", Some("2026-10"), NOW - 100, false),
        (ISSUER, None, NOW - 100, false),
    ] {
        let expected = if revoked {
            AdmitResponse::Revoked("kid")
        } else {
            AdmitResponse::Counted(Vec::new())
        };
        let response = store.admit(&request(issuer, kid, issued_at)).await;
        assert_eq!(response, Ok(expected), "{issuer} {kid:?} {issued_at}");
    }
    assert_eq!(store.reinstate(&kid).await, Ok(true));
    let response = store.admit(&request(ISSUER, Some("2026-10"), NOW)).await;
    assert_eq!(response, Ok(AdmitResponse::Counted(Vec::new())));
}

async fn moments(store: &dyn Store) {
    let ada = Target::Subject { issuer: ISSUER.into(), subject: "ada".into() };
    let issued = |iat: Option<u64>| {
        let mut claims = full(&json!({}));
        match iat {
            Some(iat) => claims["iat"] = json!(iat),
            None => drop(claims.as_object_mut().unwrap().remove("iat")),
        }
        principal(claims, &[])
    };
    store.revoke(&hour(ada.clone(), NOW - 100)).await.unwrap();
    for (iat, expected) in [
        (Some(NOW - 101), Some("subject")),
        (Some(NOW - 100), Some("subject")),
        (Some(NOW - 99), None),
        (None, Some("subject")),
    ] {
        assert_eq!(revoked_by(store, &issued(iat)).await, Ok(expected), "{iat:?}");
    }
    store.revoke(&revocation(ada.clone(), NOW - 200, Span::from_secs(1), None)).await.unwrap();
    assert_eq!(
        revoked_by(store, &issued(Some(NOW - 100))).await,
        Ok(Some("subject")),
        "an earlier moment takes nothing back"
    );
    store.revoke(&hour(ada.clone(), NOW)).await.unwrap();
    assert_eq!(
        revoked_by(store, &issued(Some(NOW - 99))).await,
        Ok(Some("subject")),
        "a later one adds"
    );
    assert_eq!(store.reinstate(&ada).await, Ok(true));
}

async fn a_revoked_request_is_not_counted(store: &dyn Store) {
    let jti = Target::Jti { issuer: ISSUER.into(), jti: "j1".into() };
    let charges = vec![charge("counted", 3_600_000, 5)];
    let request = AdmitRequest {
        revocation: Some(Arc::clone(principal(full(&json!({})), &[]).revocation())),
        address: None,
        charges: charges.clone(),
        ..AdmitRequest::default()
    };
    store.revoke(&hour(jti.clone(), NOW)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.admit(&request).await, Ok(AdmitResponse::Revoked("jti")));
    }
    assert_eq!(store.reinstate(&jti).await, Ok(true));
    assert_eq!(verdicts(store, &charges).await[0].remaining, 4);
}

async fn revocations_end(store: &dyn Store) {
    let jti = Target::Jti { issuer: ISSUER.into(), jti: "j1".into() };
    let me = principal(full(&json!({})), &[]);
    store.revoke(&revocation(jti.clone(), NOW, Span::from_millis(300), None)).await.unwrap();
    assert_eq!(revoked_by(store, &me).await, Ok(Some("jti")));
    until("the revocation ends", async || revoked_by(store, &me).await == Ok(None)).await;
    assert_eq!(store.reinstate(&jti).await, Ok(false));
    assert_eq!(store.list(None, 10).await.unwrap().entries, []);
}

async fn lists(store: &dyn Store) {
    let subject = |name: &str| Target::Subject { issuer: ISSUER.into(), subject: name.into() };
    let before =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (name, at, minutes, note) in [
        ("c", NOW + 3, 30, None),
        ("a", NOW + 1, 10, Some("left the company")),
        ("b", NOW + 2, 20, Some("lost laptop ü")),
    ] {
        store
            .revoke(&revocation(subject(name), at, Span::from_secs(60 * minutes), note))
            .await
            .unwrap();
    }
    let page = store.list(None, 10).await.unwrap();
    assert_eq!(page.total, 3);
    let shown: Vec<_> = page
        .entries
        .iter()
        .map(|entry| {
            (entry.key.clone(), entry.kind(), entry.at.secs() - NOW, entry.note.as_deref())
        })
        .collect();
    let key = |name: &str| subject(name).key();
    assert_eq!(
        shown,
        [
            (key("a"), "subject", 1, Some("left the company")),
            (key("b"), "subject", 2, Some("lost laptop ü")),
            (key("c"), "subject", 3, None)
        ]
    );
    let ends = page.entries[0].ends.secs();
    assert!((before + 599..before + 660).contains(&ends), "{ends} is ten minutes from {before}");

    assert_eq!(page.next, None);
    let first = store.list(None, 1).await.unwrap();
    assert_eq!((first.entries.as_slice(), first.total), (&page.entries[..1], 3));
    assert_eq!(first.next, Some(page.entries[0].position()));
    let second = store.list(first.next.as_ref(), 1).await.unwrap();
    assert_eq!((second.total, second.entries.as_slice()), (3, &page.entries[1..2]));
    // The entry of a position may be gone when the next page is read.
    assert_eq!(store.reinstate(&subject("b")).await, Ok(true));
    let third = store.list(second.next.as_ref(), 1).await.unwrap();
    assert_eq!((third.entries.as_slice(), third.next), (&page.entries[2..], None));
    let last = page.entries[2].position();
    assert_eq!(store.list(Some(&last), 10).await.unwrap().entries, []);
    let minutes = Span::from_secs(60 * 20);
    store.revoke(&revocation(subject("b"), NOW + 2, minutes, Some("lost laptop ü"))).await.unwrap();

    store.revoke(&revocation(subject("a"), NOW + 1, Span::from_secs(3600), None)).await.unwrap();
    let page = store.list(None, 10).await.unwrap();
    assert_eq!(
        (page.total, page.entries[2].key.clone(), page.entries[2].note.as_deref()),
        (3, key("a"), Some("left the company"))
    );
    for name in ["a", "b", "c"] {
        assert_eq!(store.reinstate(&subject(name)).await, Ok(true));
    }
    assert_eq!(store.list(None, 10).await.unwrap().total, 0);
}

#[tokio::test]
async fn memory() {
    let store = Memory::new(&MemoryConfig { single_replica: true, ..MemoryConfig::default() });
    holds(&store).await;
    let ada = principal(json!({ "jti": "j", "sub": "ada", "iat": NOW }), &["blacklist:{jti}"]);
    assert_eq!(
        revoked_by(&store, &ada).await,
        Err(Outage::Refused),
        "a blacklist that cannot be read is not an empty one"
    );
}

/// The suite, and what only a Redis has.
async fn redis_holds(config: &RedisConfig, mut client: redis::Connection) {
    redis::cmd("FLUSHDB").exec(&mut client).unwrap();
    let store = Redis::open(config, CancellationToken::new()).unwrap();
    holds(&store).await;
    foreign(&store, &mut client).await;
    assert_eq!(store.status().connections, 1);
}

async fn foreign(store: &Redis, client: &mut redis::Connection) {
    let claims = json!({ "jti": "j:1", "sub": "ada", "iat": NOW });
    let patterns = ["blacklist:{jti}", "gone/{sub}", "t:{token_sha256}"];
    let ada = principal(claims.clone(), &patterns);
    assert_eq!(ada.revocation().foreign[..2], ["blacklist:j:1", "gone/ada"]);
    assert_eq!(revoked_by(store, &ada).await, Ok(None));
    let set = |client: &mut redis::Connection, name: &str, key: &str, value: &str| {
        redis::cmd(name).arg(key).arg(value).exec(client).unwrap();
    };
    for (command, key) in [
        ("SET", &ada.revocation().foreign[0]),
        ("SADD", &ada.revocation().foreign[1]),
        ("LPUSH", &ada.revocation().foreign[2]),
    ] {
        set(client, command, key, "x");
        assert_eq!(revoked_by(store, &ada).await, Ok(Some("foreign")), "{key}, of whatever type");
        redis::cmd("DEL").arg(key).exec(client).unwrap();
        assert_eq!(revoked_by(store, &ada).await, Ok(None), "{key}");
    }
    // Between charges and foreign keys, the script must not mix up which key it was.
    let mut request = AdmitRequest {
        revocation: Some(Arc::clone(ada.revocation())),
        address: None,
        charges: vec![charge("f1", 1000, 2), charge("f2", 1000, 2)],
        ..AdmitRequest::default()
    };
    set(client, "SET", "gone/ada", "x");
    assert_eq!(store.admit(&request).await, Ok(AdmitResponse::Revoked("foreign")));
    redis::cmd("DEL").arg("gone/ada").exec(client).unwrap();
    request.charges.truncate(1);
    assert!(
        matches!(store.admit(&request).await, Ok(AdmitResponse::Counted(verdicts)) if verdicts[0].remaining == 1)
    );
}

#[tokio::test]
async fn redis_on_a_unix_socket() {
    let server = redis_server::start(&[]);
    redis_holds(&section(&server.unix()), server.client()).await;
}

#[tokio::test]
async fn redis_on_tcp_in_another_database() {
    let server = redis_server::start(&[]);
    let client =
        redis::Client::open(format!("{}?db=3", server.unix())).unwrap().get_connection().unwrap();
    redis_holds(&section(&format!("redis://localhost:{}/3", server.port())), client).await;
    let keys: usize = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
    assert_eq!(keys, 0, "nothing in database 0");
}

#[tokio::test]
async fn redis_with_a_user_that_may_do_only_this() {
    let user = format!("--user tollgate on >s3cret ~blacklist:* ~gone/* ~t:* {ACL_RULE}");
    let server = redis_server::start(&user.split_whitespace().collect::<Vec<_>>());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let password = Some(SecretSource::File(file.display().to_string()));
    let config = RedisConfig {
        username: Some("tollgate".into()),
        password,
        ..section(&format!("redis://127.0.0.1:{}", server.port()))
    };
    redis_holds(&config, server.client()).await;
    redis_holds(
        &section(&format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port())),
        server.client(),
    )
    .await;
}

#[tokio::test]
async fn redis_with_tls_and_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let authority = redis_server::certificates(directory.path());
    let options = [
        "--tls-cert-file",
        "{dir}/cert.pem",
        "--tls-key-file",
        "{dir}/key.pem",
        "--tls-ca-cert-file",
        "{dir}/cert.pem",
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "s3cret",
    ];
    let server = redis_server::start_in(directory, &options);
    let mut client = redis::Client::open(format!("{}?pass=s3cret", server.unix()))
        .unwrap()
        .get_connection()
        .unwrap();
    let base = section(&format!("rediss://localhost:{}", server.port()));
    let password = Some(SecretSource::Inline(Secret::new("s3cret")));
    let config = RedisConfig { password, tls_ca: Some(authority), ..base };
    redis_holds(
        &config,
        redis::Client::open(format!("{}?pass=s3cret", server.unix()))
            .unwrap()
            .get_connection()
            .unwrap(),
    )
    .await;

    // Authorities that did not sign this certificate: no connection, whatever else is right.
    let other = tempfile::tempdir().unwrap();
    let stranger = redis_server::certificates(other.path());
    let distrusting = Redis::open(
        &RedisConfig { tls_ca: Some(stranger), ..config.clone() },
        CancellationToken::new(),
    )
    .unwrap();
    assert_eq!(
        revoked_by(&distrusting, &principal(json!({ "jti": "j", "sub": "s" }), &[])).await,
        Err(Outage::Unreachable)
    );
    let error = distrusting.status().last_error.unwrap();
    assert!(error.contains("certificate"), "{error}");
    let _: String = redis::cmd("PING").query(&mut client).unwrap();
}
