//! From the files to tables: `like` and `not` are resolved once, and names of tables become their places.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    catalog::{Catalog, MemberFile, MemberHeader, MemberRoute, MembersError},
    table::{FileConfig, HeaderRow, NamesRow, RouteRow, Row, TableConfig, UnknownRow},
};
use crate::{
    config::Document,
    request::body::members::{Class, Count, Member, Table, TableId, Tables, ToolName},
};

/// Tables of the public API whose media are searched below members that have no table.
const SEARCHED: [&str; 2] = ["openai/part", "openai/response-part"];
/// Methods of requests with a body.
const BODIES: [&str; 3] = ["POST", "PUT", "PATCH"];
/// How deep tables may build on each other.
const DEPTH: usize = 16;

type Members = BTreeMap<Arc<str>, Arc<Member>>;

/// Reads all files.
pub(super) fn compile(sources: &[(&str, &str)]) -> Result<Catalog, MembersError> {
    let mut configs = Vec::new();
    for (name, text) in sources {
        let read = Document::parse(text, &|_| None).and_then(|document| document.read());
        let config: FileConfig = read.map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            MembersError::Unreadable((*name).to_owned(), lines.join("; "))
        })?;
        if config.name != *name {
            return Err(wrong(name, format!("`name` is `{}`", config.name)));
        }
        configs.push(config);
    }
    let mut builder = Builder { names: BTreeMap::new(), configs: BTreeMap::new() };
    for config in &configs {
        for (table, body) in &config.tables {
            let full = format!("{}/{table}", config.name);
            builder.names.insert(full.clone(), TableId(builder.names.len()));
            builder.configs.insert(full, (config.name.as_str(), body));
        }
    }
    // Places follow the order of the names.
    for (index, id) in builder.names.values_mut().enumerate() {
        *id = TableId(index);
    }
    let mut tables = Tables::default();
    for (name, (_, body)) in &builder.configs {
        tables.list.push(Table {
            name: name.clone(),
            unknown_pass: body.unknown == UnknownRow::Pass,
            members: builder.resolve(name, DEPTH)?,
        });
    }
    for member in tables.list.iter().flat_map(|table| table.members.values()) {
        if let Class::Scoped(scope, _) = &member.class
            && !tables.scopes.contains(scope)
        {
            tables.scopes.push(scope.clone());
        }
    }
    for name in SEARCHED {
        let members = builder.resolve(name, DEPTH)?;
        for (member, spec) in members {
            let known = tables.media.iter().any(|(known, _)| *known == member);
            if matches!(spec.class, Class::Scoped(..)) && !known {
                tables.media.push((member, spec));
            }
        }
    }
    let mut files = BTreeMap::new();
    for config in &configs {
        let name = config.name.as_str();
        let routes = config.routes.iter().map(|row| builder.route(name, row));
        let headers = config.headers.iter().map(|row| header(name, row));
        let file = MemberFile {
            routes: routes.collect::<Result<_, _>>()?,
            headers: headers.collect::<Result<_, _>>()?,
        };
        files.insert(config.name.clone(), file);
    }
    Ok(Catalog { tables, names: builder.names, files })
}

fn wrong(file: &str, message: String) -> MembersError {
    MembersError::Wrong(file.to_owned(), message)
}

struct Builder<'a> {
    names: BTreeMap<String, TableId>,
    /// Each table's file and rows.
    configs: BTreeMap<String, (&'a str, &'a TableConfig)>,
}

impl Builder<'_> {
    /// The full name of a table that `file` refers to.
    fn full(file: &str, name: &str) -> String {
        if name.contains('/') { name.to_owned() } else { format!("{file}/{name}") }
    }

    fn table(&self, file: &str, name: &str) -> Result<TableId, MembersError> {
        self.names
            .get(&Self::full(file, name))
            .copied()
            .ok_or_else(|| wrong(file, format!("there is no table `{name}`")))
    }

    /// The members of a table, with those of the tables that it is like.
    fn resolve(&self, name: &str, depth: usize) -> Result<Members, MembersError> {
        let Some((file, config)) = self.configs.get(name) else {
            return Err(MembersError::Missing(name.to_owned()));
        };
        let at = |message: String| wrong(file, format!("table `{name}`: {message}"));
        if depth == 0 {
            return Err(at("it is like itself".into()));
        }
        let mut members = Members::new();
        for base in &config.like {
            let base = Self::full(file, base);
            if !self.configs.contains_key(&base) {
                return Err(at(format!("there is no table `{base}`")));
            }
            members.extend(self.resolve(&base, depth - 1)?);
        }
        for excluded in &config.not {
            if members.remove(excluded.as_str()).is_none() {
                return Err(at(format!("`not: {excluded}`, which it would not have")));
            }
        }
        let mut own = Vec::new();
        for row in &config.rows {
            let (names, class) = class(row).map_err(at)?;
            let member = Arc::new(self.member(file, row, class)?);
            for name in names {
                if own.contains(&name) {
                    return Err(at(format!("`{name}` is listed twice")));
                }
                own.push(name);
                members.insert(name.into(), Arc::clone(&member));
            }
        }
        Ok(members)
    }

    fn member(&self, file: &str, row: &Row, class: Class) -> Result<Member, MembersError> {
        let table =
            |name: &Option<String>| name.as_ref().map(|name| self.table(file, name)).transpose();
        Ok(Member {
            class,
            of: table(&row.of)?,
            values: table(&row.values)?,
            text: row.text,
            hidden: row.hidden,
            skip: row.skip,
            media: row.media.is_some(),
            refers: row.refers,
            inline: row.inline,
            adapter: row.adapter,
            names: row.names.map(|names| match names {
                NamesRow::Tool => ToolName::Name,
                NamesRow::ToolType => ToolName::Type,
            }),
            why: row.why.clone(),
        })
    }

    fn route(&self, file: &str, row: &RouteRow) -> Result<MemberRoute, MembersError> {
        let table =
            |name: &Option<String>| name.as_ref().map(|name| self.table(file, name)).transpose();
        if row.paths.is_empty() {
            return Err(wrong(file, "a route has no paths".into()));
        }
        Ok(MemberRoute {
            paths: row.paths.clone(),
            methods: row
                .methods
                .clone()
                .unwrap_or_else(|| BODIES.iter().map(|method| (*method).to_owned()).collect()),
            json: table(&row.json)?,
            form: table(&row.form)?,
            query: table(&row.query)?,
            prefix: row.prefix.clone(),
        })
    }
}

