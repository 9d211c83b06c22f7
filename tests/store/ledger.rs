//! The ledger in a real Redis: a record for each settlement, once, whatever is killed or lost.

mod agreement;
mod command;
mod month;
mod moved;
mod planted;
mod refused;
mod refused_writes;
mod rig;
mod slow_link;
mod tampering;

use tollgate::{engine::ledger::Round, store::Store as _};
use tollgate_core::{
    admission::{Settled, Settlement, Usage},
    ledger::{
        entry::{Content, UsageRecord},
        rows::{Period, RowKey},
        verify::Finding,
    },
    limit::{
        Counter, Hold,
        cost::{CostTerms, MediaBound, Price},
        usage_report::{Basis, RequestEnding, UsageCounts},
    },
    time::{Span, Timestamp},
};

use self::rig::{Ledger, now, record, request, settled};
use super::redis_server;

#[tokio::test]
async fn each_settlement_has_one_record_and_the_sums_are_those_of_the_settlements() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    let mut charged = 0;
    for number in 0..300 {
        let request = request(&format!("d{number}"), "acme", 100);
        ledger.admit(&request).await;
        let report = settled(&request, Usage::Final(number % 7), Basis::Reported);
        let Settled::Charged(tokens) = ledger.settle(&report).await else { panic!() };
        charged += tokens;
        // A report that is repeated is not recorded again.
        assert_eq!(ledger.settle(&report).await, Settled::Repeated);
    }
    ledger.write_all().await;
    let records = ledger.records().await;
    assert_eq!(records.len(), 300);
    assert_eq!(records.iter().map(|record| record.tokens).sum::<u64>(), charged);
    assert_eq!(ledger.verify().await, []);
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    let row = RowKey::Of { tenant: Some("acme".into()), model: None, route: "chat".into() };
    assert_eq!((rows[&row].tokens.unsigned_abs(), rows[&row].requests), (charged, 300));
    // Nothing of a request that has ended is left.
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("{tollgate}:facts:*").query(&mut server.client()).unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn a_request_without_a_report_is_recorded_when_it_expires_and_corrected_later() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    let mut late = request("late", "acme", 100);
    // Due with the next script.
    late.life = Span::from_micros(0);
    ledger.admit(&late).await;
    // The sweep of the store, or the next settlement, charges it.
    let other = request("other", "acme", 100);
    ledger.admit(&other).await;
    assert_eq!(
        ledger.settle(&settled(&other, Usage::Final(1), Basis::Reported)).await,
        Settled::Charged(1)
    );
    ledger.write_all().await;
    let records = ledger.records().await;
    let expired = record(&records, "late");
    assert_eq!((expired.tokens, expired.actual, expired.corrects), (100, false, None));
    assert_eq!(expired.ending, RequestEnding::Unreported);
    assert_eq!(
        ledger.settle(&settled(&late, Usage::Final(30), Basis::Reported)).await,
        Settled::Late { tokens: 30, replaced: Some(100) }
    );
    ledger.write_all().await;
    let records = ledger.records().await;
    let corrected = records.iter().rfind(|record| record.decision == "late").unwrap();
    assert_eq!((corrected.tokens, corrected.actual, corrected.corrects), (30, true, Some(100)));
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    let sums: Vec<_> = rows.values().map(|row| (row.requests, row.tokens, row.estimated)).collect();
    assert_eq!(sums, [(2, 31, 0)]);
    assert_eq!(ledger.verify().await, []);
}

