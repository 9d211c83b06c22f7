//! May they? A principal and a route become a [`Permit`], or a denial.

use std::sync::Arc;

use crate::{
    denial::{Denial, Reason},
    identity::Principal,
    pattern::Captures,
    request::Request,
    route::Route,
    rule::{condition::Activation, model::Models},
    time::Timestamp,
};

/// Proof that a request is covered by a rule and meets it. Made by [`authorize`] and [`open`] only.
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    principal: Option<Arc<Principal>>,
    model: Option<Arc<str>>,
}

impl Permit {
    /// The rule.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Who asks; `None` on a public route.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// The model, by its policy name.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// What is asked, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The request.
    pub request: &'a Request<'a>,
    /// What the captures of its route matched.
    pub captures: &'a Captures,
    /// The moment of the check.
    pub now: Timestamp,
}

/// The permit of a public route, which asks nobody who they are.
///
/// # Errors
/// `condition_failed`.
pub fn open(route: &Arc<Route>, asked: Asked<'_>) -> Result<Permit, Denial> {
    if !route.public {
        return Err(Denial::new(Reason::MissingCredential, "the route is not public"));
    }
    conditions(route, asked, None, None)?;
    Ok(Permit { route: Arc::clone(route), principal: None, model: None })
}

/// Checks scopes, reads what the route needs of the body, then checks the model, the conditions, and the rest of the body. The
/// model is told as soon as the principal may use it, whatever comes after.
///
/// # Errors
/// `insufficient_scope`, `model_forbidden`, `condition_failed`, `field_forbidden`, `tool_forbidden`, `category_forbidden`, and what
/// reading the body may find wrong with it.
pub fn authorize(
    route: &Arc<Route>,
    principal: &Arc<Principal>,
    models: &Models,
    asked: Asked<'_>,
    told: &mut Option<Arc<str>>,
) -> Result<Permit, Denial> {
    let Asked { request, captures, .. } = asked;
    route.scopes.check(principal)?;
    let facts = route.content.read(request)?;
    let (model, tier) = match &route.model {
        None => (None, None),
        Some(rule) => {
            let chosen = rule.check(principal, models, request, captures, &facts)?;
            (Some(chosen.name), chosen.caps)
        }
    };
    told.clone_from(&model);
    conditions(route, asked, Some(principal), model.as_deref())?;
    route.content.check(principal, tier, request, &facts)?;
    Ok(Permit { route: Arc::clone(route), principal: Some(Arc::clone(principal)), model })
}

/// All conditions of the route, in the order of the file.
fn conditions(
    route: &Route,
    asked: Asked<'_>,
    principal: Option<&Principal>,
    model: Option<&str>,
) -> Result<(), Denial> {
    if route.conditions.is_empty() {
        return Ok(());
    }
    let Asked { request, captures, now } = asked;
    let activation = Activation::new(request, captures, now, principal, model);
    route.conditions.iter().try_for_each(|condition| condition.check(&activation))
}
