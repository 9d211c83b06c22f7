//! A real Redis Cluster: the keys of a check in one slot, slots that move, nodes that are lost.

use std::{sync::Arc, time::Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, ACL_RULE, KeyUpdate, NewBan, Opened, Redis, RedisConfig, Revocation, Store, StoreConfig,
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Usage},
    ban,
    credential::dpop::ProofUse,
    identity::Principal,
    limit::{Counter, lease::LeaseTerms},
    network::Network,
    revocation::{Fingerprint, Target},
    secret::{Secret, SecretSource},
    time::{Span, Timestamp},
};

use super::{
    api_keys, bans, contract,
    load::Load,
    redis_cluster::{Cluster, SLOTS, ask, ask_ok, until_patiently},
    redis_server::{self, section},
    requests::{ISSUER, NOW, charge, principal, revoked_by, until, verdicts},
    settlements,
};

/// A key of every store, in the slot of all of its keys.
const KEY: &str = "{tollgate}:format";

fn open(config: &RedisConfig) -> Arc<Redis> {
    Arc::new(Redis::open(config, CancellationToken::new()).unwrap())
}

/// The node that the store uses now.
fn node(store: &Redis, cluster: &Cluster) -> Option<usize> {
    cluster.node_at(store.status().nodes[0].node.as_ref()?)
}

fn revocation(subject: &str) -> Revocation {
    let target = Target::Subject { issuer: ISSUER.into(), subject: subject.into() };
    Revocation::new(target, Timestamp::from_secs(NOW), Span::from_secs(3600), Some("n".into()))
        .unwrap()
}

/// Uses everything that writes keys.
async fn use_everything(redis: &Redis) {
    contract::holds(redis).await;
    settlements::holds(redis).await;
    bans::holds(redis).await;
    let subject = ban::Target::Subject { issuer: ISSUER.into(), subject: "b".into() };
    for target in [subject, ban::Target::Network(Network::host([192, 0, 2, 9].into()))] {
        redis
            .ban(&NewBan::new(target, Timestamp::from_secs(NOW), None, None).unwrap())
            .await
            .unwrap();
    }
    redis.revoke(&revocation("kept")).await.unwrap();
    let key = api_keys::made(1);
    api_keys::create(redis, &api_keys::record(&key)).await;
    let other = api_keys::made(2);
    api_keys::create(redis, &api_keys::record(&other)).await;
    let used = KeyUpdate {
        id: key.id(),
        last: Some(Timestamp::from_secs(NOW)),
        networks: vec![Network::host([192, 0, 2, 9].into())],
        notices: Vec::new(),
    };
    redis.merge_key_uses(std::slice::from_ref(&used)).await.unwrap();
    redis.remove_key(&other.id()).await.unwrap();
    assert_eq!(redis.list_keys(None, 9).await.unwrap().total, 1);
    assert!(redis.last_uses(&[key.id()]).await.unwrap()[0].is_some());
    assert_eq!(redis.list_bans(None, 9).await.unwrap().total, 2);
    let held = settlements::minute(&[
        settlements::hold("open", settlements::budget(9), 2, 1),
        settlements::hold("slots", Counter::Slots { limit: 9 }, 1, 1),
    ]);
    let terms = LeaseTerms { slice: 4, life: 60_000_000 };
    let leased = [
        tollgate_core::limit::Charge { lease: Some(terms), ..charge("leased", 3_600_000, 100) },
        charge("exact", 3_600_000, 100),
    ];
    assert!(settlements::outcome(redis, &leased, &held).await.0);
    settlements::settle(redis, &held, Usage::Running(1)).await;
    let holder = Fingerprint::from_halves([1, 2]);
    let proof = ProofUse { id: [1; 16], holder, life: Span::from_secs(600), most: 9 };
    let proven = AdmitRequest { proof: Some(Box::new(proof)), ..AdmitRequest::default() };
    assert_eq!(redis.admit(&proven).await, Ok(AdmitResponse::Counted(Vec::new())));
    redis.close().await;
}

/// Every kind of key that docs/operations.md lists for a store without shards.
const KINDS: [&str; 21] = [
    "clock",
    "revoked:",
    "revocations",
    "revocations:notes",
    "revocations:changes",
    "revocations:kinds",
    "bans",
    "bans:ends",
    "bans:notes",
    "bans:marker",
    "key:",
    "keys",
    "keys:changes",
    "key-use:",
    "rate:",
    "count:",
    "reservation:",
    "reservations",
    "settled:",
    "proofs:",
    "format",
];

