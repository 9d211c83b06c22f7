//! What someone who can write to Redis adds to a ledger does not stop it, and is not exported or signed.

use redis::Connection;
use serde_json::json;
use tollgate::engine::ledger::{LedgerError, Round};
use tollgate_core::{
    admission::{Settled, Usage},
    limit::usage_report::Basis,
    time::Timestamp,
};

use super::{
    command::Operator,
    rig::{Ledger, now, request, settled},
};
use crate::store::redis_server::{self, Server};

const OWNERS: &str = "{tollgate}:ledger:owners";

/// Noon of 2026-01-15, of which the month has ended.
pub(super) const JANUARY: Timestamp = Timestamp::from_secs(1_768_478_400);

pub(super) async fn settle(ledger: &Ledger, decision: &str) {
    let request = request(decision, "acme", 100);
    ledger.admit(&request).await;
    let report = settled(&request, Usage::Final(8), Basis::Reported);
    assert_eq!(ledger.settle(&report).await, Settled::Charged(8));
}

/// A ledger with three records of January.
pub(super) async fn january() -> (Server, Operator, Ledger) {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(JANUARY).await.unwrap();
    for number in 0..3 {
        settle(&ledger, &format!("d{number}")).await;
    }
    ledger.shift_pending(JANUARY).await;
    ledger.write_all_at(JANUARY).await;
    let operator = Operator::of(&server);
    (server, operator, ledger)
}

fn number(client: &mut Connection, command: &[&str]) -> u64 {
    redis::cmd(command[0]).arg(&command[1..]).query(client).unwrap()
}

#[tokio::test]
async fn a_pending_record_that_is_none_is_set_aside_and_counted() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut add = redis::cmd("XADD");
    add.arg("{tollgate}:ledger:pending:0").arg("*");
    for field in 0..4500 {
        add.arg(field).arg("x");
    }
    add.exec(client).unwrap();
    let mut ledger = Ledger::start(&server);
    // Pending before a process has a chain, and in its chain.
    settle(&ledger, "before").await;
    ledger.write_all().await;
    let pending = "{tollgate}:ledger:pending:1";
    redis::cmd("XADD").arg(&[pending, "*", "f", "x"]).exec(client).unwrap();
    settle(&ledger, "after").await;
    ledger.write_all().await;
    let records = ledger.records().await;
    let decisions: Vec<_> = records.iter().map(|record| record.decision.as_str()).collect();
    assert_eq!(decisions, ["before", "after"]);
    assert_eq!(ledger.entries(1).await.len(), 3, "one checkpoint");
    assert_eq!(ledger.counted("tollgate_ledger_unreadable_total"), 2);
    assert_eq!(number(client, &["XLEN", "{tollgate}:ledger:unreadable"]), 2);
    assert_eq!(number(client, &["XLEN", "{tollgate}:ledger:pending:0"]), 0);
    assert_eq!(ledger.verify().await, []);
}

#[tokio::test]
async fn a_chain_that_takes_no_more_entries_is_given_up() {
    for is_removed in [false, true] {
        for last in ["18446744073709551614-0", "18446744073709551615-0", "9007199254740993-0"] {
            let server = redis_server::start(&[]);
            let client = &mut server.client();
            let mut ledger = Ledger::start(&server);
            settle(&ledger, "before").await;
            ledger.write_all().await;
            let chain = "{tollgate}:ledger:chain:1";
            redis::cmd("XADD").arg(&[chain, last, "e", "x", "m", "x"]).exec(client).unwrap();
            if is_removed {
                redis::cmd("XDEL").arg(&[chain, last]).exec(client).unwrap();
            }
            settle(&ledger, "pending").await;
            ledger.write_all().await;
            settle(&ledger, "after").await;
            ledger.write_all().await;
            // What is pending in the chain is adopted when its process was not seen for a minute.
            redis::cmd("HSET").arg(&[OWNERS, "1", "gone 0"]).exec(client).unwrap();
            ledger.write_all_at(Timestamp::from_secs(now().secs() + 61)).await;
            let records = ledger.records().await;
            let mut decisions: Vec<_> =
                records.iter().map(|record| record.decision.as_str()).collect();
            decisions.sort_unstable();
            assert_eq!(decisions, ["after", "before", "pending"], "{last}, {is_removed}");
            // A process that starts claims it, and gives it up.
            redis::cmd("HSET").arg(&[OWNERS, "2", "gone 0"]).exec(client).unwrap();
            let mut other = Ledger::start(&server);
            other.write_all().await;
            assert!(other.entries(2).await.len() > 3, "{last}, {is_removed}");
            let found = Operator::of(&server).findings(&[]);
            assert_eq!(found.is_empty(), is_removed, "{last}: {found:?}");
        }
    }
}

