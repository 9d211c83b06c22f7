//! Mixed traffic for a long time: memory, descriptors and the keys in Redis stay level.
//!
//! `make soak` runs it for half an hour with an optimised binary and prints the table.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    metered::{self, Gateway},
    resident, series,
    traffic::{CONFIG, Connection, KINDS, World, bearer, head},
};
use crate::rig::{redis::Redis, tollgate::Tollgate, within};

/// The clients, each with a connection.
const CLIENTS: u64 = 4;

/// The automatic bans. The other kinds fail from one network, which is never banned.
const BANS: &str = "automatic_bans: { failures: 10/1m, for: 5s, longest: 20s, remember: 30s, exempt: [192.0.2.0/24] }\n";

/// The kinds whose counters outlive the run. Redis has them until a day after their window.
const OF_DAYS: &str = "subjects with a budget";

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

/// What the clients have counted.
#[derive(Default)]
struct Counts {
    checks: AtomicU64,
    new: AtomicU64,
    metered: AtomicU64,
    failures: AtomicU64,
    /// Checks that the process had no time for (503): the machine's other work, and no leak.
    overloaded: AtomicU64,
    ends: AtomicBool,
}

/// The state of the process at a moment.
struct Sample {
    at: Duration,
    checks: u64,
    new: u64,
    metered: u64,
    bans: u64,
    failures: u64,
    overloaded: u64,
    resident: u64,
    descriptors: usize,
    threads: usize,
    series: usize,
    redis_keys: String,
    redis_bytes: u64,
}

impl Sample {
    fn take(started: Instant, tollgate: &Tollgate, redis: &Redis, counts: &Counts) -> Self {
        let entries = |directory| std::fs::read_dir(tollgate.process.path(directory)).unwrap();
        let memory = redis.command(&["INFO", "memory"]);
        let bytes = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        Self {
            at: started.elapsed(),
            checks: counts.checks.load(Relaxed),
            new: counts.new.load(Relaxed),
            metered: counts.metered.load(Relaxed),
            bans: tollgate.metric("tollgate_automatic_bans_total", &["result=\"begun\""]) as u64,
            failures: counts.failures.load(Relaxed),
            overloaded: counts.overloaded.load(Relaxed),
            resident: resident(tollgate),
            descriptors: entries("fd").count(),
            threads: entries("task").count(),
            series: series(tollgate),
            redis_keys: redis.command(&["DBSIZE"]).trim_start_matches(':').to_owned(),
            redis_bytes: bytes.trim().parse().unwrap(),
        }
    }

    fn print(&self) {
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "| {:.1} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.at.as_secs_f64() / 60.0,
            self.checks,
            self.new,
            self.metered,
            self.bans,
            self.failures,
            self.overloaded,
            mib(self.resident),
            self.descriptors,
            self.threads,
            self.series,
            self.redis_keys,
            mib(self.redis_bytes),
        )
        .unwrap();
        out.flush().unwrap();
    }
}

/// Sends every kind in turn, with a known token between two of them, until the end.
fn client(world: &World, port: u16, index: u64, pause: Duration, counts: &Counts) {
    let mut connection = Connection::open(port);
    let known = head("/free", "192.0.2.1", &bearer(&world.token("a", "steady", "acme", "steady")));
    let kinds: Vec<_> = KINDS.iter().filter(|kind| kind.name != OF_DAYS).collect();
    let (mut next, mut turn) = (Instant::now(), index);
    while !counts.ends.load(Relaxed) {
        let kind = kinds[usize::try_from(turn).unwrap() % kinds.len()];
        let number = turn / kinds.len() as u64 * CLIENTS + index;
        let wrong = kind.send_one(world, &mut connection, number);
        let steady = connection.send_all(&[&known])[0];
        counts.checks.fetch_add(2, Relaxed);
        counts.new.fetch_add(1, Relaxed);
        let steady = (steady != 200).then_some(steady);
        for status in wrong.into_iter().chain(steady) {
            let count = if status == 503 { &counts.overloaded } else { &counts.failures };
            count.fetch_add(1, Relaxed);
            eprintln!("soak: {}: {wrong:?}, a known token: {steady:?}", kind.name);
        }
        turn += 1;
        // A rate, not as fast as it goes: what is kept for a time stays level then.
        next += pause;
        within(next.saturating_duration_since(Instant::now()), || None::<()>);
    }
}

