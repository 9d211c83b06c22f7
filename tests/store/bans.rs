//! Bans: one contract for memory and Redis, random histories that compare the two, and the copy of
//! each replica.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    self, ACL_RULE, AutomaticBan, BanQuery, BegunBan, LocalConfig, Memory, MemoryConfig, NewBan,
    RedisConfig, ReplicateConfig, Store, StoreConfig, until as end_of,
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    ban::{Ban, BanDurations, Kind, Target, parse_network},
    credential::api_key::ISSUER as API_KEYS,
    identity::KeyId,
    limit::escrow::EscrowConfig,
    revocation::{Keys, Names, issuer_digest},
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, Server, section},
    requests::{ISSUER, NOW, about, charge, principal, until, verdicts},
};

fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(u64::try_from(now.as_micros()).unwrap())
}

/// A moment in whole seconds from now.
fn after(seconds: u64) -> Timestamp {
    Timestamp::from_secs(now().secs() + seconds)
}

fn new(target: Target, until: Option<Timestamp>, reason: Option<&str>) -> NewBan {
    NewBan::new(target, now(), until, reason.map(str::to_owned)).unwrap()
}

fn subject(name: &str) -> Target {
    Target::Subject { issuer: ISSUER.into(), subject: name.into() }
}

fn actor(issuer: &str, name: &str) -> Target {
    Target::Actor { issuer: issuer.into(), actor: name.into() }
}

fn network(text: &str) -> Target {
    Target::Network(parse_network(text).unwrap())
}

/// A check of an API key.
fn of_key(id: KeyId) -> AdmitRequest {
    let names = Names {
        issuer: &issuer_digest(API_KEYS),
        token: [1; 32],
        jti: Some(id.as_str()),
        subject: "ci",
        subject_is_client: false,
        client: None,
        tenant: None,
    };
    let keys = Arc::new(Keys::new(names, NOW, Vec::new()));
    AdmitRequest { revocation: Some(keys), ..AdmitRequest::default() }
}

/// A check of `ada`, with a tenant and a client, from an address.
fn check(address: &str) -> AdmitRequest {
    let claims = json!({
        "jti": "7Jk2mN4pQ8rT", "sub": "ada", "iat": NOW, "tenant_id": "acme", "client_id": "app",
        "act": { "sub": "planner", "act": { "sub": "buyer", "iss": "https://agents.example.com" } },
    });
    AdmitRequest { address: address.parse().ok(), ..about(&principal(claims, &[])) }
}

async fn ban_of(store: &dyn Store, check: &AdmitRequest) -> Option<Ban> {
    match store.admit(check).await {
        Ok(AdmitResponse::Banned(ban)) => Some(ban),
        Ok(AdmitResponse::Counted(_)) => None,
        other => panic!("{other:?}"),
    }
}

