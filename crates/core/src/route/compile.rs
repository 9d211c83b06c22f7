//! Compiles the list `routes` to a table: explicit entries first, then the routes of presets that
//! no explicit entry replaces.

use std::{collections::BTreeSet, num::NonZeroU64, sync::Arc};

use super::{
    CompileContext, OnOutage, Route, RouteConfig, RouteEntry, RouteTable,
    accepted::AcceptedCredentials,
    fixed_charge::{FixedCharges, is_batch, may_run_in_background},
    preset::{self, Preset, PresetConfig, members::Catalog},
    resource::ResourceMetadata,
    table::{DuplicateRoute, HostPattern},
};
use crate::{
    config::{Errors, Path},
    identity::{CredentialKind, CredentialKinds},
    limit::Limit,
    pattern::Pattern,
    rule::{
        actor::ActorRule,
        condition::{self, Condition},
        content::{Content, Sections, ShadowContent},
        model::ModelRule,
        scope::ScopeRule,
        shadow::{ShadowRule, ShadowRules},
        size::{Api, Sizing},
        tenant::TenantRule,
        websocket::WebSocketRule,
    },
};

/// The longest `resource_metadata`: it is part of a header of denials, whose size is bounded.
const MAX_METADATA_URL: usize = 512;

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
    let route = Arc::new(route(config, preset.is_some(), context, &captures, path, errors));
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