/// What limits on cost are charged is what the records state, and what the price of the tokens says.
#[tokio::test]
async fn the_costs_of_records_are_those_that_budgets_are_charged() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    let price = Price {
        input: 150_000,
        cached_input: 75_000,
        output: 600_000,
        request: 3,
        image: 7,
        second: 2,
    };
    let media = MediaBound { images: 3, seconds: 9, are_images_known: false };
    // 39 of them for images and seconds.
    let unreported = 102;
    let terms = CostTerms { price, tokens: 100, most: 100, unreported, fixed: None, media };
    let ends = Timestamp::from_secs(4_000_000_000);
    let (mut of_price, mut images) = (0, 0);
    let mut money = None;
    for number in 0..200_u64 {
        let mut one = request(&format!("d{number}"), "acme", 100);
        one.facts.as_mut().unwrap().cost = Some(terms);
        let cost = Hold {
            limit: "money".into(),
            counter: Counter::Cost { limit: 1_000_000, ends },
            amount: terms.unreported,
            unreported: terms.unreported,
            ..one.holds[0].clone()
        };
        one.holds.push(cost.clone());
        money = Some(cost);
        // Some expire, and some of these are reported late.
        let expires = number % 5 == 0;
        one.life = if expires { Span::from_micros(0) } else { one.life };
        ledger.admit(&one).await;
        if expires && number % 10 == 0 {
            of_price += terms.unreported;
            continue;
        }
        let tokens = 7 * number % 90;
        let has_media = number % 3 > 0;
        let kinds = UsageCounts {
            input: Some(tokens / 2),
            cached: Some(tokens / 3),
            output: Some(tokens - tokens / 2),
            images: has_media.then_some(number % 4),
            seconds: has_media.then_some(number % 8),
            ..UsageCounts::NONE
        };
        let mut report = settled(&one, Usage::Final(tokens), Basis::Reported);
        report.report.as_mut().unwrap().counts = kinds;
        let expected = match expires {
            true => Settled::Late { tokens, replaced: Some(100) },
            false => Settled::Charged(tokens),
        };
        assert_eq!(ledger.settle(&report).await, expected);
        let (fresh, cached, output) = (tokens / 2 - tokens / 3, tokens / 3, tokens - tokens / 2);
        let millionths = 150_000 * fresh + 75_000 * cached + 600_000 * output + 3_000_000;
        let of_media = if has_media { 7 * (number % 4) + 2 * (number % 8) } else { 39 };
        of_price += millionths.div_ceil(1_000_000) + of_media;
        images += if has_media { number % 4 } else { 0 };
    }
    // Everything that is due has expired.
    assert_eq!(ledger.store.settle(&[]).await, Ok(Vec::new()));
    let last = request("last", "other", 1);
    ledger.admit(&last).await;
    ledger.write_all().await;
    let records = ledger.records().await;
    let signed: i64 = records
        .iter()
        .map(|record| {
            let number = |cost: Option<u64>| i64::try_from(cost.unwrap_or(0)).unwrap();
            number(record.cost) - number(record.corrects_cost)
        })
        .sum();
    assert_eq!(signed, i64::try_from(of_price).unwrap());
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    assert_eq!(rows.values().map(|row| row.cost).sum::<i64>(), signed);
    assert_eq!(rows.values().map(|row| row.images.unsigned_abs()).sum::<u64>(), images);
    let is_held = |record: &&UsageRecord| record.cost_basis == Some(Basis::Hold);
    assert!(
        records.iter().filter(is_held).all(|record| record.actual && record.kinds.images.is_none())
    );
    assert_eq!(ledger.verify().await, []);
    let key = format!("{{tollgate}}:{}", money.unwrap().key());
    let spent: String = redis::cmd("GET").arg(key).query(&mut server.client()).unwrap();
    assert_eq!(spent, format!("{of_price} 0"));
}

#[tokio::test]
async fn a_request_that_reached_no_server_has_no_record() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    let request = request("released", "acme", 100);
    ledger.admit(&request).await;
    let released = Settlement { reservation: request, usage: Usage::Released, report: None };
    assert_eq!(ledger.settle(&released).await, Settled::Charged(0));
    ledger.write_all().await;
    assert_eq!(ledger.records().await, []);
}

#[tokio::test]
async fn another_process_makes_the_records_that_a_killed_one_left() {
    let server = redis_server::start(&[]);
    let mut killed = Ledger::start(&server);
    killed.writer.round(now()).await.unwrap();
    for number in 0..10 {
        let request = request(&format!("d{number}"), "acme", 100);
        killed.admit(&request).await;
        killed.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
    }
    let mut other = Ledger::start(&server);
    other.writer.round(now()).await.unwrap();
    drop(killed);
    // Not seen for a minute: the owner is rewritten as it is stored.
    let gone = "00000000000000000000000000000000 0";
    let mut client = server.client();
    redis::cmd("HSET").arg("{tollgate}:ledger:owners").arg(1).arg(gone).exec(&mut client).unwrap();
    other.writer.round(Timestamp::from_secs(now().secs() + 61)).await.unwrap();
    other.write_all().await;
    assert_eq!(other.records().await.len(), 10);
    assert_eq!(other.verify().await, []);
}

