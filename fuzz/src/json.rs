//! JSON as other readers see it: serde_json's parser, with every member kept, and three ways to choose among those of one name.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A value with the members of its objects in their order, repeated ones repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// `null`, `true` or `false`.
    Word,
    /// A number that is an integer from 0.
    Whole(u64),
    /// Any other number.
    Number,
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// An object.
    Object(Vec<(String, Tree)>),
}

/// Which of several members of one name a reader takes.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    /// The first.
    First,
    /// The last, as Python does.
    Last,
    /// The last of those that fold to the name, as Go does.
    Folded,
}

impl Reading {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::First, Self::Last, Self::Folded];
}

impl Tree {
    /// Reads a body that some reader has accepted. `None` where a number is out of `f64`'s range, which serde_json has no value
    /// for; anything else that serde_json does not take is a defect of that reader.
    pub fn of_accepted(body: &[u8]) -> Option<Self> {
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(body) {
            panic!("accepted what serde_json does not take for JSON: {error}");
        }
        match serde_json::from_slice(body) {
            Ok(tree) => Some(tree),
            Err(error) if error.to_string().contains("number out of range") => None,
            Err(error) => panic!("accepted what serde_json does not read: {error}"),
        }
    }

    /// The member `name`.
    pub fn get(&self, name: &str, reading: Reading) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let mut values = members.iter();
        match reading {
            Reading::First => values.find(|(key, _)| key == name),
            Reading::Last => values.rfind(|(key, _)| key == name),
            Reading::Folded => values.rfind(|(key, _)| folded(key) == folded(name)),
        }
        .map(|(_, value)| value)
    }

    /// The member at the end of a path of names.
    pub fn at(&self, path: &[&str], reading: Reading) -> Option<&Self> {
        path.iter().try_fold(self, |tree, name| tree.get(name, reading))
    }

    /// The string it is.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The elements of the list it is; none where it is no list.
    pub fn elements(&self) -> &[Self] {
        if let Self::List(list) = self { list } else { &[] }
    }

    /// Whether no object in it, itself included, has two members of one name.
    pub fn is_unambiguous(&self) -> bool {
        match self {
            Self::List(list) => list.iter().all(Self::is_unambiguous),
            Self::Object(members) => {
                let twice = |(at, (key, _)): (usize, &(String, Self))| {
                    members.iter().take(at).any(|(other, _)| other == key)
                };
                !members.iter().enumerate().any(twice)
                    && members.iter().all(|(_, value)| value.is_unambiguous())
            }
            _ => true,
        }
    }
}

/// Unicode's simple case folding, as far as letters have one that ends in ASCII.
fn folded(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            _ => c.to_ascii_lowercase(),
        })
        .collect()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Word)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Word)
            }

            fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
                Ok(Tree::Whole(number))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Number)
            }

            fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(Tree::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    members.push(entry);
                }
                Ok(Tree::Object(members))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
