//! What is planted in the ledger of a Redis, and in files of exports, is found.

use redis::Connection;
use tollgate_core::{
    admission::{Settled, Usage},
    ledger::calendar::Calendar,
    limit::usage_report::Basis,
    time::Timestamp,
};

use super::{
    command::Operator,
    rig::{Ledger, now, request, settled},
};
use crate::store::redis_server::{self, Server};

/// An entry of a chain: its id, its text and its MAC.
type Stored = (String, String, String);

/// Two chains with five records each, exported.
async fn place() -> (Server, Operator) {
    let server = redis_server::start(&[]);
    let operator = Operator::of(&server);
    let (mut one, mut two) = (Ledger::start(&server), Ledger::start(&server));
    for (name, ledger) in [("a", &mut one), ("b", &mut two)] {
        ledger.writer.round(now()).await.unwrap();
        for number in 0..5 {
            let request = request(&format!("{name}{number}"), "acme", 100);
            ledger.admit(&request).await;
            let report = settled(&request, Usage::Final(10), Basis::Reported);
            assert_eq!(ledger.settle(&report).await, Settled::Charged(10));
        }
        ledger.write_all().await;
    }
    // The last checkpoint of each chain names the end of the other one.
    one.writer.close(now()).await;
    two.writer.close(now()).await;
    operator.export("usage.jsonl");
    assert_eq!(operator.findings(&["usage.jsonl"]), Vec::<String>::new());
    (server, operator)
}

fn key(chain: u32) -> String {
    format!("{{tollgate}}:ledger:chain:{chain}")
}

fn read(client: &mut Connection, chain: u32) -> Vec<Stored> {
    let entries: Vec<(String, Vec<(String, String)>)> =
        redis::cmd("XRANGE").arg(key(chain)).arg("-").arg("+").query(client).unwrap();
    let stored = |(id, fields): (String, Vec<(String, String)>)| {
        let value = |name: &str| fields.iter().find(|(field, _)| field == name).unwrap().1.clone();
        (id, value("e"), value("m"))
    };
    entries.into_iter().map(stored).collect()
}

/// Replaces a whole chain: an entry of a stream cannot be changed.
fn write(client: &mut Connection, chain: u32, entries: &[Stored]) {
    redis::cmd("DEL").arg(key(chain)).exec(client).unwrap();
    for (id, text, mac) in entries {
        let mut add = redis::cmd("XADD");
        add.arg(key(chain)).arg(id).arg("e").arg(text).arg("m").arg(mac).exec(client).unwrap();
    }
}

#[tokio::test]
async fn what_is_planted_in_redis_is_found() {
    let (server, operator) = place().await;
    let client = &mut server.client();
    let (whole, other) = (read(client, 1), read(client, 2));
    let lower = |(id, text, mac): &Stored| {
        (id.clone(), text.replace("\"tokens\":10", "\"tokens\":1"), mac.clone())
    };
    let with_text_of = |id: &Stored, of: &Stored| (id.0.clone(), of.1.clone(), of.2.clone());
    let mut changed = whole.clone();
    changed[2] = lower(&whole[2]);
    let mut deleted = whole.clone();
    deleted.remove(3);
    let mut duplicated = whole.clone();
    duplicated.push(with_text_of(&("99-0".into(), String::new(), String::new()), &whole[2]));
    let mut reordered = whole.clone();
    reordered[2] = with_text_of(&whole[2], &whole[3]);
    reordered[3] = with_text_of(&whole[3], &whole[2]);
    let mut swapped = whole.clone();
    swapped[2] = with_text_of(&whole[2], &other[2]);
    let truncated = whole[..whole.len() - 2].to_vec();
    let mut rolled_back = whole.clone();
    let last = rolled_back.len() - 1;
    rolled_back[last] = with_text_of(&whole[last], &whole[0]);
    let beheaded = whole[3..].to_vec();
    for (about, entries, expected) in [
        ("a record is changed", changed, "changed"),
        ("a record is deleted", deleted, "missing"),
        ("a record is duplicated", duplicated, "misplaced"),
        ("two records are reordered", reordered, "misplaced"),
        ("a record is that of another replica", swapped, "misplaced"),
        ("the end is truncated", truncated, "truncated"),
        ("the last checkpoint is an earlier one", rolled_back, "misplaced"),
        ("the beginning is removed", beheaded, "removed"),
        ("the chain is removed", Vec::new(), "truncated"),
    ] {
        write(client, 1, &entries);
        let found = operator.findings(&[]);
        assert!(found.iter().any(|name| name == expected), "{about}: {found:?}");
        write(client, 1, &whole);
        assert_eq!(operator.findings(&[]), Vec::<String>::new(), "{about}");
    }
}

