//! Authorization: a principal and a route become a [`Permit`], or a denial.

use std::{net::IpAddr, sync::Arc};

use crate::{
    denial::{Denial, Reason, WouldDeny, shown},
    details::{ConditionResult, Details},
    identity::{Omitted, Principal},
    pattern::Captures,
    request::{Body, Request},
    route::Route,
    rule::{condition::Activation, model::Models, shadow::ShadowRule, size::SizedRequest},
    stage::Stage,
    time::Timestamp,
};

/// Proof that a request is covered by a route and meets its rules. Made by [`permit_public`] and
/// [`RoutePermit::authorize`] only.
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    principal: Option<Arc<Principal>>,
    model: Option<Arc<str>>,
    /// The size of the request, where a limit of the route counts tokens.
    sized: Option<Box<SizedRequest>>,
}

impl Permit {
    /// The route that is permitted.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The holder of the credential; `None` on a public route.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// The model, by its policy name.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The size of the request in tokens, where a limit of the route counts them.
    pub fn sized(&self) -> Option<&SizedRequest> {
        self.sized.as_deref()
    }
}

/// Proof that a principal has the scopes of a route. Made by [`check_scopes`] only.
#[derive(Clone, Debug)]
pub struct RoutePermit {
    route: Arc<Route>,
    principal: Arc<Principal>,
}

/// What the rules of a route read, beside the principal and the body.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// The request itself.
    pub request: &'a Request<'a>,
    /// The captures of the route's path.
    pub captures: &'a Captures,
    /// The moment of the check.
    pub now: Timestamp,
}

/// What authorization records while it runs: a denial leaves it as far as it came.
#[derive(Debug)]
pub struct Progress<'a> {
    /// The stage in progress.
    pub stage: &'a mut Stage,
    /// The model, as soon as the principal may use it.
    pub model: &'a mut Option<Arc<str>>,
    /// The details, where they are requested.
    pub details: Option<&'a mut Details>,
    /// What rules in shadow would deny.
    pub would_deny: &'a mut WouldDeny,
}

/// Checks what needs neither credential nor body on a public route: its conditions.
///
/// # Errors
/// `condition_failed`.
pub fn permit_public(
    route: Arc<Route>,
    context: RequestContext<'_>,
    progress: &mut Progress<'_>,
) -> Result<Permit, Denial> {
    if !route.public {
        return Err(Denial::new(Reason::MissingCredential, "the route is not public"));
    }
    check_conditions(&route, context, None, None, progress)?;
    Ok(Permit { route, principal: None, model: None, sized: None })
}

/// Checks that the credential may be used from the client's address.
///
/// # Errors
/// `address_forbidden`.
pub fn check_network(principal: &Principal, address: Option<IpAddr>) -> Result<(), Denial> {
    let Some(key) = principal.key().filter(|key| !key.allows_address(address)) else {
        return Ok(());
    };
    let from = match address {
        Some(address) => format!("{address} is in none of the networks"),
        None => {
            "the proxy reported no address of the client, which has to be in the networks".into()
        }
    };
    let cause = format!("{from} of the key `{}`", key.id);
    Err(Denial::new(Reason::AddressForbidden, cause)
        .with_message("the credential may not be used from this network"))
}

/// Checks that the actor of the credential may act on the route.
///
/// # Errors
/// `actor_forbidden`.
pub fn check_actor(
    route: &Route,
    principal: &Principal,
    would_deny: &mut WouldDeny,
) -> Result<(), Denial> {
    let Some(rule) = &route.actors else { return Ok(()) };
    let is_shadow = route.shadow.contains(ShadowRule::Actors);
    would_deny.apply(rule.check(principal), is_shadow, ShadowRule::Actors.key(), None)
}

/// Checks that the tenant that the head of the request names is that of the credential.
///
/// # Errors
/// `tenant_mismatch`, `malformed_request`.
pub fn check_tenant(
    permit: &RoutePermit,
    request: &Request<'_>,
    captures: &Captures,
) -> Result<(), Denial> {
    let RoutePermit { route, principal } = permit;
    let Some(rule) = &route.tenant else { return Ok(()) };
    rule.check_head(principal, request, captures)
}

/// Checks the scopes of the route itself.
///
/// # Errors
/// `insufficient_scope`; `invalid_claim` where the route uses what could not be read of the
/// credential.
pub fn check_scopes(route: &Arc<Route>, principal: &Arc<Principal>) -> Result<RoutePermit, Denial> {
    if let Some(omitted) = principal.omitted() {
        check_omitted(route, omitted)?;
    }
    route.scopes.check(principal)?;
    Ok(RoutePermit { route: Arc::clone(route), principal: Arc::clone(principal) })
}

