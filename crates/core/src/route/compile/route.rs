//! Compiles one route: its rules, its limits, and what it accepts.

use std::{num::NonZeroU64, sync::Arc};

use super::{
    credentials::{audience, check_cookies, credentials},
    limits::{limits, sizing},
};
use crate::{
    config::{Errors, Path},
    identity::CredentialKind,
    limit::Limit,
    route::{CompileContext, OnOutage, Route, RouteConfig, accepted::AcceptedCredentials},
    rule::{
        actor::ActorRule,
        condition::{self, Condition},
        content::{Content, Sections, ShadowContent},
        model::ModelRule,
        scope::ScopeRule,
        shadow::{ShadowRule, ShadowRules},
        tenant::TenantRule,
        websocket::WebSocketRule,
    },
};

/// The longest `resource_metadata`: it is part of a header of denials, whose size is bounded.
const MAX_METADATA_URL: usize = 512;

/// Compiles one route. `captures` has the names in each of its paths.
pub(super) fn compile_route(
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
        check_public(config, path, errors);
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
    let fixed_tokens = config.fixed_tokens.map(NonZeroU64::get);
    let sizing = sizing(config, &holds, path, errors);
    let is_sized = holds.iter().any(|limit| limit.counts_tokens() && !limit.is_shadow());
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
    check_metadata(config, path, errors);
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

/// Checks that a public route has no rule that needs a credential.
fn check_public(config: &RouteConfig, path: &Path, errors: &mut Errors) {
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
}

/// Checks the URL of the metadata of the route's resource.
fn check_metadata(config: &RouteConfig, path: &Path, errors: &mut Errors) {
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
