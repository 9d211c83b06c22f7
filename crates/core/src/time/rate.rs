//! Rates of requests, written as `N/duration`.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::{Span, SpanError};
use crate::config::from_text;

/// A number of requests in a duration, written as `N/duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    per: Span,
}

/// A text that is not a [`Rate`], or a rate that a bucket cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RateError {
    /// The text is not a number, a slash and a duration.
    #[error("`{0}` is not a rate; write a number and a duration, such as `60/1m`")]
    Malformed(String),
    /// The part after the slash is not a duration.
    #[error("`{rate}` is not a rate; {error}")]
    Duration {
        /// The whole text.
        rate: String,
        /// The error in the duration.
        error: SpanError,
    },
    /// The duration is zero or too long.
    #[error("`{0}`: the time of a rate lies between 1ms and 366d")]
    Period(String),
    /// The rate exceeds the resolution of the clock.
    #[error("`{0}` is more than one in a microsecond")]
    TooFast(String),
    /// A full bucket takes too long to fill.
    #[error("a burst of {burst} at `{rate}` takes more than 366d to fill")]
    Burst {
        /// The rate at which the bucket fills.
        rate: Rate,
        /// Units in a full bucket.
        burst: u64,
    },
}

impl Rate {
    /// Returns the number of requests.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// Returns the duration in which they are refilled.
    pub const fn per(self) -> Span {
        self.per
    }

    /// Whether a bucket of this rate admits no more than one of another rate: neither over a long
    /// time nor at once, where a full bucket admits the number of the rate.
    pub fn is_within(self, most: Self) -> bool {
        let cross = |one: Self, other: Self| u128::from(one.count) * u128::from(other.per.micros());
        self.count <= most.count && cross(self, most) <= cross(most, self)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let malformed = || RateError::Malformed(text.to_owned());
        let (count, per) = text.split_once('/').ok_or_else(malformed)?;
        if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let count: u64 = count.parse().map_err(|_| malformed())?;
        let per: Span =
            per.parse().map_err(|error| RateError::Duration { rate: text.to_owned(), error })?;
        if per.micros() == 0 || per > Span::from_secs(366 * 86_400) {
            return Err(RateError::Period(text.to_owned()));
        }
        if count > per.micros() {
            return Err(RateError::TooFast(text.to_owned()));
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a rate such as `60/1m`")
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/[0-9]+(ms|s|m|h|d)$", "description": "A number of requests and a duration: `60/1m`. `0/1m` admits none." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_within_another_one_admits_no_more() {
        for (rate, most, expected) in [
            ("10/1m", "10/1m", true),
            ("5/1m", "10/1m", true),
            ("10/2m", "10/1m", true),
            ("0/1s", "0/1m", true),
            ("11/1m", "10/1m", false),
            ("10/59s", "10/1m", false),
            ("1/1s", "10/1m", false),
            // The same rate over a long time, and more at once.
            ("600/1h", "10/1m", false),
            ("1/366d", "0/1s", false),
        ] {
            let (one, other): (Rate, Rate) = (rate.parse().unwrap(), most.parse().unwrap());
            assert_eq!(one.is_within(other), expected, "{rate} within {most}");
        }
    }

    #[test]
    fn rates_are_a_number_and_a_duration() {
        for (text, count, micros) in
            [("60/1m", 60, 60_000_000), ("0/1s", 0, 1_000_000), ("1/30d", 1, 30 * 86_400_000_000)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count, rate.per.micros()), (count, micros), "{text}");
        }
        for text in [
            "", "60", "/1m", "60/", "60/m", "-1/1m", "+1/1m", "1.5/1m", "60/0s", "5/1000d",
            "2000/1ms",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