/// Checks that the route does not use what could not be read. A route with conditions needs all
/// scopes that the credential names, because a condition may restrict by one of them.
fn check_omitted(route: &Route, omitted: &Omitted) -> Result<(), Denial> {
    if let Some((_, why)) = omitted.parts.iter().find(|(part, _)| route.uses(*part)) {
        return Err(Denial::new(Reason::InvalidClaim, why.clone()));
    }
    match omitted.scopes.first() {
        Some(why) if route.conditions.iter().any(|condition| !condition.is_shadow()) => {
            let cause = format!("{why}, and the route has conditions, which may read scopes");
            Err(Denial::new(Reason::InvalidClaim, cause))
        }
        _ => Ok(()),
    }
}

impl RoutePermit {
    /// The route that is permitted.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The holder of the credential.
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Reads what the route needs of the body, then checks the model, the conditions, and the rest
    /// of the body.
    ///
    /// # Errors
    /// `tenant_mismatch`, `model_missing`, `model_forbidden`, `condition_failed`, `field_forbidden`,
    /// `insufficient_scope`, `tool_forbidden`, `category_forbidden`, and what may be wrong with the
    /// body.
    pub fn authorize(
        self,
        models: &Models,
        context: RequestContext<'_>,
        body: &Body<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Permit, Denial> {
        let Self { route, principal } = self;
        let RequestContext { request, captures, .. } = context;
        *progress.stage = Stage::Body;
        let facts = route.content.read(request, body)?;
        if let Some(rule) = &route.tenant {
            rule.check_body(&principal, &facts)?;
        }
        *progress.stage = Stage::Model;
        let (model, tier) = match &route.model {
            None if !facts.adapters.is_empty() && !models.are_open() => {
                let adapter = facts.adapters.first().map(AsRef::as_ref).unwrap_or_default();
                let cause = format!(
                    "no rule of the route checks the adapter `{}`; set `model.default` of the preset",
                    shown(adapter)
                );
                return Err(Denial::new(Reason::ModelForbidden, cause)
                    .with_param("model")
                    .with_model(adapter));
            }
            None => {
                check_models_of_key(&principal, request)?;
                (None, None)
            }
            Some(rule) => {
                let chosen = rule.check(&principal, models, request, captures, &facts)?;
                (Some(chosen.name), chosen.caps)
            }
        };
        progress.model.clone_from(&model);
        check_conditions(&route, context, Some(&principal), model.as_deref(), progress)?;
        *progress.stage = Stage::Content;
        if let Some(details) = &mut progress.details {
            details.categories = route.content.categories(&request.headers, &facts);
        }
        route.content.check(&principal, tier, request, &facts)?;
        let model_size = || model.as_deref().and_then(|name| models.size(name));
        let mut sized = match route.sizing {
            Some(sizing) => {
                let model = model_size().ok_or_else(|| {
                    let cause = "a limit counts tokens, and the model has no size";
                    Denial::new(Reason::Internal, cause)
                })?;
                let path = request.path.decoded();
                Some(Box::new(route.content.size(model, path, body, &facts, sizing)?))
            }
            None => None,
        };
        if let Some(in_shadow) = &route.shadow_content {
            let (details, would_deny) =
                (progress.details.as_deref_mut(), &mut *progress.would_deny);
            let model = model_size();
            let in_shadow =
                in_shadow.evaluate(&principal, model, (request, body), details, would_deny);
            sized = sized.or(in_shadow.map(Box::new));
        }
        Ok(Permit { route, principal: Some(principal), model, sized })
    }
}

/// A key that is limited to models may not send a body where no rule finds out its model.
fn check_models_of_key(principal: &Principal, request: &Request<'_>) -> Result<(), Denial> {
    match principal.key() {
        Some(key) if key.models.is_some() && !matches!(request.method, "GET" | "HEAD") => {
            let cause = format!(
                "the key `{}` is limited to models, and the route has no rule for the model",
                key.id
            );
            Err(Denial::new(Reason::InsufficientScope, cause)
                .with_message("the credential is limited to models, and this endpoint names none"))
        }
        _ => Ok(()),
    }
}

/// Checks all conditions of the route, in the order of the file.
fn check_conditions(
    route: &Route,
    context: RequestContext<'_>,
    principal: Option<&Principal>,
    model: Option<&str>,
    progress: &mut Progress<'_>,
) -> Result<(), Denial> {
    *progress.stage = Stage::Conditions;
    if route.conditions.is_empty() {
        return Ok(());
    }
    let RequestContext { request, captures, now } = context;
    let activation = Activation::new(request, captures, now, principal, model);
    if let Some(details) = &mut progress.details {
        let results = route.conditions.iter().map(|condition| ConditionResult {
            name: condition.name().to_owned(),
            value: condition.holds(&activation).map_err(|error| error.to_string()),
            is_shadow: condition.is_shadow(),
        });
        details.conditions = results.collect();
    }
    route.conditions.iter().try_for_each(|condition| {
        let (result, name) = (condition.check(&activation), Some(condition.name()));
        progress.would_deny.apply(result, condition.is_shadow(), "conditions", name)
    })
}
