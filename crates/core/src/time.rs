//! Timestamps and durations. The core never reads a clock: a [`Timestamp`] is always an argument.

mod quota;
mod rate;
pub mod rfc3339;
pub mod zone;

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

pub use self::{
    quota::{CalendarUnit, MAX_COUNT, Quota, QuotaError, WindowQuota},
    rate::{Rate, RateError},
};
use crate::config::from_text;

const MICROS: u64 = 1_000_000;

/// A point in time, in microseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Creates a timestamp from microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Creates a timestamp from whole seconds since the Unix epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(MICROS))
    }

    /// Returns microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Returns whole seconds since the Unix epoch, rounded down.
    pub const fn secs(self) -> u64 {
        self.0 / MICROS
    }

    /// Returns seconds with a fraction, the unit of a JWT's NumericDate (RFC 7519 section 2).
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds since 1970 stay exact in an f64 until the year 2255"
    )]
    pub fn numeric_date(self) -> f64 {
        self.0 as f64 / MICROS as f64
    }
}

/// A duration, written in the configuration as an integer and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// Creates a duration from microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Creates a duration from milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Creates a duration from seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(MICROS))
    }

    /// Returns microseconds, without rounding.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Returns whole seconds, rounded down.
    pub const fn secs(self) -> u64 {
        self.0 / MICROS
    }

    /// Returns seconds with a fraction.
    #[expect(
        clippy::cast_precision_loss,
        reason = "spans are bounded by `FromStr` to a hundred years"
    )]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / MICROS as f64
    }

    /// Converts to the standard library's type.
    pub const fn std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0)
    }
}

/// A text that is not a [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpanError {
    /// The text is not an integer with a unit.
    #[error(
        "`{0}` is not a duration; write an integer and `ms`, `s`, `m`, `h` or `d`, such as `30s`"
    )]
    Malformed(String),
    /// The duration exceeds the maximum.
    #[error("`{0}` is longer than a hundred years")]
    TooLong(String),
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || SpanError::Malformed(text.to_owned());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let unit = match unit {
            "ms" => 1000,
            "s" => MICROS,
            "m" => 60 * MICROS,
            "h" => 3600 * MICROS,
            "d" => 86_400 * MICROS,
            _ => return Err(malformed()),
        };
        match number.checked_mul(unit) {
            Some(micros) if micros <= 36_500 * 86_400 * MICROS => Ok(Self(micros)),
            _ => Err(SpanError::TooLong(text.to_owned())),
        }
    }
}

impl fmt::Display for Span {
    /// Writes the duration in the largest exact unit: `90s`, `2h`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [
            (86_400 * MICROS, "d"),
            (3600 * MICROS, "h"),
            (60 * MICROS, "m"),
            (MICROS, "s"),
            (1000, "ms"),
        ] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}ms", self.0.div_ceil(1000))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a duration such as `30s`")
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "description": "An integer and `ms`, `s`, `m`, `h` or `d`: `30s`." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_unit() {
        for (text, micros) in [
            ("0s", 0),
            ("5ms", 5000),
            ("30s", 30_000_000),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
            ("1d", 86_400_000_000),
        ] {
            assert_eq!(text.parse::<Span>(), Ok(Span::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn malformed_durations_are_refused() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5S",
            "1.5h",
            "5s ",
            "+5s",
            "99999999999999999999s",
            "99999999d",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_span_is_shown_in_its_largest_exact_unit() {
        for (micros, text) in [
            (90_000_000, "90s"),
            (120_000_000, "2m"),
            (1_500_000, "1500ms"),
            (86_400_000_000, "1d"),
            (0, "0ms"),
        ] {
            assert_eq!(Span::from_micros(micros).to_string(), text);
        }
    }
}
