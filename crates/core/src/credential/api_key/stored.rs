//! A record as the value of a key in a store: JSON, as an entry of the file of keys has it.

use thiserror::Error;

use super::{lifetimes::KeyLifetimes, record::KeyRecord, redact::text_without_keys, spec::KeySpec};
use crate::{
    config::{Errors, Path},
    identity::KeyId,
};

/// The largest text of a record that is read, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// A text that is not the record of a key. No key can be used with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoredKeyError {
    /// The text is not JSON, or has unknown members: a newer version may have written it.
    #[error("the record is not one that this version reads: {0}")]
    Unreadable(String),
    /// The text is longer than any record.
    #[error("the record has {0} bytes, and at most {MAX_TEXT} are read")]
    TooLong(usize),
    /// The record is that of another key.
    #[error("the record is that of the key `{0}`")]
    OtherId(KeyId),
    /// A value of the record is wrong.
    #[error("the record is wrong: {0}")]
    Invalid(String),
}

impl KeyRecord {
    /// Returns the text under which a store keeps the record.
    ///
    /// # Errors
    /// The record is longer than those that are read.
    pub fn to_stored(&self) -> Result<String, StoredKeyError> {
        let text = serde_json::to_string(&KeySpec::from(self))
            .map_err(|error| StoredKeyError::Unreadable(error.to_string()))?;
        if text.len() > MAX_TEXT {
            return Err(StoredKeyError::TooLong(text.len()));
        }
        Ok(text)
    }

    /// Reads the text under which a store keeps the record of a key. The life of the key is not
    /// compared with that of a policy: the verification does.
    ///
    /// # Errors
    /// The text is not the record of this key. The error contains no digest.
    pub fn from_stored(id: KeyId, text: &str) -> Result<Self, StoredKeyError> {
        if text.len() > MAX_TEXT {
            return Err(StoredKeyError::TooLong(text.len()));
        }
        let spec: KeySpec = serde_json::from_str(text)
            .map_err(|error| StoredKeyError::Unreadable(text_without_keys(&error.to_string())))?;
        if spec.id != id {
            return Err(StoredKeyError::OtherId(spec.id));
        }
        let mut errors = Errors::default();
        let record = spec.compile(&KeyLifetimes::UNBOUNDED, &Path::root(), &mut errors);
        record.ok_or_else(|| {
            let errors = errors.without_lines();
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            StoredKeyError::Invalid(text_without_keys(&texts.join("; ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7Jk2mN4pQ8rT";
    const TEXT: &str = r#"{"id":"7Jk2mN4pQ8rT","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","subject":"ci","created":"2026-11-29T00:00:00.000000Z","expires":"2027-02-27T00:00:00.000000Z"}"#;

    fn read(text: &str) -> Result<KeyRecord, StoredKeyError> {
        KeyRecord::from_stored(ID.parse().unwrap(), text)
    }

    #[test]
    fn a_record_is_read_as_it_is_stored() {
        assert_eq!(read(TEXT).unwrap().to_stored().unwrap(), TEXT);
    }

    #[test]
    fn a_text_that_is_no_record_of_the_key_is_an_error_with_its_cause() {
        for (text, part) in [
            ("".to_owned(), "not one that this version reads"),
            ("{".to_owned(), "not one that this version reads"),
            ("[]".to_owned(), "not one that this version reads"),
            (TEXT.replace("\"subject\"", "\"colour\":1,\"subject\""), "unknown field `colour`"),
            (TEXT.replace("7Jk2mN4pQ8rT", "aaaaaaaaaaaa"), "that of the key `aaaaaaaaaaaa`"),
            (TEXT.replace("\"ci\"", "\"\""), "subject"),
            (TEXT.replace("2027-02-27", "2026-02-27"), "ends before it is issued"),
            (
                TEXT.replace("\"ci\"", &format!("\"{}\"", "x".repeat(MAX_TEXT))),
                "bytes, and at most",
            ),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("ba7816bf"), "{error}");
        }
    }

    #[test]
    fn a_life_beyond_that_of_a_policy_is_read() {
        let long = TEXT.replace("2027-02-27", "2099-02-27");
        assert!(read(&long).is_ok());
    }
}