async fn keys(store: &dyn Store) -> Vec<String> {
    store.list_bans(None, 100).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

/// The contract. `store` is empty before and after.
pub(super) async fn holds(store: &dyn Store) {
    let check = check("192.0.2.7");
    assert_eq!(ban_of(store, &check).await, None);
    assert_eq!((store.lift(&subject("ada")).await, keys(store).await), (Ok(false), vec![]));
    each_kind_bans_what_it_names(store, &check).await;
    bans_are_extended_and_never_shortened(store, &check).await;
    bans_end(store, &check).await;
    automatic_bans_are_known_and_refuse_no_call(store, &check).await;
    lists_and_questions(store).await;
    bans_that_end_together_are_listed_once(store).await;
    a_banned_check_is_not_counted(store, &check).await;
}

/// Waits until the network of an address is banned as expected, as far as a store knows without a call.
/// A connection without a copy of the bans knows none.
async fn known_ban(store: &dyn Store, address: &str, expected: Option<Ban>) {
    if store.status().bans.is_some() {
        let address: IpAddr = address.parse().unwrap();
        until("the ban is known", async || store.network_ban(address) == expected).await;
    }
}

/// An automatic ban grows, is another one than that of an operator, and is lifted with it.
async fn automatic_bans_are_known_and_refuse_no_call(store: &dyn Store, check: &AdmitRequest) {
    let durations = BanDurations {
        first: Span::from_secs(100),
        longest: Span::from_secs(350),
        remember: Span::from_secs(1000),
    };
    let of = |text: &str, durations| AutomaticBan {
        network: parse_network(text).unwrap(),
        durations,
        reason: "automatic: 120 failed credentials in 60 s".into(),
    };
    let ban = of("192.0.2.0/24", durations);
    let begun = store.begin_ban(&ban).await.unwrap();
    assert_eq!((begun.number, begun.is_new), (1, true));
    let again = store.begin_ban(&ban).await.unwrap();
    assert_eq!(again, BegunBan { is_new: false, ..begun.clone() }, "one is in force");
    let automatic = Ban { kind: Kind::AutomaticNetwork, until: Some(begun.until) };
    known_ban(store, "192.0.2.7", Some(automatic)).await;
    known_ban(store, "192.0.3.7", None).await;
    assert_eq!(ban_of(store, check).await, None, "the credential was let through");

    let listed = store.list_bans(None, 100).await.unwrap().entries;
    let [entry] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(Kind::of_key(&entry.key), Some(Kind::AutomaticNetwork));
    assert_eq!(entry.note.as_deref(), Some("automatic: 120 failed credentials in 60 s"));
    assert_eq!(end_of(entry), Some(begun.until));
    assert_eq!(entry.ends.secs() - entry.at.secs(), 100);
    for query in [
        BanQuery::Address("192.0.2.200".parse().unwrap()),
        BanQuery::Target(network("192.0.2.0/24")),
    ] {
        assert_eq!(store.bans_of(&query).await.unwrap(), listed, "{query:?}");
    }

    // An operator's ban of the same network decides while it holds, and both are lifted.
    store.ban(&new(network("192.0.2.0/24"), None, None)).await.unwrap();
    known_ban(store, "192.0.2.7", Some(Ban { kind: Kind::Network, until: None })).await;
    assert!(ban_of(store, check).await.is_some());
    assert_eq!(keys(store).await.len(), 2);
    assert_eq!(store.lift(&network("192.0.2.0/24")).await, Ok(true));
    assert_eq!(keys(store).await, [""; 0]);
    known_ban(store, "192.0.2.7", None).await;
    assert_eq!(store.lift(&network("192.0.2.0/24")).await, Ok(false));

    // The next one is a first one after that; one that has ended is remembered.
    let begun = store.begin_ban(&of("192.0.2.0/24", durations)).await.unwrap();
    assert_eq!((begun.number, begun.is_new), (1, true));
    assert_eq!(store.lift(&network("192.0.2.0/24")).await, Ok(true));
    let short = BanDurations { first: Span::from_secs(1), ..durations };
    let begun = store.begin_ban(&of("2001:db8::/64", short)).await.unwrap();
    assert_eq!((begun.number, begun.is_new), (1, true));
    until("the first ban has ended", async || {
        let begun = store.begin_ban(&of("2001:db8::/64", durations)).await.unwrap();
        assert_eq!(begun.number, if begun.is_new { 2 } else { 1 });
        begun.is_new
    })
    .await;
    let listed = store.list_bans(None, 100).await.unwrap().entries;
    let lengths: Vec<u64> =
        listed.iter().map(|entry| entry.ends.secs() - entry.at.secs()).collect();
    assert_eq!(lengths, [200], "twice as long as a first one");
    assert_eq!(store.lift(&network("2001:db8::/64")).await, Ok(true));
    assert_eq!(keys(store).await, [""; 0]);
}

async fn each_kind_bans_what_it_names(store: &dyn Store, check: &AdmitRequest) {
    let issuer = || ISSUER.to_owned();
    for (target, spared) in [
        (subject("ada"), subject("bob")),
        (
            Target::Client { issuer: issuer(), client: "app".into() },
            Target::Client { issuer: "https://other".into(), client: "app".into() },
        ),
        (Target::Tenant { tenant: "acme".into() }, Target::Tenant { tenant: "acm".into() }),
        (actor(ISSUER, "ada"), actor("https://other", "ada")),
        (actor(ISSUER, "app"), actor(ISSUER, "acme")),
        (actor(ISSUER, "planner"), actor("https://agents.example.com", "planner")),
        (actor("https://agents.example.com", "buyer"), actor(ISSUER, "buyer")),
        (network("192.0.2.7"), network("192.0.2.6")),
        (network("192.0.2.0/24"), network("192.0.3.0/24")),
        (network("128.0.0.0/1"), network("0.0.0.0/1")),
        (network("192.0.2.6/31"), network("2001:db8::/32")),
    ] {
        store.ban(&new(spared.clone(), None, None)).await.unwrap();
        assert_eq!(ban_of(store, check).await, None, "{spared:?}");
        let end = after(3600);
        store.ban(&new(target.clone(), Some(end), None)).await.unwrap();
        let expected = Ban { kind: target.kind(), until: Some(end) };
        assert_eq!(ban_of(store, check).await, Some(expected), "{target:?}");
        assert_eq!(store.lift(&target).await, Ok(true));
        assert_eq!(ban_of(store, check).await, None, "{target:?}");
        assert_eq!(store.lift(&target).await, Ok(false));
        assert_eq!(store.lift(&spared).await, Ok(true));
    }
    let id: KeyId = "7Jk2mN4pQ8rT".parse().unwrap();
    let key = of_key(id);
    store.ban(&new(Target::Key { id: "7Jk2mN4pQ8rU".parse().unwrap() }, None, None)).await.unwrap();
    assert_eq!(ban_of(store, &key).await, None);
    store.ban(&new(Target::Key { id }, None, None)).await.unwrap();
    assert_eq!(ban_of(store, &key).await, Some(Ban { kind: Kind::Key, until: None }));
    assert_eq!(ban_of(store, check).await, None, "the token of another issuer with this jti");
    for id in ["7Jk2mN4pQ8rT", "7Jk2mN4pQ8rU"] {
        assert_eq!(store.lift(&Target::Key { id: id.parse().unwrap() }).await, Ok(true));
    }
    // The network is reported before the holder, and of each the ban that ends last.
    let ends = [after(100), after(200), after(300), after(400)];
    for (target, end) in
        [network("192.0.2.7"), network("192.0.0.0/16"), subject("ada"), network("192.0.3.0/24")]
            .into_iter()
            .zip(ends)
    {
        store.ban(&new(target, Some(end), None)).await.unwrap();
    }
    let of_network = Ban { kind: Kind::Network, until: Some(ends[1]) };
    assert_eq!(ban_of(store, check).await, Some(of_network));
    let of_holder = Ban { kind: Kind::Subject, until: Some(ends[2]) };
    let unknown = AdmitRequest { address: None, ..check.clone() };
    assert_eq!(ban_of(store, &unknown).await, Some(of_holder));
    store.lift(&network("192.0.0.0/16")).await.unwrap();
    let narrow = Ban { kind: Kind::Network, until: Some(ends[0]) };
    assert_eq!(ban_of(store, check).await, Some(narrow));
    for target in [network("192.0.2.7"), subject("ada"), network("192.0.3.0/24")] {
        assert_eq!(store.lift(&target).await, Ok(true));
    }
}

async fn bans_are_extended_and_never_shortened(store: &dyn Store, check: &AdmitRequest) {
    let (near, far) = (after(100), after(200));
    for (end, reason, expected) in [
        (Some(near), Some("scraper"), (Some(near), Some("scraper"))),
        (Some(far), None, (Some(far), Some("scraper"))),
        (Some(near), Some("again"), (Some(far), Some("again"))),
        (None, None, (None, Some("again"))),
        (Some(near), None, (None, Some("again"))),
    ] {
        let entry = store.ban(&new(subject("ada"), end, reason)).await.unwrap();
        assert_eq!((end_of(&entry), entry.note.as_deref()), expected);
        let ban = Ban { kind: Kind::Subject, until: expected.0 };
        assert_eq!(ban_of(store, check).await, Some(ban));
        let listed = store.list_bans(None, 10).await.unwrap();
        assert_eq!((listed.total, &listed.entries[..]), (1, &[entry][..]));
    }
    assert_eq!(store.lift(&subject("ada")).await, Ok(true));
}

async fn bans_end(store: &dyn Store, check: &AdmitRequest) {
    for target in [subject("ada"), network("192.0.2.0/24")] {
        store.ban(&new(target.clone(), Some(after(2)), None)).await.unwrap();
        assert!(ban_of(store, check).await.is_some(), "{target:?}");
        until("the ban ends", async || ban_of(store, check).await.is_none()).await;
        assert_eq!((store.lift(&target).await, keys(store).await), (Ok(false), vec![]));
        // A ban that has ended is no earlier ban of the same target.
        let end = after(60);
        let entry = store.ban(&new(target.clone(), Some(end), None)).await.unwrap();
        assert_eq!((entry.ends, entry.note), (end, None));
        assert_eq!(store.lift(&target).await, Ok(true));
    }
}

async fn lists_and_questions(store: &dyn Store) {
    let ends = [Some(after(300)), Some(after(100)), None];
    let targets = [network("2001:db8::/32"), subject("ada"), network("2001:db8::1")];
    for (target, end) in targets.iter().zip(ends) {
        store.ban(&new(target.clone(), end, Some("a reason ü"))).await.unwrap();
    }
    let expected = [targets[1].key(), targets[0].key(), targets[2].key()];
    assert_eq!(keys(store).await, expected, "in the order of their ends");
    let first = store.list_bans(None, 1).await.unwrap();
    assert_eq!(first.next, Some(first.entries[0].position()));
    let page = store.list_bans(first.next.as_ref(), 1).await.unwrap();
    assert_eq!((page.total, page.entries.len(), &page.entries[0].key), (3, 1, &expected[1]));
    let third = store.list_bans(page.next.as_ref(), 1).await.unwrap();
    assert_eq!((&third.entries[0].key, third.next), (&expected[2], None));
    let last = third.entries[0].position();
    assert_eq!(store.list_bans(Some(&last), 10).await.unwrap().entries, []);
    let entry = &page.entries[0];
    let written = (entry.kind(), end_of(entry), entry.note.as_deref());
    assert_eq!(written, ("network", ends[0], Some("a reason ü")));
    assert!(now().secs() - entry.at.secs() < 60);

    let found = async |query: BanQuery| -> Vec<String> {
        store.bans_of(&query).await.unwrap().into_iter().map(|entry| entry.key).collect()
    };
    let address = |text: &str| BanQuery::Address(text.parse().unwrap());
    assert_eq!(found(address("2001:db8::1")).await, [targets[0].key(), targets[2].key()]);
    assert_eq!(found(address("2001:db8::2")).await, [targets[0].key()]);
    assert_eq!(found(address("192.0.2.7")).await, [""; 0]);
    assert_eq!(found(BanQuery::Target(subject("ada"))).await, [targets[1].key()]);
    assert_eq!(found(BanQuery::Target(subject("bob"))).await, [""; 0]);
    assert_eq!(found(BanQuery::Target(network("2001:db8::/48"))).await, [""; 0]);
    for target in &targets {
        assert_eq!(store.lift(target).await, Ok(true));
    }
    assert_eq!(keys(store).await, [""; 0]);
}

/// Most bans have no end, and so the same place by their ends.
async fn bans_that_end_together_are_listed_once(store: &dyn Store) {
    let targets = (0..20).map(|name| Target::Tenant { tenant: format!("tenant-{name}") });
    let targets: Vec<Target> = targets.collect();
    for target in &targets {
        store.ban(&new(target.clone(), None, None)).await.unwrap();
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_bans(after.as_ref(), 3).await.unwrap();
        listed.extend(page.entries.iter().map(|entry| entry.key.clone()));
        // The first and the last ban of a page are lifted before the next one is read.
        for entry in page.entries.first().into_iter().chain(page.entries.last()) {
            let target = targets.iter().find(|target| target.key() == entry.key).unwrap();
            store.lift(target).await.unwrap();
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected: Vec<String> = targets.iter().map(Target::key).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    for target in &targets {
        store.lift(target).await.unwrap();
    }
}

async fn a_banned_check_is_not_counted(store: &dyn Store, check: &AdmitRequest) {
    let charges = vec![charge("banned", 3_600_000, 5)];
    let counted = AdmitRequest { charges: charges.clone(), ..check.clone() };
    for target in [subject("ada"), network("192.0.2.7")] {
        store.ban(&new(target.clone(), None, None)).await.unwrap();
        for _ in 0..3 {
            let ban = Ban { kind: target.kind(), until: None };
            assert_eq!(store.admit(&counted).await, Ok(AdmitResponse::Banned(ban)));
        }
        store.lift(&target).await.unwrap();
    }
    assert_eq!(verdicts(store, &charges).await[0].remaining, 4);
}

#[tokio::test]
async fn memory_holds_the_contract() {
    let store = Memory::new(&MemoryConfig::default());
    holds(&store).await;
    assert_eq!(store.status().bans.unwrap().counts, [0; 7]);
}

fn names_left(server: &Server) -> Vec<String> {
    let mut names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut server.client()).unwrap();
    names.retain(|name| !name.contains(":rate:") && !name.ends_with(":clock"));
    names.sort();
    names
}

#[tokio::test]
async fn redis_holds_the_contract() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    holds(&store).await;
    // Without bans nothing of them is left, and a check finds no marker.
    assert_eq!(names_left(&server), ["{tollgate}:format", "{tollgate}:revocations:changes"]);
}

#[tokio::test]
async fn a_replica_holds_the_contract() {
    let server = redis_server::start(&[]);
    // The copy lags behind by milliseconds, so that each change is waited for here.
    let store = Followed { inner: open(plain(&server)), server: &server };
    store.until_followed().await;
    let check = check("192.0.2.7");
    for target in [subject("ada"), network("192.0.2.0/24"), network("192.0.2.7")] {
        let end = after(100);
        store.inner.ban(&new(target.clone(), Some(end), None)).await.unwrap();
        let expected = Some(Ban { kind: target.kind(), until: Some(end) });
        assert_eq!(ban_of(&*store.inner, &check).await, expected, "before the copy has it, too");
        until("the copy has the ban", async || store.known() == 1).await;
        assert_eq!(ban_of(&*store.inner, &check).await, expected);
        let known = store.inner.network_ban("192.0.2.7".parse().unwrap());
        assert_eq!(known, expected.filter(|ban| ban.kind == Kind::Network));
        store.inner.lift(&target).await.unwrap();
        until("the copy forgets it", async || store.known() == 0).await;
        assert_eq!(ban_of(&*store.inner, &check).await, None);
    }
}

/// Random bans and checks in memory and in Redis, with one answer.
#[tokio::test]
async fn memory_and_redis_give_the_same_answers() {
    let server = redis_server::start(&[]);
    let shared = redis_server::open(&server.unix());
    let mut random = StdRng::seed_from_u64(20);
    let base = now().secs();
    for _ in 0..15 {
        let memory = Memory::new(&MemoryConfig::default());
        redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
        for _ in 0..60 {
            let target = target(&mut random);
            if random.random_ratio(1, 3) {
                assert_eq!(memory.lift(&target).await, shared.lift(&target).await, "{target:?}");
            } else {
                let end = random
                    .random_ratio(3, 4)
                    .then(|| Timestamp::from_secs(base + 10_000 + random.random_range(0..50)));
                let ban = new(target, end, None);
                let (one, other) = (memory.ban(&ban).await, shared.ban(&ban).await);
                assert_eq!(one.map(|entry| entry.ends), other.map(|entry| entry.ends));
            }
            let address = address(&mut random);
            let check = check(&address);
            let known = memory.admit(&check).await;
            assert_eq!(known, shared.admit(&check).await, "{address}");
            if let Ok(AdmitResponse::Banned(ban)) = known
                && ban.kind == Kind::Network
            {
                assert_eq!(memory.network_ban(address.parse().unwrap()), Some(ban));
            }
        }
        let (one, other) = (
            memory.list_bans(None, 1000).await.unwrap(),
            shared.list_bans(None, 1000).await.unwrap(),
        );
        assert_eq!(one.total, other.total);
        for entry in &one.entries {
            assert!(other.entries.iter().any(|same| same.key == entry.key), "{entry:?}");
        }
    }
}

fn address(random: &mut StdRng) -> String {
    let four = ["192.0.2.7", "192.0.2.8", "10.255.0.1", "::ffff:192.0.2.7"];
    let six = ["2001:db8::1", "2001:db8:8000::1", "2001:db8::8000:0:0:1", "::1", "ffff::"];
    let all: Vec<&str> = four.into_iter().chain(six).chain(["none"]).collect();
    (*all.choose(random).unwrap()).to_owned()
}

fn target(random: &mut StdRng) -> Target {
    match random.random_range(0..8) {
        0 => subject(["ada", "bob"].choose(random).unwrap()),
        1 => Target::Client { issuer: ISSUER.into(), client: "app".into() },
        2 => Target::Tenant { tenant: "acme".into() },
        3 => actor(ISSUER, ["ada", "planner"].choose(random).unwrap()),
        _ => loop {
            let Ok(address) = address(random).parse::<IpAddr>() else { continue };
            let all: Vec<_> = tollgate_core::network::Network::around(address)
                .filter(|network| !network.contains_all_ipv4())
                .collect();
            break Target::Network(*all.choose(random).unwrap());
        },
    }
}

fn open(config: RedisConfig) -> Arc<dyn Store> {
    store::open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap().store
}

fn plain(server: &Server) -> RedisConfig {
    RedisConfig { deadline: Span::from_secs(2), ..section(&server.unix()) }
}

fn replicating(server: &Server) -> RedisConfig {
    let replicate = ReplicateConfig { max_staleness: Span::from_secs(1) };
    RedisConfig { replicate_revocations: Some(replicate), ..plain(server) }
}

/// A store with a copy of the bans.
struct Followed<'a> {
    inner: Arc<dyn Store>,
    server: &'a Server,
}

