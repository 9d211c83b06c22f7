//! Revocation keys in sixteen bytes, for tables of millions of entries.

use super::Kind;

/// A compact revocation key: the first halves of its digests, combined, and its kind.
///
/// Finding a second name within an issuer with the same fingerprint takes 2^125 hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u64; 2]);

/// The lowest bits of the second half encode the kind.
const KIND: u64 = 7;

impl Fingerprint {
    /// Returns the fingerprint of a key in the format of [`Target::key`](super::Target::key);
    /// `None` for other text, which revokes no credential.
    pub fn of(key: &str) -> Option<Self> {
        let (word, digests) = key.split_once(':')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.label() == word)?;
        let (issuer, digest) = match digests.split_once(':') {
            Some((issuer, digest)) if kind.is_issuer_scoped() => {
                (first_half_of_hex(issuer)?, digest)
            }
            None if !kind.is_issuer_scoped() => ([0; 2], digests),
            _ => return None,
        };
        Some(Self::new(kind, issuer, first_half_of_hex(digest)?))
    }

    /// Combines the first halves of the digests; the issuer is zero where the kind has none.
    pub(super) const fn new(kind: Kind, issuer: [u64; 2], digest: [u64; 2]) -> Self {
        let ([i0, i1], [d0, d1]) = (issuer, digest);
        // Rotated before XOR, so that equal digests of issuer and subject do not cancel.
        Self([i0.rotate_left(23) ^ d0, (i1.rotate_left(41) ^ d1) & !KIND | kind as u64])
    }

    /// Returns the two halves. Except for three bits, each is uniformly distributed unless the name
    /// can be chosen.
    pub const fn halves(self) -> [u64; 2] {
        self.0
    }

    /// Returns the fingerprint with these [`halves`](Self::halves).
    pub const fn from_halves(halves: [u64; 2]) -> Self {
        Self(halves)
    }

    /// Returns the index of the kind in [`Kind::ALL`].
    pub const fn kind_index(self) -> usize {
        let Self([_, second]) = self;
        (second & KIND) as usize
    }
}

/// Returns the first sixteen bytes of a digest.
pub(crate) fn first_half(digest: &[u8; 32]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *digest;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

/// Returns the [`first_half`] of a digest in hex.
fn first_half_of_hex(digest: &str) -> Option<[u64; 2]> {
    let quarter = |from: usize| u64::from_str_radix(digest.get(from..from + 16)?, 16).ok();
    Some([quarter(0)?, quarter(16)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{Target, sha256};

    #[test]
    fn fingerprints_of_different_keys_differ() {
        let mut seen = std::collections::HashSet::new();
        let parts = ["", "a", "b", "https://a"];
        for (one, other) in parts
            .iter()
            .flat_map(|one| parts.iter().map(move |other| ((*one).to_owned(), (*other).to_owned())))
        {
            for target in [
                Target::Jti { issuer: one.clone(), jti: other.clone() },
                Target::Subject { issuer: one.clone(), subject: other.clone() },
                Target::Client { issuer: one.clone(), client: other.clone() },
                Target::Tenant { tenant: format!("{one} {other}") },
                Target::Actor { issuer: one.clone(), actor: other.clone() },
                Target::Kid { issuer: one.clone(), kid: other.clone() },
                Target::Token { sha256: sha256(format!("{one} {other}").as_bytes()) },
            ] {
                let key = target.key();
                assert!(seen.insert(Fingerprint::of(&key).unwrap().halves()), "{key}");
            }
        }
        assert_eq!(seen.len(), 7 * 16);
        for text in [
            "",
            "jti",
            "jti:",
            "jti:abc",
            "other:0",
            "tenant:zz",
            &format!("x{}", Target::Tenant { tenant: "a".into() }.key()),
        ] {
            assert_eq!(Fingerprint::of(text), None, "{text}");
        }
    }
}
