//! The steady time of the scripts: what they decide where the clock of Redis is set back. The text of
//! `preamble.lua` is run with a time of the test in place of `TIME`.

use redis::{Connection, Script};

use super::redis_server;

const PREAMBLE: &str = include_str!("../../src/store/scripts/preamble.lua");
const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
const START: u64 = 1_800_000_000 * SECOND;

/// The steady time at a moment of Redis' clock, and how far it is ahead.
fn steady(client: &mut Connection, now: u64) -> (u64, u64) {
    let text = PREAMBLE.replace("redis.call('TIME')", "{ ARGV[1], ARGV[2] }");
    assert_ne!(text, PREAMBLE);
    let script = Script::new(&format!("{text}\nreturn {{ steady, ahead }}"));
    let mut call = script.prepare_invoke();
    call.key("{tollgate}:format").arg(now / SECOND).arg(now % SECOND);
    call.invoke(client).unwrap()
}

#[test]
fn the_steady_time_is_that_of_redis_until_the_clock_is_set_back() {
    let server = redis_server::start(&[]);
    let mut client = server.client();
    for after in [0, 1, SECOND, 5 * SECOND, HOUR, 9 * HOUR] {
        assert_eq!(steady(&mut client, START + after), (START + after, 0));
    }
}

#[test]
fn it_goes_on_where_the_clock_is_set_back_again_and_again() {
    let server = redis_server::start(&[]);
    let mut client = server.client();
    let (mut now, mut latest) = (START, 0);
    // What was stored is a second old at most, and so is what is lost.
    for (step, forward) in
        [(HOUR, 10), (1, 1), (3 * HOUR, 700), (10, 0), (SECOND, 2), (HOUR / 2, 3)]
    {
        let (before, ahead) = steady(&mut client, now);
        assert!(before + SECOND >= latest, "{before} after {latest}");
        now -= step;
        let (after, now_ahead) = steady(&mut client, now);
        assert!(after + SECOND >= before, "{after} after {before}");
        assert!(after <= before + 1, "a step back is no time that passes: {after} after {before}");
        assert_eq!(after, now + now_ahead);
        assert!(now_ahead >= ahead, "it is never less ahead");
        now += forward * SECOND;
        latest = steady(&mut client, now).0;
        assert_eq!(latest, after + forward * SECOND, "and then it runs as the clock does");
    }
}

#[test]
fn a_clock_that_cannot_be_read_is_none() {
    let server = redis_server::start(&[]);
    let mut client = server.client();
    for text in ["", "x", "1", "-5 3", "1 2 3", "9e9 1", "9000000000000000 7200000000000000"] {
        redis::cmd("SET").arg("{tollgate}:clock").arg(text).exec(&mut client).unwrap();
        assert_eq!(steady(&mut client, START), (START, 0), "{text:?}");
    }
}

/// A server that is full or a replica refuses the write, and decides as before.
#[test]
fn a_clock_that_cannot_be_written_fails_no_script() {
    let server = redis_server::start(&[]);
    let mut client = server.client();
    redis::cmd("LPUSH").arg("{tollgate}:clock").arg("x").exec(&mut client).unwrap();
    assert_eq!(steady(&mut client, START), (START, 0));
    let denies = "user";
    redis::cmd("ACL")
        .arg(&["SETUSER", denies, "on", "nopass", "~*", "+@all", "-set"])
        .exec(&mut client)
        .unwrap();
    let mut limited = server.client();
    redis::cmd("AUTH").arg(&[denies, ""]).exec(&mut limited).unwrap();
    assert_eq!(steady(&mut limited, START + HOUR), (START + HOUR, 0));
}
