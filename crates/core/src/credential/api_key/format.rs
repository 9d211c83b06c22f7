//! The format of a key: `tgk_<id>_<secret><checksum>`, in base62.
//!
//! The checksum is the CRC-32 (ISO 3309, as in gzip) of everything before it. A key that was mistyped, cut or invented is
//! refused by it before any lookup, and a secret scanner verifies it offline. It is no proof: only
//! the digest of the whole key is one.

use std::fmt;

use zeroize::Zeroize;

use super::{base62::encode, digest::KeyDigest};
use crate::{identity::KeyId, secret::Secret};

/// The prefix of every key.
pub const PREFIX: &str = "tgk_";
/// Digits of the secret: 256 bits.
const SECRET: usize = 43;
/// Digits of the checksum: 32 bits.
const CHECKSUM: usize = 6;
/// The bytes that the checksum covers.
const COVERED: usize = PREFIX.len() + KeyId::LENGTH + 1 + SECRET;
/// The length of a key in bytes.
pub const LENGTH: usize = COVERED + CHECKSUM;

/// A regular expression that finds keys in text, for secret scanners.
pub const SCANNER: &str = r"\btgk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b";

/// Random bytes for an id.
pub type IdEntropy = [u8; 16];
/// Random bytes for a secret.
pub type SecretEntropy = [u8; 32];

/// A key that was just made. It cannot be printed by accident: [`GeneratedKey::expose`] returns its
/// text, which is shown once.
pub struct GeneratedKey {
    id: KeyId,
    text: Secret,
}

impl GeneratedKey {
    /// Makes a key with a new id.
    #[expect(clippy::expect_used, reason = "every digit of base62 is a letter or a digit")]
    pub fn new(id: &IdEntropy, secret: &SecretEntropy) -> Self {
        // The remainder of 128 bits by 62^12 favours no id by more than 2^-56.
        let id = KeyId::new(encode(id)).expect("digits of base62");
        Self::with_id(id, secret)
    }

    /// Makes another key of an id: a rotation.
    pub fn with_id(id: KeyId, secret: &SecretEntropy) -> Self {
        let mut digits = encode::<SECRET>(secret);
        let mut text = Vec::with_capacity(LENGTH);
        text.extend_from_slice(PREFIX.as_bytes());
        text.extend_from_slice(id.digits());
        text.push(b'_');
        text.extend_from_slice(&digits);
        let checksum = encode::<CHECKSUM>(&crc32fast::hash(&text).to_be_bytes());
        text.extend_from_slice(&checksum);
        digits.zeroize();
        Self { id, text: Secret::new(text) }
    }

    /// Returns the id of the key.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the text of the key, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.text.expose()).unwrap_or_default()
    }

    /// Returns the digest that is stored.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.text.expose())
    }
}

impl fmt::Debug for GeneratedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GeneratedKey({})", self.id)
    }
}

/// What a text with the prefix of a key turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A key with a correct checksum.
    Key(KeyId),
    /// The text does not begin with the prefix.
    Foreign,
    /// The text begins with the prefix, and its length or a character is not that of a key.
    Malformed,
    /// The checksum is not that of the text.
    BadChecksum,
}

/// Reads the format of a key. It takes the same few hundred instructions for every text.
pub(super) fn read(text: &[u8]) -> Format {
    if !text.starts_with(PREFIX.as_bytes()) {
        return Format::Foreign;
    }
    let Ok(key) = <&[u8; LENGTH]>::try_from(text) else { return Format::Malformed };
    let (covered, checksum) = key.split_at(COVERED);
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_alphanumeric);
    let (Some((id, [b'_', secret @ ..])), true) = (
        covered.strip_prefix(PREFIX.as_bytes()).and_then(<[u8]>::split_first_chunk),
        digits(checksum),
    ) else {
        return Format::Malformed;
    };
    let Some(id) = KeyId::new(*id).filter(|_| digits(secret)) else { return Format::Malformed };
    if encode::<CHECKSUM>(&crc32fast::hash(covered).to_be_bytes()) == *checksum {
        Format::Key(id)
    } else {
        Format::BadChecksum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "tgk_7Jk2mN4pQ8rT_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2fQEWa";

    #[test]
    fn a_key_is_read_with_its_id() {
        assert_eq!(KEY.len(), LENGTH);
        assert_eq!(read(KEY.as_bytes()), Format::Key("7Jk2mN4pQ8rT".parse().unwrap()));
    }

    #[test]
    fn a_changed_character_fails_the_checksum_and_others_the_format() {
        for at in PREFIX.len()..LENGTH {
            let mut text = KEY.as_bytes().to_vec();
            let separator = text[at] == b'_';
            text[at] = if text[at] == b'B' { b'C' } else { b'B' };
            let expected = if separator { Format::Malformed } else { Format::BadChecksum };
            assert_eq!(read(&text), expected, "{at}");
            text[at] = b'.';
            assert_eq!(read(&text), Format::Malformed, "{at}");
        }
        assert_eq!(read(&KEY.as_bytes()[..LENGTH - 1]), Format::Malformed);
        assert_eq!(read(format!("{KEY}A").as_bytes()), Format::Malformed);
        assert_eq!(read(b"tgk_"), Format::Malformed);
        for foreign in ["", "sk-1234", "TGK_7Jk2mN4pQ8rT"] {
            assert_eq!(read(foreign.as_bytes()), Format::Foreign, "{foreign}");
        }
    }

    #[test]
    fn keys_are_made_of_their_entropy_and_keep_their_id_in_a_rotation() {
        let key = GeneratedKey::new(&[7; 16], &[9; 32]);
        assert_eq!(read(key.expose().as_bytes()), Format::Key(key.id()));
        let rotated = GeneratedKey::with_id(key.id(), &[10; 32]);
        assert_eq!(read(rotated.expose().as_bytes()), Format::Key(key.id()));
        assert_ne!(key.digest(), rotated.digest());
        assert_ne!(key.id(), GeneratedKey::new(&[8; 16], &[9; 32]).id());
        // Nothing of the secret is printed.
        let printed = format!("{key:?}");
        assert_eq!(printed, format!("GeneratedKey({})", key.id()));
    }

    #[test]
    fn the_expression_for_scanners_finds_keys_in_text() {
        let scanner = regex::Regex::new(SCANNER).unwrap();
        for entropy in 0..50 {
            let key = GeneratedKey::new(&[entropy; 16], &[entropy; 32]);
            let text = format!("export KEY=\"{}\"\n", key.expose());
            assert_eq!(scanner.find(&text).map(|found| found.as_str()), Some(key.expose()));
        }
        assert!(!scanner.is_match("tgk_example"));
    }
}
