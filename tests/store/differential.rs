//! The script of a check against the core's reference model: random histories, the same moments, the same answers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use redis::{Connection, RedisResult, Script};
use tollgate::store::ADMIT_BODY;
use tollgate_core::limit::reference::{ask, untouched};

use super::server;

const HISTORIES: u64 = 300;
const STEPS: usize = 40;
const SECOND: u64 = 1_000_000;
const YEAR: u64 = 366 * 86_400 * SECOND;

/// The body, with `now` from the last argument.
fn script() -> Script {
    Script::new(&format!("local now = tonumber(ARGV[#ARGV])\n{ADMIT_BODY}"))
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    interval: u64,
    burst: u64,
}

/// What the reference says, in the script's numbers.
fn reference(tats: &mut HashMap<String, u64>, charges: &[(String, Limit, u64)], now: u64) -> Vec<i64> {
    let number = |value: u64| if value == u64::MAX { -1 } else { i64::try_from(value).unwrap() };
    let steps: Vec<_> =
        charges.iter().map(|(key, limit, cost)| ask(tats.get(key).copied(), now, limit.interval, limit.burst, *cost)).collect();
    let room = steps.iter().all(|step| step.verdict.admitted);
    let mut answer = vec![0];
    for ((key, limit, _), step) in charges.iter().zip(steps) {
        let verdict = if room || !step.verdict.admitted {
            step.verdict
        } else {
            untouched(tats.get(key).copied(), now, limit.interval, limit.burst)
        };
        if room {
            tats.insert(key.clone(), step.tat);
        }
        answer.extend([
            i64::from(verdict.admitted),
            number(verdict.remaining),
            number(verdict.retry_after),
            number(verdict.reset),
        ]);
    }
    answer
}

fn limit(random: &mut StdRng) -> Limit {
    let interval = match random.random_range(0..4) {
        0 => random.random_range(1..1000),
        1 => random.random_range(1..10 * SECOND),
        2 => SECOND * *[1, 60, 3600, 86_400].choose(random).unwrap(),
        _ => random.random_range(1..YEAR / 4),
    };
    let burst = match random.random_range(0..4) {
        0 => random.random_range(0..3),
        1 => YEAR / interval,
        _ => random.random_range(0..100),
    };
    Limit { interval, burst: burst.min(YEAR / interval) }
}

/// One history on fresh keys. `None` if it took so long that Redis may have dropped a bucket that is full in real time only.
fn history(client: &mut Connection, script: &Script, seed: u64) -> Option<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let limits: Vec<(String, Limit)> = (0..4).map(|n| (format!("h:{seed}:{n}"), limit(&mut random))).collect();
    let mut now = random.random_range(1_500_000_000 * SECOND..4_000_000_000 * SECOND);
    let mut tats = HashMap::new();
    let started = Instant::now();
    for step in 0..STEPS {
        let step_of = limits.choose(&mut random).unwrap().1;
        now += match random.random_range(0..5) {
            0 => 0,
            1 => random.random_range(0..1000),
            2 => step_of.interval,
            3 => random.random_range(0..=step_of.interval * 2),
            _ => random.random_range(0..=(step_of.interval * step_of.burst).max(1)),
        };
        // A clock that stepped back: Redis takes its time from a system clock.
        if random.random_ratio(1, 20) {
            now -= random.random_range(0..100 * SECOND);
        }
        let count = random.random_range(1..=limits.len());
        let charges: Vec<(String, Limit, u64)> = limits
            .choose_multiple(&mut random, count)
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(key, limit)| {
                (key, limit, if random.random_ratio(1, 4) { random.random_range(1..=limit.burst + 1) } else { 1 })
            })
            // The configuration bounds a full bucket to a year, and with it what a charge can add.
            .filter(|(_, limit, cost)| limit.interval * cost <= 2 * YEAR)
            .collect();
        let mut call = script.prepare_invoke();
        for (key, _, _) in &charges {
            call.key(key);
        }
        call.arg(&[0, 0, charges.len(), 0]);
        for (_, limit, cost) in &charges {
            call.arg(&[limit.interval, limit.burst, *cost]);
        }
        let answer: Vec<i64> = call.arg(now).invoke(client).unwrap();
        if started.elapsed() > Duration::from_millis(900) {
            return None;
        }
        let expected = reference(&mut tats, &charges, now);
        assert_eq!(answer, expected, "history {seed}, step {step}, now {now}, {charges:?}");
        for (key, _, _) in &charges {
            let stored: Option<u64> = redis::cmd("GET").arg(key).query(client).unwrap();
            assert_eq!(stored, tats.get(key).copied(), "history {seed}, step {step}: what is stored in {key}");
        }
    }
    Some(())
}

