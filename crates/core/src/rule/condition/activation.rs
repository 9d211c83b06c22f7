//! The values of the variables of an expression.

use std::cell::OnceCell;

use crate::{
    identity::Principal,
    pattern::Captures,
    request::{Request, path},
    time::Timestamp,
};

/// The values that one request provides to expressions.
#[derive(Debug)]
pub struct Activation<'a> {
    /// The variable `request`.
    pub(super) request: &'a Request<'a>,
    /// The variable `captures`.
    pub(super) captures: &'a Captures,
    /// The variable `now`.
    pub(super) now: Timestamp,
    /// The variable `principal`; `None` on public routes.
    pub(super) principal: Option<&'a Principal>,
    /// The variable `model`, the name in the policy; `None` on routes without a model.
    pub(super) model: Option<&'a str>,
    segments: OnceCell<Vec<String>>,
    roles: OnceCell<Vec<String>>,
    scopes: OnceCell<Vec<String>>,
}

impl<'a> Activation<'a> {
    /// Creates the values for the conditions of a route.
    pub fn new(
        request: &'a Request<'a>,
        captures: &'a Captures,
        now: Timestamp,
        principal: Option<&'a Principal>,
        model: Option<&'a str>,
    ) -> Self {
        Self {
            request,
            captures,
            now,
            principal,
            model,
            segments: OnceCell::new(),
            roles: OnceCell::new(),
            scopes: OnceCell::new(),
        }
    }

    /// Returns the roles of the principal.
    pub(super) fn roles(&self, principal: &Principal) -> &[String] {
        self.roles.get_or_init(|| principal.roles().map(str::to_owned).collect())
    }

    /// Returns the scopes of the principal.
    pub(super) fn scopes(&self, principal: &Principal) -> &[String] {
        self.scopes.get_or_init(|| principal.scopes().map(str::to_owned).collect())
    }

    /// Returns the segments of the path. Each is decoded separately, so that an encoded slash does
    /// not split a segment.
    pub(super) fn segments(&self) -> &[String] {
        self.segments.get_or_init(|| {
            let segments = self.request.path.raw().split('/').skip(1);
            // The path has been decoded before, so no segment fails to decode.
            segments
                .map(|segment| path::percent_decode(segment).unwrap_or_else(|| segment.to_owned()))
                .collect()
        })
    }
}
