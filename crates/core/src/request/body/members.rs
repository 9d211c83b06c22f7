//! What the members of a body are: tables that give each member of an object a class.
//!
//! A table describes one kind of object (a chat request, a message, a content part) or the values of one
//! member. Tables refer to each other, so that a whole request is a graph; see `route/presets/members`.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The place of a table among its [`Tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub(crate) usize);

/// Tables that refer to each other.
#[derive(Debug, Default)]
pub struct Tables {
    pub(crate) list: Vec<Table>,
    /// Members that are media wherever they are, below members that have no table of their own.
    pub(crate) media: Vec<(Arc<str>, Arc<Member>)>,
    /// The scopes of all members. What a body needs is a set of their places.
    pub(crate) scopes: Vec<String>,
}

impl Tables {
    /// The scopes of all members.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The place of a scope.
    pub(super) fn scope(&self, scope: &str) -> Option<u8> {
        let at = self.scopes.iter().position(|known| known == scope)?;
        u8::try_from(at).ok().filter(|at| *at < 64)
    }

    /// One table of members.
    pub fn get(&self, id: TableId) -> Option<&Table> {
        self.list.get(id.0)
    }
}

/// The members of one kind of object, or the values of one member.
#[derive(Debug)]
pub struct Table {
    /// Its name, with that of its file: `vllm/chat`.
    pub name: String,
    /// Whether members that it does not list are plain. Otherwise they are denied.
    pub unknown_pass: bool,
    /// What it lists.
    pub members: BTreeMap<Arc<str>, Arc<Member>>,
}

/// What one member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What a request with it needs.
    pub class: Class,
    /// The table of its value, where that is an object or a list of objects.
    pub of: Option<TableId>,
    /// The table of its value, where that is a string or a boolean, or a list of those.
    pub values: Option<TableId>,
    /// Strings here, and below where there is no table, reach the prompt.
    pub text: bool,
    /// What is here replaces text and cannot be read as text.
    pub hidden: bool,
    /// Media are not searched below.
    pub skip: bool,
    /// A string is a medium or a reference to one.
    pub media: bool,
    /// A string is fetched or opened by the server unless it is inline data.
    pub refers: bool,
    /// Plain base64 of any length is inline data here.
    pub inline: bool,
    /// A string is the name of a LoRA adapter.
    pub adapter: bool,
    /// A string names a tool.
    pub names: Option<ToolName>,
    /// The reason for the class, one sentence.
    pub why: String,
}

/// What a request with a member needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// No scope and no cap.
    Plain,
    /// To stay within a cap of the route.
    Capped(Count),
    /// To stay within a number that always holds.
    AtMost(u64),
    /// A scope besides those of the route; with a count, to stay within a cap as well.
    Scoped(String, Option<Count>),
    /// The right to a model: the model rule checks the name.
    Model,
    /// The operator's permission; with a group, also where `open` has that group.
    Denied(Option<String>),
}

/// What a member counts towards a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Tokens to generate.
    Tokens,
    /// Answers to return.
    Choices,
    /// Answers to choose from.
    BestOf,
    /// The number of prompts.
    Prompts,
    /// The number of images.
    Images,
    /// The number of audio clips.
    Audio,
    /// The number of videos.
    Videos,
    /// The number of files.
    Files,
}

impl Count {
    /// Each with its key in `caps`.
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Tokens, "max_tokens"),
        (Self::Choices, "n"),
        (Self::BestOf, "best_of"),
        (Self::Prompts, "prompts"),
        (Self::Images, "images"),
        (Self::Audio, "audio"),
        (Self::Videos, "videos"),
        (Self::Files, "files"),
    ];

    /// The count of a key in `caps`.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(count, _)| *count)
    }

    /// The key in `caps`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(count, _)| *count == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Class {
    /// As the pages and the command line show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("plain"),
            Self::Capped(count) => write!(f, "capped by `{}`", count.name()),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Scoped(scope, None) => write!(f, "needs `{scope}`"),
            Self::Scoped(scope, Some(count)) => {
                write!(f, "needs `{scope}`, capped by `{}`", count.name())
            }
            Self::Model => f.write_str("checked as a model"),
            Self::Denied(None) => f.write_str("denied"),
            Self::Denied(Some(group)) => write!(f, "denied unless `open: [{group}]`"),
        }
    }
}

/// How a string names a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolName {
    /// It is the tool's name.
    Name,
    /// It is the tool's type, which counts as its name unless the client runs the tool.
    Type,
}
