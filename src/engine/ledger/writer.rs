//! The writer of a chain.

use std::sync::Arc;

use tollgate_core::{
    admission::Outage,
    ledger::{
        calendar::Month,
        entry::{Anchor, ClosedMark},
        keys::LedgerKeys,
        person::{KnownPerson, Person},
        rows::Additions,
        writer::{Batch, ChainTail, LAST_NUMBER, PendingRecord},
    },
    time::{Span, Timestamp},
};

use super::{LedgerError, LedgerInForce, LedgerSlot, maintenance};
use crate::{
    observe::metrics::Metrics,
    store::{Append, Appended, ChainClaim, ChainState, Ownership, PendingEntry, Redis},
};

/// The most records in one call.
const BATCH: usize = 128;

/// The time after which a process without records shows that it is there.
const SEEN: Span = Span::from_secs(15);

/// The time between two rounds of maintenance.
const MAINTENANCE: Span = Span::from_secs(30);

/// The time after which a checkpoint follows the last record.
const CHECKPOINT: Span = Span::from_secs(600);

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// There may be more pending records now.
    More,
    /// There is nothing to do now.
    Idle,
}

/// Writes the chain of this process: numbers, chains and signs its pending records.
pub struct Writer {
    pub(super) redis: Arc<Redis>,
    slot: LedgerSlot,
    pub(super) metrics: Arc<Metrics>,
    pub(super) replica: String,
    /// The name of this process among those that write chains.
    pub(super) owner: String,
    chain: Option<OwnChain>,
    /// Chains that this process cannot write.
    spent: Vec<u32>,
    maintained: Option<Timestamp>,
    counted: Option<Timestamp>,
}

/// The chain that this process writes.
#[derive(Clone, Debug)]
pub(super) struct OwnChain {
    pub(super) tail: ChainTail,
    pub(super) closed: Option<Month>,
    /// The mark of this month, which checkpoints name.
    pub(super) closed_mark: Option<ClosedMark>,
    /// The time zone with which it was claimed.
    time_zone: String,
    /// Whether the last call had no answer: the end of the chain is read again.
    is_uncertain: bool,
    seen: Timestamp,
    checkpointed: Timestamp,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Whether a time has passed since a moment, or the clock was set back behind it.
fn has_passed(time: Span, since: Timestamp, now: Timestamp) -> bool {
    now.micros().checked_sub(since.micros()).is_none_or(|passed| passed >= time.micros())
}

impl Writer {
    /// A writer without a chain.
    pub fn new(
        redis: Arc<Redis>,
        slot: LedgerSlot,
        metrics: Arc<Metrics>,
        replica: String,
    ) -> Self {
        let owner = format!("{:032x}", rand::random::<u128>());
        let (chain, spent, maintained, counted) = (None, Vec::new(), None, None);
        Self { redis, slot, metrics, replica, owner, chain, spent, maintained, counted }
    }

    /// Returns the cause of a failed round, in words for the operator.
    pub(super) fn cause(&self, error: &LedgerError) -> String {
        match error {
            LedgerError::Store(outage) => self.redis.cause(*outage),
            other => other.to_string(),
        }
    }

    /// Makes the records of some pending records, and what else is due.
    ///
    /// # Errors
    /// The store does not answer, or has a ledger of another time zone. The next round continues.
    pub async fn round(&mut self, now: Timestamp) -> Result<Round, LedgerError> {
        let ledger = self.slot.load_full();
        self.metrics.ledger().keep(ledger.is_some());
        let Some(ledger) = ledger else {
            self.redis.keep_ledger(None);
            self.chain = None;
            return Ok(Round::Idle);
        };
        let Some(keys) = &ledger.keys else {
            // What settles meanwhile is pending.
            self.redis.keep_ledger(Some(self.chain.as_ref().map_or(0, |own| own.tail.chain)));
            self.count(None, now).await;
            return Ok(Round::Idle);
        };
        let round = self.round_of(&ledger, keys, now).await;
        if round.is_err() {
            self.metrics.ledger().failed();
        }
        // Also where the ledger cannot be written: this is when its numbers matter.
        self.count(Some(keys), now).await;
        round
    }

