//! A `preset:` entry of the file as ordinary routes: one for each path, with the entry's limits, scopes and keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AUDIO, BodyKind, MULTIMODAL, ModelPlace, Preset, PresetRoute};
use crate::{
    config::{Errors, Path},
    limit::rate::RateLimit,
    route::{MatchConfig, OnOutage, RouteConfig},
    rule::{
        category::CategoryRuleConfig,
        condition::ConditionConfig,
        content::RaiseConfig,
        fields::{CapsConfig, FieldsConfig, Media},
        model::{AdaptersConfig, ModelRuleConfig, ModelSource},
        scope::ScopeRule,
    },
    secret::SecretSource,
};

/// An entry of `routes` that stands for all routes of an inference server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetConfig {
    /// The preset: `tollgate presets list` names them, `tollgate presets show NAME` lists what each route needs. What it does
    /// not list is denied. A `match` entry with the same hosts, path and method beats it.
    pub preset: String,
    /// Where the server is.
    #[serde(rename = "match", default)]
    pub matches: PresetMatchConfig,
    /// Groups of routes that are denied unless they are named here, such as `stored-responses`. Default: none.
    #[serde(default)]
    pub open: Vec<String>,
    /// Scopes that each of its routes needs besides its own. Default: none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Other names for the preset's scopes, such as `{ "infer:text": chat }`. Default: the preset's own.
    #[serde(default)]
    pub rename_scopes: BTreeMap<String, String>,
    /// Rights to single models. Left out: whoever may use a route may use every model it reaches.
    pub model: Option<PresetModelConfig>,
    /// Members of the body that the preset denies on `infer:*` routes and that clients may send all the same. Default: none.
    #[serde(default)]
    pub allow_fields: Vec<String>,
    /// What content parts of a body may refer to. Default `inline`: a server that fetches URLs for its clients reaches what they
    /// cannot, and some read `file://` paths.
    #[serde(default = "inline")]
    pub media: Media,
    /// Expressions in CEL that must all be true on each of its routes that is not public. They cannot speak of `model`: not every
    /// route has one.
    #[serde(default)]
    pub conditions: Vec<ConditionConfig>,
    /// The scope for each tool that a request to an `infer:*` route with a JSON body declares or chooses, such as `tool:{name}`.
    /// Left out: tools are not looked at.
    pub tools: Option<String>,
    /// Where clients find the authorization server: sent as `resource_metadata` with every challenge of routes that are not public
    /// (RFC 9728 section 5.1).
    pub resource_metadata: Option<String>,
    /// What prompts may be about on `infer:*` routes with a JSON body. Left out: prompts are not looked at.
    pub categories: Option<CategoryRuleConfig>,
    /// The most a request to an `infer:*` route with a JSON body may ask for.
    pub caps: Option<CapsConfig>,
    /// Names of `limits` that count requests of its routes; public routes are not counted, and a limit by model counts routes
    /// that name one.
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

fn inline() -> Media {
    Media::Inline
}

/// `match` beside `preset`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetMatchConfig {
    /// Host names, or `*.example.com` for every name below. Default: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// `model` beside `preset`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetModelConfig {
    /// The scope a credential needs for a model, with `{model}` for its name: `model:{model}:inference`. Where a route's model
    /// cannot be seen, the route is then denied.
    pub scope: Option<String>,
    /// The model the server takes when a request names none.
    pub default: Option<String>,
}

/// The routes of an entry. What is wrong with it is noted at `path`; limits are looked up by `limit`.
pub(in crate::route) fn expand<'a>(
    config: &PresetConfig,
    preset: &Preset,
    limit: impl Fn(&str) -> Option<&'a RateLimit>,
    path: &Path,
    errors: &mut Errors,
) -> Vec<RouteConfig> {
    check(config, preset, path, errors);
    let mut expanded = Vec::new();
    for route in &preset.routes {
        let Some(model) = model_rule(route, preset, config) else { continue };
        let renamed = |scope: &str| {
            config.rename_scopes.get(scope).cloned().unwrap_or_else(|| scope.to_owned())
        };
        for listed in &route.paths {
            let limits = config.limits.iter().filter(|name| {
                // A name that is not known stays, to be told so with the others.
                !route.public
                    && (model.is_some() || !limit(name).is_some_and(RateLimit::needs_model))
            });
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
                caps: config.caps.clone().filter(|_| route.is_inference()),
                fields: route.is_inference().then(|| fields(preset, config)),
                raise: route.is_raised().then(|| RaiseConfig {
                    multimodal: Some(renamed(MULTIMODAL)),
                    audio: Some(renamed(AUDIO)),
                }),
                tools: config.tools.clone().filter(|_| route.is_inference()),
                categories: config.categories.clone().filter(|_| route.is_inference()),
                conditions: if route.public { Vec::new() } else { config.conditions.clone() },
                mcp: None,
                resource_metadata: config.resource_metadata.clone().filter(|_| !route.public),
                limits: limits.cloned().collect(),
                on_outage: config.on_outage,
                forward_credential: config.forward_credential && !route.public,
                upstream_key: config.upstream_key.clone().filter(|_| !route.public),
            });
        }
    }
    expanded
}

/// What the body of an inference request may not say.
fn fields(preset: &Preset, config: &PresetConfig) -> FieldsConfig {
    let closed = preset
        .closed_fields
        .iter()
        .filter(|(group, _)| !config.open.contains(group))
        .flat_map(|(_, fields)| fields);
    let denied = preset
        .deny_fields
        .iter()
        .chain(closed)
        .filter(|field| !config.allow_fields.contains(field));
    FieldsConfig { deny: denied.cloned().collect(), allow: None, media: config.media }
}

/// The model rule of a route, if it has one; `None` when the route is denied.
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
    let fields =
        if route.body == BodyKind::Json { preset.adapter_fields.clone() } else { Vec::new() };
    let adapters = Some(AdaptersConfig { separator: preset.adapter_separator, fields });
    match &route.model {
        ModelPlace::None => Some(None),
        // A model in the path is always there.
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

fn check(config: &PresetConfig, preset: &Preset, path: &Path, errors: &mut Errors) {
    let known =
        |words: Vec<&str>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let scope = config.model.as_ref().and_then(|model| model.scope.as_ref());
    for (index, group) in config.open.iter().enumerate() {
        let at = path.key("open").index(index);
        if !preset.closed().contains(&group.as_str()) {
            errors.push(
                &at,
                format!(
                    "`{}` has no closed routes `{group}`; it has: {}",
                    preset.name,
                    known(preset.closed())
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
    let denied: Vec<&str> = preset
        .deny_fields
        .iter()
        .chain(preset.closed_fields.values().flatten())
        .map(String::as_str)
        .collect();
    for (index, field) in config
        .allow_fields
        .iter()
        .enumerate()
        .filter(|(_, field)| !denied.contains(&field.as_str()))
    {
        let at = path.key("allow_fields").index(index);
        errors.push(
            &at,
            format!(
                "`{}` does not deny `{field}`; it denies: {}",
                preset.name,
                known(denied.clone())
            ),
        );
    }
    for scope in config.rename_scopes.keys() {
        if !preset.scopes().contains(&scope.as_str()) {
            let at = path.key("rename_scopes").key(scope);
            errors.push(
                &at,
                format!(
                    "`{}` has no scope `{scope}`; it has: {}",
                    preset.name,
                    known(preset.scopes())
                ),
            );
        }
    }
}
