//! The identity of a bucket in sixteen bytes.

use serde::{Deserialize, Serialize};

use crate::{
    revocation::{Fingerprint, first_half, sha256},
    text::{hex_digits, push_hex},
};

/// The identity of a bucket: a digest of the limit and of what the bucket is counted by.
///
/// It contains no text that a client controls. Finding a second client that shares a bucket takes
/// 2^125 hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketId([u64; 2]);

impl BucketId {
    /// Hashes a name that identifies the bucket completely.
    pub fn of(name: impl AsRef<[u8]>) -> Self {
        Self(first_half(&sha256(name.as_ref())))
    }

    /// Combines the identity of a limit with that of one part of a request.
    ///
    /// XOR is sound here because a client chooses at most one of the two operands.
    pub(super) const fn with(self, part: Self) -> Self {
        let (Self([first, second]), Self([high, low])) = (self, part);
        Self([first ^ high, second ^ low])
    }

    /// Returns the two halves. Each is uniformly distributed unless the name can be chosen.
    pub const fn halves(self) -> [u64; 2] {
        self.0
    }

    /// Returns the sixteen bytes, most significant first.
    pub(crate) const fn bytes(self) -> [u8; 16] {
        let [high, low] = self.0;
        ((high as u128) << 64 | low as u128).to_be_bytes()
    }

    /// Returns the key in a store that also holds other keys: `rate:<limit>:` and the bytes in hex.
    pub fn key(self, limit: &str) -> String {
        let mut key = String::with_capacity("rate::".len() + limit.len() + 32);
        key.push_str("rate:");
        key.push_str(limit);
        key.push(':');
        push_hex(&mut key, &self.bytes());
        key
    }

    /// Returns the key of the counter of a hold: `count:<limit>:` and the bytes in hex.
    pub(super) fn count_key(self, limit: &str) -> String {
        let mut key = format!("count:{limit}:");
        push_hex(&mut key, &self.bytes());
        key
    }

    /// Appends the [`key`](Self::key) to a buffer.
    pub fn write_key(self, limit: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"rate:");
        out.extend_from_slice(limit.as_bytes());
        out.push(b':');
        out.extend_from_slice(hex_digits(&self.bytes()).as_flattened());
    }
}

impl From<Fingerprint> for BucketId {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint.halves())
    }
}

impl From<&str> for BucketId {
    fn from(text: &str) -> Self {
        Self::of(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_key_are_equal() {
        let bucket = BucketId::of("a bucket");
        let mut written = Vec::new();
        bucket.write_key("per-minute", &mut written);
        assert_eq!(bucket.key("per-minute").as_bytes(), written);
        assert!(bucket.key("per-minute").starts_with("rate:per-minute:"));
    }
}
