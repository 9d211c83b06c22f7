//! What is planted in the ledger of a Redis, and in files of exports, is found.

use redis::Connection;
use tollgate_core::{
    admission::{Settled, Usage},
    limit::usage_report::Basis,
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
        ("cut at its end", join(&lines[..lines.len() - 1]), "export_ends"),
    ] {
        std::fs::write(&path, planted).unwrap();
        let found = operator.findings(&["usage.jsonl"]);
        assert!(found.iter().any(|name| name == expected), "{about}: {found:?}");
    }
}
