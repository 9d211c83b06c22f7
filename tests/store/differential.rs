//! The script of checks against the core's reference model: random histories of calls with one
//! check and with many, with the same moments and the same answers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use redis::{Connection, RedisResult, Script};
use tollgate::store::{ADMIT_BODY, GIVE_BACK_BODY};
use tollgate_core::limit::reference::{LeaseRequest, leasable, peek, tat_after_return, try_take};

use super::redis_server;

const HISTORIES: u64 = 300;
const STEPS: usize = 40;
const SECOND: u64 = 1_000_000;
const YEAR: u64 = 366 * 86_400 * SECOND;

/// The body, with `now` from the last argument, and with lists that are packed and unpacked around
/// it.
fn script() -> Script {
    let packed = "local plain, list = ARGV, {}
        for i = 3, #plain - 1 do list[i - 2] = tonumber(plain[i]) or plain[i] end
        local ARGV = { plain[1], plain[2], cmsgpack.pack(list) }";
    at_a_moment(&format!(
        "local function body()\n{packed}\n{ADMIT_BODY}\nend\nreturn cmsgpack.unpack(body())"
    ))
}

fn at_a_moment(body: &str) -> Script {
    Script::new(&format!("local now = tonumber(ARGV[#ARGV])\nlocal steady = now\n{body}"))
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    interval: u64,
    burst: u64,
}

