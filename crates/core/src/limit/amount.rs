//! Sizes that are one number: the most requests in flight (`concurrent`), and the most tokens of one
//! request (`tokens_per_request`).

use super::{config::SizeKeys, sizes::Size};
use crate::{
    config::{Errors, Path},
    time::Quota,
};

/// The most of something at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount(pub(super) u64);

impl Size for Amount {
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self> {
        if keys.burst.is_some() {
            errors.push(
                &path.key("burst"),
                "only a `rate` and `tokens` per time have a burst; remove this",
            );
        }
        keys.concurrent.or(keys.tokens_per_request).map(Self)
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
