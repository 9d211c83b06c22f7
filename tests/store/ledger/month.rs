//! A month of traffic, with restarts, the promotion of a replica that is behind, trimming, erasure and its
//! close.

use serde_json::{Value, json};
use tollgate::store::Store as _;
use tollgate_core::{
    admission::{Settled, Usage},
    limit::usage_report::Basis,
    time::Timestamp,
};

use super::{
    command::Operator,
    rig::{Ledger, request, settled},
    slow_link::SlowLink,
};
use tollgate_testkit::wait;

use crate::store::{
    redis_server::{self, Server},
    requests::{charge, charging, until},
};

/// 2026-09-01T00:00:00Z, and the seconds of a day.
const SEPTEMBER: u64 = 1_788_220_800;
const DAY: u64 = 86_400;

/// The requests of a day.
const REQUESTS: u64 = 12;

fn start(url: &str) -> Ledger {
    Ledger::at(url, &json!({ "retention": "7d" }))
}

/// Makes a replica the primary, at the address of the one that was killed.
fn promote(replica: &Server, port: u16) {
    let mut client = replica.client();
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec(&mut client).unwrap();
    wait::until("the address", || {
        redis::cmd("CONFIG").arg(&["SET", "port"]).arg(port).exec(&mut client).ok()
    });
}

/// The tokens that lines of an export have: those of corrections replace others.
fn tokens(records: &[Value]) -> i64 {
    let number = |record: &Value, name: &str| record[name].as_i64().unwrap_or(0);
    records.iter().map(|record| number(record, "tokens") - number(record, "corrects")).sum()
}

#[tokio::test]
async fn the_sum_of_the_exports_of_a_month_is_that_of_its_settlements() {
    let mut primary = redis_server::start(&["--repl-diskless-sync-delay", "0"]);
    let link = SlowLink::start(primary.port());
    let replica = redis_server::start(&["--replicaof", &format!("127.0.0.1 {}", link.port)]);
    let url = format!("redis://127.0.0.1:{}", primary.port());
    let operator = Operator::at(&url);
    let mut ledger = start(&url);
    let mut charged = 0;
    for day in 0..30 {
        let noon = Timestamp::from_secs(SEPTEMBER + day * DAY + DAY / 2);
        for number in 0..REQUESTS {
            let subject = if number % 3 == 0 { "alice" } else { "bob" };
            let mut request = request(&format!("{day}/{number}"), "acme", 100);
            request.facts.as_mut().unwrap().subject = Some(subject.into());
            ledger.admit(&request).await;
            if day == 20 && number == 0 {
                // Until here the replica that becomes the primary has everything.
                ledger.write_all_at(noon).await;
                redis_server::until_copied(&primary);
                link.stop();
            }
            let (usage, basis) = match number % 4 {
                0 => (Usage::Unreported(0), Basis::Hold),
                _ => (Usage::Final(10 * day + number), Basis::Reported),
            };
            let report = settled(&request, usage, basis);
            let Settled::Charged(tokens) = ledger.settle(&report).await else { panic!() };
            if day == 20 {
                // Lost: the settlement and its record. The first one is still held, and reported again.
                ledger.shift_pending(noon).await;
                ledger.write_all_at(noon).await;
                primary.kill();
                promote(&replica, primary.port());
                let probe = charging(&[charge("probe", 1000, 0)]);
                until("it answers again", async || ledger.store.admit(&probe).await.is_ok()).await;
                let Settled::Charged(again) = ledger.settle(&report).await else { panic!() };
                assert_eq!(again, tokens);
                charged += tokens;
                break;
            }
            charged += tokens;
            assert_eq!(ledger.settle(&report).await, Settled::Repeated);
        }
        ledger.shift_pending(noon).await;
        match day {
            // Killed: its chain is free a minute later, and the next process writes another one.
            8 => {
                ledger = start(&url);
                ledger.adopt_from(1, noon).await;
            }
            // Ended: its chain goes on.
            15 => {
                ledger.writer.close(noon).await;
                ledger = start(&url);
            }
            _ => {}
        }
        ledger.write_all_at(noon).await;
        if day % 5 == 4 {
            operator.export("usage.jsonl");
            assert_eq!(tokens(&operator.records("usage.jsonl")), i64::try_from(charged).unwrap());
        }
        if day == 12 {
            let erase = ["erase", "--issuer", "", "--subject", "alice"];
            assert_eq!(operator.succeed(&erase), "erased\n");
        }
    }
    // What was exported and is older than a week is trimmed.
    for chain in [1, 2] {
        let first = ledger.entries(chain).await.first().unwrap().number;
        assert!(first > 20, "{chain}: {first}");
    }
    // The failover is the only gap; the erased person is in lines that were exported before.
    let mut found = operator.findings(&["usage.jsonl"]);
    found.dedup();
    assert_eq!(found, ["missing", "not_erased"]);
    let lines = std::fs::read_to_string(operator.path().join("usage.jsonl")).unwrap();
    let erased: String = lines
        .lines()
        .map(|line| match line.split_once(",\"who\":") {
            Some((kept, who)) if who.contains("alice") && is_early(line) => format!("{kept}}}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(operator.path().join("erased.jsonl"), erased).unwrap();
    let mut found = operator.findings(&["erased.jsonl"]);
    found.dedup();
    assert_eq!(found, ["missing"]);
    // The report has the same sum, and the month is closed once.
    let report = ["--from", "2026-09-01", "--to", "2026-09-30", "--output", "json"];
    let report: Value = serde_json::from_str(&operator.succeed(&report)).unwrap();
    assert_eq!(report["total"]["tokens"].as_i64().unwrap(), i64::try_from(charged).unwrap());
    let close = ["close", "--month", "2026-09", "--export", "usage.jsonl"];
    let (code, text) = operator.run(&close);
    assert!(code == 2 && text.contains("a failover has lost them"), "{text}");
    let text = operator.succeed(&[&close[..], &["--unverified"]].concat());
    assert_eq!(text.matches("not verified").count(), 1, "{text}");
    assert_eq!(operator.run(&["close", "--month", "2026-09"]).0, 1);
    let late = request("late", "acme", 100);
    ledger.admit(&late).await;
    ledger.settle(&settled(&late, Usage::Final(7), Basis::Reported)).await;
    ledger.shift_pending(Timestamp::from_secs(SEPTEMBER + DAY)).await;
    ledger.write_all_at(Timestamp::from_secs(SEPTEMBER + 30 * DAY)).await;
    operator.export("usage.jsonl");
    let records = operator.records("usage.jsonl");
    let late = records.last().unwrap();
    assert_eq!((&late["day"], &late["late_for"]), (&json!("2026-10-01"), &json!("2026-09")));
    // The gap was trimmed with what is old, and the closed month has not changed.
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
    let text = operator.succeed(&["verify"]);
    assert!(text.contains("2026-09 was closed unverified"), "{text}");
}

/// Whether a line is one of the days before the erasure.
fn is_early(line: &str) -> bool {
    let day = line.split_once("\"day\":\"2026-09-").unwrap().1;
    day[..2].parse::<u64>().unwrap() <= 13
}
