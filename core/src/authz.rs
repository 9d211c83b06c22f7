//! May they? A principal and a route become a [`Permit`], or a denial.

pub mod content;
pub mod fields;
pub mod model;
pub mod scope;
pub mod tool;

use std::sync::Arc;

use self::model::Models;
use crate::{
    authn::Principal,
    decision::Denial,
    request::Request,
    route::{Captures, Route},
};

/// Proof that a request is covered by a rule and meets it. Made by [`authorize`] and [`open`] only.
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    principal: Option<Arc<Principal>>,
    model: Option<String>,
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

/// The permit of a public route: nobody in particular, nothing chosen.
///
/// Returns `None` when the route is not public.
pub fn open(route: &Arc<Route>) -> Option<Permit> {
    route.public.then(|| Permit { route: Arc::clone(route), principal: None, model: None })
}

/// Checks scopes, reads what the route needs of the body, then checks the model and the rest of the body.
///
/// # Errors
/// `insufficient_scope`, `model_forbidden`, `field_forbidden`, `tool_forbidden`, and what reading the body may find wrong with it.
pub fn authorize(
    route: &Arc<Route>,
    principal: &Arc<Principal>,
    models: &Models,
    request: &Request<'_>,
    captures: &Captures,
) -> Result<Permit, Denial> {
    route.scopes.check(principal)?;
    let facts = route.content.read(request)?;
    let (model, tier) = match &route.model {
        None => (None, None),
        Some(rule) => {
            let chosen = rule.check(principal, models, request, captures, &facts)?;
            (Some(chosen.name), chosen.caps)
        }
    };
    route.content.check(principal, tier, request, &facts)?;
    Ok(Permit { route: Arc::clone(route), principal: Some(Arc::clone(principal)), model })
}
