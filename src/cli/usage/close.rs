//! `tollgate usage close`: closes a month.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tollgate_core::ledger::{calendar::Month, keys::LedgerKeys, rows::Measures, verify::Finding};

use super::{
    closed_month::ClosedMonth,
    place::Place,
    records::{Records, Rows, sums_of, total_of},
    verify::{verify, worded},
};
use crate::{
    cli::{Output, config_file::ConfigFile, printable},
    observe::now,
    store::MonthClosing,
};

const MORE: &str = "\
Examples:
  # the sums of November do not change any more
  tollgate usage close tollgate.yaml --month 2026-11
  # some of its records are in exports only
  tollgate usage close tollgate.yaml --month 2026-11 --export october.jsonl --export november.jsonl

Exit codes:
  0  the month is closed
  1  it was closed before
  2  it cannot be closed, its sums are not those of its records, or wrong usage";

/// Close a month: its sums do not change any more.
///
/// Months are closed in their order, after their end. What is settled later and belongs to a closed
/// month, such as a request whose record was pending, is booked on the first day of the open one, with
/// the mark `late_for`. The sums are compared with the records of the month, in Redis and in the files
/// of --export, and signed; `usage verify` compares them from then on. The first month that is closed is
/// one of the ledger.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct CloseArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The month, such as `2026-11`.
    #[arg(long, value_name = "MONTH")]
    month: Month,
    /// A file that was exported, with records of the month that Redis has no more. Repeatable.
    #[arg(long, value_name = "FILE")]
    export: Vec<PathBuf>,
    /// Close the month with the sums that Redis has, although they are not those of the records, or
    /// records are missing. What is wrong is printed, and the signed text says `unverified`.
    #[arg(long)]
    unverified: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The sums of a month that is closed, and what is wrong with them, in words.
struct Verified {
    sums: Rows,
    problems: Vec<String>,
}

