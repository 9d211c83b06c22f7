//! Compiles the list `routes` to a table: explicit entries first, then the routes of presets that
//! no explicit entry replaces.

mod credentials;
mod limits;
mod route;

use std::{collections::BTreeSet, sync::Arc};

use self::route::compile_route;
use super::{
    CompileContext, OnOutage, Route, RouteConfig, RouteEntry, RouteTable,
    preset::{self, Preset, PresetConfig, members::Catalog},
    table::{DuplicateRoute, HostPattern},
};
use crate::{
    config::{Errors, Path},
    pattern::Pattern,
};

/// The result of compiling the list `routes`.
pub(crate) struct Compiled {
    pub(crate) table: RouteTable,
    /// The name of each route.
    pub(crate) names: Vec<String>,
    /// Headers that presets remove from every admitted request.
    pub(crate) strip_headers: BTreeSet<String>,
    /// For each entry with a route that reads the body: its entry, and the name of the first such
    /// route.
    pub(crate) body_routes: Vec<(Path, String)>,
    /// For each entry with a route whose requests hold what a report settles: its entry, and the
    /// name of the first such route.
    pub(crate) settled_routes: Vec<(Path, String)>,
    /// Each route, and the entry of the file that it comes from.
    entries: Vec<(Arc<Route>, Path)>,
}

impl Compiled {
    /// The `on_outage` of each route that uses the store.
    pub(crate) fn on_outage(&self) -> Vec<OnOutage> {
        let routes = self.entries.iter().map(|(route, _)| route);
        routes.filter(|route| route.uses_store()).map(|route| route.on_outage).collect()
    }

    /// The entry of the file that a route comes from.
    fn entry_of(&self, route: &Arc<Route>) -> Option<&Path> {
        let entry = self.entries.iter().find(|(known, _)| Arc::ptr_eq(known, route));
        entry.map(|(_, path)| path)
    }
}

/// Compiles the list `routes` and records every error.
pub(crate) fn compile(
    entries: &[RouteEntry],
    context: &mut CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) -> Compiled {
    let mut compiled = Compiled {
        table: RouteTable::default(),
        names: Vec::new(),
        strip_headers: BTreeSet::new(),
        body_routes: Vec::new(),
        settled_routes: Vec::new(),
        entries: Vec::new(),
    };
    if entries.is_empty() {
        errors
            .push(path, "there are no routes, so every request would be denied; add at least one");
    }
    let mut explicit = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if let RouteEntry::Explicit(config) = entry {
            let path = path.index(index);
            let entries = insert(config, None, context, &mut compiled, &path, errors);
            explicit.extend(entries.into_iter().map(|entry| (entry, path.key("match"))));
        }
    }
    for (index, entry) in entries.iter().enumerate() {
        if let RouteEntry::Preset(config) = entry {
            let path = path.index(index);
            let Some(preset) = errors.take(&path.key("preset"), Preset::load(&config.preset))
            else {
                continue;
            };
            let removed = Catalog::load().and_then(|catalog| catalog.file(&preset.name));
            if let Some(file) =
                errors.take(&path.key("preset"), removed.map_err(|error| error.to_string()))
            {
                compiled.strip_headers.extend(file.removed_headers().map(str::to_owned));
            }
            for entry in from_preset(config, &preset, context, &mut compiled, &path, errors) {
                // An override for all hosts loses against a preset for some: the host decides
                // first.
                for (narrower, at) in
                    explicit.iter().filter(|(explicit, _)| explicit.is_wider_than(&entry))
                {
                    let shown = narrower.methods.join("|");
                    errors.push_presuming(
                        at,
                        &[at.parent().parent()],
                        format!("`{}` has {shown} of this path for other hosts, so this entry would not beat it; list the hosts of the preset here, too", config.preset),
                    );
                }
            }
        }
    }
    compiled
}

/// The position of a route in the table.
struct TableEntry {
    host: HostPattern,
    pattern: Pattern,
    methods: Vec<String>,
}

impl TableEntry {
    fn is_wider_than(&self, other: &Self) -> bool {
        self.host.is_wider_than(&other.host)
            && self.pattern.overlaps(&other.pattern)
            && self.methods.iter().any(|method| other.methods.contains(method))
    }
}

