//! `tollgate usage report`: the sums of the ledger.

use std::{io::Write, process::ExitCode};

use clap::{Args, ValueEnum};
use serde_json::json;
use tollgate_core::ledger::{
    calendar::Day,
    report::{Dimension, Report, ReportQuery},
    rows::{MEASURES, OTHER},
};

use super::place::Place;
use crate::cli::{config_file::ConfigFile, printable};

const MORE: &str = "\
Examples:
  # the month of each tenant and model, for a table
  tollgate usage tollgate.yaml --from 2026-11-01 --to 2026-11-30 --by tenant,model
  # a day by the hour, for a spreadsheet
  tollgate usage report tollgate.yaml --from 2026-11-30 --by hour,model --output csv > day.csv

Exit codes:
  0  the sums are printed
  2  the ledger cannot be read, or wrong usage";

/// The row of what has no row of its own, where a tenant may be named like it.
const OVERFLOW: &str = "(other)";

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table for people.
    #[default]
    Table,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// A JSON object with rows and total.
    Json,
}

/// Print the sums of the ledger.
///
/// The sums are kept for each day and, for 40 days, each hour; records are not read. Days are those of
/// `ledger.time_zone`. A request is counted on the day on which it was settled.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The first day.
    #[arg(long, value_name = "DAY")]
    from: Day,
    /// The last day. Default: the first one.
    #[arg(long, value_name = "DAY")]
    to: Option<Day>,
    /// What each row has in common: tenant, model, route, day, hour. Default: one row.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    by: Vec<Dimension>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Form,
}

impl ReportArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(self.config.path())?;
        place.check_time_zone().await?;
        let days = (self.from, self.to.unwrap_or(self.from));
        let query = ReportQuery::new(days, self.by, &place.calendar)?;
        let mut report = Report::of(&query);
        for (number, period) in query.periods().enumerate() {
            let rows = place.redis.rows(period).await;
            report.add(number, &rows.map_err(|outage| place.unavailable(outage))?);
        }
        match self.output {
            Form::Table => {
                table(&query, &report, out)?;
                writeln!(out, "\ncost in {}, which are millionths", place.unit())?;
            }
            Form::Csv => csv(&query, &report, out)?,
            Form::Json => {
                let rows: Vec<_> = report.rows().collect();
                let zone = &place.config.time_zone;
                let json = json!({
                    "time_zone": zone, "currency": place.currency.as_deref(), "rows": rows,
                    "total": report.total(),
                });
                writeln!(out, "{}", printable::json(&json)?)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The names of the columns.
fn header(query: &ReportQuery) -> Vec<String> {
    let names = query.by().iter().map(|dimension| dimension.name()).chain(MEASURES);
    names.map(str::to_owned).collect()
}

fn csv(query: &ReportQuery, report: &Report<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    write!(out, "{}\r\n", header(query).join(","))?;
    for row in report.rows() {
        let values = row.values.iter().map(|value| match value.as_deref() {
            Some(OTHER) if row.is_other => OVERFLOW.to_owned(),
            value => quoted(value.unwrap_or_default()),
        });
        let numbers = row.measures.all().into_iter().map(|number| number.to_string());
        write!(out, "{}\r\n", values.chain(numbers).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

/// A field of comma-separated values. A program for tables takes no text for a formula: one that
/// begins like one has an apostrophe before it, also behind a semicolon, which separates fields in some
/// languages.
fn quoted(text: &str) -> String {
    let text = printable::printable(text);
    let mut safe = String::with_capacity(text.len() + 2);
    let mut is_first = true;
    for character in text.chars() {
        if is_first && matches!(character, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') {
            safe.push('\'');
        }
        is_first = character == ';' || (is_first && matches!(character, ' ' | '"' | '\''));
        safe.push(character);
    }
    if safe.contains([',', '"', ';']) { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
}

fn table(query: &ReportQuery, report: &Report<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let labels = query.by().len();
    let mut lines = vec![header(query)];
    let numbers = |all: [i64; MEASURES.len()]| all.into_iter().map(|number| number.to_string());
    // Without a dimension the only row is the total.
    for row in report.rows().filter(|_| labels > 0) {
        let values = row.values.iter().map(|value| match value.as_deref() {
            Some(OTHER) if row.is_other => OVERFLOW.to_owned(),
            Some(value) => printable::printable(value),
            None => "(none)".to_owned(),
        });
        lines.push(values.chain(numbers(row.measures.all())).collect());
    }
    let names = (0..labels).map(|place| if place == 0 { "total" } else { "" }.to_owned());
    lines.push(names.chain(numbers(report.total().all())).collect());
    let mut widths = vec![0; labels + MEASURES.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    for line in lines {
        let mut text = String::new();
        for (place, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if place < labels { ("", &*space) } else { (&*space, "") };
            text.push_str(&format!("{before}{cell}{after}  "));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tollgate_core::ledger::{
        calendar::Calendar,
        rows::{Measures, RowKey},
    };

    use super::*;

    #[test]
    fn no_field_is_a_formula() {
        for (text, field) in [
            ("acme", "acme"),
            ("a-b=c", "a-b=c"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            (" =1", " '=1"),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("\t=1", "\\t=1"),
            ("\r\n=1", "\\r\\n=1"),
            ("a;=1", "\"a;'=1\""),
            ("a\",=1", "\"a\"\",=1\""),
            ("\"=1", "\"\"\"'=1\""),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(quoted(text), field, "{text:?}");
        }
    }

    #[test]
    fn a_report_is_a_table_and_comma_separated_values() {
        let days = ("2026-11-30".parse().unwrap(), "2026-11-30".parse().unwrap());
        let by = vec![Dimension::Tenant, Dimension::Model];
        let query = ReportQuery::new(days, by, &Calendar::of("UTC")).unwrap();
        let mut report = Report::of(&query);
        let of = |tenant: Option<&str>| RowKey::Of {
            tenant: tenant.map(str::to_owned),
            model: Some("=1+1".into()),
            route: "chat".into(),
        };
        let measures = Measures { requests: 2, tokens: 1500, cost: 750, ..Measures::default() };
        report.add(0, [(&of(Some("acme, inc")), &measures), (&of(None), &measures)]);
        let some = Measures { requests: 1, ..Measures::default() };
        report.add(0, [(&of(Some("other")), &some), (&RowKey::Other, &some)]);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        table(&query, &report, &mut one).unwrap();
        csv(&query, &report, &mut other).unwrap();
        let expected = "\
tenant     model    requests  tokens  input  output  cached  reasoning  estimated  cost  estimated_cost  images  seconds
(none)     =1+1            2    1500      0       0       0          0          0   750               0       0        0
acme, inc  =1+1            2    1500      0       0       0          0          0   750               0       0        0
other      =1+1            1       0      0       0       0          0          0     0               0       0        0
(other)    (other)         1       0      0       0       0          0          0     0               0       0        0
total                      6    3000      0       0       0          0          0  1500               0       0        0
";
        assert_eq!(String::from_utf8(one).unwrap(), expected);
        let expected = "\
tenant,model,requests,tokens,input,output,cached,reasoning,estimated,cost,estimated_cost,images,seconds\r
,'=1+1,2,1500,0,0,0,0,0,750,0,0,0\r
\"acme, inc\",'=1+1,2,1500,0,0,0,0,0,750,0,0,0\r
other,'=1+1,1,0,0,0,0,0,0,0,0,0,0\r
(other),(other),1,0,0,0,0,0,0,0,0,0,0\r
";
        assert_eq!(String::from_utf8(other).unwrap(), expected);
    }
}
