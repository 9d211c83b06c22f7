//! The elements of a list, the entries of a map and the variant of an enum.

use serde::{
    Deserializer as _,
    de::{
        DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor, value::StrDeserializer,
    },
};

use super::De;
use crate::config::read_error::ReadError;

/// The elements of a list.
pub(super) struct Items<'a>(pub(super) std::vec::IntoIter<De<'a>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        self.0.next().map(|de| seeded(seed, de)).transpose()
    }
}

/// The entries of a map.
pub(super) struct Entries<'a> {
    pub(super) rest: std::vec::IntoIter<(&'a str, De<'a>)>,
    /// The value of the key that was read last.
    pub(super) value: Option<De<'a>>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some((key, de)) = self.rest.next() else { return Ok(None) };
        self.value = Some(de);
        let key: StrDeserializer<'_, ReadError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let de =
            self.value.take().ok_or_else(|| ReadError::custom("a key is read before its value"))?;
        seeded(seed, de)
    }
}

/// Deserialises one value. An error without a place gets the value's.
fn seeded<'de, T: DeserializeSeed<'de>>(seed: T, de: De<'_>) -> Result<T::Value, ReadError> {
    let path = de.path.clone();
    seed.deserialize(de).map_err(|error| error.placed(&path))
}

/// The variant of an enum.
pub(super) struct Variant<'a> {
    pub(super) name: &'a str,
    pub(super) value: Option<De<'a>>,
}

impl Variant<'_> {
    fn without_value(name: &str, expected: &str) -> ReadError {
        ReadError::custom(format!("`{name}` needs {expected}: write `{name}: …`"))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = ReadError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), ReadError> {
        let name: StrDeserializer<'_, ReadError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        match self.value {
            None => Ok(()),
            Some(de) => {
                let message = format!("`{0}` has no value: write `{0}` alone", self.name);
                Err(ReadError::at(de.path, message.into()))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ReadError> {
        match self.value {
            Some(de) => seeded(seed, de),
            None => Err(Self::without_value(self.name, "a value")),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Some(de) => de.deserialize_seq(visitor),
            None => Err(Self::without_value(self.name, "a list")),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.value {
            Some(de) => de.deserialize_struct("", fields, visitor),
            None => Err(Self::without_value(self.name, "keys")),
        }
    }
}
