//! Sums that someone who can write to Redis moves to another tenant, day or month are found, and not signed.

use redis::Connection;
use tollgate_core::{
    admission::Usage,
    limit::{reservation::Reservation, usage_report::Basis},
    time::{Span, Timestamp},
};

use super::{
    planted::{JANUARY, january, settle},
    rig::{Ledger, now, record, request, settled},
};

const DAY: &str = "{tollgate}:ledger:day:2026-01-15";
const CLOSED: &str = "{tollgate}:ledger:closed";
const MONTHS: &str = "{tollgate}:ledger:months";
const CLOSE: [&str; 3] = ["close", "--month", "2026-01"];

fn run(client: &mut Connection, command: &[&str]) {
    redis::cmd(command[0]).arg(&command[1..]).exec(client).unwrap();
}

/// Settles a request of January.
async fn settle_in_january(ledger: &mut Ledger, decision: &str) {
    settle(ledger, decision).await;
    ledger.shift_pending(JANUARY).await;
    ledger.write_all_at(JANUARY).await;
}

#[tokio::test]
async fn a_sum_that_was_moved_to_another_tenant_is_found() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    settle_of(&mut ledger, "of globex", "globex", JANUARY).await;
    operator.export("usage.jsonl");
    assert_eq!(operator.findings(&["usage.jsonl"]), Vec::<String>::new());
    let mut moved = |tokens: i64| {
        for (tenant, tokens) in [("acme", tokens), ("globex", -tokens)] {
            let field = format!("t[\"{tenant}\",null,\"chat\"]");
            run(client, &["HINCRBY", DAY, &field, &tokens.to_string()]);
        }
    };
    moved(10);
    assert_eq!(operator.findings(&[]), ["day", "day"]);
    assert_eq!(operator.findings(&["usage.jsonl"]), ["day", "day"]);
    let (code, text) = operator.run(&CLOSE);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains(
            "[\"globex\",null,\"chat\"]: the sums have tokens 20, and the records: tokens 30"
        ),
        "{text}"
    );
    moved(-10);
    operator.succeed(&CLOSE);
    assert_eq!(operator.findings(&["usage.jsonl"]), Vec::<String>::new());
    // After the close too, and where Redis has the records no more.
    moved(10);
    assert_eq!(operator.findings(&[]), ["day", "day", "month_rows"]);
}

#[tokio::test]
async fn a_record_that_was_moved_to_another_month_is_found() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    run(client, &["SET", CLOSED, "2030-01"]);
    settle_in_january(&mut ledger, "hidden").await;
    run(client, &["DEL", CLOSED]);
    assert_eq!(operator.findings(&[]), ["booked"]);
    let (code, text) = operator.run(&CLOSE);
    assert!(code == 2 && text.contains("it is booked on 2030-02-01"), "{text}");
    // The mark may be that of the month itself, until its close: what is behind it is in the month again.
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    run(client, &["SET", CLOSED, "2026-01"]);
    settle_in_january(&mut ledger, "hidden").await;
    run(client, &["DEL", CLOSED]);
    assert_eq!(operator.findings(&[]), ["booked"]);
    settle_in_january(&mut ledger, "as before").await;
    let (code, text) = operator.run(&CLOSE);
    assert!(code == 2 && text.contains("it is booked on 2026-01-15"), "{text}");
}

#[tokio::test]
async fn a_month_that_is_opened_and_closed_again_is_found() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    operator.succeed(&CLOSE);
    // A process that takes the chain over makes a checkpoint, which names the close.
    ledger.writer.close(now()).await;
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
    run(client, &["HDEL", MONTHS, "2026-01"]);
    run(client, &["DEL", CLOSED]);
    assert_eq!(operator.findings(&[]), ["closed_again"]);
    settle_in_january(&mut ledger, "one more").await;
    let (code, text) = operator.run(&CLOSE);
    assert!(code == 2 && text.contains("it is booked on 2026-01-15"), "{text}");
    operator.succeed(&[&CLOSE[..], &["--unverified"]].concat());
    assert_eq!(operator.findings(&[]), ["booked", "closed_again"]);
}

#[tokio::test]
async fn a_month_is_not_closed_without_a_chain_that_another_one_knows() {
    let (server, operator, one) = january().await;
    let client = &mut server.client();
    // Another process has a chain of its own, whose checkpoint names the end of the first one.
    let mut two = Ledger::start(&server);
    two.writer.round(JANUARY).await.unwrap();
    settle_in_january(&mut two, "of two").await;
    two.writer.close(JANUARY).await;
    drop(one);
    for field in ["owners", "ends"] {
        run(client, &["HDEL", &format!("{{tollgate}}:ledger:{field}"), "1"]);
    }
    run(client, &["DEL", "{tollgate}:ledger:chain:1"]);
    for (letter, number) in [("r", -3), ("t", -24), ("o", -3)] {
        let field = format!("{letter}[\"acme\",null,\"chat\"]");
        run(client, &["HINCRBY", DAY, &field, &number.to_string()]);
    }
    assert_eq!(operator.findings(&[]), ["truncated"]);
    let (code, text) = operator.run(&CLOSE);
    assert!(code == 2 && text.contains("chain 1: it ends with entry 0"), "{text}");
}

