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
    days: BTreeMap<Day, BTreeMap<RowKey, Measures>>,
    removed_until: Option<Day>,
}

impl DaySums {
    /// Adds a record that is booked on a day.
    pub fn add(&mut self, day: Day, row: &RowKey, measures: &Measures) {
        let rows = self.days.entry(day).or_default();
        match rows.get_mut(row) {
            Some(sums) => sums.add(measures),
            None => {
                rows.insert(row.clone(), *measures);
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
    /// Rows beyond the most of a day are counted as [`RowKey::Other`]. Where there are such, a row may have
    /// less than its records: its first ones are among the others if the most was raised since.
    pub fn compare(&self, day: Day, rows: &HashMap<RowKey, Measures>) -> Vec<Finding> {
        let none = BTreeMap::new();
        let records = self.days.get(&day).unwrap_or(&none);
        let (mut of_records, mut of_sums) = (Measures::default(), Measures::default());
        records.values().for_each(|row| of_records.add(row));
        rows.values().for_each(|row| of_sums.add(row));
        if of_sums != of_records {
            return vec![Finding::Day { day, row: None, of_records, of_sums }];
        }
        let has_others = rows.contains_key(&RowKey::Other);
        let named = rows.keys().filter(|row| **row != RowKey::Other);
        let all: BTreeSet<&RowKey> = records.keys().chain(named).collect();
        let mut found = Vec::new();
        for row in all {
            let of = |known: Option<&Measures>| known.copied().unwrap_or_default();
            let (of_records, of_sums) = (of(records.get(row)), of(rows.get(row)));
            let is_among_others = has_others && of_sums.requests <= of_records.requests;
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
            sums.add(monday, &row(tenant), &measures(1, 10));
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
        // What has no row is among the others, and nothing else.
        let others = |of_a| {
            [
                (a.clone(), measures(of_a, 10 * of_a)),
                (RowKey::Other, measures(3 - of_a, 30 - 10 * of_a)),
            ]
        };
        assert_eq!(compare(&others(2)), []);
        assert_eq!(compare(&others(1)), []);
        assert_eq!(compare(&others(3)), [Some(a.clone())]);
    }

    #[test]
    fn days_of_which_records_were_removed_are_known() {
        let mut sums = DaySums::default();
        assert!(sums.has_all_of(day("2020-01-01")));
        assert_eq!(sums.last_day(), None);
        sums.add(day("2026-11-30"), &row("a"), &measures(1, 10));
        sums.set_removed_until(day("2026-11-30"));
        sums.set_removed_until(day("2026-11-20"));
        assert!(!sums.has_all_of(day("2026-11-30")) && sums.has_all_of(day("2026-12-01")));
        assert_eq!(sums.last_day(), Some(day("2026-11-30")));
        let planted = HashMap::from([(row("a"), measures(1, 1))]);
        assert_eq!(sums.compare(day("2026-12-15"), &planted).len(), 1);
    }
}
