//! What a cluster of three nodes does beside one of its nodes: the same checks of 50 tenants, over the
//! same client, without shards (one node counts) and with them, in turn in each round.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tollgate::store::{Opened, RedisConfig, ReplicateConfig, StoreConfig, open};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    limit::shard::{CountedWithin, ShardBy},
    time::Span,
};

use super::{
    CREDENTIALS,
    redis_cluster::{Cluster, ask},
    requests::until,
    shown,
};

/// Callers at a time.
const IN_FLIGHT: [usize; 2] = [64, 256];

/// What the nodes have done so far: script calls, and CPU time in microseconds.
type Work = Vec<[f64; 2]>;

/// Prints the table.
pub(super) async fn run(rounds: u64, seconds: u64, shards: u64) {
    let cluster = Cluster::start(0);
    let contestants = [opened(&cluster, None), opened(&cluster, Some(shards))];
    for contestant in &contestants {
        until("the copy of the revocations", async || {
            let status = contestant.store.status();
            status.up && status.replica.is_some_and(|replica| replica.age.is_some())
        })
        .await;
    }
    let checks: Arc<Vec<AdmitRequest>> = Arc::new((0..CREDENTIALS).map(check).collect());
    println!(
        "in flight | nodes that count | checks/s | script calls a check | CPU of the busiest node, us a check   (median, least-most of {rounds} rounds; {shards} shards)"
    );
    for in_flight in IN_FLIGHT {
        let mut rows = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..2 {
                let contestant = usize::from((round + turn) % 2 == 1);
                let store = &contestants[contestant];
                let length = Duration::from_secs(seconds);
                rows[contestant].push(measured(&cluster, store, &checks, in_flight, length).await);
            }
        }
        for (name, runs) in ["one", "three"].iter().zip(&rows) {
            let column = |column: usize, digits| shown(runs.iter().map(|run| run[column]), digits);
            println!(
                "{in_flight} | {name} | {} | {} | {}",
                column(0, 0),
                column(1, 3),
                column(2, 2)
            );
        }
        let ratio = |column: usize| {
            let pairs = rows[1].iter().zip(&rows[0]);
            shown(pairs.map(|(three, one)| three[column] / one[column]), 2)
        };
        println!("{in_flight} | three / one | {} | {} | {}", ratio(0), ratio(1), ratio(2));
    }
}

fn opened(cluster: &Cluster, shards: Option<u64>) -> Opened {
    let config = RedisConfig {
        deadline: Span::from_secs(10),
        replicate_revocations: Some(ReplicateConfig { max_staleness: Span::from_secs(60) }),
        shard: shards.map(|_| ShardBy::Tenant),
        shards,
        ..RedisConfig::at(cluster.url().parse().unwrap())
    };
    open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap()
}

/// A check with two limits that count within its tenant.
fn check(n: usize) -> AdmitRequest {
    let mut check = super::check(n);
    for charge in &mut check.charges {
        charge.within = CountedWithin { tenant: true, subject: false };
    }
    check
}

/// Checks a second, script calls a check, and CPU time of the busiest node in microseconds a check.
async fn measured(
    cluster: &Cluster,
    opened: &Opened,
    checks: &Arc<Vec<AdmitRequest>>,
    in_flight: usize,
    length: Duration,
) -> [f64; 3] {
    let (before, began) = (work(cluster), Instant::now());
    let callers = (0..in_flight).map(|caller| async move {
        let mut answered = 0_u64;
        let mut at = caller * 31;
        while began.elapsed() < length {
            match opened.store.admit(&checks[at % checks.len()]).await {
                Ok(AdmitResponse::Counted(_)) => answered += 1,
                other => panic!("{other:?}"),
            }
            at += in_flight;
        }
        answered
    });
    let answered = join_all(callers).await.into_iter().sum::<u64>() as f64;
    let took = began.elapsed().as_secs_f64();
    let work = work(cluster);
    let done =
        |column: usize| work.iter().zip(&before).map(move |(now, then)| now[column] - then[column]);
    let busiest = done(1).fold(0.0, f64::max);
    [answered / took, done(0).sum::<f64>() / answered, busiest / answered]
}

fn work(cluster: &Cluster) -> Work {
    let number = |text: &str, from: &str, to: char| -> f64 {
        let after = text.split_once(from).map_or("", |(_, after)| after);
        after.split([to, '\r', '\n']).next().unwrap().parse().unwrap_or(0.0)
    };
    let of = |node| {
        let calls = number(&ask(node, &["INFO", "commandstats"]), "cmdstat_evalsha:calls=", ',');
        let cpu = ask(node, &["INFO", "cpu"]);
        let seconds = number(&cpu, "used_cpu_sys:", '\n') + number(&cpu, "used_cpu_user:", '\n');
        [calls, seconds * 1e6]
    };
    cluster.nodes.iter().map(of).collect()
}
