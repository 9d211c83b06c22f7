use super::*;
use crate::{
    ledger::{
        calendar::Calendar,
        entry::tests::keys,
        writer::{
            Batch, ChainTail,
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
    let keys = keys();
    let (mut verifier, mut seen) = (ChainVerifier::new(1, &keys), SeenDecisions::default());
    for (number, signed) in entries {
        verifier.entry(*number, signed, &mut seen);
    }
    verifier.check_beginning();
    verifier.compare(end.0, end.1, "end");
    verifier.finish().0
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
    let corrected =
        crate::ledger::writer::PendingRecord { corrects: Some(1), ..pending("d", 2, NOON) };
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
    let (mut one, mut two) = (ChainVerifier::new(1, &keys), ChainVerifier::new(2, &keys));
    for (number, signed) in &other {
        two.entry(*number, signed, &mut seen);
    }
    for (number, signed) in &whole[..3] {
        one.entry(*number, signed, &mut seen);
    }
    for anchor in two.anchors() {
        one.compare(anchor.number, anchor.mac, "checkpoint");
    }
    assert_eq!(one.finish().0, [Finding::Truncated { chain: 1, last: 3, expected: 7 }]);
}

#[test]
fn an_unknown_key_is_named() {
    let entries = chain(1, 1, Vec::new());
    let others = crate::secret::Secret::new(vec![9; 32]);
    let keys = LedgerKeys::new(vec![("other".to_owned(), others)]).unwrap();
    let (mut verifier, mut seen) = (ChainVerifier::new(1, &keys), SeenDecisions::default());
    verifier.entry(1, &entries[0].1, &mut seen);
    let expected = Finding::UnknownKey { chain: 1, number: 1, key: "k".into() };
    assert_eq!(verifier.finish().0, [expected]);
}

#[test]
fn days_without_records_are_compared_too() {
    let keys = keys();
    let day = |text: &str| text.parse::<Day>().unwrap();
    let (mut verifier, mut seen) = (ChainVerifier::new(1, &keys), SeenDecisions::default());
    for (number, signed) in &chain(1, 2, Vec::new()) {
        verifier.entry(*number, signed, &mut seen);
    }
    let days = |sums: &DaySums, until: &str| -> Vec<(String, i64)> {
        let days = sums.whole_days(day(until)).into_iter();
        days.map(|(day, sums)| (day.to_string(), sums.tokens)).collect()
    };
    let with = |day: &str, tokens| (day.to_owned(), tokens);
    let sums = verifier.days();
    assert_eq!(days(&sums, "2026-12-01"), [with("2026-11-30", 2000), with("2026-12-01", 0)]);
    assert_eq!(days(&sums, "2026-01-01"), [with("2026-11-30", 2000)], "the clock is behind");
    let later = sums.whole_days(day("2029-06-01"));
    assert_eq!(later[0], (day("2027-03-26"), Measures::default()), "older sums are gone");
    verifier.set_removed_until(day("2026-11-30"));
    assert_eq!(days(&verifier.days(), "2026-12-01"), [with("2026-12-01", 0)]);
    assert_eq!(days(&DaySums::default(), "2026-12-01"), []);
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
