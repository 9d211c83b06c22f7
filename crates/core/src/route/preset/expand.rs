//! Expands a `preset:` entry to ordinary routes: one for each path, with the entry's limits, scopes
//! and keys.

use std::{collections::BTreeMap, num::NonZeroU64};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    BodyKind, ModelPlace, Preset, PresetRoute,
    members::{Catalog, MemberFile, MembersError, allow},
};
use crate::{
    config::{Errors, Path},
    identity::CredentialKind,
    limit::Limit,
    request::body::Opened,
    route::{
        MatchConfig, OnOutage, RouteConfig,
        fixed_charge::{FixedCharges, is_batch, may_run_in_background},
    },
    rule::{
        actor::ActorsConfig,
        category::CategoryRuleConfig,
        condition::ConditionConfig,
        fields::{CapsConfig, FieldsConfig, Media},
        member::RouteMembers,
        model::{AdaptersConfig, ModelRuleConfig, ModelSource},
        scope::ScopeRule,
        shadow::ShadowRule,
        size::Sizing,
        tenant::TenantConfig,
        websocket::WebSocketConfig,
    },
    secret::SecretSource,
};

/// An entry of `routes` that expands to all routes of an inference server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetConfig {
    /// The name of the preset. `tollgate presets list` lists the names, `tollgate presets show
    /// NAME` the requirements of each route. A request that the preset does not list is denied. A
    /// `match` entry with the same hosts, path and method takes precedence.
    pub preset: String,
    /// The hosts of the server.
    #[serde(rename = "match", default)]
    pub matches: PresetMatchConfig,
    /// Closed groups of routes and members to open, such as `stored-responses` and `server-tools`.
    /// Default: none.
    #[serde(default)]
    pub open: Vec<String>,
    /// Scopes that each of its routes requires besides its own. Default: none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Other names for the preset's scopes, such as `{ "infer:text": chat }`. Default: the preset's
    /// names.
    #[serde(default)]
    pub rename_scopes: BTreeMap<String, String>,
    /// Scopes for single models. Default: a client that may use a route may use every model it
    /// reaches.
    pub model: Option<PresetModelConfig>,
    /// Exceptions from the preset's tables of members.
    #[serde(default)]
    pub fields: PresetFieldsConfig,
    /// The references that content parts of a body may contain. Default `inline`: a server that
    /// fetches URLs for its clients reaches hosts that they cannot, and some servers read `file://`
    /// paths.
    #[serde(default = "inline")]
    pub media: Media,
    /// Expressions in CEL that must all be true on each of its routes that is not public. They
    /// cannot use `model`, because not every route has one.
    #[serde(default)]
    pub conditions: Vec<ConditionConfig>,
    /// The scope for each tool that a JSON body declares or chooses, such as `tool:{name}`. Default: tools
    /// are not checked.
    pub tools: Option<String>,
    /// The rules of its routes that are in shadow: what they would deny is logged (`would_deny`), and
    /// the request passes. Conditions and limits have a `mode`. Default: none.
    #[serde(default)]
    pub shadow: Vec<ShadowRule>,
    /// Rules for its WebSockets, which `open: [realtime]` opens.
    pub websocket: Option<WebSocketConfig>,
    /// The URL of the metadata that names the authorization server, sent as `resource_metadata`
    /// with every challenge of routes that are not public (RFC 9728 section 5.1).
    pub resource_metadata: Option<String>,
    /// The permitted categories of prompts, on every route that reads prompts. A form declares its
    /// category in a header. Default: prompts are not classified.
    pub categories: Option<CategoryRuleConfig>,
    /// Upper limits for one request, on every route that reads a JSON body or a form of clients.
    pub caps: Option<CapsConfig>,
    /// The names of the `limits` that count requests of its routes. Public routes are not counted,
    /// and a limit by model counts routes with a model only.
    #[serde(default)]
    pub limits: Vec<String>,
    /// What each request of its WebSockets and batches is charged at admission by the limits on
    /// `tokens`: their usage is in no response. Default: these limits cannot be set while such
    /// routes are open.
    pub fixed_tokens: Option<NonZeroU64>,
    /// What a request of the Responses API with `background: true` is charged at admission by the
    /// limits on `tokens`. Default: such a request is denied on routes with these limits.
    pub background_tokens: Option<NonZeroU64>,
    /// The behaviour if the store does not answer. Default `deny`.
    #[serde(default)]
    pub on_outage: OnOutage,
    /// The kinds of credentials that its routes accept: `jwt`, `api_key`, `certificate`, `cookie`,
    /// `opaque_token`. Default:
    /// `jwt`, and `api_key` where the file has `api_keys`.
    pub credentials: Option<Vec<CredentialKind>>,
    /// The resource that a token has to be for: its audience claim has to list this text, beside what the
    /// issuer's `audiences` require (RFC 8707; MCP, Authorization). API keys and certificates have no
    /// audience. Default: every token that its issuer's `audiences` admit.
    pub audience: Option<String>,
    /// Whether browsers send the credential by themselves, because a filter in front turns a cookie into
    /// `Authorization`. A request other than GET, HEAD and OPTIONS, and a WebSocket, then needs an
    /// `Origin` of `cookies.origins` and `Sec-Fetch-Site: same-origin`. Cookies need it on every
    /// route. Default false.
    #[serde(default)]
    pub ambient: bool,
    /// Whether Envoy ends a stream of the route when its credential ends, is revoked or is banned, and
    /// when the stream has used more tokens than the request holds: its last event is an error in the
    /// client's form. It needs `listen.ext_proc` and deploy/envoy/envoy-metered-cut.yaml. Default
    /// false.
    #[serde(default)]
    pub cut_streams: bool,
    /// The agents that may act for subjects, by the claim `act` of a token (RFC 8693). Default: every
    /// actor may, in a chain of at most eight. Each one is checked for revocation and bans.
    pub actors: Option<ActorsConfig>,
    /// Where a request names a tenant, which has to be that of the credential: in the `host` or a
    /// `header`. Default: nowhere.
    pub tenant: Option<TenantConfig>,
    /// Forward the client's credential to the upstream. Default false: an inference server does not
    /// use it.
    #[serde(default)]
    pub forward_credential: bool,
    /// The upstream's own key, sent as `Authorization: Bearer` in place of the client's credential.
    /// Not sent on public routes.
    pub upstream_key: Option<SecretSource>,
}

