//! The limits of a route, and what they need of it.

use std::{num::NonZeroU64, sync::Arc};

use crate::{
    config::{Errors, Path},
    limit::{HoldLimit, Limit},
    route::{
        CompileContext, RouteConfig,
        fixed_charge::{FixedCharges, is_batch, may_run_in_background},
    },
    rule::{
        model::ModelSource,
        size::{Api, Sizing},
    },
};

/// Returns the limits that the route names.
pub(super) fn limits(
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
        if limit.counts_cost() {
            check_prices(limit, config, context, (&at, path), errors);
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

/// Returns how the size of a request is computed, where a limit of the route counts tokens.
pub(super) fn sizing(
    config: &RouteConfig,
    holds: &[Arc<HoldLimit>],
    path: &Path,
    errors: &mut Errors,
) -> Option<Sizing> {
    let counts_tokens = holds.iter().any(|limit| limit.counts_tokens());
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
    (counts_tokens && charges.all.is_none()).then(|| {
        let known = config.sizing.unwrap_or_else(|| Sizing {
            generates: generates(&config.matches.paths),
            api: Some(Api::OfPath),
            background: None,
        });
        let background = charges.background.map(NonZeroU64::get);
        Sizing { api: known.api.filter(|_| bounds_answers), background, ..known }
    })
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

/// Checks that every model of a route has a price.
fn check_prices(
    limit: &Limit,
    config: &RouteConfig,
    context: &CompileContext<'_>,
    (at, route): (&Path, &Path),
    errors: &mut Errors,
) {
    let name = limit.name();
    let root = route.parent().parent();
    let Some(prices) = context.prices else {
        let message = format!("`{name}` counts cost; add the section `prices`");
        return errors.push_presuming(at, &[root.key("prices")], message);
    };
    let Some(model) = &config.model else {
        let message =
            format!("`{name}` counts cost, and the route has no `model`, which has a price");
        return errors.push_presuming(at, &[route.key("model")], message);
    };
    let presumes = [root.key("models"), root.key("prices"), route.key("model")];
    let mut names: Vec<&str> = context.models.names().collect();
    if names.is_empty() {
        match &model.from {
            ModelSource::Fixed(model) => names.push(model),
            _ => {
                let message = format!(
                    "`{name}` counts cost, and clients can invent names of models; list the `models`"
                );
                return errors.push_presuming(at, &presumes, message);
            }
        }
    }
    if let Some(model) = names.into_iter().filter(|model| !prices.has(model)).min() {
        let message = format!("`{name}` counts cost, and the model `{model}` has no price");
        errors.push_presuming(at, &presumes, message);
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
