//! The document of a key set: its keys as text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The maximum size of a key set document in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The maximum number of keys in a set.
pub const MAX_KEYS: usize = 256;

/// Returns the keys of a document, at most one more than a set may have; `None` where it is not a
/// key set.
pub(super) fn keys(document: &[u8]) -> Option<Vec<&RawValue>> {
    let Document { keys: FirstKeys(keys) } = serde_json::from_slice(document).ok()?;
    Some(keys)
}

/// A key set whose keys are kept as text, because jsonwebtoken's type for a JWK loses members.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: FirstKeys<'a>,
}

/// At most one key more than a set may have. A document of [`MAX_BYTES`] has room for half a
/// million empty ones.
struct FirstKeys<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for FirstKeys<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = FirstKeys<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = list.next_element()? {
                    keys.push(key);
                    if keys.len() > MAX_KEYS {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                    }
                }
                Ok(FirstKeys(keys))
            }
        }

        deserializer.deserialize_seq(Keys)
    }
}
