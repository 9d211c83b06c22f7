//! Rate limits: `N/duration` with a burst, counted by attributes of the request.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    BucketId, Charge,
    lease::{LeaseConfig, LeaseTerms},
    selector::{ClaimValue, Selector, SelectorKeys},
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::{ClaimPath, Part, Principal},
    revocation::EntryKey,
    time::{Rate, RateError},
};

/// One entry of `limits`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// The name that routes refer to. It appears in headers, metrics and keys. 1 to 64 letters,
    /// digits, `-`, `_` and `.`.
    pub name: String,
    /// The attributes that a bucket is counted by. A request that lacks one of them is denied,
    /// never admitted uncounted.
    pub by: Vec<By>,
    /// `N/duration`: N requests are refilled in this time.
    pub rate: Rate,
    /// The maximum number of requests at once after a pause. Default: the N of `rate`. 0 admits
    /// none.
    pub burst: Option<u64>,
    /// Other rates for some principals. The first entry that selects the principal is used.
    #[serde(default)]
    pub overrides: Vec<OverrideConfig>,
    /// The highest rate that the record of an API key may set for this limit. Default: a record
    /// only lowers the rate of its key.
    pub may_raise_to: Option<Rate>,
    /// Lets each replica take units ahead of need and spend them without querying Redis. The limit
    /// is then approximate, within a stated bound. Requires `store.redis`. Default: off, the limit
    /// is exact.
    pub lease: Option<LeaseConfig>,
}

/// A rate for some principals: those that have all of the properties that the entry names.
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
    pub rate: Rate,
    /// The burst for these principals. Default: the N of this `rate`.
    pub burst: Option<u64>,
}

impl OverrideConfig {
    fn selector(&self) -> SelectorKeys<'_> {
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

/// An attribute of a request that a limit can count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Issuer and subject of the credential, or its client id where it has no subject of its own.
    Subject,
    /// Issuer and tenant of the credential. Issuers with the same fixed `tenant` share its bucket.
    Tenant,
    /// Issuer and client id of the credential.
    Client,
    /// The id of an API key. A request with another kind of credential is denied.
    Key,
    /// The model, by its name in the policy. The names must be few: those of `models`, a fixed one,
    /// or those that `model.scope` binds to a scope of the credential.
    Model,
    /// The route of the request.
    Route,
    /// The client's address as reported by the proxy. IPv6 is counted by /64.
    Address,
}

impl By {
    const fn label(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Client => "client",
            Self::Key => "key",
            Self::Model => "model",
            Self::Route => "route",
            Self::Address => "address",
        }
    }
}

/// A compiled rate limit.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// The limit's name.
    pub name: Arc<str>,
    by: Vec<By>,
    /// The part of the identity that all its buckets share: the name, and what it counts by.
    base_id: BucketId,
    bucket: Bucket,
    overrides: Vec<(Selector, Bucket)>,
    may_raise_to: Option<Bucket>,
    lease: Option<LeaseTerms>,
}

/// The size and the refill interval of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    interval: u64,
    burst: u64,
}

impl Bucket {
    /// Compiles a rate. The interval is rounded up to a whole microsecond, so that the bucket never
    /// fills faster than the rate.
    fn compile(rate: Rate, burst: Option<u64>) -> Result<Self, RateError> {
        let burst = if rate.count() == 0 { 0 } else { burst.unwrap_or(rate.count()) };
        let interval = rate.per().micros().div_ceil(rate.count().max(1));
        match interval.checked_mul(burst) {
            Some(full) if full <= 366 * 86_400 * 1_000_000 => Ok(Self { interval, burst }),
            _ => Err(RateError::Burst { rate, burst }),
        }
    }

    /// The bucket of a rate in the record of a key.
    fn of_record(rate: Rate) -> Self {
        Self { interval: rate.per().micros().div_ceil(rate.count().max(1)), burst: rate.count() }
    }

    /// Returns the bucket that exceeds neither rate nor burst of either.
    fn at_most(self, most: Self) -> Self {
        Self { interval: self.interval.max(most.interval), burst: self.burst.min(most.burst) }
    }
}

