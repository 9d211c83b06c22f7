//! The records of a month, from Redis and from exports: what the sums of the month have to be.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use tollgate_core::ledger::{
    calendar::{Calendar, Day, Month},
    entry::{Content, Entry, SignedEntry},
    keys::LedgerKeys,
    rows::{Measures, Period},
};

use super::{
    export_lines,
    place::{PAGE, Place},
    verify::differing,
};

/// How often the sums are read that change meanwhile.
const ATTEMPTS: usize = 5;

/// An entry that a key of the ledger has signed.
#[derive(Clone, Copy, Debug)]
struct Verified {
    /// The last day that it, or what a checkpoint sums up, is booked on.
    until: Day,
    /// The day that a record is booked on, and what it adds to sums.
    record: Option<(Day, Measures)>,
}

impl Verified {
    fn of(entry: Entry, calendar: &Calendar) -> Self {
        let day = calendar.day(entry.time.0);
        match entry.content {
            Content::Usage(record) => {
                let measures = record.measures();
                Self { until: day.max(record.day), record: Some((record.day, measures)) }
            }
            Content::Checkpoint(checkpoint) => {
                Self { until: day.max(checkpoint.booked_until.unwrap_or(day)), record: None }
            }
        }
    }
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

/// The verified entries of the ledger, and what cannot be verified.
#[derive(Debug, Default)]
pub(super) struct MonthRecords {
    chains: BTreeMap<u32, ChainEntries>,
    unverified: Vec<String>,
}

/// The sums of a month, compared with its records.
pub(super) struct VerifiedMonth {
    /// The sums that Redis has.
    pub(super) total: Measures,
    /// What differs from the records, or cannot be compared, in words.
    pub(super) problems: Vec<String>,
}

impl MonthRecords {
    /// Reads the lines of exports. Those that Redis still has are read again there.
    ///
    /// # Errors
    /// A file cannot be read, or has a line that is no entry.
    pub(super) fn of_exports(
        files: &[PathBuf],
        calendar: &Calendar,
        keys: &LedgerKeys,
    ) -> anyhow::Result<Self> {
        let mut records = Self::default();
        for path in files {
            let shown = path.display();
            export_lines::for_each(path, |line, text| {
                let signed = std::str::from_utf8(text).ok().and_then(SignedEntry::of_line);
                let entry = signed.and_then(|(signed, _)| {
                    let Entry { chain, number, .. } = Entry::read(&signed.text)?;
                    Entry::verified((chain, number), &signed, keys)
                });
                let entry = entry.with_context(|| {
                    format!("{shown}:{line}: it is no entry that a key of `ledger.keys` has signed")
                })?;
                let chain = records.chains.entry(entry.chain).or_default();
                chain.entries.insert(entry.number, Verified::of(entry, calendar));
                Ok(())
            })?;
        }
        Ok(records)
    }

    /// Reads the entries that every chain in Redis has behind those that were read.
    async fn read(&mut self, place: &Place, keys: &LedgerKeys) -> anyhow::Result<()> {
        let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
        for state in chains {
            let chain = self.chains.entry(state.chain).or_default();
            chain.end = chain.end.max(state.end.map_or(0, |(number, _)| number));
            loop {
                let page = place.redis.entries(state.chain, chain.next, PAGE).await;
                let page = page.map_err(|outage| place.unavailable(outage))?;
                for (number, signed) in &page {
                    match Entry::verify((state.chain, *number), signed, keys) {
                        Ok(entry) => {
                            chain.entries.insert(*number, Verified::of(entry, &place.calendar));
                        }
                        Err(cause) => self
                            .unverified
                            .push(format!("chain {}, entry {number}: {cause}", state.chain)),
                    }
                    chain.next = number.saturating_add(1);
                }
                if page.len() < PAGE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The month of the first entry that is known; `None` without entries.
    pub(super) fn first_month(&self) -> Option<Month> {
        let firsts = self.chains.values().filter_map(|chain| chain.entries.values().next());
        firsts.map(|entry| entry.record.map_or(entry.until, |(day, _)| day).month()).min()
    }

    /// Compares the sums that Redis has of a month with its records.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) async fn verify(
        &mut self,
        place: &Place,
        keys: &LedgerKeys,
        month: Month,
    ) -> anyhow::Result<VerifiedMonth> {
        let mut sums = sums_of(place, month).await?;
        for attempt in 1.. {
            self.read(place, keys).await?;
            // Records may be made meanwhile: the sums are those of the records between two equal reads.
            let again = sums_of(place, month).await?;
            if again == sums || attempt == ATTEMPTS {
                break;
            }
            sums = again;
        }
        let mut records = BTreeMap::<Day, Measures>::new();
        for (day, measures) in self.records().filter(|(day, _)| day.month() == month) {
            records.entry(day).or_default().add(&measures);
        }
        let mut problems = self.unverified.clone();
        problems.extend(self.chains.iter().flat_map(|(chain, it)| it.missing(*chain, month)));
        let mut total = Measures::default();
        for (day, of_sums) in sums {
            total.add(&of_sums);
            let of_records = records.remove(&day).unwrap_or_default();
            if of_records != of_sums {
                let differing = differing(("the sums", &of_sums), ("the records", &of_records));
                problems.push(format!("{day}: {differing}"));
            }
        }
        Ok(VerifiedMonth { total, problems })
    }

    fn records(&self) -> impl Iterator<Item = (Day, Measures)> {
        let entries = self.chains.values().flat_map(|chain| chain.entries.values());
        entries.filter_map(|entry| entry.record)
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

/// The sums of the days of a month.
async fn sums_of(place: &Place, month: Month) -> anyhow::Result<Vec<(Day, Measures)>> {
    let days = std::iter::successors(Some(month.first_day()), |day| day.next());
    let mut sums = Vec::new();
    for day in days.take_while(|day| *day <= month.last_day()) {
        let rows = place.redis.rows(Period::Day(day)).await;
        let mut total = Measures::default();
        rows.map_err(|outage| place.unavailable(outage))?.values().for_each(|row| total.add(row));
        sums.push((day, total));
    }
    Ok(sums)
}
