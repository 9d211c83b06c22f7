//! YAML as a tree with the line of each value.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Error, Spanned, budget::BudgetBreach};

use super::{ConfigError, ConfigErrorKind, path::Step};

/// Most values of a configuration.
pub(super) const MAX_VALUES: usize = 250_000;
/// The message about a configuration with more values.
pub(super) const TOO_LARGE: &str = "the file is larger than a configuration can be";
/// Most levels of nested lists and maps.
const MAX_DEPTH: usize = 32;

/// A value and its line, from 1 (0: unknown).
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) line: u64,
}

/// A value of YAML's core schema.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            (Value::List(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }
}

/// Reads one document. An empty one is an empty map, so that its errors name the missing keys.
pub(super) fn read(text: &str, max_values: usize, too_large: &str) -> Result<Node, ConfigError> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        budget: serde_saphyr::budget! { max_documents: 1, max_depth: MAX_DEPTH, max_aliases: 0,
            max_nodes: max_values, max_events: 4 * max_values },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options) {
        Ok(spanned) => match node(spanned) {
            Node { value: Value::Null, line } => Ok(Node { value: Value::Map(Vec::new()), line }),
            node => Ok(node),
        },
        Err(error) => {
            // The snippet shows lines of the file, and a line may contain a secret.
            let error = error.without_snippet();
            let line = error.location().map(|location| location.line());
            Err(ConfigError {
                line,
                path: String::new(),
                kind: in_words(error, too_large),
                remedy: None,
            })
        }
    }
}

/// The parser's error in the words of this crate.
fn in_words(error: &Error, too_large: &str) -> ConfigErrorKind {
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            ConfigErrorKind::Syntax(format!("the key `{key}` is written twice; remove one of them"))
        }
        Error::Budget { breach: BudgetBreach::Aliases { .. }, .. } => {
            "anchors and aliases are not supported; write the value in each place".into()
        }
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            "the file has a second document; remove `---` and what follows".into()
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("lists and maps are nested in more than {MAX_DEPTH} levels").into()
        }
        Error::Budget { .. } => ConfigErrorKind::Invalid(too_large.to_owned()),
        _ => ConfigErrorKind::Syntax(without_line(error)),
    }
}

/// The parser's message without the line, which every error begins with.
fn without_line(error: &Error) -> String {
    let message = error.to_string();
    let Some(location) = error.location() else { return message };
    let column = location.column();
    match message.strip_suffix(&format!(" at line {}, column {column}", location.line())) {
        Some(message) => format!("{message} at column {column}"),
        None => message,
    }
}

fn node(spanned: Spanned<Value>) -> Node {
    Node { line: spanned.referenced.line(), value: spanned.value }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(node(item));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map: Vec<(String, Node)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Spanned<Value>>()? {
            map.push((key, node(value)));
        }
        Ok(Value::Map(map))
    }
}