#[tokio::test]
async fn what_an_export_lacks_at_its_beginning_is_found() {
    let (_server, operator, _ledger) = january().await;
    let file = operator.export("usage.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let rest: String = text.split_inclusive('\n').skip(2).collect();
    std::fs::write(&file, rest).unwrap();
    assert_eq!(operator.findings(&["usage.jsonl"]), ["export_begins"]);
}

#[tokio::test]
async fn sums_of_days_without_records_are_found() {
    let (server, operator, ledger) = january().await;
    let client = &mut server.client();
    let plant = |day: Timestamp, client: &mut Connection| {
        let key = format!("{{tollgate}}:ledger:day:{}", ledger.day(day));
        run(client, &["HSET", &key, "r[\"acme\",null,\"chat\"]", "1", "#", "1"]);
        let found = operator.findings(&[]);
        run(client, &["DEL", &key]);
        found
    };
    let days = |days: u64| days * 86_400;
    assert_eq!(plant(Timestamp::from_secs(JANUARY.secs() - days(30)), client), ["day"]);
    assert_eq!(plant(Timestamp::from_secs(now().secs() + days(20)), client), ["day"]);
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
}

/// Records that Redis has no more, and an export has.
#[tokio::test]
async fn sums_of_exported_days_are_compared() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    operator.export("usage.jsonl");
    ledger.writer.close(JANUARY).await;
    let before = JANUARY.secs() + 40 * 86_400;
    let mut ledger = Ledger::with(&server, &serde_json::json!({ "retention": "1h" }));
    ledger.write_all_at(Timestamp::from_secs(before)).await;
    operator.export("usage.jsonl");
    ledger.write_all_at(Timestamp::from_secs(before + 7200)).await;
    assert!(ledger.entries(1).await[0].number > 4);
    assert_eq!(operator.findings(&["usage.jsonl"]), Vec::<String>::new());
    run(client, &["HINCRBY", DAY, "t[\"acme\",null,\"chat\"]", "5"]);
    assert_eq!(operator.findings(&[]), Vec::<String>::new(), "its records are in the export only");
    assert_eq!(operator.findings(&["usage.jsonl"]), ["day"]);
}

/// The time zone is noted again where Redis was emptied while a process writes.
#[tokio::test]
async fn a_time_zone_that_was_lost_is_noted_again() {
    let (server, _operator, mut ledger) = january().await;
    run(&mut server.client(), &["FLUSHALL"]);
    settle(&ledger, "after").await;
    ledger.write_all().await;
    assert_eq!(ledger.store.ledger_time_zone().await.unwrap().as_deref(), Some("UTC"));
    let berlin = serde_json::json!({ "time_zone": "Europe/Berlin" });
    assert!(Ledger::with(&server, &berlin).writer.round(now()).await.is_err());
    // A process that writes finds another zone in its next call.
    run(&mut server.client(), &["SET", "{tollgate}:ledger:time-zone", "Europe/Berlin"]);
    settle(&ledger, "not written").await;
    while ledger.writer.round(now()).await.is_ok() {}
    assert_eq!(ledger.records().await.len(), 1);
}

#[tokio::test]
async fn others_of_nothing_hide_no_sum_that_was_moved() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    settle_of(&mut ledger, "of globex", "globex", JANUARY).await;
    for (tenant, tokens) in [("acme", "10"), ("globex", "-10")] {
        run(client, &["HINCRBY", DAY, &format!("t[\"{tenant}\",null,\"chat\"]"), tokens]);
    }
    for planted in ["rother", "zzz", "rz", "#z"] {
        run(client, &["HSET", DAY, planted, "0"]);
        assert_eq!(operator.findings(&[]), ["day", "day"], "{planted}");
        run(client, &["HDEL", DAY, planted]);
    }
    // All of a tenant, while there is room for its row.
    let fields: Vec<(String, String)> =
        redis::cmd("HGETALL").arg(DAY).query::<Vec<(String, String)>>(client).unwrap();
    for (field, number) in fields {
        if let Some(letter) = field.strip_suffix("[\"globex\",null,\"chat\"]") {
            run(client, &["HSET", DAY, &format!("{letter}other"), &number]);
            run(client, &["HDEL", DAY, &field]);
        }
    }
    let found = operator.findings(&[]);
    assert_eq!(found, ["day", "day", "day"]);
    for number in 0..20 {
        run(client, &["HSET", DAY, &format!("r[\"{number}\",null,\"chat\"]"), "0"]);
    }
    assert_eq!(operator.findings(&[]), found);
    let (code, text) = operator.run(&CLOSE);
    assert_eq!(code, 2, "{text}");
}