fn inline() -> Media {
    Media::Inline
}

/// `fields` of an entry with `preset`: exceptions from the preset's tables of members.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetFieldsConfig {
    /// Members that clients may send although the preset denies them or does not list them, as a denial
    /// names them: `priority`, `structured_outputs.regex`, `tools[].type=mcp`, or `?model` for a parameter
    /// of the query. Each is open wherever the same kind of object is read. Default: none.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether members that the preset does not list pass. Default `deny`.
    #[serde(default)]
    pub unknown: UnknownMembers,
}

/// `fields.unknown` of an entry with `preset`: the decision on members that the preset does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownMembers {
    /// They are denied with their name.
    #[default]
    Deny,
    /// They pass. Types and other values that the preset lists stay denied unless they are listed.
    Pass,
}

/// `match` of an entry with `preset`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetMatchConfig {
    /// Host names, or `*.example.com` for every subdomain. Default: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// `model` of an entry with `preset`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetModelConfig {
    /// The scope that a credential requires for a model, with `{model}` for its name:
    /// `model:{model}:inference`. With this key, a route whose model cannot be read is denied.
    pub scope: Option<String>,
    /// The model that the server uses if a request names none.
    pub default: Option<String>,
}

/// Returns the routes of an entry and records its errors at `path`. `limit` looks up limits.
pub(in crate::route) fn expand<'a>(
    config: &PresetConfig,
    preset: &Preset,
    limit: impl Fn(&str) -> Option<&'a Limit>,
    path: &Path,
    errors: &mut Errors,
) -> Vec<RouteConfig> {
    let Some((catalog, file)) = errors.take(&path.key("preset"), catalog_of(&preset.name)) else {
        return Vec::new();
    };
    let opened = check_keys(config, preset, catalog, file, path, errors);
    check_charges(config, preset, &limit, path, errors);
    let mut expanded = Vec::new();
    for route in &preset.routes {
        let Some(model) = model_rule(route, preset, config) else { continue };
        let renamed = |scope: &str| {
            config.rename_scopes.get(scope).cloned().unwrap_or_else(|| scope.to_owned())
        };
        for listed in &route.paths {
            let tables = route.methods.iter().find_map(|method| file.find(method, listed));
            let members = tables.map(|tables| RouteMembers {
                tables: catalog.tables(),
                json: tables.json,
                form: tables.form,
                query: tables.query,
                prefix: tables.prefix.clone(),
                any_body: route.body == BodyKind::Any,
                opened: opened.clone(),
                scopes: catalog.tables().scopes().iter().map(|scope| renamed(scope)).collect(),
            });
            let json = tables.is_some_and(|tables| tables.json.is_some());
            let form = tables.is_some_and(|tables| tables.form.is_some());
            let reads = json || form;
            // Embeddings and tokenizers have no member that could be required.
            let answers = tables
                .and_then(|tables| tables.json)
                .is_some_and(|root| catalog.bounds_answer(root));
            let limits = config.limits.iter().filter(|name| {
                // An unknown name is kept, so that it is reported with the other errors.
                let Some(limit) = limit(name) else { return !route.public };
                !route.public
                    && (model.is_some() || !limit.needs_model())
                    && (!limit.counts_tokens() || infers(route))
            });
            let limits: Vec<String> = limits.cloned().collect();
            let charges_tokens =
                limits.iter().filter_map(|name| limit(name)).any(Limit::charges_tokens);
            let is_fixed = has_fixed_charge(route, listed);
            let scopes = route
                .scopes
                .iter()
                .map(|scope| renamed(scope))
                .chain(config.scopes.iter().cloned())
                .collect();
            expanded.push(RouteConfig {
                matches: MatchConfig {
                    hosts: config.matches.hosts.clone(),
                    methods: Some(route.methods.clone()),
                    paths: vec![listed.clone()],
                },
                name: Some(format!("{} {} {listed}", preset.name, route.methods.join("|"))),
                public: route.public,
                scopes: (!route.public).then_some(ScopeRule::All(scopes)),
                model: model.clone(),
                caps: config.caps.clone().filter(|_| reads).map(|caps| CapsConfig {
                    require_max_tokens: caps.require_max_tokens && answers,
                    ..caps
                }),
                fields: (reads && config.media == Media::Inline)
                    .then(|| FieldsConfig { media: config.media, ..FieldsConfig::default() }),
                members,
                raise: None,
                tools: config.tools.clone().filter(|_| json),
                categories: config
                    .categories
                    .clone()
                    .filter(|categories| json || (form && categories.reads_forms())),
                conditions: if route.public { Vec::new() } else { config.conditions.clone() },
                mcp: None,
                shadow: config.shadow.clone(),
                websocket: config.websocket.clone().filter(|_| route.body == BodyKind::Websocket),
                resource_metadata: config.resource_metadata.clone().filter(|_| !route.public),
                limits,
                fixed_tokens: config.fixed_tokens.filter(|_| is_fixed && charges_tokens),
                background_tokens: config
                    .background_tokens
                    .filter(|_| charges_tokens && !is_fixed && may_run_in_background(listed)),
                sizing: Some(Sizing {
                    generates: !route.scopes.iter().any(|scope| scope == EMBEDDINGS),
                    api: Some(catalog.api(
                        tables.and_then(|tables| tables.json),
                        TAKING_ZERO.contains(&preset.name.as_str()),
                    )),
                    background: None,
                }),
                on_outage: config.on_outage,
                credentials: config.credentials.clone().filter(|_| !route.public),
                audience: config.audience.clone().filter(|_| !route.public),
                ambient: config.ambient && !route.public,
                cut_streams: config.cut_streams && !route.public,
                actors: config.actors.clone().filter(|_| !route.public),
                tenant: config.tenant.clone().filter(|_| !route.public),
                forward_credential: config.forward_credential && !route.public,
                upstream_key: config.upstream_key.clone().filter(|_| !route.public),
            });
        }
    }
    expanded
}

