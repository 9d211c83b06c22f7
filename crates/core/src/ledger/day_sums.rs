//! The sums of records by day and row, and how they are compared with those that a store keeps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    calendar::Day,
    rows::{Measures, RowKey},
    verify::Finding,
};

/// The rows of a day that are named where only rows differ.
const MOST_ROWS: usize = 20;

/// The sums of records, by day and row.
#[derive(Clone, Debug, Default)]
pub struct DaySums {
    days: BTreeMap<Day, RecordsOfDay>,
    removed_until: Option<Day>,
}

/// The records that are booked on a day.
#[derive(Clone, Debug)]
struct RecordsOfDay {
    rows: BTreeMap<RowKey, Measures>,
    /// The least that records state as the most rows of the day.
    most: u32,
}

impl DaySums {
    /// Adds a record that is booked on a day, whose sums had at most `most` rows when it was made.
    pub fn add(&mut self, day: Day, row: &RowKey, measures: &Measures, most: u32) {
        let new = || RecordsOfDay { rows: BTreeMap::new(), most };
        let of_day = self.days.entry(day).or_insert_with(new);
        of_day.most = of_day.most.min(most);
        match of_day.rows.get_mut(row) {
            Some(sums) => sums.add(measures),
            None => {
                of_day.rows.insert(row.clone(), *measures);
            }
        }
    }

    /// Notes the day up to which there may be records that are not among these.
    pub fn set_removed_until(&mut self, day: Day) {
        self.removed_until = self.removed_until.max(Some(day));
    }

    /// Whether all records of a day are among these.
    pub fn has_all_of(&self, day: Day) -> bool {
        self.removed_until.is_none_or(|removed| day > removed)
    }

    /// The last day with a record.
    pub fn last_day(&self) -> Option<Day> {
        self.days.keys().next_back().copied()
    }

