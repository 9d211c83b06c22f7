//! A Redis that refuses commands of the ledger: nothing is half written, and it is visible.

use redis::Connection;
use tollgate::store::Store as _;
use tollgate_core::{
    admission::{Outage, Usage},
    ledger::rows::Period,
    limit::usage_report::Basis,
};

use super::rig::{Ledger, now, request, settled};
use crate::store::redis_server::{self, Server};

/// A ledger whose user may run every command, until it is changed.
fn start(server: &Server) -> Ledger {
    permit(&mut server.client(), "+@all");
    let url = format!("redis://narrow:p@127.0.0.1:{}", server.port());
    Ledger::at(&url, &serde_json::json!({}))
}

fn permit(client: &mut Connection, rule: &str) {
    redis::cmd("ACL").arg(&["SETUSER", "narrow", "on", ">p", "~*", rule]).exec(client).unwrap();
}

async fn settle(ledger: &Ledger, decision: &str) {
    let request = request(decision, "acme", 100);
    ledger.admit(&request).await;
    ledger.settle(&settled(&request, Usage::Final(7), Basis::Reported)).await;
}

/// What the ledger has: entries, pending records, and the sums of today.
async fn state(ledger: &Ledger) -> (u64, u64, Vec<i64>) {
    let chains = ledger.store.chains().await.unwrap();
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    let entries = chains.iter().map(|state| state.entries).sum();
    let pending = chains.iter().map(|state| state.pending).sum();
    (entries, pending, rows.values().map(|row| row.tokens).collect())
}

#[tokio::test]
async fn a_refused_command_appends_nothing_and_changes_no_sum() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut ledger = start(&server);
    ledger.writer.round(now()).await.unwrap();
    let mut records = 0;
    // Without a row, and with one.
    for command in ["hincrby", "xadd", "xdel", "pexpire", "hincrby"] {
        settle(&ledger, &format!("d{records}")).await;
        let before = state(&ledger).await;
        permit(client, &format!("-{command}"));
        ledger.writer.round(now()).await.unwrap_err();
        let cause = ledger.store.cause(Outage::Refused);
        assert!(cause.to_lowercase().contains(command), "{command}: {cause}");
        permit(client, &format!("+{command}"));
        assert_eq!(state(&ledger).await, before, "{command}");
        ledger.write_all().await;
        records += 1;
        assert_eq!(ledger.verify().await, [], "{command}");
        let (_, pending, sums) = state(&ledger).await;
        assert_eq!((pending, sums), (0, vec![7 * records]), "{command}");
    }
}

#[tokio::test]
async fn a_key_of_another_kind_appends_nothing_and_is_named() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut ledger = start(&server);
    ledger.writer.round(now()).await.unwrap();
    settle(&ledger, "d").await;
    let day = format!("{{tollgate}}:ledger:day:{}", ledger.day(now()));
    redis::cmd("SET").arg(&day).arg("x").exec(client).unwrap();
    ledger.writer.round(now()).await.unwrap_err();
    let cause = ledger.store.cause(Outage::Refused);
    assert!(cause.contains("WRONGTYPE") && cause.contains(&day), "{cause}");
    assert_eq!(ledger.entries(1).await.len(), 1);
    redis::cmd("DEL").arg(&day).exec(client).unwrap();
    ledger.write_all().await;
    assert_eq!(ledger.verify().await, []);
}

/// A text in the place of a sum is none of a replica: the writer goes on, and it is found.
#[tokio::test]
async fn a_sum_that_is_no_number_does_not_stop_the_writer() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut ledger = start(&server);
    let day = format!("{{tollgate}}:ledger:day:{}", ledger.day(now()));
    for (number, planted) in
        ["x", "007", "1.5", "99999999999999999999", "9223372036854775808"].into_iter().enumerate()
    {
        for field in ["#", r#"t["acme",null,"chat"]"#] {
            redis::cmd("HSET").arg(&day).arg(field).arg(planted).exec(client).unwrap();
        }
        settle(&ledger, &format!("d{number}")).await;
        ledger.write_all().await;
        assert_eq!(state(&ledger).await.2, [7], "{planted}");
    }
}

/// Sums are added by Redis with 64 bits: their bounds are exact.
#[tokio::test]
async fn a_sum_has_every_value_up_to_its_bounds() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut ledger = start(&server);
    let day = format!("{{tollgate}}:ledger:day:{}", ledger.day(now()));
    let (most, least) = (i64::MAX, i64::MIN);
    for (number, (before, after)) in [
        (0, 7),
        (-7, 0),
        (-3, 4),
        (999_999_995, 1_000_000_002),
        (most - 7, most),
        (most - 8, most - 1),
        (most - 6, most),
        (most, most),
        (least, least + 7),
        (-1_000_000_000_000_000_001, -999_999_999_999_999_994),
    ]
    .into_iter()
    .enumerate()
    {
        let field = r#"t["acme",null,"chat"]"#;
        redis::cmd("HSET").arg(&day).arg(field).arg(before).exec(client).unwrap();
        settle(&ledger, &format!("d{number}")).await;
        ledger.write_all().await;
        assert_eq!(state(&ledger).await.2, [after], "{before}");
    }
}

/// The numbers of the ledger are there when it cannot be written, and missing when they cannot be read.
#[tokio::test]
async fn a_ledger_that_cannot_be_written_is_visible() {
    let server = redis_server::start(&[]);
    let client = &mut server.client();
    let mut ledger = start(&server);
    permit(client, "-hincrby");
    ledger.writer.round(now()).await.unwrap();
    settle(&ledger, "d").await;
    let later = |seconds| tollgate_core::time::Timestamp::from_secs(now().secs() + seconds);
    ledger.writer.round(later(60)).await.unwrap_err();
    let counters = ledger.metrics.ledger();
    assert!(counters.is_kept());
    assert_eq!(ledger.counted("tollgate_ledger_failures_total"), 1);
    assert_eq!(counters.status().unwrap().pending, 1);
    permit(client, "-xlen");
    ledger.writer.round(later(120)).await.unwrap_err();
    assert_eq!(ledger.counted("tollgate_ledger_failures_total"), 2);
    assert_eq!(counters.status(), None);
    let last = ledger.store.status().last_error.unwrap();
    assert!(last.contains("'xlen'"), "the command of a pipeline is named: {last}");
}
