//! What a check costs that Redis must answer: `cargo bench --bench store` (ROUNDS=5 SECONDS=1). Two
//! contestants in turn in each round, over the same client and the same script: one EVALSHA for
//! each check, bare; and the store, which gathers them. A closed loop on one thread; redis-server
//! runs on the first core. CPU is time on a core (`/proc/…/schedstat`), so that other programs on
//! the machine do not count. Then what a million revocations cost: memory, and the time of a check
//! that they do not revoke. Then what a million API keys cost: the time of their first reading,
//! memory, and the time of a verification and of a change; and the same where a tenth is copied, with
//! the time of a lookup of one of the others. `ONLY=keys` leaves out the rest, `KEYS` is the number
//! of keys. `ONLY=shards` compares a cluster of three nodes with one of its nodes (SHARDS=12), and is
//! no part of the other runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]

#[path = "../tests/store/redis_cluster.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
mod redis_cluster;
#[path = "../tests/store/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
mod redis_server;
#[path = "../tests/store/requests.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
mod requests;
#[path = "store/shards.rs"]
mod shards;

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::{Cmd, aio::MultiplexedConnection};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tollgate::store::{
    ADMIT_BODY, KeyReplica, KeyReplicaStatus, Memory, MemoryConfig, Opened, Redis, RedisConfig,
    ReplicateConfig, Revocation, Store, StoreConfig, open,
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Settled, Settlement, Usage},
    config::{Errors, Path},
    credential::api_key::{
        ApiKey, ApiKeysConfig, GeneratedKey, KeyContext, KeyRecord, KeySecret, PolicyNames,
        ReplicateKeysConfig, verify,
    },
    identity::{Holder, KeyId},
    limit::{
        Counter, Hold,
        reservation::{Reservation, ReservationId},
    },
    revocation::Target,
    time::{Span, Timestamp},
};

/// As the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Different credentials, each with a bucket of its own and one of fifty tenants'.
const CREDENTIALS: usize = 2000;
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

fn main() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let (rounds, seconds) = (number("ROUNDS", 5), number("SECONDS", 1));
    let only = std::env::var("ONLY").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path());
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        match &*only {
            "keys" => return api_keys(&server, rounds, number("KEYS", 1_000_000)).await,
            "reservations" => return reservations(&server, rounds).await,
            "shards" => return shards::run(rounds, seconds, number("SHARDS", 12)).await,
            _ => {}
        }
        let bench = Rc::new(Bench::new(&server).await);
        println!("in flight | contestant | checks/s | CPU here, us | CPU of Redis, us   (median, least-most of {rounds} rounds)");
        for in_flight in IN_FLIGHT {
            let mut rows = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                // Who goes first changes.
                for turn in 0..2 {
                    let contestant = usize::from((round + turn) % 2 == 1);
                    let run = bench.run(contestant == 1, in_flight, Duration::from_secs(seconds), &server).await;
                    rows[contestant].push(run);
                }
            }
            for (name, runs) in ["one each", "gathered"].iter().zip(&rows) {
                let mut line = format!("{in_flight} | {name}");
                for column in 0..3 {
                    let values = runs.iter().map(|run| run[column]);
                    write!(line, " | {}", shown(values, if column == 0 { 0 } else { 2 })).unwrap();
                }
                println!("{line}");
            }
            let ratio = |column: usize| rows[1].iter().zip(&rows[0]).map(move |(ours, bare)| ours[column] / bare[column]);
            println!(
                "{in_flight} | gathered / one each | {} | {} | {}",
                shown(ratio(0), 2),
                shown(ratio(1), 2),
                shown(ratio(2), 2)
            );
        }
        drop(bench);
        millions(&server, rounds).await;
        api_keys(&server, rounds, number("KEYS", 1_000_000)).await;
        reservations(&server, rounds).await;
    }));
    let _ = server.0.kill();
    let _ = server.0.wait();
}

fn shown(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (least, middle, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})")
}

struct Server(Child, String);

impl Server {
    fn start(directory: &std::path::Path) -> Self {
        let socket = directory.join("redis.sock");
        let mut command = Command::new("taskset");
        command.args([
            "-c",
            "0",
            "redis-server",
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
        ]);
        command.arg(&socket).arg("--dir").arg(directory).stdout(Stdio::null());
        let child = command
            .spawn()
            .expect("taskset and redis-server: `apt-get install util-linux redis-server`");
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, format!("unix://{}", socket.display()))
    }

    fn on_core(&self) -> f64 {
        let pid = self.0.id();
        on_core(&format!("/proc/{pid}/task/{pid}/schedstat"))
    }
}

