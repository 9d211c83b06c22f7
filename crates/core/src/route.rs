//! Which rule covers it? Routes, and the table that finds the one for a host, a path and a method.
//!
//! **Best match**: host (exact, then the longest `*.suffix`, then any), then the path segment by segment (literal, then
//! `{x}`, then `{x*}`). The best path decides before the method does: a method that the best route does not list is
//! denied, it never falls through to a wider route.

mod compile;
mod entry;
pub mod preset;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::compile::compile;
pub use self::{entry::RouteEntry, table::RouteTable};
use crate::{
    limit::rate::RateLimit,
    rule::{
        category::{Categories, CategoryRuleConfig},
        condition::{Condition, ConditionConfig},
        content::{Content, RaiseConfig},
        fields::{CapsConfig, FieldsConfig},
        model::{ModelRule, ModelRuleConfig, Models},
        scope::ScopeRule,
        tool::McpConfig,
    },
    secret::SecretSource,
};

/// One route of `routes`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// What the route covers.
    #[serde(rename = "match")]
    pub matches: MatchConfig,
    /// The name in metrics and audit lines. Default: the first path.
    pub name: Option<String>,
    /// Needs no credential. Default false.
    #[serde(default)]
    pub public: bool,
    /// The scopes a credential needs: all of a list, or one of `{ any: [...] }`. `[]` admits any valid credential; required
    /// unless the route is public, so that nothing is open by omission.
    pub scopes: Option<ScopeRule>,
    /// Where the model is named and which scope it needs. Left out: the route has no model.
    pub model: Option<ModelRuleConfig>,
    /// The most a request may ask for. The caps of the model's tier hold besides.
    pub caps: Option<CapsConfig>,
    /// Members that the body may or may not have.
    pub fields: Option<FieldsConfig>,
    /// Scopes needed for content other than text.
    pub raise: Option<RaiseConfig>,
    /// The scope for each tool that a request declares or chooses (`tools`, `functions`, `tool_choice`), such as
    /// `tool:{name}`. A tool that the server runs itself is named by its type. Left out: tools are not looked at.
    pub tools: Option<String>,
    /// Expressions in CEL over the request, the principal and the model, all of which must be true. One that has no value, as a
    /// claim is missing or of another type, denies as well.
    #[serde(default)]
    pub conditions: Vec<ConditionConfig>,
    /// What the prompt may be about: the categories that a request declares or that patterns find in its text. Left out: prompts
    /// are not looked at.
    pub categories: Option<CategoryRuleConfig>,
    /// The body is JSON-RPC for an MCP server.
    pub mcp: Option<McpConfig>,
    /// Where clients find the authorization server: sent as `resource_metadata` with every challenge (RFC 9728 section 5.1).
    pub resource_metadata: Option<String>,
    /// Names of `limits` that count requests of this route.
    #[serde(default)]
    pub limits: Vec<String>,
    /// What happens when the store cannot be asked. Default `deny`.
    #[serde(default)]
    pub on_outage: OnOutage,
    /// Send the client's credential on to the upstream. Default false: an inference server has no use for it.
    #[serde(default)]
    pub forward_credential: bool,
    /// The upstream's own key, sent as `Authorization: Bearer` in place of the client's. Not sent on public routes.
    pub upstream_key: Option<SecretSource>,
}

impl RouteConfig {
    /// The name in metrics and audit lines.
    pub fn name(&self) -> &str {
        self.name.as_ref().or_else(|| self.matches.paths.first()).map_or("", String::as_str)
    }
}

/// What a route covers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchConfig {
    /// Host names, or `*.example.com` for every name below. Default: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Methods. GET includes HEAD. Default: GET on public routes; otherwise they must be listed.
    pub methods: Option<Vec<String>>,
    /// Paths: exact; a trailing `/*` covers the path itself and all below; `{x}` one segment; `{x*}` the rest.
    pub paths: Vec<String>,
}

/// `on_outage`: what a route does when the store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// 503 `store_unavailable`, with Retry-After.
    #[default]
    Deny,
    /// Fail the check, so that the proxy's `failure_mode_allow` and `status_on_error` decide.
    Error,
    /// Let the request through, uncounted and with revocation unchecked.
    Allow,
    /// Count in memory with this replica's share of each limit, and use the last known revocations.
    Local,
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Whether it needs no credential.
    pub public: bool,
    /// The scopes it needs.
    pub scopes: ScopeRule,
    /// Its model rule.
    pub model: Option<ModelRule>,
    /// What must be true besides.
    pub conditions: Vec<Condition>,
    /// What it asks of the body.
    pub(crate) content: Content,
    /// `resource_metadata` of its challenges.
    pub resource_metadata: Option<String>,
    /// The limits that count it.
    pub limits: Vec<Arc<RateLimit>>,
    /// What it does in an outage.
    pub on_outage: OnOutage,
    /// Whether the client's credential goes on.
    pub forward_credential: bool,
    /// Index of its upstream key among the policy's.
    pub upstream_key: Option<usize>,
    /// Whether it comes from a preset, so that a route written out beats it.
    pub from_preset: bool,
}

impl Route {
    /// Whether it looks at the body of a request.
    pub fn reads_body(&self) -> bool {
        self.content.reads_body()
    }
}

/// Everything routes refer to.
pub(crate) struct CompileContext<'a> {
    pub(crate) models: &'a Models,
    pub(crate) limits: &'a BTreeMap<String, Arc<RateLimit>>,
    /// Upstream keys found so far; a route that has one adds it.
    pub(crate) upstream_keys: Vec<SecretSource>,
    pub(crate) categories: &'a Arc<Categories>,
    /// Claims that conditions look at, found so far.
    pub(crate) claims: BTreeSet<String>,
}
