//! The most tokens of one request. Nothing is counted: each request is compared with the number.

use super::{config::SizeKeys, sizes::Size};
use crate::{
    config::{Errors, Path},
    time::Quota,
};

/// The most tokens of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerRequest(pub(super) u64);

impl Size for PerRequest {
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self> {
        if keys.burst.is_some() {
            errors.push(&path.key("burst"), "only a `rate` has a burst; remove this");
        }
        keys.tokens_per_request.map(Self)
    }

    fn replaced(self, quota: Quota) -> Option<Self> {
        match quota {
            Quota::Count(count) => Some(Self(count)),
            Quota::Rate(_) | Quota::Window(_) => None,
        }
    }

    fn at_most(self, most: Self) -> Self {
        Self(self.0.min(most.0))
    }

    fn has_kind_of(self, _: Self) -> bool {
        true
    }
}
