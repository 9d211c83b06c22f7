//! Days and months of the ledger's time zone, and where a record is booked.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp as Moment, ToSpan as _,
    civil::{Date, date},
    tz::TimeZone,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::time::{Timestamp, zone::zone};

const HOUR: i64 = 3600;

/// A text that names no day, or no month.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CalendarError {
    /// The text is no day.
    #[error("`{0}` is no day; write one such as `2026-11-30`")]
    Day(String),
    /// The text is no month.
    #[error("`{0}` is no month; write one such as `2026-11`")]
    Month(String),
}

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(Date);

/// A month of the calendar, by its first day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(Date);

impl Day {
    /// The month of the day.
    pub fn month(self) -> Month {
        Month(self.0.first_of_month())
    }

    /// The next day; `None` after the year 9999.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1.day()).ok().map(Self)
    }

    /// The day so many days before, in the calendar.
    pub fn days_before(self, days: i64) -> Self {
        Self(self.0.saturating_sub(days.days()))
    }
}

impl Month {
    /// The first day of the month.
    pub fn first_day(self) -> Day {
        Day(self.0)
    }

    /// The last day of the month.
    pub fn last_day(self) -> Day {
        Day(self.0.last_of_month())
    }

    /// The next month; `None` after the year 9999.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1.month()).ok().map(Self)
    }

    /// The month before; `None` before the calendar.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1.month()).ok().map(Self)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0.year(), self.0.month(), self.0.day())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), self.0.month())
    }
}

/// Two or four digits.
fn digits(text: &str, width: usize) -> Option<i16> {
    let are_digits = text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| are_digits)
}

fn read_date(year: &str, month: &str, day: &str) -> Option<Date> {
    let small = |text| i8::try_from(digits(text, 2)?).ok();
    Date::new(digits(year, 4)?, small(month)?, small(day)?).ok()
}

impl FromStr for Day {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '-');
        let parts = (parts.next(), parts.next(), parts.next());
        let (Some(year), Some(month), Some(day)) = parts else {
            return Err(CalendarError::Day(text.to_owned()));
        };
        read_date(year, month, day).map(Self).ok_or_else(|| CalendarError::Day(text.to_owned()))
    }
}

impl FromStr for Month {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let date = text.split_once('-').and_then(|(year, month)| read_date(year, month, "01"));
        date.map(Self).ok_or_else(|| CalendarError::Month(text.to_owned()))
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The calendar of a ledger.
#[derive(Clone, Debug)]
pub struct Calendar(TimeZone);

/// Where a record is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booking {
    /// The day whose sums have the record.
    pub day: Day,
    /// The beginning of the hour whose sums have it, in seconds since 1970.
    pub hour: u64,
    /// The month that the record belongs to, which was closed before the record was written.
    pub late_for: Option<Month>,
}

impl Calendar {
    /// The calendar of a time zone. A text that is none is UTC: the configuration has been checked.
    pub fn of(time_zone: &str) -> Self {
        Self(zone(time_zone).unwrap_or(TimeZone::UTC))
    }

    /// The local day of a moment.
    pub fn day(&self, at: Timestamp) -> Day {
        let seconds = i64::try_from(at.secs()).unwrap_or(i64::MAX);
        let moment = Moment::from_second(seconds);
        Day(moment.map_or(date(9999, 12, 31), |moment| self.0.to_datetime(moment).date()))
    }

    /// The beginning of the full local hour of a moment, in seconds since 1970.
    pub fn hour(&self, at: Timestamp) -> u64 {
        let seconds = i64::try_from(at.secs()).unwrap_or(i64::MAX);
        let offset = Moment::from_second(seconds)
            .map_or(0, |moment| i64::from(self.0.to_offset(moment).seconds()));
        let within = seconds.saturating_add(offset).rem_euclid(HOUR);
        u64::try_from(seconds - within).unwrap_or_default()
    }

    /// The first moment of a day; `None` beyond the calendar.
    pub fn starts(&self, Day(day): Day) -> Option<Timestamp> {
        let starts = day.to_zoned(self.0.clone()).ok()?.timestamp().as_second();
        u64::try_from(starts.max(0)).ok().map(Timestamp::from_secs)
    }

    /// Where a record of a moment is booked. What belongs to a month that is closed, is booked on the
    /// first day of the next one: a closed month does not change.
    pub fn book(&self, at: Timestamp, closed: Option<Month>) -> Booking {
        let (day, hour) = (self.day(at), self.hour(at));
        match closed.filter(|closed| day.month() <= *closed) {
            Some(closed) => {
                let open = closed.next().map_or(day, Month::first_day);
                Booking { day: open, hour, late_for: Some(day.month()) }
            }
            None => Booking { day, hour, late_for: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Timestamp {
        let moment: Moment = text.parse().unwrap();
        Timestamp::from_secs(moment.as_second().try_into().unwrap())
    }

    #[test]
    fn a_day_is_one_of_the_time_zone() {
        let berlin = Calendar::of("Europe/Berlin");
        assert_eq!(berlin.day(seconds("2026-11-30T22:59:59Z")).to_string(), "2026-11-30");
        assert_eq!(berlin.day(seconds("2026-11-30T23:00:00Z")).to_string(), "2026-12-01");
        let half = Calendar::of("+05:30");
        assert_eq!(
            half.hour(seconds("2026-11-30T12:15:00Z")),
            seconds("2026-11-30T11:30:00Z").secs()
        );
        let day: Day = "2026-12-01".parse().unwrap();
        assert_eq!(berlin.starts(day), Some(seconds("2026-11-30T23:00:00Z")));
    }

    #[test]
    fn what_belongs_to_a_closed_month_is_booked_in_the_open_one() {
        let utc = Calendar::of("UTC");
        let at = seconds("2026-11-30T12:00:00Z");
        let month = |text: &str| text.parse::<Month>().unwrap();
        for (closed, day, late_for) in [
            (None, "2026-11-30", None),
            (Some("2026-10"), "2026-11-30", None),
            (Some("2026-11"), "2026-12-01", Some("2026-11")),
            (Some("2027-01"), "2027-02-01", Some("2026-11")),
        ] {
            let booking = utc.book(at, closed.map(month));
            assert_eq!(booking.day.to_string(), day, "{closed:?}");
            assert_eq!(booking.late_for, late_for.map(month), "{closed:?}");
            assert_eq!(booking.hour, seconds("2026-11-30T12:00:00Z").secs());
        }
    }

    #[test]
    fn days_and_months_have_one_form() {
        for text in ["2026-11", "2026-11-31", "2026-1-1", "26-11-30", "2026-11-30T", ""] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
        for text in ["2026-13", "2026-1", "2026", "2026-11-30", ""] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
        let month: Month = "2028-02".parse().unwrap();
        assert_eq!(month.last_day().to_string(), "2028-02-29");
        assert_eq!(month.next().unwrap().to_string(), "2028-03");
        assert_eq!(month.first_day().next().unwrap().to_string(), "2028-02-02");
    }
}