impl Followed<'_> {
    fn known(&self) -> u64 {
        self.inner.status().bans.unwrap().counts.iter().sum()
    }

    async fn until_followed(&self) {
        until("the copy is read and followed", async || {
            let clients: String =
                redis::cmd("CLIENT").arg("LIST").query(&mut self.server.client()).unwrap();
            self.inner.status().bans.unwrap().age.is_some() && clients.contains("cmd=xread")
        })
        .await;
    }
}

#[tokio::test]
async fn a_ban_and_its_end_reach_two_replicas_within_a_second() {
    for config in [plain, replicating] {
        let server = redis_server::start(&[]);
        let replicas = [open(config(&server)), open(config(&server))];
        let admin = redis_server::open(&server.unix());
        until("both replicas have read the bans", async || {
            replicas.iter().all(|store| store.status().bans.unwrap().age.is_some())
        })
        .await;
        let check = check("192.0.2.7");
        let address: IpAddr = [192, 0, 2, 7].into();
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let target = if round % 2 == 0 { subject("ada") } else { network("192.0.2.0/24") };
            for banned in [true, false] {
                if banned {
                    admin.ban(&new(target.clone(), None, None)).await.unwrap();
                } else {
                    assert_eq!(admin.lift(&target).await, Ok(true));
                }
                let started = Instant::now();
                for store in &replicas {
                    until("the change applies", async || {
                        let known = store.network_ban(address).is_some();
                        ban_of(&**store, &check).await.is_some() == banned
                            && known == (banned && target.kind() == Kind::Network)
                    })
                    .await;
                }
                slowest = slowest.max(started.elapsed());
            }
        }
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    }
}

