//! Windows of the calendar: full hours, days and months in a time zone.

use jiff::{
    Timestamp as Moment, ToSpan as _,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use crate::{
    config::{Errors, Path},
    time::{CalendarUnit, Timestamp, zone::zone},
};

const HOUR: i64 = 3600;

/// The windows of a limit.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    unit: CalendarUnit,
    zone: TimeZone,
}

/// One window: the moments from `starts` on and before `ends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) starts: Timestamp,
    pub(super) ends: Timestamp,
}

impl Windows {
    /// Compiles the windows of an entry of `limits` and records every error.
    pub(super) fn compile(
        unit: CalendarUnit,
        time_zone: Option<&str>,
        path: &Path,
        errors: &mut Errors,
    ) -> Option<Self> {
        let zone = match time_zone {
            Some(text) => errors.take(&path.key("time_zone"), zone(text))?,
            None => TimeZone::UTC,
        };
        Some(Self { unit, zone })
    }

    /// Returns the window that contains a moment; `None` after the year 9999.
    pub(super) fn at(&self, now: Timestamp) -> Option<Window> {
        let now = i64::try_from(now.secs()).ok()?;
        let (starts, ends) = match self.unit {
            CalendarUnit::Hour => self.hour(now)?,
            CalendarUnit::Day | CalendarUnit::Month => self.dates(now)?,
        };
        let moment = |seconds: i64| u64::try_from(seconds.max(0)).ok().map(Timestamp::from_secs);
        Some(Window { starts: moment(starts)?, ends: moment(ends)? })
    }

    /// Returns the full hour of the local clock. A change of the clock by less than an hour makes
    /// the hour shorter, which is a window of its own.
    fn hour(&self, now: i64) -> Option<(i64, i64)> {
        let moment = Moment::from_second(now).ok()?;
        let offset = i64::from(self.zone.to_offset(moment).seconds());
        let starts = now - (now + offset).rem_euclid(HOUR);
        Some((starts, starts + HOUR))
    }

    /// Returns the days between two midnights of the local clock. A midnight that the clock skips is
    /// the moment of the change, and of one that it repeats the first counts, so that each moment
    /// is in one window.
    fn dates(&self, now: i64) -> Option<(i64, i64)> {
        let local: DateTime = self.zone.to_datetime(Moment::from_second(now).ok()?);
        let first = self.first(local.date());
        let mut window = (self.midnight(first)?, self.midnight(self.next(first)?)?);
        // After a midnight that is repeated, the local clock is on the day before.
        if now >= window.1 {
            let next = self.next(first)?;
            window = (window.1, self.midnight(self.next(next)?)?);
        }
        Some(window)
    }

    /// The first day of the window of a date.
    fn first(&self, date: Date) -> Date {
        if self.unit == CalendarUnit::Month { date.first_of_month() } else { date }
    }

    /// The first day of the window after the one that begins on a date.
    fn next(&self, first: Date) -> Option<Date> {
        let span = if self.unit == CalendarUnit::Month { 1.month() } else { 1.day() };
        first.checked_add(span).ok()
    }