fn route(
    config: &RouteConfig,
    from_preset: bool,
    context: &mut CompileContext<'_>,
    captures: &[Vec<String>],
    path: &Path,
    errors: &mut Errors,
) -> Route {
    let model = config.model.as_ref().map(|model| {
        ModelRule::compile(model, context.models, captures, &path.key("model"), errors)
    });
    if config.public {
        for (key, set) in [
            ("scopes", config.scopes.is_some()),
            ("model", config.model.is_some()),
            ("caps", config.caps.is_some()),
            ("fields", config.fields.is_some()),
            ("raise", config.raise.is_some()),
            ("tools", config.tools.is_some()),
            ("mcp", config.mcp.is_some()),
            ("categories", config.categories.is_some()),
            ("websocket", config.websocket.is_some()),
            ("resource_metadata", config.resource_metadata.is_some()),
            ("credentials", config.credentials.is_some()),
            ("audience", config.audience.is_some()),
            ("ambient", config.ambient),
            ("cut_streams", config.cut_streams),
            ("actors", config.actors.is_some()),
            ("tenant", config.tenant.is_some()),
            ("forward_credential", config.forward_credential),
            ("upstream_key", config.upstream_key.is_some()),
        ] {
            if set {
                errors.push(
                    &path.key(key),
                    format!("a public route needs no credential, so `{key}` has no meaning; remove one of the two"),
                );
            }
        }
    } else if config.scopes.is_none() {
        errors.push(path, "a route needs `scopes` (or `public: true`); write `scopes: []` to admit any valid credential");
    }
    if config.forward_credential && config.upstream_key.is_some() {
        errors.push(
            &path.key("upstream_key"),
            "the upstream gets either its own key or the client's credential, not both",
        );
    }
    let (mut rates, mut holds) = (Vec::new(), Vec::new());
    for limit in limits(config, context, path, errors) {
        match limit {
            Limit::Rate(limit) => rates.push(limit),
            Limit::Hold(limit) => holds.push(limit),
        }
    }
    let counts_tokens = holds.iter().any(|limit| limit.counts_tokens());
    let is_sized = holds.iter().any(|limit| limit.counts_tokens() && !limit.is_shadow());
    let charges_tokens = holds.iter().any(|limit| limit.charges_tokens());
    // Nothing is written into requests for a limit in shadow.
    let bounds_answers = holds.iter().any(|limit| limit.charges_tokens() && !limit.is_shadow());
    let charges = FixedCharges { all: config.fixed_tokens, background: config.background_tokens };
    charges.check(charges_tokens, path, errors);
    if charges.background.is_some()
        && !config.matches.paths.iter().any(|path| may_run_in_background(path))
    {
        errors.push(
            &path.key("background_tokens"),
            "only requests of the Responses API (`/v1/responses`) run in the background; remove this",
        );
    }
    let fixed_tokens = charges.all.map(NonZeroU64::get);
    let sizing = (counts_tokens && fixed_tokens.is_none()).then(|| {
        let known = config.sizing.unwrap_or_else(|| Sizing {
            generates: generates(&config.matches.paths),
            api: Some(Api::OfPath),
            background: None,
        });
        let background = charges.background.map(NonZeroU64::get);
        Sizing { api: known.api.filter(|_| bounds_answers), background, ..known }
    });
    let tenant = config
        .tenant
        .as_ref()
        .map(|tenant| Box::new(TenantRule::compile(tenant, captures, &path.key("tenant"), errors)));
    let actors = config.actors.as_ref().map(|actors| {
        let issuers = context.issuers.list().iter().map(|issuer| Arc::clone(&issuer.name));
        let issuers: Vec<_> = issuers.collect();
        Box::new(ActorRule::compile(actors, &issuers, &path.key("actors"), errors))
    });
    let sections = Sections {
        model: model.as_ref(),
        models: context.models,
        caps: config.caps.as_ref(),
        fields: config.fields.as_ref(),
        raise: config.raise.as_ref(),
        tools: config.tools.as_ref(),
        mcp: config.mcp.as_ref(),
        categories: config.categories.as_ref().map(|rule| (rule, context.categories)),
        members: config.members.as_ref(),
        tenant: tenant.as_deref().and_then(TenantRule::body),
        sized: sizing.is_some(),
    };
    let shadow = ShadowRules::new(&config.shadow);
    let (sizing, shadow_sizing) = if is_sized { (sizing, None) } else { (None, sizing) };
    let before = errors.len();
    let shadow_content = ShadowContent::compile(&sections, shadow, shadow_sizing, path, errors);
    let mut found = Errors::default();
    let enforced = sections.enforced(shadow, sizing.is_some());
    let content = Content::compile(&enforced, path, &mut found);
    // The errors of all rules are those of the enforced ones and more.
    if errors.len() == before {
        errors.extend(found);
    }
    if let Some(url) = &config.resource_metadata
        && (!url.starts_with("https://")
            || !url.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')))
    {
        errors.push(&path.key("resource_metadata"), format!("`{url}` is not an https URL"));
    } else if let Some(url) = &config.resource_metadata
        && url.len() > MAX_METADATA_URL
    {
        let message = format!("a URL in a response header has at most {MAX_METADATA_URL} bytes");
        errors.push(&path.key("resource_metadata"), message);
    }
    let websocket = config
        .websocket
        .as_ref()
        .map(|rule| WebSocketRule::compile(rule, &path.key("websocket"), errors));
    let has = condition::Route { public: config.public, model: model.is_some(), captures };
    let conditions = Condition::compile(
        &config.conditions,
        has,
        &mut context.claims,
        &path.key("conditions"),
        errors,
    );
    let scopes = config.scopes.clone().unwrap_or(ScopeRule::All(Vec::new()));
    let scopes = scopes.compile(&path.key("scopes"), errors);
    if config.on_outage == OnOutage::Local
        && (fixed_tokens.is_some() || config.background_tokens.is_some())
    {
        let message = "`local` cannot count a fixed charge, which all replicas share; use `deny`";
        errors.push(&path.key("on_outage"), message);
    }
    let upstream_key = config.upstream_key.as_ref().map(|source| {
        context.upstream_keys.iter().position(|known| known == source).unwrap_or_else(|| {
            context.upstream_keys.push(source.clone());
            context.upstream_keys.len() - 1
        })
    });
    if !from_preset {
        check_shadow(config, path, errors);
    }
    let audience = audience(config, context, path, errors);
    let credentials = credentials(config, context, path, errors);
    check_cookies(config, credentials, context, path, errors);
    let cookie = context.cookies.and_then(|cookies| cookies.name.as_deref());
    let has_kinds = context.api_keys.is_some()
        || context.accepts_certificates
        || cookie.is_some()
        || context.issuers.introspects();
    let accepted =
        has_kinds.then(|| AcceptedCredentials::new(credentials, context.api_keys, cookie));
    let takes_proofs = [CredentialKind::Jwt, CredentialKind::OpaqueToken];
    let takes_proofs = takes_proofs.into_iter().any(|kind| credentials.contains(kind));
    let algs = context.algs.filter(|_| takes_proofs).cloned();
    Route {
        name: config.name().to_owned(),
        public: config.public,
        scopes,
        model,
        conditions,
        shadow,
        content,
        shadow_content: shadow_content.map(Box::new),
        websocket,
        resource_metadata: config.resource_metadata.clone(),
        limits: rates,
        holds,
        sizing,
        fixed_tokens,
        on_outage: config.on_outage,
        credentials,
        audience,
        ambient: config.ambient,
        cut_streams: config.cut_streams,
        actors,
        tenant,
        accepted,
        algs,
        forward_credential: config.forward_credential,
        upstream_key,
        from_preset,
    }
}

/// Checks that the route has each rule that it puts in shadow.
fn check_shadow(config: &RouteConfig, path: &Path, errors: &mut Errors) {
    for (index, rule) in config.shadow.iter().enumerate() {
        let is_set = match rule {
            ShadowRule::Actors => config.actors.is_some(),
            ShadowRule::Caps => config.caps.is_some(),
            ShadowRule::Categories => config.categories.is_some(),
            ShadowRule::Mcp => config.mcp.is_some(),
            ShadowRule::Raise => config.raise.is_some(),
            ShadowRule::Tools => config.tools.is_some(),
        };
        if !is_set {
            let message = format!("the route has no `{}`; set it, or remove this", rule.key());
            errors.push(&path.key("shadow").index(index), message);
        }
    }
}

/// Returns the place of the route's resource among those of the policy.
fn audience(
    config: &RouteConfig,
    context: &mut CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) -> Option<usize> {
    let audience = config.audience.as_deref()?;
    if !context.issuers.list().iter().any(|issuer| issuer.admits_audience(audience)) {
        let root = path.parent().parent();
        let message = format!(
            "no issuer has `{audience}` in its `audiences`, so that no token opens the route"
        );
        errors.push_presuming(&path.key("audience"), &[root.key("issuers")], message);
    }
    let algs = context.algs.map(|algs| &**algs);
    let resources = &mut context.resources;
    let known = resources.iter().position(|known| known.resource == audience);
    let place = known.unwrap_or_else(|| {
        resources.push(ResourceMetadata::new(audience, context.issuers, algs));
        resources.len() - 1
    });
    if let (Some(scopes), Some(resource)) = (&config.scopes, resources.get_mut(place)) {
        resource.add(scopes);
    }
    Some(place)
}

/// Checks what a route with credentials that browsers send by themselves needs.
fn check_cookies(
    config: &RouteConfig,
    credentials: CredentialKinds,
    context: &CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) {
    if config.ambient && context.cookies.is_none() {
        let cookies = path.parent().parent().key("cookies");
        let message = "`ambient` needs the section `cookies` with the `origins` of your pages";
        errors.push_presuming(&path.key("ambient"), &[cookies], message);
    }
    let has_cookies = credentials.contains(CredentialKind::Cookie) && config.credentials.is_some();
    if has_cookies && config.forward_credential {
        errors.push(
            &path.key("forward_credential"),
            "a cookie is never forwarded; remove this, or `cookie` from `credentials`",
        );
    }
}

/// Returns the kinds of credentials that the route accepts: no kind that is not named or default
/// opens a route.
fn credentials(
    config: &RouteConfig,
    context: &CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) -> CredentialKinds {
    let Some(kinds) = &config.credentials else {
        // Other kinds are accepted only where a route names them.
        let keys = context.api_keys.map(|_| CredentialKind::ApiKey);
        let kinds = std::iter::once(CredentialKind::Jwt).chain(keys);
        #[cfg(test)]
        let kinds = kinds.chain([CredentialKind::Test]);
        return kinds.collect();
    };
    let at = path.key("credentials");
    if kinds.is_empty() {
        errors.push(&at, "list at least one kind: jwt, api_key, certificate, cookie, opaque_token");
    }
    for (index, kind) in kinds.iter().enumerate() {
        let root = path.parent().parent();
        if kinds.iter().take(index).any(|earlier| earlier == kind) {
            errors.push(&at.index(index), format!("`{}` is listed twice", kind.label()));
        }
        let (is_configured, section) = match kind {
            CredentialKind::ApiKey => (context.api_keys.is_some(), "api_keys"),
            CredentialKind::Certificate => (context.accepts_certificates, "client_certificates"),
            CredentialKind::Cookie
                if context.cookies.is_none_or(|cookies| cookies.name.is_none()) =>
            {
                (false, "cookies")
            }
            CredentialKind::OpaqueToken if !context.issuers.introspects() => {
                let message = "`opaque_token` needs an issuer with `introspection`";
                errors.push_presuming(&at.index(index), &[root.key("issuers")], message);
                continue;
            }
            _ => (!context.issuers.list().is_empty(), "issuers"),
        };
        if !is_configured {
            let message = format!("`{}` needs the section `{section}`", kind.label());
            errors.push_presuming(&at.index(index), &[root.key(section)], message);
        }
    }
    kinds.iter().copied().collect()
}

fn limits(
    config: &RouteConfig,
    context: &CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) -> Vec<Limit> {
    let mut limits: Vec<Limit> = Vec::new();
    for (index, name) in config.limits.iter().enumerate() {
        let at = path.key("limits").index(index);
        let Some(limit) = context.limits.get(name) else {
            let known: Vec<&str> = context.limits.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let limits_path = path.parent().parent().key("limits");
            errors.push_presuming(
                &at,
                &[limits_path],
                format!("there is no limit `{name}`; known: {known}"),
            );
            continue;
        };
        if limits.iter().any(|known| known.name() == limit.name()) {
            errors.push(&at, format!("`{name}` is listed twice"));
        }
        if config.public && limit.needs_principal() {
            errors.push(
                &at,
                format!("`{name}` counts by what only a credential has, and the route is public; count by `address` or `route`"),
            );
        }
        if config.model.is_none() && limit.needs_model() {
            let message = format!("`{name}` counts by model, and the route has no `model`");
            errors.push_presuming(&at, &[path.key("model")], message);
        }
        if limit.counts_tokens() {
            check_size(limit, config, context, (&at, path), errors);
        }
        if limit.is_settled() && !context.has_metering {
            let metering = path.parent().parent().key("metering");
            let message =
                format!("`{name}` is settled when a response has ended; add `metering.secrets`");
            errors.push_presuming(&at, &[metering], message);
        }
        if limit.counts_tokens() && limit.is_settled() {
            check_usage(limit, config, (&at, path), errors);
        }
        // Otherwise each name that a client invents has a bucket of its own.
        if limit.needs_model()
            && config.model.as_ref().is_some_and(|model| !context.models.bind(model))
        {
            let message = format!(
                "`{name}` counts by model, and clients can invent names; list the `models`, or \
                 set `model.scope` with `{{model}}`"
            );
            let presumes = [path.key("model"), path.parent().parent().key("models")];
            errors.push_presuming(&at, &presumes, message);
        }
        limits.push(limit.clone());
    }
    limits
}

/// Whether the server answers requests of these paths with tokens: not with numbers, as those of
/// the paths that are known to.
fn generates(paths: &[String]) -> bool {
    const NUMBERS: [&str; 9] = [
        "embeddings",
        "embed",
        "rerank",
        "score",
        "classify",
        "pooling",
        "similarity",
        "tokenize",
        "detokenize",
    ];
    let is_of_numbers =
        |path: &String| path.rsplit('/').next().is_some_and(|last| NUMBERS.contains(&last));
    !paths.iter().all(is_of_numbers)
}

/// Checks that the size of every request of a route is known.
fn check_size(
    limit: &Limit,
    config: &RouteConfig,
    context: &CompileContext<'_>,
    (at, route): (&Path, &Path),
    errors: &mut Errors,
) {
    let name = limit.name();
    if config.public {
        errors.push(
            at,
            format!("`{name}` counts tokens, and the body of a public route is not read"),
        );
    } else if config.fixed_tokens.is_some() {
        // The size is not computed.
    } else if config.model.is_none() {
        let message = format!(
            "`{name}` counts tokens, and the route has no `model`, whose context bounds a request"
        );
        errors.push_presuming(at, &[route.key("model")], message);
    } else if let Some(unsized_model) = context.models.without_size() {
        let models = route.parent().parent().key("models");
        let message = match unsized_model {
            Some(model) => {
                format!("`{name}` counts tokens, and the model `{model}` has no `context`")
            }
            None => format!("`{name}` counts tokens; list the `models` with their `context`"),
        };
        errors.push_presuming(at, &[models, route.key("model")], message);
    }
}

/// Checks that the usage of the requests of a route is part of their responses.
fn check_usage(
    limit: &Limit,
    config: &RouteConfig,
    (at, route): (&Path, &Path),
    errors: &mut Errors,
) {
    if config.fixed_tokens.is_some() {
        return;
    }
    let name = limit.name();
    if config.websocket.is_some() {
        let message = format!(
            "`{name}` counts tokens, and a WebSocket reports no usage; set `fixed_tokens`, or give it a route without the limit"
        );
        errors.push_presuming(at, &[route.key("websocket")], message);
    } else if let Some(path) = config.matches.paths.iter().find(|path| is_batch(path)) {
        errors.push(at, format!("`{name}` counts tokens, and the usage of the batches of `{path}` is in no response; set `fixed_tokens`, or give them a route without the limit"));
    }
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