/// Sends metered requests and their reports, until the end.
fn gateway(world: &World, pause: Duration, counts: &Counts) {
    let (mut gateway, mut next) = (Gateway::new(world), Instant::now());
    while !counts.ends.load(Relaxed) {
        for failure in gateway.turn() {
            let is_overload = failure.contains(": 503: ");
            let count = if is_overload { &counts.overloaded } else { &counts.failures };
            count.fetch_add(1, Relaxed);
            eprintln!("soak: {failure}");
        }
        counts.checks.fetch_add(1, Relaxed);
        counts.metered.fetch_add(1, Relaxed);
        next += pause;
        within(next.saturating_duration_since(Instant::now()), || None::<()>);
    }
}

/// `SECONDS` long (15), with `RATE` checks a second (400).
#[test]
#[ignore = "make soak: half an hour with an optimised binary; here for some seconds"]
fn memory_descriptors_and_keys_stay_level_under_mixed_traffic() {
    let (seconds, rate) = (number("SECONDS", 15), number("RATE", 400));
    let world = World::new();
    let redis = Redis::start(world.path());
    let minutes = CONFIG.replace("rate: 5/1h", "rate: 5/1m");
    // The traffic goes on where the machine has other work: a late answer of Redis is no leak.
    let store = redis.store().replace("redis: {", "redis: { deadline: 1s,");
    let config = format!("{minutes}{store}{BANS}{}", metered::SECTIONS)
        .replacen("listen:\n", metered::LISTEN, 1)
        .replacen("http: [", &format!("http: [{}, ", metered::GATEWAY), 1)
        .replacen("dialect: traefik }", "dialect: traefik, body: deny, settlement: expiry }", 1)
        .replacen("\nlimits:\n", &format!("{}limits:{}", metered::ROUTE, metered::LIMITS), 1)
        .replacen("serves: [qwen] }", "serves: [qwen], context: 4096, max_output: 512 }", 1);
    let other = config.replacen("models: [", "models: [{ name: other, serves: [other] }, ", 1);
    let tollgate = world.start(&config);
    let port = tollgate.http_port();
    let pause = Duration::from_secs(1).mul_f64(2.0 * CLIENTS as f64 / rate as f64);
    let (counts, started) = (Counts::default(), Instant::now());
    let end = Duration::from_secs(seconds);
    let step = (end / 30).max(Duration::from_secs(2));
    println!(
        "| minutes | checks | of them with something new | metered | bans | failures | 503 | resident MiB | \
         descriptors | threads | series | keys in Redis | MiB in Redis |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for index in 0..CLIENTS {
            let (world, counts) = (&world, &counts);
            scope.spawn(move || client(world, port, index, pause, counts));
        }
        let (of_world, of_counts) = (&world, &counts);
        scope.spawn(move || gateway(of_world, pause, of_counts));
        let mut reloads = 0_u64;
        while started.elapsed() < end {
            within(step.min(Duration::from_secs(10)), || None::<()>);
            reloads += 1;
            let version = if reloads.is_multiple_of(2) { &config } else { &other };
            tollgate.rewrite(world.path(), version);
            let due = step * u32::try_from(samples.len()).unwrap();
            if started.elapsed() >= due {
                let sample = Sample::take(started, &tollgate, &redis, &counts);
                sample.print();
                samples.push(sample);
            }
        }
        counts.ends.store(true, Relaxed);
    });
    let last = Sample::take(started, &tollgate, &redis, &counts);
    last.print();
    assert_eq!(last.failures, 0);
    assert!(last.metered > 0 && last.bans > 0, "{} metered, {} bans", last.metered, last.bans);
    let settled = tollgate.metric("tollgate_settlements_total", &[]);
    assert!(settled >= 0.5 * last.metered as f64, "{settled} settlements");
    assert!(last.overloaded * 100 <= last.checks, "{} of {}", last.overloaded, last.checks);
    assert!(last.checks * 2 > rate * seconds, "{} checks in {seconds} s", last.checks);
    // The tables are full, or as full as they get, after the first third.
    let early = &samples[samples.len() / 3];
    let bound = early.resident + early.resident / 10 + (4 << 20);
    assert!(last.resident <= bound, "{} bytes after {}", last.resident, early.resident);
    assert!(last.descriptors <= early.descriptors + 4, "{}", last.descriptors);
    assert!(last.series <= early.series + 4, "{}", last.series);
}