/// The attributes of one request that limits count by.
#[derive(Clone, Copy, Debug)]
pub struct ChargeSubject<'a> {
    /// The principal; `None` on a public route.
    pub principal: Option<&'a Principal>,
    /// The model's name in the policy.
    pub model: Option<&'a str>,
    /// The route's name.
    pub route: &'a str,
    /// The client's address.
    pub address: Option<IpAddr>,
}

impl RateLimit {
    /// Compiles one entry of `limits` and records every error.
    ///
    /// ```
    /// use tollgate_core::{
    ///     config::{Document, Errors, Path},
    ///     limit::rate::{ChargeSubject, RateLimit},
    /// };
    ///
    /// let document = Document::parse("{name: per-address, by: [address], rate: 60/1m}", &|_| None)
    ///     .expect("the text is YAML");
    /// let config = document.read().expect("the text is a limit");
    /// let mut errors = Errors::default();
    /// let limit = RateLimit::compile(&config, &Path::root(), &mut errors).expect("no errors");
    /// let subject = ChargeSubject {
    ///     principal: None,
    ///     model: None,
    ///     route: "/health",
    ///     address: Some([192, 0, 2, 1].into()),
    /// };
    /// let charge = limit.charge(&subject).expect("the address is known");
    /// assert_eq!((charge.burst, charge.interval), (60, 1_000_000));
    /// ```
    pub fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let named = config
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if config.name.is_empty() || config.name.len() > 64 || !named {
            errors.push(
                &path.key("name"),
                "a limit's name is 1 to 64 letters, digits, `-`, `_` or `.`",
            );
        }
        if config.by.is_empty() {
            errors.push(
                &path.key("by"),
                "a limit counts by something; list at least one of subject, tenant, client, key, model, route, address",
            );
        }
        for (index, by) in config.by.iter().enumerate() {
            if config.by.iter().take(index).any(|earlier| earlier == by) {
                errors.push(
                    &path.key("by").index(index),
                    format!("`{}` is listed twice", by.label()),
                );
            }
        }
        let bucket = errors.take(&path.key("rate"), Bucket::compile(config.rate, config.burst))?;
        let mut overrides: Vec<(Selector, Bucket)> = Vec::new();
        for (index, entry) in config.overrides.iter().enumerate() {
            let path = path.key("overrides").index(index);
            let selector = Selector::compile(entry.selector(), &path, errors);
            if let Some(earlier) = overrides.iter().position(|(known, _)| *known == selector) {
                errors.push(&path, format!("entry {earlier} selects the same principals"));
            }
            if let Some(bucket) =
                errors.take(&path.key("rate"), Bucket::compile(entry.rate, entry.burst))
            {
                overrides.push((selector, bucket));
            }
        }
        let may_raise_to = config.may_raise_to.and_then(|rate| {
            errors.take(&path.key("may_raise_to"), Bucket::compile(rate, config.burst))
        });
        if may_raise_to.is_some_and(|raised| raised.at_most(bucket) == raised) {
            errors.push(
                &path.key("may_raise_to"),
                "a record could not raise the rate: write more than `rate`, or remove it",
            );
        }
        let lease =
            config.lease.map(|lease| lease.compile(bucket.burst, &path.key("lease"), errors));
        let counted_by: Vec<&str> = config.by.iter().map(|by| by.label()).collect();
        let base_id = BucketId::of(format!("{} by {}", config.name, counted_by.join(", ")));
        Some(Self {
            name: config.name.as_str().into(),
            by: config.by.clone(),
            base_id,
            bucket,
            overrides,
            may_raise_to,
            lease,
        })
    }

    /// Whether the limit counts by an attribute of the credential.
    pub fn needs_principal(&self) -> bool {
        self.by.iter().any(|by| matches!(by, By::Subject | By::Tenant | By::Client | By::Key))
    }

    /// Whether the limit counts or selects by a part of the identity.
    pub(crate) fn uses(&self, part: Part) -> bool {
        let counts = match part {
            Part::Tenant => self.by.contains(&By::Tenant),
            Part::Client => self.by.contains(&By::Client),
            Part::Roles | Part::Scopes | Part::Id => false,
        };
        counts || self.overrides.iter().any(|(selector, _)| selector.uses(part))
    }

    /// Whether the limit counts by the model.
    pub fn needs_model(&self) -> bool {
        self.by.contains(&By::Model)
    }

    /// Returns the charge for one request.
    ///
    /// # Errors
    /// A denial if the request lacks an attribute that the limit counts by.
    pub fn charge(&self, facts: &ChargeSubject<'_>) -> Result<Charge, Denial> {
        let bucket_id = self.base_id.with(self.bucket_id(facts)?);
        let is_selected =
            |selector: &Selector| facts.principal.is_some_and(|holder| selector.selects(holder));
        let bucket = self
            .overrides
            .iter()
            .find(|(selector, _)| is_selected(selector))
            .map_or(self.bucket, |(_, bucket)| *bucket);
        let rate = facts.principal.and_then(Principal::key).and_then(|key| key.rate(&self.name));
        let bucket = rate.map_or(bucket, |rate| {
            Bucket::of_record(rate).at_most(self.may_raise_to.unwrap_or(bucket))
        });
        // An override with a smaller bucket leases smaller slices, or none.
        let lease =
            self.lease.map(|terms| LeaseTerms { slice: terms.slice.min(bucket.burst), ..terms });
        let lease = lease.filter(|terms| terms.slice >= 2);
        let Bucket { interval, burst } = bucket;
        Ok(Charge {
            limit: Arc::clone(&self.name),
            bucket: bucket_id,
            interval,
            burst,
            cost: 1,
            by_principal: self.needs_principal(),
            lease,
        })
    }

    /// Returns the identity of the bucket within the limit: that of the one attribute, or the
    /// digest of several, because a client may choose two of them.
    fn bucket_id(&self, facts: &ChargeSubject<'_>) -> Result<BucketId, Denial> {
        if let [by] = *self.by {
            return part(facts, by);
        }
        let mut parts = Vec::with_capacity(self.by.len() * 16);
        for by in &self.by {
            parts.extend(part(facts, *by)?.bytes());
        }
        Ok(BucketId::of(parts))
    }
}

