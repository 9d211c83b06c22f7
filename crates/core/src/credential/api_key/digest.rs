//! The digest of a key, which is all that is stored of it.

use std::{fmt, str::FromStr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::{config::from_text, revocation::sha256, text::push_hex};

/// SHA-256 of a whole key, as `sha256:<hex>`.
///
/// A key has 256 random bits, so that a slow hash would protect nothing, and would be work that a
/// client can cause.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

/// A text that is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a digest is `sha256:` and 64 hex digits, the SHA-256 of the whole key")]
pub struct KeyDigestError;

impl KeyDigest {
    /// Computes the digest of a key.
    pub fn of(key: &[u8]) -> Self {
        Self(sha256(key))
    }

    /// Returns the bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyDigest {
    /// Takes the same time for every pair of digests.
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for KeyDigest {}

impl FromStr for KeyDigest {
    type Err = KeyDigestError;

    /// The error does not contain the text, which may be a key.
    fn from_str(text: &str) -> Result<Self, KeyDigestError> {
        let hex = text.strip_prefix("sha256:").ok_or(KeyDigestError)?;
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(KeyDigestError);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let pair = hex.get(2 * index..2 * index + 2).ok_or(KeyDigestError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| KeyDigestError)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from("sha256:");
        push_hex(&mut text, &self.0);
        f.write_str(&text)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a digest, `sha256:` and 64 hex digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = KeyDigest::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(text.to_uppercase().replace("SHA", "sha").parse(), Ok(digest));
        assert_ne!(digest, KeyDigest::of(b"abd"));
        for bad in ["", "sha256:", &text[7..], &text[..70], "sha256:\u{e9}", "md5:00"] {
            assert_eq!(bad.parse::<KeyDigest>(), Err(KeyDigestError), "{bad}");
        }
        let sign = format!("sha256:{}", "+1".repeat(32));
        assert_eq!(sign.parse::<KeyDigest>(), Err(KeyDigestError));
    }

    #[test]
    fn an_error_about_a_digest_does_not_show_the_text() {
        let error = serde_json::from_str::<KeyDigest>("\"sk-secret\"").unwrap_err().to_string();
        assert!(!error.contains("sk-secret"), "{error}");
    }
}