    async fn round_of(
        &mut self,
        ledger: &LedgerInForce,
        keys: &LedgerKeys,
        now: Timestamp,
    ) -> Result<Round, LedgerError> {
        let is_of_zone = |own: &OwnChain| own.time_zone == ledger.config.time_zone;
        let mut own = match self.chain.take().filter(is_of_zone) {
            Some(own) if own.is_uncertain => self.read_again(own, keys).await?,
            Some(own) => own,
            None => {
                let Some(own) = self.take_over(ledger, keys, now).await? else {
                    return Ok(Round::More);
                };
                own
            }
        };
        match self.write(ledger, keys, &mut own, now).await {
            Ok(Some(round)) => {
                let maintained = self.maintain(ledger, keys, &mut own, now).await;
                // It may have appended to this chain.
                own.is_uncertain = maintained.is_err();
                self.chain = Some(own);
                maintained?;
                Ok(round)
            }
            Ok(None) => Ok(Round::More),
            Err(outage) => {
                own.is_uncertain = true;
                self.chain = Some(own);
                Err(outage.into())
            }
        }
    }

    /// Reads the numbers of all chains for metrics, from time to time.
    async fn count(&mut self, keys: Option<&LedgerKeys>, now: Timestamp) {
        if self.counted.is_some_and(|at| !has_passed(MAINTENANCE, at, now)) {
            return;
        }
        self.counted = Some(now);
        let status = maintenance::status(&self.redis, keys).await;
        self.metrics.ledger().set_status(status.ok());
    }

    /// Sets pending records aside that cannot be read. Returns the others.
    async fn readable(
        &self,
        chain: u32,
        pending: Vec<PendingEntry>,
    ) -> Result<Vec<(String, PendingRecord)>, Outage> {
        let (mut records, mut unreadable) = (Vec::with_capacity(pending.len()), Vec::new());
        for PendingEntry { id, record } in pending {
            match record {
                Some(record) => records.push((id, record)),
                None => unreadable.push(id),
            }
        }
        let ids: Vec<&str> = unreadable.iter().map(String::as_str).collect();
        self.note_unreadable(self.redis.set_aside(chain, &ids).await?);
        Ok(records)
    }

    /// Counts and logs pending records that cannot be read.
    pub(super) fn note_unreadable(&self, records: usize) {
        if records > 0 {
            self.metrics.ledger().unreadable(records);
            tracing::error!(
                records,
                "pending records of the ledger cannot be read: another program wrote them; they are set \
                 aside in `{{tollgate}}:ledger:unreadable`"
            );
        }
    }

    /// Gives up a chain that nothing can be added to. Its pending records are adopted a minute later.
    fn give_up(&mut self, chain: u32) {
        self.spent.push(chain);
        self.maintained = None;
        tracing::error!(
            chain,
            "the chain of the ledger takes no more entries: another program has added one with a very \
             high number; another chain is claimed. Run `tollgate usage verify`"
        );
    }

    /// Writes what is pending. `None`: another process has the chain.
    async fn write(
        &mut self,
        ledger: &LedgerInForce,
        keys: &LedgerKeys,
        own: &mut OwnChain,
        now: Timestamp,
    ) -> Result<Option<Round>, Outage> {
        let pending = self.redis.pending(own.tail.chain, BATCH).await?;
        let is_full = pending.len() == BATCH;
        let pending = self.readable(own.tail.chain, pending).await?;
        let is_checkpoint_due =
            own.tail.number > own.tail.checkpoint && has_passed(CHECKPOINT, own.checkpointed, now);
        if pending.is_empty() && !is_checkpoint_due && !has_passed(SEEN, own.seen, now) {
            return Ok(Some(Round::Idle));
        }
        let persons: Vec<Option<String>> = pending
            .iter()
            .map(|(_, record)| Some(Person::of(&record.facts)?.name(keys.first())))
            .collect();
        let names: Vec<&str> = persons.iter().flatten().map(String::as_str).collect();
        let propose = || KnownPerson::of(rand::random(), rand::random());
        let mut known = self.redis.persons(&names, propose).await?.into_iter();
        let (key, tail) = (keys.first(), own.tail.clone());
        let mut batch = Batch::after(tail, key, &ledger.calendar, &self.replica, own.closed)
            .naming(own.closed_mark)
            .of_rows(ledger.config.max_rows);
        for ((_, record), person) in pending.iter().zip(&persons) {
            let person = person.as_ref().and_then(|_| known.next());
            batch.add(record, person.as_ref(), rand::random());
        }
        if is_checkpoint_due {
            batch.checkpoint(now, self.anchors(own.tail.chain).await?);
        }
        let ids: Vec<String> = pending.iter().map(|(id, _)| id.clone()).collect();
        let append = Append {
            owner: &self.owner,
            ownership: Ownership::Own,
            chain: own.tail.chain,
            last: own.tail.number,
            closed: own.closed,
            time_zone: &ledger.config.time_zone,
            entries: &batch.entries,
            pending: &ids,
            additions: &batch.additions,
            max_rows: ledger.config.max_rows,
            kept_from: 0,
        };
        match self.redis.append(append).await? {
            Appended::Done { last } => {
                self.note_gap(&own.tail, last);
                self.metrics.ledger().recorded(pending.len());
                self.count_expired_costs(&pending);
                own.seen = now;
                let tail = batch.into_tail();
                if tail.checkpoint > own.tail.checkpoint {
                    own.checkpointed = now;
                }
                own.tail = tail;
                Ok(Some(if is_full { Round::More } else { Round::Idle }))
            }
            Appended::Closed => {
                (own.closed, own.closed_mark) = self.closed().await?;
                Ok(Some(Round::More))
            }
            Appended::NotPending => Ok(Some(Round::More)),
            // The chain is claimed again, which ends with an error that names it.
            Appended::OtherTimeZone => Ok(None),
            Appended::NotOwner | Appended::Ahead => {
                tracing::warn!(
                    chain = own.tail.chain,
                    "another process has written the chain of the ledger; its end is read again, or \
                     another chain is claimed"
                );
                Ok(None)
            }
            Appended::Spent => {
                self.give_up(own.tail.chain);
                Ok(None)
            }
        }
    }

