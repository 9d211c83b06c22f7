//! Requests in each window of the calendar: `N/day`. They are spent when they are admitted.

use super::{
    config::{LimitConfig, SizeKeys},
    sizes::{Size, Sizes},
    window::Windows,
};
use crate::{
    config::{Errors, Path},
    time::{Quota, WindowQuota},
};

impl Size for WindowQuota {
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self> {
        if keys.burst.is_some() {
            errors.push(&path.key("burst"), "a window of the calendar has no burst; remove this");
        }
        keys.requests
    }

    fn replaced(self, quota: Quota) -> Option<Self> {
        match quota {
            Quota::Window(window) if window.unit == self.unit => Some(window),
            Quota::Window(_) | Quota::Rate(_) | Quota::Count(_) => None,
        }
    }

    fn at_most(self, most: Self) -> Self {
        Self { count: self.count.min(most.count), unit: self.unit }
    }

    fn has_kind_of(self, other: Self) -> bool {
        self.unit == other.unit
    }
}

/// The sizes and the windows of a limit on requests.
#[derive(Clone, Debug)]
pub(super) struct RequestWindows {
    pub(super) sizes: Sizes<WindowQuota>,
    pub(super) windows: Windows,
}

impl RequestWindows {
    /// Compiles one entry of `limits` and records every error.
    pub(super) fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let sizes = Sizes::<WindowQuota>::compile(config, path, errors)?;
        let zone = config.time_zone.as_deref();
        let windows = Windows::compile(sizes.of_policy().unit, zone, path, errors)?;
        Some(Self { sizes, windows })
    }
}
