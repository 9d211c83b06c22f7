//! The end of a chain, and the entries that are added to it.

use super::{
    calendar::{Calendar, Day, Month},
    entry::{Anchor, Checkpoint, ClosedMark, Content, Entry, SignedEntry, UsageRecord, VERSION},
    keys::{LedgerKey, LedgerKeys, Mac},
    person::{KnownPerson, Person},
    rows::{Additions, MAX_ROWS, Measures, Period},
};
use crate::{
    limit::{
        request_facts::RequestFacts,
        usage_report::{Basis, UsageReport},
    },
    time::{Timestamp, rfc3339::Rfc3339},
};

/// The most records between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 1000;

/// The last number of a chain, far beyond what is written. Scripts of a store count with doubles.
pub const LAST_NUMBER: u64 = 1 << 52;

/// The most other chains in a checkpoint.
const MOST_ANCHORS: usize = 64;

/// A settled request that has no record yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRecord {
    /// The facts of the request.
    pub facts: RequestFacts,
    /// What was reported of its end; `None` where it expired.
    pub report: Option<UsageReport>,
    /// The tokens that were charged.
    pub tokens: u64,
    /// The tokens of an earlier record of the request.
    pub corrects: Option<u64>,
    /// When it was settled.
    pub at: Timestamp,
}

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainTail {
    /// The number of the chain.
    pub chain: u32,
    /// The number of the last entry; 0 of a chain without entries.
    pub number: u64,
    /// The MAC of the last entry.
    pub mac: Mac,
    /// The number of processes that have written the chain.
    pub epoch: u64,
    /// The usage records of the chain.
    pub records: u64,
    /// The sums of these records.
    pub sums: Measures,
    /// The number of the last checkpoint; 0 where there is none.
    pub checkpoint: u64,
    /// The number of the first entry that the chain keeps.
    pub kept_from: u64,
    /// The records that were removed before they were exported.
    pub unexported: u64,
    /// The latest moment of an entry.
    pub latest: Timestamp,
    /// The last day that a record is booked on.
    pub booked_until: Option<Day>,
}

impl ChainTail {
    /// The end of a chain without entries.
    pub fn empty(chain: u32) -> Self {
        Self {
            chain,
            number: 0,
            mac: Mac::default(),
            epoch: 0,
            records: 0,
            sums: Measures::default(),
            checkpoint: 0,
            kept_from: 1,
            unexported: 0,
            latest: Timestamp::from_secs(0),
            booked_until: None,
        }
    }

    /// The end of a chain by its last entries, in their order: the last checkpoint and those after it.
    ///
    /// INVARIANT: an entry that no key has signed for its place counts as none. What its writer signs
    /// next would make true what it states of entries that were removed. The verification reports it.
    pub fn of(chain: u32, entries: &[(u64, SignedEntry)], keys: &LedgerKeys) -> Self {
        let mut tail = Self::empty(chain);
        for (number, signed) in entries {
            (tail.number, tail.mac) = (*number, signed.mac);
            let Some(entry) = Entry::verified((chain, *number), signed, keys) else { continue };
            tail.latest = tail.latest.max(entry.time.0);
            match entry.content {
                Content::Usage(record) => tail.count(&record),
                Content::Checkpoint(checkpoint) => {
                    tail.epoch = checkpoint.epoch;
                    (tail.records, tail.sums) = (checkpoint.records, checkpoint.sums);
                    tail.kept_from = checkpoint.kept_from;
                    tail.unexported = checkpoint.unexported;
                    tail.booked_until = tail.booked_until.max(checkpoint.booked_until);
                    tail.checkpoint = *number;
                }
            }
        }
        tail
    }

    fn count(&mut self, record: &UsageRecord) {
        self.records += 1;
        self.sums.add(&record.measures());
        self.booked_until = self.booked_until.max(Some(record.day));
    }

    /// Whether a checkpoint is due by the number of records after the last one.
    pub fn is_checkpoint_due(&self) -> bool {
        self.number >= self.checkpoint + CHECKPOINT_EVERY || self.checkpoint == 0
    }
}

/// Entries to add to a chain, and what they add to the sums.
#[derive(Debug)]
pub struct Batch<'a> {
    key: &'a LedgerKey,
    calendar: &'a Calendar,
    replica: &'a str,
    closed: Option<Month>,
    closed_mark: Option<ClosedMark>,
    max_rows: Option<u32>,
    tail: ChainTail,
    /// The entries in their order.
    pub entries: Vec<SignedEntry>,
    /// What they add.
    pub additions: Additions,
}

impl<'a> Batch<'a> {
    /// An empty batch after the end of a chain. `closed` is the last month that is closed.
    pub fn after(
        tail: ChainTail,
        key: &'a LedgerKey,
        calendar: &'a Calendar,
        replica: &'a str,
        closed: Option<Month>,
    ) -> Self {
        let (entries, additions) = (Vec::new(), Additions::new());
        let (closed_mark, max_rows) = (None, None);
        Self { key, calendar, replica, closed, closed_mark, max_rows, tail, entries, additions }
    }

