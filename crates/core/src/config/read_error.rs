//! The error type of the deserializer: every method of [`serde::de::Error`] as a cause.

use serde::de::{Expected, Unexpected};

use super::{ConfigErrorKind, Found, Path, error::remedy_for_key, tree::Value};

/// An error of one pass.
#[derive(Debug)]
pub(super) struct ReadError {
    /// The place, once it is known.
    pub(super) path: Option<Path>,
    pub(super) kind: ConfigErrorKind,
    pub(super) remedy: Option<String>,
}

impl ReadError {
    pub(super) fn at(path: Path, kind: ConfigErrorKind) -> Self {
        Self { path: Some(path), kind, remedy: None }
    }

    /// Adds the place to an error that has none yet: the value's, or, for an unknown key of it, the
    /// key's.
    pub(super) fn placed(self, path: &Path) -> Self {
        let place = match &self.kind {
            ConfigErrorKind::UnknownKey(key) => path.key(key),
            _ => path.clone(),
        };
        Self { path: self.path.or(Some(place)), ..self }
    }
}

impl From<ConfigErrorKind> for ReadError {
    fn from(kind: ConfigErrorKind) -> Self {
        Self { path: None, kind, remedy: None }
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for ReadError {}

impl serde::de::Error for ReadError {
    fn custom<M: std::fmt::Display>(message: M) -> Self {
        ConfigErrorKind::Invalid(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        wrong_type(expected.to_string(), found_by_serde(found))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        wrong_type(expected.to_string(), found_by_serde(found))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        ConfigErrorKind::Invalid(format!("expected {expected}, found {length} entries")).into()
    }

    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        ConfigErrorKind::UnknownValue { value: value.to_owned(), known }.into()
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self {
            path: None,
            kind: ConfigErrorKind::UnknownKey(key.to_owned()),
            remedy: Some(remedy_for_key(key, known)),
        }
    }

    fn missing_field(key: &'static str) -> Self {
        ConfigErrorKind::MissingKey(key).into()
    }

    fn duplicate_field(key: &'static str) -> Self {
        ConfigErrorKind::Invalid(format!("the key `{key}` is written twice")).into()
    }
}

pub(super) fn wrong_type(expected: String, found: Found) -> ReadError {
    let remedy = (found == Found::Nothing).then(|| "write a value, or remove the key".to_owned());
    ReadError { path: None, kind: ConfigErrorKind::WrongType { expected, found }, remedy }
}

fn found_by_serde(found: Unexpected<'_>) -> Found {
    match found {
        Unexpected::Bool(value) => Found::Bool(value),
        Unexpected::Unsigned(number) => Found::Number(number.to_string()),
        Unexpected::Signed(number) => Found::Number(number.to_string()),
        Unexpected::Float(number) => Found::Number(number.to_string()),
        Unexpected::Str(text) => Found::Text(Some(text.to_owned())),
        Unexpected::Unit | Unexpected::Option => Found::Nothing,
        Unexpected::Seq => Found::List,
        Unexpected::Map => Found::Map,
        _ => Found::Other,
    }
}

pub(super) fn found(value: &Value) -> Found {
    match value {
        Value::Null => Found::Nothing,
        Value::Bool(value) => Found::Bool(*value),
        Value::Unsigned(number) => Found::Number(number.to_string()),
        Value::Signed(number) => Found::Number(number.to_string()),
        Value::Float(number) => Found::Number(number.to_string()),
        Value::Text(text) => Found::Text(Some(text.clone())),
        Value::List(_) => Found::List,
        Value::Map(_) => Found::Map,
    }
}
