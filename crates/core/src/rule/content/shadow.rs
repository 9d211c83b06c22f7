//! The rules of a route for its body that are in shadow.
//!
//! They read the body by themselves, so that a body that only they read is never a reason to deny:
//! one that they cannot read, or that has a member twice, is recorded.

use super::{BodyFacts, Content, Sections, ShadowRule, ShadowRules, Sizing, forbidden_member};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, WouldDeny},
    details::Details,
    identity::Principal,
    request::{Request, body::Body},
    rule::size::{ModelSize, SizedRequest},
};

/// The name under which a body is recorded that rules in shadow cannot read.
const BODY: &str = "body";

/// The rules for the body that are in shadow.
#[derive(Debug)]
pub(crate) struct ShadowContent {
    /// All rules of the route. Those that are enforced are checked before, with a reading of their own.
    content: Content,
    rules: ShadowRules,
    /// How the size of a request is computed, where only limits in shadow count tokens.
    sizing: Option<Sizing>,
}

impl ShadowContent {
    /// Compiles all keys of a route and records every error; `None` where no rule and no limit in shadow
    /// reads the body.
    pub(crate) fn compile(
        sections: &Sections<'_>,
        rules: ShadowRules,
        sizing: Option<Sizing>,
        path: &Path,
        errors: &mut Errors,
    ) -> Option<Self> {
        let reads = [
            (ShadowRule::Caps, sections.caps.is_some()),
            (ShadowRule::Categories, sections.categories.is_some()),
            (ShadowRule::Mcp, sections.mcp.is_some()),
            (ShadowRule::Raise, sections.raise.is_some()),
            (ShadowRule::Tools, sections.tools.is_some()),
        ];
        let has_rules = reads.into_iter().any(|(rule, is_set)| is_set && rules.contains(rule));
        (has_rules || sizing.is_some()).then(|| Self {
            content: Content::compile(sections, path, errors),
            rules,
            sizing,
        })
    }

    /// Whether the body is read.
    pub(crate) fn reads_body(&self) -> bool {
        self.content.reads_body()
    }

    /// Evaluates the rules, records what they would deny, and returns the size of the request where
    /// only limits in shadow need it.
    pub(crate) fn evaluate(
        &self,
        principal: &Principal,
        model: Option<ModelSize>,
        (request, body): (&Request<'_>, &Body<'_>),
        details: Option<&mut Details>,
        would_deny: &mut WouldDeny,
    ) -> Option<SizedRequest> {
        let facts = match self.content.read(request, body) {
            Ok(facts) => facts,
            Err(denial) => {
                would_deny.record(BODY, None, denial);
                return None;
            }
        };
        if let Some(details) = details
            && self.rules.contains(ShadowRule::Categories)
        {
            details.categories = self.content.categories(&request.headers, &facts);
        }
        // A member that the enforced rules admit: a number in the query, where only caps in shadow
        // read numbers.
        if let Some(member) = &facts.forbidden {
            let caps = self.rules.contains(ShadowRule::Caps) && self.content.caps.is_some();
            let rule = if caps { ShadowRule::Caps.key() } else { BODY };
            would_deny.record(rule, None, forbidden_member(member));
        }
        for rule in ShadowRule::OF_BODY.into_iter().filter(|rule| self.rules.contains(*rule)) {
            if let Err(denial) = self.content.check_rule(rule, principal, &request.headers, &facts)
            {
                would_deny.record(rule.key(), None, denial);
            }
        }
        let sized = self.size(self.sizing?, model, request, body, &facts);
        sized.map_err(|denial| would_deny.record(BODY, None, denial)).ok()
    }

    fn size(
        &self,
        sizing: Sizing,
        model: Option<ModelSize>,
        request: &Request<'_>,
        body: &Body<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<SizedRequest, Denial> {
        let model = model.ok_or_else(|| {
            Denial::new(Reason::Internal, "a limit counts tokens, and the model has no size")
        })?;
        self.content.size(model, request.path.decoded(), body, facts, sizing)
    }
}