/// Microseconds a thread has run.
fn on_core(file: &str) -> f64 {
    let stat = std::fs::read_to_string(file).unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1000.0
}

struct Bench {
    store: Redis,
    checks: Vec<AdmitRequest>,
    bare: MultiplexedConnection,
    calls: Vec<Cmd>,
}

impl Bench {
    async fn new(server: &Server) -> Self {
        let config = RedisConfig {
            deadline: Span::from_secs(1),
            ..RedisConfig::at(server.1.parse().unwrap())
        };
        let store = Redis::open(&config, CancellationToken::new()).unwrap();
        let checks: Vec<AdmitRequest> = (0..CREDENTIALS).map(check).collect();
        let bare = redis::Client::open(server.1.clone())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let script = redis::Script::new(&format!(
            "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]\nlocal steady = now\n{ADMIT_BODY}"
        ));
        let calls: Vec<Cmd> =
            checks.iter().map(|demands| call(script.get_hash(), demands)).collect();
        script.prepare_invoke().load_async(&mut bare.clone()).await.unwrap();
        store.admit(&checks[0]).await.unwrap();
        Self { store, checks, bare, calls }
    }

    /// Checks a second, and microseconds on a core for each, here and in Redis.
    async fn run(
        self: &Rc<Self>,
        gathered: bool,
        in_flight: usize,
        time: Duration,
        server: &Server,
    ) -> [f64; 3] {
        let (started, here, there) =
            (Instant::now(), on_core("/proc/thread-self/schedstat"), server.on_core());
        let callers = (0..in_flight).map(|caller| {
            let bench = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let (mut bare, mut asked, mut next) = (bench.bare.clone(), 0_u32, caller * 7);
                while started.elapsed() < time {
                    next = (next + 1) % CREDENTIALS;
                    if gathered {
                        bench.store.admit(&bench.checks[next]).await.unwrap();
                    } else {
                        let _: Vec<u8> = bench.calls[next].query_async(&mut bare).await.unwrap();
                    }
                    asked += 1;
                }
                asked
            })
        });
        let mut asked = 0.0;
        for caller in callers.collect::<Vec<_>>() {
            asked += f64::from(caller.await.unwrap());
        }
        let here = on_core("/proc/thread-self/schedstat") - here;
        [asked / started.elapsed().as_secs_f64(), here / asked, (server.on_core() - there) / asked]
    }
}

/// The same checks without and with three holds (a budget, a bucket of tokens, slots), 64 at a time,
/// and the reports of their usage, 64 in a call.
async fn reservations(server: &Server, rounds: u64) {
    const HELD: usize = 20_000;
    let config =
        RedisConfig { deadline: Span::from_secs(1), ..RedisConfig::at(server.1.parse().unwrap()) };
    let store = Rc::new(Redis::open(&config, CancellationToken::new()).unwrap());
    let checks: Vec<AdmitRequest> = (0..CREDENTIALS).map(check).collect();
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        for holding in [false, true] {
            let before = server.on_core();
            let requests: Vec<AdmitRequest> = (0..HELD)
                .map(|n| {
                    let held = holding.then(|| Box::new(reservation(round, n)));
                    AdmitRequest { reservation: held, ..checks[n % CREDENTIALS].clone() }
                })
                .collect();
            for batch in requests.chunks(64) {
                let admitted = batch.iter().map(|request| store.admit(request));
                for admitted in futures_util::future::join_all(admitted).await {
                    let AdmitResponse::Counted(verdicts) = admitted.unwrap() else { panic!() };
                    assert!(verdicts.iter().all(|verdict| verdict.admitted));
                }
            }
            rows[usize::from(holding)].push((server.on_core() - before) / HELD as f64);
        }
        let settlements: Vec<Settlement> = (0..HELD)
            .map(|n| Settlement {
                reservation: reservation(round, n),
                usage: Usage::Final(500),
                report: None,
            })
            .collect();
        let before = server.on_core();
        for batch in settlements.chunks(64) {
            let settled = store.settle(batch).await.unwrap();
            assert!(settled.iter().all(|settled| *settled == Settled::Charged(500)));
        }
        rows[2].push((server.on_core() - before) / HELD as f64);
    }
    let [plain, held, settled] = rows.map(|row| shown(row.into_iter(), 2));
    println!(
        "CPU of Redis, us: a check {plain}, with three holds {held}, its settlement {settled}"
    );
}

