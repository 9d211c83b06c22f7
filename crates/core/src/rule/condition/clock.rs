//! The date and time accessors of CEL's timestamps, in a time zone.

use jiff::{Timestamp as Moment, civil::DateTime, tz::TimeZone};
use thiserror::Error;

use crate::time::{Timestamp, zone::ZoneError};

/// A part of a date or a time. Names and values are those of CEL: months and days of the month
/// count from 0 (except `getDate`), days of the week from Sunday, which is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DatePart {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
}

impl DatePart {
    /// Returns the part that a method of a timestamp reads.
    pub(super) fn of(method: &str) -> Option<Self> {
        Some(match method {
            "getFullYear" => Self::FullYear,
            "getMonth" => Self::Month,
            "getDate" => Self::Date,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDayOfWeek" => Self::DayOfWeek,
            "getDayOfYear" => Self::DayOfYear,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            _ => return None,
        })
    }

    /// Returns the part at a point in time; `None` after the year 9999.
    pub(super) fn at(self, moment: Timestamp, zone: &TimeZone) -> Option<i64> {
        let seconds = i64::try_from(moment.secs()).ok()?;
        let clock: DateTime = zone.to_datetime(Moment::from_second(seconds).ok()?);
        Some(i64::from(match self {
            Self::FullYear => clock.year(),
            Self::Month => i16::from(clock.month() - 1),
            Self::Date => i16::from(clock.day()),
            Self::DayOfMonth => i16::from(clock.day() - 1),
            Self::DayOfWeek => i16::from(clock.weekday().to_sunday_zero_offset()),
            Self::DayOfYear => clock.day_of_year() - 1,
            Self::Hours => i16::from(clock.hour()),
            Self::Minutes => i16::from(clock.minute()),
            Self::Seconds => i16::from(clock.second()),
        }))
    }
}

/// A text that is not a time zone or a timestamp.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ClockError {
    /// The text is not a time zone.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// The text is not a timestamp since 1970.
    #[error("`{0}` is no moment since 1970; write it as `2026-01-31T09:00:00Z`")]
    Timestamp(String),
}

/// Parses a timestamp of RFC 3339.
pub(super) fn timestamp(text: &str) -> Result<Timestamp, ClockError> {
    let moment =
        text.parse::<Moment>().ok().and_then(|moment| u64::try_from(moment.as_microsecond()).ok());
    moment.map(Timestamp::from_micros).ok_or_else(|| ClockError::Timestamp(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::zone::zone;

    #[test]
    fn parts_are_those_of_the_local_time() {
        // 2026-06-21 was a Sunday; Berlin is two hours ahead of UTC in summer and one in winter.
        let summer = timestamp("2026-06-21T22:30:05Z").unwrap();
        let winter = timestamp("2026-12-31T23:30:00Z").unwrap();
        let row = [
            (DatePart::FullYear, "UTC", 2026, 2026),
            (DatePart::Month, "UTC", 5, 11),
            (DatePart::Date, "UTC", 21, 31),
            (DatePart::DayOfMonth, "UTC", 20, 30),
            (DatePart::DayOfWeek, "UTC", 0, 4),
            (DatePart::DayOfYear, "UTC", 171, 364),
            (DatePart::Hours, "UTC", 22, 23),
            (DatePart::Minutes, "UTC", 30, 30),
            (DatePart::Seconds, "UTC", 5, 0),
            (DatePart::Hours, "Europe/Berlin", 0, 0),
            (DatePart::DayOfWeek, "Europe/Berlin", 1, 5),
            (DatePart::FullYear, "Europe/Berlin", 2026, 2027),
            (DatePart::DayOfYear, "Europe/Berlin", 172, 0),
            (DatePart::Hours, "+05:30", 4, 5),
            (DatePart::Minutes, "+05:30", 0, 0),
            (DatePart::Hours, "-08:00", 14, 15),
            (DatePart::Hours, "02:00", 0, 1),
        ];
        for (part, name, in_summer, in_winter) in row {
            let zone = zone(name).unwrap();
            assert_eq!(
                (part.at(summer, &zone), part.at(winter, &zone)),
                (Some(in_summer), Some(in_winter)),
                "{part:?} {name}"
            );
        }
    }

    #[test]
    fn hours_are_skipped_and_repeated_when_the_clock_changes() {
        // 2026-03-29 01:00 UTC: Berlin goes from 02:00 to 03:00. 2026-10-25 01:00 UTC: from 03:00
        // to 02:00.
        let berlin = zone("Europe/Berlin").unwrap();
        let hours = |text: &str| DatePart::Hours.at(timestamp(text).unwrap(), &berlin).unwrap();
        assert_eq!((hours("2026-03-29T00:59:59Z"), hours("2026-03-29T01:00:00Z")), (1, 3));
        assert_eq!((hours("2026-10-25T00:59:59Z"), hours("2026-10-25T01:00:00Z")), (2, 2));
    }

    #[test]
    fn other_moments_are_refused() {
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T09:00:00",
            "2026-02-31T09:00:00Z",
            "1969-12-31T23:59:59Z",
            "tomorrow",
        ] {
            assert!(timestamp(text).is_err(), "{text}");
        }
        assert_eq!(DatePart::Hours.at(Timestamp::from_micros(u64::MAX), &TimeZone::UTC), None);
    }
}