    /// The batch whose records are counted in at most so many rows of an hour or a day.
    #[must_use]
    pub fn of_rows(mut self, most: u32) -> Self {
        self.max_rows = Some(most).filter(|most| *most != MAX_ROWS);
        self
    }

    /// The batch whose checkpoints name the month that was closed last: to close it again changes the mark.
    #[must_use]
    pub fn naming(mut self, closed: Option<ClosedMark>) -> Self {
        self.closed_mark = closed;
        self
    }

    /// The end of the chain with the batch.
    pub fn tail(&self) -> &ChainTail {
        &self.tail
    }

    /// Ends the batch: the end of the chain with it.
    pub fn into_tail(self) -> ChainTail {
        self.tail
    }

    /// Adds a record. `person` is what the store knows of its person; a nonce is used once.
    pub fn add(&mut self, pending: &PendingRecord, person: Option<&KnownPerson>, nonce: [u8; 12]) {
        let PendingRecord { facts, report, tokens, corrects, at } = pending;
        let report = report.unwrap_or(UsageReport::UNREPORTED);
        let (basis, tokens) = match facts.fixed {
            Some(fixed) => (Basis::Fixed, fixed),
            None => (report.with_tokens(*tokens).basis, *tokens),
        };
        // An earlier record of a fixed charge has all of it, as each of them has.
        let corrects = corrects.map(|before| facts.fixed.unwrap_or(before));
        let cost = facts.cost.map(|terms| terms.of_report(Some(&report), tokens));
        let cost_basis = facts.cost.map(|terms| terms.basis(&report.with_tokens(tokens)));
        let before = facts.cost.zip(corrects);
        let corrects_cost = before.map(|(terms, tokens)| terms.of_report(None, tokens));
        let who = Person::of(facts);
        let booking = self.calendar.book(*at, self.closed);
        let record = UsageRecord {
            decision: facts.decision_id.clone(),
            tenant: facts.tenant.clone(),
            route: facts.route.clone(),
            model: facts.model.clone(),
            person: who.as_ref().and(person).map(|person| person.name.clone()),
            sealed: who
                .zip(person)
                .and_then(|(who, person)| who.seal(self.key, person.part, nonce)),
            tokens,
            kinds: facts.cost.map_or(report.counts, |terms| terms.counts(&report)),
            ending: report.ending,
            basis,
            actual: basis.is_actual(),
            corrects,
            cost,
            cost_basis: cost_basis.filter(|of_cost| *of_cost != basis),
            corrects_cost,
            day: booking.day,
            late_for: booking.late_for,
            max_rows: self.max_rows,
        };
        let measures = record.measures();
        for period in [Period::Hour(booking.hour), Period::Day(booking.day)] {
            self.additions.entry((period, record.row())).or_default().add(&measures);
        }
        self.tail.count(&record);
        self.push(Content::Usage(record), *at);
        if self.tail.is_checkpoint_due() {
            self.checkpoint(*at, Vec::new());
        }
    }

    /// Adds a checkpoint.
    pub fn checkpoint(&mut self, at: Timestamp, mut others: Vec<Anchor>) {
        // Not before a record that it sums up: pending ones may be older than those of others.
        let at = at.max(self.tail.latest);
        others.truncate(MOST_ANCHORS);
        let ChainTail { epoch, records, sums, kept_from, unexported, booked_until, .. } = self.tail;
        let closed = self.closed_mark;
        let checkpoint = Checkpoint {
            epoch,
            records,
            sums,
            kept_from,
            unexported,
            booked_until,
            closed,
            others,
        };
        self.push(Content::Checkpoint(checkpoint), at);
        self.tail.checkpoint = self.tail.number;
    }

    /// Adds the first checkpoint of a process that takes over the chain.
    pub fn take_over(&mut self, at: Timestamp, others: Vec<Anchor>) {
        self.tail.epoch += 1;
        self.checkpoint(at, others);
    }

    /// Adds the checkpoint that states which entries are removed: those before `kept_from`, of which
    /// `unexported` were not exported.
    pub fn trim(&mut self, kept_from: u64, unexported: u64, at: Timestamp, others: Vec<Anchor>) {
        self.tail.kept_from = self.tail.kept_from.max(kept_from);
        self.tail.unexported = self.tail.unexported.saturating_add(unexported);
        self.checkpoint(at, others);
    }

    fn push(&mut self, content: Content, at: Timestamp) {
        self.tail.latest = self.tail.latest.max(at);
        let entry = Entry {
            v: VERSION,
            chain: self.tail.chain,
            number: self.tail.number + 1,
            prev: self.tail.mac,
            key: self.key.id().to_owned(),
            time: Rfc3339(at),
            replica: self.replica.to_owned(),
            content,
        };
        let signed = entry.sign(self.key);
        (self.tail.number, self.tail.mac) = (entry.number, signed.mac);
        self.entries.push(signed);
    }
}

#[cfg(test)]
pub(super) mod tests;
