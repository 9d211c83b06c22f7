//! Reports: sums of the ledger between two days, by what they are asked for.

use std::{collections::BTreeMap, str::FromStr};

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use thiserror::Error;

use super::{
    calendar::{Calendar, Day},
    rows::{MEASURES, Measures, OTHER, Period, RowKey},
};
use crate::time::{Timestamp, rfc3339::Rfc3339};

/// The most days, or hours, of a report.
const MOST_PERIODS: usize = 800;

/// What the rows of a report have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The tenant of the request.
    Tenant,
    /// The model of the request.
    Model,
    /// The route of the request.
    Route,
    /// The day of the calendar.
    Day,
    /// The hour of the day.
    Hour,
}

impl Dimension {
    /// Every dimension, in the order of declaration.
    pub const ALL: [Self; 5] = [Self::Tenant, Self::Model, Self::Route, Self::Day, Self::Hour];

    /// The name in commands and calls.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Model => "model",
            Self::Route => "route",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }
}

/// The reason why there is no such report.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReportError {
    /// The name is none of a dimension.
    #[error("`{0}` is no dimension; use tenant, model, route, day and hour")]
    Dimension(String),
    /// A dimension is named twice.
    #[error("`{0}` is named twice")]
    Twice(&'static str),
    /// The last day is before the first one.
    #[error("the last day is before the first one")]
    Backwards,
    /// The report has too many days, or too many hours.
    #[error("a report has at most {MOST_PERIODS} days, or hours where it is by hour")]
    TooLong,
}

impl FromStr for Dimension {
    type Err = ReportError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|dimension| dimension.name() == name);
        found.ok_or_else(|| ReportError::Dimension(name.to_owned()))
    }
}

/// A report that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportQuery {
    by: Vec<Dimension>,
    periods: Vec<(Period, Timestamp)>,
    calendar_days: Vec<Day>,
}

impl ReportQuery {
    /// A report from a first to a last day, both included.
    ///
    /// # Errors
    /// The dimensions are named twice, or the days are none of a report.
    pub fn new(
        (from, to): (Day, Day),
        by: Vec<Dimension>,
        calendar: &Calendar,
    ) -> Result<Self, ReportError> {
        for (place, dimension) in by.iter().enumerate() {
            if by.iter().take(place).any(|earlier| earlier == dimension) {
                return Err(ReportError::Twice(dimension.name()));
            }
        }
        if to < from {
            return Err(ReportError::Backwards);
        }
        let by_hour = by.contains(&Dimension::Hour);
        let (mut periods, mut calendar_days, mut day) = (Vec::new(), Vec::new(), from);
        loop {
            let starts = calendar.starts(day).ok_or(ReportError::TooLong)?;
            let next = day.next().ok_or(ReportError::TooLong)?;
            if by_hour {
                let ends = calendar.starts(next).ok_or(ReportError::TooLong)?.secs();
                let mut hour = calendar.hour(starts);
                while hour < ends {
                    periods.push((Period::Hour(hour), Timestamp::from_secs(hour)));
                    calendar_days.push(day);
                    // Where clocks change by half an hour, the next full hour is not an hour later.
                    hour = calendar.hour(Timestamp::from_secs(hour + 3600)).max(hour + 1);
                }
            } else {
                periods.push((Period::Day(day), starts));
                calendar_days.push(day);
            }
            if periods.len() > MOST_PERIODS {
                return Err(ReportError::TooLong);
            }
            if day >= to {
                return Ok(Self { by, periods, calendar_days });
            }
            day = next;
        }
    }

    /// The hours or days whose rows the report needs.
    pub fn periods(&self) -> impl Iterator<Item = Period> {
        self.periods.iter().map(|(period, _)| *period)
    }

    /// The dimensions of the report.
    pub fn by(&self) -> &[Dimension] {
        &self.by
    }
}

/// A report: the sums of each combination of values.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    query: &'a ReportQuery,
    rows: BTreeMap<RowValues, Measures>,
}

