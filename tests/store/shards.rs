//! Counters that are spread over the nodes of a real cluster, by the tenant of the credential.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, ACL_RULE, Circuit, Opened, Redis, RedisConfig, ReplicateConfig, Revocation, Store,
    StoreConfig,
};
use tollgate::{config, engine::Engine, observe};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Settled, Settlement, Usage},
    credential::dpop::{ProofRefusal, ProofUse},
    identity::Principal,
    limit::{
        Charge, Counter,
        lease::LeaseTerms,
        reservation::Reservation,
        shard::{CountedWithin, ShardBy},
    },
    revocation::{Fingerprint, Target},
    secret::{Secret, SecretSource},
    time::{Span, Timestamp},
};

use super::{
    load::Load,
    redis_cluster::Cluster,
    redis_server::section,
    requests::{ISSUER, NOW, charge, principal, until},
    settlements,
};

const HOUR: u64 = 3_600_000;

/// A cluster whose nodes have the user that docs/redis.md describes.
fn cluster() -> Cluster {
    let user = format!(
        "--user tollgate on >s3cret {ACL_RULE} ~{{tollgate.*}}:* +cluster|slots +cluster|info"
    );
    Cluster::start_with(3, 0, || {
        (tempfile::tempdir().unwrap(), user.split_whitespace().map(str::to_owned).collect())
    })
}

fn open(cluster: &Cluster) -> (Opened, Arc<Redis>) {
    open_with(sharded(cluster))
}

fn sharded(cluster: &Cluster) -> RedisConfig {
    RedisConfig {
        username: Some("tollgate".into()),
        password: Some(SecretSource::Inline(Secret::new("s3cret"))),
        shard: Some(ShardBy::Tenant),
        shards: Some(12),
        replicate_revocations: Some(ReplicateConfig { max_staleness: Span::from_secs(5) }),
        ..section(&cluster.url())
    }
}

/// A store with revocations that do not lapse.
fn open_for_long(cluster: &Cluster) -> (Opened, Arc<Redis>) {
    open_with(RedisConfig {
        replicate_revocations: Some(ReplicateConfig { max_staleness: Span::from_secs(3600) }),
        ..sharded(cluster)
    })
}

fn open_with(config: RedisConfig) -> (Opened, Arc<Redis>) {
    let config = StoreConfig::Redis(Box::new(config));
    let opened = store::open(&config, CancellationToken::new()).unwrap();
    let redis = Arc::clone(opened.redis().unwrap());
    (opened, redis)
}

/// A credential of a tenant.
fn of_tenant(tenant: usize) -> Arc<Principal> {
    principal(
        json!({ "jti": format!("j{tenant}"), "sub": "s", "tenant_id": format!("t{tenant}"), "iat": NOW }),
        &[],
    )
}

/// A charge of a limit that counts within the tenant.
fn within(name: &str, burst: u64) -> Charge {
    let within = CountedWithin { tenant: true, subject: false };
    Charge { within, ..charge(name, HOUR, burst) }
}

/// A charge of a leased limit that counts for all tenants.
fn leased(name: &str, burst: u64) -> Charge {
    Charge { lease: Some(LeaseTerms { slice: 10, life: 60_000_000 }), ..charge(name, HOUR, burst) }
}

fn request(of: &Arc<Principal>, charges: &[Charge]) -> AdmitRequest {
    let revocation = Some(Arc::clone(of.revocation()));
    AdmitRequest { revocation, charges: charges.to_vec(), ..AdmitRequest::default() }
}