    /// Compares a day with the rows that the store has of it: their total, or else each row.
    ///
    /// A row for which there is no room when it begins is counted as [`RowKey::Other`], all of it.
    pub fn compare(&self, day: Day, rows: &HashMap<RowKey, Measures>) -> Vec<Finding> {
        let none = RecordsOfDay { rows: BTreeMap::new(), most: 0 };
        let RecordsOfDay { rows: records, most } = self.days.get(&day).unwrap_or(&none);
        let (mut of_records, mut of_sums) = (Measures::default(), Measures::default());
        records.values().for_each(|row| of_records.add(row));
        rows.values().for_each(|row| of_sums.add(row));
        if of_sums != of_records {
            return vec![Finding::Day { day, row: None, of_records, of_sums }];
        }
        let of = |known: Option<&Measures>| known.copied().unwrap_or_default();
        let mut found = Vec::new();
        let others = of(rows.get(&RowKey::Other));
        // Rows that no record has may be there to look like a day without room.
        let named = records.keys().filter(|row| rows.contains_key(row)).count();
        let has_room = named < usize::try_from(*most).unwrap_or(usize::MAX);
        let has_others = others != Measures::default();
        if has_others && has_room {
            let (row, of_records) = (Some(RowKey::Other), Measures::default());
            found.push(Finding::Day { day, row, of_records, of_sums: others });
        }
        let stored = rows.keys().filter(|row| **row != RowKey::Other);
        let all: BTreeSet<&RowKey> = records.keys().chain(stored).collect();
        for row in all {
            let (of_records, of_sums) = (of(records.get(row)), of(rows.get(row)));
            let is_among_others = has_others && !has_room && !rows.contains_key(row);
            if of_sums != of_records && !is_among_others && found.len() < MOST_ROWS {
                found.push(Finding::Day { day, row: Some(row.clone()), of_records, of_sums });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tenant: &str) -> RowKey {
        RowKey::Of { tenant: Some(tenant.into()), model: None, route: "chat".into() }
    }

    fn measures(requests: i64, tokens: i64) -> Measures {
        Measures { requests, tokens, ..Measures::default() }
    }

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    #[test]
    fn a_sum_that_was_moved_to_another_row_is_found() {
        let mut sums = DaySums::default();
        let monday = day("2026-11-30");
        for tenant in ["a", "a", "b"] {
            sums.add(monday, &row(tenant), &measures(1, 10), 1);
        }
        let compare = |rows: &[(RowKey, Measures)]| -> Vec<Option<RowKey>> {
            let found = sums.compare(monday, &rows.iter().cloned().collect());
            let row = |finding| match finding {
                Finding::Day { row, .. } => row,
                other => panic!("{other:?}"),
            };
            found.into_iter().map(row).collect()
        };
        let (a, b, c) = (row("a"), row("b"), row("c"));
        assert_eq!(compare(&[(a.clone(), measures(2, 20)), (b.clone(), measures(1, 10))]), []);
        let moved = [(a.clone(), measures(2, 5)), (b.clone(), measures(1, 25))];
        assert_eq!(compare(&moved), [Some(a.clone()), Some(b.clone())]);
        let renamed = [(a.clone(), measures(2, 20)), (c.clone(), measures(1, 10))];
        assert_eq!(compare(&renamed), [Some(b.clone()), Some(c.clone())]);
        assert_eq!(compare(&[(a.clone(), measures(2, 20))]), [None], "the total differs");
    }

    #[test]
    fn what_has_no_row_is_among_the_others_and_nothing_else() {
        let monday = day("2026-11-30");
        let (a, b) = (row("a"), row("b"));
        let compare = |most: u32, rows: &[(RowKey, Measures)]| -> Vec<Option<RowKey>> {
            let mut sums = DaySums::default();
            for (row, most) in [(&a, 1000), (&a, most), (&b, 1000)] {
                sums.add(monday, row, &measures(1, 10), most);
            }
            let found = sums.compare(monday, &rows.iter().cloned().collect());
            let row = |finding| match finding {
                Finding::Day { row, .. } => row,
                other => panic!("{other:?}"),
            };
            found.into_iter().map(row).collect()
        };
        let others = |of_a| {
            [
                (a.clone(), measures(of_a, 10 * of_a)),
                (RowKey::Other, measures(3 - of_a, 30 - 10 * of_a)),
            ]
        };
        assert_eq!(compare(1, &others(2)), []);
        // A part of a row, and less than nothing.
        assert_eq!(compare(1, &others(1)), [Some(a.clone())]);
        assert_eq!(compare(1, &others(4)), [Some(a.clone())]);
        // There is room for another row, whatever rows no record has.
        let found = [Some(RowKey::Other), Some(b.clone())];
        assert_eq!(compare(2, &others(2)), found);
        let padding = [(row("padding"), Measures::default())];
        assert_eq!(compare(2, &[&others(2)[..], &padding].concat()), found);
        // Others of nothing, and a text that is no row, hide nothing.
        let moved = [(a.clone(), measures(2, 15)), (b.clone(), measures(1, 15))];
        for planted in [RowKey::Other, RowKey::read("zz")] {
            let rows = [&moved[..], &[(planted, Measures::default())]].concat();
            assert_eq!(compare(1, &rows), [Some(a.clone()), Some(b.clone())]);
        }
        // Requests stay, and tokens are moved to the others.
        let moved = [(a.clone(), measures(2, 15)), (RowKey::Other, measures(1, 15))];
        assert_eq!(compare(1, &moved), [Some(a.clone())]);
    }

    #[test]
    fn days_of_which_records_were_removed_are_known() {
        let mut sums = DaySums::default();
        assert!(sums.has_all_of(day("2020-01-01")));
        assert_eq!(sums.last_day(), None);
        sums.add(day("2026-11-30"), &row("a"), &measures(1, 10), 1000);
        sums.set_removed_until(day("2026-11-30"));
        sums.set_removed_until(day("2026-11-20"));
        assert!(!sums.has_all_of(day("2026-11-30")) && sums.has_all_of(day("2026-12-01")));
        assert_eq!(sums.last_day(), Some(day("2026-11-30")));
        let planted = HashMap::from([(row("a"), measures(1, 1))]);
        assert_eq!(sums.compare(day("2026-12-15"), &planted).len(), 1);
    }
}
