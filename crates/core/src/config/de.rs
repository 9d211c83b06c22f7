//! The tree as a serde deserializer. Unknown keys are collected and do not stop a pass.

mod access;

use std::cell::{Cell, RefCell};

use serde::{Deserializer, de::Visitor, forward_to_deserialize_any};

use self::access::{Entries, Items, Variant};
use super::{
    ConfigErrorKind, Found, OmittedPaths, Path,
    error::{Alternatives, Words},
    read_error::{ReadError, found, wrong_type},
    tree::{Node, Value},
    variant::VARIANT_BY_KEY,
};

/// A key that its map does not have.
#[derive(Debug)]
pub(super) struct UnknownKey {
    /// The place of the map.
    pub(super) map: Path,
    pub(super) key: String,
    /// The keys that the map has.
    pub(super) known: Vec<&'static str>,
}

/// What one pass over a document needs and collects.
pub(super) struct Pass<'a> {
    omitted: &'a OmittedPaths,
    /// All keys of the top level, where several parts of the document are read one by one.
    document_keys: &'a [&'static str],
    unknown_keys: RefCell<Vec<UnknownKey>>,
    top_level_keys: Cell<&'static [&'static str]>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(omitted: &'a OmittedPaths, document_keys: &'a [&'static str]) -> Self {
        let (unknown_keys, top_level_keys) = (RefCell::default(), Cell::default());
        Self { omitted, document_keys, unknown_keys, top_level_keys }
    }

    pub(super) fn deserializer(&'a self, root: &'a Node) -> De<'a> {
        De { node: root, path: Path::root(), pass: self }
    }

    pub(super) fn into_unknown_keys(self) -> Vec<UnknownKey> {
        self.unknown_keys.into_inner()
    }

    /// The keys of the struct that the whole document was read as.
    pub(super) fn top_level_keys(&self) -> &'static [&'static str] {
        self.top_level_keys.get()
    }
}

/// A node of the tree as a deserializer.
pub(super) struct De<'a> {
    node: &'a Node,
    path: Path,
    pass: &'a Pass<'a>,
}

impl<'a> De<'a> {
    fn below(&self, node: &'a Node, path: Path) -> Self {
        De { node, path, pass: self.pass }
    }

    fn entries(&self) -> Vec<(&'a str, De<'a>)> {
        let Value::Map(entries) = &self.node.value else { return Vec::new() };
        let omitted = self.pass.omitted;
        let written = entries
            .iter()
            .map(|(key, node)| (key.as_str(), self.below(node, self.path.key(key))))
            .filter(|(_, de)| !omitted.contains(&de.path));
        let assumed = omitted
            .assumed_in(&self.path)
            .map(|(key, node)| (key, self.below(node, self.path.key(key))));
        written.chain(assumed).collect()
    }

    fn items(&self) -> Vec<De<'a>> {
        let Value::List(items) = &self.node.value else { return Vec::new() };
        items
            .iter()
            .enumerate()
            .map(|(index, node)| self.below(node, self.path.index(index)))
            .filter(|de| !self.pass.omitted.contains(&de.path))
            .collect()
    }

    fn wrong_type(&self, expected: impl Into<String>) -> ReadError {
        wrong_type(expected.into(), found(&self.node.value)).placed(&self.path)
    }

    /// As [`Self::wrong_type`], for places where text may be a secret in the wrong place.
    fn wrong_type_without_text(&self, expected: impl Into<String>) -> ReadError {
        let found = match found(&self.node.value) {
            Found::Text(_) => Found::Text(None),
            found => found,
        };
        wrong_type(expected.into(), found).placed(&self.path)
    }

    fn out_of_range(&self, expected: String, found: String) -> ReadError {
        ReadError::at(self.path.clone(), ConfigErrorKind::OutOfRange { expected, found })
    }

    /// The value as a whole number of at most `most`.
    fn unsigned(&self, most: u64) -> Result<u64, ReadError> {
        match self.node.value {
            Value::Unsigned(number) if number <= most => Ok(number),
            Value::Unsigned(number) => {
                Err(self.out_of_range(format!("a number of at most {most}"), number.to_string()))
            }
            Value::Signed(number) => {
                Err(self.out_of_range("a number of 0 or more".into(), number.to_string()))
            }
            Value::Float(_) => Err(self.wrong_type("a whole number")),
            _ => Err(self.wrong_type("a number")),
        }
    }

    /// The value as a whole number of `least` to `most`.
    fn signed(&self, least: i64, most: i64) -> Result<i64, ReadError> {
        let range = || format!("a number of {least} to {most}");
        match self.node.value {
            Value::Unsigned(number) => i64::try_from(number)
                .ok()
                .filter(|number| *number <= most)
                .ok_or_else(|| self.out_of_range(range(), number.to_string())),
            Value::Signed(number) if number >= least => Ok(number),
            Value::Signed(number) => Err(self.out_of_range(range(), number.to_string())),
            Value::Float(_) => Err(self.wrong_type("a whole number")),
            _ => Err(self.wrong_type("a number")),
        }
    }

    /// The entries of a map whose keys are `fields`. Other keys are collected as unknown.
    fn known_entries(&self, fields: &'static [&'static str]) -> Vec<(&'a str, De<'a>)> {
        let (known, others): (Vec<_>, Vec<_>) =
            self.entries().into_iter().partition(|(key, _)| fields.contains(key));
        let mut all = fields.to_vec();
        if self.path.is_root() {
            self.pass.top_level_keys.set(fields);
            if !self.pass.document_keys.is_empty() {
                all = self.pass.document_keys.to_vec();
            }
        }
        let mut unknown_keys = self.pass.unknown_keys.borrow_mut();
        for (key, _) in others.into_iter().filter(|(key, _)| !all.contains(key)) {
            unknown_keys.push(UnknownKey {
                map: self.path.clone(),
                key: key.to_owned(),
                known: all.clone(),
            });
        }
        known
    }
}

