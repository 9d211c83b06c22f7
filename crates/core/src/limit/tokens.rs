//! Tokens per time (`N/duration`, a bucket), or in each window of the calendar (`N/day`).

use super::{
    bucket_size::BucketSize,
    config::{HoldMode, LimitConfig, SizeKeys},
    sizes::{Size, Sizes},
    window::Windows,
};
use crate::{
    config::{Errors, Path},
    time::{Quota, WindowQuota},
};

/// The default of `max_debt_percent`, and its maximum.
const DEBT_PERCENT: u64 = 100;
const MOST_DEBT_PERCENT: u64 = 1000;

/// The size of a limit on tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenSize {
    Bucket(BucketSize),
    Window(WindowQuota),
}

impl Size for TokenSize {
    fn compile(keys: SizeKeys, path: &Path, errors: &mut Errors) -> Option<Self> {
        let window = match keys.tokens? {
            Quota::Rate(rate) => {
                let size = BucketSize::compile(rate, keys.burst);
                return errors.take(&path.key("tokens"), size).map(Self::Bucket);
            }
            Quota::Window(window) => window,
            Quota::Count(_) => {
                errors.push(
                    &path.key("tokens"),
                    "write tokens per time, `100000/1m`, or in a window, `5000000/day`",
                );
                return None;
            }
        };
        if keys.burst.is_some() {
            errors.push(&path.key("burst"), "a window of the calendar has no burst; remove this");
        }
        Some(Self::Window(window))
    }

    fn replaced(self, quota: Quota) -> Option<Self> {
        match (self, quota) {
            (Self::Bucket(_), Quota::Rate(rate)) => Some(Self::Bucket(BucketSize::of_record(rate))),
            (Self::Window(own), Quota::Window(window)) if own.unit == window.unit => {
                Some(Self::Window(window))
            }
            _ => None,
        }
    }

    fn at_most(self, most: Self) -> Self {
        match (self, most) {
            (Self::Bucket(size), Self::Bucket(most)) => Self::Bucket(size.at_most(most)),
            (Self::Window(size), Self::Window(most)) => Self::Window(Size::at_most(size, most)),
            // No limit has sizes of two kinds.
            (size, _) => size,
        }
    }

    fn has_kind_of(self, other: Self) -> bool {
        match (self, other) {
            (Self::Bucket(_), Self::Bucket(_)) => true,
            (Self::Window(size), Self::Window(other)) => size.unit == other.unit,
            _ => false,
        }
    }
}

/// The sizes of a limit on tokens, and its windows.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    pub(super) sizes: Sizes<TokenSize>,
    /// `None` for tokens per time.
    pub(super) windows: Option<Windows>,
    /// With `hold: estimate`, how much may be spent beyond the limit, in percent of it.
    pub(super) debt_percent: Option<u64>,
}

impl Tokens {
    /// Compiles one entry of `limits` and records every error.
    pub(super) fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let sizes = Sizes::<TokenSize>::compile(config, path, errors)?;
        let zone = config.time_zone.as_deref();
        let windows = match sizes.of_policy() {
            TokenSize::Bucket(_) => {
                if zone.is_some() {
                    let text = "tokens per time have no windows of the calendar; remove this";
                    errors.push(&path.key("time_zone"), text);
                }
                None
            }
            TokenSize::Window(window) => Some(Windows::compile(window.unit, zone, path, errors)?),
        };
        Some(Self { sizes, windows, debt_percent: debt_percent(config, path, errors) })
    }
}

/// The debt that a limit with `hold: estimate` may have, in percent of the limit.
pub(super) fn debt_percent(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<u64> {
    let at = path.key("max_debt_percent");
    match (config.hold, config.max_debt_percent) {
        (Some(HoldMode::Estimate), percent) => {
            let percent = percent.unwrap_or(DEBT_PERCENT);
            if percent > MOST_DEBT_PERCENT {
                errors.push(&at, format!("it is from 0 to {MOST_DEBT_PERCENT}"));
            }
            Some(percent)
        }
        (_, Some(_)) => {
            errors.push_presuming(
                &at,
                &[path.key("hold")],
                "only a limit with `hold: estimate` may be in debt; remove this",
            );
            None
        }
        (_, None) => None,
    }
}
