//! `fields.allow`: from a member's place, as a denial names it, to the rows that it opens.

use std::collections::BTreeSet;

use thiserror::Error;

use super::catalog::{Catalog, MemberFile};
use crate::{
    config::spelling::distance,
    request::body::members::{Class, TableId},
};

/// How many objects a place may be within, where places are listed for suggestions.
const DEPTH: usize = 5;
/// How many suggestions an error has.
const SUGGESTIONS: usize = 3;
/// How many edits make one name another's misspelling.
const EDITS: usize = 2;

/// Why an entry opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(in crate::route::preset) enum AllowError {
    /// A row has it and does not deny it.
    #[error("`{0}` is not denied; remove it")]
    NotDenied(String),
    /// Nothing like it can be sent at all.
    #[error("no request of the preset has a place for `{0}`{1}")]
    NoPlace(String, Suggestions),
    /// It is no member of any table, and close to one that is denied.
    #[error("`{0}` is no member that the preset knows{1}")]
    Misspelt(String, Suggestions),
}

/// Members that the operator may have meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::route::preset) struct Suggestions(Vec<String>);

impl std::fmt::Display for Suggestions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "; did you mean `{}`?", self.0.join("` or `"))
        }
    }
}

/// What an entry comes to in one table.
enum Found {
    Denied(TableId, String),
    Listed,
    Unlisted(TableId, String),
}

/// The rows that an entry such as `structured_outputs.regex`, `tools[].type=mcp` or `?autoload` opens.
pub(in crate::route::preset) fn allow(
    catalog: &Catalog,
    file: &MemberFile,
    entry: &str,
) -> Result<Vec<(TableId, String)>, AllowError> {
    let (query, place) = entry.strip_prefix('?').map_or((false, entry), |place| (true, place));
    let roots: BTreeSet<TableId> = file
        .routes
        .iter()
        .flat_map(|route| if query { [route.query, None] } else { [route.json, route.form] })
        .flatten()
        .collect();
    let (place, value) =
        place.split_once('=').map_or((place, None), |(place, value)| (place, Some(value)));
    let steps: Vec<&str> = place.split('.').collect();
    let found: Vec<Found> =
        roots.iter().filter_map(|root| walk(catalog, *root, &steps, value)).collect();
    let denied: Vec<(TableId, String)> = found
        .iter()
        .filter_map(|found| match found {
            Found::Denied(table, name) => Some((*table, name.clone())),
            _ => None,
        })
        .collect();
    if !denied.is_empty() {
        return Ok(denied);
    }
    if found.iter().any(|found| matches!(found, Found::Listed)) {
        return Err(AllowError::NotDenied(entry.to_owned()));
    }
    let near = || Suggestions(near(catalog, &roots, if query { "?" } else { "" }, entry));
    if found.is_empty() {
        return Err(AllowError::NoPlace(entry.to_owned(), near()));
    }
    let near = near();
    if !near.0.is_empty() {
        return Err(AllowError::Misspelt(entry.to_owned(), near));
    }
    let unlisted = found.into_iter().filter_map(|found| match found {
        Found::Unlisted(table, name) => Some((table, name)),
        _ => None,
    });
    Ok(unlisted.collect())
}

fn walk(catalog: &Catalog, root: TableId, steps: &[&str], value: Option<&str>) -> Option<Found> {
    let mut at = root;
    let (last, path) = steps.split_last()?;
    for step in path {
        at = member(catalog, at, step)?.1.of?;
    }
    let table = catalog.tables.get(at)?;
    let Some((name, member)) = member(catalog, at, last) else {
        let name = (*last).trim_end_matches("[]");
        let passes = table.unknown_pass || value.is_some() || name.is_empty();
        return (!passes).then(|| Found::Unlisted(at, name.to_owned()));
    };
    let Some(value) = value else {
        return Some(match member.class {
            Class::Denied(_) => Found::Denied(at, name.to_owned()),
            _ => Found::Listed,
        });
    };
    let values = member.values?;
    let table = catalog.tables.get(values)?;
    match table.members.get(value).map(|row| &row.class) {
        Some(Class::Denied(_)) => Some(Found::Denied(values, value.to_owned())),
        Some(_) => Some(Found::Listed),
        None => (!table.unknown_pass).then(|| Found::Unlisted(values, value.to_owned())),
    }
}