/// The values of the dimensions, and whether they are those of what has no row of its own: a tenant may
/// have the same name.
type RowValues = (Vec<Option<String>>, bool);

impl<'a> Report<'a> {
    /// A report without rows.
    pub fn of(query: &'a ReportQuery) -> Self {
        Self { query, rows: BTreeMap::new() }
    }

    /// Adds the rows of the period at a place of [`ReportQuery::periods`].
    pub fn add<'r>(
        &mut self,
        place: usize,
        rows: impl IntoIterator<Item = (&'r RowKey, &'r Measures)>,
    ) {
        let hour = self.query.periods.get(place).map(|(_, starts)| Rfc3339(*starts).to_string());
        let day = self.query.calendar_days.get(place).map(ToString::to_string);
        for (key, measures) in rows {
            let value = |dimension: &Dimension| match (dimension, key) {
                (Dimension::Day, _) => day.clone(),
                (Dimension::Hour, _) => hour.clone(),
                (_, RowKey::Other) => Some(OTHER.to_owned()),
                (Dimension::Tenant, RowKey::Of { tenant, .. }) => tenant.clone(),
                (Dimension::Model, RowKey::Of { model, .. }) => model.clone(),
                (Dimension::Route, RowKey::Of { route, .. }) => Some(route.clone()),
            };
            let values = self.query.by.iter().map(value).collect();
            let is_named = |by: &Dimension| !matches!(by, Dimension::Day | Dimension::Hour);
            let is_other = *key == RowKey::Other && self.query.by.iter().any(is_named);
            self.rows.entry((values, is_other)).or_default().add(measures);
        }
    }

    /// The rows, by their values.
    pub fn rows(&self) -> impl Iterator<Item = ReportRow<'_>> {
        let by = &self.query.by;
        self.rows.iter().map(move |((values, is_other), measures)| ReportRow {
            by,
            values: values.clone(),
            is_other: *is_other,
            measures: *measures,
        })
    }

    /// The sums of all rows.
    pub fn total(&self) -> Measures {
        let mut total = Measures::default();
        self.rows.values().for_each(|row| total.add(row));
        total
    }
}

/// A row of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRow<'a> {
    by: &'a [Dimension],
    /// The values of the dimensions; `None` where requests have none.
    pub values: Vec<Option<String>>,
    /// Whether it is that of what has no row of its own, and not that of a tenant with the same name.
    pub is_other: bool,
    /// The sums of the row.
    pub measures: Measures,
}