#[tokio::test]
async fn a_known_ban_holds_while_redis_is_down_and_after_a_restart() {
    let mut server = redis_server::start(&["--appendonly", "yes"]);
    let seconds = Span::from_secs;
    let local = LocalConfig {
        replicas: 1,
        refresh: seconds(1),
        max_staleness: seconds(60),
        max_buckets: 9,
        escrow: EscrowConfig::default(),
    };
    let configs = [
        plain(&server),
        replicating(&server),
        RedisConfig { local: Some(local), ..plain(&server) },
    ];
    let stores = configs.map(open);
    for target in [subject("ada"), network("2001:db8::/32")] {
        stores[0].ban(&new(target, None, None)).await.unwrap();
    }
    for store in &stores {
        until("the copy has both", async || {
            store.status().bans.unwrap().counts.iter().sum::<u64>() == 2
        })
        .await;
    }
    let (holder, stranger) = (check("none"), check("2001:db8::1"));
    let free = about(&principal(json!({ "jti": "b", "sub": "bob", "iat": NOW }), &[]));
    server.kill();
    for store in &stores {
        until("redis is unreachable", async || store.admit(&free).await.is_err()).await;
        for _ in 0..3 {
            let ban = ban_of(&**store, &holder).await;
            assert_eq!(ban, Some(Ban { kind: Kind::Subject, until: None }));
            let ban = Some(Ban { kind: Kind::Network, until: None });
            assert_eq!(ban_of(&**store, &stranger).await, ban);
            assert_eq!(store.network_ban("2001:db8::1".parse().unwrap()), ban);
        }
        assert!(store.bans_of(&BanQuery::Target(subject("ada"))).await.is_err());
    }

    server.restart();
    for config in [plain, replicating] {
        let store = open(config(&server));
        until("the bans of before are read", async || {
            store.status().bans.unwrap().counts.iter().sum::<u64>() == 2
        })
        .await;
        assert!(ban_of(&*store, &holder).await.is_some());
        assert!(ban_of(&*store, &stranger).await.is_some());
    }
}

