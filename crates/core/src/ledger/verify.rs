//! Verifies chains: in the store, and in exports.
//!
//! Each entry is verified by itself, by its MAC, and by its place: its chain, its number, and the MAC
//! of the entry before it. So what was changed, removed, repeated or moved is found, and the entries
//! around it are still verified.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::{
    calendar::{Day, Month},
    entry::{Anchor, Checkpoint, Content, Entry, SignedEntry, VERSION},
    keys::{LedgerKeys, Mac},
    rows::{Measures, RowKey},
};
use crate::revocation::sha256;

/// What is wrong with a ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// The MAC of an entry is not that of its text.
    Changed {
        /// The number of the chain.
        chain: u32,
        /// The number of the entry.
        number: u64,
    },
    /// The text is no entry of a version that is known.
    Unreadable {
        /// The number of the chain.
        chain: u32,
        /// The number of the entry.
        number: u64,
    },
    /// The entry was signed with a key that is not in the list.
    UnknownKey {
        /// The number of the chain.
        chain: u32,
        /// The number of the entry.
        number: u64,
        /// The name of the key.
        key: String,
    },
    /// The entry belongs to another place.
    Misplaced {
        /// The chain where it is.
        chain: u32,
        /// The number where it is.
        number: u64,
        /// The chain that it belongs to.
        of_chain: u32,
        /// The number that it belongs to.
        of_number: u64,
    },
    /// Entries are missing between others.
    Missing {
        /// The number of the chain.
        chain: u32,
        /// The first number that is missing.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// The entry before is another one than that which this entry was written after.
    Unlinked {
        /// The number of the chain.
        chain: u32,
        /// The number of the later entry.
        number: u64,
    },
    /// A request has a second record that corrects none.
    Repeated {
        /// The chain of the second record.
        chain: u32,
        /// The number of the second record.
        number: u64,
        /// The id of the decision.
        decision: String,
    },
    /// The first entries of a chain were removed, and no checkpoint states it.
    Removed {
        /// The number of the chain.
        chain: u32,
        /// The first number that is missing.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// The last entries of a chain are missing.
    Truncated {
        /// The number of the chain.
        chain: u32,
        /// The number of the last entry that is there.
        last: u64,
        /// The number of the last one that was written.
        expected: u64,
    },
    /// The sums of a checkpoint are not those of the records before it.
    Sums {
        /// The number of the chain.
        chain: u32,
        /// The number of the checkpoint.
        number: u64,
    },
    /// Another chain, an export, its mark or the list of ends has another entry with this number.
    Differs {
        /// The number of the chain.
        chain: u32,
        /// The number of the entry.
        number: u64,
        /// What has the other one: `checkpoint`, `export`, `mark` or `end`.
        from: &'static str,
    },
    /// The mark of what was exported was not made by an export.
    Mark {
        /// The number of the chain.
        chain: u32,
    },
    /// The month that is marked as the last closed one is not the last one whose sums were signed.
    Closed {
        /// The month that is marked; `None` where none is.
        month: Option<Month>,
        /// The last month whose sums were signed.
        signed: Option<Month>,
    },
    /// A line of an export is no entry.
    Line {
        /// The path of the file.
        file: String,
        /// The number of the line, from 1.
        line: u64,
    },
    /// Records were removed before they were exported, as `ledger.max_records` requires.
    NotExported {
        /// The number of the chain.
        chain: u32,
        /// How many records were removed.
        records: u64,
    },
    /// The sums of a day are not those of its records.
    Day {
        /// The day of the sums.
        day: Day,
        /// What the records add up to.
        of_records: Measures,
        /// The sums that the store has.
        of_sums: Measures,
    },
    /// The sums of a closed month are not those that were signed when it was closed.
    Month {
        /// The month that was closed.
        month: Month,
        /// What was signed; `None` where no key of the ledger has signed a text of the month.
        signed: Option<Measures>,
        /// The sums of its days.
        of_sums: Measures,
    },
    /// The exports end before what was marked as exported.
    ExportEnds {
        /// The number of the chain.
        chain: u32,
        /// The number of the last entry that the exports have.
        last: u64,
        /// The number that was marked.
        expected: u64,
    },
    /// What an export states of a person is not what the record has.
    Person {
        /// The number of the chain.
        chain: u32,
        /// The number of the record.
        number: u64,
    },
    /// An export still has the person of a record who was erased.
    NotErased {
        /// The number of the chain.
        chain: u32,
        /// The number of the record.
        number: u64,
    },
}

/// The most days that are compared: no record is booked two years ahead.
const MOST_DAYS: usize = 1600;

/// The days before today whose sums are compared: stores keep them for 800 days.
const COMPARED_DAYS: i64 = 798;

/// The decisions that have a record: a hash of each.
#[derive(Debug, Default)]
pub struct SeenDecisions(HashSet<[u8; 16]>);

impl SeenDecisions {
    /// Notes a decision. Returns whether it was noted before.
    fn repeats(&mut self, decision: &str) -> bool {
        let hash = sha256(decision.as_bytes());
        !self.0.insert(*hash.first_chunk().unwrap_or(&[0; 16]))
    }
}

/// Verifies the entries of one chain, in their order.
#[derive(Debug)]
pub struct ChainVerifier<'a> {
    chain: u32,
    keys: &'a LedgerKeys,
    /// The number of the first entry, and the start of the MAC of each from there on; zero of one that
    /// is missing.
    first: u64,
    macs: Vec<[u8; 8]>,
    last: Option<(u64, Mac)>,
    /// The records and sums up to here; `None` before a checkpoint, and after a gap until the next one.
    sums: Option<(u64, Measures)>,
    /// The sums of the days of records that are there.
    days: BTreeMap<Day, Measures>,
    /// The day of the last record before the first entry, where some were removed.
    removed_until: Option<Day>,
    kept_from: u64,
    unexported: u64,
    anchors: Vec<Anchor>,
    records: u64,
    findings: Vec<Finding>,
}

