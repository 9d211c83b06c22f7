//! Escrow for outages: an engine and a real Redis that is killed and comes back.

use std::sync::Arc;

use redis::Connection;
use serde_json::json;
use tollgate::{config, engine::Engine, observe, store::EscrowStatus};
use tollgate_core::{
    admission::{Settlement, Usage},
    limit::{
        Counter,
        reservation::{Reservation, ReservationKeys},
    },
    request::{Headers, RawBody, RawRequest},
    secret::Secret,
};
use tollgate_testkit::{Algorithm, KeyPair, Token};

use super::{
    redis_server::{self, Server},
    requests::until,
};

const SECRET: &str = "the-secret-of-the-escrow-tests-0123456789";

const CONFIG: &str = "
audit: { to: none }
listen: { grpc: 'unix:/nowhere/authz.sock', access_log: 'unix:/nowhere/access-log.sock' }
store:
  redis:
    url: URL
    deadline: 1s
    local: { replicas: 1, refresh: 100ms, max_staleness: 1h, escrow: { share: 50, life: 1h } }
metering: { secrets: [SECRET], life: 10m }
issuers: [{ issuer: i, audiences: any, algorithms: [HS256], secret: SECRET, required_claims: [] }]
models: [{ name: m, context: 1000, max_output: 100 }]
routes:
- match: { methods: [POST], paths: [/v1/chat/completions] }
  scopes: []
  model: { from: body }
  limits: [day, minute, gpu]
  on_outage: local
limits:
- { name: day, by: [subject], tokens: 100000/day }
- { name: minute, by: [subject], tokens: 60000/1h }
- { name: gpu, by: [subject], concurrent: 8 }
";

async fn engine(server: &Server) -> Engine {
    let text = CONFIG.replace("URL", &server.unix()).replace("SECRET", SECRET);
    let loaded = config::compile(&text, &|_| None).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    until("readiness", async || engine.readiness().missing().is_empty()).await;
    engine
}

fn escrow(engine: &Engine) -> EscrowStatus {
    engine.status().local.unwrap().escrow
}

/// Checks a request: its reservation, or the reason of its denial.
async fn check(engine: &Engine) -> Result<Reservation, String> {
    let now = observe::now().secs();
    let claims = json!({ "iss": "i", "sub": "alice", "iat": now, "exp": now + 600 });
    let token = Token::new(Algorithm::Hs256).claims(claims);
    let authorization = format!("Bearer {}", token.sign(&KeyPair::secret(SECRET)).unwrap());
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
    let body = body.to_string();
    let read = || {
        let mut headers = Headers::default();
        headers.push("authorization", authorization.as_bytes());
        headers.push("content-type", b"application/json");
        Ok(RawRequest {
            method: b"POST",
            scheme: b"https",
            host: b"api.example.com",
            path: b"/v1/chat/completions",
            headers,
            address: None,
            peer_certificate: b"",
            body: RawBody::Whole(body.as_bytes()),
        })
    };
    let answer = engine.checker().check(None, read, |checked| {
        let fact = |wanted| checked.metadata.iter().find(|(name, _)| *name == wanted);
        let text = |wanted| fact(wanted).map(|(_, value)| value.to_owned());
        text("reservation").ok_or_else(|| text("reason").unwrap_or_default())
    });
    let keys = ReservationKeys::new(vec![Secret::new(SECRET)]).unwrap();
    answer.await.map(|text| Reservation::open(&text, &keys).unwrap())
}

fn report(engine: &Engine, reservation: &Reservation, usage: Usage) {
    engine.settler().submit(Settlement { reservation: reservation.clone(), usage, report: None });
}

/// What Redis has of the counter of a hold: spent and held.
fn count(client: &mut Connection, request: &Reservation, hold: usize) -> Option<(u64, u64)> {
    let key = format!("{{tollgate}}:{}", request.holds[hold].key());
    let text: Option<String> = redis::cmd("GET").arg(key).query(client).unwrap();
    let text = text?;
    let (spent, held) = text.split_once(' ').unwrap();
    Some((spent.parse().unwrap(), held.parse().unwrap()))
}

#[tokio::test]
async fn an_outage_is_bridged_from_the_escrow_and_counted_exactly() {
    let mut server = redis_server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let engine = engine(&server).await;
    let mut before = Vec::new();
    for _ in 0..3 {
        before.push(check(&engine).await.unwrap());
    }
    until("the escrow", async || escrow(&engine).counters == 3).await;
    for request in &before {
        report(&engine, request, Usage::Final(10));
    }
    let mut client = server.client();
    let spent = |client: &mut Connection| count(client, &before[0], 0).unwrap().0;
    until("the reports", async || spent(&mut client) == 30).await;
    let held = before[0].holds[0].amount;
    let parked = count(&mut client, &before[0], 0).unwrap().1;
    assert!((held..=3 * held).contains(&parked), "{parked} of {held}");

    server.kill();
    let mut during = Vec::new();
    let denied = loop {
        match check(&engine).await {
            Ok(reservation) => during.push(reservation),
            Err(reason) => break reason,
        }
    };
    assert_eq!(denied, "store_unavailable");
    let fit = usize::try_from(parked / held).unwrap();
    assert!((1..=fit).contains(&during.len()), "{} of {fit}", during.len());
    assert_eq!(escrow(&engine).unreported, during.len() as u64);
    // What a request returns is free for the next one.
    report(&engine, &during[0], Usage::Released);
    during.push(check(&engine).await.unwrap());
    assert_eq!(check(&engine).await.unwrap_err(), "store_unavailable");
    report(&engine, &during[1], Usage::Running(5));

    server.restart();
    until("the requests are reported", async || escrow(&engine).unreported == 0).await;
    // They are ordinary requests now, and settled once.
    for request in &during[1..] {
        report(&engine, request, Usage::Final(7));
        report(&engine, request, Usage::Final(8));
    }
    assert!(check(&engine).await.is_ok_and(|last| {
        report(&engine, &last, Usage::Final(1));
        true
    }));
    engine.close().await;
    let mut client = server.client();
    let expected = 30 + 7 * (during.len() as u64 - 1) + 1;
    assert_eq!(count(&mut client, &before[0], 0), Some((expected, 0)));
    assert!(matches!(before[0].holds[1].counter, Counter::Bucket { .. }));
    assert_eq!(count(&mut client, &before[0], 1).map(|(_, held)| held), Some(0));
    assert_eq!(count(&mut client, &before[0], 2), None, "no slot is held");
    assert_eq!(escrow(&engine).admitted, during.len() as u64);
}

#[tokio::test]
async fn without_an_escrow_an_outage_denies() {
    let mut server = redis_server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let engine = engine(&server).await;
    server.kill();
    until("the outage", async || check(&engine).await.is_err()).await;
    assert_eq!(check(&engine).await.unwrap_err(), "store_unavailable");
    assert_eq!(escrow(&engine), EscrowStatus { counters: 0, unreported: 0, admitted: 0 });
    engine.close().await;
}
