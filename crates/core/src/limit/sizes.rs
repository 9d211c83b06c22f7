//! The sizes of one limit: that of the policy, those of its overrides, and how far the record of a
//! key may change them.

use super::{
    config::{LimitConfig, SizeKeys},
    selector::Selector,
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::Principal,
    time::Quota,
};

/// The size of a limit of one kind.
pub(super) trait Size: Copy + PartialEq {
    /// Compiles the size that the keys of a limit or an override set, and records every error at
    /// `path`, the entry.
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self>;

    /// Returns the size that a quota sets in place of this one; `None` where the quota has the form
    /// of another kind.
    fn replaced(self, quota: Quota) -> Option<Self>;

    /// Returns the size that exceeds neither.
    fn at_most(self, most: Self) -> Self;

    /// Whether another size is of the same kind, so that both count in the same way.
    fn has_kind_of(self, other: Self) -> bool;
}

/// The sizes of one limit.
#[derive(Clone, Debug)]
pub(super) struct Sizes<S> {
    size: S,
    overrides: Vec<(Selector, S)>,
    may_raise_to: Option<S>,
}

impl<S: Size> Sizes<S> {
    /// Compiles the sizes of an entry and records every error.
    pub(super) fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let key = SizeKeys::of_limit(config).names().next().unwrap_or("rate");
        let size = S::compile(SizeKeys::of_limit(config), path, errors)?;
        let mut overrides: Vec<(Selector, S)> = Vec::new();
        for (index, entry) in config.overrides.iter().enumerate() {
            let path = path.key("overrides").index(index);
            let selector = Selector::compile(entry.selector(), &path, errors);
            if let Some(earlier) = overrides.iter().position(|(known, _)| *known == selector) {
                errors.push(&path, format!("entry {earlier} selects the same principals"));
            }
            let keys = SizeKeys::of_override(entry);
            if !keys.names().eq([key]) {
                errors
                    .push(&path, format!("set `{key}`, and no other size: the limit has `{key}`"));
                continue;
            }
            let Some(other) = S::compile(keys, &path, errors) else { continue };
            if !other.has_kind_of(size) {
                errors.push(&path.key(key), format!("write it in the form of the limit's `{key}`"));
            }
            overrides.push((selector, other));
        }
        let raised = config.may_raise_to.map(|quota| (quota, size.replaced(quota)));
        if let Some((quota, raised)) = raised {
            let at = path.key("may_raise_to");
            match raised {
                None => errors
                    .push(&at, format!("`{quota}` does not have the form of the limit's `{key}`")),
                Some(raised) if raised.at_most(size) == raised => errors.push(
                    &at,
                    format!(
                        "a record could not raise the size: write more than `{key}`, or remove it"
                    ),
                ),
                Some(_) => {}
            }
        }
        Some(Self { size, overrides, may_raise_to: raised.and_then(|(_, raised)| raised) })
    }

    /// The size that the policy sets.
    pub(super) fn of_policy(&self) -> S {
        self.size
    }

    /// The selectors of the overrides.
    pub(super) fn selectors(&self) -> impl Iterator<Item = &Selector> {
        self.overrides.iter().map(|(selector, _)| selector)
    }

    /// Whether the record of a key may set a quota for the limit.
    pub(super) fn fits(&self, quota: Quota) -> bool {
        self.size.replaced(quota).is_some()
    }

    /// Whether the quotas that fit are those that fit another limit.
    pub(super) fn fits_as(&self, other: &Self) -> bool {
        self.size.has_kind_of(other.size)
    }

    /// Returns the size for a principal: that of the first override that selects it, lowered by the
    /// record of its key.
    ///
    /// # Errors
    /// The record sets a quota in the form of another kind.
    pub(super) fn of(&self, name: &str, holder: Option<&Principal>) -> Result<S, Denial> {
        let Some(holder) = holder else { return Ok(self.size) };
        let selected = self.overrides.iter().find(|(selector, _)| selector.selects(holder));
        let size = selected.map_or(self.size, |(_, size)| *size);
        let Some(key) = holder.key() else { return Ok(size) };
        let Some(quota) = key.quota(name) else { return Ok(size) };
        let own = size.replaced(quota).ok_or_else(|| {
            let cause = format!(
                "the record of the key `{}` sets `{quota}` for the limit `{name}`, which is of \
                 another kind",
                key.id
            );
            Denial::new(Reason::InvalidApiKey, cause)
        })?;
        Ok(own.at_most(self.may_raise_to.unwrap_or(size)))
    }
}
