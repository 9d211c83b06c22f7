//! The entries of `limits`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    counted_by::By,
    lease::LeaseConfig,
    selector::{ClaimValue, SelectorKeys},
};
use crate::{
    config::Mode,
    identity::ClaimPath,
    time::{Quota, Rate, WindowQuota},
};

/// One entry of `limits`: a name, what it counts by, and one of `rate`, `requests`, `tokens`, `cost`,
/// `concurrent` and `tokens_per_request`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// The name that routes refer to. It appears in headers, metrics and keys. 1 to 64 letters,
    /// digits, `-`, `_` and `.`.
    pub name: String,
    /// Whether requests beyond the limit are denied. With `shadow` they are counted and logged
    /// (`would_deny`), and pass: the limit takes what it has room for. Default `enforce`.
    #[serde(default)]
    pub mode: Mode,
    /// The attributes that a bucket is counted by. A request that lacks one of them is denied,
    /// never admitted uncounted.
    pub by: Vec<By>,
    /// `N/duration`: N requests are refilled in this time.
    pub rate: Option<Rate>,
    /// `N/hour`, `N/day` or `N/month`: N requests in each window of the calendar. They are counted
    /// when they are admitted.
    pub requests: Option<WindowQuota>,
    /// `N/duration`: N tokens are refilled in this time; or `N/hour`, `N/day` or `N/month`: N tokens
    /// in each window of the calendar. A request holds as many as it may use until its response has
    /// ended, and is charged what it used.
    pub tokens: Option<Quota>,
    /// `N/hour`, `N/day` or `N/month`: what requests may cost in each window of the calendar, in
    /// micro-units. A request holds the most that it may cost until its response has ended, and is
    /// charged what it did cost. Needs `prices` for every model of its routes.
    pub cost: Option<WindowQuota>,
    /// What a request holds of `tokens`, or of `cost`. Default `bound`.
    pub hold: Option<HoldMode>,
    /// With `hold: estimate`: how much may be spent beyond the limit at most, in percent of it, 0 to 1000. Requests that could exceed it are denied. Default 100.
    pub max_debt_percent: Option<u64>,
    /// The most requests at once, from the check to the end of the response.
    pub concurrent: Option<u64>,
    /// The most tokens that one request may use: those of its prompts, and of its answers as far as
    /// it may ask for them. Nothing is counted. A larger request is denied.
    pub tokens_per_request: Option<u64>,
    /// The time zone in which the windows of the calendar begin: `UTC`, an offset such as `+02:00`,
    /// or a name such as `Europe/Berlin`. Default `UTC`.
    pub time_zone: Option<String>,
    /// The maximum number of requests, or tokens, at once after a pause. Only with `rate`, and with
    /// `tokens` per time. Default: their N. 0 admits none.
    pub burst: Option<u64>,
    /// Other sizes for some principals. The first entry that selects the principal is used.
    #[serde(default)]
    pub overrides: Vec<OverrideConfig>,
    /// The largest size that the record of an API key may set for this limit, in the form of the
    /// limit: `600/1m` or `5000/day`. Default: a record only lowers the size for its key.
    pub may_raise_to: Option<Quota>,
    /// Lets each replica take units ahead of need and spend them without querying Redis. The limit
    /// is then approximate, within a stated bound. Only with `rate`; requires `store.redis`.
    /// Default: off, the limit is exact.
    pub lease: Option<LeaseConfig>,
}

/// `hold` of a limit on tokens: what a request holds until its usage is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldMode {
    /// The most tokens that the request may use: the limit is never exceeded.
    Bound,
    /// The tokens that nine of ten such requests used: of the same subject, model and route. More
    /// requests fit at a time, and the limit may be exceeded by `max_debt_percent`.
    Estimate,
}

