//! Routes, and the table that finds the route for a host, a path and a method.
//!
//! **Best match**: first the host (exact, then the longest `*.suffix`, then any), then the path
//! segment by segment (literal, then `{x}`, then `{x*}`). The best path decides before the method:
//! a method that the best route does not list is denied and never falls through to a wider route.

mod accepted;
mod compile;
mod entry;
mod fixed_charge;
pub mod preset;
pub mod resource;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::compile::compile;
use self::{accepted::AcceptedCredentials, resource::ResourceMetadata};
pub use self::{entry::RouteEntry, table::RouteTable};
use crate::{
    credential::{api_key::ApiKeys, cookie::Cookies, jwt::issuer::Issuers},
    identity::{CredentialKind, CredentialKinds, Part},
    limit::{HoldLimit, Limit, price::Prices, rate::RateLimit},
    rule::{
        actor::{ActorRule, ActorsConfig},
        category::{Categories, CategoryRuleConfig},
        condition::{Condition, ConditionConfig},
        content::{Content, RaiseConfig, ShadowContent},
        fields::{CapsConfig, FieldsConfig},
        member::RouteMembers,
        model::{ModelRule, ModelRuleConfig, Models},
        scope::ScopeRule,
        shadow::{ShadowRule, ShadowRules},
        size::Sizing,
        tenant::{TenantConfig, TenantRule},
        tool::McpConfig,
        websocket::{WebSocketConfig, WebSocketRule},
    },
    secret::SecretSource,
};

/// One route of `routes`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The requests that the route covers.
    #[serde(rename = "match")]
    pub matches: MatchConfig,
    /// The name in metrics and audit lines. Default: the first path.
    pub name: Option<String>,
    /// Whether the route requires no credential. Default false.
    #[serde(default)]
    pub public: bool,
    /// The scopes that a credential requires: all of a list, or one of `{ any: [...] }`. `[]`
    /// admits every valid credential. Required unless the route is public, so that no route is open
    /// by omission.
    pub scopes: Option<ScopeRule>,
    /// Where the model is named and which scope it requires. Default: the route has no model.
    pub model: Option<ModelRuleConfig>,
    /// Upper limits for one request, in addition to the caps of the model's tier.
    pub caps: Option<CapsConfig>,
    /// Allowed and forbidden members of the body.
    pub fields: Option<FieldsConfig>,
    /// What the tables of a preset say of the route's requests.
    #[serde(skip)]
    pub(crate) members: Option<RouteMembers>,
    /// Scopes required for content other than text.
    pub raise: Option<RaiseConfig>,
    /// The scope for each tool that a request declares or chooses (`tools`, `functions`,
    /// `tool_choice`), such as `tool:{name}`. The name of a tool that the server runs itself is its
    /// type. Default: tools are not checked.
    pub tools: Option<String>,
    /// Expressions in CEL over the request, the principal and the model, all of which must be true.
    /// An expression without a value, because a claim is missing or has another type, denies as
    /// well.
    #[serde(default)]
    pub conditions: Vec<ConditionConfig>,
    /// The rules of the route that are in shadow: what they would deny is logged (`would_deny`), and
    /// the request passes. Conditions and limits have a `mode`. Default: none.
    #[serde(default)]
    pub shadow: Vec<ShadowRule>,
    /// The permitted categories of prompts, which a request declares or patterns find in its text.
    /// Default: prompts are not classified.
    pub categories: Option<CategoryRuleConfig>,
    /// Rules for a body that is JSON-RPC for an MCP server.
    pub mcp: Option<McpConfig>,
    /// Rules for a route whose requests are upgraded to a WebSocket.
    pub websocket: Option<WebSocketConfig>,
    /// The URL of the metadata that names the authorization server, sent as `resource_metadata`
    /// with every challenge (RFC 9728 section 5.1).
    pub resource_metadata: Option<String>,
    /// The names of the `limits` that count requests of this route.
    #[serde(default)]
    pub limits: Vec<String>,
    /// What each request of the route is charged at admission by its limits on `tokens`, in place of
    /// its usage: for work whose usage is in no response, such as WebSockets and batches. Nothing is
    /// held and no bound is written into requests. Default: requests are charged their usage.
    pub fixed_tokens: Option<NonZeroU64>,
    /// What a request of the Responses API (`.../responses`) with `background: true` is charged at
    /// admission by the limits on `tokens`: the usage of its answer is in no response. Default: such
    /// a request is denied on routes with these limits.
    pub background_tokens: Option<NonZeroU64>,
    /// How the size of a request is computed, on a preset's route.
    #[serde(skip)]
    pub(crate) sizing: Option<Sizing>,
    /// The behaviour if the store does not answer. Default `deny`.
    #[serde(default)]
    pub on_outage: OnOutage,
    /// The kinds of credentials that the route accepts: `jwt`, `api_key`, `certificate`, `cookie`,
    /// `opaque_token`. Default:
    /// `jwt`, and `api_key` where the file has `api_keys`.
    pub credentials: Option<Vec<CredentialKind>>,
    /// The resource that a token has to be for: its audience claim has to list this text, beside what the
    /// issuer's `audiences` require (RFC 8707; MCP, Authorization). API keys and certificates have no
    /// audience. Default: every token that its issuer's `audiences` admit.
    pub audience: Option<String>,
    /// Whether browsers send the credential by themselves, because a filter in front turns a cookie into
    /// `Authorization`. A request other than GET, HEAD and OPTIONS, and a WebSocket, then needs an
    /// `Origin` of `cookies.origins` and `Sec-Fetch-Site: same-origin`. Cookies need it on every
    /// route. Default false.
    #[serde(default)]
    pub ambient: bool,
    /// Whether Envoy ends a stream of the route when its credential ends, is revoked or is banned, and
    /// when the stream has used more tokens than the request holds: its last event is an error in the
    /// client's form. It needs `listen.ext_proc` and deploy/envoy/envoy-metered-cut.yaml. Default
    /// false.
    #[serde(default)]
    pub cut_streams: bool,
    /// The agents that may act for subjects, by the claim `act` of a token (RFC 8693). Default: every
    /// actor may, in a chain of at most eight. Each one is checked for revocation and bans.
    pub actors: Option<ActorsConfig>,
    /// Where a request names a tenant, which has to be that of the credential. Default: nowhere.
    pub tenant: Option<TenantConfig>,
    /// Forward the client's credential to the upstream. Default false: an inference server does not
    /// use it.
    #[serde(default)]
    pub forward_credential: bool,
    /// The upstream's own key, sent as `Authorization: Bearer` in place of the client's credential.
    /// Not sent on public routes.
    pub upstream_key: Option<SecretSource>,
}

