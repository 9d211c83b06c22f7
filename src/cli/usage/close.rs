//! `tollgate usage close`: closes a month.

use std::{io::Write, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use tollgate_core::ledger::{
    calendar::Month,
    report::{Report, ReportQuery},
};

use super::{closed_month::ClosedMonth, place::Place};
use crate::{
    cli::{Output, config_file::ConfigFile, printable},
    observe::now,
    store::MonthClosing,
};

const MORE: &str = "\
Examples:
  # the sums of November do not change any more
  tollgate usage close tollgate.yaml --month 2026-11

Exit codes:
  0  the month is closed
  1  it was closed before
  2  it cannot be closed, or wrong usage";

/// Close a month: its sums do not change any more.
///
/// Months are closed in their order, after their end. What is settled later and belongs to a closed
/// month, such as a request whose record was pending, is booked on the first day of the open one, with
/// the mark `late_for`. The sums are signed, and `usage verify` compares them.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct CloseArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The month, such as `2026-11`.
    #[arg(long, value_name = "MONTH")]
    month: Month,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl CloseArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let (place, month) = (Place::open(self.config.path())?, self.month);
        let keys = place.keys()?;
        let closed =
            place.redis.closed_month().await.map_err(|outage| place.unavailable(outage))?;
        let months = place.redis.closed_months().await;
        let months = months.map_err(|outage| place.unavailable(outage))?;
        // A month without sums is one whose command was interrupted.
        let is_signed = months.get(&month).is_some_and(|text| !text.is_empty());
        if closed.is_some_and(|closed| month < closed || month == closed && is_signed) {
            writeln!(out, "{month} was closed before")?;
            return Ok(ExitCode::FAILURE);
        }
        if let Some(next) = closed.and_then(Month::next)
            && next < month
        {
            bail!("{next} is not closed yet; close it first");
        }
        let next = month.next().context("the calendar ends with this month")?;
        let ends = place.calendar.starts(next.first_day()).context("the calendar ends")?;
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
        let total = total_of(&place, month).await?;
        let text = ClosedMonth::sign(month, total, now(), &keys);
        let signed = place.redis.close_month(Some(month), (month, ends), &text).await;
        if signed.map_err(|outage| place.unavailable(outage))? != MonthClosing::Closed {
            writeln!(out, "{month} was closed by another command meanwhile")?;
            return Ok(ExitCode::FAILURE);
        }
        match self.output {
            Output::Json => {
                let json: serde_json::Value = serde_json::from_str(&text)?;
                writeln!(out, "{}", printable::json(&json)?)?;
            }
            Output::Text => writeln!(
                out,
                "{month} is closed: {} requests, {} tokens, {} of them estimated{}",
                total.requests,
                total.tokens,
                total.estimated,
                place.cost(&total)
            )?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The sums of a month.
pub(super) async fn total_of(
    place: &Place,
    month: Month,
) -> anyhow::Result<tollgate_core::ledger::rows::Measures> {
    let days = (month.first_day(), month.last_day());
    let query = ReportQuery::new(days, Vec::new(), &place.calendar)?;
    let mut report = Report::of(&query);
    for (number, period) in query.periods().enumerate() {
        let rows = place.redis.rows(period).await;
        report.add(number, &rows.map_err(|outage| place.unavailable(outage))?);
    }
    Ok(report.total())
}
