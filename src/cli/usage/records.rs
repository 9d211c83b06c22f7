//! The records of a ledger, from Redis and from exports: what its sums have to be.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use tollgate_core::ledger::{
    calendar::{Day, Month},
    day_sums::DaySums,
    entry::{Content, Entry, SignedEntry},
    keys::LedgerKeys,
    rows::{Measures, Period, RowKey},
    verify::Finding,
};

use super::{
    export_lines,
    place::{PAGE, Place},
};

/// How often sums are read that change meanwhile.
const ATTEMPTS: usize = 5;

/// The days before and after today whose sums are compared. Stores keep them for 800 days.
pub(super) const COMPARED: (i64, usize) = (798, 400);

/// The rows of a day.
pub(super) type Rows = HashMap<RowKey, Measures>;

/// An entry that a key of the ledger has signed.
#[derive(Clone, Copy, Debug)]
struct Verified {
    /// The last day that it, or what a checkpoint sums up, is booked on.
    until: Day,
    record: Option<Booked>,
}

/// How a record is counted.
#[derive(Clone, Copy, Debug)]
struct Booked {
    day: Day,
    /// The place of its row.
    row: usize,
    measures: Measures,
    /// The most rows of the day.
    max_rows: u32,
}

/// The verified entries of one chain.
#[derive(Debug, Default)]
struct ChainEntries {
    entries: BTreeMap<u64, Verified>,
    /// The number behind those that were read from Redis.
    next: u64,
    /// The number of the last entry as it is noted beside the chain.
    end: u64,
}

/// The verified entries of a ledger, and what cannot be verified.
pub(super) struct Records<'a> {
    place: &'a Place,
    keys: &'a LedgerKeys,
    chains: BTreeMap<u32, ChainEntries>,
    rows: Vec<RowKey>,
    places: HashMap<RowKey, usize>,
    unverified: Vec<String>,
}

/// The sums of a month, compared with its records.
pub(super) struct VerifiedMonth {
    /// The sums that Redis has.
    pub(super) sums: Rows,
    /// What differs from the records.
    pub(super) findings: Vec<Finding>,
    /// The records that may be missing, and what cannot be verified, in words.
    pub(super) problems: Vec<String>,
}

impl<'a> Records<'a> {
    /// Reads the lines of exports. Entries that Redis still has are read again there.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn of_exports(
        place: &'a Place,
        keys: &'a LedgerKeys,
        files: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let (chains, rows, places) = (BTreeMap::new(), Vec::new(), HashMap::new());
        let mut records = Self { place, keys, chains, rows, places, unverified: Vec::new() };
        for path in files {
            let shown = path.display();
            export_lines::for_each(path, |line, text| {
                let signed = std::str::from_utf8(text).ok().and_then(SignedEntry::of_line);
                let entry = signed.and_then(|(signed, _)| {
                    let Entry { chain, number, .. } = Entry::read(&signed.text)?;
                    Entry::verified((chain, number), &signed, keys)
                });
                match entry {
                    Some(entry) => records.add(entry),
                    None => records.unverified.push(format!(
                        "{shown}:{line}: it is no entry that a key of `ledger.keys` has signed"
                    )),
                }
                Ok(())
            })?;
        }
        Ok(records)
    }

    fn add(&mut self, entry: Entry) {
        let day = self.place.calendar.day(entry.time.0);
        let verified = match entry.content {
            Content::Usage(record) => {
                let row = self.place_of(record.row());
                let (measures, max_rows) = (record.measures(), record.max_rows());
                let booked = Booked { day: record.day, row, measures, max_rows };
                Verified { until: day.max(record.day), record: Some(booked) }
            }
            Content::Checkpoint(checkpoint) => {
                Verified { until: day.max(checkpoint.booked_until.unwrap_or(day)), record: None }
            }
        };
        self.chains.entry(entry.chain).or_default().entries.insert(entry.number, verified);
    }

    /// The place of a row among those that are known.
    fn place_of(&mut self, row: RowKey) -> usize {
        if let Some(place) = self.places.get(&row) {
            return *place;
        }
        self.rows.push(row.clone());
        self.places.insert(row, self.rows.len() - 1);
        self.rows.len() - 1
    }

    /// Reads the entries that every chain in Redis has behind those that were read.
    pub(super) async fn read(&mut self) -> anyhow::Result<()> {
        let place = self.place;
        let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
        for state in chains {
            let chain = self.chains.entry(state.chain).or_default();
            chain.end = chain.end.max(state.end.map_or(0, |(number, _)| number));
            let mut next = chain.next;
            loop {
                let page = place.redis.entries(state.chain, next, PAGE).await;
                let page = page.map_err(|outage| place.unavailable(outage))?;
                for (number, signed) in &page {
                    match Entry::verify((state.chain, *number), signed, self.keys) {
                        Ok(entry) => self.add(entry),
                        Err(cause) => self
                            .unverified
                            .push(format!("chain {}, entry {number}: {cause}", state.chain)),
                    }
                    next = number.saturating_add(1);
                }
                if page.len() < PAGE {
                    break;
                }
            }
            self.chains.entry(state.chain).or_default().next = next;
        }
        Ok(())
    }

    /// The month of the first entry that is known; `None` without entries.
    pub(super) fn first_month(&self) -> Option<Month> {
        let firsts = self.chains.values().filter_map(|chain| chain.entries.values().next());
        firsts.map(|entry| entry.record.map_or(entry.until, |booked| booked.day).month()).min()
    }

    /// The last day of an entry, or of what it sums up; `None` of one that is not known.
    pub(super) fn day_of(&self, chain: u32, number: u64) -> Option<Day> {
        let entry = self.chains.get(&chain)?.entries.get(&number)?;
        Some(entry.record.map_or(entry.until, |booked| booked.day))
    }

    /// The sums of all records. Those of a chain that begins behind its first entry may have had others up
    /// to the day of the first one that is known.
    fn sums(&self) -> DaySums {
        let mut sums = DaySums::default();
        for chain in self.chains.values() {
            if let Some((number, first)) = chain.entries.first_key_value()
                && *number > 1
            {
                sums.set_removed_until(first.until);
            }
            for booked in chain.entries.values().filter_map(|entry| entry.record) {
                if let Some(row) = self.rows.get(booked.row) {
                    sums.add(booked.day, row, &booked.measures, booked.max_rows);
                }
            }
        }
        sums
    }

    /// Compares the sums of the days all records of which are known with those that Redis has.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) async fn compare_days(&mut self, today: Day) -> anyhow::Result<Vec<Finding>> {
        self.read().await?;
        let (mut sums, mut findings) = (self.sums(), Vec::new());
        let (before, after) = COMPARED;
        let last = std::iter::successors(Some(today), |day| day.next()).take(after).last();
        let last = last.max(sums.last_day());
        let days = std::iter::successors(Some(today.days_before(before)), |day| day.next());
        for day in days.take_while(|day| Some(*day) <= last) {
            if !sums.has_all_of(day) {
                continue;
            }
            let mut rows = rows_of(self.place, day).await?;
            // Records may be made meanwhile: the sums are those of the records between two equal reads.
            for _ in 0..ATTEMPTS {
                let found = sums.compare(day, &rows);
                if found.is_empty() {
                    break;
                }
                self.read().await?;
                sums = self.sums();
                let again = rows_of(self.place, day).await?;
                if again == rows {
                    findings.extend(sums.compare(day, &again));
                    break;
                }
                rows = again;
            }
        }
        Ok(findings)
    }

    /// Compares the sums that Redis has of a month with its records.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) async fn verify(&mut self, month: Month) -> anyhow::Result<VerifiedMonth> {
        let mut days = days_of(self.place, month).await?;
        for attempt in 1.. {
            self.read().await?;
            let again = days_of(self.place, month).await?;
            if again == days || attempt == ATTEMPTS {
                break;
            }
            days = again;
        }
        let records = self.sums();
        let mut problems = self.unverified.clone();
        problems.extend(self.chains.iter().flat_map(|(chain, it)| it.missing(*chain, month)));
        let findings = days.iter().flat_map(|(day, rows)| records.compare(*day, rows)).collect();
        Ok(VerifiedMonth { sums: sum_of(days), findings, problems })
    }
}

