//! Many reloads while requests arrive: none fails, and the process holds no more memory, files and
//! threads than after the first ones.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{POLICY, Rig, SOON, http::Request, tollgate::Tollgate, until, within};

/// Limits of the policy: some hundred KiB when it is compiled.
const LIMITS: usize = 500;

/// The variable with the number of reloads of [`many_reloads`].
const COUNT: &str = "TOLLGATE_RELOADS";

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    rss_kib: u64,
    files: usize,
    threads: usize,
}

impl Held {
    fn by(tollgate: &Tollgate) -> Self {
        let status = tollgate.process.proc("status");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let entries = |path| std::fs::read_dir(tollgate.process.path(path)).unwrap().count();
        Self {
            rss_kib: rss.trim().strip_suffix(" kB").unwrap().parse().unwrap(),
            files: entries("fd"),
            threads: entries("task"),
        }
    }
}

/// What many reloads did.
#[derive(Debug)]
struct Outcome {
    requests: usize,
    warm: Held,
    end: Held,
}

/// Reloads the file `count` times under load. Panics where a request fails.
fn reload(count: usize) -> Outcome {
    let limits: String = (0..LIMITS)
        .map(|n| format!("  - {{ name: other-{n}, by: [subject], rate: 10/1m }}\n"))
        .collect();
    let policy = format!("{POLICY}limits:\n{limits}");
    let rig = Rig::start(&policy);
    let token = rig.token(json!({}));
    let (is_over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut warm, mut end) = (None, None);
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !is_over.load(Relaxed) {
                        let reply = rig.chat(&token);
                        if reply.status != 200 {
                            return Some((reply.status, reply.text()));
                        }
                        requests.fetch_add(1, Relaxed);
                    }
                    None
                })
            })
            .collect();
        let reloaded = || rig.tollgate.process.err().matches("configuration reloaded").count();
        for number in 1..=count {
            rig.tollgate.process.signal(Signal::SIGHUP);
            // The threads end before a failure is reported.
            if within(SOON, || (reloaded() >= number).then_some(())).is_none() {
                break;
            }
            if number == count.div_ceil(4) {
                warm = Some(Held::by(&rig.tollgate));
            }
        }
        end = Some(Held::by(&rig.tollgate));
        is_over.store(true, Relaxed);
        for thread in load {
            assert_eq!(thread.join().unwrap(), None);
        }
        assert_eq!(reloaded(), count);
    });
    // The last one has an effect.
    rig.tollgate.rewrite(
        rig.dir.path(),
        &policy.replace("paths: [/v1/models]", "paths: [/v1/models, /changed]"),
    );
    let changed = Request::get("/changed").bearer(&token);
    until("the change", || (rig.envoy.send(&changed).status == 200).then_some(()));
    Outcome { requests: requests.load(Relaxed), warm: warm.unwrap(), end: end.unwrap() }
}

fn assert_bounded(outcome: &Outcome) {
    let Outcome { requests, warm, end } = outcome;
    assert!(*requests > 10, "{outcome:?}");
    assert!(end.files <= warm.files + 16, "{outcome:?}");
    assert!(end.threads <= warm.threads + 4, "{outcome:?}");
    // Three quarters of a hundred policies that were not freed would be more.
    assert!(end.rss_kib <= warm.rss_kib + (24 << 10), "{outcome:?}");
}

#[test]
fn a_hundred_reloads_under_load_fail_no_request_and_leak_nothing() {
    assert_bounded(&reload(100));
}

/// `make reloads` sets the number, and shows the table.
#[test]
#[ignore = "takes a while: make reloads"]
fn many_reloads() {
    let count = std::env::var(COUNT).map_or(150, |count| count.parse().unwrap());
    let outcome = reload(count);
    let Outcome { requests, warm, end } = &outcome;
    println!(
        "\n{count} reloads of a policy of {LIMITS} limits, {requests} requests, none failed\n"
    );
    println!("| | RSS MiB | open files | threads |\n|---|---|---|---|");
    for (when, held) in [("after a quarter", warm), ("at the end", end)] {
        let mib = held.rss_kib as f64 / 1024.0;
        println!("| {when} | {mib:.1} | {} | {} |", held.files, held.threads);
    }
    assert_bounded(&outcome);
}