/// Whether each limit admits, and what is left of it.
async fn outcome(store: &Redis, request: &AdmitRequest) -> Vec<(bool, u64)> {
    match store.admit(request).await {
        Ok(AdmitResponse::Counted(verdicts)) => {
            verdicts.iter().map(|verdict| (verdict.admitted, verdict.remaining)).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn until_copied(store: &Redis) {
    until("the copy of the revocations", async || {
        store.status().replica.is_some_and(|replica| replica.age.is_some()) && store.status().up
    })
    .await;
}

#[tokio::test]
async fn what_a_check_counts_is_in_the_slot_of_its_tenant_and_all_nodes_count() {
    let cluster = cluster();
    let (_opened, store) = open(&cluster);
    until_copied(&store).await;
    for tenant in 0..40 {
        let of = of_tenant(tenant);
        let shard = Some(ShardBy::Tenant.shard(of.revocation()));
        let held = Reservation {
            shard,
            route: None,
            ..settlements::minute(&[
                settlements::hold(&format!("day-{tenant}"), settlements::budget(100), 10, 10),
                settlements::hold(&format!("slots-{tenant}"), Counter::Slots { limit: 2 }, 1, 1),
            ])
        };
        let mut check = request(&of, &[within(&format!("rate-{tenant}"), 9)]);
        check.reservation = Some(Box::new(held.clone()));
        assert_eq!(outcome(&store, &check).await, [(true, 8), (true, 90), (true, 1)]);
        let settle = async |usage| {
            let settlement = Settlement { reservation: held.clone(), usage, report: None };
            store.settle(&[settlement]).await.unwrap()[0]
        };
        assert_eq!(settle(Usage::Running(3)).await, Settled::Renewed);
        if tenant % 2 == 0 {
            assert_eq!(settle(Usage::Final(4)).await, Settled::Charged(4));
            assert_eq!(settle(Usage::Final(4)).await, Settled::Repeated);
        }
    }
    until("the number of open reservations", async || store.status().reservations.open == Some(20))
        .await;
    // Several reports in one call reach their shards, and their answers come in their order.
    let reports: Vec<Settlement> = (0..40)
        .map(|tenant| {
            let shard = Some(ShardBy::Tenant.shard(of_tenant(tenant).revocation()));
            let held =
                [settlements::hold(&format!("day-{tenant}"), settlements::budget(100), 1, 1)];
            let reservation = Reservation { shard, ..settlements::minute(&held) };
            Settlement { reservation, usage: Usage::Final(tenant as u64), report: None }
        })
        .collect();
    let expected: Vec<Settled> = (0..40).map(Settled::Charged).collect();
    assert_eq!(store.settle(&reports).await, Ok(expected));

    let (mut nodes, mut tags) = (BTreeSet::new(), BTreeSet::new());
    for (node, key) in cluster.keys() {
        let (tag, name) = key.split_once(':').unwrap();
        if name.starts_with("count:") || name.starts_with("rate:rate-") {
            assert!(tag.starts_with("{tollgate."), "{key}");
            nodes.insert(node);
            tags.insert(tag.to_owned());
        }
    }
    assert_eq!(nodes.len(), 3, "every node counts");
    assert_eq!(tags.len(), 12, "40 tenants are in all shards");
    let status = store.status();
    assert_eq!((status.nodes.len(), status.connections), (13, 13));
    assert!(status.nodes.iter().all(|node| node.up), "{status:?}");
}

#[tokio::test]
async fn a_limit_of_all_tenants_is_leased_at_home_and_refused_checks_cost_nothing() {
    let cluster = cluster();
    let (_opened, store) = open(&cluster);
    until_copied(&store).await;
    let (one, two) = (of_tenant(1), of_tenant(2));
    // In either order of the limits, each verdict is at its place.
    let both = |own: u64| [within("own", own), leased("all", 50)];
    let verdicts = outcome(&store, &request(&one, &both(3))).await;
    assert_eq!((verdicts[0], verdicts[1].0), ((true, 2), true));
    let swapped = [leased("all", 50), within("own-2", 3)];
    let verdicts = outcome(&store, &request(&two, &swapped)).await;
    assert_eq!((verdicts[0].0, verdicts[1]), (true, (true, 2)));

    // A tenant without room does not use up what all have in common.
    for _ in 0..200 {
        let verdicts =
            outcome(&store, &request(&one, &[within("none", 0), leased("all", 50)])).await;
        assert_eq!((verdicts[0].0, verdicts[1].0), (false, true));
    }
    // What all have in common is used up: nothing is charged in the shard.
    let mut admitted = 2;
    while outcome(&store, &request(&two, &[leased("all", 50)])).await[0].0 {
        admitted += 1;
    }
    assert_eq!(admitted, 50);
    for _ in 0..5 {
        assert!(!outcome(&store, &request(&one, &both(3))).await[1].0);
    }
    assert_eq!(outcome(&store, &request(&one, &[within("own", 3)])).await, [(true, 1)]);
    let at_home: Vec<String> = cluster.keys().into_iter().map(|(_, key)| key).collect();
    assert!(at_home.iter().any(|key| key.starts_with("{tollgate}:rate:limit:")), "{at_home:?}");
}

#[tokio::test]
async fn a_proof_is_used_once_in_the_shard_of_its_credential() {
    let cluster = cluster();
    let (_opened, store) = open(&cluster);
    until_copied(&store).await;
    let of = of_tenant(1);
    let proof = |id: u8| {
        let holder = Fingerprint::from_halves([1, 2]);
        Some(Box::new(ProofUse { id: [id; 16], holder, life: Span::from_secs(600), most: 9 }))
    };
    let used = Ok(AdmitResponse::Proof(ProofRefusal::Used));
    let check = |id, charges: &[Charge]| AdmitRequest { proof: proof(id), ..request(&of, charges) };
    let room = [within("own", 9), leased("all", 50)];
    assert!(outcome(&store, &check(1, &room)).await.iter().all(|one| one.0));
    assert_eq!(store.admit(&check(1, &room)).await, used);
    // A proof is used up by a request that a limit refuses, in the shard or at home.
    for (id, full) in [(2, within("full", 0)), (3, leased("none", 0))] {
        assert!(!outcome(&store, &check(id, std::slice::from_ref(&full))).await[0].0);
        assert_eq!(store.admit(&check(id, &room)).await, used, "{id}");
    }
    let keys: Vec<String> = cluster.keys().into_iter().map(|(_, key)| key).collect();
    let proofs: Vec<&String> = keys.iter().filter(|key| key.contains(":proofs:")).collect();
    let [proofs] = proofs[..] else { panic!("{keys:?}") };
    let own = keys.iter().find(|key| key.contains(":rate:limit:") && key.starts_with("{tollgate."));
    assert_eq!(proofs.split(':').next(), own.unwrap().split(':').next());
}

#[tokio::test]
async fn a_revoked_credential_is_refused_from_the_copy_and_at_home_before_there_is_one() {
    let cluster = cluster();
    // A store without a copy queries home before the shard.
    let config = RedisConfig { shard: Some(ShardBy::Tenant), ..section(&cluster.url()) };
    let plain = Redis::open(&config, CancellationToken::new()).unwrap();
    let (good, bad) = (of_tenant(1), of_tenant(2));
    let target = Target::Jti { issuer: ISSUER.into(), jti: "j2".into() };
    let revocation =
        Revocation::new(target, Timestamp::from_secs(NOW), Span::from_secs(3600), None).unwrap();
    plain.revoke(&revocation).await.unwrap();
    let (_opened, store) = open(&cluster);
    until_copied(&store).await;
    for store in [&plain, &*store] {
        let refused = store.admit(&request(&bad, &[within("bad", 9)])).await;
        assert_eq!(refused, Ok(AdmitResponse::Revoked("jti")));
    }
    assert_eq!(outcome(&plain, &request(&good, &[within("good", 9)])).await, [(true, 8)]);
    assert_eq!(outcome(&store, &request(&good, &[within("good", 9)])).await, [(true, 7)]);
    assert!(
        !cluster
            .keys()
            .iter()
            .any(|(_, key)| key.contains(":rate:limit:") && key.starts_with("{tollgate}:"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_moves_under_load_is_followed_and_the_others_are_answered() {
    let cluster = cluster();
    let (_opened, store) = open(&cluster);
    until_copied(&store).await;
    let (moved, other) = (
        of_tenant(1),
        (2..)
            .map(of_tenant)
            .find(|of| {
                let index = |of: &Arc<Principal>| ShardBy::Tenant.shard(of.revocation()).index(12);
                index(of) != index(&of_tenant(1))
            })
            .unwrap(),
    );
    let complete = |of: &Arc<Principal>| {
        let of = Arc::clone(of);
        move |request: AdmitRequest| AdmitRequest {
            revocation: Some(Arc::clone(of.revocation())),
            ..request
        }
    };
    let load = Load::start_with(&store, within("moved", 1_000_000), complete(&moved)).await;
    let beside = Load::start_with(&store, within("beside", 1_000_000), complete(&other)).await;
    let is_counter = |key: &String| key.contains(":rate:limit:");
    let key = cluster.keys().into_iter().map(|(_, key)| key).find(is_counter).unwrap();
    let from = cluster.owner(&key);
    let to = (from + 1) % 3;
    let moving = cluster.begin_move(&key, to);
    // While the slot is on two nodes, the shards beside it are answered.
    let (a, b) = (load.admitted(), beside.admitted());
    until("answers of one of the two", async || {
        load.admitted() > a + 50 || beside.admitted() > b + 50
    })
    .await;
    cluster.finish_move(&moving);
    load.until_more(10).await;
    beside.until_more(10).await;
    for (load, of) in [(load, &moved), (beside, &other)] {
        let outcome = load.end(complete(of)).await;
        eprintln!("a shard moves: {outcome:?}");
        outcome.assert_charged_once(0);
    }
    let tag = key.split_once(':').unwrap().0.to_owned();
    assert_eq!(cluster.owner(&format!("{tag}:format")), to);
}

/// Tenants by the node that has their shard, one for each node.
async fn tenants_by_node(cluster: &Cluster, store: &Redis) -> Vec<Arc<Principal>> {
    let mut found = vec![None; 3];
    for tenant in 0.. {
        let known: BTreeSet<_> = cluster.keys().into_iter().collect();
        let of = of_tenant(tenant);
        until("a count", async || {
            let place = within(&format!("place-{tenant}"), 1_000_000);
            store.admit(&request(&of, &[place])).await.is_ok()
        })
        .await;
        let is_new = |key: &(usize, String)| key.1.contains(":rate:limit:") && !known.contains(key);
        let (node, _) = cluster.keys().into_iter().find(is_new).unwrap();
        found[node] = Some(of);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().flatten().collect()
}

/// Sends checks until the connection to a place is given up.
async fn until_lost(store: &Redis, request: &AdmitRequest) {
    until("the lost node", async || {
        store.admit(request).await.is_err() && store.status().circuit == Circuit::Open
    })
    .await;
}

#[tokio::test]
async fn a_lost_shard_uses_up_nothing_of_what_all_tenants_have_in_common() {
    let mut cluster = cluster();
    let (_opened, store) = open_for_long(&cluster);
    until_copied(&store).await;
    let tenants = tenants_by_node(&cluster, &store).await;
    let home = cluster.owner("{tollgate}:format");
    let (lost, other) = ((home + 1) % 3, (home + 2) % 3);
    cluster.nodes[lost].kill();
    let check = request(&tenants[lost], &[within("own", 1_000), leased("all", 50)]);
    until_lost(&store, &check).await;
    for _ in 0..200 {
        assert!(store.admit(&check).await.is_err());
    }
    let mut admitted = 0;
    let check = request(&tenants[other], &[within("own", 1_000), leased("all", 50)]);
    while outcome(&store, &check).await[1].0 {
        admitted += 1;
    }
    // The first of them may have had no answer, and the units of such a check are lost.
    assert!((40..=50).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn a_limit_in_shadow_at_a_lost_home_denies_nothing() {
    let mut cluster = cluster();
    let (_opened, store) = open_for_long(&cluster);
    until_copied(&store).await;
    let tenants = tenants_by_node(&cluster, &store).await;
    let home = cluster.owner("{tollgate}:format");
    let of = &tenants[(home + 1) % 3];
    // A limit in shadow is counted exactly, also where an enforced one would be leased.
    let shadow = Charge { is_shadow: true, ..charge("all", HOUR, 2) };
    let check = |own: u64| request(of, &[shadow.clone(), within("own", own)]);
    for expected in [[(true, 1), (true, 8)], [(true, 0), (true, 7)], [(false, 0), (true, 6)]] {
        assert_eq!(outcome(&store, &check(9)).await, expected);
    }
    // What the shard refuses is counted nowhere.
    let wide = Charge { burst: 9, bucket: "wide".into(), ..shadow.clone() };
    let both = |own: &str, burst| request(of, &[wide.clone(), within(own, burst)]);
    for _ in 0..5 {
        assert!(!outcome(&store, &both("none", 0)).await[1].0);
    }
    until("the units that were put back", async || {
        let verdicts = outcome(&store, &both("some", 1_000)).await;
        verdicts[0].1 >= 7
    })
    .await;

    cluster.nodes[home].kill();
    until_lost(&store, &request(of, &[leased("enforced", 50)])).await;
    for left in [5, 4, 3] {
        let verdicts = outcome(&store, &check(9)).await;
        assert!(verdicts[0].0, "it is not evaluated");
        assert_eq!(verdicts[1], (true, left));
    }
    let check = request(of, &[shadow.clone(), leased("enforced", 50), within("own", 9)]);
    assert!(store.admit(&check).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_shard_does_not_delay_the_reports_of_the_others() {
    let mut cluster = cluster();
    let (_opened, store) = open_for_long(&cluster);
    until_copied(&store).await;
    let tenants = tenants_by_node(&cluster, &store).await;
    let url = cluster.url().replace("redis+cluster://", "redis+cluster://tollgate:s3cret@");
    let text = format!(
        "audit: {{ to: none }}\nroutes: [{{ match: {{ paths: [/a] }}, public: true }}]\n\
         store: {{ redis: {{ url: '{url}', shard: tenant, replicate_revocations: {{}} }} }}"
    );
    let loaded = config::compile(&text, &|_| None).unwrap();
    let engine = Engine::start(loaded, Arc::new(observe::now)).unwrap();
    engine.settler().show_counters();
    until("the connections", async || engine.store().status().up).await;
    let metric = |name: &str| -> u64 {
        let text = engine.observer().exposition(engine.status()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().parse().unwrap()
    };
    let report = |of: &Arc<Principal>| {
        let held = [settlements::hold("day", settlements::budget(100), 1, 1)];
        let shard = Some(ShardBy::Tenant.shard(of.revocation()));
        let reservation = Reservation { shard, ..settlements::minute(&held) };
        engine.settler().submit(Settlement { reservation, usage: Usage::Final(7), report: None });
    };
    let lost = (cluster.owner("{tollgate}:format") + 1) % 3;
    cluster.nodes[lost].kill();
    report(&tenants[lost]);
    until("calls for the lost shard", async || metric("tollgate_settlement_failures_total") >= 2)
        .await;
    for (_, of) in tenants.iter().enumerate().filter(|(node, _)| *node != lost) {
        report(of);
    }
    until("the reports of the others", async || {
        metric("tollgate_settlements_total{result=\"charged\"}") == 2
    })
    .await;
    assert_eq!(metric("tollgate_settlements_dropped_total{cause=\"store\"}"), 0);
}
