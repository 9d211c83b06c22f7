//! The names of a policy that records of keys refer to.

use super::record::KeyRecord;
use crate::time::Quota;

/// The limits and the tiers of a policy.
#[derive(Clone, Copy)]
pub struct PolicyNames<'a> {
    /// Whether the policy has a limit of a name, for which a record may set a quota.
    pub has_limit: &'a dyn Fn(&str, Quota) -> bool,
    /// Whether an override of the policy selects a tier.
    pub has_tier: &'a dyn Fn(&str) -> bool,
}

impl PolicyNames<'_> {
    /// Whether the policy has every limit and the tier that a record names.
    pub fn fit(&self, record: &KeyRecord) -> bool {
        self.unknown_limit(record).is_none() && self.unknown_tier(record).is_none()
    }

    /// Returns the first limit of a record that the policy does not have, or not in this form.
    pub fn unknown_limit<'r>(&self, record: &'r KeyRecord) -> Option<&'r str> {
        let mut limits = record.limits.iter().map(|(name, quota)| (&**name, *quota));
        limits.find(|(name, quota)| !(self.has_limit)(name, *quota)).map(|(name, _)| name)
    }

    /// Returns the tier of a record that no override selects.
    pub fn unknown_tier<'r>(&self, record: &'r KeyRecord) -> Option<&'r str> {
        record.tier.as_deref().filter(|tier| !(self.has_tier)(tier))
    }
}
