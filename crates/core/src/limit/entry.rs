//! The list `limits`, compiled: one kind of limit for each entry.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    config::{LimitConfig, SizeKeys},
    hold_limit::{HoldLimit, TOKEN_BUDGET},
    rate::RateLimit,
    shard::ShardBy,
};
use crate::{
    config::{Errors, Path},
    time::Quota,
};

/// A compiled limit of any kind.
#[derive(Clone, Debug)]
pub enum Limit {
    /// Requests per time.
    Rate(Arc<RateLimit>),
    /// What requests hold units of.
    Hold(Arc<HoldLimit>),
}

impl Limit {
    /// Compiles one entry of `limits` and records every error.
    fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let keys: Vec<&str> = SizeKeys::of_limit(config).names().collect();
        let [key] = *keys else {
            let text = match keys.is_empty() {
                true => {
                    "a limit needs a size: set `rate`, `requests`, `tokens`, `cost`, `concurrent` or `tokens_per_request`"
                }
                false => {
                    "a limit has one size: set one of `rate`, `requests`, `tokens`, `cost`, `concurrent` and `tokens_per_request`"
                }
            };
            errors.push(path, text);
            return None;
        };
        if config.time_zone.is_some() && !matches!(key, "requests" | "tokens" | "cost") {
            let text = format!("`{key}` has no windows of the calendar; remove this");
            errors.push(&path.key("time_zone"), text);
        }
        for (name, is_set) in [
            ("hold", config.hold.is_some()),
            ("max_debt_percent", config.max_debt_percent.is_some()),
        ] {
            if is_set && !matches!(key, "tokens" | "cost") {
                let text =
                    format!("only a limit with `tokens` or `cost` has `{name}`; remove this");
                errors.push(&path.key(name), text);
            }
        }
        if config.name == TOKEN_BUDGET {
            let text = format!("`{TOKEN_BUDGET}` is the limit that a claim of this name sets");
            errors.push(&path.key("name"), text);
        }
        if config.lease.is_some() && key != "rate" {
            errors.push(&path.key("lease"), "only a `rate` can be leased; remove this");
        }
        if key == "rate" {
            RateLimit::compile(config, path, errors).map(Arc::new).map(Self::Rate)
        } else {
            HoldLimit::compile(config, path, errors).map(Arc::new).map(Self::Hold)
        }
    }

    /// The limit's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Rate(limit) => &limit.name,
            Self::Hold(limit) => &limit.name,
        }
    }

    /// Whether what the limit counts is in the shard of each request, or need not be: a limit that
    /// counts nothing, or whose units are leased.
    pub fn fits_shards(&self, by: ShardBy) -> bool {
        match self {
            Self::Rate(limit) => by.has(limit.within()) || limit.is_leased(),
            Self::Hold(limit) => limit.within().is_none_or(|within| by.has(within)),
        }
    }

    /// Whether the limit is in shadow.
    pub fn is_shadow(&self) -> bool {
        match self {
            Self::Rate(limit) => limit.is_shadow(),
            Self::Hold(limit) => limit.is_shadow(),
        }
    }

    /// Whether the limit counts by an attribute of the credential.
    pub fn needs_principal(&self) -> bool {
        match self {
            Self::Rate(limit) => limit.needs_principal(),
            Self::Hold(limit) => limit.needs_principal(),
        }
    }

    /// Whether the limit counts by the model.
    pub fn needs_model(&self) -> bool {
        match self {
            Self::Rate(limit) => limit.needs_model(),
            Self::Hold(limit) => limit.needs_model(),
        }
    }

    /// Whether the limit counts tokens, so that the size of a request is needed.
    pub fn counts_tokens(&self) -> bool {
        match self {
            Self::Rate(_) => false,
            Self::Hold(limit) => limit.counts_tokens(),
        }
    }

    /// Whether tokens, or their cost, are charged, and not only compared.
    pub fn charges_tokens(&self) -> bool {
        match self {
            Self::Rate(_) => false,
            Self::Hold(limit) => limit.charges_tokens(),
        }
    }

    /// Whether the limit counts the cost of requests.
    pub fn counts_cost(&self) -> bool {
        match self {
            Self::Rate(_) => false,
            Self::Hold(limit) => limit.counts_cost(),
        }
    }

    /// Whether what a request holds is settled when its response has ended.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Rate(_) => false,
            Self::Hold(limit) => limit.is_settled(),
        }
    }

    /// Whether the record of a key may set a quota for the limit.
    pub fn fits(&self, quota: Quota) -> bool {
        match self {
            Self::Rate(limit) => limit.fits(quota),
            Self::Hold(limit) => limit.fits(quota),
        }
    }

    /// Whether a record may set the same quotas as for another limit.
    pub(crate) fn fits_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rate(_), Self::Rate(_)) => true,
            (Self::Hold(limit), Self::Hold(other)) => limit.fits_as(other),
            (Self::Rate(_), Self::Hold(_)) | (Self::Hold(_), Self::Rate(_)) => false,
        }
    }
}

/// Compiles the list `limits`, whose names must be unique, and records every error.
pub(crate) fn compile(
    configs: &[LimitConfig],
    path: &Path,
    errors: &mut Errors,
) -> BTreeMap<String, Limit> {
    let mut limits = BTreeMap::new();
    for (index, config) in configs.iter().enumerate() {
        let path = path.index(index);
        if let Some(limit) = Limit::compile(config, &path, errors)
            && limits.insert(config.name.clone(), limit).is_some()
        {
            errors.push(&path.key("name"), format!("two limits are named `{}`", config.name));
        }
    }
    limits
}