    /// Counts the costs of requests of which no end was reported.
    fn count_expired_costs(&self, records: &[(String, PendingRecord)]) {
        let records = records.iter().map(|(_, record)| record);
        let expired = records.filter(|it| it.report.is_none());
        for PendingRecord { facts, tokens, .. } in expired {
            if let Some(terms) = facts.cost {
                let cost = terms.of_report(None, *tokens);
                self.metrics.count_expired_cost(facts.model.as_deref(), cost);
            }
        }
    }

    /// Counts and logs entries that this process has written, and that Redis does not have.
    pub(super) fn note_gap(&self, tail: &ChainTail, last: u64) {
        let lost = tail.number.saturating_sub(last);
        if lost > 0 {
            self.metrics.ledger().lost(lost);
            tracing::error!(
                chain = tail.chain,
                entries = lost,
                "the store has lost the last entries of the ledger, by a failover or otherwise; the \
                 chain goes on behind the gap, which `tollgate usage verify` shows"
            );
        }
    }

    /// Claims a chain, and adds its first checkpoint. `None`: it was taken by another process.
    async fn take_over(
        &mut self,
        ledger: &LedgerInForce,
        keys: &LedgerKeys,
        now: Timestamp,
    ) -> Result<Option<OwnChain>, LedgerError> {
        let time_zone = ledger.config.time_zone.clone();
        let chain = match self.redis.claim_chain(&self.owner, &time_zone, &self.spent).await? {
            ChainClaim::Claimed(chain) => chain,
            ChainClaim::NoneFree => return Err(LedgerError::NoChain),
            ChainClaim::OtherTimeZone(noted) => {
                return Err(LedgerError::TimeZone { noted, configured: time_zone });
            }
        };
        let mut tail = self.tail_of(chain, keys).await?;
        let chains = self.redis.chains().await?;
        // The end that is noted beside the chain is ahead of it where entries were removed: their
        // numbers are not used again.
        let end = chains.iter().find(|state| state.chain == chain).and_then(|state| state.end);
        let last = tail.number;
        if let Some((number, mac)) = end.filter(|(number, _)| *number > tail.number) {
            (tail.number, tail.mac) = (number, mac);
            self.note_gap(&tail, last);
        }
        if tail.number >= LAST_NUMBER {
            self.give_up(chain);
            return Ok(None);
        }
        let (closed, closed_mark) = self.closed().await?;
        let (before, others) = (tail.number, anchors_of(&chains, chain));
        let key = keys.first();
        let mut batch =
            Batch::after(tail, key, &ledger.calendar, &self.replica, closed).naming(closed_mark);
        batch.take_over(now, others);
        let append = Append {
            owner: &self.owner,
            ownership: Ownership::Own,
            chain,
            last: before,
            closed,
            time_zone: &ledger.config.time_zone,
            entries: &batch.entries,
            pending: &[],
            additions: &Additions::new(),
            max_rows: ledger.config.max_rows,
            kept_from: 0,
        };
        match self.redis.append(append).await? {
            Appended::Done { .. } => {}
            Appended::Spent => {
                self.give_up(chain);
                return Ok(None);
            }
            _ => return Ok(None),
        }
        self.redis.keep_ledger(Some(chain));
        let tail = batch.into_tail();
        // What is pending in no chain is adopted in this round.
        self.maintained = None;
        tracing::info!(chain, from = tail.number, "the ledger is written");
        let (seen, checkpointed) = (now, now);
        let is_uncertain = false;
        Ok(Some(OwnChain {
            tail,
            closed,
            closed_mark,
            time_zone,
            is_uncertain,
            seen,
            checkpointed,
        }))
    }