impl Serialize for ReportRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = self.values.len() + MEASURES.len() + usize::from(self.is_other);
        let mut map = serializer.serialize_map(Some(length))?;
        for (dimension, value) in self.by.iter().zip(&self.values) {
            map.serialize_entry(dimension.name(), value)?;
        }
        if self.is_other {
            map.serialize_entry("overflow", &true)?;
        }
        for (name, number) in MEASURES.into_iter().zip(self.measures.all()) {
            map.serialize_entry(name, &number)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tenant: &str, model: &str) -> RowKey {
        RowKey::Of { tenant: Some(tenant.into()), model: Some(model.into()), route: "chat".into() }
    }

    fn tokens(tokens: i64) -> Measures {
        Measures { requests: 1, tokens, ..Measures::default() }
    }

    fn query(from: &str, to: &str, by: &[Dimension]) -> Result<ReportQuery, ReportError> {
        let days = (from.parse().unwrap(), to.parse().unwrap());
        ReportQuery::new(days, by.to_vec(), &Calendar::of("Europe/Berlin"))
    }

    #[test]
    fn rows_are_added_up_by_the_dimensions_of_the_report() {
        let query = query("2026-11-29", "2026-11-30", &[Dimension::Tenant]).unwrap();
        assert_eq!(query.periods().count(), 2);
        let mut report = Report::of(&query);
        let (chat, small) = (row("acme", "large"), row("acme", "small"));
        report.add(0, [(&chat, &tokens(5)), (&RowKey::Other, &tokens(1))]);
        report.add(1, [(&small, &tokens(7))]);
        let rows: Vec<String> =
            report.rows().map(|row| serde_json::to_string(&row).unwrap()).collect();
        let rest = r#""input":0,"output":0,"cached":0,"reasoning":0,"estimated":0,"cost":0,"estimated_cost":0,"images":0,"seconds":0}"#;
        assert_eq!(rows[0], format!(r#"{{"tenant":"acme","requests":2,"tokens":12,{rest}"#));
        let other = |tokens| format!(r#""requests":1,"tokens":{tokens},{rest}"#);
        let overflow = format!(r#"{{"tenant":"other","overflow":true,{}"#, other(1));
        assert_eq!(rows[1], overflow);
        assert_eq!(report.total().tokens, 13);
        // A tenant may be named like the row of the others.
        report.add(0, [(&row("other", "large"), &tokens(3))]);
        let rows: Vec<String> =
            report.rows().map(|row| serde_json::to_string(&row).unwrap()).collect();
        assert_eq!(rows[1..], [format!(r#"{{"tenant":"other",{}"#, other(3)), overflow]);
    }

    #[test]
    fn a_day_has_the_hours_of_its_zone() {
        let hours = |day| query(day, day, &[Dimension::Hour]).unwrap().periods().count();
        assert_eq!([hours("2026-03-29"), hours("2026-10-25"), hours("2026-11-30")], [23, 25, 24]);
        let query = query("2026-11-30", "2026-11-30", &[Dimension::Hour, Dimension::Day]).unwrap();
        let mut report = Report::of(&query);
        report.add(0, [(&RowKey::Other, &tokens(1))]);
        let values = report.rows().next().unwrap().values;
        let expected = ["2026-11-29T23:00:00.000000Z", "2026-11-30"];
        assert_eq!(values, expected.map(|value| Some(value.to_owned())));
    }

    /// Clocks of Lord Howe Island change by half an hour: full hours begin at another minute then.
    #[test]
    fn each_moment_is_in_an_hour_of_the_report_of_its_day() {
        for (zone, days) in [
            ("Australia/Lord_Howe", ["2026-04-05", "2026-10-04"]),
            ("Europe/Berlin", ["2026-03-29", "2026-10-25"]),
            ("Asia/Kathmandu", ["2026-03-29", "2026-10-25"]),
            // Clocks are set back at midnight, and are set forward at midnight.
            ("America/Santiago", ["2026-04-04", "2026-09-06"]),
        ] {
            let calendar = Calendar::of(zone);
            for day in days.map(|day| day.parse::<Day>().unwrap()) {
                let query = ReportQuery::new((day, day), vec![Dimension::Hour], &calendar).unwrap();
                let hours: Vec<Period> = query.periods().collect();
                let ends = calendar.starts(day.next().unwrap()).unwrap().secs();
                for minute in (calendar.starts(day).unwrap().secs()..ends).step_by(60) {
                    let hour = calendar.hour(Timestamp::from_secs(minute));
                    assert!(hours.contains(&Period::Hour(hour)), "{zone}, {day}, {minute}");
                    assert_eq!(calendar.day(Timestamp::from_secs(minute)), day, "{zone}");
                }
            }
        }
    }

    #[test]
    fn reports_are_bounded() {
        let twice = [Dimension::Day, Dimension::Day];
        for (from, to, by, error) in [
            ("2026-11-30", "2026-11-29", &[][..], ReportError::Backwards),
            ("2026-11-29", "2026-11-30", &twice, ReportError::Twice("day")),
            ("2020-01-01", "2026-11-30", &[], ReportError::TooLong),
            ("2026-01-01", "2026-11-30", &[Dimension::Hour], ReportError::TooLong),
        ] {
            assert_eq!(query(from, to, by), Err(error));
        }
        assert!("subject".parse::<Dimension>().is_err());
        assert!(Dimension::ALL.iter().all(|one| one.name().parse() == Ok(*one)));
    }
}
