//! `docs/presets.md` is generated from the presets. `TOLLGATE_WRITE_DOCS=1 cargo test --test main
//! presets::docs_page` writes it.

use std::fmt::Write as _;

use tollgate_core::{
    request::body::members::TableId,
    route::preset::{
        Preset,
        members::{Catalog, MemberRoute},
        names,
    },
};

const HEAD: &str = include_str!("head.md");

/// What the routes of a preset read from a request, and what becomes of its headers.
fn members(page: &mut String, name: &str) {
    let catalog = Catalog::load().unwrap();
    let file = catalog.file(name).unwrap();
    page.push_str("\n**Members.** The tables of each route's requests; a place without a table has no member:\n\n");
    page.push_str("| paths | methods | tables |\n|---|---|---|\n");
    let named = |id: TableId| {
        let name = &catalog.tables().get(id).unwrap().name;
        format!("[`{name}`](#{})", anchor(name))
    };
    let places = |route: &MemberRoute| {
        let prefix = route
            .prefix
            .as_ref()
            .map_or_else(String::new, |header| format!(" (as many bytes as `{header}` says)"));
        [("json", route.json), ("form", route.form), ("query", route.query)]
            .into_iter()
            .filter_map(|(place, id)| Some(format!("{place}: {}", named(id?))))
            .collect::<Vec<_>>()
            .join(", ")
            + &prefix
    };
    for route in &file.routes {
        let paths: Vec<String> = route.paths.iter().map(|path| format!("`{path}`")).collect();
        let methods = route.methods.join(", ");
        writeln!(page, "| {} | {methods} | {} |", paths.join("<br>"), places(route)).unwrap();
    }
    if file.headers.is_empty() {
        return;
    }
    page.push_str("\n| header | | why |\n|---|---|---|\n");
    for header in &file.headers {
        let names: Vec<String> = header.names.iter().map(|name| format!("`{name}`")).collect();
        let class = if header.removed { "removed" } else { "kept" };
        writeln!(page, "| {} | {class} | {} |", names.join(", "), header.why).unwrap();
    }
}

/// The anchor of a table's heading, as GitHub makes it.
fn anchor(table: &str) -> String {
    format!("table-{}", table.replace('/', ""))
}

/// Every table, with each member's class and the reason. Members of a row are together.
fn tables(page: &mut String) {
    let catalog = Catalog::load().unwrap();
    page.push_str("\n# Tables of members\n\nEach member of a kind of object, or each value of a member, and why it has its class. A member that a table\ndoes not list is denied.\n");
    for home in ["openai", "anthropic"].into_iter().chain(names()) {
        for id in catalog.tables_of(home) {
            let table = catalog.tables().get(id).unwrap();
            writeln!(page, "\n### Table `{}`\n", table.name).unwrap();
            page.push_str("| members | class | why |\n|---|---|---|\n");
            let mut rows: Vec<(Vec<&str>, String, &str)> = Vec::new();
            for (name, member) in &table.members {
                let mut class = member.class.to_string();
                if let Some(of) = member.of.or(member.values) {
                    let of = &catalog.tables().get(of).unwrap().name;
                    write!(class, "; [`{of}`](#{})", anchor(of)).unwrap();
                }
                match rows.iter_mut().find(|(_, known, why)| *known == class && *why == member.why)
                {
                    Some((names, ..)) => names.push(name),
                    None => rows.push((vec![name], class, &member.why)),
                }
            }
            for (names, class, why) in rows {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                writeln!(page, "| {} | {class} | {why} |", names.join(", ")).unwrap();
            }
            if table.unknown_pass {
                page.push_str("| any other | plain | Not known. |\n");
            }
        }
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for preset in names().map(|name| Preset::load(name).unwrap()) {
        let Preset { name, server, read_from, revision, port, own_auth, routes, .. } = &preset;
        write!(page, "\n## `{name}`\n\n{server}, port {port}. Read from {read_from}; revision {revision}.\n\n").unwrap();
        writeln!(page, "Its own authentication: {own_auth}").unwrap();
        page.push_str("\n| methods | paths | needs | model | body | what it risks |\n|---|---|---|---|---|---|\n");
        for route in routes {
            let paths: Vec<String> = route.paths.iter().map(|path| format!("`{path}`")).collect();
            let scopes: Vec<String> =
                route.scopes.iter().map(|scope| format!("`{scope}`")).collect();
            let mut needs = if route.public { "nothing".to_owned() } else { scopes.join(" and ") };
            if let Some(group) = &route.closed {
                write!(needs, "; closed: `open: [{group}]`").unwrap();
            }
            let body = serde_json::to_value(route.body).unwrap();
            let body = body.as_str().unwrap();
            let streaming = if route.streaming { ", may stream" } else { "" };
            writeln!(
                page,
                "| {} | {} | {needs} | {} | {body}{streaming} | {} |",
                route.methods.join(", "),
                paths.join("<br>"),
                route.model,
                route.risk
            )
            .unwrap();
        }
        members(&mut page, name);
    }
    tables(&mut page);
    page
}

#[test]
fn the_page_matches_the_presets() {
    let path = super::root().join("docs/presets.md");
    if std::env::var_os("TOLLGATE_WRITE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/presets.md differs from the presets; run `TOLLGATE_WRITE_DOCS=1 cargo test --test main presets::docs_page`"
    );
}
