//! The tree as typed values. Unknown keys are gathered, and a value of the wrong shape does not hide the others.

use std::cell::RefCell;

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    Errors, Gaps, Path,
    tree::{Node, Value},
};

/// How many wrong values are looked for in one file.
const MOST: usize = 64;

/// Deserialises `root` again and again, each time leaving out the values already known to be wrong, until it reads.
pub(super) fn read_all<T: DeserializeOwned>(root: &Node) -> (Option<T>, Errors, Gaps) {
    let mut errors = Errors::default();
    let mut wrong: Vec<Path> = Vec::new();
    let mut unread: Vec<Path> = Vec::new();
    for _ in 0..MOST {
        let unknown = RefCell::new(Vec::new());
        let result =
            T::deserialize(De { node: root, path: Path::root(), wrong: &wrong, unknown: &unknown });
        for Unknown { path, message, meant } in unknown.into_inner() {
            if !unread.contains(&meant) {
                unread.push(meant);
            }
            if !errors.0.iter().any(|known| known.path == path) {
                errors.push(&path, message);
            }
        }
        match result {
            Ok(value) => return (Some(value), errors, Gaps::new(wrong, unread)),
            Err(Mistake { path, message }) => {
                // A map that lost a wrong value now lacks its key: that is the same mistake, not a second one.
                let missing =
                    message.strip_prefix("missing key `").and_then(|rest| rest.strip_suffix('`'));
                if !missing.is_some_and(|key| wrong.contains(&path.key(key))) {
                    errors.push(&path, message);
                }
                if path.0.is_empty() || wrong.contains(&path) {
                    break;
                }
                wrong.push(path);
            }
        }
    }
    (None, errors, Gaps::default())
}

/// A key that nobody knows.
struct Unknown {
    path: Path,
    message: String,
    /// The place that was probably meant: that of the key that is spelled like it, or anything beside it.
    meant: Path,
}

/// A value of the wrong shape.
#[derive(Debug)]
struct Mistake {
    path: Path,
    message: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for Mistake {}

impl serde::de::Error for Mistake {
    fn custom<M: std::fmt::Display>(message: M) -> Self {
        Self { path: Path::root(), message: plain(&message.to_string()) }
    }
}

/// Serde's words for Rust's shapes, in the words of a YAML file.
fn plain(message: &str) -> String {
    let mut text = message.to_owned();
    for (from, to) in [
        ("invalid type: ", "expected something else here: "),
        ("missing field ", "missing key "),
        ("unknown variant ", "unknown value "),
        ("sequence", "list"),
        ("string \"", "text \""),
        ("a borrowed string", "text"),
        ("a string", "text"),
        ("unit value", "nothing"),
    ] {
        text = text.replace(from, to);
    }
    text
}

struct De<'a> {
    node: &'a Node,
    path: Path,
    wrong: &'a [Path],
    unknown: &'a RefCell<Vec<Unknown>>,
}

impl<'a> De<'a> {
    fn below(&self, node: &'a Node, path: Path) -> Self {
        De { node, path, wrong: self.wrong, unknown: self.unknown }
    }

    fn entries(&self) -> Vec<(&'a str, De<'a>)> {
        let Value::Map(entries) = &self.node.value else { return Vec::new() };
        entries
            .iter()
            .map(|(key, node)| (key.as_str(), self.below(node, self.path.key(key))))
            .filter(|(_, de)| !self.wrong.contains(&de.path))
            .collect()
    }

    fn items(&self) -> Vec<De<'a>> {
        let Value::List(items) = &self.node.value else { return Vec::new() };
        items
            .iter()
            .enumerate()
            .map(|(index, node)| self.below(node, self.path.index(index)))
            .filter(|de| !self.wrong.contains(&de.path))
            .collect()
    }
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let path = self.path.clone();
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
        result.map_err(|mistake| at(path, mistake))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        // An empty value (`limits:` with nothing after it) is a mistake to point at, not "left out".
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        if !matches!(self.node.value, Value::Map(_)) {
            return self.deserialize_any(visitor);
        }
        let path = self.path.clone();
        let mut known = Vec::new();
        for (key, de) in self.entries() {
            if fields.contains(&key) {
                known.push((key, de));
            } else {
                let near = near(key, fields);
                let meant = near.map_or_else(|| self.path.clone(), |near| self.path.key(near));
                self.unknown.borrow_mut().push(Unknown {
                    message: unknown_key(key, near, fields),
                    path: de.path,
                    meant,
                });
            }
        }
        visitor
            .visit_map(Entries { rest: known.into_iter(), value: None })
            .map_err(|mistake| at(path, mistake))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let path = self.path.clone();
        if name == super::BY_KEY {
            // The keys as written: one whose value is wrong still says what was meant.
            let Value::Map(written) = &self.node.value else {
                return Err(Mistake { path, message: "expected keys here".into() });
            };
            let Some(variant) =
                variants.iter().find(|variant| written.iter().any(|(key, _)| key == *variant))
            else {
                let message = format!("one of the keys `{}` is needed here", variants.join("`, `"));
                return Err(Mistake { path, message });
            };
            return visitor
                .visit_enum(Variant { name: variant, value: Some(self) })
                .map_err(|mistake| at(path, mistake));
        }
        let variant = match &self.node.value {
            Value::Text(name) => Variant { name, value: None },
            Value::Map(_) => match <[_; 1]>::try_from(self.entries()) {
                Ok([(name, de)]) => Variant { name, value: Some(de) },
                Err(_) => return Err(Mistake { path, message: "expected one key here".into() }),
            },
            _ => return Err(Mistake { path, message: "expected a word here".into() }),
        };
        visitor.visit_enum(variant).map_err(|mistake| at(path, mistake))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// Places a mistake that does not know its place yet.