/// The names of a row, and what they are.
fn class(row: &Row) -> Result<(Vec<&str>, Class), String> {
    let lists = [&row.plain, &row.capped, &row.scoped, &row.denied];
    let names: Vec<&str> =
        lists.into_iter().flatten().flatten().map(|name| name.0.as_str()).collect();
    let count = match &row.cap {
        None => None,
        Some(cap) => {
            Some(Count::named(cap).ok_or_else(|| format!("`{cap}` is not a cap ({names:?})"))?)
        }
    };
    let class = match (
        (row.plain.is_some(), row.capped.is_some(), row.scoped.is_some(), row.denied.is_some()),
        (count, row.most, &row.scope, &row.open),
    ) {
        ((true, false, false, false), (None, None, None, None)) => Class::Plain,
        ((false, true, false, false), (Some(count), None, None, None)) => Class::Capped(count),
        ((false, true, false, false), (None, Some(most), None, None)) => Class::AtMost(most),
        ((false, false, true, false), (None, None, Some(scope), None)) if scope == "model" => {
            Class::Model
        }
        ((false, false, true, false), (count, None, Some(scope), None)) if scope != "model" => {
            Class::Scoped(scope.clone(), count)
        }
        ((false, false, false, true), (None, None, None, open)) => Class::Denied(open.clone()),
        _ => return Err(format!("the row {names:?} has not exactly one class with its keys")),
    };
    if names.is_empty() || row.why.is_empty() {
        return Err(format!("the row {names:?} needs names and `why`"));
    }
    if row.adapter != (class == Class::Model) {
        return Err(format!("the row {names:?}: `adapter` goes with `scope: model`"));
    }
    Ok((names, class))
}

fn header(file: &str, row: &HeaderRow) -> Result<MemberHeader, MembersError> {
    let (names, removed) = match (&row.kept, &row.removed) {
        (Some(names), None) => (names, false),
        (None, Some(names)) => (names, true),
        _ => return Err(wrong(file, "a header row has one of `kept` and `removed`".into())),
    };
    for name in names {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(wrong(file, format!("`{name}` is not a header in lower case")));
        }
    }
    Ok(MemberHeader { names: names.clone(), removed, why: row.why.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(tables: &str) -> String {
        let openai = "name: openai\ninventory: []\ntables:\n  part:\n    rows: []\n  response-part:\n    rows: []\n";
        let text = format!("name: x\ninventory: []\ntables:\n{tables}");
        match compile(&[("openai", openai), ("x", &text)]) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_contradicts_itself_is_an_error() {
        for (tables, part) in [
            ("  a: { rows: [{ plain: [x], why: \"w\" }] }", ""),
            ("  a: { rows: [{ plain: [x] }] }", "missing key `why`"),
            ("  a: { rows: [{ plain: [x], why: \"w\", wy: 1 }] }", "unknown key `wy`"),
            ("  a: { rows: [{ plain: [x], denied: [y], why: \"w\" }] }", "exactly one class"),
            ("  a: { rows: [{ capped: [x], why: \"w\" }] }", "exactly one class"),
            ("  a: { rows: [{ capped: [x], cap: tokens, why: \"w\" }] }", "`tokens` is not a cap"),
            ("  a: { rows: [{ scoped: [x], scope: model, why: \"w\" }] }", "`adapter`"),
            ("  a: { rows: [{ plain: [x], of: b, why: \"w\" }] }", "there is no table `b`"),
            ("  a: { like: [b], rows: [] }", "there is no table `x/b`"),
            ("  a: { like: [a], rows: [] }", "it is like itself"),
            ("  a: { not: [y], rows: [] }", "`not: y`"),
            (
                "  a: { rows: [{ plain: [x], why: \"w\" }, { denied: [x], why: \"w\" }] }",
                "listed twice",
            ),
        ] {
            let said = error(tables);
            assert!(if part.is_empty() { said.is_empty() } else { said.contains(part) }, "{said}");
        }
    }
}
