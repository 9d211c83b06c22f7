//! Checks that arrive together are sent together, and each is decided independently.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tollgate::store::{Redis, Store as _};
use tollgate_core::{
    admission::{AdmitResponse, Outage},
    limit::{Charge, Verdict},
};

use super::{
    redis_server::{self, Server},
    requests::{charge, charging, verdicts},
};

const HOUR: u64 = 3_600_000;

async fn all(store: &Arc<Redis>, checks: Vec<Vec<Charge>>) -> Vec<Result<Vec<Verdict>, Outage>> {
    let asked = checks.into_iter().map(|charges| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            match store.admit(&charging(&charges)).await {
                Ok(AdmitResponse::Counted(verdicts)) => Ok(verdicts),
                Ok(other) => panic!("{other:?}"),
                Err(outage) => Err(outage),
            }
        })
    });
    join_all(asked).await.into_iter().map(Result::unwrap).collect()
}

fn scripts(server: &Server) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.client()).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn few_calls_for_many_checks_of_one_bucket() {
    let server = redis_server::start(&[]);
    let store = Arc::new(redis_server::open(&server.unix()));
    verdicts(&*store, &[charge("other", HOUR, 5)]).await;
    let before = scripts(&server);
    let answers = all(&store, vec![vec![charge("k", HOUR, 100)]; 300]).await;
    let mut left: Vec<u64> = Vec::new();
    for verdict in answers.into_iter().map(|verdicts| verdicts.unwrap()[0]) {
        if verdict.admitted {
            left.push(verdict.remaining);
        }
    }
    left.sort_unstable();
    assert_eq!(left, (0..100).collect::<Vec<_>>(), "each unit once");
    let calls = scripts(&server) - before;
    assert!((300 / 64..30).contains(&calls), "{calls} calls for 300 checks at once");
}

#[tokio::test]
async fn a_check_that_cannot_be_read_stops_no_other() {
    let server = redis_server::start(&[]);
    let store = Arc::new(redis_server::open(&server.unix()));
    verdicts(&*store, &[charge("other", HOUR, 5)]).await;
    redis::cmd("SET")
        .arg(format!("{{tollgate}}:{}", charge("bad", 1, 1).key()))
        .arg("not a number")
        .exec(&mut server.client())
        .unwrap();
    let checks = (0..100).map(|n| {
        vec![charge("k", HOUR, 100), charge(if n % 10 == 3 { "bad" } else { "good" }, HOUR, 100)]
    });
    let answers = all(&store, checks.collect()).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(verdicts) => assert!(
                n % 10 != 3 && verdicts.iter().all(|verdict| verdict.admitted),
                "{n}: {verdicts:?}"
            ),
            Err(outage) => assert!(n % 10 == 3 && outage == Outage::Refused, "{n}: {outage:?}"),
        }
    }
    assert_eq!(
        verdicts(&*store, &[charge("k", HOUR, 100)]).await[0].remaining,
        100 - 90 - 1,
        "they took nothing"
    );
    assert!(store.status().up, "and the connection stays");
    assert!(store.status().last_error.unwrap().contains("not a number"));
}

#[tokio::test]
async fn checks_with_more_keys_than_a_call_takes() {
    let server = redis_server::start(&[]);
    let store = Arc::new(redis_server::open(&server.unix()));
    let charges = |n: usize, count: usize| -> Vec<Charge> {
        (0..count).map(|key| charge(&format!("{n}:{key}"), HOUR, 3)).collect()
    };
    verdicts(&*store, &charges(0, 1)).await;
    let mut checks: Vec<_> = (1..40).map(|n| charges(n, 300)).collect();
    checks.push(charges(40, 5000));
    for (n, answer) in all(&store, checks).await.into_iter().enumerate() {
        let verdicts = answer.unwrap();
        assert!(
            verdicts.len() >= 300
                && verdicts.iter().all(|verdict| verdict.admitted && verdict.remaining == 2),
            "{n}"
        );
    }
}

#[tokio::test]
async fn no_check_waits_for_a_batch() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    verdicts(&store, &[charge("k", HOUR, 1000)]).await;
    let before = scripts(&server);
    let started = std::time::Instant::now();
    for _ in 0..100 {
        verdicts(&store, &[charge("k", HOUR, 1000)]).await;
    }
    assert_eq!(scripts(&server) - before, 100, "one after the other, each goes at once");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