#[tokio::test]
async fn the_documented_user_may_ban_and_lift() {
    let user = format!("--user tollgate on >s3cret {ACL_RULE}");
    let server = redis_server::start(&user.split_whitespace().collect::<Vec<_>>());
    let url = format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port());
    holds(&redis_server::open(&url)).await;
    let store = open(section(&url));
    until("the copy is read", async || store.status().bans.unwrap().age.is_some()).await;
}

#[tokio::test]
async fn bans_of_a_newer_format_are_neither_read_nor_written() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let ban = new(subject("ada"), None, None);
    store.ban(&ban).await.unwrap();
    let mut client = server.client();
    redis::cmd("SET").arg("{tollgate}:format").arg("2").exec(&mut client).unwrap();
    assert_eq!(store.admit(&check("none")).await, Err(Outage::Refused));
    assert_eq!(store.ban(&ban).await, Err(Outage::Refused));
    assert_eq!(store.lift(&subject("ada")).await, Err(Outage::Refused));
    assert_eq!(store.list_bans(None, 10).await, Err(Outage::Refused));
    assert_eq!(store.bans_of(&BanQuery::Target(subject("ada"))).await, Err(Outage::Refused));
    redis::cmd("DEL").arg("{tollgate}:format").exec(&mut client).unwrap();
    assert!(ban_of(&store, &check("none")).await.is_some());
    store.ban(&ban).await.unwrap();
    let format: String = redis::cmd("GET").arg("{tollgate}:format").query(&mut client).unwrap();
    assert_eq!(format, "1", "a ban writes the marker");
}