impl ChainEntries {
    /// Words the entries that are neither in Redis nor in an export, and may be records of a month.
    fn missing(&self, chain: u32, month: Month) -> Vec<String> {
        let mut missing = Vec::new();
        let mut last = None;
        for (number, entry) in &self.entries {
            let (before, was_over) = match last {
                None => (0, false),
                Some((before, until)) => (before, until > month.last_day()),
            };
            if *number > before + 1 && entry.until >= month.first_day() && !was_over {
                let cause = match before {
                    0 => "they were removed after their export: name its files with --export",
                    _ => "a failover has lost them, or they were removed; an export may have them",
                };
                let (first, until) = (before + 1, number - 1);
                missing.push(format!(
                    "chain {chain}, entries {first} to {until}: they are not in Redis, and may be records of \
                     {month}; {cause}"
                ));
            }
            last = Some((*number, entry.until));
        }
        let (ends, until) = last.map_or((0, None), |(number, until)| (number, Some(until)));
        if ends < self.end && until.is_none_or(|until| until <= month.last_day()) {
            missing.push(format!(
                "chain {chain}: it ends with entry {ends}, and entry {} was written",
                self.end
            ));
        }
        missing
    }
}

/// The total of rows.
pub(super) fn total_of(rows: &Rows) -> Measures {
    let mut total = Measures::default();
    rows.values().for_each(|row| total.add(row));
    total
}

async fn rows_of(place: &Place, day: Day) -> anyhow::Result<Rows> {
    place.redis.rows(Period::Day(day)).await.map_err(|outage| place.unavailable(outage))
}

/// The rows of each day of a month.
async fn days_of(place: &Place, month: Month) -> anyhow::Result<Vec<(Day, Rows)>> {
    let days = std::iter::successors(Some(month.first_day()), |day| day.next());
    let mut rows = Vec::new();
    for day in days.take_while(|day| *day <= month.last_day()) {
        rows.push((day, rows_of(place, day).await?));
    }
    Ok(rows)
}

fn sum_of(days: Vec<(Day, Rows)>) -> Rows {
    let mut sums = Rows::new();
    for (row, measures) in days.into_iter().flat_map(|(_, rows)| rows) {
        sums.entry(row).or_default().add(&measures);
    }
    sums
}

/// The sums that Redis has of a month, by row.
///
/// # Errors
/// Redis does not answer.
pub(super) async fn sums_of(place: &Place, month: Month) -> anyhow::Result<Rows> {
    Ok(sum_of(days_of(place, month).await?))
}
