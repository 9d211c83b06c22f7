use super::*;
use crate::{
    ledger::{
        calendar::Calendar,
        entry::tests::keys,
        writer::{
            Batch, ChainTail, PendingRecord,
            tests::{NOON, pending},
        },
    },
    limit::cost::{CostTerms, Price},
    time::Timestamp,
};

/// The entries of a chain with `records` records, 1000 tokens each, and a checkpoint at its beginning
/// and at its end.
fn chain(number: u32, records: u64, others: Vec<Anchor>) -> Vec<(u64, SignedEntry)> {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(number), keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    for record in 0..records {
        batch.add(&pending(&format!("{number}/{record}"), 1000, NOON), None, [0; 12]);
    }
    batch.checkpoint(Timestamp::from_secs(NOON), others);
    (1..).zip(batch.entries).collect()
}

fn end(entries: &[(u64, SignedEntry)]) -> (u64, Mac) {
    entries.last().map(|(number, signed)| (*number, signed.mac)).unwrap()
}

/// Verifies a chain whose end is known.
fn findings(entries: &[(u64, SignedEntry)], end: (u64, Mac)) -> Vec<Finding> {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut verifier = ChainVerifier::new(1, &keys, &calendar);
    let mut seen = SeenDecisions::default();
    for (number, signed) in entries {
        verifier.entry(*number, signed, &mut seen);
    }
    verifier.check_beginning();
    verifier.compare(end.0, end.1, "end");
    verifier.check_months(&BTreeMap::new());
    let is_whole = verifier.first() <= 1;
    [verifier.finish(), seen.finish(is_whole)].concat()
}

#[test]
fn a_chain_as_it_was_written_has_no_finding() {
    let entries = chain(1, 5, Vec::new());
    assert_eq!(findings(&entries, end(&entries)), []);
}

#[test]
fn what_was_changed_removed_repeated_or_moved_is_found() {
    let whole = chain(1, 5, Vec::new());
    let foreign = chain(2, 5, Vec::new());
    let last = end(&whole);
    let mut changed = whole.clone();
    changed[2].1.text = changed[2].1.text.replace("\"tokens\":1000", "\"tokens\":1");
    let mut forged = changed.clone();
    forged[2].1.mac = Mac::default();
    let mut deleted = whole.clone();
    deleted.remove(2);
    let mut repeated = whole.clone();
    repeated.push((8, whole[2].1.clone()));
    let mut reordered = whole.clone();
    (reordered[2].1, reordered[3].1) = (whole[3].1.clone(), whole[2].1.clone());
    let mut swapped = whole.clone();
    swapped[2].1 = foreign[2].1.clone();
    let mut unreadable = whole.clone();
    unreadable[2].1.text = "{}".to_owned();
    let misplaced =
        |number, of_chain, of_number| Finding::Misplaced { chain: 1, number, of_chain, of_number };
    let unlinked = |number| Finding::Unlinked { chain: 1, number };
    for (about, entries, expected) in [
        ("changed", changed, vec![Finding::Changed { chain: 1, number: 3 }]),
        ("deleted", deleted, vec![Finding::Missing { chain: 1, first: 3, last: 3 }]),
        ("repeated", repeated, vec![misplaced(8, 1, 3)]),
        ("reordered", reordered, vec![misplaced(3, 1, 4), misplaced(4, 1, 3), unlinked(5)]),
        ("swapped", swapped, vec![misplaced(3, 2, 3), unlinked(4)]),
        ("unreadable", unreadable, vec![Finding::Unreadable { chain: 1, number: 3 }]),
        (
            "truncated",
            whole[..4].to_vec(),
            vec![Finding::Truncated { chain: 1, last: 4, expected: 7 }],
        ),
        (
            "without its beginning",
            whole[2..].to_vec(),
            vec![Finding::Removed { chain: 1, first: 1, last: 2 }],
        ),
        (
            "without anything",
            Vec::new(),
            vec![Finding::Truncated { chain: 1, last: 0, expected: 7 }],
        ),
    ] {
        let mut found = findings(&entries, last);
        // A mark of an entry is compared with the MAC that it has now.
        found.retain(|finding| !matches!(finding, Finding::Differs { .. }));
        assert_eq!(found, expected, "{about}");
    }
    let found = findings(&forged, last);
    assert_eq!(found, [Finding::Changed { chain: 1, number: 3 }, unlinked(4)]);
}

