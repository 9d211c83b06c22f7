//! `tollgate presets show NAME --members`: what each member of a request is, table by table.

use std::io::Write;

use serde_json::{Map, Value, json};
use tollgate_core::{
    request::body::members::{Member, TableId},
    route::preset::{
        Preset,
        members::{Catalog, MemberFile, MemberRoute},
    },
};

use crate::cli::Output;

/// Prints the tables that the routes of a preset reach.
pub(super) fn show(name: &str, output: Output, out: &mut dyn Write) -> anyhow::Result<()> {
    Preset::load(name)?;
    let catalog = Catalog::load()?;
    let file = catalog.file(name)?;
    match output {
        Output::Text => text(catalog, file, out),
        Output::Json => {
            writeln!(out, "{}", serde_json::to_string_pretty(&document(catalog, file))?)?;
            Ok(())
        }
    }
}

fn text(catalog: &Catalog, file: &MemberFile, out: &mut dyn Write) -> anyhow::Result<()> {
    for route in &file.routes {
        for path in &route.paths {
            let places: Vec<String> =
                places(catalog, route).map(|(place, table)| format!("{place} {table}")).collect();
            let places =
                if places.is_empty() { "no members".to_owned() } else { places.join(", ") };
            writeln!(out, "{} {path}: {places}", route.methods.join("|"))?;
        }
    }
    for id in catalog.reachable(file) {
        let Some(table) = catalog.tables().get(id) else { continue };
        writeln!(out, "\n{}", table.name)?;
        for (name, member) in &table.members {
            let class = member.class.to_string().replace('`', "");
            let below =
                below(catalog, member).map_or_else(String::new, |table| format!(" -> {table}"));
            writeln!(out, "  {name:<32} {class}{below}. {}", member.why)?;
        }
        if table.unknown_pass {
            writeln!(out, "  {:<32} plain", "(any other)")?;
        }
    }
    if !file.headers.is_empty() {
        writeln!(out, "\nheaders")?;
    }
    for header in &file.headers {
        let class = if header.removed { "removed" } else { "kept" };
        for name in &header.names {
            writeln!(out, "  {name:<32} {class}. {}", header.why)?;
        }
    }
    Ok(())
}

fn document(catalog: &Catalog, file: &MemberFile) -> Value {
    let routes: Vec<Value> = file
        .routes
        .iter()
        .map(|route| {
            let places: Map<String, Value> = places(catalog, route)
                .map(|(place, table)| (place.to_owned(), json!(table)))
                .collect();
            json!({ "methods": route.methods, "paths": route.paths, "tables": places })
        })
        .collect();
    let mut tables = Map::new();
    for table in catalog.reachable(file).into_iter().filter_map(|id| catalog.tables().get(id)) {
        let members: Map<String, Value> = table
            .members
            .iter()
            .map(|(name, member)| {
                let class = member.class.to_string().replace('`', "");
                let row =
                    json!({ "class": class, "why": member.why, "of": below(catalog, member) });
                (name.to_string(), row)
            })
            .collect();
        tables.insert(
            table.name.clone(),
            json!({ "unknown": if table.unknown_pass { "pass" } else { "deny" }, "members": members }),
        );
    }
    let headers: Vec<Value> = file
        .headers
        .iter()
        .map(
            |header| json!({ "names": header.names, "removed": header.removed, "why": header.why }),
        )
        .collect();
    json!({ "routes": routes, "tables": tables, "headers": headers })
}

/// The tables of a route's places.
fn places<'c>(
    catalog: &'c Catalog,
    route: &MemberRoute,
) -> impl Iterator<Item = (&'static str, &'c str)> {
    let name = |id: TableId| catalog.tables().get(id).map(|table| table.name.as_str());
    [("json", route.json), ("form", route.form), ("query", route.query)]
        .into_iter()
        .filter_map(move |(place, id)| Some((place, name(id?)?)))
}

/// The table of a member's value.
fn below<'c>(catalog: &'c Catalog, member: &Member) -> Option<&'c str> {
    member
        .of
        .or(member.values)
        .and_then(|id| catalog.tables().get(id))
        .map(|table| table.name.as_str())
}
