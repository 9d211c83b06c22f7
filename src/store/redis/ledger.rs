//! The ledger in Redis: chains, pending records, keys of persons, and sums.
//!
//! docs/operations.md describes the keys. The texts of entries are those of
//! [`tollgate_core::ledger`]; Redis has no key that signs them.

mod append;
mod reading;

use std::time::Duration;

use ::redis::Cmd;
use tollgate_core::{
    admission::Outage,
    ledger::{
        calendar::Month,
        export_mark::ExportMark,
        person::{KnownPerson, PersonKey},
    },
    time::Timestamp,
};

pub use self::{
    append::{Append, Appended, Ownership},
    reading::{ChainState, PendingEntry},
};
use super::{
    Redis,
    keys::{
        FORMAT_KEY, LEDGER_CLOSED, LEDGER_EXPORTED, LEDGER_MONTHS, LEDGER_NAMES, LEDGER_OWNERS,
        LEDGER_PERSONS, LEDGER_TIME_ZONE, LEDGER_UNREADABLE, Ledger,
    },
};

/// The time after which the chain of a process that was not seen is free.
pub const STALE: Duration = Duration::from_secs(60);

/// The most pending records that are moved at once.
const ADOPTED: usize = 200;

/// The most fields and values of a pending record. Those that a settlement adds have ten.
const PENDING_PARTS: usize = 64;

/// How many pending records that cannot be read are kept.
const SET_ASIDE: usize = 1000;

/// The most chains of a ledger: processes that write at a time, and chains that nothing can be added to.
const MOST_CHAINS: u32 = 1024;

/// What became of the claim to a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainClaim {
    /// The process has the chain with this number.
    Claimed(u32),
    /// Every chain is written by another process, or cannot be written.
    NoneFree,
    /// The days of the ledger are those of this time zone, and not of that of the process.
    OtherTimeZone(String),
}

/// What became of a month that was to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonthClosing {
    /// It is closed now, with the text.
    Closed,
    /// Another month was closed meanwhile, or this one already has a text.
    Other,
    /// It has not ended, by the clock of Redis.
    NotEnded,
}

/// Writes the time after which a chain is free.
fn stale(cmd: &mut Cmd) {
    cmd.arg(STALE.as_millis().to_string());
}

impl Redis {
    /// Keeps a ledger from now on: what settles and expires here has a pending record of a chain.
    /// `None` keeps none.
    pub fn keep_ledger(&self, chain: Option<u32>) {
        self.reservations.ledger.set(chain);
    }

    /// Claims a chain for a process: the one that it has, or one that no process has, and none of
    /// `spent`. The first process of a ledger notes its time zone.
    ///
    /// # Errors
    /// Redis does not answer. To claim again does no harm.
    pub async fn claim_chain(
        &self,
        owner: &str,
        time_zone: &str,
        spent: &[u32],
    ) -> Result<ChainClaim, Outage> {
        let (chain, zone): (u32, String) = self
            .call(move |mut connection| async move {
                let claim = |cmd: &mut Cmd| {
                    cmd.arg(LEDGER_OWNERS).arg(LEDGER_TIME_ZONE).arg(FORMAT_KEY).arg(owner);
                    stale(cmd);
                    cmd.arg(time_zone).arg(MOST_CHAINS).arg(spent);
                };
                self.scripts.ledger_claim.run(&mut connection, 3, claim).await
            })
            .await?;
        Ok(match chain {
            _ if zone != time_zone => ChainClaim::OtherTimeZone(zone),
            0 => ChainClaim::NoneFree,
            chain => ChainClaim::Claimed(chain),
        })
    }

