//! Members of a preset's routes: the tables of a request, what the operator opens, and the scopes that members need.

use super::scope::missing_scopes;
use crate::{
    denial::{Denial, Reason},
    identity::Principal,
    request::body::{
        BodyFacts, Opened,
        members::{TableId, Tables},
    },
};

/// The tables of a route's requests. A place without a table has no member.
#[derive(Clone, Debug)]
pub struct RouteMembers {
    pub(crate) tables: &'static Tables,
    pub(crate) json: Option<TableId>,
    pub(crate) form: Option<TableId>,
    pub(crate) query: Option<TableId>,
    /// The header with the length of the JSON at the beginning of the body.
    pub(crate) prefix: Option<String>,
    /// Whether the body may be left out, and its content type says nothing.
    pub(crate) any_body: bool,
    pub(crate) opened: Opened,
    /// The names of `tables.scopes` in this policy.
    pub(crate) scopes: Vec<String>,
}

impl RouteMembers {
    /// Checks the scopes that members need besides those of the route.
    ///
    /// # Errors
    /// `insufficient_scope`.
    pub(super) fn authorize(
        &self,
        principal: &Principal,
        facts: &BodyFacts<'_>,
    ) -> Result<(), Denial> {
        if facts.scopes == 0 {
            return Ok(());
        }
        let needed = self.scopes.iter().enumerate().filter(|(at, _)| facts.scopes >> at & 1 == 1);
        let missing: Vec<String> = needed
            .map(|(_, scope)| scope)
            .filter(|scope| !principal.has_scope(scope))
            .cloned()
            .collect();
        let Some(first) = missing.first() else { return Ok(()) };
        let cause = missing_scopes("of content other than text", &missing, false, principal);
        Err(Denial::new(Reason::InsufficientScope, cause)
            .with_message(format!("content other than text needs the scope `{first}` here"))
            .with_param("messages")
            .with_scopes(missing))
    }
}
