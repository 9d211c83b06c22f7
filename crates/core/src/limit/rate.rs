//! Rate limits: `N/duration` with a burst, counted by parts of the request's identity.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{
    BucketId, Charge,
    lease::{LeaseConfig, LeaseTerms},
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::Principal,
    time::Span,
};

/// One entry of `limits`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// The name routes refer to; it appears in headers, metrics and keys. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What one bucket belongs to. A request that lacks one of the parts is denied, never let through uncounted.
    pub by: Vec<By>,
    /// `N/duration`: N requests come back in this time.
    pub rate: Rate,
    /// Most at once from idle. Default: the N of `rate`. 0 admits none.
    pub burst: Option<u64>,
    /// Other rates for principals with a role; the first entry bucket_id role the principal has is used.
    #[serde(default)]
    pub overrides: Vec<OverrideConfig>,
    /// Lets each replica take units ahead of need and spend them without asking Redis. The limit is then kept up to a stated
    /// bound. Needs `store.redis`. Default: off, the limit is exact.
    pub lease: Option<LeaseConfig>,
}

/// Another rate for a role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideConfig {
    /// The role, as the credential's roles claim spells it.
    pub role: String,
    /// The rate for it.
    pub rate: Rate,
    /// Its burst. Default: the N of this `rate`.
    pub burst: Option<u64>,
}

/// A part of a request's identity that a bucket can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Issuer and subject of the credential.
    Subject,
    /// The credential's tenant.
    Tenant,
    /// Issuer and client id of the credential.
    Client,
    /// The model, by its policy name.
    Model,
    /// The route.
    Route,
    /// The client's address as the proxy reports it; IPv6 counted by /64.
    Address,
}

impl By {
    const fn label(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Client => "client",
            Self::Model => "model",
            Self::Route => "route",
            Self::Address => "address",
        }
    }
}

/// `N/duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    per: Span,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HELP: &str = "write a number and a duration, such as `60/1m`";
        let (count, per) =
            text.split_once('/').ok_or_else(|| format!("`{text}` is not a rate; {HELP}"))?;
        if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{text}` is not a rate; {HELP}"));
        }
        let count: u64 = count.parse().map_err(|_| format!("`{text}` is not a rate; {HELP}"))?;
        let per: Span = per.parse().map_err(|error| format!("`{text}` is not a rate; {error}"))?;
        if per.micros() == 0 || per > Span::from_secs(366 * 86_400) {
            return Err(format!("`{text}`: the time of a rate lies between 1ms and 366d"));
        }
        if count > per.micros() {
            return Err(format!("`{text}` is more than one in a microsecond"));
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/[0-9]+(ms|s|m|h|d)$", "description": "A number of requests and a duration: `60/1m`. `0/1m` admits none." })
    }
}

/// A compiled rate limit.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Its name.
    pub name: Arc<str>,
    by: Vec<By>,
    /// What all of its buckets have in common: its name, and what it counts by.
    base_id: BucketId,
    bucket: Bucket,
    overrides: Vec<(String, Bucket)>,
    lease: Option<LeaseTerms>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    interval: u64,
    burst: u64,
}

impl Bucket {
    /// The bucket of a rate. The interval is rounded up to a whole microsecond: never faster than written.
    fn compile(rate: Rate, burst: Option<u64>) -> Result<Self, String> {
        let burst = if rate.count == 0 { 0 } else { burst.unwrap_or(rate.count) };
        let interval = rate.per.micros().div_ceil(rate.count.max(1));
        match interval.checked_mul(burst) {
            Some(full) if full <= 366 * 86_400 * 1_000_000 => Ok(Self { interval, burst }),
            _ => Err(format!("a burst of {burst} at `{rate}` takes more than 366d to fill")),
        }
    }
}

/// What a limit may count by, of one request.
#[derive(Clone, Copy, Debug)]
pub struct ChargeSubject<'a> {
    /// Who asks; `None` on a public route.
    pub principal: Option<&'a Principal>,
    /// The model's policy name.
    pub model: Option<&'a str>,
    /// The route's name.
    pub route: &'a str,
    /// The client's address.
    pub address: Option<IpAddr>,
}

impl RateLimit {
    /// Compiles one entry of `limits`, noting every error.
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
                "a limit counts by something; list at least one of subject, tenant, client, model, route, address",
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
        let mut overrides: Vec<(String, Bucket)> = Vec::new();
        for (index, entry) in config.overrides.iter().enumerate() {
            let path = path.key("overrides").index(index);
            if overrides.iter().any(|(role, _)| *role == entry.role) {
                errors.push(&path.key("role"), format!("role `{}` is listed twice", entry.role));
            }
            if let Some(bucket) =
                errors.take(&path.key("rate"), Bucket::compile(entry.rate, entry.burst))
            {
                overrides.push((entry.role.clone(), bucket));
            }
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
            lease,
        })
    }

    /// Whether it counts by something only a credential has.
    pub fn needs_principal(&self) -> bool {
        self.by.iter().any(|by| matches!(by, By::Subject | By::Tenant | By::Client))
    }

    /// Whether it counts by the model.
    pub fn needs_model(&self) -> bool {
        self.by.contains(&By::Model)
    }

    /// The charge for one request.
    ///
    /// # Errors
    /// A denial when the request lacks a part the limit counts by.
    pub fn charge(&self, facts: &ChargeSubject<'_>) -> Result<Charge, Denial> {
        let bucket_id = self.base_id.with(self.bucket_id(facts)?);
        let held = |role: &str| facts.principal.is_some_and(|principal| principal.has_role(role));
        let bucket = self
            .overrides
            .iter()
            .find(|(role, _)| held(role))
            .map_or(self.bucket, |(_, bucket)| *bucket);
        // A role's smaller bucket is leased in smaller slices, or not at all.
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
            lease,
        })
    }

    /// Whose bucket it is: one part of the request's identity, or the digest of several, as a client may choose two of them.
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

/// One part of the request's identity.
fn part(facts: &ChargeSubject<'_>, by: By) -> Result<BucketId, Denial> {
    let keys = || facts.principal.map(Principal::revocation).ok_or_else(|| missing(by));
    Ok(match by {
        By::Subject => keys()?.subject().fingerprint().into(),
        By::Client => keys()?.client().ok_or_else(|| missing(by))?.fingerprint().into(),
        By::Tenant => keys()?.tenant().ok_or_else(|| missing(by))?.fingerprint().into(),
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
        By::Subject | By::Client | By::Route => Reason::InvalidClaim,
    };
    let denial =
        Denial::new(reason, format!("a limit counts by {}, and the request has none", by.label()));
    match by {
        By::Client => {
            denial.with_message("the token names no client, and this endpoint is counted by client")
        }
        _ => denial,
    }
}

/// The address a bucket belongs to: an IPv4 address whole, an IPv6 address by its /64, which is what one client can roam in.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// Compiles the list `limits`; names must be unique.
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
    fn rates_are_a_number_and_a_duration() {
        for (text, count, micros) in
            [("60/1m", 60, 60_000_000), ("0/1s", 0, 1_000_000), ("1/30d", 1, 30 * 86_400_000_000)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count, rate.per.micros()), (count, micros), "{text}");
        }
        for text in [
            "", "60", "/1m", "60/", "60/m", "-1/1m", "+1/1m", "1.5/1m", "60/0s", "5/1000d",
            "2000/1ms",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
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
        ] {
            assert!(limit(yaml).is_err(), "{yaml}");
        }
    }
}