macro_rules! deserialize_numbers {
    ($($method:ident $visit:ident $read:ident($($bound:expr),+);)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            let number = self.$read($($bound),+)?;
            visitor.$visit(number).map_err(|error: ReadError| error.placed(&self.path))
        })+
    };
}

macro_rules! deserialize_shapes {
    ($($method:ident $shape:pat => $expected:literal;)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match self.node.value {
                $shape => self.deserialize_any(visitor),
                _ => Err(self.wrong_type($expected)),
            }
        })+
    };
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(_) => visitor.visit_seq(Items(self.items().into_iter())),
            Value::Map(_) => {
                visitor.visit_map(Entries { rest: self.entries().into_iter(), value: None })
            }
        };
        result.map_err(|error: ReadError| error.placed(&self.path))
    }

    deserialize_numbers! {
        deserialize_u8 visit_u64 unsigned(u8::MAX.into());
        deserialize_u16 visit_u64 unsigned(u16::MAX.into());
        deserialize_u32 visit_u64 unsigned(u32::MAX.into());
        deserialize_u64 visit_u64 unsigned(u64::MAX);
        deserialize_i8 visit_i64 signed(i8::MIN.into(), i8::MAX.into());
        deserialize_i16 visit_i64 signed(i16::MIN.into(), i16::MAX.into());
        deserialize_i32 visit_i64 signed(i32::MIN.into(), i32::MAX.into());
        deserialize_i64 visit_i64 signed(i64::MIN, i64::MAX);
    }

    deserialize_shapes! {
        deserialize_f32 Value::Float(_) | Value::Unsigned(_) | Value::Signed(_) => "a number";
        deserialize_f64 Value::Float(_) | Value::Unsigned(_) | Value::Signed(_) => "a number";
        deserialize_bool Value::Bool(_) => "`true` or `false`";
        deserialize_str Value::Text(_) => "text";
        deserialize_string Value::Text(_) => "text";
        deserialize_seq Value::List(_) => "a list";
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(self.wrong_type_without_text("a map (`key: value`)")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        // An empty value (`limits:` with nothing after it) is an error to report, not an absent
        // key.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if !matches!(self.node.value, Value::Map(_)) {
            return Err(self.wrong_type_without_text("a map (`key: value`)"));
        }
        let known = self.known_entries(fields);
        visitor
            .visit_map(Entries { rest: known.into_iter(), value: None })
            .map_err(|error| error.placed(&self.path))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let path = self.path.clone();
        let variant = if name == VARIANT_BY_KEY {
            self.variant_by_key(variants)
        } else {
            self.variant(variants)
        };
        visitor.visit_enum(variant?).map_err(|error| error.placed(&path))
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl<'a> De<'a> {
    /// A word, or a map with one key: the variant's name and its value.
    fn variant(self, variants: &'static [&'static str]) -> Result<Variant<'a>, ReadError> {
        match &self.node.value {
            Value::Text(name) => Ok(Variant { name, value: None }),
            Value::Map(written) if written.len() == 1 => match self.entries().pop() {
                Some((name, de)) => Ok(Variant { name, value: Some(de) }),
                // The value of the key was omitted.
                None => Err(ReadError::at(self.path, ConfigErrorKind::MissingOneOf(variants))),
            },
            Value::Map(written) => {
                let keys: Vec<&str> = written.iter().map(|(key, _)| key.as_str()).collect();
                let found = if keys.is_empty() {
                    "none".to_owned()
                } else {
                    Words { words: &keys, last: "and" }.to_string()
                };
                let expected = Alternatives(variants);
                let message = format!("expected one key, {expected}, found {found}");
                Err(ReadError::at(self.path, message.into()))
            }
            _ => Err(self.wrong_type(Alternatives(variants).to_string())),
        }
    }

    /// A map with a key that is the name of a variant. The variant's value is the whole map.
    fn variant_by_key(self, variants: &'static [&'static str]) -> Result<Variant<'a>, ReadError> {
        // The keys as written: a key whose value was omitted still names the variant.
        let Value::Map(written) = &self.node.value else {
            return Err(self.wrong_type_without_text("a map (`key: value`)"));
        };
        let is_written = |variant: &&&str| written.iter().any(|(key, _)| key == **variant);
        match variants.iter().find(is_written) {
            Some(name) => Ok(Variant { name, value: Some(self) }),
            None => Err(ReadError::at(self.path, ConfigErrorKind::MissingOneOf(variants))),
        }
    }
}