#[tokio::test]
async fn all_keys_are_in_one_slot_with_tls_and_a_user_of_few_permissions() {
    let files = tempfile::tempdir().unwrap();
    let authorities = redis_server::certificates(files.path());
    let cluster = Cluster::start_with(3, 0, || {
        let user = format!("--user tollgate on >s3cret {ACL_RULE} +cluster|slots +cluster|info");
        let mut options: Vec<String> = user.split_whitespace().map(str::to_owned).collect();
        for (name, file) in [
            ("--tls-cert-file", "cert.pem"),
            ("--tls-key-file", "key.pem"),
            ("--tls-ca-cert-file", "ca.pem"),
        ] {
            options.extend([name.to_owned(), files.path().join(file).display().to_string()]);
        }
        options.extend(["--tls-auth-clients", "no", "--tls-cluster", "yes"].map(str::to_owned));
        (tempfile::tempdir().unwrap(), options)
    });
    let password = files.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let config = RedisConfig {
        username: Some("tollgate".into()),
        password: Some(SecretSource::File(password.display().to_string())),
        tls_ca: Some(authorities),
        // The nodes name each other by addresses.
        tls_name: Some("localhost".into()),
        ..section(&cluster.url_with("rediss", "localhost"))
    };
    let store = open(&config);
    use_everything(&store).await;

    let keys = cluster.keys();
    let owner = cluster.owner(KEY);
    for (node, key) in &keys {
        assert_eq!((*node, cluster.slot(key)), (owner, cluster.slot(KEY)), "{key}");
        let name = key.strip_prefix("{tollgate}:").unwrap();
        assert!(
            KINDS.iter().any(|kind| name == *kind || kind.ends_with(':') && name.starts_with(kind)),
            "{key}"
        );
    }
    for kind in KINDS {
        let prefix = format!("{{tollgate}}:{kind}");
        let is_of_kind =
            |key: &String| *key == prefix || kind.ends_with(':') && key.starts_with(&prefix);
        assert!(keys.iter().any(|(_, key)| is_of_kind(key)), "{kind} is not used");
    }
    assert_eq!(store.status().connections, 1);

    // A user without a password, and authorities that did not sign: neither is connected.
    let unknown = open(&RedisConfig { tls_ca: None, ..config.clone() });
    assert!(
        revoked_by(&*unknown, &principal(json!({ "jti": "j", "sub": "s" }), &[])).await.is_err()
    );
    let error = unknown.status().last_error.unwrap();
    assert!(error.contains("an authority that is not trusted"), "{error}");
    let wrong = Some(SecretSource::Inline(Secret::new("other")));
    let refused = open(&RedisConfig { password: wrong, ..config });
    assert!(
        revoked_by(&*refused, &principal(json!({ "jti": "j", "sub": "s" }), &[])).await.is_err()
    );
    let error = refused.status().last_error.unwrap();
    assert!(error.contains("the username or the password is wrong (WRONGPASS)"), "{error}");
}