    /// Moves pending records of a chain whose process has gone to those of another chain. Returns how
    /// many were none, and were set aside.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn adopt_pending(&self, from: u32, to: u32) -> Result<usize, Outage> {
        let answer: Vec<String> = self
            .call(move |mut connection| async move {
                let adopt = move |cmd: &mut Cmd| {
                    cmd.arg(LEDGER_OWNERS).arg(Ledger::pending(from)).arg(Ledger::pending(to));
                    cmd.arg(FORMAT_KEY).arg(from);
                    stale(cmd);
                    cmd.arg(ADOPTED).arg(PENDING_PARTS);
                };
                self.scripts.ledger_adopt.run(&mut connection, 4, adopt).await
            })
            .await?;
        let ids: Vec<&str> = answer.iter().skip(1).map(String::as_str).collect();
        self.set_aside(from, &ids).await
    }

    /// Removes pending records of a chain that cannot be read, and keeps the latest of them beside
    /// it. Returns how many there were.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn set_aside(&self, chain: u32, ids: &[&str]) -> Result<usize, Outage> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.call(move |mut connection| async move {
            let fill = |cmd: &mut Cmd| {
                cmd.arg(Ledger::pending(chain)).arg(LEDGER_UNREADABLE).arg(FORMAT_KEY);
                cmd.arg(SET_ASIDE).arg(ids);
            };
            self.scripts.ledger_set_aside.run(&mut connection, 3, fill).await
        })
        .await
    }

    /// Returns the names that the records of persons have, and the random parts of their keys, by the
    /// names that the key of the ledger gives them. `propose` makes those of persons that have none.
    ///
    /// # Errors
    /// Redis does not answer, or a part is malformed.
    pub async fn persons(
        &self,
        names: &[&str],
        propose: impl Fn() -> KnownPerson,
    ) -> Result<Vec<KnownPerson>, Outage> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let proposed: Vec<(&str, KnownPerson)> =
            names.iter().map(|name| (*name, propose())).collect();
        let persons: Vec<(String, Vec<u8>)> = self
            .call(|mut connection| async move {
                let write = |cmd: &mut Cmd| {
                    cmd.arg(LEDGER_NAMES).arg(LEDGER_PERSONS).arg(FORMAT_KEY);
                    for (by_key, KnownPerson { name, part }) in &proposed {
                        cmd.arg(*by_key).arg(name).arg(&part.0[..]);
                    }
                };
                self.scripts.ledger_persons.run(&mut connection, 3, write).await
            })
            .await?;
        let known = |(name, part): (String, Vec<u8>)| {
            Some(KnownPerson { name, part: PersonKey::read(&part)? })
        };
        persons.into_iter().map(known).collect::<Option<_>>().ok_or(Outage::Refused)
    }

    /// Erases a person by the names that the keys of the ledger give it: what records have of it cannot
    /// be read any more, and later records have another name. Returns how many random parts it had.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn erase_persons(&self, names: &[String]) -> Result<u64, Outage> {
        self.call(move |mut connection| async move {
            let fill = |cmd: &mut Cmd| {
                cmd.arg(LEDGER_NAMES).arg(LEDGER_PERSONS).arg(FORMAT_KEY).arg(names);
            };
            self.scripts.ledger_erase.run(&mut connection, 3, fill).await
        })
        .await
    }

    /// Notes that a chain was exported up to an entry. An earlier mark that is higher stays, unless it
    /// is `unsigned`: one that no export has made. Returns whether the chain has this entry, or has
    /// removed it.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn confirm_export(
        &self,
        chain: u32,
        mark: &ExportMark,
        unsigned: Option<&str>,
    ) -> Result<bool, Outage> {
        let marked: i64 = self
            .call(|mut connection| async move {
                let fill = |cmd: &mut Cmd| {
                    cmd.arg(LEDGER_EXPORTED).arg(Ledger::chain(chain)).arg(FORMAT_KEY);
                    cmd.arg("export").arg(chain).arg(mark.number).arg(mark.mac.to_string());
                    cmd.arg(mark.text()).arg(unsigned.unwrap_or_default());
                };
                self.scripts.ledger_mark.run(&mut connection, 3, fill).await
            })
            .await?;
        Ok(marked == 1)
    }

    /// Closes a month after the one that was closed last, with a text about it. `ends` is its end.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn close_month(
        &self,
        before: Option<Month>,
        (month, ends): (Month, Timestamp),
        text: &str,
    ) -> Result<MonthClosing, Outage> {
        let closed: i64 = self
            .call(|mut connection| async move {
                let fill = |cmd: &mut Cmd| {
                    let before = before.map(|month| month.to_string()).unwrap_or_default();
                    cmd.arg(LEDGER_MONTHS).arg(LEDGER_CLOSED).arg(FORMAT_KEY);
                    cmd.arg("month")
                        .arg(before)
                        .arg(month.to_string())
                        .arg(ends.micros())
                        .arg(text);
                };
                self.scripts.ledger_mark.run(&mut connection, 3, fill).await
            })
            .await?;
        Ok(match closed {
            1 => MonthClosing::Closed,
            -1 => MonthClosing::NotEnded,
            _ => MonthClosing::Other,
        })
    }
}