#[tokio::test]
async fn rows_that_were_booked_as_others_without_need_are_found() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    run(client, &["HSET", DAY, "#", "1000"]);
    settle_of(&mut ledger, "of globex", "globex", JANUARY).await;
    assert_eq!(operator.findings(&[]), ["day", "day"]);
}

/// Noon of 2026-02-15.
const FEBRUARY: Timestamp = Timestamp::from_secs(1_771_156_800);

/// Settles a request of a tenant at a moment.
async fn settle_of(ledger: &mut Ledger, decision: &str, tenant: &str, at: Timestamp) {
    let request = request(decision, tenant, 100);
    ledger.admit(&request).await;
    ledger.settle(&settled(&request, Usage::Final(30), Basis::Reported)).await;
    ledger.shift_pending(at).await;
    ledger.write_all_at(at).await;
}

#[tokio::test]
async fn a_close_that_was_removed_is_found_by_the_one_after_it() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    settle_of(&mut ledger, "of february", "acme", FEBRUARY).await;
    operator.succeed(&CLOSE);
    operator.succeed(&["close", "--month", "2026-02"]);
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
    let text: String = redis::cmd("HGET").arg(&[MONTHS, "2026-01"]).query(client).unwrap();
    run(client, &["HDEL", MONTHS, "2026-01"]);
    assert_eq!(operator.findings(&[]), ["month_before"]);
    run(client, &["HSET", MONTHS, "2026-01", &text]);
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
    // The sums of a closed month, and all records of it.
    run(client, &["DEL", DAY]);
    assert!(operator.findings(&[]).contains(&"month".to_owned()));
    // March would be closed behind a close that no key has signed.
    run(client, &["HSET", MONTHS, "2026-02", "{}"]);
    let (code, text) = operator.run(&["close", "--month", "2026-03"]);
    assert!(code == 2 && text.contains("the close of the month before 2026-03"), "{text}");
}

#[tokio::test]
async fn a_correction_is_of_the_tenant_that_was_charged() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    let request = Reservation { life: Span::from_micros(0), ..request("held", "acme", 100) };
    ledger.admit(&request).await;
    let facts: Vec<String> = redis::cmd("KEYS").arg("{tollgate}:facts:*").query(client).unwrap();
    let [key] = &facts[..] else { panic!("{facts:?}") };
    let text: String = redis::cmd("GET").arg(key).query(client).unwrap();
    run(client, &["SET", key, &text.replace("\"acme\"", "\"globex\"")]);
    ledger.expire_due().await.unwrap();
    ledger.settle(&settled(&request, Usage::Final(30), Basis::Reported)).await;
    ledger.write_all().await;
    assert_eq!(ledger.records().await.len(), 5);
    assert_eq!(operator.findings(&[]), ["corrects"]);
}

#[tokio::test]
async fn the_tenant_of_a_record_is_that_of_the_report() {
    let (server, operator, mut ledger) = january().await;
    let client = &mut server.client();
    let request = request("held", "acme", 100);
    ledger.admit(&request).await;
    let facts: Vec<String> = redis::cmd("KEYS").arg("{tollgate}:facts:*").query(client).unwrap();
    let [key] = &facts[..] else { panic!("{facts:?}") };
    let text: String = redis::cmd("GET").arg(key).query(client).unwrap();
    assert!(text.contains("\"acme\""), "{text}");
    run(client, &["SET", key, &text.replace("\"acme\"", "\"globex\"")]);
    ledger.settle(&settled(&request, Usage::Final(30), Basis::Reported)).await;
    ledger.write_all().await;
    let records = ledger.records().await;
    assert_eq!(record(&records, "held").tenant.as_deref(), Some("acme"));
    assert_eq!(operator.findings(&[]), Vec::<String>::new());
}

#[tokio::test]
async fn an_export_does_not_go_on_in_a_file_that_lacks_its_end() {
    let (_server, operator, _ledger) = january().await;
    let file = operator.export("usage.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    operator.export("usage.jsonl");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&file, lines[..lines.len() - 1].concat()).unwrap();
    let (code, text) = operator.run(&["export", "--file", "usage.jsonl"]);
    assert!(code == 2 && text.contains("later lines are in another file"), "{text}");
    let new = operator.export("new.jsonl");
    assert_eq!(std::fs::read_to_string(new).unwrap(), "");
}