#[tokio::test]
async fn wrong_servers_are_named_with_a_remedy() {
    let server = redis_server::start(&[]);
    let cluster = Cluster::start_with(1, 0, || (tempfile::tempdir().unwrap(), Vec::new()));
    let other = cluster.nodes[0].port();
    let single = server.port();
    for (url, parts) in [
        (
            format!("redis+cluster://127.0.0.1:{single}"),
            ["it is not a node of a Redis Cluster", "`redis://`"],
        ),
        (
            "redis+cluster://127.0.0.1:1,127.0.0.1:2".to_owned(),
            ["cannot find the cluster of 127.0.0.1:1, 127.0.0.1:2", "no server listens there"],
        ),
        (format!("redis+sentinel://127.0.0.1:{single}/m"), ["it is no Sentinel", "`redis://`"]),
        (
            "redis+sentinel://127.0.0.1:1/m".to_owned(),
            ["cannot find the primary `m` of the sentinels 127.0.0.1:1", "no server listens there"],
        ),
    ] {
        let store = open(&section(&url));
        let asked = principal(json!({ "jti": "j", "sub": "s" }), &[]);
        assert!(revoked_by(&*store, &asked).await.is_err());
        let error = store.status().last_error.unwrap();
        assert!(parts.iter().all(|part| error.contains(part)), "{url}: {error}");
    }
    // A URL of one server for a node that has all slots works; the slots of others do not.
    let store = open(&section(&format!("redis://127.0.0.1:{other}")));
    assert_eq!(verdicts(&*store, &[charge("one", 1000, 2)]).await[0].remaining, 1);
    let slot = cluster.slot(KEY).to_string();
    ask_ok(&cluster.nodes[0], &["CLUSTER", "DELSLOTS", &slot]);
    until("an error", async || {
        let _ = store.admit(&super::requests::charging(&[charge("one", 1000, 2)])).await;
        let error = store.status().last_error.unwrap_or_default();
        error.contains("the cluster has no node for the keys")
    })
    .await;
    let first = usize::from(SLOTS);
    assert!(
        ask(&cluster.nodes[0], &["CLUSTER", "INFO"])
            .contains(&format!("cluster_slots_assigned:{}", first - 1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_load_is_followed_and_nothing_is_charged_twice() {
    let cluster = Cluster::start(0);
    let store = open(&section(&cluster.url()));
    let (revoked, other) = (
        principal(json!({ "jti": "r", "sub": "revoked", "iat": NOW }), &[]),
        principal(json!({ "jti": "o", "sub": "other", "iat": NOW }), &[]),
    );
    store.revoke(&revocation("revoked")).await.unwrap();
    let load = Load::start(&store, "moved").await;
    let from = node(&store, &cluster).unwrap();
    assert_eq!(from, cluster.owner(KEY));

    // A slot whose keys are partly at one node and partly at another answers no script.
    let to = (from + 1) % 3;
    let moving = cluster.begin_move(KEY, to);
    let begun = Instant::now();
    until("checks are not answered", async || {
        store.admit(&super::requests::about(&other)).await.is_err()
    })
    .await;
    assert_ne!(revoked_by(&*store, &revoked).await, Ok(None), "a revoked credential never passes");
    let before = store.status().connections;
    cluster.finish_move(&moving);
    let moved = Instant::now();
    until("the new node", async || node(&store, &cluster) == Some(to)).await;
    load.until_more(10).await;
    eprintln!(
        "resharding: keys between two nodes for {:?}, then answered again after {:?}",
        moved - begun,
        moved.elapsed()
    );
    assert_eq!(revoked_by(&*store, &revoked).await, Ok(Some("subject")));
    assert_eq!(revoked_by(&*store, &other).await, Ok(None));
    assert!(store.status().connections - before <= 5, "{:?}", store.status());

    // A slot without keys between two nodes moves within an instant: every check is answered.
    load.forget_gaps();
    let back = cluster.begin_move(KEY, from);
    cluster.finish_move(&back);
    until("the first node", async || node(&store, &cluster) == Some(from)).await;
    load.until_more(10).await;
    let outcome = load.end(|request| request).await;
    eprintln!("resharding: {outcome:?}, longest {:?}", outcome.longest);
    outcome.assert_charged_once(0);
}

/// A store with a deadline of the product that copies the bans, and a load on it; a credential is
/// revoked.
struct Running {
    cluster: Cluster,
    store: Arc<Redis>,
    load: Load,
    revoked: Arc<Principal>,
    /// How many checks were admitted while a primary was replaced: as replication is asynchronous, it
    /// may lose what was written to it meanwhile.
    lost: u64,
    _opened: Opened,
}

impl Running {
    async fn start() -> Self {
        let cluster = Cluster::start(1);
        let deadline = Span::from_millis(100);
        let config = RedisConfig { deadline, ..section(&cluster.url()) };
        let opened =
            store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap();
        let store = Arc::clone(opened.redis().unwrap());
        let revoked = principal(json!({ "jti": "r", "sub": "revoked", "iat": NOW }), &[]);
        until("a revocation", async || store.revoke(&revocation("revoked")).await.is_ok()).await;
        let load = Load::start(&store, "failover").await;
        Self { cluster, store, load, revoked, lost: 0, _opened: opened }
    }

    /// Does something to the primary of the keys, and waits until checks are answered by `to`.
    async fn replaces(&mut self, what: &str, to: usize, event: impl FnOnce(&mut Cluster)) {
        let primary = self.cluster.owner(KEY);
        redis_server::until_copied(&self.cluster.nodes[primary]);
        let (admitted, connections) = (self.load.admitted(), self.store.status().connections);
        let begun = Instant::now();
        event(&mut self.cluster);
        until_patiently("the other node", async || node(&self.store, &self.cluster) == Some(to))
            .await;
        self.lost += self.load.admitted() - admitted;
        self.load.until_more(10).await;
        let (took, made) = (begun.elapsed(), self.store.status().connections - connections);
        eprintln!("cluster, {what}: answered again after {took:?}, {made} connections");
        assert!(made <= 6 + took.as_secs(), "{made} connections in {took:?}");
        assert_ne!(revoked_by(&*self.store, &self.revoked).await, Ok(None));
    }

    async fn end(self) {
        until("the revocation", async || {
            revoked_by(&*self.store, &self.revoked).await == Ok(Some("subject"))
        })
        .await;
        let outcome = self.load.end(|request| request).await;
        eprintln!("cluster: {outcome:?}, {} at most were lost", self.lost);
        outcome.assert_charged_once(self.lost);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_demoted_and_one_that_is_cut_off_are_replaced() {
    let mut running = Running::start().await;
    let first = running.cluster.owner(KEY);
    let replica = 3 + first;
    running.replaces("demoted", replica, |cluster| cluster.fail_over(replica)).await;
    let copies = |cluster: &Cluster, node: usize| {
        ask(&cluster.nodes[node], &["INFO", "replication"]).contains("master_link_status:up")
    };
    until("a copy", async || copies(&running.cluster, first)).await;
    // A partition: the node keeps its connections, and answers nothing.
    running.replaces("cut off", first, |cluster| cluster.nodes[replica].freeze()).await;
    running.cluster.nodes[replica].thaw();
    until("a copy", async || copies(&running.cluster, replica)).await;
    running.load.until_more(10).await;
    assert_eq!(node(&running.store, &running.cluster), Some(first), "the old one is not used");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_lost_is_replaced() {
    let mut running = Running::start().await;
    let first = running.cluster.owner(KEY);
    running.replaces("lost", 3 + first, |cluster| cluster.nodes[first].kill()).await;
    running.end().await;
}