fn from_preset(
    config: &PresetConfig,
    preset: &Preset,
    context: &mut CompileContext<'_>,
    compiled: &mut Compiled,
    path: &Path,
    errors: &mut Errors,
) -> Vec<TableEntry> {
    let limits = context.limits;
    let routes = preset::expand(config, preset, |name| limits.get(name), path, errors);
    routes
        .iter()
        .flat_map(|route| insert(route, Some(&config.preset), context, compiled, path, errors))
        .collect()
}

/// Compiles one route into the table. `preset` is the preset that contains the route, whose paths
/// are not in the file.
fn insert(
    config: &RouteConfig,
    preset: Option<&str>,
    context: &mut CompileContext<'_>,
    compiled: &mut Compiled,
    path: &Path,
    errors: &mut Errors,
) -> Vec<TableEntry> {
    let at = path.key("match");
    let paths = if preset.is_some() { path.key("preset") } else { at.key("paths") };
    let patterns: Vec<(Path, Pattern)> = config
        .matches
        .paths
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let at = paths.index(index);
            errors.take(&at, Pattern::parse(text)).map(|pattern| (at, pattern))
        })
        .collect();
    if config.matches.paths.is_empty() {
        errors.push(&paths, "list at least one path");
    }
    let methods = methods(config, &at, errors);
    let hosts = hosts(config, &at, errors);
    let captures: Vec<Vec<String>> = patterns.iter().map(|(_, pattern)| pattern.names()).collect();
    let route = Arc::new(compile_route(config, preset.is_some(), context, &captures, path, errors));
    compiled.names.push(route.name.clone());
    compiled.entries.push((Arc::clone(&route), path.clone()));
    if !route.public
        && route.reads_body()
        && compiled.body_routes.last().is_none_or(|(known, _)| known != path)
    {
        compiled.body_routes.push((path.clone(), route.name.clone()));
    }
    if route.is_settled() && compiled.settled_routes.last().is_none_or(|(known, _)| known != path) {
        compiled.settled_routes.push((path.clone(), route.name.clone()));
    }
    let mut entries = Vec::new();
    for (at, pattern) in patterns {
        let at = if preset.is_some() { path.key("preset") } else { at };
        for host in &hosts {
            if let Err(duplicate) = compiled.table.insert(host, &pattern, &methods, &route) {
                let DuplicateRoute { method, first } = duplicate;
                let first = compiled.entry_of(&first).unwrap_or(path);
                let remedy = match preset {
                    Some(_) => "give each preset its own `match.hosts`",
                    None => "remove one of the two, or give each its own `match.hosts`",
                };
                // Two routes are the same where a host or a method of either was omitted.
                let presumes = [path.parent()];
                let what = format!("a route for {method} with this host and path");
                errors.push_duplicate(&at, &presumes, what, first, remedy);
            }
            entries.push(TableEntry {
                host: host.clone(),
                pattern: pattern.clone(),
                methods: methods.clone(),
            });
        }
    }
    entries
}

fn methods(config: &RouteConfig, path: &Path, errors: &mut Errors) -> Vec<String> {
    let at = path.key("methods");
    let mut methods = match &config.matches.methods {
        Some(methods) => methods.clone(),
        None if config.public => vec!["GET".into()],
        None => {
            errors.push_presuming(
                path,
                &[path.parent().key("public")],
                "list the `methods`, such as `[POST]`",
            );
            Vec::new()
        }
    };
    if config.matches.methods.as_ref().is_some_and(Vec::is_empty) {
        errors.push(&at, "list at least one method");
    }
    for (index, method) in methods.iter().enumerate() {
        if !["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method.as_str())
        {
            errors.push(
                &at.index(index),
                format!("`{method}` is not a method; known: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
    }
    if methods.iter().any(|method| method == "GET") {
        methods.push("HEAD".into());
    }
    methods.sort();
    methods.dedup();
    methods
}

fn hosts(config: &RouteConfig, path: &Path, errors: &mut Errors) -> Vec<HostPattern> {
    if config.matches.hosts.is_empty() {
        return vec![HostPattern::Any];
    }
    let mut hosts = Vec::new();
    for (index, text) in config.matches.hosts.iter().enumerate() {
        hosts.extend(errors.take(&path.key("hosts").index(index), HostPattern::parse(text)));
    }
    hosts
}