impl CloseArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let (place, month) = (Place::open(self.config.path())?, self.month);
        place.check_time_zone().await?;
        let keys = place.keys()?;
        let closed =
            place.redis.closed_month().await.map_err(|outage| place.unavailable(outage))?;
        let months = place.redis.closed_months().await;
        let months = months.map_err(|outage| place.unavailable(outage))?;
        // A month without sums is one whose command was interrupted.
        let is_signed = months.get(&month).is_some_and(|text| !text.is_empty());
        if closed.is_some_and(|closed| month < closed || month == closed && is_signed) {
            return self.was_closed("it was closed before", out);
        }
        if let Some(next) = closed.and_then(Month::next)
            && next < month
        {
            bail!("{next} is not closed yet; close it first");
        }
        let before = month.previous().and_then(|before| months.get(&before));
        let before = before.and_then(|text| serde_json::from_str::<ClosedMonth>(text).ok());
        let previous = before.and_then(|before| before.mac(&keys));
        if previous.is_none() && closed.is_some_and(|closed| closed < month) && !self.unverified {
            bail!(
                "the close of the month before {month} is not signed: run `tollgate usage verify`. --unverified \
                 closes {month} all the same"
            );
        }
        let next = month.next().context("the calendar ends with this month")?;
        let ends = place.calendar.starts(next.first_day()).context("the calendar ends")?;
        let mut records = Records::of_exports(&place, &keys, &self.export)?;
        let mut verified = self.verify(&place, &keys, &mut records).await?;
        if closed.is_none() {
            let first = records.first_month().context("the ledger has no entry yet")?;
            if month < first && total_of(&verified.sums) == Measures::default() {
                bail!(
                    "{month} has no records, and the ledger begins in {first}: close that month first"
                );
            }
        }
        self.accept(&verified)?;
        // From here on nothing is added to the month: what it has is what is signed.
        let began = place.redis.close_month(closed, (month, ends), "").await;
        match began.map_err(|outage| place.unavailable(outage))? {
            MonthClosing::Closed => {}
            MonthClosing::NotEnded => bail!(
                "{month} has not ended in the time zone {}, by the clock of Redis",
                place.config.time_zone
            ),
            MonthClosing::Other => {
                bail!("another month was closed meanwhile; run the command again");
            }
        }
        if sums_of(&place, month).await? != verified.sums {
            // Some records were made in between.
            verified = self.verify(&place, &keys, &mut records).await?;
            self.accept(&verified)?;
        }
        let Verified { sums, problems } = &verified;
        let (total, is_unverified) = (total_of(sums), !problems.is_empty());
        let text = ClosedMonth::sign((month, previous), (sums, is_unverified), now(), &keys);
        let signed = place.redis.close_month(Some(month), (month, ends), &text).await;
        if signed.map_err(|outage| place.unavailable(outage))? != MonthClosing::Closed {
            return self.was_closed("it was closed by another command meanwhile", out);
        }
        let pending = pending(&place).await?;
        match self.output {
            Output::Json => {
                let mut json: serde_json::Value = serde_json::from_str(&text)?;
                if let Some(members) = json.as_object_mut() {
                    members.insert("pending".to_owned(), json!(pending));
                    if is_unverified {
                        members.insert("problems".to_owned(), json!(problems));
                    }
                }
                writeln!(out, "{}", printable::json(&json)?)?;
            }
            Output::Text => {
                for problem in problems {
                    writeln!(out, "not verified: {}", printable::printable(problem))?;
                }
                writeln!(
                    out,
                    "{month} is closed: {} requests, {} tokens, {} of them estimated{}",
                    total.requests,
                    total.tokens,
                    total.estimated,
                    place.cost(&total)
                )?;
                if pending > 0 {
                    writeln!(
                        out,
                        "{pending} settled requests have no record yet; those of {month} are booked on {}",
                        next.first_day()
                    )?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Compares the sums of the month with its records, and verifies these.
    async fn verify(
        &self,
        place: &Place,
        keys: &LedgerKeys,
        records: &mut Records<'_>,
    ) -> anyhow::Result<Verified> {
        let month = self.month;
        let of_month = records.verify(month).await?;
        let mut findings = verify(place, keys, &self.export).await?.findings;
        findings.retain(|finding| match finding {
            Finding::Truncated { .. } => true,
            Finding::Unlinked { chain, number }
            | Finding::Repeated { chain, number, .. }
            | Finding::Corrects { chain, number, .. }
            | Finding::Sums { chain, number }
            | Finding::Differs { chain, number, .. } => {
                // What is wrong with later records is a matter of their months.
                records.day_of(*chain, *number).is_none_or(|day| day.month() <= month)
            }
            // A close that was interrupted may have put records on the first day of the next month.
            Finding::Booked { day, .. } => Some(*day) != month.next().map(Month::first_day),
            // Entries that may be missing are among the problems, as far as they are of the month.
            _ => false,
        });
        let mut problems = of_month.problems;
        problems.extend(of_month.findings.iter().chain(&findings).map(worded));
        Ok(Verified { sums: of_month.sums, problems })
    }

    /// Accepts the sums of the month, if they are those of its records.
    fn accept(&self, verified: &Verified) -> anyhow::Result<()> {
        if verified.problems.is_empty() || self.unverified {
            return Ok(());
        }
        let problems: Vec<String> =
            verified.problems.iter().map(|problem| printable::printable(problem)).collect();
        bail!(
            "the sums of {} cannot be verified:\n{}\nRun `tollgate usage verify`. --unverified closes the month \
             with the sums that Redis has",
            self.month,
            problems.join("\n")
        )
    }

    fn was_closed(&self, why: &str, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let month = self.month;
        match self.output {
            Output::Json => {
                let json = json!({ "month": month, "closed": false, "reason": why });
                writeln!(out, "{}", printable::json(&json)?)?;
            }
            Output::Text => writeln!(out, "{month}: {why}")?,
        }
        Ok(ExitCode::FAILURE)
    }
}

/// The number of settled requests that have no record yet.
async fn pending(place: &Place) -> anyhow::Result<u64> {
    let unclaimed = place.redis.unclaimed().await.map_err(|outage| place.unavailable(outage))?;
    let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
    Ok(chains.iter().fold(unclaimed, |sum, chain| sum.saturating_add(chain.pending)))
}