fn at(path: Path, mistake: Mistake) -> Mistake {
    if mistake.path.0.is_empty() { Mistake { path, ..mistake } } else { mistake }
}

/// The key that is spelled nearly like this one.
fn near<'a>(key: &str, fields: &[&'a str]) -> Option<&'a str> {
    fields
        .iter()
        .copied()
        .filter(|field| distance(key, field) <= 2)
        .min_by_key(|field| distance(key, field))
}

fn unknown_key(key: &str, near: Option<&str>, fields: &[&str]) -> String {
    match near {
        Some(field) => format!("unknown key `{key}`; did you mean `{field}`?"),
        None => format!("unknown key `{key}`; known here: {}", fields.join(", ")),
    }
}

/// Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

struct Items<'a>(std::vec::IntoIter<De<'a>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mistake> {
        self.0.next().map(|de| seeded(seed, de)).transpose()
    }
}

struct Entries<'a> {
    rest: std::vec::IntoIter<(&'a str, De<'a>)>,
    value: Option<De<'a>>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mistake> {
        let Some((key, de)) = self.rest.next() else { return Ok(None) };
        self.value = Some(de);
        let key: StrDeserializer<'_, Mistake> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let de = self
            .value
            .take()
            .ok_or_else(|| serde::de::Error::custom("a value was asked for before its key"))?;
        seeded(seed, de)
    }
}

/// Deserialises one value; a mistake without a place (from a `custom` error of a leaf) gets the value's.
fn seeded<'de, T: DeserializeSeed<'de>>(seed: T, de: De<'_>) -> Result<T::Value, Mistake> {
    let path = de.path.clone();
    seed.deserialize(de).map_err(|mistake| at(path, mistake))
}

struct Variant<'a> {
    name: &'a str,
    value: Option<De<'a>>,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Mistake;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), Mistake> {
        let name: StrDeserializer<'_, Mistake> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        match self.value {
            None => Ok(()),
            Some(de) => Err(Mistake { path: de.path, message: "expected nothing here".into() }),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mistake> {
        self.value.map_or_else(
            || Err(serde::de::Error::custom("expected a value after this word")),
            |de| seeded(seed, de),
        )
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.value.map_or_else(
            || Err(serde::de::Error::custom("expected a list after this word")),
            |de| de.deserialize_any(visitor),
        )
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.value.map_or_else(
            || Err(serde::de::Error::custom("expected keys after this word")),
            |de| de.deserialize_struct("", fields, visitor),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::Document;
    use crate::time::Span;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        name: String,
        #[serde(default)]
        items: Vec<Item>,
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        wait: Span,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Deny,
        Error,
    }

    fn read(text: &str) -> Result<File, Vec<String>> {
        let lines = |errors: Vec<super::super::ConfigError>| {
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        Document::parse(text, &|_| None).map_err(lines)?.read().map_err(lines)
    }

    #[test]
    fn a_good_file_reads() {
        let file = read("name: x\nitems: [{wait: 5s}]\nmode: error\n").unwrap();
        assert_eq!(
            (file.name.as_str(), file.items[0].wait, file.mode),
            ("x", Span::from_secs(5), Some(Mode::Error))
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_line() {
        let errors = read(
            "nam: x\nitems:\n  - wait: 5\n  - wait: 5s\n    wiat: 1\n  - wait: soon\nmode: dney\n",
        )
        .unwrap_err();
        let expected = [
            "line 1: nam: unknown key `nam`; did you mean `name`?",
            "line 1: missing key `name`",
            "line 3: items[0].wait: expected something else here: integer `5`, expected text",
            "line 5: items[1].wiat: unknown key `wiat`; did you mean `wait`?",
            "line 6: items[2].wait: `soon` is not a duration; write an integer and `ms`, `s`, `m`, `h` or `d`, such as `30s`",
            "line 7: mode: unknown value `dney`, expected `deny` or `error`",
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn yaml_that_two_readers_could_read_differently_is_refused() {
        for text in [
            "name: a\nname: b\n",
            "name: a\n---\nname: b\n",
            "a: &x 1\nname: *x\n",
            "name: [\n",
            "name:\titems\n\t- x",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_value_is_not_the_same_as_left_out() {
        assert!(read("name: x\nitems:\n").is_err());
        assert!(read("name: x\nmode:\n").is_err());
        assert!(read("name: x\n").is_ok());
    }
}
