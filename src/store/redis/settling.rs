//! Reports of usage: applied in batches, and the sweep that charges reservations without one.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::Cmd;
use futures_util::future::{join_all, try_join_all};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{Outage, Settled, Settlement, Usage},
    limit::{
        Hold,
        counters::MOST,
        model_tag::{ExpiredTokens, ModelTag},
        reservation::{Reservation, ReservationId},
        usage_report::{RequestEnding, UsageReport},
    },
    time::Timestamp,
};

use super::{
    Redis,
    admit_call::push_hold,
    keys::Tag,
    ledger_chain::{PendingChain, UNCLAIMED},
    packed_list::{PackedList, PackedNumbers},
};
use crate::store::ReservationStatus;

/// The interval at which reservations that are due expire.
const SWEEP: Duration = Duration::from_secs(1);

/// The most reports in one call, and the most keys unless a single report has more.
const REPORTS: usize = 64;
const KEYS: usize = 1000;

/// The reservations that this process knows of.
#[derive(Debug, Default)]
pub(super) struct ReservationCounts {
    /// The number of open ones of each link.
    open: Mutex<BTreeMap<Option<usize>, u64>>,
    expired: AtomicU64,
    expired_tokens: Mutex<ExpiredTokens>,
    /// Whether this process has reserved or settled.
    used: AtomicBool,
    /// The chain whose pending records this process adds to.
    pub(super) ledger: PendingChain,
}

impl ReservationCounts {
    /// Counts the reservations that a script found expired.
    pub(super) fn count_expired(&self, count: Option<i64>) {
        self.used.store(true, Ordering::Relaxed);
        let count = count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default();
        self.expired.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts the tokens of these reservations, at the end of a reply: pairs of a tag and a number.
    pub(super) fn count_expired_tokens(&self, reply: &mut PackedNumbers<'_>) {
        while let (Some(tag), Some(tokens)) = (reply.next(), reply.next()) {
            let tag = ModelTag(u32::try_from(tag).unwrap_or_default());
            let mut sums = self.expired_tokens.lock().unwrap_or_else(PoisonError::into_inner);
            sums.add(tag, u64::try_from(tokens).unwrap_or_default());
        }
    }

    fn set_open(&self, shard: Option<usize>, open: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, open);
    }