impl<'a> ChainVerifier<'a> {
    /// A chain without entries.
    pub fn new(chain: u32, keys: &'a LedgerKeys) -> Self {
        Self {
            chain,
            keys,
            first: 0,
            macs: Vec::new(),
            last: None,
            sums: Some((0, Measures::default())),
            days: BTreeMap::new(),
            removed_until: None,
            kept_from: 1,
            unexported: 0,
            anchors: Vec::new(),
            records: 0,
            findings: Vec::new(),
        }
    }

    /// Verifies the entry at a number. Returns it, if it can be read.
    pub fn entry(
        &mut self,
        number: u64,
        signed: &SignedEntry,
        seen: &mut SeenDecisions,
    ) -> Option<Entry> {
        let chain = self.chain;
        let before = self.last;
        if let Some((last, _)) = before
            && number <= last
        {
            self.find_misplaced(number, signed);
            return None;
        }
        self.note_place(number, signed.mac);
        let entry = Entry::read(&signed.text).filter(|entry| entry.v >= VERSION);
        let Some(entry) = entry else {
            self.sums = None;
            self.findings.push(Finding::Unreadable { chain, number });
            return None;
        };
        match self.keys.get(&entry.key) {
            None => {
                let key = entry.key.clone();
                self.findings.push(Finding::UnknownKey { chain, number, key });
            }
            Some(key) if key.has_signed(&signed.text, signed.mac) => {}
            Some(_) => {
                self.sums = None;
                self.findings.push(Finding::Changed { chain, number });
                return Some(entry);
            }
        }
        if (entry.chain, entry.number) != (chain, number) {
            self.sums = None;
            let (of_chain, of_number) = (entry.chain, entry.number);
            self.findings.push(Finding::Misplaced { chain, number, of_chain, of_number });
            return Some(entry);
        }
        let follows = before
            .is_some_and(|(last, mac)| last.checked_add(1) == Some(number) && mac != entry.prev);
        if follows || (number == 1 && entry.prev != Mac::default()) {
            self.findings.push(Finding::Unlinked { chain, number });
        }
        match &entry.content {
            Content::Usage(record) => {
                self.records += 1;
                if record.corrects.is_none() && seen.repeats(&record.decision) {
                    let decision = record.decision.clone();
                    self.findings.push(Finding::Repeated { chain, number, decision });
                }
                let measures = record.measures();
                self.days.entry(record.day).or_default().add(&measures);
                if let Some((records, sums)) = &mut self.sums {
                    *records += 1;
                    sums.add(&measures);
                }
            }
            Content::Checkpoint(checkpoint) => self.checkpoint(number, checkpoint),
        }
        Some(entry)
    }

    /// Notes the place of an entry, and what is missing before it.
    fn note_place(&mut self, number: u64, mac: Mac) {
        let expected = match self.last {
            Some((last, _)) => last.saturating_add(1),
            None => {
                self.first = number;
                if number != 1 {
                    self.sums = None;
                }
                number
            }
        };
        if number > expected {
            let (chain, first, last) = (self.chain, expected, number - 1);
            self.findings.push(Finding::Missing { chain, first, last });
            self.sums = None;
        }
        let place = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        // A number far beyond the others, which nothing but tampering leads to, has no place.
        if place <= self.macs.len().saturating_add(1 << 24) {
            self.macs.resize(place, [0; 8]);
            self.macs.push(start_of(mac));
        }
        self.last = Some((number, mac));
    }

    fn find_misplaced(&mut self, number: u64, signed: &SignedEntry) {
        let entry = Entry::read(&signed.text);
        let (of_chain, of_number) =
            entry.map_or((self.chain, number), |entry| (entry.chain, entry.number));
        let chain = self.chain;
        self.findings.push(Finding::Misplaced { chain, number, of_chain, of_number });
    }