/// The servers that answer a completion of 0 tokens with its prompt alone: `vLLM` with `echo` (it
/// refuses 0 without it), `SGLang`, and llama.cpp.
const TAKING_ZERO: [&str; 3] = ["vllm", "sglang", "llama-cpp"];

/// The scope of the routes that answer with numbers.
const EMBEDDINGS: &str = "infer:embeddings";

/// Whether a model reads requests of a route, so that they use tokens. A route of which no request
/// has a model reads stored answers.
fn infers(route: &PresetRoute) -> bool {
    route.model != ModelPlace::None
        && route.scopes.iter().any(|scope| scope.starts_with("infer:") || scope == "ocr_api_access")
}

/// Whether `fixed_tokens` is the charge of a route: the usage of its requests is in no response.
fn has_fixed_charge(route: &PresetRoute, path: &str) -> bool {
    !route.public && (route.body == BodyKind::Websocket || is_batch(path))
}

/// Checks that the fixed charges of an entry are those of some route.
fn check_charges<'a>(
    config: &PresetConfig,
    preset: &Preset,
    limit: impl Fn(&str) -> Option<&'a Limit>,
    path: &Path,
    errors: &mut Errors,
) {
    let mut limits = config.limits.iter().filter_map(|name| limit(name));
    let charges_tokens = limits.any(Limit::charges_tokens);
    // The two charges are those of different routes.
    for charges in [
        FixedCharges { all: config.fixed_tokens, background: None },
        FixedCharges { all: None, background: config.background_tokens },
    ] {
        charges.check(charges_tokens, path, errors);
    }
    let is_open = |route: &&PresetRoute| {
        route.closed.as_ref().is_none_or(|group| config.open.contains(group))
    };
    let mut open = preset.routes.iter().filter(is_open);
    if config.fixed_tokens.is_some()
        && !open.any(|route| route.paths.iter().any(|path| has_fixed_charge(route, path)))
    {
        errors.push_presuming(
            &path.key("fixed_tokens"),
            &[path.key("open")],
            "no WebSocket and no batch of the preset is open; open one, or remove this",
        );
    }
    if config.background_tokens.is_some()
        && !preset.routes.iter().filter(is_open).any(|route| {
            infers(route) && route.paths.iter().any(|path| may_run_in_background(path))
        })
    {
        errors.push_presuming(
            &path.key("background_tokens"),
            &[path.key("open")],
            "only requests of the Responses API (`/v1/responses`) run in the background, and no route \
             of the preset has it; remove this",
        );
    }
}

