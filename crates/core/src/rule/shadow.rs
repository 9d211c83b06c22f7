//! The rules of a route that are in shadow.

use schemars::JsonSchema;
use serde::Deserialize;

/// A rule of a route that can be in shadow. Which credentials and tenants may use a route, and which
/// models and members of a body, always decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShadowRule {
    /// The actors of a delegation.
    Actors,
    /// The upper limits of one request; those of a model's tier decide.
    Caps,
    /// The categories of prompts.
    Categories,
    /// The rules for a body that is JSON-RPC for an MCP server.
    Mcp,
    /// The scopes for content other than text.
    Raise,
    /// The scopes for tools.
    Tools,
}

impl ShadowRule {
    /// The rules that read the body, in the order of the check.
    pub(crate) const OF_BODY: [Self; 5] =
        [Self::Raise, Self::Tools, Self::Mcp, Self::Caps, Self::Categories];

    /// The key of the rule.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Actors => "actors",
            Self::Caps => "caps",
            Self::Categories => "categories",
            Self::Mcp => "mcp",
            Self::Raise => "raise",
            Self::Tools => "tools",
        }
    }
}

/// A set of rules in shadow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowRules(u8);

impl ShadowRules {
    /// Returns the set of the listed rules.
    pub fn new(rules: &[ShadowRule]) -> Self {
        Self(rules.iter().fold(0, |set, rule| set | 1 << *rule as u8))
    }

    /// Whether the rule is in shadow.
    pub const fn contains(self, rule: ShadowRule) -> bool {
        self.0 & 1 << rule as u8 != 0
    }
}
