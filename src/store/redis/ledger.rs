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
    ledger::{calendar::Month, person::PersonKey},
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

    /// Notes that a chain was exported up to an entry. An earlier mark that is higher stays.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn confirm_export(&self, chain: u32, number: u64) -> Result<(), Outage> {
        let _marked: i64 = self
            .mark(LEDGER_EXPORTED, LEDGER_EXPORTED, move |cmd| {
                cmd.arg("field").arg(chain).arg(number);
            })
            .await?;
        Ok(())
    }

    /// Closes a month after the one that was closed last, with a text about it. Returns whether it is
    /// closed now: otherwise another month was closed meanwhile.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn close_month(
        &self,
        before: Option<Month>,
        month: Month,
        text: &str,
    ) -> Result<bool, Outage> {
        let closed: i64 = self
            .mark(LEDGER_MONTHS, LEDGER_CLOSED, move |cmd| {
                let before = before.map(|month| month.to_string()).unwrap_or_default();
                cmd.arg("month").arg(before).arg(month.to_string()).arg(text);
            })
            .await?;
        Ok(closed == 1)
    }

    async fn mark(
        &self,
        hash: &'static str,
        mark: &'static str,
        write: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<i64, Outage> {
        self.call(|mut connection| async move {
            let fill = |cmd: &mut Cmd| {
                cmd.arg(hash).arg(mark).arg(FORMAT_KEY);
                write(cmd);
            };
            self.scripts.ledger_mark.run(&mut connection, 3, fill).await
        })
        .await
    }
}