/// Returns the tables of a preset.
fn catalog_of(preset: &str) -> Result<(&'static Catalog, &'static MemberFile), MembersError> {
    let catalog = Catalog::load()?;
    Ok((catalog, catalog.file(preset)?))
}

/// Returns the model rule of a route, if it has one; `None` if the route is denied.
// INVARIANT: with a scope for models, no route is served whose model is not checked against it.
#[expect(clippy::option_option, reason = "denied, served without a model, served with one")]
fn model_rule(
    route: &PresetRoute,
    preset: &Preset,
    config: &PresetConfig,
) -> Option<Option<ModelRuleConfig>> {
    if route.closed.as_ref().is_some_and(|group| !config.open.contains(group)) {
        return None;
    }
    let scope = config.model.as_ref().and_then(|model| model.scope.clone());
    let default = config.model.as_ref().and_then(|model| model.default.clone());
    let adapters = Some(AdaptersConfig { separator: preset.adapter_separator, fields: Vec::new() });
    match &route.model {
        ModelPlace::None => Some(None),
        // A path always names its model.
        ModelPlace::Source(from @ ModelSource::Path(_), _) => {
            Some(Some(ModelRuleConfig { from: from.clone(), default: None, adapters, scope }))
        }
        ModelPlace::Source(from, _) => {
            Some(Some(ModelRuleConfig { from: from.clone(), default, adapters, scope }))
        }
        ModelPlace::Fixed => match default {
            Some(name) => Some(Some(ModelRuleConfig {
                from: ModelSource::Fixed(name),
                default: None,
                adapters,
                scope,
            })),
            None => scope.is_none().then_some(None),
        },
        ModelPlace::Hidden => scope.is_none().then_some(None),
    }
}