#[tokio::test]
async fn a_process_whose_chain_was_taken_writes_another_one() {
    let server = redis_server::start(&[]);
    let (mut one, mut two) = (Ledger::start(&server), Ledger::start(&server));
    one.writer.round(now()).await.unwrap();
    let mut client = server.client();
    redis::cmd("HSET")
        .arg("{tollgate}:ledger:owners")
        .arg(1)
        .arg("00000000000000000000000000000000 0")
        .exec(&mut client)
        .unwrap();
    two.writer.round(now()).await.unwrap();
    for (number, ledger) in [&mut one, &mut two].into_iter().enumerate() {
        let request = request(&format!("d{number}"), "acme", 100);
        ledger.admit(&request).await;
        ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
        ledger.write_all().await;
    }
    assert_eq!(two.records().await.len(), 2);
    assert_eq!(two.store.chains().await.unwrap().len(), 2);
    assert_eq!(two.verify().await, []);
}

#[tokio::test]
async fn a_process_whose_clock_was_set_back_keeps_its_chain() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(Timestamp::from_secs(now().secs() + 3600)).await.unwrap();
    let mut client = server.client();
    let owners = "{tollgate}:ledger:owners";
    let owner: String = redis::cmd("HGET").arg(owners).arg(1).query(&mut client).unwrap();
    let (name, _) = owner.split_once(' ').unwrap();
    redis::cmd("HSET").arg(owners).arg(1).arg(format!("{name} 7")).exec(&mut client).unwrap();
    ledger.writer.round(now()).await.unwrap();
    let owner: String = redis::cmd("HGET").arg(owners).arg(1).query(&mut client).unwrap();
    assert!(owner.starts_with(name) && !owner.ends_with(" 7"), "{owner}");
}

#[tokio::test]
async fn entries_that_redis_has_lost_are_a_gap_that_is_found() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    for number in 0..10 {
        let request = request(&format!("d{number}"), "acme", 100);
        ledger.admit(&request).await;
        ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
        ledger.write_all().await;
    }
    // A replica that is behind becomes the primary: the last entries are gone.
    let mut client = server.client();
    redis::cmd("XDEL")
        .arg("{tollgate}:ledger:chain:1")
        .arg(&["9-0", "10-0", "11-0"])
        .exec(&mut client)
        .unwrap();
    let request = request("after", "acme", 100);
    ledger.admit(&request).await;
    ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
    ledger.write_all().await;
    assert_eq!(ledger.verify().await, [Finding::Missing { chain: 1, first: 9, last: 11 }]);
    assert_eq!(ledger.counted("tollgate_ledger_lost_entries_total"), 3);
    assert_eq!(ledger.records().await.last().unwrap().decision, "after");
}

#[tokio::test]
async fn a_chain_goes_on_behind_its_noted_end_after_a_restart() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    let request = request("d", "acme", 100);
    ledger.admit(&request).await;
    ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
    ledger.write_all().await;
    ledger.writer.close(now()).await;
    let mut client = server.client();
    redis::cmd("XDEL").arg("{tollgate}:ledger:chain:1").arg("3-0").exec(&mut client).unwrap();
    let mut ledger = Ledger::start(&server);
    assert_eq!(ledger.writer.round(now()).await.unwrap(), Round::Idle);
    let entries = ledger.entries(1).await;
    let Content::Checkpoint(checkpoint) = &entries.last().unwrap().content else { panic!() };
    assert_eq!((entries.last().unwrap().number, checkpoint.epoch), (4, 2));
    assert_eq!(ledger.verify().await, [Finding::Missing { chain: 1, first: 3, last: 3 }]);
}

#[tokio::test]
async fn a_person_who_is_erased_cannot_be_read_and_the_chain_is_whole() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    for subject in ["alice", "bob"] {
        let mut request = request(subject, "acme", 100);
        request.facts.as_mut().unwrap().subject = Some(subject.into());
        ledger.admit(&request).await;
        ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
    }
    ledger.write_all().await;
    assert_eq!(ledger.subjects().await, [Some("alice".into()), Some("bob".into())]);
    let names = tollgate_core::ledger::person::names(&ledger.keys(), "", "alice");
    assert_eq!(ledger.store.erase_persons(&names).await.unwrap(), 1);
    assert_eq!(ledger.subjects().await, [None, Some("bob".into())]);
    assert_eq!(ledger.verify().await, []);
}

