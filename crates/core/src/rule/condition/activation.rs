//! The facts that the variables of an expression stand for.

use std::cell::OnceCell;

use crate::{
    identity::Principal,
    pattern::Captures,
    request::{Request, path},
    time::Timestamp,
};

/// What one request gives an expression to look at.
#[derive(Debug)]
pub struct Activation<'a> {
    /// `request`.
    pub(super) request: &'a Request<'a>,
    /// `captures`.
    pub(super) captures: &'a Captures,
    /// `now`.
    pub(super) now: Timestamp,
    /// `principal`; none on public routes.
    pub(super) principal: Option<&'a Principal>,
    /// `model`, by its name in the policy; none on routes without one.
    pub(super) model: Option<&'a str>,
    segments: OnceCell<Vec<String>>,
    roles: OnceCell<Vec<String>>,
    scopes: OnceCell<Vec<String>>,
}

impl<'a> Activation<'a> {
    /// What is known when a route's conditions are asked.
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

    /// The roles of somebody who asks.
    pub(super) fn roles(&self, who: &Principal) -> &[String] {
        self.roles.get_or_init(|| who.roles().map(str::to_owned).collect())
    }

    /// The scopes of somebody who asks.
    pub(super) fn scopes(&self, who: &Principal) -> &[String] {
        self.scopes.get_or_init(|| who.scopes().map(str::to_owned).collect())
    }

    /// The path between its slashes, each segment decoded by itself, so that an encoded slash stays within one.
    pub(super) fn segments(&self) -> &[String] {
        self.segments.get_or_init(|| {
            let segments = self.request.path.raw().split('/').skip(1);
            // The whole path has been decoded before, so what is left as it is cannot be.
            segments
                .map(|segment| path::percent_decode(segment).unwrap_or_else(|| segment.to_owned()))
                .collect()
        })
    }
}