/// A reservation of a credential's counters, which never fill up.
fn reservation(round: u64, n: usize) -> Reservation {
    let credential = n % CREDENTIALS;
    let hold = |limit: &str, counter, amount| Hold {
        limit: limit.into(),
        counter_id: format!("{limit}{credential}").as_str().into(),
        counter,
        amount,
        unreported: amount,
        by_principal: true,
        is_shadow: false,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = Timestamp::from_secs(now.as_secs());
    let ends = Timestamp::from_secs(now.secs() + 86_400);
    Reservation {
        id: ReservationId(
            (u128::from(round) << 114 | (n as u128) << 100 | n as u128).to_be_bytes(),
        ),
        issued: now,
        life: Span::from_secs(600),
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
        holds: vec![
            hold("day", Counter::Budget { limit: 1 << 50, ends }, 4000),
            hold("minute", Counter::Bucket { interval: 1, burst: 1 << 40 }, 4000),
            hold("slots", Counter::Slots { limit: 1_000_000 }, 1),
        ],
    }
}

/// Ten revocations beside a million, in the copy of Redis' and in the store in memory.
async fn millions(server: &Server, rounds: u64) {
    let (few, many) = (10, 1_000_000);
    let mut copies = Vec::new();
    for (db, count) in [(1, few), (2, many)] {
        let url = format!("{}?db={db}", server.1);
        load(&url, count);
        let (before, started) = (resident(), Instant::now());
        let replicate_revocations = Some(ReplicateConfig { max_staleness: Span::from_secs(60) });
        let config = RedisConfig { replicate_revocations, ..RedisConfig::at(url.parse().unwrap()) };
        let store =
            open(&StoreConfig::Redis(Box::new(config)), CancellationToken::new()).unwrap().store;
        while store.status().replica.unwrap().age.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let grown = (resident() - before) / 1e6;
        println!(
            "{} revocations copied in {:?}: {grown:.1} MB",
            store.status().replica.unwrap().revocations,
            started.elapsed()
        );
        copies.push(store);
    }
    let memories: Vec<Arc<dyn Store>> =
        [few, many].map(memory).into_iter().map(|store| Arc::new(store) as _).collect();
    let checks: Vec<AdmitRequest> =
        (0..CREDENTIALS).map(|n| AdmitRequest { charges: Vec::new(), ..check(n) }).collect();
    for (name, stores) in [("copy of Redis'", &copies), ("in memory", &memories)] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..rounds.max(5) {
            for (store, times) in stores.iter().zip(&mut times) {
                let before = on_core("/proc/thread-self/schedstat");
                for demands in checks.iter().cycle().take(100 * CREDENTIALS) {
                    assert!(matches!(
                        store.admit(demands).await,
                        Ok(tollgate_core::admission::AdmitResponse::Counted(_))
                    ));
                }
                let spent = (on_core("/proc/thread-self/schedstat") - before) * 1000.0;
                times.push(spent / (100 * CREDENTIALS) as f64);
            }
        }
        let [ten, million] = times.map(|times| shown(times.into_iter(), 0));
        println!("{name}: ns for a check beside ten revocations {ten}, beside a million {million}");
    }
}