#[test]
fn a_request_with_a_second_record_is_found() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    batch.add(&pending("d", 1, NOON), None, [0; 12]);
    let corrected = PendingRecord { corrects: Some(1), ..pending("d", 2, NOON) };
    batch.add(&corrected, None, [0; 12]);
    batch.add(&pending("d", 1, NOON), None, [0; 12]);
    let entries: Vec<_> = (1..).zip(batch.entries).collect();
    let expected = Finding::Repeated { chain: 1, number: 4, decision: "d".into() };
    assert_eq!(findings(&entries, end(&entries)), [expected]);
}

#[test]
fn a_checkpoint_with_other_sums_is_found() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let tail = ChainTail { records: 1, ..ChainTail::empty(1) };
    let mut batch = Batch::after(tail, keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    let entries: Vec<_> = (1..).zip(batch.entries).collect();
    assert_eq!(findings(&entries, end(&entries)), [Finding::Sums { chain: 1, number: 1 }]);
}

#[test]
fn a_chain_that_was_trimmed_as_its_checkpoint_states_is_whole() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    batch.add(&pending("a", 1, NOON), None, [0; 12]);
    batch.checkpoint(Timestamp::from_secs(NOON), Vec::new());
    batch.add(&pending("b", 1, NOON), None, [0; 12]);
    batch.trim(3, 0, Timestamp::from_secs(NOON), Vec::new());
    let entries: Vec<_> = (1..).zip(batch.entries.clone()).collect();
    assert_eq!(findings(&entries[2..], end(&entries)), []);
    let removed = Finding::Removed { chain: 1, first: 3, last: 3 };
    assert_eq!(findings(&entries[3..], end(&entries)), [removed]);
    batch.trim(4, 1, Timestamp::from_secs(NOON), Vec::new());
    let entries: Vec<_> = (1..).zip(batch.entries).collect();
    let lost = Finding::NotExported { chain: 1, records: 1 };
    assert_eq!(findings(&entries[3..], end(&entries)), [lost]);
}

#[test]
fn an_end_that_was_rolled_back_is_found_by_the_checkpoints_of_others() {
    let keys = keys();
    let whole = chain(1, 5, Vec::new());
    let (number, mac) = end(&whole);
    let other = chain(2, 1, vec![Anchor { chain: 1, number, mac }]);
    let mut seen = SeenDecisions::default();
    let calendar = Calendar::of("UTC");
    let mut one = ChainVerifier::new(1, &keys, &calendar);
    let mut two = ChainVerifier::new(2, &keys, &calendar);
    for (number, signed) in &other {
        two.entry(*number, signed, &mut seen);
    }
    for (number, signed) in &whole[..3] {
        one.entry(*number, signed, &mut seen);
    }
    for anchor in two.anchors() {
        one.compare(anchor.number, anchor.mac, "checkpoint");
    }
    assert_eq!(one.finish(), [Finding::Truncated { chain: 1, last: 3, expected: 7 }]);
}

#[test]
fn an_unknown_key_is_named() {
    let entries = chain(1, 1, Vec::new());
    let others = crate::secret::Secret::new(vec![9; 32]);
    let keys = LedgerKeys::new(vec![("other".to_owned(), others)]).unwrap();
    let calendar = Calendar::of("UTC");
    let mut verifier = ChainVerifier::new(1, &keys, &calendar);
    verifier.entry(1, &entries[0].1, &mut SeenDecisions::default());
    let expected = Finding::UnknownKey { chain: 1, number: 1, key: "k".into() };
    assert_eq!(verifier.finish(), [expected]);
}

