use super::*;
use crate::{
    ledger::entry::tests::keys,
    limit::{
        cost::{CostTerms, Price},
        usage_report::{RequestEnding, UsageCounts},
    },
};

/// A request of a tenant that used tokens, settled at a moment.
pub(in crate::ledger) fn pending(decision: &str, tokens: u64, at: u64) -> PendingRecord {
    PendingRecord {
        facts: RequestFacts {
            decision_id: decision.to_owned(),
            route: "chat".into(),
            tenant: Some("acme".into()),
            subject: Some("alice".into()),
            ..RequestFacts::default()
        },
        report: Some(UsageReport {
            ending: RequestEnding::Complete,
            basis: Basis::Reported,
            counts: UsageCounts { input: Some(tokens), ..UsageCounts::default() },
        }),
        tokens,
        corrects: None,
        at: Timestamp::from_secs(at),
    }
}

/// Noon of the day 2026-11-30 in UTC.
pub(in crate::ledger) const NOON: u64 = 1_796_040_000;

fn record(signed: &SignedEntry) -> UsageRecord {
    match Entry::read(&signed.text).unwrap().content {
        Content::Usage(record) => record,
        Content::Checkpoint(checkpoint) => panic!("{checkpoint:?}"),
    }
}

#[test]
fn entries_are_numbered_and_linked_and_summed_up() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(3), keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    for number in 1..=3 {
        let at = if number == 3 { NOON + 3600 } else { NOON };
        batch.add(&pending("d", number, at), Some(&KnownPerson::of([2; 16], [1; 32])), [0; 12]);
    }
    let read: Vec<Entry> =
        batch.entries.iter().map(|signed| Entry::read(&signed.text).unwrap()).collect();
    assert_eq!(read.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(read[3].prev, batch.entries[2].mac);
    let tokens = |period| {
        let rows = batch.additions.iter().filter(|((of, _), _)| *of == period);
        rows.map(|(_, measures)| measures.tokens).collect::<Vec<_>>()
    };
    assert_eq!(tokens(Period::Hour(NOON)), [3]);
    assert_eq!(tokens(Period::Hour(NOON + 3600)), [3]);
    assert_eq!(tokens(Period::Day("2026-11-30".parse().unwrap())), [6]);
    let numbered: Vec<_> = (1..).zip(batch.entries.clone()).collect();
    let tail = batch.into_tail();
    assert_eq!((tail.records, tail.sums.tokens, tail.epoch), (3, 6, 1));
    assert_eq!(ChainTail::of(3, &numbered, &keys), tail);
}

#[test]
fn a_correction_replaces_the_tokens_of_the_record_before_it() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    let expired = PendingRecord { report: None, ..pending("d", 500, NOON) };
    batch.add(&expired, None, [0; 12]);
    batch.add(&PendingRecord { corrects: Some(500), ..pending("d", 120, NOON) }, None, [0; 12]);
    let sums = batch.tail().sums;
    assert_eq!((sums.requests, sums.tokens, sums.estimated, sums.input), (1, 120, 0, 120));
    // The first checkpoint is behind the first record of a chain without one.
    let first = record(&batch.entries[0]);
    assert_eq!(
        (first.actual, first.basis, first.ending),
        (false, Basis::Hold, RequestEnding::Unreported)
    );
    assert_eq!(record(&batch.entries[2]).corrects, Some(500));
}

#[test]
fn a_fixed_charge_is_recorded_whatever_was_reported() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    let mut fixed = PendingRecord { report: None, ..pending("d", 0, NOON) };
    fixed.facts.fixed = Some(50_000);
    batch.add(&fixed, None, [0; 12]);
    let record = record(&batch.entries[0]);
    assert_eq!((record.tokens, record.basis, record.actual), (50_000, Basis::Fixed, true));
}

#[test]
fn a_correction_of_a_fixed_charge_adds_nothing() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    let mut fixed = PendingRecord { report: None, ..pending("d", 0, NOON) };
    fixed.facts.fixed = Some(50_000);
    fixed.facts.cost = Some(CostTerms { fixed: Some(700), ..terms() });
    batch.add(&fixed, None, [0; 12]);
    // The store has charged nothing when it expired: the charge was spent before.
    batch.add(&PendingRecord { corrects: Some(0), ..fixed }, None, [0; 12]);
    let sums = batch.tail().sums;
    assert_eq!((sums.requests, sums.tokens, sums.cost), (1, 50_000, 700));
    assert_eq!((sums.estimated, sums.estimated_cost), (0, 0));
}

