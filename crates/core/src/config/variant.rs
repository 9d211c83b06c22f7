//! Enums whose variant is chosen by a key of the map.

use serde::{Deserializer, de::Visitor};

/// The name under which [`variant_by_key`] reaches the deserializer of a document. Serde has no
/// other channel for it.
pub(super) const VARIANT_BY_KEY: &str = "variant by key";

/// Deserialises an enum whose variant is the first of `variants` that is a key of the map. The
/// variant's value is the whole map, that key included.
///
/// # Errors
/// A value that is not a map, a map with none of the keys, or an error of the visitor.
pub(crate) fn variant_by_key<'de, D: Deserializer<'de>, V: Visitor<'de>>(
    deserializer: D,
    variants: &'static [&'static str],
    visitor: V,
) -> Result<V::Value, D::Error> {
    deserializer.deserialize_enum(VARIANT_BY_KEY, variants, visitor)
}