    pub(super) fn status(&self) -> ReservationStatus {
        let used = self.used.load(Ordering::Relaxed);
        ReservationStatus {
            open: used
                .then(|| self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()),
            expired: self.expired.load(Ordering::Relaxed),
            expired_tokens: self
                .expired_tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

impl Redis {
    /// Applies reports, in batches.
    pub(super) async fn settle_all(
        &self,
        settlements: &[Settlement],
    ) -> Result<Vec<Settled>, Outage> {
        if !self.has_shards() {
            return self.settle_in(None, settlements).await;
        }
        let mut by_shard = BTreeMap::<_, (Vec<usize>, Vec<Settlement>)>::new();
        for (place, settlement) in settlements.iter().enumerate() {
            let shard = self.index_of(settlement.reservation.shard);
            let (places, settlements) = by_shard.entry(shard).or_default();
            places.push(place);
            settlements.push(settlement.clone());
        }
        let calls = by_shard.iter().map(|(shard, (_, batch))| self.settle_in(*shard, batch));
        let mut settled: Vec<(usize, Settled)> = Vec::with_capacity(settlements.len());
        for (answers, (places, _)) in try_join_all(calls).await?.into_iter().zip(by_shard.values())
        {
            settled.extend(places.iter().copied().zip(answers));
        }
        settled.sort_by_key(|(place, _)| *place);
        Ok(settled.into_iter().map(|(_, settled)| settled).collect())
    }

    /// Applies reports whose counters are in one shard.
    async fn settle_in(
        &self,
        shard: Option<usize>,
        settlements: &[Settlement],
    ) -> Result<Vec<Settled>, Outage> {
        let (mut rest, mut settled) = (settlements, Vec::with_capacity(settlements.len()));
        while !rest.is_empty() {
            let mut keys = 0;
            let fitting = rest.iter().take(REPORTS).take_while(|settlement| {
                keys += keys_of(&settlement.reservation);
                keys <= KEYS
            });
            let (batch, after) = rest.split_at(fitting.count().max(1));
            settled.extend(self.settle_batch(shard, batch).await?);
            rest = after;
        }
        Ok(settled)
    }

    async fn settle_batch(
        &self,
        shard: Option<usize>,
        batch: &[Settlement],
    ) -> Result<Vec<Settled>, Outage> {
        let link = self.link(shard);
        let keys = batch.iter().map(|one| keys_of(&one.reservation)).sum::<usize>() + 2;
        let reply: Vec<u8> = link
            .call(|mut connection| async move {
                let chain = self.reservations.ledger.get();
                let write = |cmd: &mut Cmd| write(cmd, link.tag(), batch, chain);
                self.scripts.settle.run(&mut connection, keys, write).await
            })
            .await?;
        let mut reply = PackedNumbers::new(&reply);
        self.reservations.count_expired(reply.next());
        self.reservations.set_open(shard, reply.next().and_then(number).ok_or(Outage::Refused)?);
        let settled = batch.iter().map(|settlement| {
            let (code, tokens) = (reply.next()?, reply.next().and_then(number)?);
            let settled = settled(code, tokens, number(reply.next()?));
            if has_cost(&settlement.reservation) {
                // What became of the cost is what became of the tokens: both are reported at once.
                reply.by_ref().nth(2)?;
            }
            settled
        });
        let settled = settled.collect::<Option<_>>().ok_or(Outage::Refused)?;
        self.reservations.count_expired_tokens(&mut reply);
        Ok(settled)
    }

    /// Charges reservations that are due, until none is. Reads the number of open ones.
    async fn sweep(&self) {
        join_all(self.places().map(|shard| self.sweep_in(shard))).await;
    }

    async fn sweep_in(&self, shard: Option<usize>) {
        loop {
            let expired = || self.reservations.expired.load(Ordering::Relaxed);
            let before = expired();
            // What is not charged now is charged later.
            let swept = self.settle_batch(shard, &[]).await;
            if swept.is_err() || expired() == before {
                return;
            }
        }
    }
}

/// Starts the task that charges reservations that are due, until `stop` or until the store is
/// dropped.
pub(in crate::store) fn spawn_sweep(store: Weak<Redis>, stop: CancellationToken) {
    tokio::spawn(async move {
        stop.run_until_cancelled(async {
            while let Some(store) = store.upgrade() {
                if store.reservations.used.load(Ordering::Relaxed) {
                    store.sweep().await;
                }
                drop(store);
                sleep(SWEEP).await;
            }
        })
        .await
    });
}

/// Writes the keys and the numbers of some reports, in the order that `settle.lua` describes.
fn write(cmd: &mut Cmd, tag: &Tag, batch: &[Settlement], chain: Option<u32>) {
    let mut list = PackedList::with_capacity(16 * batch.len());
    // A policy with a ledger may be in force before the first round of its writer.
    let has_facts = || batch.iter().any(|one| one.reservation.facts.is_some());
    let chain = chain.or_else(|| has_facts().then_some(UNCLAIMED));
    let mut ends = chain.map(PackedList::of_chain);
    let mut reports = 0;
    for settlement in batch {
        let Settlement { reservation, usage, .. } = settlement;
        let tokens = match *usage {
            Usage::Running(tokens) | Usage::Final(tokens) | Usage::Unreported(tokens) => tokens,
            Usage::Released => 0,
        };
        if let Some(ends) = &mut ends {
            ends.push_str(
                &reservation.facts.as_ref().map(|facts| facts.text()).unwrap_or_default(),
            );
            ends.push_str(&end_text(settlement));
        }
        write_report(cmd, tag, &mut list, settlement, Part::Tokens, tokens);
        reports += 1;
        if has_cost(reservation) {
            // The record of the request is made with its tokens.
            if let Some(ends) = &mut ends {
                ends.push_str("");
                ends.push_str("");
            }
            write_report(cmd, tag, &mut list, settlement, Part::Cost, settlement.cost());
            reports += 1;
        }
    }
    cmd.arg(tag.reservations()).arg(tag.format()).arg(reports).arg(list);
    if let Some(ends) = ends {
        cmd.arg(ends);
    }
}

/// What the record of a request states of its end. An empty text is that of a request which no server
/// got: it has a record where the script finds that it is charged. What was charged at admission is.
fn end_text(Settlement { reservation, usage, report }: &Settlement) -> String {
    let is_fixed = reservation.fixed_tokens().is_some();
    match usage {
        Usage::Released => Some(report.unwrap_or(UsageReport::NOT_SENT))
            .filter(|report| is_fixed || report.ending != RequestEnding::NotSent),
        _ => *report,
    }
    .map(|report| report.text())
    .unwrap_or_default()
}

/// What one report of the script is about: a request with a limit on cost has two reservations in
/// Redis, as the unit of one is not that of the other (`counters.lua`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Tokens,
    Cost,
}

/// Whether a request holds units of limits on cost.
fn has_cost(reservation: &Reservation) -> bool {
    reservation.holds.iter().any(Hold::is_cost)
}

/// The number of keys of the reports on a reservation.
fn keys_of(reservation: &Reservation) -> usize {
    reservation.holds.len() + if has_cost(reservation) { 4 } else { 2 }
}

/// Writes the keys and the numbers of one report, with what was used in the unit of its part.
fn write_report(
    cmd: &mut Cmd,
    tag: &Tag,
    list: &mut PackedList,
    settlement: &Settlement,
    part: Part,
    used: u64,
) {
    let Settlement { reservation, usage, .. } = settlement;
    let (slice, member) = settled_place(reservation.id, reservation.issued);
    let id = reservation.id.to_string();
    let (id, member) = match part {
        Part::Tokens => (id, member),
        // Another number of the same set.
        Part::Cost => (format!("{id}-cost"), member ^ 1),
    };
    cmd.arg(tag.reservation(&id)).arg(tag.settled(&slice));
    let is_part = |hold: &&Hold| hold.is_cost() == (part == Part::Cost);
    let holds = || reservation.holds.iter().filter(is_part);
    list.push_count(holds().count());
    let usage = match usage {
        Usage::Running(_) => 1,
        Usage::Final(_) if settlement.is_counted() => 2,
        Usage::Unreported(_) => 3,
        Usage::Released => 4,
        Usage::Final(_) => 5,
    };
    let times = [reservation.issued.micros(), reservation.life.micros()];
    for number in [member, times[0], times[1], usage, used.min(MOST)] {
        list.push(number);
    }
    for hold in holds() {
        cmd.arg(tag.bucket(&hold.key()));
        push_hold(list, hold);
    }
}

/// Returns the set in which a settled reservation is remembered, and its number there. Redis stores
/// up to 512 whole numbers of a set in 8 bytes each, so that each hour has 16384 sets. Two
/// reservations of a set have the same number with a probability of 2^-52: neither has a bit of the tag of a model.
#[expect(clippy::cast_possible_truncation, reason = "a number of 52 bits")]
fn settled_place(ReservationId(id): ReservationId, issued: Timestamp) -> (String, u64) {
    let number = u128::from_be_bytes(id);
    let (slice, member) = (number >> 114, number & ((1 << 52) - 1));
    (format!("{}:{slice:04x}", issued.secs() / 3600), member as u64)
}

fn number(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

fn settled(code: i64, tokens: u64, replaced: Option<u64>) -> Option<Settled> {
    Some(match code {
        1 => replaced.map_or(Settled::Renewed, Settled::Reopened),
        2 => Settled::Charged(tokens),
        3 => Settled::Late { tokens, replaced },
        4 => Settled::Repeated,
        5 => Settled::Forgotten,
        _ => return None,
    })
}
