//! Sizes in the configuration file: `16MiB`.

use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tollgate_core::config::from_text;

/// A number of bytes, written as an integer and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

/// A text that is not a [`ByteSize`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ByteSizeError {
    /// The text is not an integer with a unit.
    #[error(
        "`{0}` is not a size; write an integer and `B`, `KiB`, `MiB` or `GiB`, such as `16MiB`"
    )]
    Malformed(String),
    /// The size exceeds the address space.
    #[error("`{0}` is more than this machine can address")]
    TooLarge(String),
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit: usize = match unit {
            "B" if digits > 0 => 1,
            "KiB" if digits > 0 => 1 << 10,
            "MiB" if digits > 0 => 1 << 20,
            "GiB" if digits > 0 => 1 << 30,
            _ => return Err(ByteSizeError::Malformed(text.to_owned())),
        };
        let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| ByteSizeError::TooLarge(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a size such as `16MiB`")
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$", "description": "An integer and `B`, `KiB`, `MiB` or `GiB`: `16MiB`." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        let malformed = |text: &str| Err(ByteSizeError::Malformed(text.into()));
        let too_large = |text: &str| Err(ByteSizeError::TooLarge(text.into()));
        for (text, expected) in [
            ("0B", Ok(ByteSize(0))),
            ("5KiB", Ok(ByteSize(5 << 10))),
            ("16MiB", Ok(ByteSize(16 << 20))),
            ("2GiB", Ok(ByteSize(2 << 30))),
            ("5", malformed("5")),
            ("5MB", malformed("5MB")),
            ("MiB", malformed("MiB")),
            ("-1B", malformed("-1B")),
            ("99999999999GiB", too_large("99999999999GiB")),
            ("99999999999999999999B", too_large("99999999999999999999B")),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
