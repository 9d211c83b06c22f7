//! What is due from time to time: pending records of processes that have gone, trimming, and the
//! numbers for metrics.

use tollgate_core::{
    admission::Outage,
    ledger::{
        entry::{Content, Entry},
        keys::LedgerKeys,
        rows::Additions,
        writer::{Batch, ChainTail},
    },
    time::{Span, Timestamp},
};

use super::{
    LedgerInForce,
    writer::{OwnChain, Writer, anchors_of},
};
use crate::{
    observe::ledger::LedgerStatus,
    store::{Append, Appended, ChainState, LEDGER_STALE, Ownership, Redis},
};

/// The entries that are read at once, and the most pages in one round.
const PAGE: usize = 500;
const PAGES: usize = 40;

/// The share of `max_records` that is left where a chain has more, in percent.
const LEFT_PERCENT: u64 = 90;

/// The chain whose pending records belong to no process yet.
const UNCLAIMED: u32 = 0;

/// Reads what all chains have. Without keys nothing counts as exported.
pub(super) async fn status(
    redis: &Redis,
    keys: Option<&LedgerKeys>,
) -> Result<LedgerStatus, Outage> {
    let mut status = LedgerStatus { pending: redis.unclaimed().await?, ..LedgerStatus::default() };
    for state in &redis.chains().await? {
        status.entries += state.entries;
        status.pending += state.pending;
        let last = state.end.map_or(0, |(number, _)| number);
        let exported = match keys {
            Some(keys) => redis.exported(state, keys).await?,
            None => 0,
        };
        // A chain has no more than its entries, whatever its end is noted as.
        status.unexported += last.saturating_sub(exported).min(state.entries);
    }
    Ok(status)
}

/// Adopts pending records, and trims chains.
pub(super) async fn run(
    writer: &Writer,
    ledger: &LedgerInForce,
    keys: &LedgerKeys,
    own: &mut OwnChain,
    now: Timestamp,
) -> Result<(), Outage> {
    writer.note_unreadable(writer.redis.adopt_pending(UNCLAIMED, own.tail.chain).await?);
    let chains = writer.redis.chains().await?;
    for state in &chains {
        if state.chain == own.tail.chain {
            let mut tail = own.tail.clone();
            trim(writer, ledger, keys, (state, &chains), &mut tail, Ownership::Own, now).await?;
            own.tail = tail;
            continue;
        }
        let stale = Span::from_micros(u64::try_from(LEDGER_STALE.as_micros()).unwrap_or(u64::MAX));
        if state.seen.micros().saturating_add(stale.micros()) > now.micros() {
            continue;
        }
        if state.pending > 0 {
            // Another process may adopt the same ones, or theirs may be back: the call decides.
            let unreadable = writer.redis.adopt_pending(state.chain, own.tail.chain).await?;
            writer.note_unreadable(unreadable);
        }
        let mut tail = None;
        if is_trim_due(writer, ledger, state, now).await? {
            tail = Some(writer.tail_of(state.chain, keys).await?);
        }
        if let Some(mut tail) = tail {
            trim(writer, ledger, keys, (state, &chains), &mut tail, Ownership::Free, now).await?;
        }
    }
    Ok(())
}

/// Whether the oldest entry of a chain is old enough, or the chain too long.
async fn is_trim_due(
    writer: &Writer,
    ledger: &LedgerInForce,
    state: &ChainState,
    now: Timestamp,
) -> Result<bool, Outage> {
    if state.entries > ledger.config.max_records {
        return Ok(true);
    }
    if state.entries < 2 {
        return Ok(false);
    }
    let first = writer.redis.entries(state.chain, 0, 1).await?;
    let first = first.first().and_then(|(_, signed)| Entry::read(&signed.text));
    Ok(first.is_some_and(|first| is_old(first.time.0, ledger.config.retention, now)))
}

fn is_old(at: Timestamp, retention: Span, now: Timestamp) -> bool {
    at.micros().saturating_add(retention.micros()) <= now.micros()
}

/// Where a chain may be trimmed: at a checkpoint, which stays.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    /// The number of the checkpoint.
    kept_from: u64,
    /// The records before it that were not exported.
    unexported: u64,
}

/// Removes what was exported and is old enough, and, of a chain that is too long, what was not.
async fn trim(
    writer: &Writer,
    ledger: &LedgerInForce,
    keys: &LedgerKeys,
    (state, chains): (&ChainState, &[ChainState]),
    tail: &mut ChainTail,
    ownership: Ownership,
    now: Timestamp,
) -> Result<(), Outage> {
    if !is_trim_due(writer, ledger, state, now).await? {
        return Ok(());
    }
    let exported = writer.redis.exported(state, keys).await?;
    let Some(cut) = find_cut(writer, ledger, (state, exported), now).await? else {
        return Ok(());
    };
    let (closed, closed_mark) = writer.closed().await?;
    let (key, before) = (keys.first(), tail.clone());
    let mut batch = Batch::after(before.clone(), key, &ledger.calendar, &writer.replica, closed)
        .naming(closed_mark);
    batch.trim(cut.kept_from, cut.unexported, now, anchors_of(chains, state.chain));
    let append = Append {
        owner: &writer.owner,
        ownership,
        chain: state.chain,
        last: before.number,
        closed,
        time_zone: &ledger.config.time_zone,
        entries: &batch.entries,
        pending: &[],
        additions: &Additions::new(),
        max_rows: ledger.config.max_rows,
        kept_from: cut.kept_from,
    };
    let Appended::Done { last } = writer.redis.append(append).await? else {
        // Another process was faster.
        return Ok(());
    };
    writer.note_gap(&before, last);
    *tail = batch.into_tail();
    writer.metrics.ledger().trimmed(cut.kept_from.saturating_sub(before.kept_from), cut.unexported);
    if cut.unexported > 0 {
        tracing::error!(
            chain = state.chain,
            records = cut.unexported,
            "records of the ledger were removed before they were exported, because the chain has more \
             than `ledger.max_records`; their sums stay. Run `tollgate usage export`"
        );
    }
    Ok(())
}

/// Finds the last checkpoint that a chain may be trimmed to. `exported` is the number up to which it was
/// exported.
async fn find_cut(
    writer: &Writer,
    ledger: &LedgerInForce,
    (state, exported): (&ChainState, u64),
    now: Timestamp,
) -> Result<Option<Cut>, Outage> {
    let left = ledger.config.max_records / 100 * LEFT_PERCENT;
    let surplus = state.entries.saturating_sub(left);
    let is_too_long = state.entries > ledger.config.max_records;
    let (mut from, mut read, mut unexported) = (0, 0, 0);
    let mut cut = None;
    for _ in 0..PAGES {
        let page = writer.redis.entries(state.chain, from, PAGE).await?;
        for (number, signed) in &page {
            from = number.saturating_add(1);
            let entry = Entry::read(&signed.text);
            let time = entry.as_ref().map(|entry| entry.time.0);
            if let Some(Content::Checkpoint(_)) = entry.map(|entry| entry.content) {
                let is_free = *number <= exported.saturating_add(1)
                    && time.is_some_and(|time| is_old(time, ledger.config.retention, now));
                let is_forced = is_too_long && read <= surplus;
                if read > 0 && (is_free || is_forced) {
                    cut = Some(Cut { kept_from: *number, unexported });
                } else if read > 0 {
                    return Ok(cut);
                }
            } else if *number > exported {
                unexported += 1;
            }
            read += 1;
        }
        if page.len() < PAGE {
            break;
        }
    }
    Ok(cut)
}