/// Returns the identity of one attribute of the request.
fn part(facts: &ChargeSubject<'_>, by: By) -> Result<BucketId, Denial> {
    let keys = || facts.principal.map(Principal::revocation).ok_or_else(|| missing(by));
    Ok(match by {
        By::Subject => keys()?.subject().fingerprint().into(),
        By::Client => keys()?.client().ok_or_else(|| missing(by))?.fingerprint().into(),
        By::Key => {
            let key = facts.principal.and_then(Principal::key).ok_or_else(|| missing(by))?;
            BucketId::of(key.id.digits())
        }
        // Two issuers may use one name for two tenants.
        By::Tenant => {
            let keys = keys()?;
            let shared = facts.principal.is_some_and(Principal::is_tenant_fixed);
            let tenant = if shared {
                keys.tenant().map(EntryKey::fingerprint)
            } else {
                keys.tenant_of_issuer()
            };
            tenant.ok_or_else(|| missing(by))?.into()
        }
        By::Model => BucketId::of(facts.model.ok_or_else(|| missing(by))?),
        By::Route => BucketId::of(facts.route),
        By::Address => BucketId::of(network(facts.address.ok_or_else(|| missing(by))?)),
    })
}

fn missing(by: By) -> Denial {
    let reason = match by {
        By::Tenant => Reason::TenantMismatch,
        By::Address => Reason::AddressForbidden,
        By::Model => Reason::ModelMissing,
        By::Subject | By::Client | By::Key | By::Route => Reason::InvalidClaim,
    };
    let denial =
        Denial::new(reason, format!("a limit counts by {}, and the request has none", by.label()));
    match by {
        By::Client => {
            denial.with_message("the token names no client, and this endpoint is counted by client")
        }
        By::Key => denial
            .with_message("the credential is no API key, and this endpoint is counted by API key"),
        _ => denial,
    }
}

/// Returns the network that a bucket is counted by: the IPv4 address, or the /64 of an IPv6
/// address, within which one client can choose its address.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// Returns the top-level claims that overrides read.
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

