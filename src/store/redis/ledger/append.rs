//! Appending to a chain: entries, what they take from the pending records, and what they add to sums.

use std::time::Duration;

use ::redis::Cmd;
use tollgate_core::{
    admission::Outage,
    ledger::{
        calendar::Month,
        entry::SignedEntry,
        rows::{Additions, LETTERS, Period},
    },
};

use super::stale;
use crate::store::redis::{
    Redis,
    keys::{FORMAT_KEY, LEDGER_CLOSED, LEDGER_ENDS, LEDGER_OWNERS, LEDGER_TIME_ZONE, Ledger},
    packed_list::PackedList,
};

/// How long the sums of an hour and of a day are kept after the last change.
const HOURS: Duration = Duration::from_secs(40 * 24 * 3600);
const DAYS: Duration = Duration::from_secs(800 * 24 * 3600);

/// What a process has to do with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The process has claimed it.
    Own,
    /// The process that had it has gone.
    Free,
    /// The process gives it up.
    Release,
}

/// What is appended to a chain.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The process that appends.
    pub owner: &'a str,
    /// What it has to do with the chain.
    pub ownership: Ownership,
    /// The number of the chain.
    pub chain: u32,
    /// The number of the last entry, as the process knows it.
    pub last: u64,
    /// The last month that is closed, as the process knows it.
    pub closed: Option<Month>,
    /// The time zone of the process.
    pub time_zone: &'a str,
    /// The entries, which follow the last one.
    pub entries: &'a [SignedEntry],
    /// The ids of the pending records that they are of, in their order.
    pub pending: &'a [String],
    /// What they add to sums.
    pub additions: &'a Additions,
    /// The most rows of an hour or a day.
    pub max_rows: u32,
    /// The number of the first entry that the chain keeps from now on; 0 leaves it.
    pub kept_from: u64,
}

/// What became of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Everything was written, after the entry with this number.
    Done {
        /// The number of the last entry before. It is lower than the process knew it where Redis has
        /// lost entries.
        last: u64,
    },
    /// Another process has the chain.
    NotOwner,
    /// The chain has entries that the process does not know.
    Ahead,
    /// Another process has taken some of the pending records.
    NotPending,
    /// Another month was closed.
    Closed,
    /// The days of the ledger are those of another time zone.
    OtherTimeZone,
    /// The chain takes no entry with the next number: someone else has added, and perhaps removed, one
    /// with a higher number.
    Spent,
}

impl Redis {
    /// Appends to a chain: everything, or nothing.
    ///
    /// # Errors
    /// Redis does not answer. Whether it was written is known from the end of the chain.
    pub async fn append(&self, append: Append<'_>) -> Result<Appended, Outage> {
        let mut periods: Vec<Period> = append.additions.keys().map(|(period, _)| *period).collect();
        periods.dedup();
        let keys = 7 + periods.len();
        let reply: Vec<String> = self
            .call(|mut connection| async move {
                let fill = |cmd: &mut Cmd| write(cmd, &append, &periods);
                self.scripts.ledger_append.run(&mut connection, keys, fill).await
            })
            .await?;
        let mut reply = reply.into_iter();
        let (word, rest) = (reply.next().unwrap_or_default(), reply.next().unwrap_or_default());
        Ok(match word.as_str() {
            "ok" => Appended::Done { last: rest.parse().map_err(|_| Outage::Refused)? },
            "owner" => Appended::NotOwner,
            "ahead" => Appended::Ahead,
            "pending" => Appended::NotPending,
            "closed" => Appended::Closed,
            "zone" => Appended::OtherTimeZone,
            "spent" => Appended::Spent,
            _ => return Err(Outage::Refused),
        })
    }
}

fn write(cmd: &mut Cmd, append: &Append<'_>, periods: &[Period]) {
    let Append { chain, entries, pending, additions, .. } = append;
    cmd.arg(LEDGER_OWNERS).arg(Ledger::chain(*chain)).arg(Ledger::pending(*chain));
    cmd.arg(LEDGER_ENDS).arg(LEDGER_CLOSED).arg(LEDGER_TIME_ZONE);
    for period in periods {
        cmd.arg(Ledger::sums(*period));
    }
    cmd.arg(FORMAT_KEY).arg(append.owner).arg(*chain);
    cmd.arg(match append.ownership {
        Ownership::Own => "own",
        Ownership::Free => "free",
        Ownership::Release => "release",
    });
    stale(cmd);
    cmd.arg(append.last);
    cmd.arg(append.closed.map(|month| month.to_string()).unwrap_or_default());
    cmd.arg(append.kept_from).arg(append.time_zone);
    let mut list = PackedList::default();
    for SignedEntry { text, mac } in *entries {
        list.push_str(text);
        list.push_str(&mac.to_string());
    }
    cmd.arg(list);
    let mut list = PackedList::default();
    pending.iter().for_each(|id| list.push_str(id));
    cmd.arg(list);
    let mut list = PackedList::default();
    for period in periods {
        let life = match period {
            Period::Hour(_) => HOURS,
            Period::Day(_) => DAYS,
        };
        list.push(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
    }
    cmd.arg(list);
    let mut list = PackedList::default();
    for ((period, row), measures) in *additions {
        let place = periods.iter().position(|known| known == period).unwrap_or_default();
        list.push_count(place + 1);
        list.push(u64::from(append.max_rows));
        list.push_str(&row.text());
        // The first one is there in each row.
        let numbers = LETTERS.into_iter().zip(measures.all()).enumerate();
        for (_, (letter, number)) in
            numbers.filter(|(place, (_, number))| *place == 0 || *number != 0)
        {
            list.push_str(letter.encode_utf8(&mut [0; 4]));
            list.push_str(&number.to_string());
        }
        list.push_str("");
    }
    cmd.arg(list);
}