/// Entries of a batch that follow a checkpoint.
fn written(closed: Option<Month>, change: impl FnOnce(&mut Batch<'_>)) -> Vec<(u64, SignedEntry)> {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", closed);
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    change(&mut batch);
    (1..).zip(batch.entries).collect()
}

#[test]
fn a_record_that_corrects_none_is_found() {
    let corrects = |decision: &str, tokens: u64, before: u64, at: u64| PendingRecord {
        corrects: Some(before),
        ..pending(decision, tokens, at)
    };
    let find = |records: &[PendingRecord]| -> Vec<u64> {
        let entries = written(None, |batch| {
            records.iter().for_each(|record| batch.add(record, None, [0; 12]));
        });
        let number = |finding| match finding {
            Finding::Corrects { number, .. } => number,
            other => panic!("{other:?}"),
        };
        findings(&entries, end(&entries)).into_iter().map(number).collect()
    };
    let first = pending("d", 700, NOON);
    let late = |at| corrects("d", 15, 700, at);
    assert_eq!(find(&[first.clone(), late(NOON + 1)]), [0; 0]);
    // It expired once more, and was reported again.
    let again =
        [first.clone(), corrects("d", 900, 700, NOON + 1), corrects("d", 20, 900, NOON + 2)];
    assert_eq!(find(&again), [0; 0]);
    // A correction may be in the chain of another process, before the record.
    assert_eq!(find(&[late(NOON + 1), first.clone()]), [0; 0]);
    assert_eq!(find(&[first.clone(), late(NOON + 1), late(NOON + 2), late(NOON + 3)]), [4, 5]);
    assert_eq!(find(&[first, corrects("d", 0, 2000, NOON + 1)]), [3]);
    assert_eq!(find(&[late(NOON)]), [2]);
    // The record may be among those that were removed.
    let entries = written(None, |batch| batch.add(&late(NOON), None, [0; 12]));
    let (keys, calendar, mut seen) = (keys(), Calendar::of("UTC"), SeenDecisions::default());
    ChainVerifier::new(1, &keys, &calendar).entry(2, &entries[1].1, &mut seen);
    assert_eq!(seen.finish(false), []);
}

#[test]
fn a_record_that_is_booked_on_the_day_of_another_month_is_found() {
    let month = |text: &str| text.parse::<Month>().unwrap();
    let closed = Some(month("2026-11"));
    let entries = written(closed, |batch| batch.add(&pending("d", 7, NOON), None, [0; 12]));
    let day: Day = "2026-12-01".parse().unwrap();
    let booked = Finding::Booked { chain: 1, number: 2, day };
    let found = findings(&entries, end(&entries));
    assert_eq!(found, std::slice::from_ref(&booked), "no month was closed");
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let found = |signed: &[(&str, Mac)], entries: &[(u64, SignedEntry)]| {
        let mut verifier = ChainVerifier::new(1, &keys, &calendar);
        for (number, signed) in entries {
            verifier.entry(*number, signed, &mut SeenDecisions::default());
        }
        let signed = signed.iter().map(|(text, mac)| (month(text), *mac)).collect();
        verifier.check_months(&signed);
        verifier.finish()
    };
    assert_eq!(found(&[("2026-11", Mac::default())], &entries), []);
    assert_eq!(found(&[("2026-10", Mac::default())], &entries), [booked]);
    // A record behind it is in the month all the same: the mark of a close was set for a while.
    let (mut later, month) = (entries.clone(), month("2026-11"));
    let mut tail = ChainTail::of(1, &entries, &keys);
    let mut batch = Batch::after(tail.clone(), keys.first(), &calendar, "r", None);
    batch.add(&pending("e", 7, NOON), None, [0; 12]);
    later.extend((3..).zip(batch.entries));
    let own = Finding::Booked { chain: 1, number: 3, day: "2026-11-30".parse().unwrap() };
    assert_eq!(found(&[("2026-11", Mac::default())], &later), std::slice::from_ref(&own));
    // So it is behind a checkpoint that names the close.
    tail = ChainTail::empty(1);
    let batch = Batch::after(tail, keys.first(), &calendar, "r", None);
    let mut batch = batch.naming(Some(ClosedMark { month, mac: Mac::default() }));
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    batch.checkpoint(Timestamp::from_secs(NOON), Vec::new());
    batch.add(&pending("e", 7, NOON), None, [0; 12]);
    let named: Vec<_> = (1..).zip(batch.entries).collect();
    assert_eq!(found(&[("2026-11", Mac::default())], &named), [own]);
    // In another time zone the record is of another day.
    let elsewhere = Calendar::of("Pacific/Kiritimati");
    let mut verifier = ChainVerifier::new(1, &keys, &elsewhere);
    let late = written(None, |batch| batch.add(&pending("d", 7, NOON), None, [0; 12]));
    verifier.entry(1, &late[0].1, &mut SeenDecisions::default());
    verifier.entry(2, &late[1].1, &mut SeenDecisions::default());
    let day = "2026-11-30".parse().unwrap();
    assert_eq!(verifier.finish(), [Finding::Booked { chain: 1, number: 2, day }]);
}

#[test]
fn a_month_that_was_closed_again_is_found_by_the_checkpoints_before() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let month: Month = "2026-10".parse().unwrap();
    let mac = keys.first().mac("closed");
    let batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", Some(month));
    let mut batch = batch.naming(Some(ClosedMark { month, mac }));
    batch.take_over(Timestamp::from_secs(NOON), Vec::new());
    let found = |signed: Option<Mac>| {
        let mut verifier = ChainVerifier::new(1, &keys, &calendar);
        verifier.entry(1, &batch.entries[0], &mut SeenDecisions::default());
        verifier.check_months(&signed.into_iter().map(|mac| (month, mac)).collect());
        verifier.finish()
    };
    assert_eq!(found(Some(mac)), []);
    assert_eq!(found(Some(Mac::default())), [Finding::ClosedAgain { month }]);
    assert_eq!(found(None), [Finding::ClosedAgain { month }]);
}

