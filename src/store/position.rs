//! Positions in lists. A page begins after one, so that entries that end or are removed between two
//! pages shift no other.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;
use tollgate_core::{text::hex, time::Timestamp};

/// The position of an entry in a list that is ordered by a moment and then by a key. As text it is
/// the cursor of a list: microseconds since 1970, a dot, and the bytes of the key in hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    at: Timestamp,
    key: Vec<u8>,
}

/// The text is not the position of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is not the cursor of an earlier page")]
pub struct PositionError;

impl Position {
    /// Returns the position of the entry with a moment and a key.
    pub fn new(at: Timestamp, key: &[u8]) -> Self {
        Self { at, key: key.to_vec() }
    }

    /// Returns the position before every entry of a moment.
    pub const fn before(at: Timestamp) -> Self {
        Self { at, key: Vec::new() }
    }

    /// Returns the moment of the entry.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns the bytes of the key.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Returns the key as text, for a list whose keys are.
    pub(super) fn text(&self) -> Arc<str> {
        String::from_utf8_lossy(&self.key).into()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at.micros(), hex(&self.key))
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (at, key) = text.split_once('.').ok_or(PositionError)?;
        let is_number =
            (1..=18).contains(&at.len()) && at.bytes().all(|byte| byte.is_ascii_digit());
        let at = at.parse().ok().filter(|_| is_number).ok_or(PositionError)?;
        let key = bytes(key.as_bytes()).ok_or(PositionError)?;
        Ok(Self { at: Timestamp::from_micros(at), key })
    }
}

/// Reads pairs of lower-case hex digits.
fn bytes(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        for (position, text) in [
            (Position::new(Timestamp::from_micros(17), b"a:/\xff"), "17.613a2fff"),
            (Position::before(Timestamp::from_secs(2)), "2000000."),
        ] {
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
        }
        for text in ["", "1", ".", ".61", "1.6", "1.6g", "1.6A", "-1.61", "+1.61", "1 .61", "1.61 "]
        {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text}");
        }
        assert_eq!("1234567890123456789.".parse::<Position>(), Err(PositionError));
    }

    #[test]
    fn positions_are_ordered_by_moment_and_then_by_bytes() {
        let at = |secs, key: &[u8]| Position::new(Timestamp::from_secs(secs), key);
        let ordered =
            [at(1, b"z"), Position::before(Timestamp::from_secs(2)), at(2, b"Z"), at(2, b"a")];
        assert!(ordered.is_sorted());
    }
}