    fn checkpoint(&mut self, number: u64, checkpoint: &Checkpoint) {
        let Checkpoint { records, sums, kept_from, unexported, others, .. } = checkpoint;
        // A writer of an earlier version leaves measures out that it does not know, and a later one begins
        // with zero then.
        let known = self.sums.map(|(records, mut known)| {
            if sums.cost == 0 && sums.estimated_cost == 0 {
                (known.cost, known.estimated_cost) = (0, 0);
            }
            if sums.images == 0 && sums.seconds == 0 {
                (known.images, known.seconds) = (0, 0);
            }
            (records, known)
        });
        if known.is_some_and(|known| known != (*records, *sums)) {
            self.findings.push(Finding::Sums { chain: self.chain, number });
        }
        self.sums = Some((*records, *sums));
        self.kept_from = self.kept_from.max(*kept_from);
        self.unexported = self.unexported.max(*unexported);
        self.anchors.extend(others.iter().cloned());
    }

    /// Notes the day up to which records may have been removed: its sums, and those of the days before,
    /// are not compared.
    pub fn set_removed_until(&mut self, day: Day) {
        self.removed_until = self.removed_until.max(Some(day));
    }

    /// The number of the last entry.
    pub fn last(&self) -> Option<u64> {
        self.last.map(|(number, _)| number)
    }

    /// The number of records that are there.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// The number of the first entry; 0 without one.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Compares the beginning of the chain with what its checkpoints state.
    pub fn check_beginning(&mut self) {
        let (chain, kept_from) = (self.chain, self.kept_from);
        if self.first > kept_from {
            let last = self.first - 1;
            self.findings.push(Finding::Removed { chain, first: kept_from, last });
        }
        if self.unexported > 0 {
            self.findings.push(Finding::NotExported { chain, records: self.unexported });
        }
    }

    /// Compares the chain with an entry that is known from elsewhere: from a checkpoint of another
    /// chain, an export, or the list of ends.
    pub fn compare(&mut self, number: u64, mac: Mac, from: &'static str) {
        let chain = self.chain;
        let last = self.last.map_or(0, |(last, _)| last);
        if number > last {
            let truncated = Finding::Truncated { chain, last, expected: number };
            // The highest number is reported once.
            let known = self.findings.iter_mut().find_map(|finding| match finding {
                Finding::Truncated { expected, .. } => Some(expected),
                _ => None,
            });
            match known {
                Some(expected) => *expected = number.max(*expected),
                None => self.findings.push(truncated),
            }
            return;
        }
        // What was removed cannot be compared, and what is missing is reported.
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(known) = place.and_then(|place| self.macs.get(place)) else { return };
        if *known != [0; 8] && *known != start_of(mac) {
            self.findings.push(Finding::Differs { chain, number, from });
        }
    }

    /// What the checkpoints of the chain state of others.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// The sums of the days of its records.
    pub fn days(&self) -> DaySums {
        DaySums { days: self.days.clone(), removed_until: self.removed_until }
    }

    /// Ends the verification: what was found.
    pub fn finish(self) -> (Vec<Finding>, DaySums) {
        let days = DaySums { days: self.days, removed_until: self.removed_until };
        (self.findings, days)
    }
}

/// The sums of the days of records.
#[derive(Clone, Debug, Default)]
pub struct DaySums {
    days: BTreeMap<Day, Measures>,
    removed_until: Option<Day>,
}

impl DaySums {
    /// Adds those of another chain.
    pub fn add(&mut self, other: Self) {
        for (day, sums) in other.days {
            self.days.entry(day).or_default().add(&sums);
        }
        self.removed_until = self.removed_until.max(other.removed_until);
    }

    /// The days all records of which are there, with their sums: those until a day, and later ones that
    /// have records. Most days of a chain have records, and none is left out that has none.
    pub fn whole_days(&self, until: Day) -> Vec<(Day, Measures)> {
        let first = match self.removed_until {
            Some(removed) => removed.next(),
            None => self.days.keys().next().copied(),
        };
        let first = first.map(|first| first.max(until.days_before(COMPARED_DAYS)));
        let last = self.days.keys().next_back().copied().max(Some(until));
        let days = std::iter::successors(first, |day| day.next());
        let days = days.take_while(|day| Some(*day) <= last).take(MOST_DAYS);
        days.map(|day| (day, self.days.get(&day).copied().unwrap_or_default())).collect()
    }

    /// Compares a day with the rows that the store has of it.
    pub fn compare(
        day: Day,
        records: &Measures,
        rows: &HashMap<RowKey, Measures>,
    ) -> Option<Finding> {
        let mut sums = Measures::default();
        rows.values().for_each(|row| sums.add(row));
        (sums != *records).then_some(Finding::Day { day, of_records: *records, of_sums: sums })
    }
}

fn start_of(mac: Mac) -> [u8; 8] {
    *mac.bytes().first_chunk().unwrap_or(&[0; 8])
}

#[cfg(test)]
mod tests;
