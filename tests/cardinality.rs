//! Clients that send a new key, address, token or name with each request: what they cost the real
//! binary, and what they leave to others.

mod entries;
mod metered;
mod soak;
mod traffic;

use self::traffic::{CONFIG, Connection, KINDS, World};
use crate::rig::{redis::Redis, tollgate::Tollgate};

/// The buckets of the store. A table is nearly full after a fraction of a flood.
const BUCKETS: u64 = 1000;

/// The part of the memory that floods may add beside the tables: what the allocator keeps, buffers of
/// connections, and the series of metrics.
const SLACK: u64 = 16 << 20;

/// The bytes of a bucket, a counter or a reservation at most (docs/operations.md, Memory).
const ENTRY: u64 = 400;

/// The number of requests of each kind; `make flood` sends many more.
fn requests() -> u64 {
    std::env::var("TOLLGATE_FLOOD").map_or(1500, |text| text.parse().unwrap())
}

fn resident(tollgate: &Tollgate) -> u64 {
    let status = tollgate.process.proc("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn series(tollgate: &Tollgate) -> usize {
    let metrics = tollgate.metrics();
    metrics.lines().filter(|line| !line.starts_with('#')).count()
}

/// The counts of a client whose limits were partly used up before the floods.
struct Victim {
    own: String,
    day: String,
    open: String,
}

impl Victim {
    /// Uses three of five requests of each limit.
    fn new(world: &World, connection: &mut Connection) -> Self {
        let token = world.token("a", "victim", "acme", "steady");
        let victim = Self {
            own: traffic::head("/own", "192.0.2.9", &traffic::bearer(&token)),
            day: traffic::head("/day", "192.0.2.9", &traffic::bearer(&token)),
            open: traffic::head("/open", "192.0.2.7", ""),
        };
        for head in victim.heads() {
            assert_eq!(connection.send_all(&[head, head, head]), [200; 3]);
        }
        victim
    }

    fn heads(&self) -> [&String; 3] {
        [&self.own, &self.day, &self.open]
    }

    /// The rest is two requests: no count was forgotten, and none was added.
    fn use_the_rest(&self, connection: &mut Connection) {
        for head in self.heads() {
            assert_eq!(connection.send_all(&[head, head, head]), [200, 200, 429], "{head}");
        }
    }
}

/// A million requests of each kind with `make flood`, and a thousand here.
#[test]
fn floods_of_every_kind_leave_memory_and_the_counts_of_others_as_they_are() {
    let requests = requests();
    let buckets = BUCKETS.max(requests / 10);
    let store = format!("store: {{ memory: {{ max_buckets: {buckets} }} }}\n");
    let world = World::new();
    let tollgate = world.start(&format!("{CONFIG}{store}"));
    let mut connection = Connection::open(tollgate.http_port());
    let victim = Victim::new(&world, &mut connection);
    // Everything is used once before it is measured.
    for kind in KINDS {
        kind.send(&world, &mut connection, 0..100);
    }
    let before = resident(&tollgate);
    let mut rows = Vec::new();
    for kind in KINDS {
        kind.send(&world, &mut connection, 100..100 + requests);
        let stored = tollgate.metric("tollgate_store_buckets", &[]) as u64;
        assert!(stored <= 2 * buckets, "{}: {stored} buckets", kind.name);
        let cached = tollgate.metric("tollgate_token_cache_bytes", &[]) as u64;
        assert!(cached <= 2 << 20, "{}: {cached} bytes of tokens", kind.name);
        // Another tenant, another issuer's client and another network find room.
        for newcomer in world.newcomers(kind.name) {
            assert_eq!(connection.send_all(&[&newcomer]), [200], "after {}: {newcomer}", kind.name);
        }
        rows.push((kind.name, stored, cached, resident(&tollgate)));
    }
    victim.use_the_rest(&mut connection);
    // A series appears with its first count: all of them have by now.
    let known = series(&tollgate);
    for kind in KINDS {
        kind.send(&world, &mut connection, 10_000_000..10_000_200);
    }
    assert_eq!(series(&tollgate), known, "no client makes a series");
    let grown = resident(&tollgate).saturating_sub(before);
    let bound = SLACK + (2 << 20) + 3 * buckets * ENTRY;
    println!("| flood of {requests} | buckets | bytes of tokens | resident |\n|---|---|---|---|");
    for (name, stored, cached, resident) in rows {
        println!("| {name} | {stored} | {cached} | {} MiB |", resident >> 20);
    }
    println!("resident before: {} MiB; grown: {grown} of {bound} bytes", before >> 20);
    assert!(grown <= bound, "{grown} bytes of {bound}");
}

/// The keys of a Redis.
#[derive(Clone, Copy, Debug)]
struct Stored {
    keys: u64,
    bytes: u64,
    /// The number of keys without an end.
    endless: u64,
}

impl Stored {
    fn of(redis: &Redis) -> Self {
        // A connection writes a key for a second, to probe the scripts.
        let script = "local keys, bytes, endless = 0, 0, 0 \
                      for _, key in ipairs(redis.call('KEYS', '*')) do \
                      if not string.find(key, 'probe') then \
                      if redis.call('PTTL', key) < 0 then endless = endless + 1 end \
                      keys, bytes = keys + 1, bytes + redis.call('MEMORY', 'USAGE', key) end end \
                      return keys .. ' ' .. bytes .. ' ' .. endless";
        let answer = redis.command(&["EVAL", script, "0"]);
        let numbers: Vec<u64> = answer.trim().split(' ').map(|n| n.parse().unwrap()).collect();
        let [keys, bytes, endless] = numbers[..] else { panic!("{answer}") };
        Self { keys, bytes, endless }
    }
}

#[test]
fn what_clients_write_to_redis_is_a_small_key_with_an_end_for_each_counter() {
    let world = World::new();
    let redis = Redis::start(world.path());
    let tollgate = world.start(&format!("{CONFIG}{}", redis.store()));
    let mut connection = Connection::open(tollgate.http_port());
    let flood = |name: &str, connection: &mut Connection| {
        let before = Stored::of(&redis);
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        kind.send(&world, connection, 0..1000);
        let after = Stored::of(&redis);
        let (keys, bytes) = (after.keys - before.keys, after.bytes.saturating_sub(before.bytes));
        println!("{name}: {keys} keys, {bytes} bytes");
        assert_eq!(after.endless, before.endless, "{name}");
        (keys, bytes)
    };
    // The keys that exist once.
    flood("issuers", &mut connection);
    for (name, most) in [("addresses", 160), ("subjects with a budget", 200)] {
        let (keys, bytes) = flood(name, &mut connection);
        assert!(keys == 1000 && bytes <= 1000 * most, "{name}: {keys} keys, {bytes} bytes");
    }
    // What is refused before its limits, or has none, writes nothing.
    for kind in ["forged tokens", "expired tokens", "key ids (`kid`)", "API keys", "issuers"] {
        assert_eq!(flood(kind, &mut connection).0, 0, "{kind}");
    }
    for kind in ["models", "hosts and paths", "headers, cookies, traces, request ids"] {
        assert_eq!(flood(kind, &mut connection).0, 0, "{kind}");
    }
}