/// A member by its name, which may have the brackets of a list.
fn member<'c>(
    catalog: &'c Catalog,
    table: TableId,
    step: &str,
) -> Option<(&'c str, &'c crate::request::body::members::Member)> {
    let members = &catalog.tables.get(table)?.members;
    let (name, member) = members
        .get_key_value(step)
        .or_else(|| members.get_key_value(step.trim_end_matches("[]")))?;
    Some((name, member))
}

/// Places of denied members whose last name is that of the entry, or nearly.
fn near(catalog: &Catalog, roots: &BTreeSet<TableId>, mark: &str, entry: &str) -> Vec<String> {
    let leaf = |place: &str| place.rsplit(['.', '?', '=']).next().unwrap_or(place).to_owned();
    let wanted = leaf(entry);
    let mut todo: Vec<(TableId, String, usize)> =
        roots.iter().map(|root| (*root, String::new(), 0)).collect();
    let mut done = BTreeSet::new();
    let mut found: Vec<(usize, usize, String)> = Vec::new();
    while let Some((id, prefix, depth)) = todo.pop() {
        let Some(table) = catalog.tables.get(id).filter(|_| depth < DEPTH && done.insert(id))
        else {
            continue;
        };
        for (name, member) in &table.members {
            let place = format!("{mark}{prefix}{name}");
            if let Some(of) = member.of {
                todo.push((of, format!("{prefix}{name}."), depth + 1));
            }
            let values = member.values.and_then(|values| catalog.tables.get(values));
            let denied_values = values.into_iter().flat_map(|values| &values.members);
            let denied_values = denied_values
                .filter(|(_, member)| matches!(member.class, Class::Denied(_)))
                .map(|(value, _)| format!("{place}={value}"));
            let denied = matches!(member.class, Class::Denied(_)).then(|| place.clone());
            for place in denied.into_iter().chain(denied_values) {
                let edits = distance(&wanted, &leaf(&place));
                if edits == 0 || (edits <= EDITS && wanted.len() > 2 * EDITS) {
                    found.push((edits, place.len(), place));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|(_, _, place)| place).take(SUGGESTIONS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(preset: &str, entry: &str) -> Result<Vec<String>, String> {
        let catalog = Catalog::load().unwrap();
        let rows = allow(catalog, catalog.file(preset).unwrap(), entry);
        let shown = |(table, name): (TableId, String)| {
            format!("{} {name}", catalog.tables.get(table).unwrap().name)
        };
        let mut rows: Vec<String> =
            rows.map_err(|error| error.to_string())?.into_iter().map(shown).collect();
        rows.sort();
        Ok(rows)
    }

    #[test]
    fn an_entry_opens_what_a_denial_names() {
        for (preset, entry, row) in [
            ("vllm", "priority", "vllm/chat priority"),
            ("vllm", "structured_outputs.regex", "vllm/structured-outputs regex"),
            ("vllm", "messages[].content[].uuid", "vllm/part uuid"),
            ("vllm", "messages.content.uuid", "vllm/part uuid"),
            ("vllm", "tools[].type=mcp", "openai/response-tool-types mcp"),
            ("vllm", "chat_template_kwargs.my_switch", "vllm/template-kwargs my_switch"),
            ("vllm", "brand_new", "vllm/chat brand_new"),
            ("llama-cpp", "?autoload", "llama-cpp/query autoload"),
        ] {
            let rows = opened(preset, entry).unwrap_or_else(|error| panic!("{error}"));
            assert!(rows.iter().any(|known| known == row), "{preset} {entry}: {rows:?}");
        }
    }

    #[test]
    fn an_entry_that_opens_nothing_is_an_error_with_what_was_meant() {
        for (entry, part) in [
            ("temperature", "`temperature` is not denied"),
            ("priorty", "did you mean `priority` or"),
            ("uuid", ".uuid`"),
            ("no.such.place", "has a place for `no.such.place`"),
            ("tools[].type=web_serch", "web_search"),
            ("", "has a place for ``"),
        ] {
            let error = opened("vllm", entry).unwrap_err();
            assert!(error.contains(part), "{entry}: {error}");
        }
    }
}