/// Checks that the keys of an entry name groups, members and scopes of the preset, and returns what
/// it opens.
fn check_keys(
    config: &PresetConfig,
    preset: &Preset,
    catalog: &Catalog,
    file: &MemberFile,
    path: &Path,
    errors: &mut Errors,
) -> Opened {
    let known =
        |words: Vec<&str>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    if config.tenant.as_ref().is_some_and(|tenant| tenant.body.is_some()) {
        let message = "the requests of a preset have tables of their own; use `host` or `header`, \
                       or a `match` entry";
        errors.push(&path.key("tenant").key("body"), message);
    }
    for (index, rule) in config.shadow.iter().enumerate() {
        let is_set = match rule {
            ShadowRule::Actors => config.actors.is_some(),
            ShadowRule::Caps => config.caps.is_some(),
            ShadowRule::Categories => config.categories.is_some(),
            ShadowRule::Tools => config.tools.is_some(),
            ShadowRule::Mcp | ShadowRule::Raise => false,
        };
        if !is_set {
            let message = format!("the preset has no `{}`; set it, or remove this", rule.key());
            errors.push(&path.key("shadow").index(index), message);
        }
    }
    let scope = config.model.as_ref().and_then(|model| model.scope.as_ref());
    let mut groups = preset.closed();
    groups
        .extend(catalog.groups(file).into_iter().filter(|group| !preset.closed().contains(group)));
    for (index, group) in config.open.iter().enumerate() {
        let at = path.key("open").index(index);
        if !groups.contains(&group.as_str()) {
            errors.push(
                &at,
                format!(
                    "`{}` has no closed routes `{group}`; it has: {}",
                    preset.name,
                    known(groups.clone())
                ),
            );
        }
        let hidden = |route: &&PresetRoute| {
            route.closed.as_ref() == Some(group) && route.model == ModelPlace::Hidden
        };
        if let Some(route) = preset.routes.iter().find(hidden).filter(|_| scope.is_some()) {
            let listed = route.paths.join(", ");
            errors.push(
                &at,
                format!("`{group}` hides its model ({listed}), so `model.scope` cannot be checked; open it with a `match` entry of its own"),
            );
        }
    }
    let opens = |route: &PresetRoute| {
        route.body == BodyKind::Websocket
            && route.closed.as_ref().is_none_or(|group| config.open.contains(group))
    };
    if config.websocket.is_some() && !preset.routes.iter().any(opens) {
        errors.push_presuming(
            &path.key("websocket"),
            &[path.key("open")],
            "no WebSocket of the preset is open; write `open: [realtime]`, or remove this",
        );
    }
    let mut opened = Opened {
        groups: config.open.clone(),
        unknown_pass: config.fields.unknown == UnknownMembers::Pass,
        ..Opened::default()
    };
    for (index, entry) in config.fields.allow.iter().enumerate() {
        let at = path.key("fields").key("allow").index(index);
        opened.members.extend(errors.take(&at, allow(catalog, file, entry)).unwrap_or_default());
    }
    let mut scopes = preset.scopes();
    let raised = catalog.tables().scopes().iter().map(String::as_str);
    scopes.extend(raised.filter(|scope| !preset.scopes().contains(scope)));
    for scope in config.rename_scopes.keys() {
        if !scopes.contains(&scope.as_str()) {
            let at = path.key("rename_scopes").key(scope);
            errors.push(
                &at,
                format!(
                    "`{}` has no scope `{scope}`; it has: {}",
                    preset.name,
                    known(scopes.clone())
                ),
            );
        }
    }
    opened
}
