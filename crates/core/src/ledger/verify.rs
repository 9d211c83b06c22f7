//! Verifies chains: in the store, and in exports.
//!
//! Each entry is verified by itself, by its MAC, and by its place: its chain, its number, and the MAC
//! of the entry before it. So what was changed, removed, repeated or moved is found, and the entries
//! around it are still verified.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{
    calendar::{Calendar, Day, Month},
    entry::{Anchor, Checkpoint, ClosedMark, Content, Entry, SignedEntry, UsageRecord, VERSION},
    keys::{LedgerKeys, Mac},
    rows::{Measures, RowKey},
};
use crate::{revocation::sha256, time::Timestamp};

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
    /// A record corrects one of the same request that is not there, or was corrected before.
    Corrects {
        /// The chain of the correction.
        chain: u32,
        /// The number of the correction.
        number: u64,
        /// The id of the decision.
        decision: String,
    },
    /// A record is booked on another day than its own, and no month was closed that requires it.
    Booked {
        /// The chain of the record.
        chain: u32,
        /// The number of the record.
        number: u64,
        /// The day that it is booked on.
        day: Day,
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
    /// A checkpoint was made after the month had been closed with other sums, or by another command.
    ClosedAgain {
        /// The month that was closed.
        month: Month,
    },
    /// The sums of a day, or of a row of it, are not those of its records.
    Day {
        /// The day of the sums.
        day: Day,
        /// The row that differs; `None` where the total of the day does.
        #[serde(skip_serializing_if = "Option::is_none")]
        row: Option<RowKey>,
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
    /// The sums of a closed month are others for some tenants, models or routes than those that were signed.
    MonthRows {
        /// The month that was closed.
        month: Month,
    },
    /// What is stored of a month that was closed before another one is gone, or is not what that one states.
    MonthBefore {
        /// The month that was closed.
        month: Month,
    },
    /// The exports begin behind the first entry of a chain.
    ExportBegins {
        /// The number of the chain.
        chain: u32,
        /// The number of the first entry that the exports have.
        first: u64,
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

/// The decisions that have a record, by a hash of each, and the records that correct others.
#[derive(Debug, Default)]
pub struct SeenDecisions {
    charged: HashMap<[u8; 16], Charged>,
    corrections: Vec<Correction>,
}

/// What a record states that was charged.
#[derive(Clone, Copy, Debug)]
struct Charged {
    tokens: u64,
    cost: Option<u64>,
    /// A hash of its tenant, model and route.
    row: [u8; 16],
}

impl Charged {
    /// Whether a correction is of this record.
    fn is_corrected_by(&self, corrects: &Self) -> bool {
        // A writer of an earlier version has left costs out.
        let have_one_cost = corrects.cost.zip(self.cost).is_none_or(|(cost, known)| cost == known);
        (corrects.tokens, corrects.row) == (self.tokens, self.row) && have_one_cost
    }
}

/// A record that corrects an earlier one of its request.
#[derive(Debug)]
struct Correction {
    place: (u32, u64),
    at: Timestamp,
    decision: String,
    corrects: Charged,
    charged: Charged,
}

impl SeenDecisions {
    /// Notes a record. Returns whether its request had one before that corrects none.
    fn repeats(&mut self, place: (u32, u64), at: Timestamp, record: &UsageRecord) -> bool {
        let row = hash_of(&record.row().text());
        let charged = Charged { tokens: record.tokens, cost: record.cost, row };
        match record.corrects {
            None => self.charged.insert(hash_of(&record.decision), charged).is_some(),
            Some(tokens) => {
                let corrects = Charged { tokens, cost: record.corrects_cost, row };
                let decision = record.decision.clone();
                self.corrections.push(Correction { place, at, decision, corrects, charged });
                false
            }
        }
    }

    /// Ends the verification of all chains: a finding for each record that corrects none.
    ///
    /// Each one corrects the last record of its request before it, once. The first record of a request may be
    /// among entries that were removed: `is_whole` is whether none were.
    pub fn finish(mut self, is_whole: bool) -> Vec<Finding> {
        self.corrections.sort_by_key(|correction| (correction.at, correction.place));
        let mut findings = Vec::new();
        for Correction { place: (chain, number), decision, corrects, charged, .. } in
            self.corrections
        {
            let before = self.charged.insert(hash_of(&decision), charged);
            let is_right = match before {
                Some(before) => before.is_corrected_by(&corrects),
                None => !is_whole,
            };
            if !is_right {
                findings.push(Finding::Corrects { chain, number, decision });
            }
        }
        findings
    }
}

fn hash_of(text: &str) -> [u8; 16] {
    *sha256(text.as_bytes()).first_chunk().unwrap_or(&[0; 16])
}

/// Verifies the entries of one chain, in their order.
#[derive(Debug)]
pub struct ChainVerifier<'a> {
    chain: u32,
    keys: &'a LedgerKeys,
    calendar: &'a Calendar,
    /// The number of the first entry, and the start of the MAC of each from there on; zero of one that
    /// is missing.
    first: u64,
    macs: Vec<[u8; 8]>,
    last: Option<(u64, Mac)>,
    /// The records and sums up to here; `None` before a checkpoint, and after a gap until the next one.
    sums: Option<(u64, Measures)>,
    /// The records that are booked late: the number of the first one by the month before its day, which
    /// was closed then.
    late: BTreeMap<Month, (u64, Day)>,
    /// The last month that was closed when the entries up to here were written, as far as these tell.
    closed_before: Option<Month>,
    /// The last closed months that checkpoints name.
    closed: Vec<ClosedMark>,
    kept_from: u64,
    unexported: u64,
    anchors: Vec<Anchor>,
    records: u64,
    findings: Vec<Finding>,
}

impl<'a> ChainVerifier<'a> {
    /// A chain without entries.
    pub fn new(chain: u32, keys: &'a LedgerKeys, calendar: &'a Calendar) -> Self {
        Self {
            chain,
            keys,
            calendar,
            first: 0,
            macs: Vec::new(),
            last: None,
            sums: Some((0, Measures::default())),
            late: BTreeMap::new(),
            closed_before: None,
            closed: Vec::new(),
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
                if seen.repeats((chain, number), entry.time.0, record) {
                    let decision = record.decision.clone();
                    self.findings.push(Finding::Repeated { chain, number, decision });
                }
                self.check_day(number, entry.time.0, record);
                let measures = record.measures();
                if let Some((records, sums)) = &mut self.sums {
                    *records += 1;
                    sums.add(&measures);
                }
            }
            Content::Checkpoint(checkpoint) => self.checkpoint(number, checkpoint),
        }
        Some(entry)
    }

    /// Compares the day that a record is booked on with its own.
    fn check_day(&mut self, number: u64, at: Timestamp, record: &UsageRecord) {
        let (own, day) = (self.calendar.day(at), record.day);
        let closed = day.month().previous().filter(|_| day == day.month().first_day());
        match (record.late_for, closed) {
            // From then on no record is booked in a closed month.
            (None, _) if day == own && self.closed_before < Some(day.month()) => {}
            (Some(late_for), Some(closed)) if late_for == own.month() && late_for <= closed => {
                self.late.entry(closed).or_insert((number, day));
                self.closed_before = self.closed_before.max(Some(closed));
            }
            _ => self.findings.push(Finding::Booked { chain: self.chain, number, day }),
        }
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
        let Checkpoint { records, sums, kept_from, unexported, others, closed, .. } = checkpoint;
        self.closed_before = self.closed_before.max(closed.map(|closed| closed.month));
        self.closed.extend(closed.filter(|closed| self.closed.last() != Some(closed)));
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

    /// The number of the last entry.
    pub fn last(&self) -> Option<u64> {
        self.last.map(|(number, _)| number)
    }

    /// Whether the chain has every entry from its first one on.
    pub fn is_whole(&self) -> bool {
        let has_gap = self.findings.iter().any(|it| matches!(it, Finding::Missing { .. }));
        self.first <= 1 && !has_gap
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

    /// Compares the months that were closed, as the chain knows them, with the closings that are signed:
    /// the MAC of each month.
    pub fn check_months(&mut self, signed: &BTreeMap<Month, Mac>) {
        for (closed, (number, day)) in &self.late {
            if !signed.contains_key(closed) {
                self.findings.push(Finding::Booked {
                    chain: self.chain,
                    number: *number,
                    day: *day,
                });
            }
        }
        for ClosedMark { month, mac } in &self.closed {
            if signed.get(month) != Some(mac) {
                self.findings.push(Finding::ClosedAgain { month: *month });
            }
        }
    }

    /// Ends the verification: what was found.
    pub fn finish(self) -> Vec<Finding> {
        self.findings
    }
}

fn start_of(mac: Mac) -> [u8; 8] {
    *mac.bytes().first_chunk().unwrap_or(&[0; 8])
}

#[cfg(test)]
mod tests;
