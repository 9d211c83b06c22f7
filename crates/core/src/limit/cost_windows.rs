//! The cost of each window of the calendar, in micro-units: `N/day`.

use super::{
    config::{LimitConfig, SizeKeys},
    sizes::{Size, Sizes},
    tokens::debt_percent,
    window::Windows,
};
use crate::{
    config::{Errors, Path},
    time::{Quota, WindowQuota},
};

/// The size of a limit on cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CostSize(pub(super) WindowQuota);

impl Size for CostSize {
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self> {
        if keys.burst.is_some() {
            errors.push(&path.key("burst"), "a window of the calendar has no burst; remove this");
        }
        keys.cost.map(Self)
    }

    fn replaced(self, quota: Quota) -> Option<Self> {
        self.0.replaced(quota).map(Self)
    }

    fn at_most(self, most: Self) -> Self {
        Self(self.0.at_most(most.0))
    }

    fn has_kind_of(self, other: Self) -> bool {
        self.0.has_kind_of(other.0)
    }
}

/// The sizes and the windows of a limit on cost.
#[derive(Clone, Debug)]
pub(super) struct CostWindows {
    pub(super) sizes: Sizes<CostSize>,
    pub(super) windows: Windows,
    /// With `hold: estimate`, how much may be spent beyond the limit, in percent of it.
    pub(super) debt_percent: Option<u64>,
}

impl CostWindows {
    /// Compiles one entry of `limits` and records every error.
    pub(super) fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let sizes = Sizes::<CostSize>::compile(config, path, errors)?;
        let zone = config.time_zone.as_deref();
        let windows = Windows::compile(sizes.of_policy().0.unit, zone, path, errors)?;
        Some(Self { sizes, windows, debt_percent: debt_percent(config, path, errors) })
    }
}