#[tokio::test]
async fn planted_owners_of_chains_are_bounded() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut plant = |seen: u64| {
        let mut set = redis::cmd("HSET");
        set.arg(OWNERS);
        (1..=3000).for_each(|chain| {
            set.arg(chain).arg(format!("x {seen}"));
        });
        set.exec(client).unwrap();
    };
    plant(now().micros() / 1000);
    let mut ledger = Ledger::start(&server);
    assert_eq!(ledger.writer.round(now()).await, Err(LedgerError::NoChain));
    assert_eq!(ledger.counted("tollgate_ledger_failures_total"), 1);
    // Those that are never seen again, and those that were seen in the future.
    for seen in [0, 99_999_999_999_999] {
        plant(seen);
        assert_eq!(Ledger::start(&server).writer.round(now()).await, Ok(Round::Idle), "{seen}");
    }
}

/// The time zone is that of the first writer: days are not those of two zones.
#[tokio::test]
async fn another_time_zone_than_that_of_the_ledger_is_an_error() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let berlin = json!({ "time_zone": "Europe/Berlin" });
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    // One of an earlier version has none, and takes that of its next writer.
    ledger.writer.close(now()).await;
    redis::cmd("DEL").arg("{tollgate}:ledger:time-zone").exec(client).unwrap();
    let mut ledger = Ledger::with(&server, &berlin);
    ledger.writer.round(now()).await.unwrap();
    ledger.writer.close(now()).await;
    let error = Ledger::start(&server).writer.round(now()).await.unwrap_err();
    assert_eq!(
        error,
        LedgerError::TimeZone { noted: "Europe/Berlin".into(), configured: "UTC".into() }
    );
    let operator = Operator::of(&server);
    for command in [&["--from", "2026-01-01"][..], &["verify"], &["close", "--month", "2026-01"]] {
        let (code, text) = operator.run(command);
        assert!(code == 2 && text.contains("`Europe/Berlin`") && text.contains("`UTC`"), "{text}");
    }
}

#[tokio::test]
async fn an_entry_that_no_key_has_signed_is_not_exported() {
    let (server, operator, _ledger) = january().await;
    let client = &mut server.client();
    let chain = "{tollgate}:ledger:chain:7";
    let zeros = "A".repeat(43);
    redis::cmd("HSET").arg(&[OWNERS, "7", "x 1"]).exec(client).unwrap();
    for planted in [
        "x",
        "{\"v\":1,\"kind\":\"usage\"}\n{\"forged\":\"\u{1b}[31m\"}\n{\"z\":1}",
        &operator_entry(client),
    ] {
        redis::cmd("XADD").arg(&[chain, "1-0", "e", planted, "m", &zeros]).exec(client).unwrap();
        let (code, text) = operator.run(&["export", "--file", "usage.jsonl"]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("chain 7 is not exported from entry 1 on"), "{text}");
        // The other chain is exported, and no forged line.
        assert_eq!(operator.records("usage.jsonl").len(), 3, "{planted}");
        let (code, text) = operator.run(&["export", "--all"]);
        assert!(code == 2 && !text.contains(['\u{1b}']) && !text.contains("forged"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with('{')).count(), 4, "{text}");
        redis::cmd("DEL").arg(chain).exec(client).unwrap();
        // When it is removed, the next export goes on.
        operator.export("usage.jsonl");
        assert_eq!(operator.findings(&["usage.jsonl"]), Vec::<String>::new());
    }
}

/// The text of an entry of another place.
fn operator_entry(client: &mut Connection) -> String {
    let entries: Vec<(String, Vec<(String, String)>)> =
        redis::cmd("XRANGE").arg(&["{tollgate}:ledger:chain:1", "-", "+"]).query(client).unwrap();
    entries[1].1[0].1.clone()
}

#[tokio::test]
async fn an_export_with_another_key_writes_and_marks_nothing() {
    let (server, operator, _ledger) = january().await;
    let client = &mut server.client();
    let key = operator.path().join("ledger-key");
    let config = operator.path().join("tollgate.yaml");
    let (secret, file) = (std::fs::read(&key).unwrap(), std::fs::read_to_string(&config).unwrap());
    let other_id = file.replace("id: k,", "id: other,");
    for (about, secret, file, expected) in [
        ("another secret", &[9; 32][..], &file, "another secret for the key `k`"),
        ("a key that is missing", &secret, &other_id, "the key `k` is not in `ledger.keys`"),
    ] {
        std::fs::write(&key, secret).unwrap();
        std::fs::write(&config, file).unwrap();
        let (code, text) = operator.run(&["export", "--file", "usage.jsonl"]);
        assert!(
            code == 2 && text.contains(expected) && text.contains("chain 1"),
            "{about}: {text}"
        );
        assert_eq!(std::fs::read(operator.path().join("usage.jsonl")).unwrap(), b"", "{about}");
        assert_eq!(number(client, &["EXISTS", "{tollgate}:ledger:exported"]), 0, "{about}");
    }
    std::fs::write(&key, secret).unwrap();
    std::fs::write(&config, file).unwrap();
    operator.export("usage.jsonl");
    let records = operator.records("usage.jsonl");
    assert!(records.iter().all(|record| record["who"]["subject"] == "alice"), "{records:?}");
    assert_eq!(records.len(), 3);
}