#[tokio::test]
async fn rows_are_bounded_and_the_rest_is_counted_in_one_row() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    for number in 0..15 {
        let request = request(&format!("d{number}"), &format!("t{number}"), 100);
        ledger.admit(&request).await;
        ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
    }
    ledger.write_all().await;
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    assert_eq!(rows.len(), 11, "10 rows, and that of the others");
    assert_eq!((rows[&RowKey::Other].tokens, rows[&RowKey::Other].requests), (25, 5));
    assert_eq!(ledger.verify().await, []);
}

/// A script that ends with an error has written what is before it: entries without their sums.
#[tokio::test]
async fn a_sum_that_is_too_large_stays_at_its_bound() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    for number in 0..3 {
        let request = request(&format!("d{number}"), "acme", 100);
        ledger.admit(&request).await;
        let mut report = settled(&request, Usage::Final(5), Basis::Reported);
        report.report.as_mut().unwrap().counts.input = Some(i64::MAX.unsigned_abs());
        ledger.settle(&report).await;
    }
    ledger.write_all().await;
    assert_eq!(ledger.records().await.len(), 3);
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    let sums: Vec<_> = rows.values().map(|row| (row.requests, row.tokens, row.input)).collect();
    assert_eq!(sums, [(3, 15, i64::MAX)]);
    assert_eq!(ledger.verify().await, []);
}

/// What is spent at admission is not spent again when the end of the request is reported.
#[tokio::test]
async fn a_fixed_charge_is_recorded_once_and_charged_once() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    let mut requests = Vec::new();
    for decision in ["reported", "expired"] {
        let mut fixed = request(decision, "acme", 50);
        let ends = Timestamp::from_secs(4_000_000_000);
        fixed.holds[0].counter = Counter::Requests { limit: 1_000_000, ends };
        fixed.facts.as_mut().unwrap().fixed = Some(50);
        fixed.life = if decision == "expired" { Span::from_micros(0) } else { fixed.life };
        ledger.admit(&fixed).await;
        requests.push(fixed);
    }
    let report = settled(&requests[0], Usage::Final(3), Basis::Reported);
    assert_eq!(ledger.settle(&report).await, Settled::Charged(3));
    assert_eq!(ledger.settle(&report).await, Settled::Repeated);
    ledger.write_all().await;
    let records = ledger.records().await;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.tokens == 50 && record.basis == Basis::Fixed));
    assert_eq!(record(&records, "expired").ending, RequestEnding::Unreported);
    let key = format!("{{tollgate}}:{}", requests[0].holds[0].key());
    let count: String = redis::cmd("GET").arg(key).query(&mut server.client()).unwrap();
    assert_eq!(count, "100 0");
}

#[tokio::test]
async fn a_chain_that_is_too_long_loses_its_oldest_records_visibly() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::with(&server, &serde_json::json!({ "max_records": 100 }));
    let start = now().secs();
    // Each step ends with a checkpoint, as ten minutes have passed.
    for step in 1..=6 {
        for number in 0..30 {
            let request = request(&format!("{step}/{number}"), "acme", 100);
            ledger.admit(&request).await;
            ledger.settle(&settled(&request, Usage::Final(5), Basis::Reported)).await;
        }
        ledger.write_all_at(Timestamp::from_secs(start + step * 601)).await;
    }
    let left = u64::try_from(ledger.records().await.len()).unwrap();
    assert!(left < 180, "{left}");
    assert_eq!(
        ledger.verify().await,
        [Finding::NotExported { chain: 1, records: 180 - left }],
        "what was removed is stated"
    );
    let removed: Vec<_> = ledger.metrics.ledger().trimmed_entries().collect();
    assert_eq!(removed[1], ("false", 180 - left));
    // The sums have everything.
    let rows = ledger.store.rows(Period::Day(ledger.day(now()))).await.unwrap();
    let tokens: i64 = rows.values().map(|row| row.tokens).sum();
    assert_eq!(tokens, 180 * 5);
}

#[tokio::test]
async fn a_store_that_keeps_no_ledger_has_no_key_of_one() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let mut request = request("d", "acme", 100);
    request.facts = None;
    let admitted = tollgate_core::admission::AdmitRequest {
        reservation: Some(Box::new(request.clone())),
        ..Default::default()
    };
    store.admit(&admitted).await.unwrap();
    let report = settled(&request, Usage::Final(5), Basis::Reported);
    assert_eq!(store.settle(&[report]).await.unwrap(), [Settled::Charged(5)]);
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("{tollgate}:*").query(&mut server.client()).unwrap();
    assert!(!keys.iter().any(|key| key.contains("facts") || key.contains("ledger")), "{keys:?}");
}