/// Ten API keys beside many, in the copy of Redis'. Both copies have the keys that are verified.
async fn api_keys(server: &Server, rounds: u64, many: u64) {
    const VERIFIED: u16 = 2000;
    let keys: Vec<GeneratedKey> = (0..VERIFIED)
        .map(|n| {
            let mut id = [7; 16];
            id[..2].copy_from_slice(&n.to_be_bytes());
            GeneratedKey::new(&id, &[9; 32])
        })
        .collect();
    let config: ApiKeysConfig = serde_json::from_str(r#"{ "redis": true }"#).unwrap();
    let config = config.compile(&Path::root(), &mut Errors::default());
    let created = Timestamp::from_secs(requests::NOW);
    let mut tables = Vec::new();
    for (db, count) in [(3, 10), (4, many)] {
        let url = format!("{}?db={db}", server.1);
        load_keys(&url, count);
        if count == many {
            look_up_keys(&url, many).await;
        }
        let (_opened, copy) = copy_of(&url, 10_000_000).await;
        let status = copy.status();
        assert_eq!((status.broken, status.uncopied), (0, 0));
        let mut table = (*copy.table().unwrap()).clone();
        let began = Instant::now();
        for key in &keys {
            let secret = KeySecret { digest: key.digest(), issued: created, weak: false };
            let mut changed = table.clone();
            changed.insert(api_key(key.id(), secret, created)).unwrap();
            table = changed;
        }
        println!("{count} API keys: {:?} for a change", began.elapsed() / u32::from(VERIFIED));
        tables.push([Some(Arc::new(table))]);
    }
    let names = PolicyNames { has_limit: &|_, _| true, has_tier: &|_| true };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds.max(5) {
        for (tables, times) in tables.iter().zip(&mut times) {
            let context = KeyContext { tables, keys: &config, names, denylists: &[] };
            let before = on_core("/proc/thread-self/schedstat");
            for key in keys.iter().cycle().take(20 * usize::from(VERIFIED)) {
                let key = ApiKey::read(key.expose().as_bytes()).unwrap();
                assert!(verify(key, context, created).is_ok());
            }
            let spent = (on_core("/proc/thread-self/schedstat") - before) * 1000.0;
            times.push(spent / f64::from(20 * u32::from(VERIFIED)));
        }
    }
    let [ten, all] = times.map(|times| shown(times.into_iter(), 0));
    println!("ns for a verification beside ten API keys {ten}, beside {many} {all}");
}

/// Copies API keys, and waits for the first reading.
async fn copy_of(url: &str, max: usize) -> (Opened, Arc<KeyReplica>) {
    let (before, started) = (resident(), Instant::now());
    let store = StoreConfig::Redis(Box::new(RedisConfig::at(url.parse().unwrap())));
    let opened = open(&store, CancellationToken::new()).unwrap();
    let bounds = ReplicateKeysConfig { max, max_staleness: Span::from_secs(60) };
    let copy = opened.copy_keys(bounds, Duration::from_secs(3600), CancellationToken::new());
    let copy = copy.unwrap();
    let mut changes = copy.changes();
    while copy.table().is_none() {
        changes.changed().await.unwrap();
    }
    let KeyReplicaStatus { keys, uncopied, .. } = copy.status();
    let grown = (resident() - before) / 1e6;
    println!("{keys} API keys copied, {uncopied} ids, in {:?}: {grown:.1} MB", started.elapsed());
    (opened, copy)
}

/// Copies a tenth of the API keys, and looks up some of the others: one at a time, and all at once.
async fn look_up_keys(url: &str, many: u64) {
    let (_opened, copy) = copy_of(url, usize::try_from(many / 10).unwrap()).await;
    let table = copy.table().unwrap();
    let ids: Vec<KeyId> = table.uncopied_ids().take(10_000).copied().collect();
    // Each is from a network of its own, which has a budget.
    let look_up = async |number: usize, id: KeyId| {
        let client = Ipv4Addr::from_bits(u32::try_from(number).unwrap() << 8);
        copy.look_up(id, Some(client.into())).await.unwrap();
    };
    let mut times = Vec::new();
    let (alone, together) = ids.split_at(ids.len() / 2);
    for (number, id) in alone.iter().enumerate() {
        let began = Instant::now();
        look_up(number, *id).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("a lookup alone: p50 {:?}, p99 {:?}", at(50), at(99));
    let began = Instant::now();
    for group in together.chunks(1000) {
        let lookups = group.iter().enumerate().map(|(number, id)| look_up(number + 20_000, *id));
        join_all(lookups).await;
    }
    let each = began.elapsed() / u32::try_from(together.len()).unwrap();
    println!("a lookup of a thousand at once: {each:?}; {:?}", copy.status().lookups);
}

fn api_key(id: KeyId, current: KeySecret, created: Timestamp) -> KeyRecord {
    KeyRecord {
        id,
        current,
        previous: None,
        subject: "ci".into(),
        holder: Holder::Client,
        tenant: None,
        owner: None,
        scopes: Box::new(["infer:text".to_owned()]),
        models: None,
        tier: None,
        limits: Box::default(),
        networks: None,
        labels: std::collections::BTreeMap::default(),
        created,
        expires: Timestamp::from_secs(created.secs() + 86_400),
    }
}

/// API keys as `write_key.lua` leaves them.
fn load_keys(url: &str, count: u64) {
    let script = redis::Script::new(
        "for n = ARGV[1], ARGV[2] - 1 do local h = redis.sha1hex(n) local id = string.sub(h, 1, 12) \
         redis.call('SET', '{tollgate}:key:' .. id, '{\"id\":\"' .. id .. '\",\"digest\":\"sha256:' .. h .. string.sub(redis.sha1hex(h), 1, 24) .. \
         '\",\"subject\":\"service-' .. n .. '\",\"tenant\":\"t' .. n % 50 .. '\",\"scopes\":[\"infer:text\"],\"created\":\"2026-11-29T00:00:00Z\",' .. \
         '\"expires\":\"2027-02-27T00:00:00Z\"}') redis.call('ZADD', '{tollgate}:keys', 1795910400, id) end",
    );
    let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
    for from in (0..count).step_by(10_000) {
        let _: () = script.arg(from).arg(count.min(from + 10_000)).invoke(&mut client).unwrap();
    }
}

/// Revocations as `revoke.lua` leaves them.
fn load(url: &str, count: u64) {
    let script = redis::Script::new(
        "local i = redis.sha1hex('issuer') .. string.rep('0', 24) for n = ARGV[1], ARGV[2] - 1 do local h = redis.sha1hex(n) \
         local key = 'jti:' .. i .. ':' .. h .. string.sub(redis.sha1hex(h), 1, 24) \
         redis.call('SET', '{tollgate}:revoked:' .. key, 1800000000) redis.call('ZADD', '{tollgate}:revocations', '4000000000000', key) end",
    );
    let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
    for from in (0..count).step_by(10_000) {
        let _: () = script.arg(from).arg(count.min(from + 10_000)).invoke(&mut client).unwrap();
    }
}

fn memory(count: u64) -> Memory {
    let store = Memory::new(&MemoryConfig::default());
    for n in 0..count {
        let target = Target::Jti { issuer: "issuer".into(), jti: n.to_string() };
        let revocation = Revocation::new(
            target,
            Timestamp::from_secs(requests::NOW),
            Span::from_secs(86_400),
            None,
        )
        .unwrap();
        store.revoke_at(&revocation, Timestamp::from_secs(requests::NOW));
    }
    store
}

/// Bytes of memory in use.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

/// A check with every kind of key a credential can have, and two limits that never fill up.
fn check(n: usize) -> AdmitRequest {
    let claims = json!({
        "jti": format!("j{n}"), "sub": format!("user-{n}"), "client_id": "app", "tenant_id": format!("t{}", n % 50), "iat": requests::NOW,
    });
    let mut demands = requests::about(&requests::principal(claims, &[]));
    let wide = |key: String| tollgate_core::limit::Charge {
        interval: 1,
        burst: 1_000_000_000,
        ..requests::charge(&key, 1, 1)
    };
    demands.charges = vec![wide(format!("s{n:064}")), wide(format!("t{:064}", n % 50))];
    demands
}

/// The call of one check.
fn call(hash: &str, demands: &AdmitRequest) -> Cmd {
    let keys = Arc::clone(demands.revocation.as_ref().unwrap());
    let entries = keys.exact_entries().chain(keys.before_entries());
    let revocations: Vec<String> = entries.map(|entry| entry.key()).collect();
    let ours = revocations.len() + demands.charges.len();
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(hash).arg(ours + 4);
    for key in revocations {
        cmd.arg(format!("{{tollgate}}:revoked:{key}"));
    }
    for charge in &demands.charges {
        cmd.arg(format!("{{tollgate}}:{}", charge.key()));
    }
    for key in ["bans:marker", "revocations:kinds", "bans:ends", "format"] {
        cmd.arg(format!("{{tollgate}}:{key}"));
    }
    let (exact, before, charges) =
        (keys.exact_entries().count(), keys.before_entries().count(), demands.charges.len());
    let mut numbers = vec![exact as u64, before as u64, charges as u64, 0, keys.issued_at, 0, 0];
    numbers.extend(
        demands
            .charges
            .iter()
            .flat_map(|charge| [charge.interval, charge.burst, charge.cost, charge.cost]),
    );
    // A list in MessagePack.
    let mut list = vec![0xdd];
    list.extend((numbers.len() as u32).to_be_bytes());
    list.extend(
        numbers.into_iter().flat_map(|number| std::iter::once(0xcf).chain(number.to_be_bytes())),
    );
    cmd.arg(1).arg(ours).arg(list);
    cmd
}