/// The end of a chain is rolled back together with what notes it: the other chain, and the export,
/// have seen more.
#[tokio::test]
async fn an_end_that_is_rolled_back_with_its_note_is_found() {
    let (server, operator) = place().await;
    let client = &mut server.client();
    let whole = read(client, 1);
    write(client, 1, &whole[..4]);
    let end = format!("4 {}", whole[3].2);
    redis::cmd("HSET").arg("{tollgate}:ledger:ends").arg(1).arg(end).exec(client).unwrap();
    assert!(operator.findings(&[]).contains(&"truncated".to_owned()));
    assert!(operator.findings(&["usage.jsonl"]).contains(&"truncated".to_owned()));
}

#[tokio::test]
async fn sums_that_are_changed_are_found() {
    let (server, operator) = place().await;
    let client = &mut server.client();
    let days: Vec<String> =
        redis::cmd("KEYS").arg("{tollgate}:ledger:day:*").query(client).unwrap();
    let row = r#"t["acme",null,"chat"]"#;
    redis::cmd("HINCRBY").arg(&days[0]).arg(row).arg(-1).exec(client).unwrap();
    assert_eq!(operator.findings(&[]), ["day"]);
}

#[tokio::test]
async fn what_is_planted_in_an_export_is_found() {
    let (_server, operator) = place().await;
    let path = operator.path().join("usage.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let join = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let replaced = |from: &str, to: &str| text.replacen(from, to, 1);
    let without = |place: usize| {
        let mut kept = lines.clone();
        kept.remove(place);
        join(&kept)
    };
    let mut repeated = lines.clone();
    repeated.insert(3, lines[2]);
    let mut reordered = lines.clone();
    reordered.swap(2, 3);
    for (about, planted, expected) in [
        ("changed", replaced("\"tokens\":10", "\"tokens\":1"), "changed"),
        ("another person", replaced("\"subject\":\"alice\"", "\"subject\":\"mallory\""), "person"),
        ("removed", without(2), "missing"),
        ("repeated", join(&repeated), "misplaced"),
        ("reordered", join(&reordered), "misplaced"),
        // Programs that read JSON take the last one of two equal members.
        ("a second member", text.replacen("}\n", ",\"tokens\":1}\n", 1), "line"),
        ("another line", format!("{text}{{}}\n"), "line"),
        ("a line that is no text", format!("{text}\u{fffd}\n"), "line"),
        ("cut at its end", join(&lines[..lines.len() - 1]), "export_ends"),
    ] {
        std::fs::write(&path, planted).unwrap();
        let found = operator.findings(&["usage.jsonl"]);
        assert!(found.iter().any(|name| name == expected), "{about}: {found:?}");
    }
}

/// Who can write to Redis removes a chain, plants a checkpoint that states it, waits until a process
/// goes on behind it, and removes the checkpoint.
#[tokio::test]
async fn a_planted_checkpoint_does_not_make_a_removal_true() {
    let (server, operator) = place().await;
    let client = &mut server.client();
    let whole = read(client, 1);
    let (id, text, mac) = whole.last().unwrap().clone();
    let number: u64 = id.strip_suffix("-0").unwrap().parse().unwrap();
    let forged = text
        .replace(&format!("\"number\":{number}"), &format!("\"number\":{}", number + 1))
        .replace("\"kept_from\":1,", &format!("\"kept_from\":{},", number + 2));
    assert_ne!(forged, text);
    write(client, 1, &[(format!("{}-0", number + 1), forged, mac.clone())]);
    let end = format!("{} {mac}", number + 1);
    redis::cmd("HSET").arg("{tollgate}:ledger:ends").arg(1).arg(end).exec(client).unwrap();
    Ledger::start(&server).writer.round(now()).await.unwrap();
    redis::cmd("XDEL").arg(key(1)).arg(format!("{}-0", number + 1)).exec(client).unwrap();
    assert_eq!(read(client, 1).len(), 1, "the checkpoint of the process");
    assert!(operator.findings(&[]).contains(&"removed".to_owned()));
}

#[tokio::test]
async fn a_mark_that_no_export_has_made_is_found_and_frees_nothing() {
    let server = redis_server::start(&[]);
    let operator = Operator::of(&server);
    let client = &mut server.client();
    let mut ledger = Ledger::with(&server, &serde_json::json!({ "retention": "1h" }));
    let long_ago = Timestamp::from_secs(now().secs() - 86_400);
    ledger.writer.round(long_ago).await.unwrap();
    let request = request("d", "acme", 100);
    ledger.admit(&request).await;
    ledger.settle(&settled(&request, Usage::Final(10), Basis::Reported)).await;
    ledger.shift_pending(long_ago).await;
    ledger.write_all_at(long_ago).await;
    ledger.writer.close(long_ago).await;
    operator.export("one.jsonl");
    let mark = |mark: &str, client: &mut Connection| {
        let mut set = redis::cmd("HSET");
        set.arg("{tollgate}:ledger:exported").arg(1).arg(mark).exec(client).unwrap();
    };
    let stored = |client: &mut Connection| -> String {
        redis::cmd("HGET").arg("{tollgate}:ledger:exported").arg(1).query(client).unwrap()
    };
    let good = stored(client);
    for planted in ["999999".to_owned(), good.replacen('3', "999999", 1), "x".to_owned()] {
        assert_ne!(planted, good);
        mark(&planted, client);
        assert_eq!(operator.findings(&[]), ["mark"], "{planted}");
        let mut ledger = Ledger::with(&server, &serde_json::json!({ "retention": "1h" }));
        ledger.writer.round(now()).await.unwrap();
        assert_eq!(ledger.entries(1).await[0].number, 1, "{planted}");
        ledger.writer.close(now()).await;
        // The next export replaces it.
        operator.export("one.jsonl");
        assert_eq!(operator.findings(&["one.jsonl"]), Vec::<String>::new(), "{planted}");
        assert_ne!(stored(client), planted);
    }
    // One of an export frees what it covers.
    let mut ledger = Ledger::with(&server, &serde_json::json!({ "retention": "1h" }));
    ledger.writer.round(now()).await.unwrap();
    assert!(ledger.entries(1).await[0].number > 1);
}

/// Redis was emptied, or a replica without the entries was promoted: their numbers are used again.
#[tokio::test]
async fn a_file_of_another_history_is_not_continued_and_marks_nothing() {
    let (server, operator) = place().await;
    let client = &mut server.client();
    redis::cmd("FLUSHALL").exec(client).unwrap();
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    for number in 0..8 {
        let request = request(&format!("new{number}"), "acme", 100);
        ledger.admit(&request).await;
        ledger.settle(&settled(&request, Usage::Final(10), Basis::Reported)).await;
        // As long as the chain is shorter than that of the file, too.
        if number == 2 {
            ledger.write_all().await;
            operator.export("usage.jsonl");
            assert_eq!(operator.records("usage.jsonl").len(), 10);
        }
    }
    ledger.write_all().await;
    let (code, text) = operator.run(&["export", "--file", "usage.jsonl"]);
    assert!(code == 2 && text.contains("another one than that of the file"), "{text}");
    let marks: Vec<String> =
        redis::cmd("HVALS").arg("{tollgate}:ledger:exported").query(client).unwrap();
    assert_eq!(marks, Vec::<String>::new());
    operator.export("new.jsonl");
    assert_eq!(operator.records("new.jsonl").len(), 8);
    assert_eq!(operator.findings(&["new.jsonl"]), Vec::<String>::new());
    assert!(operator.findings(&["usage.jsonl"]).contains(&"differs".to_owned()));
}

#[tokio::test]
async fn a_month_that_nobody_has_closed_is_found() {
    let (server, operator) = place().await;
    let client = &mut server.client();
    redis::cmd("SET").arg("{tollgate}:ledger:closed").arg("2099-01").exec(client).unwrap();
    assert_eq!(operator.findings(&[]), ["closed"]);
    // A text that is no month stops the writer; its records stay pending.
    redis::cmd("SET").arg("{tollgate}:ledger:closed").arg("never").exec(client).unwrap();
    assert!(Ledger::start(&server).writer.round(now()).await.is_err());
    let (code, text) = operator.run(&["verify"]);
    assert!(code == 2 && text.contains("`{tollgate}:ledger:closed` has no month"), "{text}");
}

#[tokio::test]
async fn a_month_is_closed_once_and_after_its_end() {
    let (_server, operator) = place().await;
    let day = Calendar::of("UTC").day(now()).to_string();
    let (code, text) = operator.run(&["close", "--month", &day[..7]]);
    assert!(code == 2 && text.contains("has not ended"), "{text}");
    let server = redis_server::start(&[]);
    let operator = Operator::of(&server);
    let january = Timestamp::from_secs(1_768_478_400);
    Ledger::start(&server).writer.round(january).await.unwrap();
    let close = || operator.run(&["close", "--month", "2026-01"]).0;
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let closing: Vec<_> = (0..4).map(|_| scope.spawn(close)).collect();
        closing.into_iter().map(|closing| closing.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(close(), 1);
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
}