/// A size for some principals: those that have all of the properties that the entry names. It has
/// the key of its limit.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideConfig {
    /// A role of the credential.
    pub role: Option<String>,
    /// The subject of the credential. Two issuers may use one name: with several, add `issuer`. A
    /// client without a subject of its own is selected by `client`.
    pub subject: Option<String>,
    /// The client id of the credential.
    pub client: Option<String>,
    /// The tenant of the credential.
    pub tenant: Option<String>,
    /// The tier of an API key, as its record has it.
    pub tier: Option<String>,
    /// A claim of the credential, whose value is `value`: a name, or a list of names as a path.
    pub claim: Option<ClaimPath>,
    /// The value of `claim`: text, a whole number or a boolean. A list has it as an element.
    pub value: Option<ClaimValue>,
    /// The issuer of the credential, in addition to one of the other keys.
    pub issuer: Option<String>,
    /// The rate for these principals.
    pub rate: Option<Rate>,
    /// The burst for these principals. Default: the N of this `rate`, or of these `tokens`.
    pub burst: Option<u64>,
    /// The requests in each window for these principals. The window is that of the limit.
    pub requests: Option<WindowQuota>,
    /// The tokens for these principals, in the form of the limit.
    pub tokens: Option<Quota>,
    /// What requests of these principals may cost in each window. The window is that of the limit.
    pub cost: Option<WindowQuota>,
    /// The most requests at once for these principals.
    pub concurrent: Option<u64>,
    /// The most tokens of one request for these principals.
    pub tokens_per_request: Option<u64>,
}

impl OverrideConfig {
    pub(super) fn selector(&self) -> SelectorKeys<'_> {
        SelectorKeys {
            issuer: &self.issuer,
            role: &self.role,
            subject: &self.subject,
            client: &self.client,
            tenant: &self.tenant,
            tier: &self.tier,
            claim: &self.claim,
            value: &self.value,
        }
    }
}

/// The keys that set the size of a limit, as the limit or an override has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeKeys {
    pub(super) rate: Option<Rate>,
    pub(super) requests: Option<WindowQuota>,
    pub(super) tokens: Option<Quota>,
    pub(super) cost: Option<WindowQuota>,
    pub(super) concurrent: Option<u64>,
    pub(super) tokens_per_request: Option<u64>,
    pub(super) burst: Option<u64>,
}

impl SizeKeys {
    pub(super) fn of_limit(config: &LimitConfig) -> Self {
        let LimitConfig {
            rate, requests, tokens, cost, concurrent, tokens_per_request, burst, ..
        } = *config;
        Self { rate, requests, tokens, cost, concurrent, tokens_per_request, burst }
    }

    pub(super) fn of_override(config: &OverrideConfig) -> Self {
        let OverrideConfig {
            rate,
            requests,
            tokens,
            cost,
            concurrent,
            tokens_per_request,
            burst,
            ..
        } = *config;
        Self { rate, requests, tokens, cost, concurrent, tokens_per_request, burst }
    }

    /// The names of the keys that are set, except `burst`.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("rate", self.rate.is_some()),
            ("requests", self.requests.is_some()),
            ("tokens", self.tokens.is_some()),
            ("cost", self.cost.is_some()),
            ("concurrent", self.concurrent.is_some()),
            ("tokens_per_request", self.tokens_per_request.is_some()),
        ];
        keys.into_iter().filter(|(_, set)| *set).map(|(name, _)| name)
    }
}

/// Returns the top-level claims that limits and their overrides read.
pub(crate) fn claims(configs: &[LimitConfig]) -> impl Iterator<Item = String> {
    let overrides = configs.iter().flat_map(|limit| &limit.overrides);
    overrides.filter_map(|entry| Some(entry.claim.as_ref()?.top().to_owned()))
}

/// Returns the tiers of API keys that overrides select.
pub(crate) fn key_tiers(configs: &[LimitConfig]) -> Vec<String> {
    let mut tiers: Vec<String> = configs
        .iter()
        .flat_map(|limit| &limit.overrides)
        .flat_map(|entry| entry.tier.clone())
        .collect();
    tiers.sort();
    tiers.dedup();
    tiers
}

/// Returns the issuers that overrides name, with the indices of the limit and of the override.
pub(crate) fn override_issuers(
    configs: &[LimitConfig],
) -> impl Iterator<Item = (usize, usize, &String)> {
    configs.iter().enumerate().flat_map(|(limit, config)| {
        let entries = config.overrides.iter().enumerate();
        entries.filter_map(move |(at, entry)| Some((limit, at, entry.issuer.as_ref()?)))
    })
}
