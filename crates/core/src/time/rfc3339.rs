//! Times as RFC 3339 text in UTC, for audit lines and the admin API.

use std::{fmt, str::FromStr};

use super::Timestamp;
use crate::config::from_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

const DAY: u64 = 86_400;

/// A time that prints as RFC 3339 in UTC with microseconds: `2026-11-22T03:42:01.000042Z`. The
/// width is fixed, so that lines sort as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rfc3339(pub Timestamp);

impl Rfc3339 {
    /// Returns the text as ASCII.
    pub fn digits(self) -> [u8; 27] {
        let seconds = self.0.secs();
        let (year, month, day) = date(seconds / DAY);
        let micros = self.0.micros() % 1_000_000;
        let ([c0, c1], [y0, y1]) = (two(year / 100), two(year % 100));
        let ([m0, m1], [d0, d1]) = (two(month), two(day));
        let ([h0, h1], [n0, n1]) = (two(seconds / 3600 % 24), two(seconds / 60 % 60));
        let ([s0, s1], [f0, f1]) = (two(seconds % 60), two(micros / 10_000));
        let ([f2, f3], [f4, f5]) = (two(micros / 100 % 100), two(micros % 100));
        [
            c0, c1, y0, y1, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1,
            b'.', f0, f1, f2, f3, f4, f5, b'Z',
        ]
    }
}

/// Returns two decimal digits.
const fn two(number: u64) -> [u8; 2] {
    let [tens, ..] = (number / 10 % 10).to_le_bytes();
    let [ones, ..] = (number % 10).to_le_bytes();
    [b'0' + tens, b'0' + ones]
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Rfc3339 {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Rfc3339 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a time such as `2026-11-22T03:42:01Z`")
    }
}

/// The text is not a time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a time; write `2026-11-22T03:42:01Z` or seconds since 1970")]
pub struct TimeError(String);

/// Reads RFC 3339 (`2026-11-22T03:42:01Z`, a fraction and an offset allowed), or whole seconds
/// since the Unix epoch.
///
/// # Errors
/// Returns [`TimeError`] for any other text, and for times before 1970.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    let digits =
        !text.is_empty() && text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let moment = if digits { text.parse().ok().map(Timestamp::from_secs) } else { read(text) };
    moment.ok_or_else(|| TimeError(text.to_owned()))
}

fn read(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let (clock, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let (clock, offset) = time.split_at_checked(time.len().checked_sub(6)?)?;
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
            let minutes =
                i64::try_from(hours * 60 + minutes).ok().filter(|_| hours < 24 && minutes < 60)?;
            (
                clock,
                if offset.starts_with('+') {
                    minutes
                } else {
                    offset.starts_with('-').then_some(-minutes)?
                },
            )
        }
    };
    let (clock, fraction) =
        clock.split_once('.').map_or((clock, None), |(clock, fraction)| (clock, Some(fraction)));
    let mut parts_of_clock = clock.split(':');
    let mut next = || number(parts_of_clock.next()?, 2);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let complete = parts.next().is_none() && parts_of_clock.next().is_none();
    // A leap second, `:60`, is the first moment of the next minute, as everywhere in Unix time.
    if !complete || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(year, month, day)?;
    let seconds = days.checked_mul(DAY)?.checked_add(hour * 3600 + minute * 60 + second)?;
    let seconds = seconds.checked_add_signed(-offset * 60)?;
    Some(Timestamp::from_micros(seconds.checked_mul(1_000_000)?.checked_add(micros(fraction)?)?))
}

/// Returns the first six digits of a fraction; `None` where it holds anything but digits.
fn micros(fraction: Option<&str>) -> Option<u64> {
    let Some(fraction) = fraction else { return Some(0) };
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{:0<6}", fraction.get(..6).unwrap_or(fraction)).parse().ok()
}

fn number(text: &str, width: usize) -> Option<u64> {
    (text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The number of leap days in the years 1 to `year`.
const fn leap_days(year: u64) -> u64 {
    year / 4 - year / 100 + year / 400
}

/// The days from the first of January 1970 to the first of January of `year`.
const fn days_before(year: u64) -> u64 {
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

/// Returns the days from 1970 to a date of the proleptic Gregorian calendar; `None` for a date that
/// does not exist or is earlier.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
        return None;
    }
    Some(days_before(year) + (1..month).map(|month| days_in(year, month)).sum::<u64>() + day - 1)
}

/// Returns the date of a day since the first of January 1970, after Neri and Schneider, "Euclidean
/// affine functions and their application to calendar algorithms" (2022), figure 12: without a loop
/// and without a table.
const fn date(days: u64) -> (u64, u64, u64) {
    // Years begin with March, so that the leap day is their last day; centuries are counted in
    // quarters of a day.
    let shifted = 4 * (days + 719_468) + 3;
    let (century, of_century) = (shifted / 146_097, shifted % 146_097 / 4);
    let quarters = 4 * of_century + 3;
    let (year, of_year) = (100 * century + quarters / 1461, quarters % 1461 / 4);
    // The lengths of the months from March on are linear.
    let line = 2141 * of_year + 197_913;
    let (month, day) = (line / 65_536, line % 65_536 / 2141 + 1);
    if of_year >= 306 { (year + 1, month - 12, day) } else { (year, month, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from `date -u -d @SECONDS`.
    const MOMENTS: [(u64, &str); 8] = [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399_000_000, "2000-02-28T23:59:59.000000Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        (951_868_800_000_000, "2000-03-01T00:00:00.000000Z"),
        (1_735_689_599_999_999, "2024-12-31T23:59:59.999999Z"),
        (1_795_318_921_000_042, "2026-11-22T03:42:01.000042Z"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        (253_402_300_799_000_000, "9999-12-31T23:59:59.000000Z"),
    ];

    #[test]
    fn a_moment_prints_in_utc_with_microseconds_and_reads_back() {
        for (micros, text) in MOMENTS {
            assert_eq!(Rfc3339(Timestamp::from_micros(micros)).to_string(), text);
            assert_eq!(parse(text), Ok(Timestamp::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn every_day_for_four_hundred_years_follows_the_one_before() {
        let mut before = date(0);
        for day in 1..146_097 {
            let now = date(day);
            let next = match before {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, last) if last == days_in(year, month) => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!(now, next);
            assert_eq!(days(now.0, now.1, now.2), Some(day));
            before = now;
        }
    }

    #[test]
    fn offsets_fractions_and_seconds_are_read() {
        for (text, micros) in [
            ("1795318921", 1_795_318_921_000_000),
            ("2026-11-22T03:42:01Z", 1_795_318_921_000_000),
            ("2026-11-22t03:42:01z", 1_795_318_921_000_000),
            ("2026-11-22T05:42:01+02:00", 1_795_318_921_000_000),
            ("2026-11-21T22:12:01.5-05:30", 1_795_318_921_500_000),
            ("2026-11-22T03:42:01.123456789Z", 1_795_318_921_123_456),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ] {
            assert_eq!(parse(text).map(Timestamp::micros), Ok(micros), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "now",
            "-5",
            "2026-11-22",
            "2026-11-22 03:42:01Z",
            "2026-11-22T03:42:01",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T03:60:01Z",
            "1969-12-31T23:59:59Z",
            "2026-11-22T03:22Z",
            "2026-11-22T03:42:01.Z",
            "2026-11-22T03:42:01+2:00",
            "2026-11-22T03:42:01+24:00",
            "2026-11-22T03:42:01é00:00",
            "+2026-11-22T03:42:01Z",
            "2026-1-22T03:42:01Z",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