#[test]
fn a_checkpoint_has_the_cost_of_its_records_or_none() {
    let (keys, calendar) = (keys(), Calendar::of("UTC"));
    let price = Price { request: 30, ..Price::default() };
    let mut priced = pending("priced", 1000, NOON);
    priced.facts.cost =
        Some(CostTerms { price, tokens: 0, most: 0, unreported: 0, ..CostTerms::default() });
    let mut later = priced.clone();
    later.facts.decision_id = "later".to_owned();
    let written = |change: fn(&mut ChainTail)| {
        let mut batch = Batch::after(ChainTail::empty(1), keys.first(), &calendar, "r", None);
        batch.take_over(Timestamp::from_secs(NOON), Vec::new());
        batch.add(&priced, None, [0; 12]);
        let mut entries = batch.entries.clone();
        let mut tail = batch.into_tail();
        change(&mut tail);
        // The checkpoint of the process that continues the chain, and a record after it.
        let mut batch = Batch::after(tail, keys.first(), &calendar, "r", None);
        batch.take_over(Timestamp::from_secs(NOON), Vec::new());
        batch.add(&later, None, [0; 12]);
        batch.checkpoint(Timestamp::from_secs(NOON), Vec::new());
        entries.extend(batch.entries);
        (1..).zip(entries).collect::<Vec<_>>()
    };
    let entries = written(|_| {});
    assert_eq!(findings(&entries, end(&entries)), []);
    // An earlier version knows no cost, and leaves it out of its sums.
    let earlier = written(|tail| tail.sums.cost = 0);
    assert_eq!(findings(&earlier, end(&earlier)), []);
    let wrong = written(|tail| tail.sums.cost = 29);
    assert_eq!(findings(&wrong, end(&wrong)), [Finding::Sums { chain: 1, number: 3 }]);
}
