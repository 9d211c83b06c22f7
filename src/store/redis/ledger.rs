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
    ledger::{calendar::Month, export_mark::ExportMark, person::PersonKey},
    time::Timestamp,
};

pub use self::{
    append::{Append, Appended, Ownership},
    reading::{ChainState, PendingEntry},
};
use super::{
    Redis,
    keys::{
        FORMAT_KEY, LEDGER_CLOSED, LEDGER_EXPORTED, LEDGER_MONTHS, LEDGER_OWNERS, LEDGER_PERSONS,
        Ledger,
    },
};

/// The time after which the chain of a process that was not seen is free.
pub const STALE: Duration = Duration::from_secs(60);

/// The most pending records that are moved at once.
const ADOPTED: usize = 200;

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

    /// Claims a chain for a process: the one that it has, or one that no process has.
    ///
    /// # Errors
    /// Redis does not answer. To claim again does no harm.
    pub async fn claim_chain(&self, owner: &str) -> Result<u32, Outage> {
        self.call(move |mut connection| async move {
            let claim = |cmd: &mut Cmd| {
                cmd.arg(LEDGER_OWNERS).arg(FORMAT_KEY).arg(owner);
                stale(cmd);
            };
            self.scripts.ledger_claim.run(&mut connection, 2, claim).await
        })
        .await
    }

    /// Moves pending records of a chain whose process has gone to those of another chain. Returns how
    /// many; `None` if the process was seen.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn adopt_pending(&self, from: u32, to: u32) -> Result<Option<usize>, Outage> {
        let moved: i64 = self
            .call(move |mut connection| async move {
                let adopt = move |cmd: &mut Cmd| {
                    cmd.arg(LEDGER_OWNERS).arg(Ledger::pending(from)).arg(Ledger::pending(to));
                    cmd.arg(FORMAT_KEY).arg(from);
                    stale(cmd);
                    cmd.arg(ADOPTED);
                };
                self.scripts.ledger_adopt.run(&mut connection, 4, adopt).await
            })
            .await?;
        Ok(usize::try_from(moved).ok())
    }

    /// Returns the random parts of the keys of persons, by their names in the ledger. `propose` makes
    /// those of persons that have none.
    ///
    /// # Errors
    /// Redis does not answer, or a part is malformed.
    pub async fn person_keys(
        &self,
        names: &[&str],
        propose: impl Fn() -> [u8; 32],
    ) -> Result<Vec<PersonKey>, Outage> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let proposed: Vec<(&str, [u8; 32])> = names.iter().map(|name| (*name, propose())).collect();
        let parts: Vec<Vec<u8>> = self
            .call(|mut connection| async move {
                let write = |cmd: &mut Cmd| {
                    cmd.arg(LEDGER_PERSONS).arg(FORMAT_KEY);
                    for (name, random) in &proposed {
                        cmd.arg(*name).arg(&random[..]);
                    }
                };
                self.scripts.ledger_persons.run(&mut connection, 2, write).await
            })
            .await?;
        let parts = parts.iter().map(|part| PersonKey::read(part));
        parts.collect::<Option<_>>().ok_or(Outage::Refused)
    }

    /// Removes the random parts of the keys of persons: what the ledger has of them cannot be read
    /// any more. Returns how many there were.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn erase_persons(&self, names: &[String]) -> Result<u64, Outage> {
        self.ledger_command(move |cmd| {
            cmd.arg("HDEL").arg(LEDGER_PERSONS);
            for name in names {
                cmd.arg(name.as_str());
            }
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
