//! Quotas: the size of a limit, as a rate, a number in a window of the calendar, or a number.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use thiserror::Error;

use super::{Rate, RateError};
use crate::config::from_text;

/// A window of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalendarUnit {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first day of a month to the first day of the next.
    Month,
}

impl CalendarUnit {
    /// Every window of the calendar.
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    /// The word of the configuration file.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// A number in each window of the calendar, written as `N/day`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowQuota {
    /// The number, which may be 0.
    pub count: u64,
    /// The window of the calendar.
    pub unit: CalendarUnit,
}

/// The size of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// A number that is refilled in a duration: `60/1m`.
    Rate(Rate),
    /// A number in each window of the calendar: `1000/day`.
    Window(WindowQuota),
    /// A number: `8`.
    Count(u64),
}

/// A text that is not a [`Quota`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// The text is not a number in a window.
    #[error(
        "`{0}` is not a whole number in a window; write `N/hour`, `N/day` or `N/month`, with N from 0 on"
    )]
    Window(String),
    /// The text is not a number.
    #[error("`{0}` is not a quota; write a number, `N/1m`, `N/hour`, `N/day` or `N/month`")]
    Malformed(String),
    /// The number is too large to be counted exactly.
    #[error("`{0}` is larger than 2^53")]
    TooLarge(String),
    /// The part after the slash is not a duration.
    #[error(transparent)]
    Rate(#[from] RateError),
}

/// The largest number that every store counts exactly: Lua has doubles.
pub const MAX_COUNT: u64 = 1 << 53;

/// Reads a number of digits.
fn count(text: &str, whole: &str) -> Result<u64, QuotaError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuotaError::Malformed(whole.to_owned()));
    }
    let count: Option<u64> = text.parse().ok().filter(|count| *count <= MAX_COUNT);
    count.ok_or_else(|| QuotaError::TooLarge(whole.to_owned()))
}

impl FromStr for WindowQuota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let parts = text.split_once('/');
        let window = parts.and_then(|(number, word)| {
            let unit = CalendarUnit::ALL.into_iter().find(|unit| unit.label() == word)?;
            Some((number, unit))
        });
        let (number, unit) = window.ok_or_else(|| QuotaError::Window(text.to_owned()))?;
        let count = count(number, text).map_err(|error| match error {
            // Of the forms of a quota this is the only one here.
            QuotaError::Malformed(text) => QuotaError::Window(text),
            error => error,
        })?;
        Ok(Self { count, unit })
    }
}

impl fmt::Display for WindowQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.label())
    }
}

impl<'de> Deserialize<'de> for WindowQuota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a number in a window such as `1000/day`")
    }
}

impl JsonSchema for WindowQuota {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WindowQuota".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/(hour|day|month)$", "description": "A number in each window of the calendar: `1000/day`. `0/day` admits none." })
    }
}

impl Quota {
    /// Whether a limit of this size admits no more than one of another, of the same form.
    pub fn is_within(self, most: Self) -> bool {
        match (self, most) {
            (Self::Rate(rate), Self::Rate(most)) => rate.is_within(most),
            (Self::Window(window), Self::Window(most)) => {
                window.unit == most.unit && window.count <= most.count
            }
            (Self::Count(count), Self::Count(most)) => count <= most,
            _ => false,
        }
    }
}

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        match text.split_once('/') {
            None => count(text, text).map(Self::Count),
            Some((_, word)) if CalendarUnit::ALL.iter().any(|unit| unit.label() == word) => {
                text.parse().map(Self::Window)
            }
            Some(_) => Ok(Self::Rate(text.parse()?)),
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => rate.fmt(f),
            Self::Window(window) => window.fmt(f),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl From<Rate> for Quota {
    fn from(rate: Rate) -> Self {
        Self::Rate(rate)
    }
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            quota => serializer.collect_str(quota),
        }
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuotaVisitor;
        impl Visitor<'_> for QuotaVisitor {
            type Value = Quota;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quota such as `60/1m`, `1000/day` or 8")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quota, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Quota, E> {
                count.to_string().parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Quota, E> {
                count.to_string().parse().map_err(E::custom)
            }
            // In JSON, 5.0 is the integer 5.
            fn visit_f64<E: serde::de::Error>(self, count: f64) -> Result<Quota, E> {
                count.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(QuotaVisitor)
    }
}

impl JsonSchema for Quota {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quota".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]+(/([0-9]+(ms|s|m|h|d)|hour|day|month))?$" },
                { "type": "integer", "minimum": 0 },
            ],
            "description": "The size of a limit, in the form of its kind: `60/1m`, `1000/day`, 8. 0 admits none.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_a_window_is_asked_for_where_no_other_form_is_taken() {
        for text in ["-5/day", "0.5/day", "/day", "5", "60/1m"] {
            let error = text.parse::<WindowQuota>().unwrap_err().to_string();
            assert!(error.contains("write `N/hour`") && !error.contains("N/1m"), "{error}");
        }
    }

    #[test]
    fn a_quota_is_within_one_of_its_form_only() {
        for (quota, most, within) in [
            ("60/1m", "60/1m", true),
            ("61/1m", "60/1m", false),
            ("5/day", "6/day", true),
            ("7/day", "6/day", false),
            ("1/hour", "100/day", false),
            ("1/day", "100/1d", false),
            ("8", "8", true),
            ("9", "8", false),
            ("8", "8/day", false),
        ] {
            let quota: Quota = quota.parse().unwrap();
            assert_eq!(quota.is_within(most.parse().unwrap()), within, "{quota} {most}");
        }
    }

    #[test]
    fn quotas_are_rates_windows_and_numbers() {
        let window = |count, unit| Quota::Window(WindowQuota { count, unit });
        for (text, quota) in [
            ("60/1m", Quota::Rate("60/1m".parse().unwrap())),
            ("5/hour", window(5, CalendarUnit::Hour)),
            ("0/day", window(0, CalendarUnit::Day)),
            ("9007199254740992/month", window(1 << 53, CalendarUnit::Month)),
            ("8", Quota::Count(8)),
        ] {
            assert_eq!(text.parse(), Ok(quota), "{text}");
            assert_eq!(quota.to_string(), text);
        }
        for text in [
            "",
            "/day",
            "-1/day",
            "1.5/day",
            "+1/day",
            "5/week",
            "5/Day",
            "5 /day",
            "5/1day",
            "9007199254740993/month",
            "9007199254740993",
            "8 ",
            "x",
            "60/",
        ] {
            assert!(text.parse::<Quota>().is_err(), "{text}");
        }
        for text in ["60/1m", "8", "5/week", ""] {
            assert!(text.parse::<WindowQuota>().is_err(), "{text}");
        }
    }
}
