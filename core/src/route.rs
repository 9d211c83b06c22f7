//! Which rule covers it? Routes, and the table that finds the one for a host, a path and a method.
//!
//! **Best match**: host (exact, then the longest `*.suffix`, then any), then the path segment by segment (literal, then
//! `{x}`, then `{x*}`). The best path decides before the method does: a method that the best route does not list is
//! denied, it never falls through to a wider route.

mod pattern;
mod table;

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    pattern::{Captures, Pattern},
    table::RouteTable,
};
use crate::{
    authz::{
        content::{Content, RaiseConfig, Sections},
        fields::{CapsConfig, FieldsConfig},
        model::{ModelRule, ModelRuleConfig, Models},
        scope::ScopeRule,
        tool::McpConfig,
    },
    config::{Errors, Path},
    limit::rate::RateLimit,
    secret::SecretSource,
};

/// One entry of `routes`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// What the route covers.
    #[serde(rename = "match")]
    pub matches: MatchConfig,
    /// The name in metrics and audit lines. Default: the first path.
    pub name: Option<String>,
    /// Needs no credential. Default false.
    #[serde(default)]
    pub public: bool,
    /// The scopes a credential needs: all of a list, or one of `{ any: [...] }`. `[]` admits any valid credential; required
    /// unless the route is public, so that nothing is open by omission.
    pub scopes: Option<ScopeRule>,
    /// Where the model is named and which scope it needs. Left out: the route has no model.
    pub model: Option<ModelRuleConfig>,
    /// The most a request may ask for. The caps of the model's tier hold besides.
    pub caps: Option<CapsConfig>,
    /// Members that the body may or may not have.
    pub fields: Option<FieldsConfig>,
    /// Scopes needed for content other than text.
    pub raise: Option<RaiseConfig>,
    /// The scope for each tool that a request declares or chooses (`tools`, `functions`, `tool_choice`), such as
    /// `tool:{name}`. A tool that the server runs itself is named by its type. Left out: tools are not looked at.
    pub tools: Option<String>,
    /// The body is JSON-RPC for an MCP server.
    pub mcp: Option<McpConfig>,
    /// Where clients find the authorization server: sent as `resource_metadata` with every challenge (RFC 9728 section 5.1).
    pub resource_metadata: Option<String>,
    /// Names of `limits` that count requests of this route.
    #[serde(default)]
    pub limits: Vec<String>,
    /// What happens when the store cannot be asked. Default `deny`.
    #[serde(default)]
    pub on_outage: OnOutage,
    /// Send the client's credential on to the upstream. Default false: an inference server has no use for it.
    #[serde(default)]
    pub forward_credential: bool,
    /// The upstream's own key, sent as `Authorization: Bearer` in place of the client's. Not sent on public routes.
    pub upstream_key: Option<SecretSource>,
}

impl RouteConfig {
    /// The name in metrics and audit lines.
    pub fn name(&self) -> &str {
        self.name.as_ref().or_else(|| self.matches.paths.first()).map_or("", String::as_str)
    }
}

/// What a route covers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchConfig {
    /// Host names, or `*.example.com` for every name below. Default: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Methods. GET includes HEAD. Default: GET on public routes; otherwise they must be listed.
    pub methods: Option<Vec<String>>,
    /// Paths: exact; a trailing `/*` covers the path itself and all below; `{x}` one segment; `{x*}` the rest.
    pub paths: Vec<String>,
}

/// `on_outage`: what a route does when the store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// 503 `store_unavailable`, with Retry-After.
    #[default]
    Deny,
    /// Fail the check, so that the proxy's `failure_mode_allow` and `status_on_error` decide.
    Error,
    /// Let the request through, uncounted and with revocation unchecked.
    Allow,
    /// Count in memory with this replica's share of each limit, and use the last known revocations.
    Local,
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Whether it needs no credential.
    pub public: bool,
    /// The scopes it needs.
    pub scopes: ScopeRule,
    /// Its model rule.
    pub model: Option<ModelRule>,
    /// What it asks of the body.
    pub(crate) content: Content,
    /// `resource_metadata` of its challenges.
    pub resource_metadata: Option<String>,
    /// The limits that count it.
    pub limits: Vec<Arc<RateLimit>>,
    /// What it does in an outage.
    pub on_outage: OnOutage,
    /// Whether the client's credential goes on.
    pub forward_credential: bool,
    /// Index of its upstream key among the policy's.
    pub upstream_key: Option<usize>,
}

/// Everything routes refer to.
pub(crate) struct Parts<'a> {
    pub(crate) models: &'a Models,
    pub(crate) limits: &'a BTreeMap<String, Arc<RateLimit>>,
    /// Upstream keys found so far; a route that has one adds it.
    pub(crate) upstream_keys: Vec<SecretSource>,
    /// Place and name of the routes found so far that read the body.
    pub(crate) body_routes: Vec<(Path, String)>,
}

