//! The limits of a JSON body, and the errors of its reader.

use thiserror::Error;

/// The maximum depth of values.
pub(super) const DEPTH: usize = 64;
/// The maximum number of keys of an object that is read.
pub(super) const KEYS: usize = 256;
/// The maximum length of a key or a selected string, in bytes as written.
pub(super) const LENGTH: usize = 4096;
/// The maximum number of selected strings of a kind.
pub(super) const STRINGS: usize = 256;
/// The maximum length of a number in bytes.
///
/// A 64-bit float needs 24 at most. Servers that read integers of any length need quadratic time.
pub(super) const NUMBER: usize = 128;

/// A JSON body that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum JsonError {
    #[error("it is not JSON in UTF-8 (byte {0})")]
    Syntax(usize),
    #[error("it is not a JSON object")]
    NotAnObject,
    #[error("it nests more than {DEPTH} levels")]
    TooDeep,
    #[error("an object in it has more than {KEYS} keys")]
    TooManyKeys,
    #[error("a key is repeated")]
    RepeatedKey,
    #[error("a key differs from `{0}` only in case")]
    CaseVariant(String),
    #[error("`{0}` is not of the type it must have")]
    WrongType(String),
    #[error("`{0}` is not an integer from 0 to 2^53 - 1")]
    NotAnInteger(String),
    #[error("a key or a name in it is longer than {LENGTH} bytes")]
    TooLong,
    #[error("a number in it is longer than {NUMBER} bytes")]
    LongNumber,
    #[error("it holds more than {STRINGS} tools, adapters or messages")]
    TooMany,
    #[error("it has more objects, short lists or escaped keys than a body of its length may have")]
    TooDense,
    #[error("a tool has no name")]
    NamelessTool,
}

impl JsonError {
    /// Returns the member at fault.
    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::CaseVariant(name) | Self::WrongType(name) | Self::NotAnInteger(name) => {
                Some(name)
            }
            Self::NamelessTool => Some("tools"),
            _ => None,
        }
    }
}