#[tokio::test]
async fn checks_of_one_call_are_banned_each_by_itself() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    for target in [network("192.0.2.0/24"), subject("bob"), network("2001:db8::/33")] {
        store.ban(&new(target, None, None)).await.unwrap();
    }
    let of = |name: &str, address: &str| {
        let holder = principal(json!({ "jti": name, "sub": name, "iat": NOW }), &[]);
        let charges = vec![charge(name, 3_600_000, 100)];
        AdmitRequest { address: address.parse().ok(), charges, ..about(&holder) }
    };
    let checks = [
        (of("ada", "192.0.2.1"), Some(Kind::Network)),
        (of("ada", "192.0.3.1"), None),
        (of("bob", "none"), Some(Kind::Subject)),
        (of("bob", "2001:db8:7fff::1"), Some(Kind::Network)),
        (of("ada", "2001:db8:8000::1"), None),
        (of("ada", "none"), None),
    ];
    // The first call is in progress while the others arrive, and are sent in one.
    for _ in 0..20 {
        let answers =
            join_all(checks.iter().cycle().take(30).map(|(check, _)| store.admit(check))).await;
        for (answer, (check, expected)) in answers.into_iter().zip(checks.iter().cycle()) {
            let kind = match answer.unwrap() {
                AdmitResponse::Banned(ban) => Some(ban.kind),
                AdmitResponse::Counted(verdicts) => {
                    assert_eq!(verdicts.len(), 1);
                    None
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(kind, *expected, "{check:?}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_missed_changes_reads_all_bans_again() {
    let server = redis_server::start(&[]);
    let store = open(plain(&server));
    let admin = redis_server::open(&server.unix());
    for target in [subject("ada"), network("192.0.2.0/24")] {
        admin.ban(&new(target, None, None)).await.unwrap();
    }
    let known = || store.status().bans.unwrap().counts;
    until("the copy has both", async || {
        known() == [1, 1, 0, 0, 0, 0, 0] && store.status().bans.unwrap().age.is_some()
    })
    .await;
    // A lifted ban whose change is gone, and one more ban.
    let mut step = redis::pipe();
    step.atomic();
    for key in ["{tollgate}:bans:ends", "{tollgate}:bans:notes"] {
        step.cmd("HDEL").arg(key).arg(subject("ada").key());
    }
    step.cmd("ZREM").arg("{tollgate}:bans").arg(subject("ada").key());
    step.cmd("ZADD").arg("{tollgate}:bans").arg(4_000_000_000_u64).arg(network("::1").key());
    step.cmd("DEL").arg("{tollgate}:revocations:changes");
    step.exec(&mut server.client()).unwrap();
    until("the copy is as Redis is", async || known() == [2, 0, 0, 0, 0, 0, 0]).await;
    assert!(store.network_ban("::1".parse().unwrap()).is_some());
    admin.ban(&new(network("::2"), None, None)).await.unwrap();
    until("the copy has one more", async || known() == [3, 0, 0, 0, 0, 0, 0]).await;
    // Redis loses everything.
    redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
    until("so does the copy", async || known() == [0; 7]).await;
}

/// What no version writes costs no check that is not banned its answer.
#[tokio::test]
async fn a_marker_and_entries_that_cannot_be_read_ban_no_other_request() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let mut client = server.client();
    let mut set = |command: &str, arguments: &[&str]| {
        redis::cmd(command).arg(arguments).exec(&mut client).unwrap();
    };
    store.ban(&new(network("192.0.2.0/24"), None, None)).await.unwrap();
    let (banned, free) = (check("192.0.2.7"), check("198.51.100.7"));
    for marker in ["1 999=1 120=1", "x 120=1 0=7 =", "120=1", "0 120=0"] {
        set("SET", &["{tollgate}:bans:marker", marker]);
        assert!(ban_of(&store, &banned).await.is_some(), "{marker}");
        assert_eq!(ban_of(&store, &free).await, None, "{marker}");
    }
    // An end that is no number: unknown must not mean "not banned".
    set("HSET", &["{tollgate}:bans:ends", &network("192.0.2.0/24").key(), "soon"]);
    assert_eq!(store.admit(&banned).await, Err(Outage::Refused));
    assert_eq!(ban_of(&store, &free).await, None);
    assert_eq!(store.lift(&network("192.0.2.0/24")).await, Err(Outage::Refused));
    assert_eq!(ban_of(&store, &banned).await, None, "it was removed all the same");
}

/// A million bans of networks with all lengths of IPv4: memory, time to read them, and look-ups.
#[tokio::test]
#[ignore = "figures of docs/operations.md: a minute of a whole core"]
async fn a_million_bans() {
    let server = redis_server::start(&[]);
    let mut client = server.client();
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..1000 {
        let mut step = redis::cmd("ZADD");
        step.arg("{tollgate}:bans");
        for _ in 0..1000 {
            let bits: u32 = random.random();
            let length = 96 + random.random_range(9..=32_u8);
            let mask = u128::MAX << (128 - length);
            let base = (0xffff_0000_0000 | u128::from(bits)) & mask;
            let network = tollgate_core::network::Network::from_bits(base, length).unwrap();
            step.arg(4_000_000_000_u64).arg(Target::Network(network).key());
        }
        step.exec(&mut client).unwrap();
    }
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1_048_576
    };
    let before = resident();
    let started = Instant::now();
    let store = open(plain(&server));
    until("all are read", async || store.status().bans.unwrap().age.is_some()).await;
    let count = store.status().bans.unwrap().counts[0];
    println!("{count} bans, read in {:?}, {} MiB", started.elapsed(), resident() - before);
    let address: IpAddr = [223, 255, 255, 254].into();
    let started = Instant::now();
    for _ in 0..10_000 {
        std::hint::black_box(store.network_ban(std::hint::black_box(address)));
    }
    println!("a look-up of 24 lengths: {:?}", started.elapsed() / 10_000);
}
