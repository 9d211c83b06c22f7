//! The terms of an API key: what its record adds to the identity of its holder.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::{config::from_text, network::Networks, time::Quota};

/// The id of an API key: 12 base62 digits. It is no secret, and it survives rotation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KeyId::LENGTH]);

/// A text that is not the id of a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not the id of a key, which is 12 letters and digits of ASCII")]
pub struct KeyIdError(String);

impl KeyId {
    /// The number of digits.
    pub const LENGTH: usize = 12;

    /// Creates an id from its digits; `None` where a byte is no letter and no digit of ASCII.
    pub fn new(digits: [u8; Self::LENGTH]) -> Option<Self> {
        digits.iter().all(u8::is_ascii_alphanumeric).then_some(Self(digits))
    }

    /// Returns the digits.
    pub const fn digits(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Returns the digits as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl AsRef<[u8]> for KeyId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let digits = <[u8; Self::LENGTH]>::try_from(text.as_bytes()).ok();
        digits.and_then(Self::new).ok_or_else(|| KeyIdError(text.to_owned()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the id of a key, such as `7Jk2mN4pQ8rT`")
    }
}

/// What the record of an API key adds to the identity of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTerms {
    /// The id of the key.
    pub id: KeyId,
    /// The serial number of the record in its table: another one after every change.
    pub serial: u64,
    /// The models that the key may use, by their policy names. `None`: those that the policy
    /// allows.
    pub models: Option<Box<[Box<str>]>>,
    /// The networks from which the key may be used. `None`: every network.
    pub networks: Option<Networks>,
    /// The tier of the key, which overrides of limits select by.
    pub tier: Option<Box<str>>,
    /// The quotas that the record sets for limits of the policy, by the name of the limit.
    pub limits: Box<[(Box<str>, Quota)]>,
    /// Whether the key has a foreign format, of which the strength is unknown.
    pub weak: bool,
}

impl KeyTerms {
    /// Whether the key may be used for a model.
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|known| **known == *model))
    }

    /// Whether the key may be used from an address. An unknown address is in no network.
    pub fn allows_address(&self, address: Option<IpAddr>) -> bool {
        self.networks
            .as_ref()
            .is_none_or(|networks| address.is_some_and(|address| networks.contains(address)))
    }

    /// Returns the quota that the record sets for a limit.
    pub fn quota(&self, limit: &str) -> Option<Quota> {
        self.limits.iter().find(|(name, _)| **name == *limit).map(|(_, quota)| *quota)
    }

    /// Returns the bytes that the terms take.
    pub(super) fn size(&self) -> usize {
        let models = self.models.iter().flatten().map(|name| size_of_val(name) + name.len());
        let limits = self.limits.iter().map(|limit| size_of_val(limit) + limit.0.len());
        let networks = self.networks.iter().flat_map(Networks::iter).map(size_of_val);
        size_of::<Self>()
            + models.sum::<usize>()
            + limits.sum::<usize>()
            + networks.sum::<usize>()
            + self.tier.as_ref().map_or(0, |tier| tier.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_twelve_letters_and_digits() {
        assert_eq!("7Jk2mN4pQ8rT".parse::<KeyId>().unwrap().to_string(), "7Jk2mN4pQ8rT");
        for text in ["", "7Jk2mN4pQ8r", "7Jk2mN4pQ8rTx", "7Jk2mN4pQ8r-", "7Jk2mN4pQ8\u{e9}"] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }

    #[test]
    fn terms_that_are_left_out_restrict_nothing_and_empty_lists_allow_nothing() {
        let open = KeyTerms {
            id: "7Jk2mN4pQ8rT".parse().unwrap(),
            serial: 0,
            models: None,
            networks: None,
            tier: None,
            limits: Box::default(),
            weak: false,
        };
        assert!(open.allows_model("any") && open.allows_address(None));
        let closed = KeyTerms {
            models: Some(Box::default()),
            networks: Some(Networks::parse(&["10.0.0.0/8"]).unwrap()),
            ..open
        };
        assert!(!closed.allows_model("any") && !closed.allows_address(None));
        assert!(closed.allows_address(Some([10, 1, 2, 3].into())));
        assert!(closed.allows_address(Some("::ffff:10.1.2.3".parse().unwrap())));
        assert!(!closed.allows_address(Some([11, 1, 2, 3].into())));
    }
}
