//! The tables of members, and the routes that use them.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::{
    request::body::{
        bounds_answer,
        members::{Class, Count, TableId, Tables},
    },
    rule::size::{Api, WRITTEN},
};

/// Why the tables cannot be used, which a test keeps from happening.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembersError {
    /// A file is not of the form that it must have.
    #[error("members/{0}.yaml cannot be read: {1}")]
    Unreadable(String, String),
    /// A table or a row contradicts itself or others.
    #[error("members/{0}.yaml: {1}")]
    Wrong(String, String),
    /// There is no file of the name.
    #[error("there is no file members/{0}.yaml")]
    Missing(String),
}

/// All tables, and the routes of each file that use them.
#[derive(Debug)]
pub struct Catalog {
    pub(super) tables: Tables,
    /// The tables of each file, in its order, by their full names.
    pub(super) names: BTreeMap<String, TableId>,
    pub(super) files: BTreeMap<String, MemberFile>,
}

/// The routes and headers of one server.
#[derive(Debug)]
pub struct MemberFile {
    /// The routes of the server.
    pub routes: Vec<MemberRoute>,
    /// The headers that it reads.
    pub headers: Vec<MemberHeader>,
}

/// Routes whose requests have the same tables. A place without a table has no member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRoute {
    /// Their paths, as the preset lists them.
    pub paths: Vec<String>,
    /// The methods of the routes.
    pub methods: Vec<String>,
    /// The table of the JSON body.
    pub json: Option<TableId>,
    /// The table of the form's fields.
    pub form: Option<TableId>,
    /// The table of the query's parameters.
    pub query: Option<TableId>,
    /// The header with the length of the JSON at the beginning of the body.
    pub prefix: Option<String>,
}

/// Headers that a server reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHeader {
    /// The names of the headers.
    pub names: Vec<String>,
    /// Whether they are removed from every request that passes.
    pub removed: bool,
    /// The reason, one sentence.
    pub why: String,
}

impl Catalog {
    /// Returns all tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The tables of one file by name, in alphabetical order.
    pub fn tables_of<'c>(&'c self, file: &'c str) -> impl Iterator<Item = TableId> + 'c {
        self.names
            .iter()
            .filter(move |(name, _)| name.split_once('/').is_some_and(|(home, _)| home == file))
            .map(|(_, id)| *id)
    }

    /// The tables that the requests of a file's routes reach.
    pub fn reachable(&self, file: &MemberFile) -> BTreeSet<TableId> {
        let roots = file.routes.iter().flat_map(|route| [route.json, route.form, route.query]);
        self.reachable_from(roots.flatten())
    }

    fn reachable_from(&self, roots: impl IntoIterator<Item = TableId>) -> BTreeSet<TableId> {
        let mut todo: Vec<TableId> = roots.into_iter().collect();
        let mut found = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if found.insert(id)
                && let Some(table) = self.tables.get(id)
            {
                let members = table.members.values();
                todo.extend(members.flat_map(|member| [member.of, member.values]).flatten());
            }
        }
        found
    }

    /// Whether a JSON body of `root` has a member that bounds the answer's tokens.
    pub fn bounds_answer(&self, root: TableId) -> bool {
        self.reachable_from([root]).iter().filter_map(|id| self.tables.get(*id)).any(|table| {
            table.members.iter().any(|(name, member)| {
                member.class == Class::Capped(Count::Tokens) && bounds_answer(name)
            })
        })
    }

    /// The members of a document that bound its answer and ask for its usage. `takes_zero`: whether
    /// the server answers a completion of 0 tokens with its prompt alone.
    pub fn api(&self, root: Option<TableId>, takes_zero: bool) -> Api {
        let table = root.and_then(|root| self.tables.get(root));
        let has = |name: &str| table.is_some_and(|table| table.members.contains_key(name));
        Api::Known {
            bound: WRITTEN.into_iter().find(|name| has(name)),
            asks_usage: has("stream_options"),
            takes_zero,
        }
    }

    /// The groups that `open` may name for members of a file's routes.
    pub fn groups(&self, file: &MemberFile) -> BTreeSet<&str> {
        let tables = self.reachable(file);
        let members = tables.iter().filter_map(|id| self.tables.get(*id));
        members
            .flat_map(|table| table.members.values())
            .filter_map(|member| match &member.class {
                Class::Denied(group) => group.as_deref(),
                _ => None,
            })
            .collect()
    }

    /// One file.
    ///
    /// # Errors
    /// A name without a file.
    pub fn file(&self, name: &str) -> Result<&MemberFile, MembersError> {
        self.files.get(name).ok_or_else(|| MembersError::Missing(name.to_owned()))
    }
}

impl MemberFile {
    /// The tables of a method and a path as the preset lists it.
    pub fn find(&self, method: &str, path: &str) -> Option<&MemberRoute> {
        self.routes.iter().find(|route| {
            route.methods.iter().any(|known| known == method)
                && route.paths.iter().any(|known| known == path)
        })
    }

    /// Headers that are removed from every request that passes.
    pub fn removed_headers(&self) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(|header| header.removed)
            .flat_map(|header| header.names.iter().map(String::as_str))
    }
}
