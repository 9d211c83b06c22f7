//! A `preset:` entry of the file as ordinary routes: one for each path, with the entry's limits, scopes and keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ModelPlace, Preset, PresetRoute};
use crate::{
    authz::{
        model::{ModelRuleConfig, ModelSource},
        scope::ScopeRule,
    },
    config::{Errors, Path},
    limit::rate::RateLimit,
    route::{MatchConfig, OnOutage, RouteConfig},
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
    /// The model of a server that has one, for routes whose requests name none.
    pub fixed: Option<String>,
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
        let Some(model) = served(route, config) else { continue };
        for listed in &route.paths {
            let limits = config.limits.iter().filter(|name| {
                // A name that is not known stays, to be told so with the others.
                !route.public && (model.is_some() || !limit(name).is_some_and(RateLimit::needs_model))
            });
            let scopes = route.scopes.iter().map(|scope| config.rename_scopes.get(scope).unwrap_or(scope));
            let scopes: Vec<String> = scopes.chain(&config.scopes).cloned().collect();
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
                limits: limits.cloned().collect(),
                on_outage: config.on_outage,
                forward_credential: config.forward_credential && !route.public,
                upstream_key: config.upstream_key.clone().filter(|_| !route.public),
            });
        }
    }
    expanded
}

/// The model rule of a route, if it has one; `None` when the route is denied.
// INVARIANT: with a scope for models, no route is served whose model is not checked against it.
#[expect(clippy::option_option, reason = "denied, served without a model, served with one")]
fn served(route: &PresetRoute, config: &PresetConfig) -> Option<Option<ModelRuleConfig>> {
    if route.closed.as_ref().is_some_and(|group| !config.open.contains(group)) {
        return None;
    }
    let scope = config.model.as_ref().and_then(|model| model.scope.clone());
    let fixed = config.model.as_ref().and_then(|model| model.fixed.clone());
    match &route.model {
        ModelPlace::None => Some(None),
        ModelPlace::Source(from, _) => Some(Some(ModelRuleConfig { from: from.clone(), scope })),
        ModelPlace::Form(_) => None,
        ModelPlace::Fixed => match fixed {
            Some(name) => Some(Some(ModelRuleConfig { from: ModelSource::Fixed(name), scope })),
            None => scope.is_none().then_some(None),
        },
        ModelPlace::Hidden => scope.is_none().then_some(None),
    }
}

fn check(config: &PresetConfig, preset: &Preset, path: &Path, errors: &mut Errors) {
    let known = |words: Vec<&str>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let scope = config.model.as_ref().and_then(|model| model.scope.as_ref());
    for (index, group) in config.open.iter().enumerate() {
        let at = path.key("open").index(index);
        if !preset.closed().contains(&group.as_str()) {
            errors.push(&at, format!("`{}` has no closed routes `{group}`; it has: {}", preset.name, known(preset.closed())));
        }
        let hidden = |route: &&PresetRoute| route.closed.as_ref() == Some(group) && route.model == ModelPlace::Hidden;
        if let Some(route) = preset.routes.iter().find(hidden).filter(|_| scope.is_some()) {
            let listed = route.paths.join(", ");
            errors.push(
                &at,
                format!("`{group}` hides its model ({listed}), so `model.scope` cannot be checked; open it with a `match` entry of its own"),
            );
        }
    }
    for scope in config.rename_scopes.keys() {
        if !preset.scopes().contains(&scope.as_str()) {
            let at = path.key("rename_scopes").key(scope);
            errors.push(&at, format!("`{}` has no scope `{scope}`; it has: {}", preset.name, known(preset.scopes())));
        }
    }
}