/// 1.50 for a million tokens of input, 6 for a million of output, and 400 micro-units for the 200
/// tokens that are charged without a report.
fn terms() -> CostTerms {
    let price = Price {
        input: 1_500_000,
        cached_input: 750_000,
        output: 6_000_000,
        request: 0,
        ..Price::default()
    };
    CostTerms { price, tokens: 200, most: 200, unreported: 400, ..CostTerms::default() }
}

#[test]
fn a_correction_replaces_the_cost_of_the_record_before_it() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    let mut expired = PendingRecord { report: None, ..pending("d", 210, NOON) };
    expired.facts.cost = Some(terms());
    batch.add(&expired, None, [0; 12]);
    let sums = batch.tail().sums;
    assert_eq!((sums.cost, sums.estimated_cost), (460, 460), "ten tokens beyond those of the hold");
    let mut ended = PendingRecord { corrects: Some(210), ..pending("d", 100, NOON) };
    ended.facts.cost = Some(terms());
    batch.add(&ended, None, [0; 12]);
    let sums = batch.tail().sums;
    assert_eq!((sums.cost, sums.estimated_cost), (150, 0), "a hundred tokens of input");
    let last = record(batch.entries.last().unwrap());
    assert_eq!((last.cost, last.corrects_cost), (Some(150), Some(460)));
    // A model without a price has no cost, which is not a cost of nothing.
    batch.add(&pending("free", 5, NOON), None, [0; 12]);
    assert_eq!(record(batch.entries.last().unwrap()).cost, None);
}

/// Its end is reported, and nothing of it is charged any more.
#[test]
fn a_request_that_no_server_got_and_that_had_expired_costs_nothing() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    let mut expired = PendingRecord { report: None, ..pending("d", 200, NOON) };
    expired.facts.cost = Some(terms());
    batch.add(&expired, None, [0; 12]);
    let unsent = |tokens, corrects| PendingRecord {
        report: Some(UsageReport::NOT_SENT),
        tokens,
        corrects,
        ..expired.clone()
    };
    batch.add(&unsent(0, Some(200)), None, [0; 12]);
    let sums = batch.tail().sums;
    assert_eq!((sums.requests, sums.tokens, sums.cost, sums.estimated_cost), (1, 0, 0, 0));
    let last = record(batch.entries.last().unwrap());
    assert_eq!(
        (last.ending, last.basis, last.actual),
        (RequestEnding::NotSent, Basis::Unused, true)
    );
    // It was seen running, against the report of its end: what was counted is charged.
    batch.add(&unsent(210, None), None, [0; 12]);
    let last = record(batch.entries.last().unwrap());
    assert_eq!((last.tokens, last.basis, last.cost), (210, Basis::Running, Some(460)));
    assert_eq!((last.ending, last.cost_basis), (RequestEnding::NotSent, None));
}

#[test]
fn a_record_of_a_closed_month_is_booked_in_the_open_one() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let closed = Some("2026-11".parse().unwrap());
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", closed);
    batch.add(&pending("d", 5, NOON), None, [0; 12]);
    let record = record(&batch.entries[0]);
    assert_eq!(record.day.to_string(), "2026-12-01");
    assert_eq!(record.late_for, closed);
    let day = Period::Day("2026-12-01".parse().unwrap());
    assert!(batch.additions.keys().any(|(period, _)| *period == day));
}

#[test]
fn a_checkpoint_follows_a_thousand_records() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    (0..2500).for_each(|_| batch.add(&pending("d", 1, NOON), None, [0; 12]));
    let checkpoints = batch.entries.iter().filter(|signed| signed.text.contains("\"checkpoint\""));
    assert_eq!(checkpoints.count(), 3);
    assert_eq!(batch.entries.len(), 2503);
}

/// Who can write to the store, and has no key, adds a checkpoint that states what he removed.
#[test]
fn what_no_key_has_signed_is_not_continued() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    batch.add(&pending("a", 5, NOON), None, [0; 12]);
    let mut forged = Batch::after(batch.tail().clone(), keys.first(), &calendar, "r", None);
    forged.trim(4, 7, Timestamp::from_secs(NOON), Vec::new());
    let mut entries: Vec<_> = (1..).zip(batch.entries).collect();
    let mut last = forged.entries.remove(0);
    let tail = |last: &SignedEntry| {
        let with = [entries.clone(), vec![(3, last.clone())]].concat();
        ChainTail::of(1, &with, &keys)
    };
    assert_eq!((tail(&last).kept_from, tail(&last).unexported), (4, 7));
    last.mac = Mac::default();
    let found = tail(&last);
    assert_eq!((found.number, found.kept_from, found.unexported, found.records), (3, 1, 0, 1));
    // One of another place is none either.
    entries.push((3, entries[0].1.clone()));
    assert_eq!(ChainTail::of(1, &entries, &keys).records, 1);
}
