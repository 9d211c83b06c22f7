//! The form of the files, as they are written.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};

/// One file of tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileConfig {
    pub(super) name: String,
    /// Inventories that `tools/members check` holds the file against.
    #[serde(rename = "inventory")]
    pub(super) _inventory: Vec<String>,
    #[serde(default)]
    pub(super) tables: BTreeMap<String, TableConfig>,
    #[serde(default)]
    pub(super) routes: Vec<RouteRow>,
    #[serde(default)]
    pub(super) headers: Vec<HeaderRow>,
}

/// One table of members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableConfig {
    #[serde(default)]
    pub(super) like: Vec<String>,
    #[serde(default)]
    pub(super) not: Vec<String>,
    #[serde(default)]
    pub(super) unknown: UnknownRow,
    #[serde(default)]
    pub(super) rows: Vec<Row>,
}

/// What members without a row are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnknownRow {
    #[default]
    Deny,
    Pass,
}

/// Members that are the same.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) plain: Option<Vec<Name>>,
    pub(super) capped: Option<Vec<Name>>,
    pub(super) scoped: Option<Vec<Name>>,
    pub(super) denied: Option<Vec<Name>>,
    pub(super) why: String,
    pub(super) cap: Option<String>,
    pub(super) most: Option<u64>,
    pub(super) scope: Option<String>,
    pub(super) open: Option<String>,
    pub(super) of: Option<String>,
    pub(super) values: Option<String>,
    pub(super) media: Option<Medium>,
    pub(super) names: Option<NamesRow>,
    #[serde(default)]
    pub(super) text: bool,
    #[serde(default)]
    pub(super) hidden: bool,
    #[serde(default)]
    pub(super) skip: bool,
    #[serde(default)]
    pub(super) refers: bool,
    #[serde(default)]
    pub(super) inline: bool,
    #[serde(default)]
    pub(super) adapter: bool,
    /// For `tools/members check`.
    #[serde(default, rename = "unread")]
    pub(super) _unread: bool,
    #[serde(rename = "source")]
    pub(super) _source: Option<Source>,
}

/// A member's name, or a value: `true` is the value `true`.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, `true` or `false`")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Name, E> {
                Ok(Name(value.to_string()))
            }
        }
        deserializer.deserialize_any(NameVisitor)
    }
}

/// What a medium is. Images, audio and the rest are counted by `cap`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Medium {
    Image,
    Audio,
    Video,
    File,
}

/// `names` of a row.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum NamesRow {
    #[serde(rename = "tool")]
    Tool,
    #[serde(rename = "tool-type")]
    ToolType,
}

/// `source` of a row.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    Documentation,
}

/// Routes and their tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteRow {
    pub(super) paths: Vec<String>,
    pub(super) methods: Option<Vec<String>>,
    pub(super) json: Option<String>,
    pub(super) form: Option<String>,
    pub(super) query: Option<String>,
    pub(super) prefix: Option<String>,
}

/// Headers that a server reads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderRow {
    pub(super) kept: Option<Vec<String>>,
    pub(super) removed: Option<Vec<String>>,
    pub(super) why: String,
    #[serde(rename = "source")]
    pub(super) _source: Option<Source>,
}