/// Compiles the list `limits`, whose names must be unique, and records every error.
pub fn compile(
    configs: &[LimitConfig],
    path: &Path,
    errors: &mut Errors,
) -> BTreeMap<String, Arc<RateLimit>> {
    let mut limits = BTreeMap::new();
    for (index, config) in configs.iter().enumerate() {
        let path = path.index(index);
        if let Some(limit) = RateLimit::compile(config, &path, errors)
            && limits.insert(config.name.clone(), Arc::new(limit)).is_some()
        {
            errors.push(&path.key("name"), format!("two limits are named `{}`", config.name));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(yaml: &str) -> Result<RateLimit, String> {
        let config: LimitConfig =
            serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
        let mut errors = Errors::default();
        RateLimit::compile(&config, &Path::root(), &mut errors)
            .filter(|_| errors.is_empty())
            .ok_or_else(|| format!("{errors:?}"))
    }

    fn public(address: Option<&str>) -> ChargeSubject<'static> {
        ChargeSubject {
            principal: None,
            model: None,
            route: "/health",
            address: address.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn the_interval_is_rounded_up_and_the_burst_defaults_to_the_count() {
        let charge =
            limit("{name: a, by: [route], rate: 7/1m}").unwrap().charge(&public(None)).unwrap();
        assert_eq!((charge.interval, charge.burst, charge.cost), (8_571_429, 7, 1));
    }

    #[test]
    fn zero_is_zero() {
        for yaml in [
            "{name: a, by: [route], rate: 0/1m}",
            "{name: a, by: [route], rate: 0/1m, burst: 5}",
            "{name: a, by: [route], rate: 5/1m, burst: 0}",
        ] {
            assert_eq!(limit(yaml).unwrap().charge(&public(None)).unwrap().burst, 0, "{yaml}");
        }
    }

    #[test]
    fn a_part_that_is_missing_denies() {
        for (by, reason) in [
            ("address", Reason::AddressForbidden),
            ("tenant", Reason::TenantMismatch),
            ("model", Reason::ModelMissing),
            ("subject", Reason::InvalidClaim),
        ] {
            let limit = limit(&format!("{{name: a, by: [{by}], rate: 1/1s}}")).unwrap();
            assert_eq!(limit.charge(&public(None)).unwrap_err().reason, reason, "{by}");
        }
    }

    #[test]
    fn ipv6_is_counted_by_64_and_mapped_ipv4_as_ipv4() {
        let limit = limit("{name: a, by: [address], rate: 1/1s}").unwrap();
        let key = |address| limit.charge(&public(Some(address))).unwrap().bucket;
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn a_lease_is_no_larger_than_the_bucket() {
        let charge = |yaml: &str| limit(yaml).unwrap().charge(&public(None)).unwrap();
        let leased = charge("{name: a, by: [route], rate: 60/1m, lease: {slice: 10}}");
        assert_eq!(leased.lease, Some(LeaseTerms { slice: 10, life: 2_000_000 }));
        assert_eq!(
            charge("{name: a, by: [route], rate: 60/1m}").lease,
            None,
            "exact is the default"
        );
        for bad in [
            "{name: a, by: [route], rate: 60/1m, lease: {slice: 1}}",
            "{name: a, by: [route], rate: 60/1m, burst: 5, lease: {slice: 6}}",
            "{name: a, by: [route], rate: 0/1m, lease: {slice: 2}}",
            "{name: a, by: [route], rate: 60/1m, lease: {slice: 2, life: 99ms}}",
            "{name: a, by: [route], rate: 60/1m, lease: {slice: 2, life: 2m}}",
            "{name: a, by: [route], rate: 60/1m, lease: {}}",
        ] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_limits_are_refused() {
        for yaml in [
            "{name: '', by: [route], rate: 1/1s}",
            "{name: 'a b', by: [route], rate: 1/1s}",
            "{name: a, by: [], rate: 1/1s}",
            "{name: a, by: [route, route], rate: 1/1s}",
            "{name: a, by: [route], rate: 1/1d, burst: 5000}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{role: x, rate: 2/1s}, {role: x, rate: 3/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{rate: 2/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{issuer: 'https://a', rate: 2/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{claim: plan, rate: 2/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{value: gold, rate: 2/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{claim: [], value: gold, rate: 2/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{claim: plan, value: [gold], rate: 2/1s}]}",
            "{name: a, by: [route], rate: 1/1s, overrides: [{claim: plan, value: 1.5, rate: 2/1s}]}",
        ] {
            assert!(limit(yaml).is_err(), "{yaml}");
        }
    }
}