    /// The first moment of a date, in seconds since 1970.
    fn midnight(&self, date: Date) -> Option<i64> {
        let moment = date.to_zoned(self.zone.clone()).ok()?;
        Some(moment.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> u64 {
        text.parse::<Moment>().unwrap().as_second().try_into().unwrap()
    }

    fn at(unit: CalendarUnit, place: &str, now: &str) -> (String, String) {
        let windows = Windows { unit, zone: zone(place).unwrap() };
        let Window { starts, ends } = windows.at(Timestamp::from_secs(seconds(now))).unwrap();
        let shown = |moment: Timestamp| {
            Moment::from_microsecond(moment.micros().try_into().unwrap()).unwrap().to_string()
        };
        (shown(starts), shown(ends))
    }

    #[test]
    fn windows_begin_and_end_with_the_local_calendar() {
        use CalendarUnit::{Day, Hour, Month};
        for (unit, place, now, starts, ends) in [
            (Hour, "UTC", "2026-11-29T22:59:59Z", "2026-11-29T22:00:00Z", "2026-11-29T23:00:00Z"),
            (
                Hour,
                "+05:30",
                "2026-11-29T22:15:00Z",
                "2026-11-29T21:30:00Z",
                "2026-11-29T22:30:00Z",
            ),
            (Day, "UTC", "2026-11-29T00:00:00Z", "2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Day, "-08:00", "2026-11-29T07:59:59Z", "2026-11-28T08:00:00Z", "2026-11-29T08:00:00Z"),
            (Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Month, "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            // The month of March in Berlin begins in winter time and ends in summer time.
            (
                Month,
                "Europe/Berlin",
                "2026-03-31T21:59:59Z",
                "2026-02-28T23:00:00Z",
                "2026-03-31T22:00:00Z",
            ),
        ] {
            assert_eq!(at(unit, place, now), (starts.into(), ends.into()), "{unit:?} {now}");
        }
    }

    #[test]
    fn a_day_on_which_the_clock_changes_is_shorter_or_longer() {
        let day = |now| at(CalendarUnit::Day, "Europe/Berlin", now);
        let spring = ("2026-03-28T23:00:00Z".into(), "2026-03-29T22:00:00Z".into());
        assert_eq!(day("2026-03-28T23:00:00Z"), spring);
        assert_eq!(day("2026-03-29T21:59:59Z"), spring);
        let autumn = ("2026-10-24T22:00:00Z".into(), "2026-10-25T23:00:00Z".into());
        assert_eq!(day("2026-10-24T22:00:00Z"), autumn);
        assert_eq!(day("2026-10-25T22:59:59Z"), autumn);
        // Both hours between 02:00 and 03:00 are windows of their own.
        let hour = |now| at(CalendarUnit::Hour, "Europe/Berlin", now).0;
        assert_eq!(hour("2026-10-25T00:30:00Z"), "2026-10-25T00:00:00Z");
        assert_eq!(hour("2026-10-25T01:30:00Z"), "2026-10-25T01:00:00Z");
    }

    #[test]
    fn a_midnight_that_is_skipped_or_repeated_is_in_one_window() {
        // Cairo has no 00:00 on 2026-04-24: the clock goes from 23:59 to 01:00.
        let cairo = |now| at(CalendarUnit::Day, "Africa/Cairo", now);
        assert_eq!(cairo("2026-04-23T21:59:59Z").1, "2026-04-23T22:00:00Z");
        assert_eq!(cairo("2026-04-23T22:00:00Z").0, "2026-04-23T22:00:00Z");
        // Havana repeats the hour from 00:00 to 01:00 on 2026-11-01.
        let havana = |now| at(CalendarUnit::Day, "America/Havana", now);
        let day = ("2026-11-01T04:00:00Z".into(), "2026-11-02T05:00:00Z".into());
        assert_eq!(havana("2026-11-01T04:30:00Z"), day);
        assert_eq!(havana("2026-11-01T05:30:00Z"), day);
    }

    /// Every moment is in its window, and windows follow each other without a gap.
    #[test]
    fn windows_cover_every_moment_once() {
        let places = [
            "UTC",
            "Europe/Berlin",
            "America/Havana",
            "Africa/Cairo",
            "Asia/Beirut",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "America/Santiago",
            "+14:00",
        ];
        for (place, unit) in
            places.iter().flat_map(|place| CalendarUnit::ALL.map(|unit| (*place, unit)))
        {
            let windows = Windows { unit, zone: zone(place).unwrap() };
            let mut now = seconds("2010-12-30T00:00:00Z");
            let end = seconds("2012-02-02T00:00:00Z");
            let mut last: Option<Window> = None;
            while now < end {
                let moment = Timestamp::from_secs(now);
                let window = windows.at(moment).unwrap();
                assert!(window.starts <= moment && moment < window.ends, "{place} {unit:?} {now}");
                if let Some(last) = last.filter(|last| *last != window) {
                    assert!(
                        last.starts < window.starts && last.ends >= window.starts,
                        "{place} {now}"
                    );
                }
                last = Some(window);
                now += 1799;
            }
        }
        let windows = Windows { unit: CalendarUnit::Day, zone: TimeZone::UTC };
        assert_eq!(windows.at(Timestamp::from_micros(u64::MAX)), None);
    }
}