#[tokio::test]
async fn a_month_is_closed_with_the_sums_of_its_records_only() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    let close = ["close", "--month", "2026-01"];
    let day = "{tollgate}:ledger:day:2026-01-15";
    for (letter, value, expected) in [
        ("t", 999, "the sums have tokens 999, and the records: tokens 24"),
        ("i", 5, "the sums have input 5, and the records: input 0"),
        ("r", 4, "the sums have requests 4, and the records: requests 3"),
    ] {
        let field = format!(r#"{letter}["acme",null,"chat"]"#);
        let right: Option<i64> = redis::cmd("HGET").arg(day).arg(&field).query(client).unwrap();
        redis::cmd("HSET").arg(day).arg(&field).arg(value).exec(client).unwrap();
        let (code, text) = operator.run(&close);
        assert!(code == 2 && text.contains(expected), "{text}");
        assert_eq!(number(client, &["EXISTS", "{tollgate}:ledger:closed"]), 0);
        let (_, text) = operator.run(&["verify"]);
        assert!(text.contains(&format!("2026-01-15: {expected}")), "{text}");
        redis::cmd("HSET").arg(day).arg(&field).arg(right.unwrap_or(0)).exec(client).unwrap();
    }
    // Records that Redis has no more are in an export, or the month cannot be verified.
    operator.export("usage.jsonl");
    ledger.writer.close(JANUARY).await;
    let before = JANUARY.secs() + 40 * 86_400;
    let mut ledger = Ledger::with(&server, &json!({ "retention": "1h" }));
    ledger.write_all_at(Timestamp::from_secs(before)).await;
    operator.export("usage.jsonl");
    ledger.write_all_at(Timestamp::from_secs(before + 7200)).await;
    assert!(ledger.entries(1).await[0].number > 4);
    let (code, text) = operator.run(&close);
    assert!(code == 2 && text.contains("name its files with --export"), "{text}");
    let with_file = [&close[..], &["--export", "usage.jsonl"]].concat();
    let text = operator.succeed(&with_file);
    assert!(text.contains("2026-01 is closed: 3 requests, 24 tokens"), "{text}");
    let (code, text) = operator.run(&[&close[..], &["--output", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["closed"]), (1, &json!(false)));
    // The figures of the close are named where they were changed.
    let text: String =
        redis::cmd("HGET").arg(&["{tollgate}:ledger:months", "2026-01"]).query(client).unwrap();
    let changed = text.replace("\"tokens\":24", "\"tokens\":25");
    redis::cmd("HSET")
        .arg(&["{tollgate}:ledger:months", "2026-01", &changed])
        .exec(client)
        .unwrap();
    let (_, text) = operator.run(&["verify"]);
    assert!(text.contains("2026-01: what is stored of its close was changed"), "{text}");
}

#[tokio::test]
async fn a_month_before_the_ledger_is_not_closed() {
    let (_server, operator, _ledger) = january().await;
    for month in ["0001-01", "2025-12"] {
        for more in [&[][..], &["--unverified"]] {
            let (code, text) = operator.run(&[&["close", "--month", month], more].concat());
            assert!(code == 2 && text.contains("the ledger begins in 2026-01"), "{text}");
        }
    }
    operator.succeed(&["close", "--month", "2026-01"]);
}

/// Neither the name of a record nor the key of the ledger leads from one who was erased to its records.
#[tokio::test]
async fn a_person_has_another_name_after_an_erasure() {
    let (server, operator, mut ledger) = january().await;
    let before = ledger.records().await[0].person.clone().unwrap();
    let by_key = tollgate_core::ledger::person::names(&ledger.keys(), "", "alice");
    assert!(!by_key.contains(&before));
    operator.succeed(&["erase", "--issuer", "", "--subject", "alice"]);
    assert_eq!(operator.run(&["erase", "--issuer", "", "--subject", "alice"]).0, 1);
    settle(&ledger, "again").await;
    settle(&ledger, "once more").await;
    ledger.write_all().await;
    let records = ledger.records().await;
    let after: Vec<_> = records[3..].iter().map(|record| record.person.clone().unwrap()).collect();
    assert!(after[0] == after[1] && after[0] != before, "{before}: {after:?}");
    let subjects = ledger.subjects().await;
    assert_eq!(subjects[..3], [const { None }; 3]);
    assert_eq!(subjects[3..], [Some("alice".into()), Some("alice".into())]);
    assert_eq!(ledger.verify().await, []);
    // A replica of an earlier version gives records the name by the key, which goes on until the erasure.
    operator.succeed(&["erase", "--issuer", "", "--subject", "alice"]);
    let persons = "{tollgate}:ledger:persons";
    let client = &mut server.client();
    redis::cmd("HSET").arg(persons).arg(&by_key[0]).arg(&[5_u8; 32][..]).exec(client).unwrap();
    settle(&ledger, "shared").await;
    ledger.write_all().await;
    assert_eq!(ledger.records().await.last().unwrap().person.as_ref(), Some(&by_key[0]));
    operator.succeed(&["erase", "--issuer", "", "--subject", "alice"]);
    assert_eq!(number(client, &["HLEN", persons]), 0);
    assert_eq!(number(client, &["HLEN", "{tollgate}:ledger:names"]), 0);
}
