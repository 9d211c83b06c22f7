//! `docs/presets.md` is generated from the presets. `TOLLGATE_WRITE_DOCS=1 cargo test --test main
//! presets::docs_page` writes it.

use std::fmt::Write as _;

use tollgate_core::route::preset::{Preset, names};

const HEAD: &str = include_str!("head.md");

fn quoted(words: &[String]) -> String {
    let list: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    list.join(", ")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for preset in names().map(|name| Preset::load(name).unwrap()) {
        let Preset {
            name,
            server,
            read_from,
            revision,
            port,
            own_auth,
            strip_headers,
            deny_fields,
            closed_fields,
            routes,
            ..
        } = &preset;
        write!(page, "\n## `{name}`\n\n{server}, port {port}. Read from {read_from}; revision {revision}.\n\n").unwrap();
        writeln!(page, "Its own authentication: {own_auth}").unwrap();
        if !strip_headers.is_empty() {
            writeln!(page, "\nTaken from every request: {}.", quoted(strip_headers)).unwrap();
        }
        if !deny_fields.is_empty() {
            writeln!(page, "\nDenied in JSON bodies of `infer:*` routes: {}.", quoted(deny_fields))
                .unwrap();
        }
        for (group, fields) in closed_fields {
            writeln!(page, "\nThe same, unless `open: [{group}]`: {}.", quoted(fields)).unwrap();
        }
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
    }
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