/// The answer of the reference model, in the script's numbers.
fn reference(tats: &mut HashMap<String, u64>, charges: &Check, now: u64) -> Vec<i64> {
    let number = |value: u64| if value == u64::MAX { -1 } else { i64::try_from(value).unwrap() };
    let steps: Vec<_> = charges
        .iter()
        .map(|(key, limit, cost, _)| {
            try_take(tats.get(key).copied(), now, limit.interval, limit.burst, *cost)
        })
        .collect();
    // A charge that wants nothing is that of a limit in shadow.
    let room =
        steps.iter().zip(charges).all(|(step, charge)| step.verdict.admitted || charge.3 == 0);
    let mut answer = vec![0];
    for ((key, limit, cost, want), step) in charges.iter().zip(steps) {
        let tat = tats.get(key).copied();
        let (verdict, units) = if room && step.verdict.admitted {
            let units = leasable(
                tat,
                now,
                limit.interval,
                limit.burst,
                LeaseRequest { cost: *cost, want: *want },
            );
            let step = try_take(tat, now, limit.interval, limit.burst, units);
            assert!(step.verdict.admitted, "what is there can be taken");
            tats.insert(key.clone(), step.tat);
            (step.verdict, number(units))
        } else if step.verdict.admitted {
            (peek(tat, now, limit.interval, limit.burst), 1)
        } else {
            (step.verdict, 0)
        };
        answer.extend([
            units,
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

/// Bucket, limit, cost and want of each charge.
type Check = Vec<(String, Limit, u64, u64)>;

/// A check of some of the limits.
fn check(random: &mut StdRng, limits: &[(String, Limit)]) -> Check {
    let count = random.random_range(0..=limits.len());
    let chosen: Vec<_> = limits.choose_multiple(random, count).cloned().collect();
    let charges = chosen.into_iter().map(|(key, limit)| {
        let cost =
            if random.random_ratio(1, 4) { random.random_range(1..=limit.burst + 1) } else { 1 };
        let want = match random.random_range(0..8) {
            0..2 => random.random_range(1..=limit.burst + 1),
            2 => 0,
            _ => cost,
        };
        (key, limit, cost, want)
    });
    // The configuration bounds a full bucket to a year, and with it what a charge can add.
    charges.filter(|(_, limit, cost, _)| limit.interval * cost <= 2 * YEAR).collect()
}

/// Sends all checks in one call.
fn call_with(client: &mut Connection, script: &Script, checks: &[Check], now: u64) -> Vec<i64> {
    let mut call = script.prepare_invoke();
    for (key, _, _, _) in checks.iter().flatten() {
        call.key(key);
    }
    call.key("bans").key("kinds");
    call.arg(checks.len()).arg(checks.iter().flatten().count());
    for charges in checks {
        call.arg(&[0, 0, charges.len(), 0, 0, 0, 0]);
        for (_, limit, cost, want) in charges {
            call.arg(&[limit.interval, limit.burst, *cost, *want]);
        }
    }
    call.arg(now).invoke(client).unwrap()
}

/// Runs one history on fresh keys. `None` if it took so long that Redis may have expired a bucket
/// that is full in real time only.
fn history(client: &mut Connection, script: &Script, seed: u64) -> Option<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let limits: Vec<(String, Limit)> =
        (0..4).map(|n| (format!("h:{seed}:{n}"), limit(&mut random))).collect();
    let mut now = random.random_range(1_500_000_000 * SECOND..4_000_000_000 * SECOND);
    let mut tats = HashMap::new();
    let back = at_a_moment(GIVE_BACK_BODY);
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
        // One check in most calls of a quiet store, many of the same buckets in those of a busy
        // one.
        let together = if random.random_ratio(1, 3) { 1 } else { random.random_range(2..20) };
        let checks: Vec<Check> = (0..together).map(|_| check(&mut random, &limits)).collect();
        let answer = call_with(client, script, &checks, now);
        if started.elapsed() > Duration::from_millis(900) {
            return None;
        }
        let expected: Vec<i64> =
            checks.iter().flat_map(|charges| reference(&mut tats, charges, now)).collect();
        assert_eq!(answer, expected, "history {seed}, step {step}, now {now}, {checks:?}");
        // Now and then units are returned.
        if random.random_ratio(1, 3) {
            let (key, limit) = limits.choose(&mut random).unwrap();
            let micros = limit.interval * random.random_range(1..=limit.burst.max(1));
            let _: () = back.key(key).key("format").arg(micros).arg(now).invoke(client).unwrap();
            match tat_after_return(tats.get(key).copied(), now, micros) {
                Some(tat) => drop(tats.insert(key.clone(), tat)),
                None => drop(tats.remove(key)),
            }
        }
        for (key, _) in &limits {
            let stored: Option<u64> = redis::cmd("GET").arg(key).query(client).unwrap();
            assert_eq!(
                stored,
                tats.get(key).copied(),
                "history {seed}, step {step}: what is stored in {key}"
            );
        }
    }
    Some(())
}

#[test]
fn the_script_counts_as_the_reference_does() {
    let server = redis_server::start(&[]);
    let (mut client, script) = (server.client(), script());
    let complete =
        (0..HISTORIES).filter(|seed| history(&mut client, &script, *seed).is_some()).count() as u64;
    assert!(
        complete >= HISTORIES / 2,
        "this machine is too slow for a history to be real: {complete} of {HISTORIES}"
    );
}

#[test]
fn revocations_are_decided_before_room() {
    let server = redis_server::start(&[]);
    let (mut client, script) = (server.client(), script());
    // Between two others that nothing revokes, so that no check can be taken for its neighbour.
    let mut ask = |issued_at: u64| -> Vec<i64> {
        let mut call = script.prepare_invoke();
        call.key(&[
            "left", "exact1", "exact2", "before1", "before2", "bucket", "right", "bans", "kinds",
            "foreign1", "foreign2", "absent",
        ]);
        call.arg(&[3, 7]).arg(&[0, 0, 1, 0, 0, 0, 0, 1000, 5, 1, 1]);
        call.arg(&[2, 2, 1, 2, issued_at, 0, 0, 1000, 5, 1, 1]).arg(&[1, 0, 0, 1, 0, 0, 0]);
        let answer: Vec<i64> = call.arg(SECOND).invoke(&mut client).unwrap();
        let (left, rest) = answer.split_at(5);
        assert_eq!((left[0], left.len()), (0, 5));
        let (middle, right) = rest.split_at(rest.len() - 1);
        assert_eq!(right, [0]);
        middle.to_vec()
    };
    let mut other = server.client();
    let mut set =
        |key: &str, value: &str| redis::cmd("SET").arg(key).arg(value).exec(&mut other).unwrap();
    // The right one's only keys: a revocation that is none, and a blacklist without it.
    assert_eq!(ask(100), [0, 1, 4, 0, 1000]);
    set("foreign2", "1");
    assert_eq!(ask(100), [7]);
    set("foreign1", "1");
    assert_eq!(ask(100), [6]);
    set("before2", "100");
    assert_eq!(ask(101), [6]);
    assert_eq!(ask(100), [4]);
    set("before1", "99");
    assert_eq!(ask(100), [4]);
    assert_eq!(ask(99), [3]);
    set("exact2", "0");
    assert_eq!(ask(100), [2]);
    set("exact1", "0");
    assert_eq!(ask(100), [1]);
    let tat: u64 = redis::cmd("GET").arg("bucket").query(&mut other).unwrap();
    assert_eq!(tat, SECOND + 1000, "charged once, by the one check that nothing revokes");
}

#[test]
fn a_check_that_cannot_be_read_takes_nothing_and_stops_no_other() {
    let server = redis_server::start(&[]);
    let (mut client, script) = (server.client(), script());
    let mut other = server.client();
    let good = ["1000", "5", "1", "1"];
    let mut ask = |bad: &[&str; 5]| -> Vec<i64> {
        let mut call = script.prepare_invoke();
        call.key(&["a", "b", "c", "a", "bans", "kinds"]);
        call.arg(&["3", "4", "0", "0", "1", "0", "0", "0", "0"]).arg(&good);
        call.arg(&["0", "0", "2", "0", bad[0], "0", "0"]).arg(&bad[1..]).arg(&good);
        call.arg(&["0", "0", "1", "0", "0", "0", "0"])
            .arg(&good)
            .arg("1000000")
            .invoke(&mut client)
            .unwrap()
    };
    let mut keys = || -> Vec<String> {
        let keys = redis::cmd("KEYS").arg("*").query(&mut other).unwrap();
        redis::cmd("FLUSHALL").exec(&mut other).unwrap();
        keys
    };
    let neighbours = [0, 1, 4, 0, 1000, -1, 0, 1, 3, 0, 2000];
    for bad in
        ["", "x", "1.5", "-1", "nan", "inf", "1e300", "9007199254740992", "99999999999999999999"]
    {
        for place in 0..5 {
            let mut arguments = ["0", "1000", "5", "1", "1"];
            arguments[place] = bad;
            assert_eq!(ask(&arguments), neighbours, "{bad} in place {place}");
            assert_eq!(keys(), ["a"], "{bad} in place {place}");
        }
    }
    // Each an integer, but not what comes of them.
    for place in 1..4 {
        let mut arguments = ["0", "1000", "5", "1", "1"];
        arguments[place] = "9007199254740000";
        assert_eq!(ask(&arguments), neighbours, "place {place}");
        assert_eq!(keys(), ["a"], "place {place}");
    }
    let mut other = server.client();
    redis::cmd("SET").arg("b").arg("not a number").exec(&mut other).unwrap();
    assert_eq!(ask(&["0", "1000", "5", "1", "1"]), neighbours, "a bucket that is none");
    let left: String = redis::cmd("GET").arg("b").query(&mut other).unwrap();
    assert_eq!(left, "not a number");
}

#[test]
fn a_malformed_call_is_an_error_and_charges_nothing() {
    let server = redis_server::start(&[]);
    let (mut client, script) = (server.client(), script());
    for call in [
        ["x", "1", "0", "0", "1"],
        ["1", "x", "0", "0", "1"],
        ["1", "1", "x", "0", "1"],
        ["1", "1", "0", "0", "x"],
    ] {
        let mut invocation = script.prepare_invoke();
        invocation.key("a").key("bans").arg(&call);
        invocation.arg(&["0", "0", "0", "1000", "5", "1", "1", "1000000"]);
        let answer: RedisResult<Vec<i64>> = invocation.invoke(&mut client);
        assert!(answer.is_err(), "{call:?}");
        let keys: usize = redis::cmd("DBSIZE").query(&mut client).unwrap();
        assert_eq!(keys, 0, "{call:?}");
    }
}

#[test]
fn idle_buckets_vanish() {
    let server = redis_server::start(&[]);
    let (mut client, script) = (server.client(), script());
    for (key, interval, least, most) in
        [("a", 1000_u64, 1000, 1001), ("b", 60 * SECOND, 60_000, 61_000)]
    {
        let checks = [vec![(key.to_owned(), Limit { interval, burst: 5 }, 1, 1)]];
        call_with(&mut client, &script, &checks, 1_800_000_000 * SECOND);
        let ttl: i64 = redis::cmd("PTTL").arg(key).query(&mut client).unwrap();
        assert!((least - 500..=most).contains(&ttl), "{key}: {ttl}ms");
    }
}