#[test]
fn the_script_counts_as_the_reference_does() {
    let server = server::start(&[]);
    let (mut client, script) = (server.client(), script());
    let told = (0..HISTORIES).filter(|seed| history(&mut client, &script, *seed).is_some()).count() as u64;
    assert!(told >= HISTORIES / 2, "this machine is too slow for a history to be real: {told} of {HISTORIES}");
}

#[test]
fn the_order_of_questions_is_revocation_then_room() {
    let server = server::start(&[]);
    let (mut client, script) = (server.client(), script());
    let mut ask = |issued_at: u64| -> Vec<i64> {
        let mut call = script.prepare_invoke();
        call.key(&["exact1", "exact2", "before1", "before2", "bucket", "foreign1", "foreign2"]);
        call.arg(&[2, 2, 1, issued_at, 1000, 5, 1, SECOND]).invoke(&mut client).unwrap()
    };
    let mut other = server.client();
    let mut set = |key: &str, value: u64| redis::cmd("SET").arg(key).arg(value).exec(&mut other).unwrap();
    assert_eq!(ask(100), [0, 1, 4, 0, 1000]);
    set("foreign2", 1);
    assert_eq!(ask(100), [7]);
    set("foreign1", 1);
    assert_eq!(ask(100), [6]);
    set("before2", 100);
    assert_eq!(ask(101), [6]);
    assert_eq!(ask(100), [4]);
    set("before1", 99);
    assert_eq!(ask(100), [4]);
    assert_eq!(ask(99), [3]);
    set("exact2", 0);
    assert_eq!(ask(100), [2]);
    set("exact1", 0);
    assert_eq!(ask(100), [1]);
    let tat: u64 = redis::cmd("GET").arg("bucket").query(&mut other).unwrap();
    assert_eq!(tat, SECOND + 1000, "charged once, by the one question nothing revoked");
}

#[test]
fn anything_but_an_integer_is_an_error_and_charges_nothing() {
    let server = server::start(&[]);
    let (mut client, script) = (server.client(), script());
    let good = ["0", "0", "2", "0", "1000", "5", "1", "1000", "5", "1"];
    let mut ask = |arguments: &[&str], now: &str| -> RedisResult<Vec<i64>> {
        let mut call = script.prepare_invoke();
        call.key(&["a", "b"]);
        for argument in arguments {
            call.arg(*argument);
        }
        call.arg(now).invoke(&mut client)
    };
    let mut other = server.client();
    let mut keys = || -> usize { redis::cmd("DBSIZE").query(&mut other).unwrap() };
    for bad in ["", "x", "1.5", "-1", "nan", "inf", "1e300", "9007199254740992", "99999999999999999999"] {
        for place in 3..good.len() {
            let mut arguments = good;
            arguments[place] = bad;
            assert!(ask(&arguments, "1000000").is_err(), "{bad} in place {place}");
            assert_eq!(keys(), 0, "{bad} in place {place}");
        }
    }
    // Each an integer, but not what comes of them.
    for (place, value) in [(7, "9007199254740000"), (8, "9007199254740000"), (9, "9007199254740000")] {
        let mut arguments = good;
        arguments[place] = value;
        assert!(ask(&arguments, "1000000").is_err(), "{value} in place {place}");
        assert_eq!(keys(), 0, "{value} in place {place}");
    }
    assert!(ask(&good, "1000000").is_ok());
    let mut other = server.client();
    redis::cmd("SET").arg("b").arg("somebody else's").exec(&mut other).unwrap();
    let before: String = redis::cmd("GET").arg("a").query(&mut other).unwrap();
    assert!(ask(&good, "1000000").is_err());
    let after: String = redis::cmd("GET").arg("a").query(&mut other).unwrap();
    assert_eq!(before, after, "one bucket that is none: the other is not charged");
}

#[test]
fn idle_buckets_vanish() {
    let server = server::start(&[]);
    let (mut client, script) = (server.client(), script());
    for (key, interval, least, most) in [("a", 1000_u64, 1000, 1001), ("b", 60 * SECOND, 60_000, 61_000)] {
        let mut call = script.prepare_invoke();
        call.key(key).arg(&[0, 0, 1, 0]).arg(&[interval, 5, 1]).arg(1_800_000_000 * SECOND);
        let _: Vec<i64> = call.invoke(&mut client).unwrap();
        let ttl: i64 = redis::cmd("PTTL").arg(key).query(&mut client).unwrap();
        assert!((least - 500..=most).contains(&ttl), "{key}: {ttl}ms");
    }
}