/// Compiles the list `routes` into a table, noting every error.
pub(crate) fn compile(configs: &[RouteConfig], parts: &mut Parts<'_>, path: &Path, errors: &mut Errors) -> RouteTable {
    let mut table = RouteTable::default();
    if configs.is_empty() {
        errors.push(path, "there are no routes, so every request would be denied; add at least one");
    }
    for (index, config) in configs.iter().enumerate() {
        let path = path.index(index);
        let at = path.key("match");
        let patterns: Vec<(Path, Pattern)> = config
            .matches
            .paths
            .iter()
            .enumerate()
            .filter_map(|(index, text)| {
                let at = at.key("paths").index(index);
                errors.take(&at, Pattern::parse(text)).map(|pattern| (at, pattern))
            })
            .collect();
        if config.matches.paths.is_empty() {
            errors.push(&at.key("paths"), "list at least one path");
        }
        let methods = methods(config, &at, errors);
        let hosts = hosts(config, &at, errors);
        let captures: Vec<Vec<String>> = patterns.iter().map(|(_, pattern)| pattern.names()).collect();
        let route = Arc::new(route(config, parts, &captures, &path, errors));
        if !route.public && route.content.reads_body() {
            parts.body_routes.push((path.clone(), route.name.clone()));
        }
        for (at, pattern) in &patterns {
            for host in &hosts {
                errors.take(at, table.insert(host, pattern, &methods, &route));
            }
        }
    }
    table
}

fn route(config: &RouteConfig, parts: &mut Parts<'_>, captures: &[Vec<String>], path: &Path, errors: &mut Errors) -> Route {
    let model = config.model.as_ref().map(|model| ModelRule::compile(model, parts.models, captures, &path.key("model"), errors));
    if config.public {
        for (key, set) in [
            ("scopes", config.scopes.is_some()),
            ("model", config.model.is_some()),
            ("caps", config.caps.is_some()),
            ("fields", config.fields.is_some()),
            ("raise", config.raise.is_some()),
            ("tools", config.tools.is_some()),
            ("mcp", config.mcp.is_some()),
            ("resource_metadata", config.resource_metadata.is_some()),
            ("forward_credential", config.forward_credential),
            ("upstream_key", config.upstream_key.is_some()),
        ] {
            if set {
                errors.push(
                    &path.key(key),
                    format!("a public route asks for no credential, so `{key}` has no meaning; remove one of the two"),
                );
            }
        }
    } else if config.scopes.is_none() {
        errors.push(path, "a route needs `scopes` (or `public: true`); write `scopes: []` to admit any valid credential");
    }
    if config.forward_credential && config.upstream_key.is_some() {
        errors.push(&path.key("upstream_key"), "the upstream gets either its own key or the client's credential, not both");
    }
    let sections = Sections {
        model: model.as_ref(),
        models: parts.models,
        caps: config.caps.as_ref(),
        fields: config.fields.as_ref(),
        raise: config.raise.as_ref(),
        tools: config.tools.as_ref(),
        mcp: config.mcp.as_ref(),
    };
    let content = Content::compile(&sections, path, errors);
    if let Some(url) = &config.resource_metadata
        && (!url.starts_with("https://") || !url.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')))
    {
        errors.push(&path.key("resource_metadata"), format!("`{url}` is not an https URL"));
    }
    let scopes = config.scopes.clone().unwrap_or(ScopeRule::All(Vec::new()));
    scopes.validate(&path.key("scopes"), errors);
    let limits = limits(config, parts, path, errors);
    let upstream_key = config.upstream_key.as_ref().map(|source| {
        parts.upstream_keys.iter().position(|known| known == source).unwrap_or_else(|| {
            parts.upstream_keys.push(source.clone());
            parts.upstream_keys.len() - 1
        })
    });
    Route {
        name: config.name().to_owned(),
        public: config.public,
        scopes,
        model,
        content,
        resource_metadata: config.resource_metadata.clone(),
        limits,
        on_outage: config.on_outage,
        forward_credential: config.forward_credential,
        upstream_key,
    }
}

fn limits(config: &RouteConfig, parts: &Parts<'_>, path: &Path, errors: &mut Errors) -> Vec<Arc<RateLimit>> {
    let mut limits: Vec<Arc<RateLimit>> = Vec::new();
    for (index, name) in config.limits.iter().enumerate() {
        let at = path.key("limits").index(index);
        let Some(limit) = parts.limits.get(name) else {
            let known: Vec<&str> = parts.limits.keys().map(String::as_str).collect();
            errors.push(
                &at,
                format!("there is no limit `{name}`; known: {}", if known.is_empty() { "none".into() } else { known.join(", ") }),
            );
            continue;
        };
        if limits.iter().any(|known| known.name == limit.name) {
            errors.push(&at, format!("`{name}` is listed twice"));
        }
        if config.public && limit.needs_principal() {
            errors.push(
                &at,
                format!("`{name}` counts by what only a credential has, and the route is public; count by `address` or `route`"),
            );
        }
        if config.model.is_none() && limit.needs_model() {
            errors.push(&at, format!("`{name}` counts by model, and the route has no `model`"));
        }
        limits.push(Arc::clone(limit));
    }
    limits
}

fn methods(config: &RouteConfig, path: &Path, errors: &mut Errors) -> Vec<String> {
    let at = path.key("methods");
    let mut methods = match &config.matches.methods {
        Some(methods) => methods.clone(),
        None if config.public => vec!["GET".into()],
        None => {
            errors.push(path, "list the `methods`, such as `[POST]`");
            Vec::new()
        }
    };
    if config.matches.methods.as_ref().is_some_and(Vec::is_empty) {
        errors.push(&at, "list at least one method");
    }
    for (index, method) in methods.iter().enumerate() {
        if !["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method.as_str()) {
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

fn hosts(config: &RouteConfig, path: &Path, errors: &mut Errors) -> Vec<table::HostPattern> {
    if config.matches.hosts.is_empty() {
        return vec![table::HostPattern::Any];
    }
    let mut hosts = Vec::new();
    for (index, text) in config.matches.hosts.iter().enumerate() {
        hosts.extend(errors.take(&path.key("hosts").index(index), table::HostPattern::parse(text)));
    }
    hosts
}