impl RouteConfig {
    /// Returns the name in metrics and audit lines.
    pub fn name(&self) -> &str {
        self.name.as_ref().or_else(|| self.matches.paths.first()).map_or("", String::as_str)
    }
}

/// The requests that a route covers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchConfig {
    /// Host names, or `*.example.com` for every subdomain. Default: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Methods. GET includes HEAD. Default: GET on public routes; required on all others.
    pub methods: Option<Vec<String>>,
    /// Paths. `{x}` covers one segment, `{x*}` the rest of the path, and a trailing `/*` the path
    /// before it and everything below.
    pub paths: Vec<String>,
}

/// `on_outage`: the behaviour of a route if the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// Deny with 503 `store_unavailable` and Retry-After.
    #[default]
    Deny,
    /// Fail the check, so that the proxy's `failure_mode_allow` and `status_on_error` decide.
    Error,
    /// Admit the request, without counting it and without checking revocation.
    Allow,
    /// Count in memory with this replica's share of each limit, admit tokens and requests at once
    /// from its escrow (`store.redis.local.escrow`), and use the last known revocations.
    Local,
}

impl OnOutage {
    /// Every behaviour in an outage.
    pub const ALL: [Self; 4] = [Self::Deny, Self::Error, Self::Allow, Self::Local];

