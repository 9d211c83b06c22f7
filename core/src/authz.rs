//! May they? A principal and a route become a [`Permit`], or a denial.

pub mod model;
pub mod scope;

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

/// Checks scopes, then the model.
///
/// # Errors
/// `insufficient_scope`, `model_forbidden`, and what reading the model may find wrong with the request.
pub fn authorize(
    route: &Arc<Route>,
    principal: &Arc<Principal>,
    models: &Models,
    request: &Request<'_>,
    captures: &Captures,
) -> Result<Permit, Denial> {
    route.scopes.check(principal)?;
    let model = match &route.model {
        None => None,
        Some(rule) => Some(rule.check(principal, models, request, captures)?),
    };
    Ok(Permit { route: Arc::clone(route), principal: Some(Arc::clone(principal)), model })
}
