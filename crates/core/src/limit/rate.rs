//! Rate limits: `N/duration` with a burst, counted by attributes of the request.

use std::sync::Arc;

use super::{
    Charge,
    bucket_size::BucketSize,
    config::{LimitConfig, SizeKeys},
    counted_by::{ChargeSubject, CountedBy},
    lease::LeaseTerms,
    shard::CountedWithin,
    sizes::{Size, Sizes},
};
use crate::{
    config::{Errors, Path},
    denial::Denial,
    identity::Part,
    time::Quota,
};

impl Size for BucketSize {
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self> {
        errors.take(&path.key("rate"), Self::compile(keys.rate?, keys.burst))
    }

    fn replaced(self, quota: Quota) -> Option<Self> {
        match quota {
            Quota::Rate(rate) => Some(Self::of_record(rate)),
            Quota::Window(_) | Quota::Count(_) => None,
        }
    }

    fn at_most(self, most: Self) -> Self {
        Self::at_most(self, most)
    }

    fn has_kind_of(self, _: Self) -> bool {
        true
    }
}

/// A compiled rate limit.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// The limit's name.
    pub name: Arc<str>,
    counted_by: CountedBy,
    sizes: Sizes<BucketSize>,
    lease: Option<LeaseTerms>,
    within: CountedWithin,
    is_shadow: bool,
}

impl RateLimit {
    /// Compiles one entry of `limits` and records every error.
    ///
    /// ```
    /// use tollgate_core::{
    ///     config::{Document, Errors, Path},
    ///     limit::{ChargeSubject, rate::RateLimit},
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
        let counted_by = CountedBy::compile(&config.name, None, &config.by, path, errors);
        let sizes = Sizes::<BucketSize>::compile(config, path, errors)?;
        let burst = sizes.of_policy().burst;
        let lease = config.lease.map(|lease| lease.compile(burst, &path.key("lease"), errors));
        let within = counted_by.within();
        let (name, is_shadow) = (config.name.as_str().into(), config.mode.is_shadow());
        Some(Self { name, counted_by, sizes, lease, within, is_shadow })
    }

    /// What the requests that one bucket counts have in common.
    pub(super) const fn within(&self) -> CountedWithin {
        self.within
    }

    /// Whether the limit is in shadow.
    pub const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// Whether units may be leased.
    pub(super) const fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// Whether the limit counts by an attribute of the credential.
    pub fn needs_principal(&self) -> bool {
        self.counted_by.needs_principal()
    }

    /// Whether the limit counts or selects by a part of the identity.
    pub(crate) fn uses(&self, part: Part) -> bool {
        self.counted_by.uses(part) || self.sizes.selectors().any(|selector| selector.uses(part))
    }

    /// Whether the limit counts by the model.
    pub fn needs_model(&self) -> bool {
        self.counted_by.needs_model()
    }

    /// Whether the record of a key may set a quota for the limit.
    pub(super) fn fits(&self, quota: Quota) -> bool {
        self.sizes.fits(quota)
    }

    /// Returns the charge for one request.
    ///
    /// # Errors
    /// A denial if the request lacks an attribute that the limit counts by.
    pub fn charge(&self, facts: &ChargeSubject<'_>) -> Result<Charge, Denial> {
        let bucket = self.counted_by.id(facts)?;
        let BucketSize { interval, burst } = self.sizes.of(&self.name, facts.principal)?;
        // An override with a smaller bucket leases smaller slices, or none.
        let lease = self.lease.map(|terms| LeaseTerms { slice: terms.slice.min(burst), ..terms });
        // Units that are taken ahead of need could refuse, so a limit in shadow is counted exactly.
        let lease = lease.filter(|terms| terms.slice >= 2 && !self.is_shadow);
        Ok(Charge {
            limit: Arc::clone(&self.name),
            bucket,
            interval,
            burst,
            cost: 1,
            by_principal: self.needs_principal(),
            lease,
            within: self.within,
            is_shadow: self.is_shadow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::Reason;

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
        // All clients of IPv4 have one /64 behind a translator (RFC 6052).
        assert_ne!(key("64:ff9b::192.0.2.1"), key("64:ff9b::192.0.2.2"));
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
