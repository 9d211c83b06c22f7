//! Secrets: types that cannot be printed.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Visitor};
use zeroize::Zeroizing;

/// Secret bytes: without `Display`, with a `Debug` that shows nothing, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Returns the bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The source of a secret: `file:/path` as the whole value, or the value itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file, read at the start and again when it changes. One trailing line break is not part of
    /// the secret.
    File(String),
    /// A value in the configuration, or one inserted with `${NAME}`.
    Inline(Secret),
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Reads a [`SecretSource`].
///
/// Serde's own error for a number in place of text would contain the number, so every other type
/// has a method of its own here.
struct SourceVisitor;

impl SourceVisitor {
    fn not_text<T, E: serde::de::Error>() -> Result<T, E> {
        Err(E::custom("a secret is text; put it in quotes"))
    }
}

impl Visitor<'_> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret, or `file:` and a path")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretSource, E> {
        match text.strip_prefix("file:") {
            Some("") => {
                Err(E::custom("`file:` needs a path after it, such as `file:/run/secrets/key`"))
            }
            Some(path) => Ok(SecretSource::File(path.to_owned())),
            None if text.is_empty() => Err(E::custom("a secret must not be empty")),
            None => Ok(SecretSource::Inline(Secret::new(text))),
        }
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<SecretSource, E> {
        Self::not_text()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<SecretSource, E> {
        Self::not_text()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<SecretSource, E> {
        Self::not_text()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<SecretSource, E> {
        Self::not_text()
    }
}

impl JsonSchema for SecretSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A secret: `file:/path` (read at start, and again when the file changes), `${NAME}` from the environment, or the value itself. It never appears in a log, a metric or an error."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let source = SecretSource::Inline(Secret::new("hunter2"));
        assert_eq!(format!("{source:?}"), "Inline([secret])");
    }

    #[test]
    fn a_file_reference_is_recognised_and_an_empty_one_refused() {
        let file: SecretSource = serde_json::from_str("\"file:/run/key\"").unwrap();
        assert_eq!(file, SecretSource::File("/run/key".into()));
        assert!(serde_json::from_str::<SecretSource>("\"file:\"").is_err());
        assert!(serde_json::from_str::<SecretSource>("\"\"").is_err());
    }

    #[test]
    fn an_error_about_a_secret_does_not_show_it() {
        for text in ["12345", "-12345", "12345.5", "true", "[12345]", "{\"12345\":1}", "null"] {
            let error = serde_json::from_str::<SecretSource>(text).unwrap_err().to_string();
            assert!(!error.contains("12345") && !error.contains("true"), "{text}: {error}");
        }
    }
}