    /// The last month that is closed, and its mark if its close has ended.
    pub(super) async fn closed(&self) -> Result<(Option<Month>, Option<ClosedMark>), Outage> {
        let month = self.redis.closed_month().await?;
        let mark = match month {
            Some(month) => self.redis.closed_mark(month).await?,
            None => None,
        };
        Ok((month, mark))
    }

    /// Reads the end of a chain, as far as its keys have signed it.
    pub(super) async fn tail_of(&self, chain: u32, keys: &LedgerKeys) -> Result<ChainTail, Outage> {
        let tail = ChainTail::of(chain, &self.redis.last_entries(chain, keys).await?, keys);
        if tail.number > 0 && tail.checkpoint == 0 {
            tracing::error!(
                chain,
                "no checkpoint at the end of the chain was signed with `ledger.keys`: its sums begin \
                 again; add the key that is missing, or run `tollgate usage verify`"
            );
        }
        Ok(tail)
    }

    /// Reads the end of the chain after a call without an answer, which may have been applied.
    async fn read_again(
        &mut self,
        mut own: OwnChain,
        keys: &LedgerKeys,
    ) -> Result<OwnChain, Outage> {
        let read = async { Ok((self.tail_of(own.tail.chain, keys).await?, self.closed().await?)) };
        match read.await {
            Ok((tail, closed)) => {
                // An end that is behind is one that Redis has lost: the next call counts it.
                if tail.number >= own.tail.number {
                    own.tail = tail;
                }
                (own.closed, own.closed_mark) = closed;
                own.is_uncertain = false;
                Ok(own)
            }
            Err(outage) => {
                self.chain = Some(own);
                Err(outage)
            }
        }
    }

    async fn maintain(
        &mut self,
        ledger: &LedgerInForce,
        keys: &LedgerKeys,
        own: &mut OwnChain,
        now: Timestamp,
    ) -> Result<(), Outage> {
        if self.maintained.is_some_and(|at| !has_passed(MAINTENANCE, at, now)) {
            return Ok(());
        }
        self.maintained = Some(now);
        if own.closed.is_some() && own.closed_mark.is_none() {
            (own.closed, own.closed_mark) = self.closed().await?;
        }
        maintenance::run(self, ledger, keys, own, now).await
    }

    /// The ends of all chains but one.
    async fn anchors(&self, but: u32) -> Result<Vec<Anchor>, Outage> {
        Ok(anchors_of(&self.redis.chains().await?, but))
    }

    /// Makes the records of all that is pending, and gives the chain up with a checkpoint.
    pub async fn close(&mut self, now: Timestamp) {
        while let Ok(Round::More) = self.round(now).await {}
        let (Some(ledger), Some(own)) = (self.slot.load_full(), self.chain.take()) else { return };
        let Some(keys) = &ledger.keys else { return };
        let Ok(others) = self.anchors(own.tail.chain).await else { return };
        let (tail, key) = (own.tail.clone(), keys.first());
        let mut batch = Batch::after(tail, key, &ledger.calendar, &self.replica, own.closed)
            .naming(own.closed_mark);
        if own.tail.number > own.tail.checkpoint {
            batch.checkpoint(now, others);
        }
        let append = Append {
            owner: &self.owner,
            ownership: Ownership::Release,
            chain: own.tail.chain,
            last: own.tail.number,
            closed: own.closed,
            time_zone: &ledger.config.time_zone,
            entries: &batch.entries,
            pending: &[],
            additions: &Additions::new(),
            max_rows: ledger.config.max_rows,
            kept_from: 0,
        };
        // A chain that is not given up is free a minute later.
        let _given_up = self.redis.append(append).await;
    }
}

/// The ends of all chains but one, those that were written last first.
pub(super) fn anchors_of(chains: &[ChainState], but: u32) -> Vec<Anchor> {
    let mut others: Vec<&ChainState> = chains.iter().filter(|state| state.chain != but).collect();
    others.sort_by_key(|state| std::cmp::Reverse(state.seen));
    let anchor = |state: &&ChainState| {
        let (number, mac) = state.end?;
        Some(Anchor { chain: state.chain, number, mac })
    };
    others.iter().filter_map(anchor).collect()
}
