//! Which bucket a charge is taken from, in sixteen bytes.

use crate::{
    revocation::{Fingerprint, first_half, sha256},
    text::hex_digits,
};

/// A bucket: of which limit, and whose. Nothing a client controls stands in it in clear, and to find a second client of the same
/// bucket takes 2^125 hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BucketId([u64; 2]);

impl BucketId {
    /// From what says all of it.
    pub fn of(name: impl AsRef<[u8]>) -> Self {
        Self(first_half(&sha256(name.as_ref())))
    }

    /// Of all buckets of a limit the one of a part of the request's identity. That the two are only folded is sound because a
    /// client chooses one of them at most.
    pub(super) const fn with(self, part: Self) -> Self {
        let (Self([first, second]), Self([high, low])) = (self, part);
        Self([first ^ high, second ^ low])
    }

    /// Its two halves, each as good as random to whoever cannot choose a name.
    pub const fn halves(self) -> [u64; 2] {
        self.0
    }

    /// Its bytes.
    pub(super) const fn bytes(self) -> [u8; 16] {
        let [high, low] = self.0;
        ((high as u128) << 64 | low as u128).to_be_bytes()
    }

    /// Its key in a store that has others beside it: `rate:<limit>:` and its bytes in hex.
    pub fn key(self, limit: &str) -> String {
        let mut key = Vec::with_capacity("rate::".len() + limit.len() + 32);
        self.write_key(limit, &mut key);
        // A name and hex, which are text.
        String::from_utf8(key).unwrap_or_default()
    }

    /// Appends its [`key`](Self::key).
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