    /// The word of the configuration file, and the label of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Error => "error",
            Self::Allow => "allow",
            Self::Local => "local",
        }
    }
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// The name in metrics and audit lines.
    pub name: String,
    /// Whether the route requires no credential.
    pub public: bool,
    /// The scopes that it requires.
    pub scopes: ScopeRule,
    /// The rule for the model.
    pub model: Option<ModelRule>,
    /// The conditions, all of which must be true.
    pub conditions: Vec<Condition>,
    /// The rules that are in shadow.
    pub shadow: ShadowRules,
    /// The rules for the body.
    pub(crate) content: Content,
    /// The rules for the body that are in shadow, if there are some.
    pub(crate) shadow_content: Option<Box<ShadowContent>>,
    /// The rules for a WebSocket.
    pub websocket: Option<WebSocketRule>,
    /// The `resource_metadata` of its challenges.
    pub resource_metadata: Option<String>,
    /// The rates that limit its requests.
    pub limits: Vec<Arc<RateLimit>>,
    /// The limits that its requests hold units of.
    pub holds: Vec<Arc<HoldLimit>>,
    /// How the size of a request is computed; `None` where no limit counts tokens, and with a fixed
    /// charge.
    pub sizing: Option<Sizing>,
    /// The tokens that each request is charged at admission, in place of its usage.
    pub fixed_tokens: Option<u64>,
    /// The behaviour in an outage of the store.
    pub on_outage: OnOutage,
    /// The kinds of credentials that it accepts.
    pub credentials: CredentialKinds,
    /// The resource that tokens have to be for, by its place among those of the policy.
    pub audience: Option<usize>,
    /// Whether browsers send its credentials by themselves.
    pub ambient: bool,
    /// Whether a stream ends with its credential.
    pub cut_streams: bool,
    /// The rule for actors.
    pub actors: Option<Box<ActorRule>>,
    /// The rule for the tenant that a request names.
    pub tenant: Option<Box<TenantRule>>,
    /// The description of those credentials, where the policy has more than one kind.
    pub(crate) accepted: Option<AcceptedCredentials>,
    /// The attribute `algs` of the challenge of DPoP; `None` where no proof is accepted.
    pub(crate) algs: Option<Arc<str>>,
    /// Whether the client's credential is forwarded.
    pub forward_credential: bool,
    /// The index of its upstream key in the policy's list.
    pub upstream_key: Option<usize>,
    /// Whether the route is part of a preset. An explicit route takes precedence over it.
    pub from_preset: bool,
}

impl Route {
    /// Whether the route reads the body of a request.
    pub fn reads_body(&self) -> bool {
        self.content.reads_body()
            || self.shadow_content.as_ref().is_some_and(|content| content.reads_body())
    }

    /// Whether the route uses a part of the identity for what it enforces.
    pub(crate) fn uses(&self, part: Part) -> bool {
        // A condition can read every other part.
        let is_read = part != Part::Id && self.conditions.iter().any(|one| !one.is_shadow());
        let is_compared = part == Part::Tenant && self.tenant.is_some();
        is_read
            || is_compared
            || match part {
                Part::Scopes => !self.scopes.is_empty() || self.model.is_some(),
                _ => {
                    self.limits.iter().any(|limit| limit.uses(part) && !limit.is_shadow())
                        || self.holds.iter().any(|limit| limit.uses(part) && !limit.is_shadow())
                }
            }
    }

    /// Whether the store takes part in a decision on the route: it counts requests, or it may know
    /// that the credential is revoked.
    pub fn uses_store(&self) -> bool {
        !self.public || !self.limits.is_empty() || !self.holds.is_empty()
    }

    /// Whether a request holds what a report of its usage, or of its end, settles.
    pub(crate) fn is_settled(&self) -> bool {
        let is_charged = self.fixed_tokens.is_some();
        self.holds.iter().any(|limit| limit.is_settled() && !(is_charged && limit.charges_tokens()))
    }
}

/// The compiled sections that routes refer to, and what compiling them collects.
pub(crate) struct CompileContext<'a> {
    pub(crate) models: &'a Models,
    pub(crate) limits: &'a BTreeMap<String, Limit>,
    /// The section `prices` of the policy.
    pub(crate) prices: Option<&'a Prices>,
    /// The upstream keys of the routes compiled so far.
    pub(crate) upstream_keys: Vec<SecretSource>,
    pub(crate) categories: &'a Arc<Categories>,
    /// The resources of the routes compiled so far.
    pub(crate) resources: Vec<ResourceMetadata>,
    /// The issuers of the policy.
    pub(crate) issuers: &'a Issuers,
    /// The claims that the conditions compiled so far read.
    pub(crate) claims: BTreeSet<String>,
    /// Whether routes can accept client certificates.
    pub(crate) accepts_certificates: bool,
    /// The section `cookies` of the policy.
    pub(crate) cookies: Option<&'a Cookies>,
    /// Whether the policy has the section `metering`.
    pub(crate) has_metering: bool,
    /// The section `api_keys` of the policy.
    pub(crate) api_keys: Option<&'a ApiKeys>,
    /// The algorithms of proofs, where the policy has the section `dpop`.
    pub(crate) algs: Option<&'a Arc<str>>,
}
